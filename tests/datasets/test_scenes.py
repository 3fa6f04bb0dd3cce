"""Generated scenes: every answer follows from the regions, and one kind from their boxes alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.facts import doubts, labels_in_words
from ssnas_core.datasets.open import open_dataset
from ssnas_core.datasets.scenes import (
    ASIDE,
    CAPTIONS,
    CLEARER,
    COLOURS,
    KINDS,
    NUMBERS,
    PHRASES,
    SHAPES,
    SIDE,
    SIZES,
    kind_of,
    read_captions,
    read_phrases,
    read_scenes,
)
from ssnas_core.models.classifier import MultimodalClassifier, classifier_of
from ssnas_core.runs.recipes import RECIPES, RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.search.gates import GatesConfig
from ssnas_core.spaces.encdec.space import EncDecConfig
from ssnas_core.training.loop import TrainConfig

SCENES = 200


@pytest.fixture(scope="module")
def scenes():
    return read_scenes(SCENES)


def shapes_of(regions):
    """What each region is, and its centre, read from a record's array."""
    found = []
    for row in regions[regions.any(1)]:
        named, box = row[:11], row[11:]
        assert [named[:3].sum(), named[3:9].sum(), named[9:].sum()] == [1, 1, 1]
        shape, colour = SHAPES[named[:3].argmax()], COLOURS[named[3:9].argmax()]
        size = [*SIZES][named[9:].argmax()]
        assert list(box[2:] - box[:2] + 1) == [SIZES[size]] * 2
        assert box.min() >= 0 and box.max() <= SIDE
        found.append((shape, colour, size, tuple((box[:2] + box[2:]) / 2)))
    return found


def test_every_answer_follows_from_the_regions(scenes):
    asked = Counter()
    for record in scenes.records:
        shapes = shapes_of(record.inputs["regions"])
        words = record.inputs["question"].split()
        kind = kind_of(record.id)
        if kind == "attribute":
            size, shape = words[-2:]
            answers = [colour for s, colour, z, _ in shapes if (s, z) == (shape, size)]
        elif kind == "count":
            answers = [NUMBERS[sum(colour == words[2] for _, colour, _, _ in shapes)]]
        else:
            colour, shape = words[-2:]
            (centre,) = [c for s, own, _, c in shapes if (s, own) == (shape, colour)]
            others = sorted((math.dist(centre, c), own) for _, own, _, c in shapes if c != centre)
            assert others[1][0] >= CLEARER * others[0][0]
            answers = [others[0][1]]
        assert record.labels == tuple(answers)
        asked[kind] += 1
    assert asked == dict.fromkeys(KINDS, SCENES)


def test_shapes_do_not_touch_and_are_4_to_8(scenes):
    counts = set()
    for record in scenes.records[::3]:
        boxes = record.inputs["regions"][:, 11:]
        boxes = boxes[boxes.any(1)]
        counts.add(len(boxes))
        low, high = boxes[:, None, :2], boxes[None, :, 2:]
        apart = (low > high + 1).any(-1)
        assert (apart | apart.T | np.eye(len(boxes), dtype=bool)).all()
    assert counts == {4, 5, 6, 7, 8}


def test_a_scene_is_in_one_split_and_a_seed_gives_the_same_again(scenes):
    of_scene = {}
    for record in scenes.records:
        of_scene.setdefault(record.id[:5], set()).add(record.split)
    assert all(len(splits) == 1 for splits in of_scene.values())
    splits = Counter(next(iter(one)) for one in of_scene.values())
    assert splits == {"train": 140, "dev": 20, "test": 40}
    assert read_scenes(SCENES).fingerprint() == scenes.fingerprint()
    assert read_scenes(SCENES, seed=1).fingerprint() != scenes.fingerprint()


def test_kinds_can_be_chosen_and_bad_settings_are_refused():
    counting = read_scenes(10, kinds=["count"])
    assert counting.classes == NUMBERS and len(counting) == 10
    assert read_scenes(10, kinds=["nearest"]).classes == COLOURS
    for settings in ({"scenes": 9}, {"seed": -1}):
        with pytest.raises(InputError, match="expected at least 10 scenes and a seed >= 0"):
            read_scenes(**settings)
    for kinds in ((), ("why",), ("left",)):
        with pytest.raises(InputError, match="expected kinds among attribute, count, nearest, got"):
            read_scenes(10, kinds=kinds)
    with pytest.raises(InputError, match="expected kinds among named, nearest, left, got"):
        read_phrases(10, kinds=("count",))


