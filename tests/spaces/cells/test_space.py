"""The space of cells: every cell is there once, and the supernet holds all of them."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.spaces.cells.blocks import OPERATIONS
from ssnas_core.spaces.cells.space import (
    PUBLISHED,
    CellsConfig,
    CellsSpace,
    cell_count,
    cells_network,
)
from ssnas_core.spaces.genotype import Genotype, Node

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS, POSITIONS = {"image_0": 3}, {"image_0": 64}
SMALL = {"cells": 3, "channels": 2, "stem": 1}


def space(**options) -> CellsSpace:
    return CellsSpace(CHANNELS, POSITIONS, CellsConfig(**{**SMALL, **options}))


def features(samples: int = 4) -> dict[str, torch.Tensor]:
    return {"image_0": torch.rand(samples, 64, 3, generator=torch.Generator().manual_seed(1))}


def drawn(one: CellsSpace, count: int) -> list[Genotype]:
    generator = torch.Generator().manual_seed(0)
    return [one.sample(generator) for _ in range(count)]


def test_the_space_has_every_pair_of_cells_once():
    one = space(nodes=1)
    genotypes = list(one.genotypes())
    assert len(set(genotypes)) == len(genotypes) == cell_count(1) ** 2 == 49**2


def test_cells_are_counted_as_by_listing_their_nodes():
    def listed(nodes: int) -> int:
        ways = 1
        for node in range(2, 2 + nodes):
            edges = itertools.product(range(node), OPERATIONS[1:])
            pairs = {frozenset(pair) for pair in itertools.combinations(edges, 2)}
            ways *= sum(len({state for state, _ in pair}) == 2 for pair in pairs)
        return ways

    assert [cell_count(nodes) for nodes in range(1, 6)] == [listed(nodes) for nodes in range(1, 6)]
    assert cell_count(4) == 1_037_664_180 and cell_count(5) == 762_683_172_300
    sizes = [len(values) for values in space(nodes=2).variables.values()]
    assert math.prod(sizes) == cell_count(2) ** 2


def test_no_two_small_architectures_compute_the_same():
    one = space(nodes=1, channels=4)
    torch.manual_seed(0)
    supernet = one.supernet().train()
    supernet(features())
    state = supernet.state_dict()
    genotypes = list(one.genotypes())[::11]
    outputs = torch.stack(
        [one.inherit(g, state).eval()(features()).detach().flatten() for g in genotypes]
    )
    assert torch.pdist(outputs).min() > 1e-4


def test_choices_are_genotypes_and_samples_are_uniform():
    one = space()
    for genotype in drawn(one, 20):
        assert one.decode(one.encode(genotype)) == genotype
        assert Genotype.from_json(json.loads(genotype.to_json())) == genotype
    for choice in ("normal_4 inputs", "reduce_5 second"):
        options = len(one.variables[choice])
        values = [one.encode(genotype)[choice] for genotype in drawn(one, 100 * options)]
        counts = [values.count(value) for value in range(options)]
        assert min(counts) > 65 and max(counts) < 135


def test_a_genotype_reads_as_sums_of_two_operations():
    one = space(nodes=2)
    choice = dict.fromkeys(one.variables, 0)
    choice |= {"normal_3 inputs": 2, "normal_3 first": 3, "normal_3 second": 2}
    assert one.variables["normal_3 inputs"] == (
        "c_k-2, c_k-1", "c_k-2, normal_2", "c_k-1, normal_2",
    )  # fmt: skip
    genotype = one.decode(choice)
    assert str(genotype).split(" -> ")[:5] == [
        "stem(image_0)",
        "stem(image_0)",
        "max_pool_3x3+max_pool_3x3(c_k-2, c_k-1)",
        "sep_conv_3x3+skip_connect(c_k-1, normal_2)",
        "concat(normal_2, normal_3)",
    ]
    assert genotype.features == one.features == ("image_0",)
    assert genotype.nodes[-1] == Node("reduce", "concat", ("reduce_2", "reduce_3"))


def derived_by_loops(logits: dict[str, torch.Tensor], nodes: int) -> dict[str, list]:
    """DARTS's `genotype()`, as its paper says it."""
    found = {}
    for kind, values in logits.items():
        weights, start, found[kind] = values.softmax(1).tolist(), 0, []
        for node in range(2, 2 + nodes):
            rows = weights[start : start + node]
            order = sorted(range(node), key=lambda j, rows=rows: -max(rows[j][1:]))[:2]
            found[kind].append(
                {(OPERATIONS[max(range(1, 8), key=lambda o: rows[j][o])], j) for j in order}  # noqa: B023
            )
            start += node
    return found


