"""Scores of multi-label and single-label predictions, on plain arrays.

The F1 averages are those of the MM-IMDB literature (Arevalo et al., 2017,
arXiv:1702.01992, section 5) and agree with scikit-learn where an average is
undefined: a class, or a sample, with nothing to find and nothing predicted
scores 0 (`zero_division=0`). A label is predicted where probability > threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

_TIE = 1e-9
"""Weighted F1 values closer than this are one plateau; rounding stays far below it."""


def _checked(probs: ArrayLike, labels: ArrayLike) -> tuple[NDArray, NDArray]:
    """Probabilities as float64 and labels as bool, both (N, K)."""
    probs, labels = np.asarray(probs, dtype=float), np.asarray(labels)
    if probs.ndim != 2 or not probs.size or probs.shape != labels.shape:
        raise ValueError(
            f"expected probabilities and labels of one shape (N, K) with N, K >= 1, "
            f"got {probs.shape} and {labels.shape}."
        )
    if not ((probs >= 0) & (probs <= 1)).all():
        raise ValueError("expected probabilities in [0, 1], got others or NaN; apply a sigmoid.")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("expected labels of 0 and 1, got other values.")
    return probs, labels.astype(bool)


def f1_scores(probs: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, float]:
    """F1 at one global threshold, averaged in the four ways of the literature.

    Args:
        probs: probabilities in [0, 1], (N, K).
        labels: 0 or 1, (N, K).
        threshold: a label is predicted where its probability is larger.

    Returns:
        `"weighted"` (mean over classes, weighted by their positives), `"micro"`
        (all decisions pooled), `"macro"` (plain mean over all K classes) and
        `"samples"` (mean over samples), each in [0, 1].

    Raises:
        ValueError: shapes differ or are not (N >= 1, K >= 1), a probability is
            NaN or outside [0, 1], or a label is neither 0 nor 1.
    """
    probs, truth = _checked(probs, labels)
    return _f1(truth, probs > threshold)


def _f1(truth: NDArray, predicted: NDArray) -> dict[str, float]:
    """F1 of decisions (N, K) bool, 2 TP / (2 TP + FP + FN), averaged in the four ways."""
    hits, either = truth & predicted, truth.astype(int) + predicted
    classes, samples, pooled = (
        2 * hits.sum(axis) / np.maximum(either.sum(axis), 1) for axis in (0, 1, None)
    )
    positives = truth.sum(0)
    return {
        "weighted": float((classes * positives).sum() / max(positives.sum(), 1)),
        "micro": float(pooled),
        "macro": float(classes.mean()),
        "samples": float(samples.mean()),
    }


def choose_threshold(probs: ArrayLike, labels: ArrayLike) -> float:
    """The global threshold with the highest weighted F1 on what is given.

    Every threshold is considered: weighted F1 only changes at an observed
    probability, so it is a step function of at most N K + 1 steps. The best
    steps form plateaus; the answer is the middle of the widest one, which is
    the least sensitive choice when N is small. Of equally wide plateaus the
    lowest wins. Without any positive label every threshold is as good, and
    the middle of [0, 1] is the answer: 0.5.

    Args:
        probs: probabilities in [0, 1], (N, K).
        labels: 0 or 1, (N, K).

    Returns:
        A threshold in [0, 1], for use as `probs > threshold`.

    Raises:
        ValueError: as `f1_scores`.
    """
    probs, truth = _checked(probs, labels)
    steps, edges = _weighted_f1_steps(probs, truth)
    best = steps >= steps.max() - _TIE
    starts = np.flatnonzero(best & ~np.concatenate(([False], best[:-1])))
    ends = np.flatnonzero(best & ~np.concatenate((best[1:], [False])))
    widths = edges[ends + 1] - edges[starts]
    widest = int(np.argmax(widths >= widths.max() - _TIE))  # the first one, so the lowest
    low, high = edges[starts[widest]], edges[ends[widest] + 1]
    middle = (low + high) / 2
    return float(middle if middle < high else low)  # neighbouring floats have no middle


def _weighted_f1_steps(probs: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
    """Weighted F1 as a step function of the threshold: steps (S,), edges (S + 1,), ascending.

    Lowering the threshold past one probability adds one prediction to one class, so the score
    is a running sum of the gains of single predictions.
    """
    positives = truth.sum(0)
    order = np.argsort(-probs, axis=0, kind="stable")
    hits = np.take_along_axis(truth, order, axis=0).cumsum(0)
    ranks = np.arange(1, len(probs) + 1)[:, None]
    f1 = 2 * hits / (ranks + positives)  # (N, K), with the n most probable predicted in row n
    weighted = f1 * positives / max(positives.sum(), 1)
    gains = np.diff(weighted, axis=0, prepend=0).ravel()
    added = np.take_along_axis(probs, order, axis=0).ravel()
    by_probability = np.argsort(-added, kind="stable")
    steps = np.append(0.0, gains[by_probability].cumsum())[::-1]
    edges = np.concatenate(([1.0], added[by_probability], [0.0]))[::-1]
    wide = np.diff(edges) > 0  # equal probabilities, and those of 0 or 1, leave empty steps
    return steps[wide], np.append(edges[:-1][wide], 1.0)


def weighted_average_precision(probs: ArrayLike, labels: ArrayLike) -> float:
    """Average precision per class, averaged with the positives as weights.

    Needs no threshold. The average precision of a class is the mean, over its
    positives, of the precision among all samples scored at least as high.

    Args:
        probs: probabilities in [0, 1], (N, K); only their order within a class
            matters, and equal ones count as retrieved together.
        labels: 0 or 1, (N, K).

    Returns:
        A value in [0, 1]; 0 without any positive label.

    Raises:
        ValueError: as `f1_scores`.
    """
    probs, truth = _checked(probs, labels)
    precisions = []
    for column, positive in zip(probs.T, truth.T, strict=True):
        found = column[positive]
        hits, retrieved = (
            len(values) - np.searchsorted(np.sort(values), found) for values in (found, column)
        )
        precisions.append(hits / retrieved)
    return float(np.concatenate(precisions).sum() / max(truth.sum(), 1))


def multi_label_scores(probs: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, float]:
    """All scores that a run reports on data of any number of labels a sample.

    Args:
        probs: probabilities in [0, 1], (N, K).
        labels: 0 or 1, (N, K).
        threshold: chosen elsewhere (`choose_threshold` on the dev part).

    Returns:
        `weighted_f1`, `micro_f1`, `macro_f1` and `samples_f1` at `threshold`;
        `weighted_f1_at_0.3` and `weighted_f1_at_0.5`; `weighted_ap`; `threshold`.

    Raises:
        ValueError: as `f1_scores`.
    """
    return {
        **{f"{name}_f1": value for name, value in f1_scores(probs, labels, threshold).items()},
        "weighted_f1_at_0.3": f1_scores(probs, labels, 0.3)["weighted"],
        "weighted_f1_at_0.5": f1_scores(probs, labels, 0.5)["weighted"],
        "weighted_ap": weighted_average_precision(probs, labels),
        "threshold": float(threshold),
    }


def accuracy(logits: ArrayLike, classes: ArrayLike) -> float:
    """Share of samples whose largest logit is that of their class.

    Args:
        logits: (N, K), of any scale; of equal ones the first counts.
        classes: class indices, (N,).

    Raises:
        ValueError: shapes do not fit, no samples, or a logit is NaN.
    """
    logits, classes = np.asarray(logits), np.asarray(classes)
    if logits.ndim != 2 or not logits.size or classes.shape != logits.shape[:1]:
        raise ValueError(
            f"accuracy needs (N, K) logits and (N,) classes with N, K >= 1, "
            f"got {logits.shape} and {classes.shape}."
        )
    if np.isnan(logits).any():
        raise ValueError("accuracy needs logits without NaN; the model has diverged.")
    return float((logits.argmax(1) == classes).mean())


def soft_accuracy(logits: ArrayLike, soft: ArrayLike) -> float:
    """Mean of how right the class with the largest logit is; of equal ones the first counts.

    Args:
        logits: (N, K), of any scale.
        soft: how right each class is, in [0, 1], (N, K).

    Raises:
        ValueError: shapes differ, no samples, or a logit is NaN.
    """
    logits, soft = np.asarray(logits), np.asarray(soft, dtype=float)
    if logits.ndim != 2 or not logits.size or soft.shape != logits.shape:
        raise ValueError(
            f"soft_accuracy needs logits and targets of one shape (N, K) with N, K >= 1, got "
            f"{logits.shape} and {soft.shape}."
        )
    if np.isnan(logits).any():
        raise ValueError("soft_accuracy needs logits without NaN; the model has diverged.")
    return float(soft[np.arange(len(soft)), logits.argmax(1)].mean())


def single_label_scores(probs: ArrayLike, classes: ArrayLike) -> dict[str, float]:
    """All scores that a run reports on data of one label a sample.

    Args:
        probs: probabilities, or any scores, (N, K); the largest is the prediction.
        classes: class indices, (N,).

    Returns:
        `accuracy`, and `weighted_f1` and `macro_f1` of the predicted classes.

    Raises:
        ValueError: as `accuracy`.
    """
    share = accuracy(probs, classes)
    every = np.arange(np.shape(probs)[1])
    f1 = _f1(np.asarray(classes)[:, None] == every, np.argmax(probs, 1)[:, None] == every)
    return {"accuracy": share, "weighted_f1": f1["weighted"], "macro_f1": f1["macro"]}


def recalls(scores: ArrayLike, pictures: ArrayLike) -> dict[str, float]:
    """Recall among all pairs of texts and pictures, both ways.

    Args:
        scores: of each text with each picture, (n, m), of any scale.
        pictures: column of each text's own picture, (n,).

    Returns:
        `pictures_at_1`, `_5`, `_10`: share of texts whose picture is among so many best ones;
        `texts_at_1`, `_5`, `_10`: share of pictures that have a text of theirs among so many
        best ones; and `recall`, the mean of the six. Of equal scores the wrong one comes first.

    Raises:
        ValueError: shapes do not fit, a picture without a text, or a score is NaN.
    """
    scores, pictures = np.asarray(scores, dtype=float), np.asarray(pictures)
    if scores.ndim != 2 or pictures.shape != scores.shape[:1] or np.isnan(scores).any():
        raise ValueError(
            f"recalls needs scores (n, m) without NaN and pictures (n,), got {scores.shape} and "
            f"{pictures.shape}."
        )
    own = pictures[:, None] == np.arange(scores.shape[1])  # (n, m)
    if not own.any(0).all():
        raise ValueError("recalls needs a text of each picture, got some without.")
    ranks = {}  # how many wrong ones are as good as the best right one
    for name, axis in (("pictures", 1), ("texts", 0)):
        best = np.where(own, scores, -np.inf).max(axis, keepdims=True)
        ranks[name] = (~own & (scores >= best)).sum(axis)
    at = {
        f"{name}_at_{k}": float((rank < k).mean())
        for name, rank in ranks.items()
        for k in (1, 5, 10)
    }
    return {"recall": float(np.mean([*at.values()])), **at}


@dataclass(frozen=True)
class Scoring:
    """From logits to scores: F1 at a threshold, or accuracy where there is one label a sample."""

    single_label: bool = False

    @property
    def primary(self) -> str:
        """Name of the score that methods are compared by."""
        return "accuracy" if self.single_label else "weighted_f1"

    def probabilities(self, logits: Tensor) -> np.ndarray:
        """Logits (N, K) as probabilities: softmax for single labels, else a sigmoid each."""
        return (logits.softmax(1) if self.single_label else logits.sigmoid()).numpy()

    def threshold(self, probs: np.ndarray, labels: np.ndarray) -> float | None:
        """The threshold that is best on `labels` (N, K); None for single labels."""
        return None if self.single_label else choose_threshold(probs, labels)

    def scores(
        self, probs: np.ndarray, labels: np.ndarray, threshold: float | None
    ) -> dict[str, float]:
        """All scores of probabilities (N, K) against 0/1 labels (N, K)."""
        if threshold is None:
            return single_label_scores(probs, labels.argmax(1))
        return multi_label_scores(probs, labels, threshold)


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of independent runs and its Student t confidence interval.

    Args:
        values: one score per run (seed), at least one.
        level: of confidence, in (0, 1).

    Returns:
        (mean, low, high). One run has a mean but no known spread: low and
        high are then NaN.

    Raises:
        ValueError: no values, or `level` outside (0, 1).
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array) or not 0 < level < 1:
        raise ValueError(
            f"mean_interval needs values (n,) with n >= 1 and a level in (0, 1), "
            f"got shape {array.shape} and level {level}."
        )
    mean = float(array.mean())
    if len(array) == 1:
        return mean, math.nan, math.nan
    from scipy.special import stdtrit  # the quantile of Student's t

    quantile = float(stdtrit(len(array) - 1, (1 + level) / 2))
    half = quantile * float(array.std(ddof=1)) / math.sqrt(len(array))
    return mean, mean - half, mean + half