def test_every_phrase_means_the_region_of_its_label_and_no_other():
    meant = Counter()
    for record in read_phrases(SCENES).records:
        shapes = shapes_of(record.inputs["regions"])
        words, kind = record.inputs["phrase"].split(), kind_of(record.id)
        if kind == "named":
            size, colour, form = words[1:]
            found = [k for k, one in enumerate(shapes) if one[:3] == (form, colour, size)]
        else:
            colour, form = words[-2:]
            (anchor,) = [c for s, own, _, c in shapes if (s, own) == (form, colour)]
            others = [(k, one) for k, one in enumerate(shapes) if one[3] != anchor]
        if kind == "nearest":
            far = sorted((math.dist(anchor, one[3]), k) for k, one in others)
            assert far[1][0] >= CLEARER * far[0][0]
            found = [far[0][1]]
        elif kind == "left":
            same = [(k, one[3][0]) for k, one in others if one[0] == words[1]]
            found = [k for k, x in same if x <= anchor[0] - ASIDE]
            right = [k for k, x in same if x >= anchor[0] + ASIDE]
            assert len(found) + len(right) == len(same) and right  # one at either side, or more
        assert record.labels == (str(*found),)
        meant[kind] += 1
    assert meant == dict.fromkeys(PHRASES, SCENES)


def test_scenes_have_names():
    assert open_dataset("scenes").name == "scenes"
    assert open_dataset("scenes:grounding").task == "grounding"
    assert open_dataset("scenes:captions").task == "matching"


@pytest.mark.parametrize("read", [read_scenes, read_phrases, read_captions])
def test_a_run_on_scenes_goes_the_whole_way(tmp_path, read):
    short, data = TrainConfig(epochs=1), read(20)
    _, text = data.kinds
    config = RunConfig(
        data=data,
        recipe=replace(RECIPES["scenes"], pretrain=short, finetune=short),
        space=EncDecConfig(encoder=2, decoder=2, channels=16, head=8, boxes="regions_0"),
        strategy=GatesConfig(epochs=2, every=1),
        label_ratio=(1.0,),
    )
    run = Run(config, tmp_path / "run", device="cpu")
    assert run.search().features == (f"{text}_0", "regions_1")
    scores = run.evaluate("found, pretrained", 1.0)
    assert 0 <= scores[run.task.primary] <= 1
    assert ("pictures_at_10" in scores) == (read is read_captions)
    model = classifier_of(run, "found, pretrained", 1.0)
    model.save_pretrained(tmp_path / "model")
    again = MultimodalClassifier.from_pretrained(tmp_path / "model")
    inputs = run.prepared.dataset.records[-1].inputs
    assert again.predict(inputs) == pytest.approx(model.predict(inputs), abs=1e-6)
    blind = again.predict({text: inputs[text]})
    assert blind.keys() == ({"match"} if read is read_captions else set(data.classes))
    assert blind != again.predict(inputs)
    assert len(again.embed(inputs).shape) == 2 + (read is read_phrases)


def test_every_caption_is_true_of_its_scene():
    data = read_captions(SCENES)
    said = Counter()
    for record in data.records:
        shapes = shapes_of(record.inputs["regions"])
        kind, words = kind_of(record.id), record.inputs["caption"].replace(",", "").split()
        if kind == "what":
            named = [tuple(words[at : at + 4]) for at in (0, 4, 9)]
            there = Counter(("a", size, colour, form) for form, colour, size, _ in shapes)
            assert words[8] == "and" and not Counter(named) - there
        else:
            for at in (0, 8):
                _, colour, form, *_, of_colour, of_form = words[at : at + 8]
                (anchor,) = [c for s, own, _, c in shapes if (s, own) == (of_form, of_colour)]
                others = [one for one in shapes if one[3] != anchor]
                nearest = min(others, key=lambda one: math.dist(anchor, one[3]))
                assert nearest[:2] == (form, colour)
            assert len(words) == 16
        assert record.labels == (record.id[:5],)
        said[kind] += 1
    assert said == dict.fromkeys(CAPTIONS, SCENES) and data.task == "matching"
    assert labels_in_words(data) == f"{SCENES} pictures of {2 * SCENES} texts"
    assert not any("without a record" in doubt for doubt in doubts(data))
