"""Objectives: what makes a choice good, and where the inputs of a batch come from.

An objective is a loss and the head that it needs; a source draws the inputs of samples, as
a feature store or live inputs do. An objective of one's own is any class with `head`, `loss`
and `report`; as a frozen dataclass, a run can name it in its files. One that needs labels is
given to a run as a configuration (`ObjectiveConfig`), which holds none and opens the
objective over those of the data set.

Where several processes work together (`common.distributed`), each draws the chance of the
whole batch and reads its own share of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ssnas_core.common.distributed import share

Features = Mapping[str, Tensor]  # inputs of N samples by name, (N, ...) each


class Objective(Protocol):
    """A loss and the head that it needs.

    It may have besides `each(width)`, a head for networks that embed each region of a sample by
    itself, (N, P, width): these then do (`training.loop.join`).
    """

    def head(self, width: int) -> nn.Module:
        """Return a fresh head for embeddings (N, width)."""
        ...

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss on some samples, a scalar.

        Args:
            model: the encoder and the head.
            source: of the samples' inputs.
            indices: (N,) sample numbers.
            generator: of the views.
        """
        ...

    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Return further numbers to log, of the same arguments as `loss`, without gradients."""
        ...


class ObjectiveConfig(Protocol):
    """An objective that needs labels, without them: what a run's configuration has.

    What these labels are is the data set's matter: its task (`training.tasks`) is the head and the
    loss that they are learnt by, and such an objective is that, or something about it.

    Attributes:
        uses_labels: True.
        labelled_only: whether a search is given labelled samples alone, not all.
    """

    uses_labels: ClassVar[bool]
    labelled_only: ClassVar[bool]

    def open(self, learning: Any, labelled: Tensor) -> Objective:
        """Return the objective over the labels of a data set.

        Args:
            learning: head and loss of the data set's task, over the labels of all samples.
            labelled: (n,) numbers of the samples whose labels may be read.
        """
        ...


class Source(Protocol):
    """Where a batch's inputs come from: a feature store, or live inputs."""

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the inputs of the samples `indices` (n,) by name, (n, ...) each, unaugmented."""
        ...

    def augmented(
        self,
        indices: Tensor,
        generator: torch.Generator,
        count: int = 2,
        *,
        part: slice = slice(None),
    ) -> Sequence[dict[str, Tensor]]:
        """Return `count` jointly augmented views of the samples, each as `clean` returns them.

        Chance is drawn for all samples; then only those in `part` are read. A source
        for one process alone needs no `part`: it is given where there are several.
        """
        ...


class OnDevice:
    """A source whose inputs are moved to a device as they are drawn."""

    def __init__(self, source: Source, device: torch.device | str) -> None:
        to = getattr(source, "to", None)  # a feature store may keep all of it there
        self.source: Source = source if to is None else to(device)
        self.device = device

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the inputs as `Source.clean`, on the device."""
        return self._move(self.source.clean(indices))

    def augmented(
        self,
        indices: Tensor,
        generator: torch.Generator,
        count: int = 2,
        *,
        part: slice = slice(None),
    ) -> list[dict[str, Tensor]]:
        """Return the views as `Source.augmented`, on the device."""
        views = drawn(self.source, indices, generator, count, part)
        return [self._move(view) for view in views]

    def _move(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}


def two_views(source: Source, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Return two views of N samples as 2N rows, all first views before all second ones.

    Of several processes each gets its share of the samples.
    """
    first, second = drawn(source, indices, generator, 2, share(len(indices)))
    return {name: _joined(first[name], second[name]) for name in first}


def drawn(
    source: Source, indices: Tensor, generator: torch.Generator, count: int, part: slice
) -> Sequence[dict[str, Tensor]]:
    """Return `count` views of the samples in `part`, from the draws for all of them."""
    if part == slice(None):
        return source.augmented(indices, generator, count)
    return source.augmented(indices, generator, count, part=part)


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Return the rows of both; no copy where they lie one behind the other, as from a store."""
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
