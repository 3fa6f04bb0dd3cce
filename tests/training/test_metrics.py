"""Scores agree with their definitions written as loops; intervals with SciPy's."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ssnas_core.training.metrics import (
    accuracy,
    choose_threshold,
    f1_scores,
    mean_interval,
    multi_label_scores,
    recalls,
    single_label_scores,
    weighted_average_precision,
)

pytestmark = pytest.mark.filterwarnings("error")  # of 0 / 0, where nothing is to be found


def problem(seed: int, samples: int = 40, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities on a coarse grid (so with ties) and labels that they half know."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((samples, classes)) < np.linspace(0.05, 0.6, classes)).astype(np.uint8)
    probs = np.clip(0.4 * labels + 0.7 * rng.random(labels.shape) - 0.05, 0, 1).round(2)
    return probs, labels


def f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) of all decisions given; 0 where it is 0 / 0."""
    pairs = list(zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True))
    hits = sum(bool(t and p) for t, p in pairs)
    wrong = sum(bool(t) != bool(p) for t, p in pairs)
    return 2 * hits / (2 * hits + wrong) if hits else 0.0


def f1_by_definition(probs, labels, threshold) -> dict[str, float]:
    predicted = probs > threshold
    classes = [f1(t, p) for t, p in zip(labels.T, predicted.T, strict=True)]
    samples = [f1(t, p) for t, p in zip(labels, predicted, strict=True)]
    positives = labels.sum(0).tolist()
    weighted = sum(score * count for score, count in zip(classes, positives, strict=True))
    return {
        "weighted": weighted / max(1, sum(positives)),
        "micro": f1(labels, predicted),
        "macro": sum(classes) / len(classes),
        "samples": sum(samples) / len(samples),
    }


def precision_by_definition(probs, labels) -> float:
    """Of each positive, the precision among all samples scored at least as high; the mean."""
    precisions = [
        float(truth[column >= probability].mean())
        for column, truth in zip(probs.T, labels.T, strict=True)
        for probability in column[truth == 1]
    ]
    return sum(precisions) / max(1, len(precisions))


