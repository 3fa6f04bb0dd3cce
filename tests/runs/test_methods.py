"""What a run compares: methods by modality, their networks, and their scores."""

from __future__ import annotations

import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.runs.baselines import GMU, CentralNet, LateConcat, MaxoutNetwork, Transfer
from ssnas_core.runs.methods import Method, all_methods, baseline_of, methods_of
from ssnas_core.spaces.fusion.space import FusionConfig

CHANNELS = {"image_0": 4, "image_1": 6, "left_ear_0": 3, "left_eye_0": 3, "text_0": 5}
POSITIONS = {"image_0": 4, "image_1": 4, "left_ear_0": 1, "left_eye_0": 1, "text_0": 1}
CONFIG = FusionConfig(channels=8, length=4)


def names(methods):
    return tuple(map(str, methods))


def test_each_modality_alone_is_a_method():
    shared = ("late concat", "random", "found", "found, pretrained")
    assert names(methods_of(("image", "text"))) == ("text only", "image only", *shared)
    assert names(methods_of(("a", "b", "c"))) == ("c only", "b only", "a only", *shared)
    assert Method.parse("b only", ("a", "b")) == Method("b only")
    with pytest.raises(InputError, match="unknown method 'c only'; expected one of b only; a only"):
        Method.parse("c only", ("a", "b"))


def test_further_methods_are_asked_for_by_name():
    modalities = ("image", "left_ear")
    further = all_methods(iter(modalities))[len(methods_of(modalities)) :]
    assert names(further) == (
        *("random, pretrained", "late concat, pretrained", "gmu", "centralnet"),
        *("image transfer", "image maxout", "left_ear transfer", "left_ear maxout"),
    )
    for method in further:
        assert Method.parse(str(method), iter(modalities)) == method
    assert Method.parse("gmu, pretrained", modalities) == Method("gmu", pretrained=True)
    for method in (
        "text transfer",
        "found, trained",
        "transfer",
        "left maxout",
        "gmu, pretrained, x",
    ):
        with pytest.raises(InputError, match=f"unknown method '{method}'.*; left_ear maxout"):
            Method.parse(method, modalities)


def test_network_of_ones_own_is_a_method():
    method = Method.parse("ssnas_core.runs.baselines:GMU, pretrained", ("image", "text"))
    assert method.pretrained and not method.has_genotype
    assert isinstance(baseline_of(method.network, CHANNELS, POSITIONS, CONFIG), GMU)
    with pytest.raises(InputError, match="cannot import the baseline 'no_module:Net'"):
        Method.parse("no_module:Net", ("image", "text"))


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
    assert {name for name, _ in network.stems.named_children()} == wanted


@pytest.mark.parametrize(
    ("method", "kind", "wanted"),
    [
        ("late concat", LateConcat, set(CHANNELS)),
        ("gmu", GMU, {"image_1", "left_ear_0", "left_eye_0", "text_0"}),
        ("centralnet", CentralNet, set(CHANNELS)),
        ("image transfer", Transfer, {"image_1"}),
        ("left_eye maxout", MaxoutNetwork, {"left_eye_0"}),
    ],
)
def test_further_baseline_is_the_network_of_its_name(method, kind, wanted):
    network = baseline_of(method, CHANNELS, POSITIONS, CONFIG)
    assert isinstance(network, kind)
    assert {name for name, _ in network.stems.named_children()} == wanted


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("found, pretrained", Method("found", pretrained=True)),
        ("random", Method("random")),
        ("late concat, pretrained", Method("late concat", pretrained=True)),
        ("found_footage only", Method("found_footage only")),  # a modality of that name
    ],
)
def test_method_is_its_network_and_whether_it_is_pretrained(name, method):
    assert Method.parse(name, ("found_footage", "text")) == method and str(method) == name
    assert method.searched == (name == "found, pretrained")


def test_seed_of_a_method_comes_from_its_name_and_not_from_its_place():
    numbers = {method.number for method in all_methods(("image", "text", "sound"))}
    assert len(numbers) == len(all_methods(("image", "text", "sound")))
    assert Method("found").number == 1351539574  # in every process, for any modalities
