"""Karpathy's and SCAN's files: captions with their pictures; what cannot be used is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.karpathy import read_karpathy
from ssnas_core.datasets.open import form_of, open_dataset

SPLITS = ("train", "train", "restval", "val", "val", "test", "test")
FILES = [f"{1000 + number}.jpg" for number in range(len(SPLITS))]


def save(folder, images, name="dataset_flickr30k.json"):
    (folder / name).write_text(json.dumps({"dataset": "flickr30k", "images": images}))


def sentence(number, word):
    words = ["picture", str(number), "said", "as", word]
    return {"tokens": words, "raw": " ".join(words).capitalize() + ".", "imgid": number}


@pytest.fixture
def images():
    return [
        {
            **{"filename": file, "imgid": number, "split": split, "sentids": []},
            "sentences": [sentence(number, word) for word in ("one", "two")],
        }
        for number, (file, split) in enumerate(zip(FILES, SPLITS, strict=True))
    ]


@pytest.fixture
def folder(tmp_path, images):
    home = tmp_path / "flickr"
    (home / "regions").mkdir(parents=True)
    save(home, images)
    rng = np.random.default_rng(0)
    for file in FILES:
        np.savez_compressed(
            home / "regions" / f"{file}.npz",
            x=rng.normal(size=(4, 3)).astype(np.float32),
            bbox=np.array([[5 * n, 0, 5 * n + 8, 9] for n in range(3)], np.float32),
            **{"image_w": 40, "image_h": 30},
        )
    return home


def test_each_caption_is_a_record_of_its_picture(folder):
    assert form_of(folder) == "karpathy"
    data = open_dataset(folder)
    assert (data.name, data.task, len(data.classes), len(data)) == ("flickr30k", "matching", 7, 14)
    assert data.kinds == {"regions": "array", "caption": "text"}
    first, second = data.records[:2]
    assert (first.id, first.labels, first.split) == ("1000.jpg#0", ("1000.jpg",), "train")
    assert first.inputs["caption"] == "Picture 0 said as one."
    assert first.inputs["regions"] is second.inputs["regions"]
    assert [len(data.indices(part)) for part in ("train", "dev", "test")] == [6, 4, 4]
    assert read_karpathy(folder / "dataset_flickr30k.json").records[3].id == "1001.jpg#1"


def test_names_that_are_no_numbers_and_words_without_a_raw_text_are_read(folder, images):
    for number, one in enumerate(images):
        old, one["filename"] = one["filename"], f"1000268201_{number}b08cb0e.jpg"
        (folder / "regions" / f"{old}.npz").rename(folder / f"{one['filename']}.npz")
        for given in one["sentences"]:
            del given["raw"]
    save(folder, images)
    data = read_karpathy(folder)
    assert len(data) == 14 and data.classes[1] == "1000268201_1b08cb0e.jpg"
    assert data.records[0].inputs["caption"] == "picture 0 said as one"


def scan(folder, each=5):
    """Write SCAN's files: train has pictures 5 and 6, dev 1, test 0, once or for each caption."""
    home = folder / "f30k_precomp"
    home.mkdir(exist_ok=True)
    for part, pictures, times in (("train", "56", 1), ("dev", "1", each), ("test", "0", each)):
        lines = [f"{part} caption {n}" for n in range(5 * len(pictures))]
        (home / f"{part}_caps.txt").write_text("\n".join(lines) + "\n")
        (home / f"{part}_ids.txt").write_text("".join(f"{one}\n" * times for one in pictures))
    return home


def test_captions_and_parts_are_those_of_scan_where_its_files_are(folder):
    scan(folder)
    data = read_karpathy(folder)
    assert data.records[1].id == "1005.jpg#1"
    assert data.records[1].inputs["caption"] == "train caption 1"
    parts = {one.split: (one.id, one.inputs["caption"]) for one in data.records}
    assert parts == {
        "train": ("1006.jpg#4", "train caption 9"),
        "dev": ("1001.jpg#4", "dev caption 4"),
        "test": ("1000.jpg#4", "test caption 4"),
    }
    assert len(data) == 20


def test_files_of_scan_that_do_not_fit_are_refused_or_named(folder):
    home = scan(folder, each=3)
    with pytest.raises(InputError, match=r"dev_ids.txt a line for each of the 5 captions, .* 3;"):
        read_karpathy(folder)
    scan(folder)
    for kind, line in (("caps", "one more\n"), ("ids", "99\n")):
        with (home / f"dev_{kind}.txt").open("a") as file:
            file.write(line)
    assert read_karpathy(folder).skipped == {
        "dev picture 99": "no picture of this number in Karpathy's file"
    }
    (home / "test_caps.txt").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="test_caps.txt is not UTF-8"):
        read_karpathy(folder)


def test_what_cannot_be_used_is_named_and_left_out_or_refused(folder, images):
    images[0]["split"] = "extra"
    images[1]["sentences"][1] = {"raw": "  "}
    del images[2]["filename"]
    images.append({**images[1], "filename": "1099.jpg", "sentences": [sentence(9, "one")]})
    save(folder, images)
    bad = folder / "regions" / "1003.jpg.npz"
    arrays = dict(np.load(bad))
    np.savez(bad, **{**arrays, "image_w": 10})
    data = read_karpathy(folder)
    reasons = dict(data.skipped)
    assert reasons.pop("image 2").startswith("no filename and sentences, but {'imgid': 2")
    assert reasons == {
        **dict.fromkeys(("1000.jpg#0", "1000.jpg#1"), "in no split"),
        "1001.jpg#1": "no caption",
        **dict.fromkeys(("1003.jpg#0", "1003.jpg#1"), "a box outside its image"),
        "1099.jpg#0": "region file missing",
    }
    with pytest.raises(InputError, match="record 'image 2': no filename and sentences"):
        read_karpathy(folder, strict=True)


def test_files_that_are_none_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="expected one file as dataset_flickr30k.json, got none"):
        read_karpathy(tmp_path)
    save(folder, [1])
    with pytest.raises(InputError, match="k.json: expected an object with a list of images"):
        read_karpathy(folder)
    save(folder, [], "dataset_coco.json")
    with pytest.raises(InputError, match="got dataset_coco.json, dataset_flickr30k.json; give the"):
        read_karpathy(folder)


def test_a_run_matches_captions_with_regions(folder, brief_run):
    scores = brief_run(folder).evaluate("random", 1.0)
    assert scores["pictures_at_5"] == scores["texts_at_5"] == 1.0  # of two pictures, four texts
