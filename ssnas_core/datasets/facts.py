"""What a data set holds, in numbers, and what of it deserves a second look."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ssnas_core.datasets.cells import similar
from ssnas_core.datasets.records import SPLITS, Dataset


def sample_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return of each split how many records are labelled, and how many not."""
    known = dataset.labelled()
    parts = {split: known[dataset.indices(split)] for split in SPLITS}
    return {
        split: {"labelled": int(part.sum()), "unlabelled": int((~part).sum())}
        for split, part in parts.items()
    }


def class_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return of each class, the commonest first, how many records of each split have it.

    Labels that are no classes are not counted.
    """
    if dataset.task != "classification":
        return {}
    labels = dataset.labels()
    parts = {split: labels[dataset.indices(split)].sum(axis=0) for split in SPLITS}
    order = np.argsort(-labels.sum(axis=0, dtype=np.int64), kind="stable").tolist()
    return {
        dataset.classes[k]: {split: int(count[k]) for split, count in parts.items()} for k in order
    }


def labels_in_words(dataset: Dataset) -> str:
    """Return how many classes there are, the first ones, and how many a record may have."""
    shown = ", ".join(dataset.classes[:5]) + (", ..." if len(dataset.classes) > 5 else "")
    if dataset.task == "grounding":
        return f"one of {len(dataset.classes)} regions"
    if dataset.task == "answering":
        return f"{len(dataset.classes)} answers ({shown})"
    if dataset.task == "matching":
        return f"{len(dataset.classes)} pictures of {len(dataset)} texts"
    form = "single-label" if dataset.single_label else "multi-label"
    return f"{len(dataset.classes)} classes ({shown}), {form}"


def doubts(dataset: Dataset) -> list[str]:
    """Return a sentence on each thing that looks like a mistake: often none.

    Records without a label, names of classes that differ in form alone, and classes that
    nothing in train, or nothing in test, is labelled with.
    """
    found = []
    lacking = int((~dataset.labelled()).sum())
    if lacking:
        found.append(
            f"{lacking} of {len(dataset)} records have no label: they serve backbones, searches "
            "and pretraining without labels, and are in no score"
        )
    if dataset.task != "classification":  # rows of a list are no names, and some are padding
        return found
    for names in similar(dataset.classes):
        found.append(
            f"{len(names)} classes differ by case, spaces or hyphens alone: "
            f"{', '.join(map(repr, names))}; if they are one, spell them alike"
        )
    counts = class_counts(dataset)
    for split, so in (("train", "nothing can learn it"), ("test", "no score tells of it")):
        empty = [name for name, of in counts.items() if not of[split]]
        if empty:
            shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
            many = "class" if len(empty) == 1 else "classes"
            found.append(f"{len(empty)} {many} without a record in {split}: {shown} ({so})")
    return found


def skipped_counts(dataset: Dataset) -> dict[str, int]:
    """Return how many records were left out for each reason, the commonest first."""
    return dict(Counter(dataset.skipped.values()).most_common())
