"""Folders of images: classes by their folders' names, parts as they are or drawn and told."""

from __future__ import annotations

import logging
import os
from collections import Counter

import pytest
import torch
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.images import read_images
from ssnas_core.datasets.open import form_of, open_dataset
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.prepare import prepare


def paint(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(path)


@pytest.fixture
def flat(tmp_path):
    """20 cats, 10 dogs of which some lie deeper, and 3 that nobody has labelled."""
    home = tmp_path / "pets"
    for number in range(20):
        paint(home / "cat" / f"{number}.png", number)
    for number in range(10):
        paint(home / "dog" / ("old" if number % 2 else "") / f"{number}.JPG", 100 + number)
    for number in range(3):
        paint(home / "Unlabeled" / f"{number}.png", 200 + number)
    return home


@pytest.fixture
def parted(tmp_path):
    home = tmp_path / "parted"
    for part, count in (("train", 20), ("val", 4), ("test", 6)):
        for name in ("cat", "dog"):
            for number in range(count):
                paint(home / part / name / f"{number}.png", number)
    return home


def counts(data):
    return Counter((one.split, one.labels) for one in data.records)


def test_classes_are_folders_and_parts_are_drawn_evenly_and_told(flat, caplog):
    assert form_of(flat) == "images"
    with caplog.at_level(logging.WARNING):
        data = open_dataset(flat)
    assert "no folder of dev and none of test: drawn from the other labelled images (seed 0)" in (
        caplog.text
    )
    assert (data.name, data.classes, data.single_label) == ("pets", ("cat", "dog"), True)
    assert counts(data) == {
        ("train", ("cat",)): 14, ("dev", ("cat",)): 2, ("test", ("cat",)): 4,
        ("train", ("dog",)): 7, ("dev", ("dog",)): 1, ("test", ("dog",)): 2,
        ("train", None): 3,
    }  # fmt: skip
    for record in data.records:
        assert record.inputs["image"] == flat / record.id
        assert record.labels in (None, (record.id.split("/")[0],))
    assert read_images(flat).fingerprint() == data.fingerprint()
    assert read_images(flat, seed=1).fingerprint() != data.fingerprint()


def test_parts_that_are_there_stay_as_they_are(parted, caplog):
    with caplog.at_level(logging.WARNING):
        data = open_dataset(parted)
    assert caplog.text == ""
    told = {"train": "train", "val": "dev", "test": "test"}
    assert all(one.split == told[one.id.split("/")[0]] for one in data.records)
    assert counts(data)["dev", ("dog",)] == 4 and len(data) == 60


def test_a_part_that_is_missing_is_drawn_from_train_alone(parted, caplog):
    (parted / "val").rename(parted / "unlabelled")
    with caplog.at_level(logging.WARNING):
        data = open_dataset(parted)
    assert "has no folder of dev: drawn from" in caplog.text
    assert counts(data) == {
        ("train", ("cat",)): 18, ("dev", ("cat",)): 2, ("test", ("cat",)): 6,
        ("train", ("dog",)): 18, ("dev", ("dog",)): 2, ("test", ("dog",)): 6,
        ("train", None): 8,
    }  # fmt: skip
    assert all(one.split == "test" for one in data.records if one.id.startswith("test/"))


def test_a_class_may_be_called_train(flat):
    (flat / "dog").rename(flat / "train")
    for file in (flat / "train" / "old").iterdir():
        file.rename(flat / "train" / file.name)
    (flat / "train" / "old").rmdir()
    assert open_dataset(flat).classes == ("cat", "train")


def test_images_beside_the_classes_are_unlabelled_and_not_of_test(parted):
    for part in ("train", "val", "test"):
        paint(parted / part / "loose.png")
    data = open_dataset(parted)
    loose = {one.id: (one.split, one.labels) for one in data.records if "loose" in one.id}
    assert loose == {"train/loose.png": ("train", None), "val/loose.png": ("dev", None)}
    assert data.skipped == {"test/loose.png": "no class, in test"}


def test_images_that_cannot_be_used_are_left_out_or_refused(flat, caplog):
    (flat / "cat" / "0.png").write_bytes(b"")
    (flat / "cat" / "1.png").unlink()
    (flat / "cat" / "1.png").symlink_to(flat / "nowhere.png")
    (flat / "cat" / ".hidden.png").write_bytes(b"")
    (flat / "cat" / "notes.txt").write_text("no image")
    data = open_dataset(flat)
    assert data.skipped == {"cat/0.png": "image empty (0 bytes)", "cat/1.png": "image missing"}
    with pytest.raises(InputError, match=r"record 'cat/0.png': image empty .*strict off"):
        read_images(flat, strict=True)


def test_an_image_that_cannot_be_decoded_is_left_out_of_what_is_prepared(flat, tmp_path):
    whole = (flat / "cat" / "5.png").read_bytes()
    (flat / "cat" / "5.png").write_bytes(whole[: len(whole) // 2])
    config = PrepareConfig(image="pixels", image_size=(4, 4), views=1)
    made = prepare(flat, tmp_path / "store", config)
    assert len(made.dataset) == 32 and "cat/5.png" in made.dataset.skipped
    features = made.store.clean(made.indices("train"))
    assert features["image_0"].shape[1:] == (16, 3)
    row = [one.id for one in made.dataset.records].index("cat/7.png")
    seen = made.store.clean(torch.tensor([row]))["image_0"]
    assert abs(float(seen[0, :, 0].mean()) * 255 - 7) < 0.5


def empty(home):
    (home / "bird").mkdir()
    (home / "bird" / "readme.txt").write_text("later")


def one_class(home):
    (home / "dog").rename(home / "unlabelled")


def no_classes(home):
    for name in ("cat", "dog"):
        (home / name).rename(home / "Unlabeled" / name)


def foreign(home):
    (home / "cat" / "deep").mkdir()
    (home / "cat").rename(home / "train")


def no_dev(home):
    for name in ("cat", "dog"):
        paint(home / "train" / name / "0.png")
    (home / "dev").mkdir()
    (home / "cat").rename(home / "test")
    (home / "dog").rename(home / ".dog")


REFUSED = {
    "empty": (empty, "expected images in the folder of each class, got none in 'bird'; put some"),
    "one class": (one_class, "of 2 to 1,000 classes, got 1 .'cat'.; put the images of each class"),
    "none": (no_classes, "2 to 1,000 classes, got 0; put the images"),
    "foreign": (foreign, "expected folders of the parts train, dev, .* got dog beside it; put"),
    "no dev": (
        no_dev,
        "expected usable images in dev and test, got none .20 unusable.; restore them",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_do_not_tell_classes_are_refused(case, flat):
    change, message = REFUSED[case]
    change(flat)
    with pytest.raises(InputError, match=message):
        open_dataset(flat)


def test_a_folder_without_images_is_none_of_these(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(
        InputError, match="holds a; expected mmimdb.tar.gz .* images for each class"
    ):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="got 0; put the images of each class into a folder"):
        open_dataset(f"images:{tmp_path / 'a' / 'b'}")
    with pytest.raises(InputError, match="expected a folder of images, got none; mend the path"):
        open_dataset(f"images:{tmp_path / 'nowhere'}")


def test_links_in_a_circle_end(flat):
    os.symlink(flat, flat / "cat" / "again")
    assert len(open_dataset(flat)) == 33


def test_a_table_beside_images_stays_a_table(flat):
    (flat / "metadata.csv").write_text("file_name,text,label\n")
    assert form_of(flat) == "table"
