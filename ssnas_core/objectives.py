"""What makes a choice good: a head to put on an encoder, and a loss for a batch of samples.

An objective knows nothing of spaces: a model is anything that maps a dict of
inputs to (N, D). It draws from a source the views that it wants, and only the
supervised one holds labels, so a contrastive search cannot see them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.errors import InputError

Features = Mapping[str, Tensor]


class Source(Protocol):
    """Where a batch's inputs come from: a feature store, or live inputs."""

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """Unaugmented inputs of the samples `indices` (n,), by name, each (n, ...)."""
        ...

    def augmented(
        self, indices: Tensor, generator: torch.Generator, count: int = 2
    ) -> Sequence[dict[str, Tensor]]:
        """`count` jointly augmented views of the samples, each like `clean`'s dict."""
        ...


class OnDevice:
    """A source whose inputs are moved to a device as they are drawn."""

    def __init__(self, source: Source, device: torch.device | str) -> None:
        self.source = source
        self.device = device

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """As `Source.clean`."""
        return self._move(self.source.clean(indices))

    def augmented(
        self, indices: Tensor, generator: torch.Generator, count: int = 2
    ) -> list[dict[str, Tensor]]:
        """As `Source.augmented`."""
        return [self._move(view) for view in self.source.augmented(indices, generator, count)]

    def _move(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}


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


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Mean NT-Xent loss over paired views (SimCLR eq. 1, arXiv:2002.05709).

    Row i of `first` and of `second` are views of one sample; the other 2N - 2
    rows are its negatives. Rows are L2-normalised here, not by the caller.

    Args:
        first: view-1 projections, (N, D) float, N >= 2.
        second: view-2 projections, (N, D).
        temperature: tau > 0, dimensionless.

    Returns:
        Scalar, in nats; log(2N - 1) when all rows are equal.

    Raises:
        InputError: shapes differ, N < 2, or temperature <= 0.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise InputError(
            f"nt_xent needs two (N, D) batches with N >= 2, got {tuple(first.shape)} "
            f"and {tuple(second.shape)}; use a larger batch, or drop the last one."
        )
    if not temperature > 0:
        raise InputError(f"temperature must be > 0, got {temperature}; SimCLR uses 0.1 to 1.")
    rows = F.normalize(torch.cat((first, second)).float())
    similarity = rows @ rows.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(rows), device=rows.device).roll(len(first))
    return F.cross_entropy(similarity, partner)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of paired views on the unit sphere (arXiv:2005.10242, eq. 5).

    Args:
        first, second: (N, D); normalised here.

    Returns:
        Scalar in [0, 4]; 0 when views of a sample coincide.
    """
    return (F.normalize(first) - F.normalize(second)).square().sum(1).mean()


def uniformity(rows: Tensor) -> Tensor:
    """Log mean Gaussian potential of all pairs (arXiv:2005.10242, eq. 6, t = 2).

    Args:
        rows: (N, D), N >= 2; normalised here.

    Returns:
        Scalar <= 0; 0 when all rows are equal (collapse), near -4 at best.
    """
    squared = torch.pdist(F.normalize(rows)).square()
    return torch.logsumexp(-2 * squared, 0) - math.log(len(squared))


def effective_rank(rows: Tensor) -> Tensor:
    """exp of the entropy of the centred rows' normalised singular values (Roy & Vetterli 2007).

    Args:
        rows: (N, D).

    Returns:
        Scalar in [1, min(N, D)]: dimensions that the embedding uses; 0 when
        all rows are equal.
    """
    values = torch.linalg.svdvals(rows - rows.mean(0))
    rounding = torch.finfo(rows.dtype).eps * max(rows.shape) * rows.norm()
    values = values[values > rounding]  # what the mean's rounding leaves is no direction
    if len(values) == 0:
        return values.new_zeros(())
    return torch.special.entr(values / values.sum()).sum().exp()


def match_rate(first: Tensor, second: Tensor) -> Tensor:
    """Share of rows of `first` (N, D) whose most similar row of `second` is their own view."""
    nearest = (F.normalize(first) @ F.normalize(second).T).argmax(1)
    return (nearest == torch.arange(len(first), device=first.device)).float().mean()


@dataclass(frozen=True, kw_only=True)
class Contrastive:
    """SimCLR on joint views of all modalities: needs no labels and holds none.

    Args:
        temperature: tau of NT-Xent. The paper's value is unknown; 0.2 is our choice.
        hidden: width of the projection head's hidden layer.
        out: D, width of the projections.
    """

    temperature: float = 0.2
    hidden: int = 256
    out: int = 128

    def head(self, width: int) -> nn.Module:
        """The projection head g: an MLP with one hidden layer (SimCLR sec. 2.1)."""
        return nn.Sequential(
            nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.out)
        )

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """NT-Xent of two augmented views per sample, in one forward pass of 2N rows."""
        first, second = source.augmented(indices, generator, 2)
        both = {name: torch.cat((first[name], second[name])) for name in first}
        return nt_xent(*model(both).chunk(2), temperature=self.temperature)

    @torch.no_grad()
    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Signs of collapse, and of one modality doing the matching alone.

        Returns:
            `alignment`, `uniformity`, `effective_rank` of the projections;
            `match`, the share of samples whose two views find each other in
            this batch; and `match_without_<modality>`, the same after giving
            the second view another sample's <modality>. Near `match` it says
            that the others decide alone: the one-modality shortcut.
        """
        first, second = source.augmented(indices, generator, 2)
        z1, z2 = model(first).float(), model(second).float()
        figures = {
            "alignment": alignment(z1, z2),
            "uniformity": uniformity(torch.cat((z1, z2))),
            "effective_rank": effective_rank(z1),
            "match": match_rate(z1, z2),
        }
        modalities = dict.fromkeys(modality_of(name) for name in second)
        for modality in modalities if len(modalities) > 1 else ():
            swapped = {
                name: value.roll(1, 0) if modality_of(name) == modality else value
                for name, value in second.items()
            }
            figures[f"match_without_{modality}"] = match_rate(z1, model(swapped).float())
        return {name: float(value) for name, value in figures.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Supervised:
    """Labels through a linear classifier: BCE for several labels a sample, cross-entropy for one.

    Args:
        labels: (N, K) 0/1 for multi-label data, or (N,) class numbers.
        classes: K; taken from `labels` where these are (N, K).
        augment: train on augmented views; on clean ones otherwise.
    """

    labels: Tensor
    classes: int = 0
    augment: bool = True

    def __post_init__(self) -> None:
        if self.labels.ndim not in (1, 2) or (self.labels.ndim == 1 and self.classes < 2):
            raise InputError(
                "labels must be (N, K), or (N,) with classes >= 2, got "
                f"{tuple(self.labels.shape)} with classes={self.classes}."
            )

    def head(self, width: int) -> nn.Module:
        """A linear classifier: width -> K logits."""
        return nn.Linear(width, self.labels.shape[1] if self.labels.ndim == 2 else self.classes)

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Mean cross-entropy (binary, per class, for several labels) of the samples."""
        if self.augment:
            (features,) = source.augmented(indices, generator, 1)
        else:
            features = source.clean(indices)
        logits = model(features).float()
        labels = self.labels[indices].to(logits.device)
        if self.labels.ndim == 2:
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        return F.cross_entropy(logits, labels.long())

    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Nothing beyond the loss."""
        return {}


def modality_of(name: str) -> str:
    """`"image"` for the feature `"image_2"`; a name without a depth is its own modality."""
    stem, _, depth = name.rpartition("_")
    return stem if stem and depth.isdigit() else name
