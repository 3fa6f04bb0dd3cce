"""Permutation tests and Holm's correction agree with their definitions as loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssnas_core.common.errors import InputError
from ssnas_core.study.significance import MOST_EXACT, holm, permutation_test, smallest_p

WHOLE = st.integers(-5, 5)  # coarse, so that sums tie
P = st.floats(0, 1)


def flipped(differences) -> float:
    """The share of arrangements of signs that are as far from 0 as the given one, in integers."""
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(total >= abs(sum(differences)) for total in sums) / len(sums)


@settings(deadline=None)  # the first call imports scipy.stats
@given(st.lists(WHOLE, min_size=1, max_size=8), st.integers(1, 10**4))
def test_p_is_the_share_of_sign_flips_as_extreme(differences, scale):
    """Thirds are not exact in binary, so arrangements that tie differ in their last bits."""
    first = [value / (3 * scale) + 0.1 for value in differences]
    second = [0.1] * len(first)
    assert permutation_test(first, second) == flipped(differences)


def test_five_seeds_cannot_be_significant_and_six_can():
    for count, expected in ((1, 1.0), (5, 0.0625), (6, 0.03125), (16, 2.0**-15)):
        assert permutation_test(np.full(count, 9.0), np.zeros(count)) == expected
        assert smallest_p(count) == expected


def test_equal_scores_have_p_1():
    assert permutation_test([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1


def test_order_of_the_methods_and_of_the_seeds_does_not_matter():
    first, second = np.random.default_rng(0).normal(size=(2, 10))
    p = permutation_test(first, second)
    assert 0.05 < p < 1
    assert permutation_test(second, first) == p
    assert permutation_test(first[::-1], second[::-1]) == p
    assert permutation_test(first, second[::-1]) != p  # but who is paired with whom does


def test_drawn_arrangements_agree_with_all_of_them():
    count = MOST_EXACT + 1
    differences = np.random.default_rng(3).normal(0.5, 0.7, count)
    signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    exact = (abs(signs @ differences) >= abs(differences.sum()) - 1e-12).mean()
    p = permutation_test(differences, np.zeros(count))
    assert 0.02 < exact < 0.3
    assert abs(p - exact) < 4 * math.sqrt(exact * (1 - exact) / 100_000)
    assert permutation_test(differences, np.zeros(count)) == p
    assert permutation_test(differences, np.zeros(count), seed=1) != p


def test_drawn_p_is_never_0():
    assert permutation_test(np.full(40, 1.0), np.zeros(40)) == smallest_p(40) == 1 / 100_001


@given(st.lists(P, max_size=9))
def test_holm_equals_its_definition_as_a_loop(p_values):
    count, expected = len(p_values), [0.0] * len(p_values)
    before = 0.0
    for place, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        before = max(before, (count - place) * p_values[index])
        expected[index] = min(1.0, before)
    assert holm(p_values) == pytest.approx(expected)


def test_holm_on_an_example_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(P, min_size=1, max_size=9))
def test_holm_lies_between_no_correction_and_that_of_bonferroni(p_values):
    for p, adjusted in zip(p_values, holm(p_values), strict=True):
        assert p <= adjusted <= min(1.0, len(p_values) * p)
    assert min(holm(p_values)) == min(1.0, len(p_values) * min(p_values))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([], [], r"expected two scores per seed, .* got \(0,\) and \(0,\)"),
        ([1.0, 2.0], [1.0], r"got \(2,\) and \(1,\); keep the seeds that both"),
        ([[1.0]], [[1.0]], r"got \(1, 1\)"),
        ([1.0, math.nan], [1.0, 2.0], "expected finite scores, got NaN or infinity"),
        ([1.0, 2.0], [1.0, math.inf], "expected finite scores"),
    ],
)
def test_scores_that_cannot_be_paired_are_refused(first, second, message):
    with pytest.raises(InputError, match=message):
        permutation_test(first, second)


def test_what_is_no_p_is_refused():
    for wrong in ([0.5, 1.1], [-0.1], [math.nan]):
        with pytest.raises(InputError, match=r"expected p values in \[0, 1\]"):
            holm(wrong)
    with pytest.raises(InputError, match="expected at least one pair, got 0"):
        smallest_p(0)
