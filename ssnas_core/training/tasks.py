"""Tasks: what a data set asks of a network. A task is a head, a loss and a metric.

- classification: classes of a sample. A linear head gives a number for each class; (binary)
  cross-entropy; accuracy, or F1 at a threshold that dev chooses.
- grounding: which region of a picture a text means. The head gives a number for each region;
  cross-entropy over the regions of a sample; accuracy. A region is right where it overlaps the
  true one by half (intersection over union), which is the accuracy while regions do not overlap.

Head and loss are an objective, `learning`, which a search with labels takes as well. A data set
says which task is its own; nothing else in a run depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core.datasets.records import Dataset
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.objectives.supervised import Supervised, SupervisedRegions
from ssnas_core.training.loop import predict
from ssnas_core.training.metrics import Scoring, accuracy


class Task(Protocol):
    """A head, a loss and a metric over the labels of one data set.

    Attributes:
        learning: the head and the loss.
        primary: name of the score that methods are compared by.
    """

    learning: Any

    @property
    def primary(self) -> str: ...

    def predict(self, model: nn.Module, source: Source, rows: Tensor) -> np.ndarray:
        """Return what a trained model says of the samples `rows` (n,), (n, K)."""
        ...

    def threshold(self, predicted: np.ndarray, rows: Tensor) -> float | None:
        """Return the threshold that is best on the samples; None where there is none to choose."""
        ...

    def scores(
        self, predicted: np.ndarray, rows: Tensor, threshold: float | None
    ) -> dict[str, float]:
        """Return all scores of what was predicted for the samples."""
        ...


class Classification:
    """Classes of samples: one for each, or any number."""

    def __init__(self, dataset: Dataset) -> None:
        self.labels, self.scoring = dataset.labels(), Scoring(dataset.single_label)
        targets = torch.from_numpy(dataset.targets())
        self.learning = learning_of(dataset.task, targets, len(dataset.classes))

    @property
    def primary(self) -> str:
        """ "accuracy" where a sample has one label, else "weighted_f1"."""
        return self.scoring.primary

    def predict(self, model: nn.Module, source: Source, rows: Tensor) -> np.ndarray:
        """Return probabilities (n, K) of the samples."""
        return self.scoring.probabilities(predict(model, source, rows))

    def threshold(self, predicted: np.ndarray, rows: Tensor) -> float | None:
        """Return the best threshold on the samples; None for single labels."""
        return self.scoring.threshold(predicted, self.labels[rows.numpy()])

    def scores(
        self, predicted: np.ndarray, rows: Tensor, threshold: float | None
    ) -> dict[str, float]:
        """Return all scores of probabilities (n, K)."""
        return self.scoring.scores(predicted, self.labels[rows.numpy()], threshold)


class Grounding(Classification):
    """The region that is meant, of those of each sample; a number in the list is no class."""

    def scores(
        self, predicted: np.ndarray, rows: Tensor, threshold: float | None
    ) -> dict[str, float]:
        """Return the `accuracy` of the most probable region."""
        return {"accuracy": accuracy(predicted, self.labels[rows.numpy()].argmax(1))}


_TASKS: Mapping[str, Callable[[Dataset], Task]] = {
    "classification": Classification,
    "grounding": Grounding,
}


def task_of(dataset: Dataset) -> Task:
    """Return the task of a data set, over its labels."""
    return _TASKS[dataset.task](dataset)


def learning_of(task: str, labels: Tensor, classes: int) -> Objective:
    """Return the head and the loss of a task.

    Args:
        task: its name, as a data set has it.
        labels: of all samples, as `Dataset.targets`.
        classes: K.
    """
    kind = SupervisedRegions if task == "grounding" else Supervised
    return kind(labels=labels, classes=classes)
