"""Labelled parts: which samples' labels a label ratio r pays for; and splits of one's own.

Parts are nested (more labels only ever add samples), even over all classes at once (each
class's share in a part is close to its share in the whole), and fair (every sample is equally
likely to be chosen).

Source: greedy herding (Welling 2009, "Herding dynamical weights to learn") on label vectors;
that the order is a circle, entered at a random place, is our own. The paper (arXiv 2512.24793)
does not say how its labels were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import Dataset, Record, label_matrix


@dataclass(frozen=True)
class LabelledPart:
    """The samples whose labels may be used, as sorted int64 dataset rows."""

    ratio: float
    seed: int
    train: np.ndarray
    dev: np.ndarray


def labelling_order(labels: np.ndarray, seed: int | tuple[int, ...]) -> np.ndarray:
    """An order in which to label samples, so that every prefix holds each class by its share.

    Each next sample is the one that brings the chosen samples' mean label vector nearest to
    that of all (samples with equal labels in random order). The chosen and the remaining ones
    then deviate alike, so any run of neighbours is even, and the order can be entered at a
    random place: the chance of being among the first m is exactly m / N for every sample.
    It takes N U K operations with U different label vectors, a second for MM-IMDB.

    Args:
        labels: 0 or 1, (N, K).
        seed: one whole number >= 0, or several.

    Returns:
        A permutation of 0..N-1, (N,) int64.
    """
    count = len(labels)
    if count == 0:
        return np.empty(0, dtype=np.int64)
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(count)
    vectors, which = np.unique(labels[shuffled], axis=0, return_inverse=True)
    which = which.ravel()
    offsets = vectors - labels.mean(axis=0)  # (U, K)
    # |chosen + offset|^2 less |chosen|^2, where chosen is the sum of the offsets so far
    costs = (offsets**2).sum(axis=1) + 1e-9 * generator.random(len(vectors))
    listed = shuffled[np.argsort(which, kind="stable")].tolist()
    left = np.bincount(which)
    ends = np.cumsum(left).tolist()
    taken = (np.cumsum(left) - left).tolist()  # where each vector's samples begin
    order, doubled = [], 2 * offsets
    for _ in range(count):
        best = int(costs.argmin())
        order.append(listed[taken[best]])
        taken[best] += 1
        costs += doubled @ offsets[best]
        if taken[best] == ends[best]:
            costs[best] = np.inf
    return np.roll(np.array(order, dtype=np.int64), generator.integers(count))


def labelled_part(dataset: Dataset, ratio: float, seed: int) -> LabelledPart:
    """The part of train and dev whose labels a method may use at label ratio r.

    r covers *every* label used: training, choosing an architecture, an epoch or
    a threshold. Each split contributes the first r n (rounded half up) of its n
    labelled samples, in a `labelling_order` of its own, so the part for a smaller r
    is a subset, and every method that is given the same seed gets the same part.

    Args:
        dataset: where the labels come from.
        ratio: r in (0, 1].
        seed: whole number >= 0.

    Raises:
        InputError: r is outside (0, 1] or NaN, the seed is not a whole number
            >= 0, or train or dev would have no labelled sample.
    """
    if not isinstance(ratio, Real) or not 0 < ratio <= 1:
        raise InputError(f"expected a label ratio in (0, 1], got {ratio!r}; 1 uses every label.")
    _check_seed(seed)
    labels, labelled = dataset.labels(), np.flatnonzero(dataset.labelled())
    splits = {
        split: np.intersect1d(dataset.indices(split), labelled, assume_unique=True)
        for split in ("train", "dev")
    }
    parts = {}
    for stream, (split, rows) in enumerate(splits.items()):
        count = math.floor(ratio * len(rows) + 0.5)
        if count == 0:
            raise InputError(_too_small(dataset.name, ratio, split, splits))
        order = labelling_order(labels[rows], (int(seed), stream))
        parts[split] = np.sort(rows[order[:count]])
    return LabelledPart(float(ratio), int(seed), parts["train"], parts["dev"])


def stratified_split(labels: np.ndarray, seed: int) -> list[str]:
    """A split for data that come without one, stratified over all classes at once.

    Dev gets 10 % of the samples and test 20 % (rounded half up, at least one);
    train gets the rest. Neighbours in one `labelling_order` go to one
    split.

    Args:
        labels: 0 or 1, (N, K), N >= 3.
        seed: whole number >= 0.

    Returns:
        N names, each `"train"`, `"dev"` or `"test"`.

    Raises:
        InputError: fewer than three samples, or the seed is not a whole number >= 0.
    """
    _check_seed(seed)
    count = len(labels)
    if count < 3:
        raise InputError(
            f"expected at least 3 samples to split into train, dev and test, got {count}; "
            "add samples."
        )
    dev, test = (max(1, math.floor(share * count + 0.5)) for share in (0.1, 0.2))
    order = labelling_order(labels, seed)
    names = np.full(count, "train", dtype="<U5")
    names[order[:dev]] = "dev"
    names[order[dev : dev + test]] = "test"
    return names.tolist()


def with_splits(records: Sequence[Record], classes: Sequence[str], seed: int) -> tuple[Record, ...]:
    """Return the records, each in a split: those of split "" get one.

    They are drawn by `stratified_split` into the splits that no record has yet, the others of
    them and the unlabelled go to train. So records with a test part of their own get a dev
    part out of train, and those without any part all three.

    Args:
        records: in any order, which is kept.
        classes: names of all their classes.
        seed: whole number >= 0.

    Raises:
        InputError: as `stratified_split`.
    """
    filled = {one.split for one in records if one.split}
    free = [place for place, one in enumerate(records) if not one.split]
    known = [place for place in free if records[place].labels is not None]
    drawn = dict.fromkeys(free, "train")
    if known:
        matrix = label_matrix([records[place] for place in known], classes)
        for place, split in zip(known, stratified_split(matrix, seed), strict=True):
            drawn[place] = "train" if split in filled else split
    return tuple(
        replace(one, split=drawn[place]) if place in drawn else one
        for place, one in enumerate(records)
    )


def _check_seed(seed: int) -> None:
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"expected a seed that is a whole number >= 0, got {seed!r}.")


def _too_small(name: str, ratio: float, split: str, splits: dict[str, np.ndarray]) -> str:
    if len(splits[split]) == 0:
        return f"{name}: expected labelled samples in split {split!r}, which has no records."
    exact = 0.5 / min(len(rows) for rows in splits.values() if len(rows))
    digits = 1 - math.floor(math.log10(exact))
    smallest = math.ceil(exact * 10**digits) / 10**digits  # two digits, rounded up
    return (
        f"{name}: label ratio {ratio:g} leaves none of the {len(splits[split])} {split} samples "
        f"labelled; the smallest usable ratio is {smallest:g}."
    )
