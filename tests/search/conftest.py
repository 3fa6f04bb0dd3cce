"""A space of digits and a table of losses: searches whose every trial can be followed by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.search.trials import Trials
from ssnas_core.spaces.genotype import Genotype, Node


class Digits:
    """Numbers of a few digits, none of them with two equal digits side by side.

    Its architectures are written "D4() -> D1() -> ...". What is built is one weight, and
    knows its number.
    """

    def __init__(self, digits: int = 3, values: int = 5) -> None:
        self.variables = {f"digit_{n}": tuple(map(str, range(values))) for n in range(digits)}
        self.values = values
        self.built: list[str] = []

    def decode(self, choice: Mapping[str, int]) -> Genotype | None:
        digits = [choice[name] for name in self.variables]
        if any(one == other for one, other in zip(digits, digits[1:], strict=False)):
            return None
        return Genotype("digits", tuple(Node(f"n{n}", f"D{d}", ()) for n, d in enumerate(digits)))

    def encode(self, genotype: Genotype) -> dict[str, int]:
        digits = [int(node.operator[1:]) for node in genotype.nodes]
        return dict(zip(self.variables, digits, strict=True))

    def sample(self, generator: torch.Generator) -> Genotype:
        while True:
            drawn = torch.randint(self.values, (len(self.variables),), generator=generator)
            made = self.decode(dict(zip(self.variables, drawn.tolist(), strict=True)))
            if made is not None:
                return made

    def build(self, genotype: Genotype) -> nn.Module:
        network: Any = nn.Linear(1, 1)
        network.width = 1
        network.number = number_of(str(genotype))
        self.built.append(network.number)
        return network


def number_of(genotype: str) -> str:
    """The digits of a written genotype: "D4() -> D1()" is "41"."""
    return "".join(letter for letter in genotype if letter.isdigit())


class Table:
    """An objective whose loss of a network of `Digits` is a function of its number."""

    def __init__(self, loss: Callable[[str], float]) -> None:
        self.of = loss

    def head(self, width: int) -> nn.Module:
        return nn.Identity()

    def loss(self, model: Any, source: Any, indices: Tensor, generator: Any) -> Tensor:
        return self.of(model[0].number) + 0 * sum(p.sum() for p in model.parameters())

    def report(self, *_: Any) -> dict[str, float]:
        return {}


@pytest.fixture
def digits() -> type[Digits]:
    return Digits


@pytest.fixture
def table() -> type[Table]:
    return Table


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of a `Table` without networks: the same losses, sooner."""

    def loss(self: Any, genotype: Genotype, *_: Any) -> dict[str, float]:
        return {"dev_loss": float(self.objective.of(number_of(str(genotype))))}

    monkeypatch.setattr(Trials, "_train", loss)


@pytest.fixture
def number() -> Callable[[str], str]:
    return number_of
