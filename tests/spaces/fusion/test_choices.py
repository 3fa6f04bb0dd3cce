"""The fusion space as named variables: every architecture is a choice, and grows cell by cell."""

from __future__ import annotations

import itertools
from math import prod

import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.spaces.operators import Sum

FEATURES = ("image_0", "image_1", "text_0", "text_1")
SIZES = [(2, 1, 1), (4, 1, 1), (3, 2, 1), (2, 3, 1), (2, 1, 2), (3, 1, 2), (2, 1, 3)]


def fusion(features: int, cells: int, steps: int, operators=None, **more) -> FusionSpace:
    config = FusionConfig(channels=2, length=1, cells=cells, steps=steps, **more)
    return FusionSpace(dict.fromkeys(FEATURES[:features], 3), config, operators)


OWN = {"Gated": lambda channels: Sum()}
SPACES = {
    **{f"{f} features, {c} cells, {s} steps": fusion(f, c, s) for f, c, s in SIZES},
    "a further operator": fusion(2, 2, 1, OWN),
    "released": fusion(4, 2, 1, relaxation="released"),
}
EVERY = {name: list(space.genotypes()) for name, space in SPACES.items()}


@pytest.fixture(params=SPACES)
def name(request) -> str:
    return request.param


def choices(space: FusionSpace):
    """Every choice of a space, by counting."""
    sizes = {variable: len(values) for variable, values in space.variables.items()}
    for values in itertools.product(*map(range, sizes.values())):
        yield dict(zip(sizes, values, strict=True))


def beginning(genotype: Genotype, cells: int, steps: int) -> Genotype:
    per_cell = steps + (steps > 1)
    return Genotype(genotype.space, genotype.nodes[: cells * per_cell])


def test_space_of_the_last_taps_reads_no_others():
    space = fusion(4, 2, 1, taps=1)
    assert space.features == ("image_1", "text_1")
    alone = FusionSpace({"image_1": 3, "text_1": 3}, FusionConfig(channels=2, length=1))
    assert set(space.genotypes()) == set(alone.genotypes())
    features = {name: torch.randn(5, 1, 3) for name in FEATURES}
    with_others, without = (space.supernet().eval() for _ in range(2))
    without.load_state_dict(with_others.state_dict())
    few = {name: features[name] for name in space.features}
    torch.testing.assert_close(with_others(features), without(few))
    with pytest.raises(InputError, match="taps must be >= 1, got 0"):
        fusion(4, 2, 1, taps=0)


# --- variables


def test_variables_name_pairs_and_the_steps_on_them():
    variables = fusion(2, 2, 2).variables
    assert list(variables) == [
        *("pair_0", "step_0_0", "step_0_1"),
        *("pair_1", "step_1_0", "step_1_1"),
    ]
    assert variables["pair_0"] == ("image_0+image_1",)
    assert variables["pair_1"] == ("cell_0+image_0", "cell_0+image_1", "image_0+image_1")
    assert variables["step_1_0"] == (
        *("Sum(x, y)", "Attention(x, y)", "Attention(y, x)"),
        *("LinearGLU(x, y)", "ConcatFC(x, y)"),
    )
    assert "Sum(y, step_0)" in variables["step_0_1"]
    assert {"Sum(step_0, y)", "Sum(y, x)"}.isdisjoint(variables["step_0_1"])


def test_values_of_a_variable_are_distinct(name):
    for values in SPACES[name].variables.values():
        assert len(set(values)) == len(values)


def test_a_further_operator_has_both_orders():
    assert {"Gated(x, y)", "Gated(y, x)"} <= set(SPACES["a further operator"].variables["step_1_0"])


# --- choices


def test_every_genotype_encodes_to_a_choice_that_decodes_to_it(name):
    space = SPACES[name]
    for genotype in EVERY[name]:
        choice = space.encode(genotype)
        assert list(choice) == list(space.variables)
        assert space.decode(choice) == genotype


def test_choices_decode_to_the_genotypes_of_the_space_and_to_no_other(name):
    space = SPACES[name]
    if prod(map(len, space.variables.values())) > 20_000:
        pytest.skip("too many to count")
    decoded = [space.decode(choice) for choice in choices(space)]
    assert {one for one in decoded if one is not None} == set(EVERY[name])
    for genotype in {one for one in decoded if one is not None}:
        space.validate(genotype)


def test_genotype_says_what_was_chosen():
    space = fusion(3, 2, 1)
    values = {
        "pair_0": "image_0+text_0",
        "step_0_0": "Attention(y, x)",
        "pair_1": "cell_0+image_1",
        "step_1_0": "ConcatFC(x, y)",
    }
    choice = {name: space.variables[name].index(value) for name, value in values.items()}
    assert str(space.decode(choice)) == "Attention(text_0, image_0) -> ConcatFC(cell_0, image_1)"
    assert space.encode(space.decode(choice)) == choice


