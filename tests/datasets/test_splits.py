from functools import cache

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.datasets.splits import labelled_part, labelling_order, stratified_split

RATIOS = (0.01, 0.02, 0.05, 0.1, 0.3, 0.7, 1)


def genre_like(count, seed=0):
    """Labels (count, 23) as genres fall: a Drama in two, a Film-Noir in fifty, with friends."""
    generator = np.random.default_rng(seed)
    prior = 0.4 / np.arange(1, 24) ** 0.9
    friends = generator.normal(scale=0.9, size=(6, 23))  # six kinds of movie
    kind = friends[generator.integers(6, size=count)]
    logits = np.log(prior / (1 - prior)) + kind
    labels = (generator.random((count, 23)) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    labels[labels.sum(axis=1) == 0, 0] = 1
    return labels


def toy(train=400, dev=100):
    labels = genre_like(train + dev + 3)
    classes = tuple(f"c{k}" for k in range(23))
    splits = ["dev"] * dev + ["train"] * train + ["test"] * 3
    records = tuple(
        Record(str(i), {"text": "x"}, tuple(np.array(classes)[row == 1]), split)
        for i, (row, split) in enumerate(zip(labels, splits, strict=True))
    )
    return Dataset("toy", {"text": "text"}, classes, records)


def distance(labels, order, prefix):
    """Root mean square, over classes, of the frequency error in standard errors of chance."""
    share, count = labels.mean(axis=0), len(labels)
    error = labels[order[:prefix]].mean(axis=0) - share
    chance = share * (1 - share) / prefix * (1 - prefix / count)
    return float(np.sqrt(np.mean(error**2 / chance)))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 64, 65, 127, 1000])
def test_labelling_order_is_a_permutation(count):
    order = labelling_order(genre_like(count), seed=3)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


def test_labelling_order_depends_on_seed_alone():
    labels = genre_like(200)
    assert np.array_equal(labelling_order(labels, 5), labelling_order(labels.copy(), 5))
    assert not np.array_equal(labelling_order(labels, 5), labelling_order(labels, 6))


@cache
def orders(samples, rounds):
    """Labels, and their orders for the seeds 0, 1, ..., which several tests look at."""
    labels = genre_like(samples)
    return labels, [labelling_order(labels, seed) for seed in range(rounds)]


@pytest.mark.parametrize("prefix", [30, 150, 300, 900, 2100])
def test_every_prefix_is_far_more_even_than_chance(prefix):
    labels, drawn = orders(3000, 20)
    ours, chance = [], []
    for seed, order in enumerate(drawn):
        ours.append(distance(labels, order, prefix))
        chance.append(distance(labels, np.random.default_rng(seed).permutation(3000), prefix))
    assert 0.9 < np.mean(chance) < 1.1  # the yardstick itself
    assert np.mean(ours) < 0.4


def iterative_stratification(labels, count, generator):
    """Rows of a part of about `count` (Sechidis et al. 2011, algorithm 1), for this part alone."""
    share = np.array([count, len(labels) - count]) / len(labels)
    wanted, wanted_of = share * len(labels), np.outer(share, labels.sum(axis=0))
    fold = np.full(len(labels), -1)
    while (fold < 0).any():
        left = labels[fold < 0].sum(axis=0)
        rarest = np.where(left > 0, left, len(labels) + 1).argmin() if left.any() else None
        rows = np.flatnonzero((fold < 0) & (labels[:, rarest] == 1 if left.any() else True))
        for row in generator.permutation(rows):
            of = wanted if rarest is None else wanted_of[:, rarest]
            best = np.flatnonzero(of == of.max())
            best = best[wanted[best] == wanted[best].max()]
            fold[row] = generator.choice(best)
            wanted_of[fold[row]] -= labels[row]
            wanted[fold[row]] -= 1
    return np.flatnonzero(fold == 0)


@pytest.mark.parametrize("prefix", [7, 36, 72, 216])
def test_nested_parts_are_nearly_as_even_as_parts_made_one_by_one(prefix):
    labels = genre_like(720)

    def deviation(rows):
        return np.abs(labels[rows].mean(axis=0) - labels.mean(axis=0)).mean()

    ours = [deviation(labelling_order(labels, seed)[:prefix]) for seed in range(20)]
    theirs = [
        deviation(iterative_stratification(labels, prefix, np.random.default_rng(seed)))
        for seed in range(20)
    ]
    assert np.mean(ours) < 1.5 * np.mean(theirs)


def test_a_class_of_few_samples_is_spread_evenly():
    labels = np.zeros((800, 3), dtype=np.uint8)
    labels[:, 0] = 1
    labels[::2, 1] = 1
    labels[:80, 2] = 1  # 10 %
    for seed in range(10):
        found = labels[labelling_order(labels, seed)[:100], 2].sum()
        assert 9 <= found <= 11  # chance alone strays by 2.8


