"""Which genotypes of the fusion space compute the same function, and which compute less than said.

Every genotype of a small space is built, with weights tied by the name of the feature or operator,
and run on random inputs: image features are maps of L positions, text features one vector each.
In BM-NAS's space some networks are one function, and many do less than they say; what they are
stands here exactly. Where what reaches the classifier is a choice, none is and none does.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.spaces.fusion.networks import RELEASED, Output, Released
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import OUTPUT, Genotype

FEATURES = ("image_0", "text_0", "text_1")
L, C = 3, 4
SEEDS = {name: seed for seed, name in enumerate((*FEATURES, "LinearGLU", "ConcatFC"))}


def fusion(cells: int, released: tuple[Released, ...] = ()) -> FusionSpace:
    config = FusionConfig(channels=C, length=L, cells=cells, dropout=0.0, released=released)
    return FusionSpace(dict.fromkeys(FEATURES, C), config)


def aware(cells: int, output: Output, features: tuple[str, ...] = FEATURES) -> FusionSpace:
    """The same, of known positions."""
    config = FusionConfig(channels=C, length=L, cells=cells, dropout=0.0, output=output)
    positions = {name: 1 if name.startswith("text") else L for name in features}
    return config.open(dict.fromkeys(features, C), positions)


def draw_features(samples: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(samples, 1 if name.startswith("text") else L, C, generator=generator)
        for name in FEATURES
    }


def tied(space: FusionSpace, genotype: Genotype) -> Any:
    """The network of a genotype; a feature, and an operator, has the same weights in all."""
    network: Any = space.build(genotype).double().eval()
    linears: dict[str, Any] = {name: stem.linear for name, stem in network.stems.named_children()}
    for cell in network.cells:
        if hasattr(step := cell.steps[0].operator, "linear"):
            linears[cell.steps[0].name + str(len(linears))] = step.linear
    for name, linear in linears.items():
        generator = torch.Generator().manual_seed(SEEDS[name if name in SEEDS else name[:-1]])
        for weight in linear.parameters():
            weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    for norm in network.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.eps = 1e-15  # or what is equal up to a norm's small constant differs
    last = genotype.nodes[-1]
    kept = last.inputs if last.name == OUTPUT else [node.name for node in genotype.nodes]
    network.sizes = [C * space.positions.get(name, L) for name in kept]
    return network


def ways(space: FusionSpace, network: Any) -> list[tuple]:
    """What a network computes, as numbers, for each way to halve some features and cell_0.

    The scales of a stem and of a norm are weights: networks that differ in them alone are one
    architecture. The first way halves nothing. Cells are in no order, and have norm 1: behind
    them is a linear layer.
    """
    halves = torch.tensor(list(itertools.product((1.0, 0.5), repeat=len(FEATURES))))
    norms = [cell.output.norm for cell in network.cells]
    scaled = {
        name: torch.cat([factor * feature.double() for factor in halves[:, place]])
        for place, (name, feature) in enumerate(draw_features().items())
    }
    found = []
    for factor in (1.0, 0.5):
        for norm in norms[:1]:
            norm.weight.data.fill_(factor)
        parts = []  # what reaches the classifier: cells, and features as they are
        for part in network(scaled).split(network.sizes, 1):
            one = nn.functional.normalize(part.unflatten(0, (len(halves), -1)).flatten(1), dim=-1)
            parts.append(one.mul(1e6).round().int().tolist())
        found += zip(*parts, strict=True)
    for norm in norms[:1]:
        norm.weight.data.fill_(1.0)
    return [tuple(sorted(map(tuple, parts))) for parts in found]


def idle(network: Any) -> list[str]:
    """What a genotype says and its network does not do, of all cells.

    "Attention: x" says that the operator gives the same whatever its first input is, "Sum" that
    a cell gives the same as without its operator.
    """
    found: list[str] = []

    def look(cell: Any, given: tuple[Tensor, Tensor], result: Tensor) -> None:
        step = cell.steps[0]
        inputs = [given[step.first], given[step.second]]
        kept = step.operator(*inputs)
        for place, name in enumerate("xy"):  # with another sample's
            changed = [one.roll(1, 0) if i == place else one for i, one in enumerate(inputs)]
            if torch.allclose(step.operator(*changed), kept):
                found.append(f"{step.name}: {name}")
        if torch.allclose(cell.output([torch.zeros_like(kept)], *given), result):
            found.append(step.name)

    hooks = [cell.register_forward_hook(look) for cell in network.cells]
    network({name: feature.double() for name, feature in draw_features().items()})
    for hook in hooks:
        hook.remove()
    return found


@dataclass(frozen=True)
class Facts:
    """Of a whole space: what each genotype computes in each of its ways, and what is idle in it."""

    space: FusionSpace
    ways: dict[Genotype, list[tuple]]
    idle: dict[Genotype, list[str]]

    def classes(self, scales: bool) -> list[list[Genotype]]:
        """The genotypes that compute the same, with the same weights or with other scales too."""
        first: dict[tuple, Genotype] = {}
        parts: list[set[Genotype]] = []
        for genotype, computed in self.ways.items():
            same = {first.setdefault(way, genotype) for way in computed[: None if scales else 1]}
            joined = [part for part in parts if part & same]
            parts = [part for part in parts if not part & same]
            parts.append({genotype}.union(*joined))
        return [sorted(part, key=str) for part in parts]

    def raw(self, part: list[Genotype]) -> int:
        """How many ways to write them there are, of cells in all orders."""
        return sum(self.writings[genotype] for genotype in part)

    @cached_property
    def writings(self) -> Counter[Genotype]:
        return writings(self.space)


@cache
def facts(cells: int, released: tuple[Released, ...] = ()) -> Facts:
    """Of every genotype where positions are not known."""
    return facts_of(fusion(cells, released))


@torch.no_grad()
def facts_of(space: FusionSpace) -> Facts:
    """Of every genotype."""
    networks = {genotype: tied(space, genotype) for genotype in space.genotypes()}
    return Facts(
        space,
        {genotype: ways(space, network) for genotype, network in networks.items()},
        {genotype: idle(network) for genotype, network in networks.items()},
    )


def writings(space: FusionSpace) -> Counter[Genotype]:
    """How often each genotype is among all values of the space's variables."""
    values = itertools.product(*(range(len(of)) for of in space.variables.values()))
    made = (space.decode(dict(zip(space.variables, chosen, strict=True))) for chosen in values)
    return Counter(genotype for genotype in made if genotype is not None)


