"""What a modality is worth to a trained model: its score once that modality is shuffled.

A network can be given all modalities and rest on one. Shuffling a modality among the samples
keeps how its features are distributed and takes away what they say of the sample (permutation
importance: Breiman 2001).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core.common.modalities import by_modality, modality_of
from ssnas_core.objectives.base import Source
from ssnas_core.training.tasks import Task

ORDERS = 5  # of the samples; the score is the mean over them


class _Shuffled:
    """Clean inputs in which one modality is that of another sample.

    Args:
        source: of the inputs.
        modality: the one that is exchanged.
        rows: sample numbers (n,), each once.
        others: whose modality each of them gets, (n,).
    """

    def __init__(self, source: Source, modality: str, rows: Tensor, others: Tensor) -> None:
        self.source, self.modality = source, modality
        self.other = dict(zip(rows.tolist(), others.tolist(), strict=True))

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the inputs of the samples, with the modality of their others."""
        others = torch.tensor([self.other[row] for row in indices.tolist()])
        given = self.source.clean(others)
        return {
            name: given[name] if modality_of(name) == self.modality else value
            for name, value in self.source.clean(indices).items()
        }


def shuffled_scores(
    task: Task, model: nn.Module, source: Source, rows: Tensor, threshold: float | None
) -> dict[str, float]:
    """Return the main score on some samples once each modality is shuffled among them.

    Args:
        task: what the network was trained for.
        model: encoder and classifier, trained; left in eval mode.
        source: of clean inputs, on the model's device.
        rows: numbers of the samples, (n,).
        threshold: the one for the samples as they are; None where the task has none.

    Returns:
        By modality, the mean over five fixed orders, in which no sample keeps its own; nothing
        where the task is to find these out.
    """
    scores: dict[str, float] = {}
    if not task.shuffles:
        return scores
    for modality in by_modality(source.clean(rows[:1])):
        total = 0.0
        for order in range(ORDERS):
            circle = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(order))]
            mixed: Any = _Shuffled(source, modality, circle, circle.roll(1))  # views have no use
            predicted = task.predict(model, mixed, rows)
            total += task.scores(predicted, rows, threshold)[task.primary]
        scores[modality] = total / ORDERS
    return scores
