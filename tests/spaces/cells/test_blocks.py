"""Operations, cells and their stack: they are the formulas, written here as loops."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssnas_core.spaces.cells.blocks import (
    OPERATIONS,
    Cell,
    CellsNetwork,
    FactorizedReduce,
    Place,
    Plan,
    RelaxedCell,
    drop_path,
    operation,
    softmax,
    stack,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def image(channels: int = 4, side: int = 8, samples: int = 3) -> torch.Tensor:
    return torch.randn(samples, channels, side, side)


def place(reduces: bool = False, reduced: bool = False, before=(5, 6), channels=4) -> Place:
    return Place(before=before, channels=channels, reduces=reduces, reduced=reduced)


def moved(module: nn.Module) -> nn.Module:
    """The module with running statistics and weights of batch norms that are not those at first."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.uniform_(norm.bias, -1, 1)
    return module.eval()


def convolutions(module: nn.Module) -> list[torch.Tensor]:
    return [one.weight for one in module.modules() if isinstance(one, nn.Conv2d)]


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [one for one in module.modules() if isinstance(one, nn.BatchNorm2d)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_a_separable_convolution_is_relu_depthwise_pointwise_norm_twice(size, stride):
    made, x = moved(operation(f"sep_conv_{size}x{size}", 4, stride, affine=True)), image()
    depth, point, depth_2, point_2 = convolutions(made)
    norm, norm_2 = norms(made)
    assert depth.shape == depth_2.shape == (4, 1, size, size)
    h = F.conv2d(F.relu(x), depth, stride=stride, padding=size // 2, groups=4)
    h = norm(F.conv2d(h, point))
    h = F.conv2d(F.relu(h), depth_2, padding=size // 2, groups=4)
    torch.testing.assert_close(made(x), norm_2(F.conv2d(h, point_2)))


@pytest.mark.parametrize("side", [8, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_a_dilated_convolution_reads_every_second_pixel_once(size, stride, side):
    made, x = moved(operation(f"dil_conv_{size}x{size}", 4, stride, affine=True)), image(side=side)
    (depth, point), (norm,) = convolutions(made), norms(made)
    options = {"stride": stride, "padding": size - 1, "dilation": 2, "groups": 4}
    expected = norm(F.conv2d(F.conv2d(F.relu(x), depth, **options), point))
    torch.testing.assert_close(made(x), expected)


def test_average_pools_do_not_count_padding():
    x = torch.ones(1, 2, 4, 4)
    for stride in (1, 2):
        made = operation("avg_pool_3x3", 2, stride, affine=True)
        torch.testing.assert_close(made(x), torch.ones(1, 2, 4 // stride, 4 // stride))
    assert operation("max_pool_3x3", 2, 2, affine=True)(image(2)).shape[2:] == (4, 4)


def test_a_skip_is_nothing_or_halves_by_two_convolutions_one_pixel_apart():
    x = image()
    assert operation("skip_connect", 4, 1, affine=True)(x) is x
    made = moved(operation("skip_connect", 4, 2, affine=True))
    assert isinstance(made, FactorizedReduce)
    even = F.conv2d(F.relu(x)[:, :, ::2, ::2], made.even.weight)
    odd = F.conv2d(F.relu(x)[:, :, 1::2, 1::2], made.odd.weight)
    torch.testing.assert_close(made(x), made.norm(torch.cat([even, odd], 1)))


def test_the_long_convolution_is_across_then_down():
    made, x = moved(operation("conv_7x1_1x7", 4, 2, affine=True)), image()
    across, down = convolutions(made)
    h = F.conv2d(F.relu(x), across, stride=(1, 2), padding=(0, 3))
    h = F.conv2d(h, down, stride=(2, 1), padding=(3, 0))
    torch.testing.assert_close(made(x), norms(made)[0](h))


@pytest.mark.parametrize("name", OPERATIONS[1:])
@pytest.mark.parametrize("stride", [1, 2])
def test_batch_norms_have_weights_in_a_final_network_alone(name, stride):
    for affine in (True, False):
        made = norms(operation(name, 4, stride, affine=affine))
        assert all(norm.affine == affine for norm in made)
        assert operation(name, 4, stride, affine=affine)(image()).shape[1] == 4


PLAN = Plan(
    (
        (("sep_conv_3x3", 0), ("skip_connect", 1)),
        (("max_pool_3x3", 0), ("dil_conv_3x3", 2)),
    ),
    (2, 3),
)


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("reduces", [False, True])
def test_a_cell_adds_two_operations_in_each_node_and_joins_nodes(reduces, reduced):
    cell = moved(Cell(PLAN, place(reduces, reduced), 0.0))
    first, second = image(5, side=16 if reduced else 8), image(6)

    def brought(layers, x):
        if isinstance(layers, FactorizedReduce):
            return layers(x)
        relu, point, norm = layers
        return norm(F.conv2d(relu(x), point.weight))

    states = [brought(cell.inputs.first, first), brought(cell.inputs.second, second)]
    assert isinstance(cell.inputs.first, FactorizedReduce) == reduced
    for pair, operations in zip(PLAN.nodes, cell.nodes, strict=True):
        states.append(
            sum(one(states[state]) for (_, state), one in zip(pair, operations, strict=True))
        )
    output = cell(first, second)
    torch.testing.assert_close(output, torch.cat(states[2:], 1))
    side = 4 if reduces else 8
    assert output.shape == (3, 8, side, side)


def test_a_relaxed_cell_is_the_weighed_sum_over_all_edges_and_operations():
    """With a pool and a batch norm for each edge, as the formula has them."""
    for reduces in (False, True):
        cell = moved(RelaxedCell(5, place(reduces)))
        weights = torch.rand(20, 8)
        first, second = image(5), image(6)
        states, edge = [cell.inputs.first(first), cell.inputs.second(second)], 0
        for node in range(2, 7):
            total = torch.zeros(())
            for state in range(node):
                for number, name in enumerate(OPERATIONS):
                    if name == "none":
                        continue
                    part = "pool" in name
                    held = cell.pools[state] if part else cell.nodes[node - 2][state]
                    total = total + weights[edge, number] * held[name](states[state])
                edge += 1
            states.append(total)
        output = cell(first, second, (weights, weights.tolist()))
        torch.testing.assert_close(output, torch.cat(states[3:], 1))  # the last four of five


@pytest.mark.parametrize("reduces", [False, True])
def test_of_a_relaxed_cell_what_weighs_nothing_is_not_computed(reduces):
    cell = moved(RelaxedCell(2, place(reduces)))
    weights = torch.zeros(5, 8)
    weights[0, OPERATIONS.index("sep_conv_3x3")] = 1
    weights[1, OPERATIONS.index("max_pool_3x3")] = 1
    weights[[2, 3, 4], 0] = 1  # the second node reads nothing
    computed = []
    for name, one in cell.named_modules():
        if re.fullmatch(r"nodes\.\d\.\d\.\w+|pools\.\d\.\w+", name):
            one.register_forward_hook(lambda *_, name=name: computed.append(name))
    output = cell(image(5), image(6), (weights, weights.tolist()))
    assert computed == ["nodes.0.0.sep_conv_3x3", "pools.1.max_pool_3x3"]
    first, second = output.chunk(2, 1)
    assert first.any() and not second.any() and first.shape == second.shape


def test_pools_of_a_relaxed_cell_have_a_norm_without_weights():
    cell = RelaxedCell(2, place())
    pool, norm = cell.pools[0]["max_pool_3x3"]
    assert isinstance(pool, nn.MaxPool2d) and not norm.affine
    assert not any(norm.affine for norm in norms(cell))


def test_a_dropped_path_is_of_a_whole_sample_and_the_rest_is_scaled_up():
    x = torch.ones(4000, 2, 3, 3)
    dropped = drop_path(x, 0.25)
    values = dropped.flatten(1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    assert set(values[:, 0].tolist()) == {0.0, values.max().item()}
    assert values.max().item() == pytest.approx(4 / 3)
    assert values.mean().item() == pytest.approx(1, abs=0.05)


def test_all_operations_but_identities_are_dropped_and_only_in_training():
    cell = Cell(PLAN, place(), 0.999999)
    x = image(5), image(6)
    output = cell(*x)
    kept = cell.inputs.second(x[1])
    torch.testing.assert_close(output, torch.cat([kept, torch.zeros_like(kept)], 1))
    cell = moved(cell)
    plain = moved(Cell(PLAN, place(), 0.0))
    plain.load_state_dict(cell.state_dict())
    assert torch.equal(cell(*x), plain(*x))


@pytest.mark.parametrize(("cells", "reductions"), [(3, [1, 2]), (8, [2, 5]), (20, [6, 13])])
def test_cells_at_one_and_two_thirds_reduce_and_double(cells, reductions):
    stacked = list(stack(cells, 16, 3, {"normal": 4, "reduce": 3}))
    assert [i for i, (kind, _) in enumerate(stacked) if kind == "reduce"] == reductions
    assert [one.reduces for _, one in stacked] == [i in reductions for i in range(cells)]
    assert [one.reduced for _, one in stacked] == [i - 1 in reductions for i in range(cells)]
    assert stacked[0][1].before == (48, 48)
    for number, (_, one) in enumerate(stacked):
        assert one.channels == 16 * 2 ** sum(i <= number for i in reductions)
        if number > 1:
            (before, first), (last, second) = stacked[number - 2], stacked[number - 1]
            widths = {"normal": 4, "reduce": 3}
            expected = (widths[before] * first.channels, widths[last] * second.channels)
            assert one.before == expected


def test_a_network_reads_pixels_row_by_row_and_averages_what_its_last_cell_gives():
    plans = {"normal": PLAN, "reduce": PLAN}
    network = moved(CellsNetwork("image_0", 3, plans, 0.0, cells=3, channels=4, stem=2))
    pixels = image(3)
    rows = torch.stack([pixels[:, :, y, x] for y in range(8) for x in range(8)], 1)  # (N, P, C)
    before = after = network.stem(network.norm(pixels))
    assert before.shape == (3, 8, 8, 8)
    for cell in network.cells:
        before, after = after, cell(before, after)
    assert after.shape == (3, 32, 2, 2) and network.width == 32
    torch.testing.assert_close(network({"image_0": rows}), after.mean(3).mean(2))


def test_pixels_enter_at_mean_0_and_variance_1():
    plans = {"normal": PLAN, "reduce": PLAN}
    network = CellsNetwork("image_0", 3, plans, 0.0, cells=3, channels=4, stem=2)
    rows = torch.rand(8, 64, 3)
    moved_rows = rows * torch.tensor([2.0, 3.0, 0.5]) + torch.tensor([5.0, 0.0, -1.0])
    torch.testing.assert_close(
        network({"image_0": rows}), network({"image_0": moved_rows}), atol=1e-3, rtol=1e-3
    )
    assert not network.norm.affine


def test_weights_of_options_are_their_softmax():
    torch.testing.assert_close(softmax(torch.zeros(2, 8)), torch.full((2, 8), 1 / 8))