@pytest.mark.parametrize("nodes", [4, 5])
def test_derivation_is_darts_s_written_as_loops(nodes):
    one = space(nodes=nodes)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 5.0):
        logits = {
            kind: scale * torch.randn(sum(range(2, 2 + nodes)), 8, generator=generator)
            for kind in ("normal", "reduce")
        }
        plans = one.plans(one.derive(logits))
        expected = derived_by_loops(logits, nodes)
        assert {kind: [set(pair) for pair in plan.nodes] for kind, plan in plans.items()} == (
            expected
        )


def test_equal_logits_derive_the_first_inputs_and_operation():
    one = space()
    plans = one.plans(one.derive({kind: torch.zeros(14, 8) for kind in ("normal", "reduce")}))
    first = (("max_pool_3x3", 0), ("max_pool_3x3", 1))
    assert all(plan.nodes == (first,) * 4 for plan in plans.values())


@pytest.mark.parametrize("nodes", [4, 5])
def test_the_supernet_at_one_hot_logits_is_the_derived_network(nodes):
    """Once the pools' batch norms, which a final network has not, do nothing."""
    one = space(nodes=nodes)
    torch.manual_seed(0)
    supernet = one.supernet().train()
    for _ in range(3):
        supernet(features())  # running statistics that are not those at first
    for name, module in supernet.named_modules():
        if ".pools." in name and isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.eps = 0.0
    supernet.eval()
    for genotype in drawn(one, 6):
        for kind, values in one.one_hot(genotype).items():
            supernet.logits[kind].data.copy_(values)
        assert one.derive(supernet.logits) == genotype
        derived = one.inherit(genotype, supernet.state_dict()).eval()
        torch.testing.assert_close(supernet(features()), derived(features()))


def test_without_pools_what_is_inherited_computes_the_same_in_training_too():
    one = space()
    torch.manual_seed(0)
    supernet = one.supernet().train()
    for kind, values in one.one_hot(one.named("DARTS_V2")).items():
        supernet.logits[kind].data.copy_(values)
    supernet.logits["reduce"].data.copy_(one.one_hot(one.named("DARTS_V2"))["normal"])
    genotype = one.derive(supernet.logits)
    assert "pool" not in str(genotype)
    derived = one.inherit(genotype, supernet.state_dict()).train()
    torch.testing.assert_close(derived(features()), supernet(features()))


def test_what_is_inherited_are_the_supernet_s_weights():
    one = space()
    torch.manual_seed(0)
    supernet = one.supernet()
    state = supernet.state_dict()
    genotype = one.named("DARTS_V2")
    network = one.inherit(genotype, state)
    assert torch.equal(
        network.cells[0].nodes[3][1][1].weight,  # dil_conv_3x3 of normal_2, in normal_5
        state["cells.0.nodes.3.2.dil_conv_3x3.1.weight"],
    )
    assert torch.equal(network.stem[0].weight, state["stem.0.weight"])
    affine = [m for m in network.cells.modules() if isinstance(m, nn.BatchNorm2d)]
    assert affine and all((m.weight == 1).all() and (m.bias == 0).all() for m in affine)


# Sizes, in closed form.


def point(inputs: int, outputs: int) -> int:
    """A 1x1 convolution and its norm; a FactorizedReduce has as many."""
    return inputs * outputs + 2 * outputs


def weights(name: str, channels: int, stride: int) -> int:
    if name == "skip_connect":
        return 0 if stride == 1 else point(channels, channels)
    if "pool" in name:
        return 0
    if name == "conv_7x1_1x7":
        return 14 * channels**2 + 2 * channels
    once = channels * int(name[-1]) ** 2 + point(channels, channels)
    return 2 * once if name.startswith("sep") else once


