"""Tasks: what a data set asks of a network. A task is a head, a loss and a metric.

- classification: classes of a sample. A linear head gives a number for each class; (binary)
  cross-entropy; accuracy, or F1 at a threshold that dev chooses.
- grounding: which region of a picture a text means. The head gives a number for each region;
  cross-entropy over the regions of a sample, or divergence from their overlaps with the true box;
  accuracy. A region is right where it overlaps the true one by half (intersection over union).
- answering: which answer to a question do people give? A linear head gives a number for each
  answer; binary cross-entropy with how right each one is; VQA accuracy, the mean of how right the
  best one is, and accuracy, how often it is the commonest.
- matching: which text belongs to which picture. The head gives one number for a pair; binary
  cross-entropy of pairs and of wrong ones; recall at 1, 5 and 10 both ways over all pairs of a
  part, each of which goes through the network.

Head and loss are an objective, `learning`, which a search with labels takes as well. A data set
says which task is its own; nothing else in a run depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core.common.modalities import modality_of
from ssnas_core.datasets.records import Dataset
from ssnas_core.objectives.base import Source
from ssnas_core.objectives.matching import MatchingPairs
from ssnas_core.objectives.supervised import Supervised, SupervisedAnswers, SupervisedRegions
from ssnas_core.training.loop import predict
from ssnas_core.training.metrics import Scoring, recalls, soft_accuracy

OVERLAP = 0.5
"""Intersection over union with the true box, from which on a region is right."""


class Task(Protocol):
    """A head, a loss and a metric over the labels of one data set.

    Attributes:
        learning: the head and the loss.
        primary: name of the score that methods are compared by.
        shuffles: whether a score with one modality shuffled among the samples says anything.
    """

    learning: Any
    shuffles: bool

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

    shuffles = True

    def __init__(self, dataset: Dataset) -> None:
        self.labels, self.scoring = dataset.labels(), Scoring(dataset.single_label)
        targets = torch.from_numpy(dataset.targets())
        self.learning = learning_of(dataset.task, targets, len(dataset.classes), dataset.kinds)

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

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.right = dataset.soft() >= OVERLAP

    def scores(
        self, predicted: np.ndarray, rows: Tensor, threshold: float | None
    ) -> dict[str, float]:
        """Return the `accuracy` of the most probable region."""
        return {"accuracy": soft_accuracy(predicted, self.right[rows.numpy()])}


class Answering(Classification):
    """The answer that people give; several may be right, each as much as people give it."""

    primary = "vqa_accuracy"  # type: ignore[assignment]  # no property

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self.soft = dataset.soft()

    def threshold(self, predicted: np.ndarray, rows: Tensor) -> None:
        """Return None: one answer is given, the most probable one."""

    def scores(
        self, predicted: np.ndarray, rows: Tensor, threshold: float | None
    ) -> dict[str, float]:
        """Return `vqa_accuracy`, and the `accuracy` with the commonest answer."""
        picked = rows.numpy()
        return {
            "vqa_accuracy": soft_accuracy(predicted, self.soft[picked]),
            "accuracy": soft_accuracy(predicted, self.labels[picked]),
        }


class Retrieval:
    """The texts of each picture, and the picture of each text; a pair is all that is known."""

    primary, shuffles = "recall", False  # a shuffled pair is no pair

    def __init__(self, dataset: Dataset) -> None:
        self.pictures = torch.from_numpy(dataset.targets())
        self.learning: MatchingPairs = learning_of(
            dataset.task, self.pictures, len(dataset.classes), dataset.kinds
        )

    def predict(self, model: nn.Module, source: Source, rows: Tensor) -> np.ndarray:
        """Return the scores (n, m) of n texts with the m pictures that they have, as they come."""
        pictures = rows[self._columns(rows)[0]]
        pairs: Any = _Pairs(source, self.learning.text, rows, pictures)  # views have no use
        scores = predict(model, pairs, torch.arange(len(rows) * len(pictures)))
        return scores.view(len(rows), len(pictures)).numpy()

    def threshold(self, predicted: np.ndarray, rows: Tensor) -> None:
        """Return None: what is first needs no threshold."""

    def scores(
        self, predicted: np.ndarray, rows: Tensor, threshold: float | None
    ) -> dict[str, float]:
        """Return `recalls` of what `predict` returned."""
        return recalls(predicted, self._columns(rows)[1])

    def _columns(self, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the place of one text of each picture, and the column of each text's picture."""
        _, first, column = np.unique(self.pictures[rows], return_index=True, return_inverse=True)
        return first, column


class _Pairs:
    """Clean inputs of all pairs of n texts and m pictures: k is text k // m and picture k % m."""

    def __init__(self, source: Source, text: str, texts: Tensor, pictures: Tensor) -> None:
        self.source, self.text, self.texts, self.pictures = source, text, texts, pictures

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the inputs of the pairs of these numbers."""
        count = len(self.pictures)
        seen, said = indices % count, indices // count
        of_picture = self._once(self.pictures, seen)
        of_text = self._once(self.texts, said)
        return {
            name: (of_text if modality_of(name) == self.text else of_picture)(name)
            for name in self.source.clean(self.texts[:1])
        }

    def _once(self, rows: Tensor, places: Tensor) -> Callable[[str], Tensor]:
        """Read each row once, whatever number of pairs it is in."""
        unique, where = places.unique(return_inverse=True)
        inputs = self.source.clean(rows[unique])
        return lambda name: inputs[name][where.to(inputs[name].device)]


_TASKS: Mapping[str, Callable[[Dataset], Task]] = {
    "classification": Classification,
    "grounding": Grounding,
    "matching": Retrieval,
    "answering": Answering,
}


def task_of(dataset: Dataset) -> Task:
    """Return the task of a data set, over its labels."""
    return _TASKS[dataset.task](dataset)


def learning_of(task: str, labels: Tensor, classes: int, kinds: Mapping[str, str]) -> Any:
    """Return the head and the loss of a task, an objective.

    Args:
        task: its name, as a data set has it.
        labels: of all samples, as `Dataset.targets`.
        classes: K.
        kinds: of the modalities.
    """
    if task == "matching":
        return MatchingPairs(pictures=labels, text=next(n for n in kinds if kinds[n] == "text"))
    kinds_of = {"grounding": SupervisedRegions, "answering": SupervisedAnswers}
    return kinds_of.get(task, Supervised)(labels=labels, classes=classes)
