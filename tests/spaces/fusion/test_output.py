"""What reaches the classifier as a choice: any cells and features, kept or left."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from ssnas_core.common.errors import InputError
from ssnas_core.runs.baselines import LateConcat
from ssnas_core.spaces.fusion.networks import Output
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node

CHANNELS = {"image_0": 3, "image_1": 5, "text_0": 4}
POSITIONS = {"image_0": 3, "image_1": 3, "text_0": 1}
L, C = 3, 4


def fusion(
    cells: int = 2, steps: int = 1, output: Output = "chosen", **options: Any
) -> FusionSpace:
    config = FusionConfig(
        channels=C, length=L, cells=cells, steps=steps, dropout=0.0, output=output, **options
    )
    return config.open(CHANNELS, POSITIONS)


def draw_features(samples: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(samples, POSITIONS[name], width, generator=generator).double()
        for name, width in CHANNELS.items()
    }


def concat(*parts: str) -> Node:
    return Node("output", "Concat", parts)


def set_logits(net: Any, logits: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in logits.items():
            net.logits[name].copy_(value)


def random_supernet(space: FusionSpace, seed: int) -> Any:
    """A supernet whose every weight, norms among them, is drawn."""
    torch.manual_seed(seed)
    net: Any = space.supernet().double().eval()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if not name.startswith("logits"):
                weight.copy_(torch.randn(weight.shape) / 2)
    return net


def columns(space: FusionSpace, genotype: Genotype, order: list[str]) -> list[int]:
    """The numbers of a supernet's embedding that those of a network are, in its order."""
    sizes = [C * space.positions.get(part, L) for part in space.predecessors(space.config.cells)]
    starts = [0, *itertools.accumulate(sizes)]
    parts = dict(
        zip(space.predecessors(space.config.cells), zip(starts, sizes, strict=False), strict=True)
    )
    kept = [(parts[name][0], parts[name][1]) for name in order]
    return [number for start, size in kept for number in range(start, start + size)]


@pytest.mark.parametrize("output", ["chosen", "beside"])
@pytest.mark.parametrize("steps", [1, 2])
def test_supernet_at_one_hot_logits_is_the_derived_network_and_zero_elsewhere(output, steps):
    space, features, counts = fusion(steps=steps, output=output), draw_features(), Counter()
    for seed in range(30):
        genotype = space.sample(torch.Generator().manual_seed(seed))
        net = random_supernet(space, seed)
        set_logits(net, space.one_hot(genotype))
        assert space.derive(net.logits) == genotype
        network = space.inherit(genotype, net.state_dict()).double().eval()
        found, wanted = network(features), net(features)
        assert found.shape == (5, network.width) and wanted.shape == (5, net.width)
        *cells, last = genotype.nodes
        counts[len(cells)] += 1
        # cells that one-hot logits name have the supernet's numbers
        mine = columns(space, genotype, list(last.inputs))
        torch.testing.assert_close(wanted[:, mine], found, rtol=1e-9, atol=1e-9)
        rest = sorted({*range(net.width)} - {*mine})
        assert wanted[:, rest].abs().sum() < 1e-80
    assert len(counts) >= 3  # none, one and two cells


def test_beside_every_feature_are_any_cells():
    space, chosen = fusion(cells=1, output="beside"), set(fusion(cells=1).genotypes())
    listed = list(space.genotypes())
    assert len(set(listed)) == len(listed) == 1 + 13
    assert set(listed) == {one for one in chosen if set(one.nodes[-1].inputs) >= set(CHANNELS)}
    assert {space.sample(torch.Generator().manual_seed(n)) for n in range(200)} == set(listed)
    assert list(space.variables) == ["pair_0", "step_0_0", "output_cell_0"]
    assert all(space.decode(space.encode(one)) == one for one in listed)
    net: Any = space.supernet()
    assert net.logits["output"].shape == (1, 2)
    set_logits(net, {"output": torch.tensor([[0.0, 1.0]])})
    assert space.derive(net.logits) == Genotype("fusion", (concat(*CHANNELS),))
    with pytest.raises(InputError, match="every feature reaches .* without image_1, text_0; use"):
        space.validate(Genotype("fusion", (concat("image_0"),)))


def test_late_concatenation_and_networks_of_one_modality_are_members():
    space, features = fusion(), {name: value.float() for name, value in draw_features().items()}
    for names in (CHANNELS, ["image_0", "image_1"], ["text_0"]):
        genotype = Genotype("fusion", (concat(*names),))
        space.validate(genotype)
        torch.manual_seed(0)
        network = space.build(genotype).train()
        torch.manual_seed(0)
        channels = {name: CHANNELS[name] for name in names}
        theirs = LateConcat(channels, space.config, POSITIONS).train()
        assert network.width == theirs.width
        assert torch.equal(network(features), theirs(features))