def counted(plans, cells: int, channels: int, stem: int = 3) -> int:
    """Weights of a network of 3-channel pixels, up to its head."""
    before = last = stem * channels
    total = 27 * last + 2 * last
    for number in range(cells):
        reduces = number in (cells // 3, 2 * cells // 3)
        channels *= 1 + reduces
        plan = plans["reduce" if reduces else "normal"]
        total += point(before, channels) + point(last, channels)
        for pair in plan.nodes:
            total += sum(
                weights(name, channels, 1 + (reduces and state < 2)) for name, state in pair
            )
        before, last = last, len(plan.concat) * channels
    return total


def size_of(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("cells", "channels"), [(3, 2), (8, 16), (20, 36)])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_have_as_many_weights_as_the_closed_form(name, cells, channels):
    sizes = CellsConfig(cells=cells, channels=channels)
    with torch.device("meta"):
        network = cells_network(name, CHANNELS, {"image_0": 1024}, sizes)
    plans = {cell.plan.nodes: cell.plan for cell in network.cells}
    kinds = dict(zip(network.kinds, [cell.plan for cell in network.cells], strict=True))
    assert len(plans) == 2 and size_of(network) == counted(kinds, cells, channels)


def test_darts_v2_has_its_published_3_3_million_weights():
    with torch.device("meta"):
        network = cells_network(
            "DARTS_V2", CHANNELS, {"image_0": 1024}, CellsConfig(cells=20, channels=36)
        )
        head = nn.Linear(network.width, 10)
    assert network.width == 4 * 4 * 36
    assert round((size_of(network) + size_of(head)) / 1e6, 1) == 3.3


def test_every_published_pair_of_cells_computes():
    for name in PUBLISHED:
        network = cells_network(name, CHANNELS, POSITIONS, CellsConfig(**SMALL))
        assert network(features()).shape == (4, network.width), name


@pytest.mark.parametrize(("name", "nodes"), [
    ("DARTS_V1", 4), ("DARTS_V2", 4), ("BayesNAS", 4), ("CSNAS s4", 4), ("CSNAS s5", 5),
])  # fmt: skip
def test_members_have_names_and_build_as_published(name, nodes):
    one = space(nodes=nodes)
    genotype = one.named(name)
    network, published = one.build(genotype), cells_network(name, CHANNELS, POSITIONS, one.config)
    for cell, other in zip(network.cells, published.cells, strict=True):
        assert [set(pair) for pair in cell.plan.nodes] == [set(p) for p in other.plan.nodes]
        assert cell.plan.concat == other.plan.concat


def test_published_cells_are_read_node_by_node():
    plans = {
        cell.plan
        for cell in cells_network("DARTS_V2", CHANNELS, POSITIONS, CellsConfig(**SMALL)).cells
    }
    normal = (
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)), (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 1), ("skip_connect", 0)), (("skip_connect", 0), ("dil_conv_3x3", 2)),
    )  # fmt: skip
    assert normal in {plan.nodes for plan in plans}
    nasnet = cells_network("NASNet", CHANNELS, POSITIONS, CellsConfig(**SMALL))
    assert [cell.plan.concat for cell in nasnet.cells] == [(2, 3, 4, 5, 6), (4, 5, 6), (4, 5, 6)]
    amoeba = cells_network("AmoebaNet", CHANNELS, POSITIONS, CellsConfig(**SMALL))
    assert amoeba.cells[1].plan.nodes[4] == (("conv_7x1_1x7", 0), ("sep_conv_3x3", 5))
    assert amoeba.width == 3 * 4 * SMALL["channels"]


@pytest.mark.parametrize(("name", "nodes", "told"), [
    ("CSNAS s5", 4, "it has 5 nodes, not 4, another output; build it by cells_network"),
    ("NASNet", 5, "it has nodes of one state, sep_conv_7x7, another output"),
    ("AmoebaNet", 5, "nodes of one state, conv_7x1_1x7, sep_conv_7x7, another output"),
    ("ENAS", 4, "expected one of DARTS_V1, .*, AmoebaNet, got 'ENAS'"),
])  # fmt: skip
def test_published_cells_that_are_no_members_are_named_so(name, nodes, told):
    with pytest.raises(InputError, match=told):
        space(nodes=nodes).named(name)