def exactly(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_f1_is_the_four_averages_of_its_definition(threshold):
    for seed in range(5):
        probs, labels = problem(seed)
        wanted = f1_by_definition(probs, labels, threshold)
        assert f1_scores(probs, labels, threshold) == exactly(wanted)


def edge_cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    probs, labels = problem(0)
    lone = labels.copy()
    lone[:, 2] = 0  # a class without positives, but with predictions
    silent = probs.copy()
    silent[:, 4] = 0  # a class with positives that is never predicted
    both = lone.copy()
    both[3] = 0  # a sample without labels
    return {
        "class without positives": (probs, lone),
        "class never predicted": (silent, labels),
        "class with neither": (np.where(np.arange(7) == 2, 0, probs), lone),
        "no predictions": (np.zeros_like(probs), labels),
        "no positives": (probs, np.zeros_like(labels)),
        "nothing at all": (np.zeros_like(probs), np.zeros_like(labels)),
        "sample without labels": (probs, both),
        "one sample": (probs[:1], labels[:1]),
        "one class": (probs[:, :1], labels[:, :1]),
    }


@pytest.mark.parametrize("case", edge_cases())
def test_scores_of_edge_cases_are_those_of_the_definitions(case):
    probs, labels = edge_cases()[case]
    assert f1_scores(probs, labels, 0.4) == exactly(f1_by_definition(probs, labels, 0.4))
    wanted = precision_by_definition(probs, labels)
    assert weighted_average_precision(probs, labels) == exactly(wanted)


def test_weighted_average_precision_is_its_definition_with_ties():
    for seed in range(10):
        probs, labels = problem(seed)
        for given_probs in (probs, probs.round(1)):
            wanted = precision_by_definition(given_probs, labels)
            assert weighted_average_precision(given_probs, labels) == exactly(wanted)


def chosen_by_hand(probs: np.ndarray, labels: np.ndarray) -> float:
    """`choose_threshold` as loops over exact fractions."""

    def weighted_f1(threshold: float) -> Fraction:
        total = Fraction(0)
        for column, truth in zip(probs.T, labels.T, strict=True):
            hits = sum(1 for p, t in zip(column, truth, strict=True) if t and p > threshold)
            predicted, positives = sum(1 for p in column if p > threshold), int(truth.sum())
            if positives:
                total += positives * Fraction(2 * hits, predicted + positives)
        return total / max(1, int(labels.sum()))

    edges = sorted({0.0, 1.0, *probs.ravel().tolist()})
    steps = [(low, high, weighted_f1(low)) for low, high in itertools.pairwise(edges)]
    best = max(score for _, _, score in steps)
    plateaus: list[list[float]] = []
    for low, high, score in steps:
        if score == best and plateaus and plateaus[-1][1] == low:
            plateaus[-1][1] = high
        elif score == best:
            plateaus.append([low, high])
    low, high = max(plateaus, key=lambda plateau: plateau[1] - plateau[0])  # the first of equals
    return (low + high) / 2


shapes = st.tuples(st.integers(1, 8), st.integers(1, 4))
eighths = st.integers(0, 8).map(lambda number: number / 8)


@settings(max_examples=40)
@given(data=st.data())
def test_chosen_threshold_equals_exact_fractions_in_loops(data):
    shape = data.draw(shapes)
    probs = data.draw(arrays.arrays(float, shape, elements=eighths))
    labels = data.draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    assert choose_threshold(probs, labels) == chosen_by_hand(probs, labels)


def test_rounding_does_not_decide_between_equal_plateaus():
    # exactly equal scores at [0, 4/16) and [8/16, 9/16), reached by sums that round differently
    probs = np.array([[14, 7], [13, 4], [9, 8], [15, 11]]) / 16
    labels = np.array([[0, 0], [1, 1], [1, 0], [0, 1]])
    assert choose_threshold(probs, labels) == chosen_by_hand(probs, labels) == 0.125


@settings(max_examples=40)
@given(data=st.data())
def test_chosen_threshold_is_not_beaten_by_any_other(data):
    shape = data.draw(shapes)
    probs = data.draw(arrays.arrays(float, shape, elements=st.floats(0, 1)))
    labels = data.draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    chosen = choose_threshold(probs, labels)
    assert 0 <= chosen <= 1
    best = f1_by_definition(probs, labels, chosen)["weighted"]
    # between two neighbouring probabilities nothing changes, so these are all the thresholds
    for other in {0.0, *probs.ravel().tolist()}:
        assert best >= f1_by_definition(probs, labels, other)["weighted"] - 1e-9


def test_threshold_between_neighbouring_floats_still_parts_them():
    low = np.nextafter(0.5, 1)
    high = np.nextafter(low, 1)
    assert low <= choose_threshold([[low], [high]], [[0], [1]]) < high


def test_chosen_threshold_is_the_middle_of_the_widest_plateau():
    # perfect for every threshold in [0.2, 0.8)
    assert choose_threshold([[0.8, 0.1], [0.2, 0.9]], [[1, 0], [0, 1]]) == pytest.approx(0.5)
    # one class, in descending order 1 0 0 0 1 1 1 1: 0.77 down to 0.1, best at the end [0, 0.1)
    probs = np.array([[0.9, 0.85, 0.8, 0.3, 0.25, 0.2, 0.15, 0.1]]).T
    labels = np.array([[1, 0, 0, 0, 1, 1, 1, 1]]).T
    assert choose_threshold(probs, labels) == pytest.approx(0.05)


def test_of_two_best_plateaus_the_wider_wins_and_of_equals_the_lower():
    # descending 1 0 0 1 with 2 positives: F1 is 2/3 at [b, a) and again at [0, d)
    labels = np.array([[1, 0, 0, 1]]).T
    wide_above = np.array([[0.9, 0.5, 0.3, 0.1]]).T
    assert choose_threshold(wide_above, labels) == pytest.approx(0.7)
    wide_below = np.array([[0.9, 0.8, 0.7, 0.6]]).T
    assert choose_threshold(wide_below, labels) == pytest.approx(0.3)
    equal = np.array([[0.75, 0.5, 0.375, 0.25]]).T
    assert choose_threshold(equal, labels) == pytest.approx(0.125)


def test_plateau_edges_that_do_not_change_the_score_are_not_edges():
    # the class without positives has weight 0, so its probability of 0.5 parts nothing
    probs = [[0.8, 0.5], [0.2, 0.5]]
    assert choose_threshold(probs, [[1, 0], [0, 0]]) == pytest.approx(0.5)


def test_threshold_without_positives_is_the_middle_of_all():
    assert choose_threshold([[0.2, 0.9]], [[0, 0]]) == 0.5


def test_threshold_does_not_depend_on_the_order_of_samples():
    probs, labels = problem(1)
    order = np.random.default_rng(0).permutation(len(probs))
    assert choose_threshold(probs, labels) == choose_threshold(probs[order], labels[order])


def test_scores_hold_every_reported_number():
    probs, labels = problem(2)
    scores = multi_label_scores(probs, labels, 0.35)
    f1_at = {value: f1_by_definition(probs, labels, value) for value in (0.3, 0.35, 0.5)}
    assert scores == exactly(
        {
            **{f"{name}_f1": value for name, value in f1_at[0.35].items()},
            "weighted_f1_at_0.3": f1_at[0.3]["weighted"],
            "weighted_f1_at_0.5": f1_at[0.5]["weighted"],
            "weighted_ap": precision_by_definition(probs, labels),
            "threshold": 0.35,
        }
    )
    assert all(type(value) is float for value in scores.values())


def test_accuracy_counts_the_largest_logit():
    assert accuracy([[2.0, 1.0], [-1.0, 3.0], [0.0, 5.0], [1.0, 0.0]], [0, 1, 0, 0]) == 0.75


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 10, 31])
def test_interval_equals_the_t_distribution_of_scipy(count, level):
    from scipy import stats

    sample = np.random.default_rng(count).normal(size=count)
    mean, low, high = mean_interval(sample.tolist(), level)
    expected = stats.t.interval(level, count - 1, loc=sample.mean(), scale=stats.sem(sample))
    assert mean == pytest.approx(sample.mean())
    assert (low, high) == exactly(expected)


