"""What makes a choice good: a head to put on an encoder, and a loss for a batch of samples.

An objective knows nothing of spaces: a model is anything that maps a dict of
inputs to (N, D). It draws from a source the views that it wants, and the
contrastive one holds no labels, so a search by it cannot see them.

Where several processes work together (`_processes`), a model sees this process's
share of the samples and the loss is that of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core._contrastive import alignment, effective_rank, match_rate, nt_xent, uniformity
from ssnas_core._processes import gathered, share
from ssnas_core._views import OnDevice, Source, drawn, two_views
from ssnas_core.errors import InputError
from ssnas_core.modalities import modality_of

__all__ = [
    "Contrastive",
    "Features",
    "Hybrid",
    "Objective",
    "OnDevice",
    "Source",
    "Supervised",
    "alignment",
    "effective_rank",
    "match_rate",
    "modality_of",
    "nt_xent",
    "uniformity",
]

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
        both = two_views(source, indices, generator)
        return self._of(gathered(model(both), len(indices), 2))

    def _of(self, projections: Tensor) -> Tensor:
        """NT-Xent of rows (2N, D) whose first half are the first views."""
        return nt_xent(*projections.chunk(2), temperature=self.temperature)

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
        return self._report(model, source, indices, generator)

    def _report(
        self,
        project: Callable[[Features], Tensor],
        source: Source,
        indices: Tensor,
        generator: torch.Generator,
    ) -> dict[str, float]:
        first, second = source.augmented(indices, generator, 2)
        z1, z2 = project(first).float(), project(second).float()
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
            figures[f"match_without_{modality}"] = match_rate(z1, project(swapped).float())
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
        part = share(len(indices))
        if self.augment:
            (features,) = drawn(source, indices, generator, 1, part)
        else:
            features = source.clean(indices[part])
        return self._of(gathered(model(features), len(indices)), indices)

    def _of(self, logits: Tensor, indices: Tensor) -> Tensor:
        """Mean cross-entropy of logits (n, K) for the labels of the samples `indices` (n,)."""
        logits = logits.float()
        labels = self.labels[indices].to(logits.device)
        if self.labels.ndim == 2:
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        return F.cross_entropy(logits, labels.long())

    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Nothing beyond the loss."""
        return {}


class _TwoHeads(nn.Module):
    """Projections and logits of the same embeddings; a classifier to use is `classifier`."""

    def __init__(self, projection: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.projection = projection
        self.classifier = classifier

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(N, width) -> (N, D) and (N, K)."""
        return self.projection(embeddings), self.classifier(embeddings)


@dataclass(frozen=True, kw_only=True, eq=False)
class Hybrid:
    """Labels where there are any, contrast everywhere: one weighted sum, one forward pass.

    weight * cross-entropy + (1 - weight) * NT-Xent, on two augmented views of
    every sample; the cross-entropy is the mean over both views of those
    samples of the batch that are in `labelled`, and 0 in a batch without any.
    Labels of other samples are never read.

    Its head returns projections and logits. To predict with what it trained,
    take `nn.Sequential(model[0], model[1].classifier)`.

    Args:
        supervised: the labels; with `augment=True`, as views are what it sees here.
        labelled: (n,) sample numbers whose labels may be read, n >= 1.
        contrastive: the loss on all samples.
        weight: w in [0, 1]; at 0 it is `contrastive` exactly, at 1 the labelled
            samples alone decide.

    Raises:
        InputError: a weight outside [0, 1], `labelled` that are no sample
            numbers of `supervised.labels`, or `supervised.augment=False`.
    """

    supervised: Supervised
    labelled: Tensor
    contrastive: Contrastive = Contrastive()
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise InputError(f"the weight of the labels must be in [0, 1], got {self.weight}.")
        if not self.supervised.augment:
            raise InputError(
                "a hybrid loss reads the labels on augmented views, got augment=False; "
                "use Supervised(..., augment=True)."
            )
        labelled, count = self.labelled, len(self.supervised.labels)
        whole = labelled.dtype in (torch.int64, torch.int32) and labelled.ndim == 1
        if not whole or not len(labelled) or labelled.min() < 0 or labelled.max() >= count:
            raise InputError(
                f"labelled must be (n,) sample numbers in 0..{count - 1}, n >= 1, got "
                f"{labelled.dtype} {tuple(labelled.shape)}; pass the rows whose labels may be read."
            )

    def head(self, width: int) -> nn.Module:
        """Both heads, `projection` and `classifier`, on the same embedding."""
        projection = self.contrastive.head(width)  # first, so that it starts as without labels
        return _TwoHeads(projection, self.supervised.head(width))

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The weighted sum on two augmented views per sample, in one forward pass of 2N rows."""
        both = model(two_views(source, indices, generator))
        projections, logits = (gathered(part, len(indices), 2) for part in both)
        if self.weight == 0:
            return self.contrastive._of(projections)
        known = torch.isin(indices, self.labelled.to(indices.device))
        rows = known.nonzero().flatten()
        if len(rows):
            twice = torch.cat((rows, rows + len(indices))).to(logits.device)
            supervised = self.supervised._of(logits[twice], indices[rows].repeat(2))
        else:
            supervised = 0.0 * logits.sum()
        if self.weight == 1:
            return supervised
        contrastive = self.contrastive._of(projections)
        return self.weight * supervised + (1 - self.weight) * contrastive

    @torch.no_grad()
    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """As `Contrastive.report`, of the projections."""
        return self.contrastive._report(
            lambda features: model(features)[0], source, indices, generator
        )