def test_cells_that_would_share_a_pair_are_no_architecture():
    space = fusion(3, 2, 1)
    same = [space.variables[f"pair_{cell}"].index("image_0+text_0") for cell in range(space.levels)]
    steps = {"step_0_0": 0, "step_1_0": 3}
    assert space.decode({"pair_0": same[0], "pair_1": same[1], **steps}) is None
    assert space.decode({"pair_0": same[0], "pair_1": same[1] + 1, **steps}) is not None


def test_cells_in_either_order_decode_to_one_genotype():
    space = fusion(4, 2, 1)
    pairs = ("image_0+text_0", "image_1+text_1")
    made = {
        space.decode(
            {
                "pair_0": space.variables["pair_0"].index(first),
                "step_0_0": 0,
                "pair_1": space.variables["pair_1"].index(second),
                "step_1_0": 0,
            }
        )
        for first, second in (pairs, pairs[::-1])
    }
    assert [str(one) for one in made] == ["Sum(image_0, text_0) -> Sum(image_1, text_1)"]


def test_released_relaxation_has_the_architectures_of_the_pairs():
    pairs, released = fusion(4, 2, 1), SPACES["released"]
    assert released.variables == pairs.variables
    assert EVERY["released"] == list(pairs.genotypes())
    assert released.first(1).config.relaxation == "released"


def test_genotype_of_another_space_is_not_encoded():
    (genotype, *_) = fusion(3, 1, 1).genotypes()
    with pytest.raises(InputError, match="expected 2 cells"):
        fusion(3, 2, 1).encode(genotype)


# --- growing


def test_extensions_of_all_beginnings_are_the_genotypes_of_each_length(name):
    space = SPACES[name]
    grown = [None]
    for count in range(1, space.levels + 1):
        longer = [one for prefix in grown for one in space.extensions(prefix)]
        assert len(set(longer)) == len(longer)
        assert set(longer) == set(space.first(count).genotypes())
        for prefix in grown[:5]:
            for one in space.extensions(prefix):
                if prefix is not None:
                    assert beginning(one, count - 1, space.config.steps) == prefix
        grown = longer
    assert set(grown) == set(EVERY[name])


def test_first_cells_are_a_space_of_the_same_features_operators_and_sizes():
    space = fusion(3, 3, 2, OWN, dropout=0.3)
    small = space.first(2)
    assert (small.levels, small.config.cells) == (2, 2)
    assert (small.channels, small.operators) == (space.channels, space.operators)
    assert (small.config.steps, small.config.dropout) == (2, 0.3)
    assert list(space.first(1).genotypes()) == list(fusion(3, 1, 2, OWN).genotypes())
    generator = torch.Generator().manual_seed(0)
    assert small.build(small.sample(generator)) is not None


def test_whole_genotype_has_no_extensions_and_that_of_another_space_is_refused():
    space = fusion(3, 2, 2)
    whole = space.sample(torch.Generator().manual_seed(0))
    assert space.extensions(whole) == []
    part = Genotype("fusion", whole.nodes[:2])  # a cell without its output
    with pytest.raises(InputError, match="expected 1 cells of 2 steps, got 2 nodes"):
        space.extensions(part)
    longer = fusion(3, 3, 2).sample(torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="expected 2 cells"):
        space.extensions(longer)
    other = Genotype("fusion", (Node("cell_0", "Sum", ("image_0", "audio_0")),))
    with pytest.raises(InputError, match="it uses .'audio_0'"):
        fusion(3, 2, 1).extensions(other)


# --- tokens


def test_tokens_are_distinct_for_distinct_genotypes_and_within_their_sizes(name):
    space = SPACES[name]
    told = [space.tokens(genotype) for genotype in EVERY[name]]
    assert len({tuple(one) for one in told}) == len(told)
    for tokens in told:
        assert len(tokens) == space.levels
        for cell in tokens:
            assert all(
                0 <= token < size for token, size in zip(cell, space.token_sizes, strict=True)
            )
    used = [set(tokens) for tokens in zip(*(cell for one in told for cell in one), strict=True)]
    assert [len(tokens) for tokens in used] == list(space.token_sizes)


def test_tokens_of_a_beginning_are_the_beginning_of_the_tokens(name):
    space = SPACES[name]
    for genotype in EVERY[name][::97]:
        tokens = space.tokens(genotype)
        for count in range(1, space.levels + 1):
            prefix = beginning(genotype, count, space.config.steps)
            assert space.tokens(prefix) == tokens[:count]


def test_a_pair_has_one_token_wherever_it_stands():
    space = fusion(3, 2, 1)
    numbers: dict[str, set[int]] = {}
    for genotype in space.genotypes():
        for node, (pair, _) in zip(genotype.nodes, space.tokens(genotype), strict=True):
            numbers.setdefault("+".join(sorted(node.inputs)), set()).add(pair)
    assert all(len(tokens) == 1 for tokens in numbers.values())
    assert len(numbers) == space.token_sizes[0] == 6  # of 3 features and a cell
