"""CIFAR-10 and CIFAR-100 from generated files, whose hashes torchvision is told."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
from torchvision import datasets

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.cifar import is_cifar, read_cifar
from ssnas_core.datasets.open import form_of, open_dataset

NAMES = {"CIFAR10": [f"kind {k}" for k in range(10)], "CIFAR100": [f"f{k:02d}" for k in range(100)]}
BATCH = {"CIFAR10": 40, "CIFAR100": 300}


def write(root, name, monkeypatch):
    """Write small files in the published form; torchvision takes their hashes for published."""
    made = getattr(datasets, name)
    folder = root / made.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    key = "labels" if name == "CIFAR10" else "fine_labels"

    def put(file, content):
        (folder / file).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    lists = {}
    for part in ("train_list", "test_list"):
        lists[part] = []
        for number, (file, _) in enumerate(getattr(made, part)):
            pixels = rng.integers(256, size=(BATCH[name], 3072), dtype=np.uint8)
            pixels[:, 0] = number
            labels = [row % len(NAMES[name]) for row in range(BATCH[name])]
            lists[part].append([file, put(file, {"data": pixels, key: labels})])
        monkeypatch.setattr(made, part, lists[part])
    key = "label_names" if name == "CIFAR10" else "fine_label_names"
    meta = {**made.meta, "md5": put(made.meta["filename"], {key: NAMES[name]})}
    monkeypatch.setattr(made, "meta", meta)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_images_labels_and_parts_are_those_of_torchvision(name, tmp_path, monkeypatch):
    folder = write(tmp_path, name, monkeypatch)
    assert form_of(tmp_path) == form_of(folder) == "cifar"
    data = open_dataset(tmp_path)
    assert (data.name, data.classes) == (name.lower(), tuple(NAMES[name])) and data.single_label
    parts = {part: getattr(datasets, name)(tmp_path, train=part == "train")
             for part in ("train", "test")}  # fmt: skip
    assert len(data) == len(parts["train"]) + len(parts["test"])
    for record in data.records:
        part, row = record.id.split("-")
        image, label = parts[part][int(row)]
        np.testing.assert_array_equal(record.inputs["image"], np.asarray(image).transpose(2, 0, 1))
        assert record.labels == (NAMES[name][label],)
        assert (record.split == "test") == (part == "test")
    assert len(data.indices("dev")) == len(parts["train"]) // 10
    assert read_cifar(folder).fingerprint() == data.fingerprint()
    renamed = folder.rename(tmp_path / "renamed")
    assert read_cifar(renamed).fingerprint() == data.fingerprint()


def test_nothing_is_unpickled_that_is_not_the_published_file(tmp_path, monkeypatch):
    folder = write(tmp_path, "CIFAR10", monkeypatch)
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("unpickled"))
    batch = folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"expected the published files of CIFAR10, got others.*"
                       r"download it anew, in Python: torchvision.datasets.CIFAR10\("):  # fmt: skip
        open_dataset(tmp_path)
    batch.unlink()
    with pytest.raises(InputError, match="expected the published files of CIFAR10"):
        open_dataset(folder)


def test_both_in_one_folder_and_none_are_refused(tmp_path, monkeypatch):
    write(tmp_path, "CIFAR10", monkeypatch)
    write(tmp_path, "CIFAR100", monkeypatch)
    assert form_of(tmp_path) == "cifar"
    with pytest.raises(InputError, match="got cifar-10-batches-py and cifar-100-python; name one"):
        open_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    assert not is_cifar(tmp_path / "empty")
    with pytest.raises(InputError, match="expected CIFAR-10 or CIFAR-100 as torchvision has it"):
        open_dataset(f"cifar:{tmp_path / 'empty'}")