def test_drop_path_is_that_of_training():
    config = CellsConfig(**SMALL, drop_path=0.1)
    assert config.trained_with(0.3) == CellsConfig(**SMALL, drop_path=0.3)
    one = config.trained_with(0.3).open(CHANNELS, POSITIONS)
    assert {cell.drop for cell in one.build(one.named("DARTS_V1")).cells} == {0.3}


@pytest.mark.parametrize(("channels", "positions", "told"), [
    ({"image_0": 3, "text_0": 5}, {"image_0": 64, "text_0": 1}, "one modality, .* got image, text"),
    ({}, {}, "got none; give data of images alone, or use the fusion space"),
    ({"normal_0": 3}, {"normal_0": 64}, "not named normal or reduce, got normal"),
    ({"image_0": 3}, {"image_0": 65}, "expected image_0 at the square of a multiple of 4 pos.* 65"),
    ({"image_0": 3}, {"image_0": 36}, "got 36; take the image backbone pixels"),
    ({"image_0": 3}, None, "got 1; take"),
])  # fmt: skip
def test_features_that_are_no_image_are_refused(channels, positions, told):
    with pytest.raises(InputError, match=told):
        CellsConfig().open(channels, positions)


@pytest.mark.parametrize(("options", "told"), [
    ({"cells": 2}, "CellsConfig.cells must be >= 3, got 2"),
    ({"nodes": 0}, "nodes must be"),
    ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
])  # fmt: skip
def test_wrong_settings_are_refused(options, told):
    with pytest.raises(InputError, match=told):
        space(**options)


def changed(nodes: tuple[Node, ...], name: str, operator: str, inputs: tuple[str, ...]):
    return tuple(Node(name, operator, inputs) if n.name == name else n for n in nodes)


@pytest.mark.parametrize(("operator", "inputs"), [
    ("none+skip_connect", ("c_k-2", "c_k-1")),
    ("sep_conv_7x7+skip_connect", ("c_k-2", "c_k-1")),
    ("skip_connect", ("c_k-2", "c_k-1")),
    ("skip_connect+skip_connect+skip_connect", ("c_k-2", "c_k-1")),
    ("skip_connect+skip_connect", ("c_k-2",)),
    ("skip_connect+skip_connect", ("c_k-2", "c_k-2")),
    ("skip_connect+skip_connect", ("c_k-1", "c_k-2")),
    ("skip_connect+skip_connect", ("c_k-1", "image_0")),
    ("skip_connect+skip_connect", ("c_k-1", "normal_2", "normal_2")),
])  # fmt: skip
def test_foreign_nodes_are_refused(operator, inputs):
    one = space()
    nodes = changed(one.named("DARTS_V1").nodes, "normal_3", operator, inputs)
    with pytest.raises(InputError, match=r"expected normal_3 = OPERATION\+OPERATION of two of c_k"):
        one.validate(Genotype("cells", nodes))


def test_foreign_genotypes_are_refused():
    one = space()
    nodes = one.named("DARTS_V1").nodes
    wrong = {
        "another space": (Genotype("fusion", nodes), "expected cells, got fusion"),
        "fewer nodes": (Genotype("cells", nodes[:-1]), "expected the nodes c_k-2, .*, reduce, got"),
        "another feature": (
            Genotype("cells", (Node("c_k-2", "stem", ("text_0",)), *nodes[1:])),
            r"expected c_k-2 = stem\(image_0\), got stem\(text_0\)",
        ),
        "another output": (
            Genotype("cells", (*nodes[:-1], Node("reduce", "concat", ("reduce_5",)))),
            r"expected reduce = concat\(reduce_2, reduce_3, reduce_4, reduce_5\), got",
        ),
    }
    for genotype, told in wrong.values():
        with pytest.raises(InputError, match=told):
            one.validate(genotype)
