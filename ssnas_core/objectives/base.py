"""Where a batch's inputs come from, and how views of it are drawn.

A source is a feature store, live inputs, or anything that has its two methods. Where
several processes work together (`_processes`), each draws the chance of the whole
batch and reads its own share of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from ssnas_core.common.distributed import share

Features = Mapping[str, Tensor]


class Objective(Protocol):
    """A loss and the head that it needs."""

    def head(self, width: int) -> nn.Module:
        """A fresh head for embeddings of `width` numbers."""
        ...

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Mean loss of `model` (encoder and head) on the samples `indices`, a scalar."""
        ...

    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """What else to log of `model` on some samples, without gradients."""
        ...


class ObjectiveConfig(Protocol):
    """An objective that needs labels, as a run's configuration names it: without them.

    Attributes:
        uses_labels: True.
        labelled_only: the search is given labelled samples alone; all samples otherwise.
    """

    uses_labels: ClassVar[bool]
    labelled_only: ClassVar[bool]

    def open(self, labels: Tensor, classes: int, labelled: Tensor) -> Objective:
        """Return the objective.

        Args:
            labels: of the whole data set, (N, K) 0/1 or (N,) class numbers.
            classes: K.
            labelled: (n,) numbers of the samples whose labels may be read.
        """
        ...


class Source(Protocol):
    """Where a batch's inputs come from: a feature store, or live inputs."""

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """Unaugmented inputs of the samples `indices` (n,), by name, each (n, ...)."""
        ...

    def augmented(
        self,
        indices: Tensor,
        generator: torch.Generator,
        count: int = 2,
        *,
        part: slice = slice(None),
    ) -> Sequence[dict[str, Tensor]]:
        """`count` jointly augmented views of the samples, each like `clean`'s dict.

        Chance is drawn for all samples; then only those in `part` are read. A source
        for one process alone can do without `part`: it is given where there are several.
        """
        ...


class OnDevice:
    """A source whose inputs are moved to a device as they are drawn."""

    def __init__(self, source: Source, device: torch.device | str) -> None:
        place = getattr(source, "to", None)  # a feature store may keep all that it holds there
        self.source: Source = source if place is None else place(device)
        self.device = device

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """As `Source.clean`."""
        return self._move(self.source.clean(indices))

    def augmented(
        self,
        indices: Tensor,
        generator: torch.Generator,
        count: int = 2,
        *,
        part: slice = slice(None),
    ) -> list[dict[str, Tensor]]:
        """As `Source.augmented`."""
        views = drawn(self.source, indices, generator, count, part)
        return [self._move(view) for view in views]

    def _move(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}


def two_views(source: Source, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Two views of each of N samples as 2N rows, all first views before all second ones.

    Of several processes each gets its share of the samples.
    """
    first, second = drawn(source, indices, generator, 2, share(len(indices)))
    return {name: _joined(first[name], second[name]) for name in first}


def drawn(
    source: Source, indices: Tensor, generator: torch.Generator, count: int, part: slice
) -> Sequence[dict[str, Tensor]]:
    """Views of the samples in `part`, from the draws for all of them."""
    if part == slice(None):
        return source.augmented(indices, generator, count)
    return source.augmented(indices, generator, count, part=part)


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """The rows of both; not copied where they lie one behind the other, as from a store."""
    behind = first.storage_offset() + first.numel()
    if (
        first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
        and second.storage_offset() == behind
        and first.shape == second.shape
        and first.is_contiguous()
        and second.is_contiguous()
        and first.dtype == second.dtype
        and not (first.requires_grad or second.requires_grad)
    ):
        return first.as_strided((2 * len(first), *first.shape[1:]), first.stride())
    return torch.cat((first, second))