def texts(parts: list[list[Genotype]]) -> list[list[str]]:
    """The classes of several genotypes, readable."""
    return [[str(genotype) for genotype in part] for part in parts if len(part) > 1]


def test_one_cell_of_a_vector_is_one_architecture_for_sum_and_attention():
    told = facts(1)
    assert len(told.classes(scales=False)) == len(told.ways) == 15
    assert texts(told.classes(scales=True)) == [
        ["Attention(image_0, text_0)", "Sum(image_0, text_0)"],
        ["Attention(image_0, text_1)", "Sum(image_0, text_1)"],
        ["Attention(text_0, text_1)", "Attention(text_1, text_0)", "Sum(text_0, text_1)"],
    ]


def test_one_cell_does_less_than_it_says_where_it_sums_or_attends_to_a_vector():
    assert {str(genotype): what for genotype, what in facts(1).idle.items() if what} == {
        "Sum(image_0, text_0)": ["Sum"],
        "Sum(image_0, text_1)": ["Sum"],
        "Sum(text_0, text_1)": ["Sum"],
        "Attention(image_0, text_0)": ["Attention: x"],
        "Attention(image_0, text_1)": ["Attention: x"],
        "Attention(text_0, text_1)": ["Attention: x"],
        "Attention(text_1, text_0)": ["Attention: x"],
    }


def test_300_genotypes_of_two_cells_are_174_architectures_written_in_375_ways():
    told = facts(2)
    assert len(told.classes(scales=False)) == len(told.ways) == 300
    parts = told.classes(scales=True)
    assert len(parts) == 174
    assert Counter(map(len, parts)) == {1: 101, 2: 46, 3: 17, 4: 5, 6: 3, 9: 2}
    raw = Counter(map(told.raw, parts))
    assert raw == {1: 80, 2: 57, 3: 11, 4: 14, 6: 7, 8: 1, 9: 2, 12: 2}
    assert raw.total() == 174 and sum(ways * count for ways, count in raw.items()) == 375


def test_two_thirds_of_two_cells_do_less_than_they_say():
    told = facts(2).idle.values()
    assert sum(map(bool, told)) == 205
    assert Counter(what for idle in told for what in idle) == {"Sum": 120, "Attention: x": 145}


@pytest.mark.parametrize(
    ("output", "cells", "count"),
    [
        ("beside", 1, 1 + 11),
        # two cells are the 174 functions of BM-NAS's 300 genotypes; in 134 one reads the other,
        # which may then be left
        pytest.param("beside", 2, 1 + 11 + 174 + 134, marks=pytest.mark.thorough),
        ("chosen", 1, 95),
        pytest.param("chosen", 2, 2559, marks=pytest.mark.thorough),
    ],
)
def test_where_the_output_is_chosen_each_genotype_is_one_function_and_does_what_it_says(
    output, cells, count
):
    told = facts_of(aware(cells, output))
    assert len(told.ways) == count
    assert texts(told.classes(scales=True)) == []
    # Sum in a cell of one step adds what a cell adds anyway: it is the sum that it says
    assert {what for idle in told.idle.values() for what in idle} <= {"Sum"}


@pytest.mark.thorough
def test_with_released_layers_sum_counts_and_attention_to_a_vector_may_lose_its_cell_an_input():
    told = facts(2, RELEASED)
    parts = texts(told.classes(scales=False))
    assert len(told.classes(scales=False)) == 288
    assert sorted(map(len, parts)) == [3, 3, 3, 3, 5]
    assert [
        "ConcatFC(text_0, text_1) -> Attention(image_0, cell_0)",
        "ConcatFC(text_0, text_1) -> Attention(text_0, cell_0)",
        "ConcatFC(text_0, text_1) -> Attention(text_1, cell_0)",
    ] in parts
    assert sum(map(bool, told.idle.values())) == 126
    idle = Counter(what for what_all in told.idle.values() for what in what_all)
    assert idle == {"Attention: x": 145, "Attention": 41, "Sum": 1}