@pytest.mark.parametrize("prefix", [1, 7, 20])
def test_every_sample_is_equally_likely_to_be_in_a_prefix(prefix):
    counts, rounds = np.zeros(45), 3000
    for order in orders(45, rounds)[1]:
        counts[order[:prefix]] += 1
    p = prefix / 45
    z = (counts - rounds * p) / np.sqrt(rounds * p * (1 - p))
    assert np.abs(z).max() < 4.5
    assert 0.6 < np.mean(z**2) < 1.6


def test_samples_of_equal_labels_change_places_between_seeds():
    labels = np.ones((64, 2), dtype=np.uint8)
    together = [set(labelling_order(labels, seed)[:2]) for seed in range(200)]
    gaps = {abs(a - b) for a, b in map(tuple, together)}
    assert len(gaps) > 30  # a fixed list would always give 32


def test_parts_are_nested_sorted_and_of_the_promised_size():
    data = toy()
    parts = [labelled_part(data, ratio, seed=4) for ratio in RATIOS]
    for part, ratio in zip(parts, RATIOS, strict=True):
        assert (part.ratio, part.seed) == (ratio, 4)
        assert len(part.train) == int(ratio * 400 + 0.5)
        assert len(part.dev) == int(ratio * 100 + 0.5)
        for rows in (part.train, part.dev):
            assert rows.dtype == np.int64
            assert np.all(np.diff(rows) > 0)
    for small, large in zip(parts, parts[1:], strict=False):
        assert set(small.train) < set(large.train)
        assert set(small.dev) < set(large.dev)


def test_parts_stay_inside_their_splits_and_never_touch_test():
    data = toy()
    part = labelled_part(data, 1, seed=0)
    assert np.array_equal(part.train, data.indices("train"))
    assert np.array_equal(part.dev, data.indices("dev"))


def test_the_same_seed_gives_the_same_part_and_another_seed_another():
    first, same, other = (labelled_part(toy(), 0.1, seed) for seed in (7, 7, 8))
    assert np.array_equal(first.train, same.train)
    assert np.array_equal(first.dev, same.dev)
    assert not np.array_equal(first.train, other.train)


@pytest.mark.parametrize("ratio", [0, -0.1, 1.0001, float("nan"), float("inf"), "0.5", None])
def test_a_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(InputError, match=r"expected a label ratio in \(0, 1\], got"):
        labelled_part(toy(), ratio, seed=0)


@pytest.mark.parametrize("seed", [-1, 0.5, "one"])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(InputError, match="expected a seed that is a whole number >= 0, got"):
        labelled_part(toy(), 0.5, seed)


@pytest.mark.parametrize(
    ("sizes", "split"), [((400, 100), "dev"), ((70, 900), "train"), ((390, 7), "dev")]
)
def test_a_ratio_too_small_names_the_empty_split_and_a_ratio_that_works(sizes, split):
    data = toy(*sizes)
    with pytest.raises(InputError, match=f"none of the {min(sizes)} {split} samples") as caught:
        labelled_part(data, 0.0013, seed=0)
    smallest = float(str(caught.value).rsplit("is ", 1)[1].rstrip("."))
    part = labelled_part(data, smallest, seed=0)
    assert min(len(part.train), len(part.dev)) == 1
    with pytest.raises(InputError, match="smallest usable ratio"):
        labelled_part(data, smallest * 0.9, seed=0)


def test_a_split_without_records_is_named():
    with pytest.raises(InputError, match="in split 'dev', which has no records"):
        labelled_part(toy(dev=0), 0.5, seed=0)


def shares_of(split):
    return [split.count(part) for part in ("train", "dev", "test")]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(3, [1, 1, 1]), (4, [2, 1, 1]), (10, [7, 1, 2]), (15, [10, 2, 3]), (1000, [700, 100, 200])],
)
def test_stratified_split_has_the_promised_sizes(count, sizes):
    assert shares_of(stratified_split(genre_like(count), 0)) == sizes


def test_every_split_is_stratified_far_better_than_chance():
    labels = genre_like(2000)
    ours, chance = {"train": [], "dev": [], "test": []}, []
    for seed in range(20):
        split = np.array(stratified_split(labels, seed))
        for part, found in ours.items():
            rows = np.flatnonzero(split == part)
            found.append(distance(labels, rows, len(rows)))
        chance.append(distance(labels, np.random.default_rng(seed).permutation(2000), 200))
    assert 0.9 < np.mean(chance) < 1.1
    assert all(np.mean(found) < 0.75 for found in ours.values())


def test_stratified_split_depends_on_seed_alone():
    labels = genre_like(60)
    assert stratified_split(labels, 5) == stratified_split(labels.copy(), 5)
    assert stratified_split(labels, 5) != stratified_split(labels, 6)


def test_too_few_samples_and_other_seeds_are_refused():
    with pytest.raises(InputError, match="at least 3 samples to split .*, got 2"):
        stratified_split(genre_like(2), 0)
    with pytest.raises(InputError, match="seed that is a whole number >= 0, got 0.5"):
        stratified_split(genre_like(9), 0.5)
