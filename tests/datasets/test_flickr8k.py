"""Pictures with captions: from an archive as from its folder; what cannot be used is counted."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.flickr8k import read_flickr8k
from ssnas_core.datasets.open import form_of, open_dataset


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "flickr8k_6"
    (home / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries = []
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(
            home / "images" / f"{number}.jpg"
        )
        texts = [f"picture {number} said as {word}" for word in ("one", "two")]
        entries.append({"img": f"images/{number}.jpg", "captions": texts})
    parts = {"train": ["0.jpg", "1.jpg"], "dev": ["2.jpg", "3.jpg"], "test": ["4.jpg", "5.jpg"]}
    (home / "captions.json").write_text(json.dumps(entries))
    (home / "split.json").write_text(json.dumps(parts))
    return home


def packed(folder):
    path = folder.parent / "any.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def test_archive_and_folder_are_the_same_data(folder):
    path = packed(folder)
    assert form_of(path) == form_of(folder) == "flickr8k"
    data = open_dataset(folder)
    assert open_dataset(path).fingerprint() == data.fingerprint()
    assert (len(data), data.task, len(data.classes)) == (12, "matching", 6)
    first = data.records[0]
    assert (first.id, first.labels, first.split) == ("0.jpg#0", ("0.jpg",), "train")
    assert first.inputs["caption"] == "picture 0 said as one"
    loaded = Image.open(io.BytesIO(open_dataset(path).records[0].inputs["image"].load()))
    assert loaded.size == (8, 8)


def test_what_cannot_be_used_is_counted_or_refused(folder):
    (folder / "images" / "0.jpg").unlink()
    entries = json.loads((folder / "captions.json").read_text())
    entries[2]["captions"][1] = "  "
    entries.append({"img": "images/0.jpg"})
    entries.append({"img": "images/1.jpg", "captions": ["again"]})
    entries[-1]["img"] = "images/9.jpg"
    (folder / "captions.json").write_text(json.dumps(entries))
    data = read_flickr8k(folder)
    reasons = sorted(data.skipped.values())
    assert [reason[:15] for reason in reasons] == [
        *("no caption", "no img and capt", "picture missing", "picture missing", "picture missing")
    ]
    assert len(data) == 9
    with pytest.raises(InputError, match=r"record '0.jpg#0': picture missing; mend it"):
        read_flickr8k(folder, strict=True)


def test_broken_files_are_refused(folder):
    (folder / "split.json").write_text("{")
    with pytest.raises(InputError, match=r"expected a JSON file split.json .*download it again"):
        read_flickr8k(folder)
    path = packed(folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"expected captions.json, split.json and images"):
        read_flickr8k(path)
