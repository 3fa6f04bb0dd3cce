"""What a run compares: its methods by name, the network of each, and how all are scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ssnas_core import metrics
from ssnas_core.baselines import LateConcat
from ssnas_core.errors import InputError
from ssnas_core.genotype import Genotype
from ssnas_core.objectives import modality_of
from ssnas_core.spaces.fusion import FusionConfig, FusionNetwork, FusionSpace


def methods_of(modalities: Iterable[str]) -> tuple[str, ...]:
    """The methods for a data set of these modalities, weakest claim first."""
    alone = [f"{modality} only" for modality in modalities][::-1]
    return (*alone, "late concat", "random", "found", "found, pretrained")


def check_method(method: str, modalities: Iterable[str]) -> None:
    """Raise `InputError` where `method` is none of `methods_of(modalities)`."""
    known = methods_of(modalities)
    if method not in known:
        raise InputError(f"unknown method {method!r}; expected one of {'; '.join(known)}.")


def network_of(
    method: str,
    genotype: Genotype | None,
    channels: Mapping[str, int],
    positions: Mapping[str, int],
    config: FusionConfig,
) -> FusionNetwork | LateConcat:
    """A method's network on stored features, with fresh weights (torch's global seed).

    Args:
        method: one of `methods_of`.
        genotype: of the methods that have one; None for the others.
        channels, positions: of each stored feature, by name.
        config: sizes.
    """
    if genotype is not None:
        return FusionSpace(channels, config).build(genotype)
    kept = {
        name: width
        for name, width in channels.items()
        if method == "late concat" or modality_of(name) == method.removesuffix(" only")
    }
    return LateConcat(kept, config, positions)


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
        return None if self.single_label else metrics.choose_threshold(probs, labels)

    def scores(
        self, probs: np.ndarray, labels: np.ndarray, threshold: float | None
    ) -> dict[str, float]:
        """All scores of probabilities (N, K) against 0/1 labels (N, K)."""
        if threshold is None:
            return metrics.single_label_scores(probs, labels.argmax(1))
        return metrics.scores(probs, labels, threshold)
