"""Whether a difference of scores over few paired seeds is more than chance, on plain arrays.

A sign-flip test counts arrangements, so its p has a floor that no size of the
difference goes below: of n pairs `2 / 2**n`, which is 0.0625 for n = 5 (nothing
can be significant at 0.05) and 0.031 for n = 6. Holm's correction over m tests
raises that floor m times. `smallest_p` gives it, so that a table can say where
it could not have found anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ssnas_core.common.errors import InputError

MOST_EXACT = 16
"""Pairs up to which all 2**n arrangements of signs are counted."""

_DRAWS = 100_000  # more than 2**16, fewer than 2**17
_TIE = 1e-9  # of the sum of all differences; rounding stays far below it


def permutation_test(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> float:
    """Two-sided p of a mean difference of pairs, by flipping signs (Fisher, 1935, section 21).

    If the two methods were alike, each pair's difference could as well have had
    the other sign. p is the share of arrangements of signs whose mean difference
    is at least as far from 0 as the observed one, which is among them.

    Args:
        first: scores of one method, (n,), n >= 1.
        second: those of the other with the same seeds, in the same order, (n,).
        seed: of the arrangements that are drawn where n > 16; all 2**n are
            counted otherwise, and nothing is drawn.

    Returns:
        p in (0, 1]: exact up to n = 16; beyond, of 100,000 draws and the
        observed arrangement (so never 0).

    Raises:
        InputError: shapes differ or are not (n >= 1,), or a score is not finite.
    """
    from scipy import stats

    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.ndim != 1 or not len(first) or first.shape != second.shape:
        raise InputError(
            f"expected two scores per seed, shapes (n,) with n >= 1, got {first.shape} and "
            f"{second.shape}; keep the seeds that both methods have."
        )
    if not np.isfinite([first, second]).all():
        raise InputError("expected finite scores, got NaN or infinity; leave those seeds out.")
    differences = first - second
    bound = abs(differences.sum()) - _TIE * np.abs(differences).sum()

    def as_far(flipped: np.ndarray, axis: int) -> np.ndarray:  # with room for ties
        return (np.abs(flipped.sum(axis)) >= bound).astype(float)

    if len(differences) == 1:  # scipy needs two
        return 1.0
    return float(
        stats.permutation_test(
            (differences,), as_far, permutation_type="samples", alternative="greater",
            vectorized=True, n_resamples=_DRAWS, batch=10_000,
            random_state=np.random.default_rng(seed),  # pyright: ignore  # `rng` from scipy 1.15
        ).pvalue
    )  # fmt: skip


def smallest_p(count: int) -> float:
    """The smallest p that `permutation_test` can give for `count` >= 1 pairs."""
    if count < 1:
        raise InputError(f"expected at least one pair, got {count}; a test needs seeds.")
    return 2.0 ** (1 - count) if count <= MOST_EXACT else 1 / (_DRAWS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of the p of several tests (Holm, 1979).

    The chance of at least one false alarm among all m tests stays at most alpha
    where those with an adjusted p <= alpha are called significant, however the
    tests depend on each other. No adjusted p is below m times the smallest p.

    Args:
        p_values: one per test, each in [0, 1].

    Returns:
        The adjusted p in the order given, each in [0, 1].

    Raises:
        InputError: a value is outside [0, 1] or NaN.
    """
    values = np.asarray(p_values, dtype=float)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"expected p values in [0, 1], got {p_values}; pass one per test.")
    order = np.argsort(values, kind="stable")
    weights = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(weights * values[order]), 1.0)
    return adjusted.tolist()
