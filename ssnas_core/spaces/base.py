"""Search spaces: what a strategy asks of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ssnas_core.spaces.genotype import Genotype


class Space(Protocol):
    """The least of a space: random search and a run need no more."""

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        ...

    def build(self, genotype: Genotype) -> nn.Module:
        """Return the network of `genotype` with fresh weights."""
        ...

    def sample(self, generator: torch.Generator) -> Genotype:
        """Return a random genotype."""
        ...


class GradientSpace(Space, Protocol):
    """A space that can be relaxed."""

    def supernet(self) -> nn.Module:
        """Return all choices at once, with a `logits` mapping of named parameters."""
        ...

    def derive(self, logits: Any) -> Genotype:
        """Return the genotype that the logits stand for."""
        ...


class ChoiceSpace(Space, Protocol):
    """A space whose architectures are choices: a value for each of a few named variables."""

    @property
    def variables(self) -> Mapping[str, Sequence[str]]:
        """The values of each variable."""
        ...

    def decode(self, choice: Mapping[str, int]) -> Genotype | None:
        """Return the canonical genotype of a value for each variable; None where it makes none."""
        ...

    def encode(self, genotype: Genotype) -> Mapping[str, int]:
        """Return a choice that decodes to `genotype`."""
        ...


class GrowingSpace(Space, Protocol):
    """A space whose architectures grow level by level."""

    @property
    def levels(self) -> int:
        """How often an architecture grows."""
        ...

    @property
    def token_sizes(self) -> tuple[int, ...]:
        """How many values each number of a token has."""
        ...

    def first(self, count: int) -> Space:
        """Return the space of the first `count` levels."""
        ...

    def extensions(self, prefix: Genotype | None) -> list[Genotype]:
        """Return every genotype of one level more that begins with `prefix`."""
        ...

    def tokens(self, genotype: Genotype) -> list[tuple[int, ...]]:
        """Return the choices of each level as numbers."""
        ...

    def validate(self, genotype: Genotype) -> None:
        """Raise `InputError` for a genotype that is not of the space, or not full grown."""
        ...


# Until the strategies have switched to the names above.
BuildableSpace = DrawableSpace = Space
_GrowingSpace = GrowingSpace
