"""Modality dropout: one modality a row at most, in training alone, and no chance at 0."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import (
    deepest,
    drop_modality,
    modality_of,
    only_modality,
    swap_modality,
)

NAMES = ("image_0", "image_1", "text_0", "sound_0")
ROWS = 6000


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    shapes = {"image_0": (4, 2), "image_1": (4, 3), "text_0": (1, 5), "sound_0": (2,)}
    return {n: torch.randn(ROWS, *shapes[n], generator=generator) for n in NAMES}


def lost(before, after) -> list[frozenset[str]]:
    """The features of each row that changed."""
    gone = {name: (before[name] != after[name]).flatten(1).any(1) for name in after}
    return [frozenset(name for name in gone if gone[name][row]) for row in range(ROWS)]


def test_modality_is_a_features_name_without_its_depth():
    names = ["image_2", "text_0", "image", "my_text_10", "text_a", "_3"]
    assert [modality_of(name) for name in names] == [
        "image", "text", "image", "my_text", "text_a", "_3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("taps", "kept"),
    [
        (None, NAMES),
        (1, ("image_1", "text_0", "sound_0")),
        (2, NAMES),
        (9, NAMES),
    ],
)
def test_deepest_features_of_each_modality_are_its_last(taps, kept):
    channels = {name: number for number, name in enumerate(NAMES)}
    assert list(deepest(channels, taps).items()) == [(name, channels[name]) for name in kept]


def test_a_row_loses_all_features_of_one_modality_or_none(features):
    torch.manual_seed(0)
    counts = Counter(lost(features, drop_modality(features, NAMES, 0.3)))
    kinds = [{"image_0", "image_1"}, {"text_0"}, {"sound_0"}]
    assert counts.keys() == {frozenset(), *map(frozenset, kinds)}
    assert counts[frozenset()] / ROWS == pytest.approx(0.7, abs=0.03)
    for kind in kinds:
        assert counts[frozenset(kind)] / ROWS == pytest.approx(0.1, abs=0.02)


def test_lost_feature_is_its_batch_mean_and_the_rest_is_as_it_was(features):
    torch.manual_seed(0)
    dropped = drop_modality(features, NAMES, 0.5)
    for name, value in features.items():
        gone = (dropped[name] != value).flatten(1).any(1)
        mean = value.mean(0).expand_as(value)
        assert torch.equal(dropped[name][~gone], value[~gone])
        torch.testing.assert_close(dropped[name][gone], mean[gone])


def test_probability_1_takes_exactly_one_modality_of_every_row(features):
    for gone in lost(features, drop_modality(features, NAMES, 1.0)):
        assert len({modality_of(name) for name in gone}) == 1


@pytest.mark.parametrize("names", [NAMES, ("image_0", "image_1"), ("text_0",)])
def test_no_random_number_is_drawn_where_nothing_can_be_lost(features, names):
    state = torch.get_rng_state()
    probability = 0.0 if names == NAMES else 1.0
    assert drop_modality(features, names, probability) is features
    assert torch.equal(torch.get_rng_state(), state)


def test_chance_is_torchs_global_generator(features):
    torch.manual_seed(1)
    first = drop_modality(features, NAMES, 0.5)
    again = drop_modality(features, NAMES, 0.5)
    torch.manual_seed(1)
    same = drop_modality(features, NAMES, 0.5)
    assert torch.equal(first["text_0"], same["text_0"])
    assert not torch.equal(first["text_0"], again["text_0"])


def test_only_features_that_are_read_count(features):
    dropped = drop_modality(features, ("image_0", "text_0"), 1.0)
    assert dropped.keys() == {"image_0", "text_0"}
    assert all(len(gone) == 1 for gone in lost(features, dropped))


def test_swapped_modality_is_whole_that_of_the_row_before(features):
    swapped = swap_modality(features, "image")
    for name, value in features.items():
        for row in range(len(value)):
            wanted = value[row - 1] if name.startswith("image") else value[row]
            assert torch.equal(swapped[name][row], wanted)


def test_only_one_modality_is_left_and_the_others_are_their_means(features):
    left = only_modality(features, "image")
    for name, value in features.items():
        mean = torch.stack([value.mean(0)] * len(value))
        torch.testing.assert_close(left[name], value if name.startswith("image") else mean)


def test_numbers_of_tokens_have_no_mean(features):
    features["text_0"] = torch.zeros(len(features["text_0"]), 3, dtype=torch.int64)
    with pytest.raises(InputError, match=r"mean, which text_0 of torch.int64 has not; keep the"):
        only_modality(features, "image")
    assert only_modality(features, "text")["text_0"] is features["text_0"]
