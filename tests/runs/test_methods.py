"""What a run compares: methods by modality, their networks, and their scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.runs.baselines import GMU, CentralNet, LateConcat, MaxoutNetwork, Transfer
from ssnas_core.runs.methods import (
    baseline_of,
    check_method,
    further_methods_of,
    kind_of,
    methods_of,
)
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.training import metrics
from ssnas_core.training.metrics import Scoring

CHANNELS = {"image_0": 4, "image_1": 6, "left_ear_0": 3, "left_eye_0": 3, "text_0": 5}
POSITIONS = {"image_0": 4, "image_1": 4, "left_ear_0": 1, "left_eye_0": 1, "text_0": 1}
CONFIG = FusionConfig(channels=8, length=4)


def test_each_modality_alone_is_a_method():
    shared = ("late concat", "random", "found", "found, pretrained")
    assert methods_of(("image", "text")) == ("text only", "image only", *shared)
    assert methods_of(("a", "b", "c")) == ("c only", "b only", "a only", *shared)
    check_method("b only", ("a", "b"))
    with pytest.raises(InputError, match="unknown method 'c only'; expected one of b only; a only"):
        check_method("c only", ("a", "b"))


def test_further_methods_are_asked_for_by_name():
    further = further_methods_of(iter(("image", "left_ear")))
    assert further == (
        *("random, pretrained", "late concat, pretrained", "gmu", "centralnet"),
        *("image transfer", "image maxout", "left_ear transfer", "left_ear maxout"),
    )
    assert not set(further) & set(methods_of(("image", "left_ear")))
    for method in further:
        check_method(method, iter(("image", "left_ear")))
    for method in ("text transfer", "gmu, pretrained", "transfer", "left maxout"):
        with pytest.raises(InputError, match=f"unknown method '{method}'.*; left_ear maxout"):
            check_method(method, ("image", "left_ear"))


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("image only", {"image_0", "image_1"}),
        ("left_ear only", {"left_ear_0"}),
        ("late concat", set(CHANNELS)),
    ],
)
def test_baseline_reads_the_features_of_its_name(method, wanted):
    network = baseline_of(method, CHANNELS, POSITIONS, CONFIG)
    assert isinstance(network, LateConcat)
    assert set(network.stems) == wanted


@pytest.mark.parametrize(
    ("method", "kind", "wanted"),
    [
        ("late concat, pretrained", LateConcat, set(CHANNELS)),
        ("gmu", GMU, {"image_1", "left_ear_0", "left_eye_0", "text_0"}),
        ("centralnet", CentralNet, set(CHANNELS)),
        ("image transfer", Transfer, {"image_1"}),
        ("left_eye maxout", MaxoutNetwork, {"left_eye_0"}),
    ],
)
def test_further_baseline_is_the_network_of_its_name(method, kind, wanted):
    network = baseline_of(method, CHANNELS, POSITIONS, CONFIG)
    assert isinstance(network, kind)
    assert set(network.stems) == wanted


def test_several_labels_are_scored_at_a_threshold_and_one_by_its_class():
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    labels = np.eye(4, dtype=np.uint8)[np.arange(30) % 4]
    several, single = Scoring(), Scoring(single_label=True)
    probs = several.probabilities(logits)
    np.testing.assert_allclose(probs, 1 / (1 + np.exp(-logits.numpy())), rtol=1e-5)
    threshold = several.threshold(probs, labels)
    assert threshold == metrics.choose_threshold(probs, labels)
    assert several.scores(probs, labels, threshold) == metrics.scores(probs, labels, threshold)
    assert several.primary in several.scores(probs, labels, threshold)
    probs = single.probabilities(logits)
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    assert single.threshold(probs, labels) is None
    scores = single.scores(probs, labels, None)
    assert scores["accuracy"] == (logits.numpy().argmax(1) == np.arange(30) % 4).mean()
    assert single.primary in scores and "threshold" not in scores


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("found, pretrained", "found"),
        ("random", "random"),
        ("late concat, pretrained", "late concat"),
        ("found_footage only", "found_footage only"),  # a modality of that name
    ],
)
def test_kind_of_a_method_is_its_name_before_the_comma(method, kind):
    assert kind_of(method) == kind
