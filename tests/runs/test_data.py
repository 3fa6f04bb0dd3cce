"""The data of a run: unlabelled rows serve all but labels; changed data are not mixed in."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.arrays import ArrayDataset
from ssnas_core.datasets.open import open_dataset
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.splits import labelled_part
from ssnas_core.datasets.table import TableOptions
from ssnas_core.runs.recipes import RunConfig
from ssnas_core.runs.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")


def unlabelled_but(data: Dataset, ratio: float, seed: int) -> Dataset:
    """The data as if nobody had labelled what is not in that labelled part, nor in test."""
    part = labelled_part(data, ratio, seed)
    known = {*part.train.tolist(), *part.dev.tolist(), *data.indices("test").tolist()}
    records = tuple(
        record if row in known else dataclasses.replace(record, labels=None)
        for row, record in enumerate(data.records)
    )
    return dataclasses.replace(data, records=records)


@pytest.mark.parametrize("objective", ["contrastive", "supervised", "hybrid"])
def test_unlabelled_rows_give_what_the_same_labelled_part_of_all_labels_gives(
    objective, tiny_data, tiny_store, tiny_recipe, tmp_path, tree
):
    whole = open_dataset(tiny_data)
    few = unlabelled_but(whole, 0.25, seed=0)
    assert few.labelled().sum() == 9 + 3 + 12 and few.fingerprint() == whole.fingerprint()
    found = []
    for data, ratio in ((whole, 0.25), (few, 1.0)):
        config = RunConfig(
            data=data, recipe=tiny_recipe, objective=objective, label_ratio=(ratio,), seed=0
        )
        run = Run(config, tmp_path / f"r{ratio:g}", store=tiny_store, device="cpu")
        scores = run.evaluate("found, pretrained", ratio)
        weights = tree(run.folder.path, f"cells/*r{ratio:g}/model.safetensors")
        found.append(({**scores, "label_ratio": 0}, [*weights.values()], str(run.search())))
    assert found[0] == found[1]
    assert found[0][0]["labelled"] == {"train": 9, "dev": 3}


def test_unlabelled_rows_are_counted_apart_and_train_backbones(tiny_store, tiny_recipe, tiny_data):
    from ssnas_core.features.prepare import prepare

    few = unlabelled_but(open_dataset(tiny_data), 0.25, seed=0)
    made = prepare(few, tiny_store, tiny_recipe.prepare)
    assert made.folder == prepare(tiny_data, tiny_store, tiny_recipe.prepare).folder
    counts = made.counts()
    assert {name: counts[name] for name in ("train", "dev", "test", "unlabelled")} == {
        **{"train": 36, "dev": 12, "test": 12},
        "unlabelled": 36,
    }


@pytest.mark.parametrize(
    "labels", [["", "a", "b"], [-1, 0, 1], np.array([[np.nan] * 2, [0, 1], [1, 0]])]
)
def test_arrays_may_be_unlabelled(labels):
    if isinstance(labels, np.ndarray):
        many = np.concatenate([labels[:1], np.tile(labels[1:], (6, 1))])
    else:
        many = [*labels[:1], *labels[1:] * 6]
    inputs = {name: np.zeros((13, 2), np.float32) for name in ("sound", "image")}
    data = ArrayDataset(inputs, many)
    assert data.labelled().tolist() == [False] + [True] * 12
    assert data.records[0].split == "train" and len(data.classes) == 2
    assert data.targets()[0].tolist() in (-1, [0, 0])
    with pytest.raises(InputError, match="needs labels, as all of test do"):
        ArrayDataset(inputs, many, split=["test", "train", "dev", *["train"] * 10])


HEADER = ["id", "image", "text", "labels", "split"]


@pytest.fixture
def films(movies, tmp_path):
    """A table of the movies, and a function that writes it with other rows."""
    home = movies.folder(tmp_path / "films")
    (home / "split.json").unlink()
    rows = []
    for split, numbers in movies.splits.items():
        for number in numbers:
            film = json.loads(movies.files[movies.json(number)])
            cells = movies.name(number), movies.poster(number), film["plot"][0]
            rows.append([*cells, "|".join(film["genres"]), split])

    def write(changed=None):
        with open(home / "films.csv", "w", newline="") as file:
            csv.writer(file).writerows([HEADER, *(changed or rows)])
        return home / "films.csv"

    write()
    return rows, write


def edited(rows, column, change, count):
    """The rows with a column of the first `count` changed."""
    place = HEADER.index(column)
    return [
        [change(cell) if c == place and n < count else cell for c, cell in enumerate(row)]
        for n, row in enumerate(rows)
    ]


CHANGES = {
    "all labels renamed": (lambda r: edited(r, "labels", lambda x: x.replace("r", "X"), 60),
                           r"other labels in \d\d of 60 records \(m\d\d: .* -> "),
    "one label corrected": (lambda r: edited(r, "labels", lambda _: "Drama|Romance|War", 1),
                            r"other labels in 1 of 60 records \(m00: "),
    "a label taken away": (lambda r: edited(r, "labels", lambda _: "", 2),
                           r"other labels in 2 of 60 records \(m00: \[.*\] -> None"),
    "rows dropped": (lambda r: r[5:], r"5 records gone \(as m00\)"),
    "rows added": (lambda r: [*r, ["new", *r[0][1:]]], r"1 new records \(as new\)"),
    "a plot mended": (lambda r: edited(r, "text", lambda _: "a ship", 1),
                      r"other texts in 1 of 60 records \(m00"),
    "another split": (lambda r: edited(r, "split", lambda _: "dev", 3),
                      r"other split in 3 of 60 records \(m00: 'train' -> 'dev'\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_data_changed_since_a_run_began_are_refused_and_restored_go_on(
    name, films, tiny_recipe, tmp_path
):
    rows, write = films
    change, message = CHANGES[name]
    path = write()

    def run():
        config = RunConfig(data=path, recipe=tiny_recipe)
        return Run(config, tmp_path / "run", store=tmp_path / "store", device="cpu").prepared

    before = len(run().dataset)
    write(change(rows))
    with pytest.raises(InputError, match=rf"films\.csv is no longer the data .*: {message}"):
        run()
    write()  # the same again, at another time
    os.utime(path, (1, 1))
    assert len(run().dataset) == before
    noted = json.loads((tmp_path / "run" / "prepared.json").read_text())["source"]
    path.unlink()  # it is needed no more
    assert len(run().dataset) == before
    assert noted == json.loads((tmp_path / "run" / "prepared.json").read_text())["source"]


def test_columns_of_a_table_are_part_of_a_run(films, tiny_recipe, tmp_path):
    rows, write = films
    path = write()
    path.write_text(path.read_text().replace("labels", "kind", 1).replace("|", " / "))
    table = TableOptions(labels="kind", labels_separator=" / ")
    config = RunConfig(data=path, recipe=tiny_recipe, table=table)
    run = Run(config, tmp_path / "run", store=tmp_path / "store", device="cpu")
    assert run.prepared.dataset.classes == ("Comedy", "Drama", "Romance", "War", "Western")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert RunConfig.from_plain(saved).table == table
    other = dataclasses.replace(config, table=TableOptions(labels="kind"))
    with pytest.raises(InputError, match=r"table\.labels_separator"):
        Run(other, tmp_path / "run", store=tmp_path / "store", device="cpu")


def test_columns_of_what_is_no_table_are_refused(tiny_data, tiny_recipe, tmp_path):
    config = RunConfig(data=tiny_data, recipe=tiny_recipe, table=TableOptions(labels="kind"))
    run = Run(config, tmp_path / "run", store=tmp_path / "store", device="cpu")
    with pytest.raises(InputError, match="is no table, so it has no columns to name; drop"):
        _ = run.prepared
    assert not Path(tmp_path / "run" / "config.json").exists()
