"""What `ssnas check` says of a data set, before anything is made of it."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from ssnas_core.cli.main import main
from ssnas_core.common.errors import InputError
from ssnas_core.datasets.arrays import ArrayDataset
from ssnas_core.features.check import check_data, check_text
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.prepare import prepare
from ssnas_core.training.loop import TrainConfig

WORDS = ["a sheriff rides", "a ghost screams", "a wedding joke", "a letter of grief"]
GENRES = ["Western", "Horror", "Comedy", "Drama"]


@pytest.fixture
def films(tmp_path):
    """A table with one of each thing to be said."""
    rows = []
    for n in range(40):
        split = ("train", "train", "train", "dev", "test")[n % 5]
        genres = f"{GENRES[n % 4]}, {GENRES[(n // 4) % 4]}"
        cells = [f"m{n}", f"{n}.png", WORDS[n % 4], genres, split]
        (tmp_path / cells[1]).touch()
        Image.new("RGB", (4 + n, 6), (6 * n, 0, 0)).save(tmp_path / cells[1])
        rows.append(cells)
    rows[3][3] = "N/A"  # dev: unlabelled
    rows[4][2] = "zzz qqq"  # test: unknown words alone
    rows[5][3] = "drama, Comedy"  # train: another spelling
    rows[9][3] = "Drama, Musical"  # test alone
    rows[10][1] = "none.png"
    rows[11][2] = "-"
    (tmp_path / "12.png").write_text("no image")
    Image.fromarray(np.full((6, 16), 65535, "uint16")).save(tmp_path / "13.png")
    path = tmp_path / "films.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["id", "image", "text", "labels", "split"], *rows])
    return path


def test_everything_that_would_be_read_is_told(films):
    found = check_data(films)
    assert found["samples"] == {
        "train": {"labelled": 22, "unlabelled": 0},
        "dev": {"labelled": 7, "unlabelled": 1},
        "test": {"labelled": 8, "unlabelled": 0},
    }
    assert found["labels"].startswith("6 classes (Comedy, Drama, ") and "multi" in found["labels"]
    assert found["classes"]["Musical"] == {"train": 0, "dev": 0, "test": 1}
    assert sum(found["classes"]["Western"].values()) > 10
    image = found["modalities"]["image"]
    assert (image["width"], image["height"]) == ([4.0, 25.0, 43.0], [6.0, 6.0, 6.0])
    assert image["modes"] == {"RGB": 36, "I;16": 1} and image["formats"] == {"PNG": 37}
    assert image["looked at"] == 38 and list(image["problems"].values()) == [1]
    text = found["modalities"]["text"]
    assert text["words"] == [2.0, 3.0, 4.0]
    assert text["known"]["test"] == {"texts": 8, "unknown": 1, "words": 0.875}
    assert found["skipped"] == {"image missing": 1, "text is missing ('-')": 1}
    assert found["examples"] == {"m10": "image missing", "m11": "text is missing ('-')"}
    said = " ".join(found["notes"])
    assert "read as separated by ','" in said and "'Drama', 'drama'" in said
    assert "1 class without a record in train: Musical (nothing can learn it)" in said
    assert "texts without a known word: 0 of 22 in train, 0 of 8 in dev, 1 of 8 in test" in said
    assert json.loads(json.dumps(found)) == found


def test_text_has_each_of_these(films):
    text = check_text(check_data(films))
    for part in ("22           0", "Musical", "1 x image missing", "37 x PNG", "note: ",
                 "ssnas prepare: about", "88% of the words known, 1 of 8 texts"):  # fmt: skip
        assert part in text, text


def test_check_writes_nothing_and_prepare_needs_the_disk_that_it_says(films, tmp_path):
    training = TrainConfig(epochs=1, batch_size=16)
    config = PrepareConfig(
        image_size=(32, 32), views=2, image_training=training, text_training=training
    )
    before = sorted(films.parent.rglob("*"))
    cost = check_data(films, config)["prepare"]
    assert sorted(films.parent.rglob("*")) == before
    made = prepare(films, tmp_path / "store", config)
    folder = made.folder
    arrays = [*folder.glob("features/*.npy"), *folder.glob("inputs/image-*.npy")]
    assert cost["megabytes"] == pytest.approx(sum(f.stat().st_size for f in arrays) / 1e6, rel=0.1)
    assert cost["seconds"] >= 0


def test_arrays_and_backbones_that_are_not_here(tmp_path):
    audio = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    texts = [WORDS[n % 4] for n in range(20)]
    data = ArrayDataset({"audio": audio, "text": texts}, [n % 2 for n in range(20)])
    found = check_data(data, PrepareConfig(text=f"transformers:{tmp_path / 'none'}"))
    assert found["modalities"]["audio"]["shape"] == [3]
    assert found["modalities"]["audio"]["range"][0] == pytest.approx(audio.min(), abs=1e-3)
    assert "single-label" in found["labels"]
    assert "none" in found["prepare"]["problem"]
    assert found["prepare"]["problem"] in check_text(found)


def test_command_prints_text_or_json(films, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["check", "--data", str(films), "--quiet", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["samples"]["train"]["labelled"] == 22
    with pytest.raises(SystemExit) as ended:
        main(["check", "--data", str(films), "--quiet", "--labels-separator", "/"])
    assert ended.value.code == 0, capsys.readouterr().err
    assert "Western, Horror" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["check", "--data", str(films), "--quiet", "--labels", "kind"])
    assert ended.value.code == 2
    assert "one column 'kind' as named by --labels" in capsys.readouterr().err


def test_data_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        check_data(tmp_path / "nowhere")
