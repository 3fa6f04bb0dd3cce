"""Search spaces: the protocols that strategies ask for, and how to write a space of one's own.

A space says which architectures there are (genotypes) and builds their networks, each of which
has a `width`, the numbers in its embedding. Random search and a run need `build` and `sample`
alone; a space with the methods of a further protocol can be searched by further strategies.
A run opens it by its configuration, a frozen dataclass with `open`:

    class OneFeature:  # which feature alone embeds the samples best?
        def __init__(self, channels, width):
            self.channels, self.width = channels, width

        def sample(self, generator):
            number = torch.randint(len(self.channels), (), generator=generator)
            return Genotype("one", (Node("out", "Linear", (list(self.channels)[number],)),))

        def build(self, genotype):
            return Mean(genotype.features[0], self.channels, self.width)

    class Mean(nn.Linear):
        def __init__(self, name, channels, width):
            super().__init__(channels[name], width)
            self.name, self.width = name, width

        def forward(self, features):  # name -> (N, P, C)
            return super().forward(features[self.name].mean(1))  # (N, width)

    @dataclass(frozen=True)
    class OneFeatureConfig:
        width: int = 16

        def open(self, channels, positions):  # feature name -> C, and -> P
            return OneFeature(channels, self.width)

`RunConfig(space=OneFeatureConfig(), ...)` searches it. Where the module is importable, files
name it as "package.module:OneFeatureConfig" and so does the command line; an entry point of
the group "ssnas.space" gives it a short name. A configuration may have besides

- `trained_with(dropout)`: the configuration to train the best network with, of the same
  architectures;
- `lacks`: names of the protocols' methods that its space does not have, so that a run
  refuses a strategy that needs one before any work;

and a space `labels()`, `validate(genotype)` and `features`; the functions of these names
below do without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.spaces.genotype import Genotype

SHADOW = 2.0**-100
"""Weight of an option that is computed for its weight's gradient alone: it adds nothing, and what
it computes needs no gradient. (It is the same number in every precision.) An option of weight 0
need not be computed at all."""


class Space(Protocol):
    """The least of a space: random search and a run need no more."""

    def build(self, genotype: Genotype) -> nn.Module:
        """Return the network of `genotype` with fresh weights, and a `width`."""
        ...

    def sample(self, generator: torch.Generator) -> Genotype:
        """Return a random genotype."""
        ...


class GradientSpace(Space, Protocol):
    """A space that can be relaxed."""

    def supernet(self) -> nn.Module:
        """Return all choices at once, with a `width` and a `logits` mapping of named parameters."""
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


def width_of(network: nn.Module) -> int:
    """Return the numbers in a network's embedding.

    Raises:
        InputError: it does not say.
    """
    width = getattr(network, "width", None)
    if not isinstance(width, int):
        raise InputError(
            f"expected a network with a width, the numbers in its embedding, got "
            f"{type(network).__name__} of width {width!r:.80}; set self.width where it is made."
        )
    return width


def check_dropouts(config: Any) -> None:
    """Raise `InputError` where `dropout` or `modality_dropout` of a configuration is none."""
    kind = type(config).__name__
    if not 0 <= config.dropout < 1:
        raise InputError(f"{kind}.dropout must be in [0, 1), got {config.dropout}.")
    if not 0 <= (lost := config.modality_dropout) <= 1:
        raise InputError(f"{kind}.modality_dropout must be in [0, 1], got {lost}.")


def labels_of(space: Space) -> dict[str, tuple[str, ...]]:
    """Return the meaning of each entry of each logit vector of a space; {} where it has none."""
    labels = getattr(space, "labels", None)
    return {} if labels is None else labels()


def validate(space: Space, genotype: Genotype) -> None:
    """Raise unless `genotype` is of `space`; a space without `validate` has to build it.

    Raises:
        InputError: it is not.
    """
    check = getattr(space, "validate", None)
    if check is not None:
        check(genotype)
        return
    try:
        with torch.random.fork_rng(devices=[]):  # fresh weights that nobody sees
            space.build(genotype)
    except InputError:
        raise
    except Exception as error:  # whatever a space of one's own does with a foreign genotype
        raise InputError(
            f"{genotype!s:.300} is not a genotype of {type(space).__name__}, which cannot build "
            f"it ({type(error).__name__}: {error!s:.100}); use the space that it was found in."
        ) from error


def features_of(space: Space, genotype: Genotype) -> tuple[str, ...]:
    """Return the names of the features of a space, in order; those of `genotype` if it has none."""
    return tuple(getattr(space, "features", genotype.features))
