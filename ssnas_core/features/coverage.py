"""How much of a data set's texts their backbones know: a text without a known word says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ssnas_core.backbones.base import Backbone, TextBackbone
from ssnas_core.datasets.records import SPLITS, Dataset

FEW_WORDS = 0.25
"""Where a backbone knows a smaller share of the words, its words are hardly those of the texts."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a backbone knows of the texts of one split.

    Args:
        texts: how many there are, > 0.
        unknown: how many of them have no word that it knows.
        words: the share of a text's words that it knows, in the mean, in [0, 1].
    """

    texts: int
    unknown: int
    words: float


def coverage(dataset: Dataset, backbones: Mapping[str, Backbone]) -> dict[str, dict[str, Known]]:
    """Return what backbones know of the texts: modality -> split -> `Known`.

    Args:
        dataset: the records; splits without any are left out.
        backbones: modality -> fitted backbone; those of texts are asked.
    """
    found: dict[str, dict[str, Known]] = {}
    for modality, backbone in backbones.items():
        if isinstance(backbone, TextBackbone):
            shares, splits = backbone.known(dataset.column(modality)), {}
            for split in SPLITS:
                part = shares[dataset.indices(split)]
                if len(part):
                    words = round(float(part.mean()), 4)
                    unknown = int((part == 0).sum())
                    splits[split] = Known(texts=len(part), unknown=unknown, words=words)
            found[modality] = splits
    return found


def unknown_texts(
    found: Mapping[str, Mapping[str, Known]], splits: tuple[str, ...] = SPLITS
) -> list[str]:
    """Return a sentence on each modality whose texts a backbone knows too little of; often none.

    Args:
        found: as `coverage` returns it.
        splits: those to tell of.
    """
    lines = []
    for modality, parts in found.items():
        told = {split: parts[split] for split in splits if split in parts}
        if any(one.unknown or one.words < FEW_WORDS for one in told.values()):
            counts = ", ".join(f"{one.unknown} of {one.texts} in {s}" for s, one in told.items())
            words = ", ".join(f"{100 * one.words:.0f} %" for one in told.values())
            lines.append(f"{modality}: texts without a known word: {counts}; words known: {words}")
    return lines
