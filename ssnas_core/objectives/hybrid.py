"""The hybrid objective: labels where there are any, contrast everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssnas_core.common.distributed import all_gather
from ssnas_core.common.errors import InputError
from ssnas_core.objectives.base import Source
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.supervised import Supervised


class _TwoHeads(nn.Module):
    """Projections and logits of the same embeddings; `classifier` alone is what predicts."""

    def __init__(self, projection: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.projection = projection
        self.classifier = classifier

    def forward(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return projections (N, D) and logits (N, K) of embeddings (N, width)."""
        return self.projection(embeddings), self.classifier(embeddings)


@dataclass(frozen=True, kw_only=True, eq=False)
class Hybrid:
    """Labels where there are any, contrast everywhere: one weighted sum, one forward pass.

    weight * cross-entropy + (1 - weight) * contrast, on two augmented views of
    every sample, and on what else the contrast's task reads; the cross-entropy is
    the mean over both views of those samples of the batch that are in `labelled`,
    and 0 in a batch without any. Labels of other samples are never read.

    Its head returns projections and logits. To predict with the trained model,
    take `nn.Sequential(model[0], model[1].classifier)`.

    Args:
        supervised: the labels; with `augment=True`, as the loss sees views.
        labelled: (n,) sample numbers whose labels may be read, n >= 1.
        contrastive: the loss on all samples.
        weight: w in [0, 1]; at 0 it is `contrastive` exactly, at 1 the labelled
            samples alone decide.

    Raises:
        InputError: a weight outside [0, 1], the task "clip", `labelled` that are no
            sample numbers of `supervised.labels`, or `supervised.augment=False`.

    Examples:
        >>> supervised = Supervised(labels=labels, classes=3)
        >>> objective = Hybrid(supervised=supervised, labelled=torch.tensor([0, 2]), weight=0.5)
        >>> model = nn.Sequential(encoder, objective.head(8))  # embeddings (N, 8)
        >>> loss = objective.loss(model, source, torch.tensor([4, 0, 2]), torch.Generator())
        >>> loss.backward()
    """

    supervised: Supervised
    labelled: Tensor
    contrastive: Contrastive = Contrastive()
    weight: float = 0.5

    def __post_init__(self) -> None:
        _check(self.weight, self.contrastive)
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
        """Return both heads on the same embeddings (N, width)."""
        projection = self.contrastive.head(width)  # first, so that it starts as without labels
        return _TwoHeads(projection, self.supervised.head(width))

    def loss(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the weighted sum on two views per sample, in one forward pass."""
        rows, groups = self.contrastive.rows(source, indices, generator)
        projections, logits = (all_gather(part, len(indices), groups) for part in model(rows))
        if self.weight == 0:
            return self.contrastive.loss_of_projections(projections, groups)
        known = torch.isin(indices, self.labelled.to(indices.device)).nonzero().flatten()
        if len(known):
            twice = torch.cat((known, known + len(indices))).to(logits.device)  # of both views
            supervised = self.supervised.loss_of_logits(logits[twice], indices[known].repeat(2))
        else:
            supervised = 0.0 * logits.sum()
        if self.weight == 1:
            return supervised
        contrastive = self.contrastive.loss_of_projections(projections, groups)
        return self.weight * supervised + (1 - self.weight) * contrastive

    def report(
        self, model: nn.Module, source: Source, indices: Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Return `Contrastive.report` of the projections."""
        return self.contrastive.report(lambda inputs: model(inputs)[0], source, indices, generator)


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """Labels where there are any, contrast everywhere: one weighted sum.

    Args:
        weight: w of the labels, in [0, 1].
        contrastive: the loss on all samples.

    Raises:
        InputError: a weight outside [0, 1], or the task "clip".
    """

    uses_labels: ClassVar[bool] = True
    labelled_only: ClassVar[bool] = False

    weight: float = 0.5
    contrastive: Contrastive = Contrastive()

    def __post_init__(self) -> None:
        _check(self.weight, self.contrastive)

    def open(self, learning: Any, labelled: Tensor) -> Hybrid:
        """Return the objective over the labels of a data set, as `ObjectiveConfig.open`.

        Raises:
            InputError: the labels are not classes.
        """
        if type(learning) is not Supervised:
            raise InputError(
                "a hybrid loss needs labels that are classes, as both of its heads read one "
                f"embedding of a sample, got {type(learning).__name__}; use the objective "
                "supervised, or one without labels."
            )
        return Hybrid(
            supervised=learning,
            labelled=labelled,
            contrastive=self.contrastive,
            weight=self.weight,
        )


def _check(weight: float, contrastive: Contrastive) -> None:
    """Refuse a weight of the labels outside [0, 1], and a contrast without views of all."""
    if not 0 <= weight <= 1:
        raise InputError(f"the weight of the labels must be in [0, 1], got {weight}.")
    if contrastive.task == "clip":
        raise InputError(
            "a hybrid loss reads the labels on views of all modalities, and the task 'clip' has "
            "none; use 'simclr', 'swapped' or 'comm'."
        )
