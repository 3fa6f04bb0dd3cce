"""What a run compares: methods by modality, their networks, and their scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssnas_core import metrics
from ssnas_core.baselines import LateConcat
from ssnas_core.errors import InputError
from ssnas_core.methods import Scoring, check_method, methods_of, network_of
from ssnas_core.spaces.fusion import FusionConfig, FusionSpace

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


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("image only", {"image_0", "image_1"}),
        ("left_ear only", {"left_ear_0"}),
        ("late concat", set(CHANNELS)),
    ],
)
def test_baseline_reads_the_features_of_its_name(method, wanted):
    network = network_of(method, None, CHANNELS, POSITIONS, CONFIG)
    assert isinstance(network, LateConcat)
    assert set(network.stems) == wanted


def test_method_with_a_genotype_is_its_network():
    genotype = FusionSpace(CHANNELS, CONFIG).sample(torch.Generator().manual_seed(0))
    network = network_of("found", genotype, CHANNELS, POSITIONS, CONFIG)
    assert set(network.features) == set(genotype.features)  # type: ignore[arg-type]


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
