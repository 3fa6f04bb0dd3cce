"""RefCOCO's lists: a region is as right as it overlaps the true box; what is bad is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.open import form_of, open_dataset
from ssnas_core.datasets.refcoco import overlaps, read_refcoco
from ssnas_core.training.tasks import task_of

PICTURES = {"train": (1, 2, 3), "val": (11, 12), "testA": (21, 22), "testB": (31,)}
BOXES = [[0, 0, 9, 9], [10, 0, 29, 19], [10, 0, 29, 15], [30, 0, 39, 9]]  # x1, y1, x2, y2


def entry(picture, split, box):
    return {
        **{"tokens": ["the", "red", "thing"], "split": split, "image_id": picture},
        **{"file_name": f"COCO_train2014_{picture:012d}_3.jpg", "name": "thing"},
        **{"bbox": box, "width": 40, "height": 30},
    }


@pytest.fixture
def lists():
    boxes = ([10.0, 0.0, 19.0, 19.0], [0.0, 0.0, 9.0, 9.0])  # the second region, and the first
    return {
        part: [entry(picture, part, box) for picture in pictures for box in boxes]
        for part, pictures in PICTURES.items()
    }


def save(folder, lists):
    for part, entries in lists.items():
        (folder / f"{part}.json").write_text(json.dumps(entries))


@pytest.fixture
def folder(tmp_path, lists):
    home = tmp_path / "refcoco"
    (home / "regions").mkdir(parents=True)
    save(home, lists)
    rng = np.random.default_rng(0)
    for picture in (one for pictures in PICTURES.values() for one in pictures):
        np.savez_compressed(
            home / "regions" / f"COCO_train2014_{picture:012d}.jpg.npz",
            x=rng.normal(size=(5, 4)).astype(np.float32),
            bbox=np.array(BOXES, np.float32),
            **{"image_w": 40, "image_h": 30},
        )
    return home


def test_overlap_counts_pixels_corners_within():
    def pixels(x1, y1, x2, y2):
        return {(x, y) for x in range(x1, x2 + 1) for y in range(y1, y2 + 1)}

    box = [8, 2, 25, 16]
    shares = overlaps(np.array(BOXES, float), np.array(box, float))
    for share, other in zip(shares, BOXES, strict=True):
        one, two = pixels(*box), pixels(*other)
        assert share == pytest.approx(len(one & two) / len(one | two))


def test_a_phrase_means_the_regions_that_overlap_its_box_by_half(folder):
    assert form_of(folder) == "refcoco"
    data = open_dataset(folder)
    assert (data.task, data.classes, len(data)) == ("grounding", ("0", "1", "2", "3"), 16)
    assert data.kinds == {"regions": "array", "phrase": "text"}
    first, second = data.records[:2]
    assert (first.id, first.inputs["phrase"], first.labels) == ("train-0", "the red thing", ("1",))
    assert first.soft == {"1": 1.0, "2": pytest.approx(16 / 20)}
    assert (second.labels, second.soft) == (("0",), {"0": 1.0})
    assert first.inputs["regions"].shape == (4, 9)
    splits = {one.id.split("-")[0]: one.split for one in data.records}
    assert splits == {"train": "train", "val": "dev", "testA": "test", "testB": "test"}
    task = task_of(data)
    for region, right in ((0, 0.5), (1, 0.5), (2, 0.5), (3, 0.0)):
        said = np.tile(np.eye(4)[region], (2, 1))
        assert task.scores(said, torch.arange(2), None) == {"accuracy": right}


def test_phrase_without_a_region_is_left_out_of_train_and_always_wrong_in_test(folder, lists):
    far = [0.0, 20.0, 9.0, 9.0]
    lists["train"][0]["bbox"] = lists["testA"][0]["bbox"] = far
    save(folder, lists)
    data = read_refcoco(folder)
    assert data.skipped == {"train-0": "no region overlaps the true box by half"}
    (record,) = [one for one in data.records if one.id == "testA-0"]
    assert record.soft == {}
    place = torch.tensor([data.records.index(record)])
    for region in np.eye(4):
        assert task_of(data).scores(region[None], place, None) == {"accuracy": 0.0}


def test_more_rows_than_regions_are_no_regions(folder, lists):
    lists["train"][1]["bbox"] = [0.0, 0.0, 0.2, 0.2]  # nearest to a row of zeros
    save(folder, lists)
    data = read_refcoco(folder, regions=9)
    assert len(data.classes) == 9
    assert all(int(one.labels[0]) < 4 and len(one.soft) < 3 for one in data.records)
    assert data.skipped == {"train-1": "no region overlaps the true box by half"}


def test_what_cannot_be_used_is_named_and_left_out_or_refused(folder, lists):
    train = lists["train"]
    train[0]["tokens"] = []
    train[1]["bbox"] = [1, 2, 3]
    train[2]["bbox"] = [30.0, 0.0, 20.0, 9.0]
    train[3]["split"] = "val"
    train += [None, entry(4, "train", [0.0, 0.0, 9.0, 9.0])]
    train += [entry(3, "train", [5.0, 5.0, 0.0, 3.0]), {**train[4], "width": None}]
    save(folder, lists)
    data = read_refcoco(folder)
    assert data.skipped == {
        "train-0": "no tokens or image_id",
        "train-1": "no bbox, width and height",
        "train-2": "true box outside its image",
        "train-3": "split 'val' in train.json",
        "train-6": "no tokens or image_id",
        "train-7": "region file missing",
        "train-8": "true box outside its image",
        "train-9": "no bbox, width and height",
    }
    with pytest.raises(InputError, match="record 'train-0': no tokens or image_id; mend it"):
        read_refcoco(folder, strict=True)


def test_no_picture_is_in_two_parts(folder, lists):
    lists["train"].append(entry(11, "train", [0.0, 0.0, 9.0, 9.0]))
    lists["val"].append(entry(31, "val", [0.0, 0.0, 9.0, 9.0]))
    save(folder, lists)
    reason = "its picture is in a later part too"
    assert read_refcoco(folder).skipped == {"train-6": reason, "val-4": reason}


def test_files_that_are_none_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="expected phrases in train.json, .* got none .0 unusable"):
        read_refcoco(tmp_path)
    for file in (folder / "regions").iterdir():
        file.rename(file.with_suffix(""))  # images now
    with pytest.raises(InputError, match="expected region files .*, got images alone; put"):
        read_refcoco(folder)
    (folder / "val.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="val.json: expected a list of phrases, got"):
        read_refcoco(folder)


def test_a_run_grounds_phrases_in_regions(folder, brief_run):
    run = brief_run(folder, objective="supervised")
    assert 0 <= run.evaluate("random", 1.0)["accuracy"] <= 1
    assert run.evaluate("found", 1.0)["accuracy"] in (0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1)
    run = brief_run(folder, objective="supervised")  # from its own folder
    assert run.task.learning.labels.shape == (16, 4)
