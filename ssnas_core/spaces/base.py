"""What strategies ask of a space: one protocol for each kind of strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ssnas_core.spaces.genotype import Genotype


class BuildableSpace(Protocol):
    """What a trial asks of a space."""

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        ...

    def build(self, genotype: Genotype) -> nn.Module:
        """Its network, with fresh weights."""
        ...


class ChoiceSpace(BuildableSpace, Protocol):
    """A space whose architectures are choices: a value for each of a few named variables."""

    @property
    def variables(self) -> Mapping[str, Sequence[str]]:
        """What each value of each variable stands for."""
        ...

    def decode(self, choice: Mapping[str, int]) -> Genotype | None:
        """The canonical genotype of a value for each variable; None where it makes none."""
        ...

    def encode(self, genotype: Genotype) -> Mapping[str, int]:
        """A choice that decodes to it."""
        ...

    def sample(self, generator: torch.Generator) -> Genotype:
        """A random genotype."""
        ...


class GradientSpace(Protocol):
    """What a gradient strategy asks of a space."""

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        ...

    def supernet(self) -> nn.Module:
        """All choices at once, with a `logits` mapping of named parameters."""
        ...

    def derive(self, logits: Any) -> Genotype:
        """The genotype that the logits stand for."""
        ...


class DrawableSpace(BuildableSpace, Protocol):
    """What a strategy that draws asks of a space."""

    def sample(self, generator: torch.Generator) -> Genotype:
        """A random genotype."""
        ...


class _GrowingSpace(BuildableSpace, Protocol):
    """What a strategy that grows architectures asks of a space."""

    @property
    def levels(self) -> int:
        """How often an architecture grows."""
        ...

    @property
    def token_sizes(self) -> tuple[int, ...]:
        """How many values each number of a token has."""
        ...

    def first(self, count: int) -> BuildableSpace:
        """The space of the first `count` levels."""
        ...

    def extensions(self, prefix: Genotype | None) -> list[Genotype]:
        """Every genotype of one level more that begins with `prefix`."""
        ...

    def tokens(self, genotype: Genotype) -> list[tuple[int, ...]]:
        """What is chosen at each level."""
        ...

    def validate(self, genotype: Genotype) -> None:
        """Refuse a genotype that is not of the space, as one that is not full grown may be."""
        ...