def test_all_cells_kept_and_no_feature_is_the_network_that_bm_nas_has():
    space, features = fusion(), {name: value.float() for name, value in draw_features().items()}
    plain = FusionConfig(channels=C, length=L, dropout=0.0).open(CHANNELS)
    for seed in range(8):
        genotype = space.sample(torch.Generator().manual_seed(seed))
        cells = genotype.nodes[:-1]
        if len(cells) == 2:
            torch.manual_seed(seed)
            found = space.build(Genotype("fusion", (*cells, concat("cell_0", "cell_1"))))
            torch.manual_seed(seed)
            wanted = plain.build(Genotype("fusion", cells))
            assert torch.equal(found(features), wanted(features))


def test_every_architecture_is_there_once_and_is_what_some_values_of_the_variables_say():
    space = fusion(cells=1)
    listed = list(space.genotypes())
    assert len(set(listed)) == len(listed)
    values = itertools.product(*(range(len(of)) for of in space.variables.values()))
    made = Counter(
        space.decode(dict(zip(space.variables, chosen, strict=True))) for chosen in values
    )
    none = made.pop(None)
    assert set(made) == set(listed)
    # 3 pairs, of which one has two maps: its Attention both ways, those with text one way each;
    # and Sum, LinearGLU, ConcatFC of each. With each, 2**3 sets of features, or a set alone.
    cells = 3 * 3 + 2 + 1 + 1
    assert len(listed) == cells * 2**3 + (2**3 - 1)
    assert made[Genotype("fusion", (concat("text_0"),))] == 3 * 5  # its left cell is any
    assert (
        none == 2 * 2**3 + 3 * 5
    )  # attention to the text in a cell that is kept, and nothing kept
    assert all(space.decode(space.encode(one)) == one for one in listed)
    for one in listed:
        space.validate(one)


def test_two_cells_are_counted_by_hand():
    sizes = dict.fromkeys(range(3), 0)
    space = FusionConfig(channels=1, length=L, output="chosen")
    space = space.open({"image_0": 1, "text_0": 1}, {"image_0": L, "text_0": 1})
    for genotype in space.genotypes():
        sizes[len(genotype.nodes) - 1] += 1
    # One pair of features: a map's cell, of Sum, LinearGLU, ConcatFC, or Attention of the text to
    # the map (not the map to the text). A second cell takes the first and a feature: Attention
    # has it as value, or the map.
    first = 4
    second = 3 + 2 + 3 + 1  # (cell_0, image_0), then (cell_0, text_0)
    assert sizes == {0: 3, 1: first * 4, 2: first * second * 2 * 4}


def test_cells_that_reach_nobody_are_none():
    space = fusion()
    both = [
        Node("cell_0", "Sum", ("image_0", "text_0")),
        Node("cell_1", "Sum", ("cell_0", "text_0")),
    ]
    logits = space.one_hot(Genotype("fusion", (*both, concat("cell_1"))))
    assert str(space.derive(logits)).endswith("Concat(cell_1)")
    logits["output"] = logits["output"].flip(1)  # what was left is kept, and the other way round
    assert (
        str(space.derive(logits))
        == "Sum(image_0, text_0) -> Concat(cell_0, image_0, image_1, text_0)"
    )
    logits["output"][0] = torch.tensor([0.0, 9.0])
    assert str(space.derive(logits)) == "Concat(image_0, image_1, text_0)"
    logits["output"][1:] = torch.tensor([[0.0, 3.0], [0.0, 2.0], [0.0, 1.0], [0.0, 4.0]])
    assert str(space.derive(logits)) == "Concat(image_1)"  # the surest, where none is wanted


def test_budget_keeps_what_is_surest_and_fits():
    sizes = {name: width * C + 2 * C for name, width in CHANNELS.items()}  # stem and batch norm
    least = sizes["image_0"]
    logits = fusion().one_hot(Genotype("fusion", (concat(*CHANNELS),)))
    logits["output"] = torch.tensor([[0.0, 9], [0, 8], [1, 0], [3, 0], [2, 0]])
    for budget, kept in (
        (sum(sizes.values()), ["image_1", "text_0", "image_0"]),
        (sizes["image_1"] + sizes["text_0"], ["image_1", "text_0"]),
        (sizes["image_1"], ["image_1"]),
        (least, ["image_0"]),  # the only one that fits
    ):
        space = fusion(budget=budget)
        found = space.derive(logits)
        assert set(found.nodes[-1].inputs) == set(kept)
        assert sum(w.numel() for w in space.build(found).parameters()) <= budget
    space = fusion(cells=1, budget=100)
    drawn = {space.sample(torch.Generator().manual_seed(seed)) for seed in range(20)}
    listed = set(space.genotypes())
    assert drawn <= listed < set(fusion(cells=1).genotypes())
    weights = [sum(w.numel() for w in space.build(one).parameters()) for one in listed]
    assert max(weights) <= 100
    heavy = next(one for one in fusion(cells=1).genotypes() if one not in listed)
    with pytest.raises(InputError, match="more than 100 weights"):
        space.validate(heavy)
    with pytest.raises(InputError, match="weights of one feature's stem or more, got 3"):
        fusion(budget=3)
    with pytest.raises(InputError, match="budget needs output='chosen'"):
        FusionConfig(budget=100)


