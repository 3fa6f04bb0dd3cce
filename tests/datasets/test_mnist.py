"""MNIST alone, from generated files in its form."""

from __future__ import annotations

import gzip
import logging
import re

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.mnist import read_mnist
from ssnas_core.datasets.open import form_of, is_named, open_dataset
from ssnas_core.features.images import decode_image

COUNTS = {"train": 100, "t10k": 30}


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "mnist"
    home.mkdir()
    for part, count in COUNTS.items():
        images = np.random.default_rng(count).integers(256, size=(count, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = np.arange(count)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for array, what, magic in ((images, "images-idx3", 2051), (labels, "labels-idx1", 2049)):
            content = np.array([magic, *array.shape], ">u4").tobytes() + array.tobytes()
            (home / f"{part}-{what}-ubyte.gz").write_bytes(gzip.compress(content))
    return home


def test_test_images_are_their_own_and_a_tenth_of_train_is_dev(folder):
    data = read_mnist(folder)
    assert data.kinds == {"image": "image"} and data.single_label
    assert {s: len(data.indices(s)) for s in ("train", "dev", "test")} == {
        "train": 90, "dev": 10, "test": 30
    }  # fmt: skip
    for record in data.records:
        part, row = record.id.split("-")
        assert (record.split == "test") == (part == "t10k")
        image = record.inputs["image"]
        assert image.shape == (3, 28, 28) and (image[:, 0, 0] == int(row)).all()
        assert record.labels == (str(int(row) % 10),)
        np.testing.assert_array_equal(decode_image(image, (28, 28)), image)
    dev = data.targets()[data.indices("dev")]
    assert sorted(dev.tolist()) == list(range(10))  # stratified
    again, other = read_mnist(folder), read_mnist(folder, seed=1)
    assert again.fingerprint() == data.fingerprint() != other.fingerprint()


def test_a_folder_without_recordings_is_mnist_and_with_them_avmnist(folder):
    assert form_of(folder) == "mnist"
    assert open_dataset(folder).name == "mnist"
    (folder / "fsdd.tar.gz").write_bytes(b"")
    assert form_of(folder) == "avmnist"
    named = f"mnist:{folder}"
    assert is_named(named)
    assert open_dataset(named).fingerprint() == read_mnist(folder).fingerprint()


def test_files_that_are_cut_or_missing_are_refused(folder):
    file = folder / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"cannot read .*train-images.*download it again"):
        open_dataset(folder)
    file.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(InputError, match="expected 78,400 bytes of 100 rows, got 78,399; download"):
        open_dataset(folder)
    file.write_bytes(gzip.compress(bytes(16)))
    with pytest.raises(InputError, match=rf"^{re.escape(str(file))}: expected an IDX file"):
        open_dataset(folder)
    file.unlink()
    with pytest.raises(InputError, match="expected train-images-idx3-ubyte.gz, got no such file"):
        open_dataset(f"mnist:{folder}")


def test_a_reader_is_named_only_before_a_path_that_is_none_itself(folder, monkeypatch, caplog):
    monkeypatch.chdir(folder.parent)
    assert is_named("mnist:mnist")
    assert not is_named("mnist:") and not is_named("mnist")
    (folder.parent / "mnist:mnist").mkdir()
    assert not is_named("mnist:mnist")
    with caplog.at_level(logging.WARNING), pytest.raises(InputError, match="no such file"):
        open_dataset("mnist:nowhere")
