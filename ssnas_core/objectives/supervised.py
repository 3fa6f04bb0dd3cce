"""The supervised objective: labels through a linear head.

A label may be an answer to a question, of which people give several: each is as right as many
people give it, and the loss is binary cross-entropy, summed over the answers
(arXiv:1708.02711; MMnas too).

A label is a class of the sample, or one of its regions, as in visual grounding: which region does
the text mean? There each region has a number, and the softmax is over the regions of one sample.
MMnas (arXiv:2004.12070) takes the Kullback-Leibler divergence from a target that gives each region
its overlap with the true box, where that is at least 0.5 (intersection over union), normalised.
Where one region alone overlaps so, that is the cross-entropy here. The boxes that it regresses
beside are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.distributed import all_gather, at_least_float32, share
from ssnas_core.common.errors import InputError
from ssnas_core.objectives.base import Source, drawn


@dataclass(frozen=True, kw_only=True, eq=False)
class Supervised:
    """Labels through a linear classifier: BCE for several labels a sample, cross-entropy for one.

    Args:
        labels: (N, K) 0/1 for multi-label data, or (N,) class numbers.
        classes: K; taken from `labels` where these are (N, K).
        augment: train on augmented views; on clean ones otherwise.

    Raises:
        InputError: labels of another shape, or (N,) of fewer than two classes.

    Examples:
        >>> objective = Supervised(labels=labels, classes=3)
        >>> model = nn.Sequential(encoder, objective.head(8))  # embeddings (N, 8)
        >>> loss = objective.loss(model, source, torch.tensor([4, 0, 2]), torch.Generator())
        >>> loss.backward()
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
        """Return a linear classifier: (N, width) -> logits (N, K)."""
        return nn.Linear(width, self.labels.shape[1] if self.labels.ndim == 2 else self.classes)

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean cross-entropy on one view of each sample."""
        part = share(len(indices))
        if self.augment:
            (features,) = drawn(source, indices, generator, 1, part)
        else:
            features = source.clean(indices[part])
        return self.loss_of_logits(all_gather(model(features), len(indices)), indices)

    def loss_of_logits(self, logits: Tensor, indices: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (n, K) for the labels of `indices` (n,).

        It is binary, and the mean over classes too, where a sample has several labels.
        """
        logits = at_least_float32(logits)
        labels = self.labels[indices].to(logits.device)
        if self.labels.ndim == 2:
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return F.cross_entropy(logits, labels.long())

    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Return {}: there is nothing to log beyond the loss."""
        return {}


class RegionHead(nn.Linear):
    """A number for each region, by the same linear layer; hardly any for padding.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits (N, R) of the regions' embeddings (N, R, D), of which padding's are 0."""
        padding = (embeddings == 0).all(-1)
        return super().forward(embeddings).squeeze(-1).masked_fill(padding, NO_REGION)


NO_REGION = -1e9
"""The logit of a row that is no region: its probability is 0, and all logits are finite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SupervisedRegions(Supervised):
    """Labels that are regions: a score for each region of a sample, and cross-entropy over these.

    A network that embeds each region by itself gets a `RegionHead`; of another one the classes of
    its linear classifier are the places in the list of regions.

    Args:
        labels: (N,) numbers of regions; or (N, R) how right each one is, >= 0: the target is
            the row over its sum, and a row of 0 counts for nothing.
        classes: R, regions of each sample.
        augment: train on augmented views; on clean ones otherwise.
    """

    def each(self, width: int) -> nn.Module:
        """Return a head for embeddings of each region: (N, R, width) -> logits (N, R)."""
        return RegionHead(width)

    def loss_of_logits(self, logits: Tensor, indices: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (n, R); of soft labels the mean divergence."""
        if self.labels.ndim == 1:
            return super().loss_of_logits(logits, indices)
        logits = at_least_float32(logits)
        labels = self.labels[indices].to(logits.device, logits.dtype)
        total = labels.sum(1, keepdim=True)  # (n, 1)
        target = labels / total.clamp_min(torch.finfo(labels.dtype).tiny)
        divergence = F.kl_div(logits.log_softmax(1), target, reduction="sum")
        return divergence / (total > 0).sum().clamp_min(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class SupervisedAnswers(Supervised):
    """Labels that are answers, each more or less right, and binary cross-entropy for each.

    It is summed over the answers and, so that it does not grow with the batch, averaged over the
    samples, where MMnas sums over these too; Adam's steps are the same.

    Args:
        labels: (N, K) how right each answer is, in [0, 1].
        classes: K; taken from `labels` where these are (N, K).
        augment: train on augmented views; on clean ones otherwise.
    """

    def loss_of_logits(self, logits: Tensor, indices: Tensor) -> Tensor:
        """Return the binary cross-entropy of logits (n, K), summed over K, averaged over n."""
        logits = at_least_float32(logits)
        labels = self.labels[indices].to(logits.device, logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(logits)


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """The task of the data set, of the labelled samples alone.

    Args:
        augment: train on augmented views; on clean ones otherwise.
    """

    uses_labels: ClassVar[bool] = True
    labelled_only: ClassVar[bool] = True

    augment: bool = True

    def open(self, learning: Any, labelled: Tensor) -> Any:
        """Return the objective over the labels of a data set, as `ObjectiveConfig.open`."""
        return replace(learning, augment=self.augment)