def test_attention_to_one_position_is_never_derived_and_refused():
    space = fusion(cells=1)
    wrong = Genotype(
        "fusion", (Node("cell_0", "Attention", ("image_0", "text_0")), concat("cell_0"))
    )
    with pytest.raises(InputError, match="Attention reads from a state of one position"):
        space.validate(wrong)
    FusionConfig(channels=C, length=L, cells=1, output="chosen").open(CHANNELS).validate(wrong)
    logits = {name: torch.zeros(value.shape) for name, value in space.supernet().logits.items()}
    logits["alpha_0"][torch.tensor([0, 2])] = 5.0  # image_0, text_0
    logits["beta_0_0"][0, 0] = logits["beta_0_0"][1, 1] = 5.0  # in this order
    logits["gamma_0_0"][2] = 5.0  # Attention
    logits["output"][0, 0] = 5.0
    assert str(space.derive(logits)) == "Attention(text_0, image_0) -> Concat(cell_0)"
    logits["alpha_0"][0] = -5.0  # image_1 instead is a map as well
    vectors = FusionConfig(channels=C, length=L, cells=1, output="chosen")
    vectors = vectors.open({"text_0": 2, "text_1": 2}, {"text_0": 1, "text_1": 1})
    logits = {name: torch.zeros(value.shape) for name, value in vectors.supernet().logits.items()}
    logits["gamma_0_0"] = torch.tensor([0.0, 0.0, 5.0, 1.0, 0.0])
    logits["output"][0, 0] = 5.0
    assert str(vectors.derive(logits)) == "LinearGLU(text_0, text_1) -> Concat(cell_0)"


@pytest.mark.parametrize("cell", [0, 1])
def test_attention_to_one_position_gives_nothing_in_the_relaxation(cell):
    """What is never derived does not earn its weight by being the vector itself."""
    space, features = fusion(output="beside"), draw_features()
    net, end = random_supernet(space, 0), 1e4
    first, vector = cell, cell + list(CHANNELS).index("text_0")  # image_0 is a map
    alpha = torch.zeros_like(net.logits[f"alpha_{cell}"])
    alpha[first] = alpha[vector] = end  # all weight on this pair
    beta = torch.tensor([[end, 0.0], [0.0, end]])  # the map asks, the vector answers
    attends, does_nothing, reads_map = (torch.zeros(5) for _ in range(3))
    attends[2] = does_nothing[0] = reads_map[2] = end
    results = []
    for gamma, order in ((attends, beta), (does_nothing, beta), (reads_map, beta.flip(1))):
        named = {f"alpha_{cell}": alpha, f"beta_{cell}_0": order, f"gamma_{cell}_0": gamma}
        set_logits(net, named)
        results.append(net(features))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(results[2], results[1])


def test_what_a_plot_reads_from_a_map_is_one_position_too():
    steps = (
        Node("cell_0_step_0", "Attention", ("text_0", "image_0")),
        Node("cell_0_step_1", "Attention", ("image_0", "cell_0_step_0")),
        Node("cell_0", "Concat", ("cell_0_step_0", "cell_0_step_1")),
    )
    genotype = Genotype("fusion", (*steps, concat("cell_0")))
    with pytest.raises(InputError, match="Attention reads from a state of one position"):
        fusion(cells=1, steps=2).validate(genotype)
    turned = Node("cell_0_step_1", "Attention", ("cell_0_step_0", "image_0"))
    fusion(cells=1, steps=2).validate(Genotype("fusion", (steps[0], turned, *genotype.nodes[2:])))


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ((Node("cell_0", "Sum", ("image_0", "text_0")),), "then output = Concat"),
        ((concat("text_0", "image_0"),), "is not in canonical form; write"),
        ((concat("text_0", "text_0"),), "is not in canonical form; write"),
        ((concat("image_7"),), "it uses"),
        ((Node("cell_0", "Sum", ("image_0", "text_0")), concat("text_0")), "is not in canonical"),
        (
            tuple(Node(f"cell_{n}", "Sum", ("image_0", "text_0")) for n in range(3))
            + (concat("text_0"),),
            "at most 2 cells",
        ),
        ((Node("output", "Sum", ("image_0", "text_0")),), "then output = Concat"),
    ],
)
def test_what_is_no_architecture_is_refused(nodes, told):
    with pytest.raises(InputError, match=told):
        fusion().validate(Genotype("fusion", nodes))


def test_what_does_not_go_with_a_choice_is_refused():
    with pytest.raises(InputError, match="output_norm is over all cells"):
        FusionConfig(output="chosen", released=("output_norm",))
    with pytest.raises(InputError, match="use FusionConfig\\(relaxation='pairs'\\)"):
        fusion(cells=1, relaxation="released")
    with pytest.raises(InputError, match="output='cells'"):
        fusion().extensions(None)


def test_loss_moves_what_is_kept():
    space = fusion()
    net = random_supernet(space, 0)
    net(draw_features()).square().sum().backward()
    assert (net.logits["output"].grad != 0).all()
    assert list(space.labels()["output"])[:3] == ["cell_0 kept", "cell_0 left", "cell_1 kept"]
    assert all(len(space.labels()[name]) == leaf.numel() for name, leaf in net.logits.items())
