"""Pictures with captions: from an archive as from its folder; what cannot be used is counted."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.flickr8k import read_flickr8k
from ssnas_core.datasets.open import form_of, open_dataset
from ssnas_core.models.classifier import classifier_of
from ssnas_core.runs.recipes import RECIPES, RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.search.random import RandomConfig
from ssnas_core.spaces.encdec.space import EncDecConfig
from ssnas_core.training.loop import TrainConfig


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


def test_a_run_matches_captions_with_the_grid_of_a_picture(folder, tmp_path):
    short, recipe = TrainConfig(epochs=1, batch_size=4), RECIPES["scenes"]
    prepare = replace(recipe.prepare, image_size=(32, 32), image_training=short)
    config = RunConfig(
        data=folder,
        recipe=replace(recipe, prepare=prepare, pretrain=short, finetune=short),
        space=EncDecConfig(encoder=1, decoder=1, channels=8, head=8),
        strategy=RandomConfig(trials=1, train=short),
        label_ratio=(1.0,),
    )
    run = Run(config, tmp_path / "run", device="cpu")
    scores = run.evaluate("random", 1.0)
    assert scores["pictures_at_5"] == scores["texts_at_5"] == 1.0  # of two pictures, four texts
    model = classifier_of(run, "random", 1.0)
    picture = folder / "images" / "4.jpg"
    rows = model.predict([{"image": picture, "caption": text} for text in ("one", "two")])
    assert all(0 <= row["match"] <= 1 for row in rows)