def test_interval_of_equal_runs_has_no_width():
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_interval_of_one_run_is_unknown():
    mean, low, high = mean_interval([0.6])
    assert mean == 0.6 and math.isnan(low) and math.isnan(high)


@pytest.mark.parametrize("score", [choose_threshold, weighted_average_precision])
@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        ([[0.5, 0.5]], [[1]], r"one shape \(N, K\).*got \(1, 2\) and \(1, 1\)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), r"N, K >= 1, got \(0, 3\)"),
        ([0.5], [1], r"one shape \(N, K\)"),
        ([[math.nan]], [[1]], "NaN; apply a sigmoid"),
        ([[1.5]], [[1]], r"in \[0, 1\]"),
        ([[0.5]], [[2]], "labels of 0 and 1"),
    ],
)
def test_unusable_predictions_are_refused(score, probs, labels, message):
    with pytest.raises(ValueError, match=message):
        score(probs, labels)


def test_unusable_logits_and_values_are_refused():
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(2,\)"):
        accuracy([[1.0, 2.0]], [0, 1])
    with pytest.raises(ValueError, match="without NaN"):
        accuracy([[math.nan, 2.0]], [0])
    with pytest.raises(ValueError, match="n >= 1"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"level in \(0, 1\)"):
        mean_interval([1.0, 2.0], level=95)


def test_single_label_scores_are_those_of_the_definitions():
    rng = np.random.default_rng(0)
    classes, probs = rng.integers(5, size=60), rng.random((60, 6))
    probs[:, 4] = 0  # a class that is never predicted; and one of neither samples nor predictions
    probs[:, 5] = 0
    predicted = probs.argmax(1)
    wanted = f1_by_definition(np.eye(6)[predicted], np.eye(6)[classes], 0.5)
    scores = single_label_scores(probs, classes)
    assert scores == exactly(
        {
            "accuracy": (predicted == classes).mean(),
            "weighted_f1": wanted["weighted"],
            "macro_f1": wanted["macro"],
        }
    )
    assert all(type(value) is float for value in scores.values())


def test_recalls_are_those_of_ranks_counted_one_by_one():
    rng = np.random.default_rng(0)
    own = np.array([2, 0, 1, 2, 0, 3, 1, *range(4, 12)])
    scores = rng.integers(0, 9, (len(own), 12)) / 10  # with equal ones
    wanted = {}
    for k in (1, 5, 10):
        hits = []
        for text, column in enumerate(own):
            before = sum(
                scores[text, other] >= scores[text, column]
                for other in range(12)
                if other != column
            )
            hits.append(before < k)
        wanted[f"pictures_at_{k}"] = np.mean(hits)
        hits = []
        for picture in range(12):
            best = max(scores[text, picture] for text in range(len(own)) if own[text] == picture)
            before = sum(
                scores[text, picture] >= best for text in range(len(own)) if own[text] != picture
            )
            hits.append(before < k)
        wanted[f"texts_at_{k}"] = np.mean(hits)
    wanted["recall"] = np.mean([*wanted.values()])
    assert recalls(scores, own) == pytest.approx(wanted)
    assert 0 < wanted["recall"] < 1


def test_a_network_that_likes_all_pairs_alike_recalls_nothing():
    assert recalls(np.ones((30, 15)), np.arange(30) // 2) == pytest.approx(
        dict.fromkeys(recalls(np.ones((30, 15)), np.arange(30) // 2), 0.0)
    )


def test_recalls_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"needs scores \(n, m\) without NaN and pictures \(n,\)"):
        recalls(np.ones((2, 3)), np.zeros(3, int))
    with pytest.raises(ValueError, match="a text of each picture"):
        recalls(np.ones((2, 3)), np.zeros(2, int))
