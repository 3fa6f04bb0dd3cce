import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import Dataset, Record, changes, load_dataset, save_dataset

KINDS = {"image": "image", "text": "text"}
CLASSES = ("Drama", "Comedy", "War")


def make(folder, **changes):
    """Four records: two train, one dev, one test."""
    rows = [
        ("a", b"poster a", "plot a", ("Drama",), "train"),
        ("b", b"poster b", "plot b", ("War", "Drama"), "train"),
        ("c", b"poster c", "plot c", ("Comedy",), "dev"),
        ("d", b"poster d", "plot d", (), "test"),
    ]
    records = []
    for name, poster, plot, labels, split in rows:
        path = folder / f"{name}.jpeg"
        path.write_bytes(poster)
        fields = {"id": name, "labels": labels, "split": split} | changes.get(name, {})
        fields.setdefault("inputs", {"image": path, "text": plot})
        records.append(Record(**fields))
    return Dataset("toy", KINDS, CLASSES, tuple(records), {"z": "poster missing"})


def test_labels_indices_and_columns_follow_the_record_order(tmp_path):
    data = make(tmp_path)
    assert len(data) == 4
    assert data.labels().dtype == np.uint8
    assert data.labels().tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert [data.indices(split).tolist() for split in ("train", "dev", "test")] == [
        [0, 1],
        [2],
        [3],
    ]
    assert data.indices("dev").dtype == np.int64
    assert data.column("text") == ["plot a", "plot b", "plot c", "plot d"]


def test_unknown_split_and_modality_are_refused(tmp_path):
    data = make(tmp_path)
    with pytest.raises(InputError, match="split among train, dev, test, got 'valid'"):
        data.indices("valid")
    with pytest.raises(InputError, match="modalities image, text, not 'audio'"):
        data.column("audio")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a"}, "record 'a' needs an id that no other record has"),
        ({"split": "valid"}, "record 'b' needs a split among train, dev, test, got 'valid'"),
        ({"labels": ("Drama", "News")}, r"among the 3 classes, got \['News'\]"),
        ({"inputs": {"text": "x"}}, r"needs inputs \['image', 'text'\], got \['text'\]"),
    ],
)
def test_a_record_that_does_not_fit_its_dataset_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path, b=change)


def test_without_drops_records_and_keeps_the_reasons(tmp_path):
    less = make(tmp_path).without({"a": "cannot be decoded"})
    assert [record.id for record in less.records] == ["b", "c", "d"]
    assert less.skipped == {"z": "poster missing", "a": "cannot be decoded"}


def test_without_refuses_unknown_ids_and_an_emptied_split(tmp_path):
    data = make(tmp_path)
    with pytest.raises(InputError, match="toy has no record 'q' to leave out"):
        data.without({"q": "why"})
    with pytest.raises(InputError, match=r"split 'dev', but all are bad \(e\.g\. c: torn\)"):
        data.without({"c": "torn"})


def test_fingerprint_ignores_labels_paths_and_skipped_records(tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()
    expected = make(first).fingerprint()
    relabelled = make(second, a={"labels": ("War", "Comedy")})
    assert relabelled.fingerprint() == expected
    assert len(expected) == 32


@pytest.mark.parametrize("change", ["poster byte", "text", "split", "id", "order"])
def test_fingerprint_changes_with_what_can_be_learnt_from(tmp_path, change):
    data = make(tmp_path)
    before = data.fingerprint()
    if change == "poster byte":
        (tmp_path / "d.jpeg").write_bytes(b"poster D")
        data = Dataset("toy", KINDS, CLASSES, data.records)  # read anew: a dataset hashes once
    elif change == "order":
        data = Dataset("toy", KINDS, CLASSES, data.records[::-1])
    else:
        image = tmp_path / "b.jpeg"
        changed = {
            "text": {"inputs": {"image": image, "text": "plot B"}},
            "split": {"split": "dev"},
            "id": {"id": "bb"},
        }
        data = make(tmp_path, b=changed[change])
    assert data.fingerprint() != before


def test_fingerprint_keeps_neighbouring_fields_apart(tmp_path):
    def texts(*plots):
        records = tuple(Record(str(i), {"text": p}, (), "train") for i, p in enumerate(plots))
        return Dataset("toy", {"text": "text"}, CLASSES, records).fingerprint()

    assert texts("x1train", "y") != texts("x", "1trainy")
    assert texts("x1trainy") != texts("x", "y")


def test_fingerprint_names_an_image_that_is_gone(tmp_path):
    data = make(tmp_path)
    (tmp_path / "c.jpeg").unlink()
    with pytest.raises(InputError, match=r"cannot read image .*c\.jpeg .*restore it"):
        data.fingerprint()


# --- arrays, stored images, single labels


class Stored:
    """An image that lies elsewhere."""

    def __init__(self, pixels, problem=None):
        self.pixels, self.problem = pixels, problem

    def load(self):
        if self.problem is not None:
            raise self.problem
        return self.pixels


def sensors(*values, single_label=False, labels=("Drama",), pixels=None):
    image = Stored(np.zeros((3, 4, 2), np.uint8) if pixels is None else pixels)
    records = tuple(
        Record(str(row), {"sound": value, "still": image}, labels, "train")
        for row, value in enumerate(values)
    )
    kinds = {"sound": "array", "still": "image"}
    return Dataset("toy", kinds, CLASSES, records, single_label=single_label)


def test_arrays_of_one_shape_are_taken():
    assert len(sensors(np.zeros(3, np.float32), np.ones(3, np.float32))) == 2
    assert len(sensors(np.zeros((2, 3), np.float32))) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [0.0, 1.0, 2.0],
            r"a float32 array \(C,\) or \(P, C\) as 'sound', got <class 'list'>",
        ),
        (np.zeros(3), r"got float64 \(3,\)"),
        (np.zeros((1, 1, 3), np.float32), r"got float32 \(1, 1, 3\)"),
        (np.zeros(4, np.float32), r"'sound' of the first record's shape \(3,\), got \(4,\)"),
        (np.array([0, np.nan, 0], np.float32), "finite numbers in 'sound', got NaN or inf"),
    ],
)
def test_array_that_does_not_fit_the_others_is_refused(value, message):
    with pytest.raises(InputError, match=f"record '1' .*{message}"):
        sensors(np.zeros(3, np.float32), value)


def test_single_labels_are_class_numbers_and_exactly_one():
    data = sensors(np.zeros(3, np.float32), single_label=True, labels=("War",))
    assert data.targets().tolist() == [2] and data.targets().dtype == np.int64
    assert data.labels().tolist() == [[0, 0, 1]]
    assert data.without({}).single_label
    for labels in ((), ("War", "Drama")):
        with pytest.raises(InputError, match="needs exactly one label, got"):
            sensors(np.zeros(3, np.float32), single_label=True, labels=labels)
    assert sensors(np.zeros(3, np.float32)).targets().tolist() == [[1, 0, 0]]


def test_fingerprint_covers_arrays_and_stored_images():
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    prints = {
        sensors(zero).fingerprint(),
        sensors(one).fingerprint(),
        sensors(zero.reshape(1, 3)).fingerprint(),
        sensors(zero, pixels=np.ones((3, 4, 2), np.uint8)).fingerprint(),
        sensors(zero, pixels=np.zeros((3, 2, 4), np.uint8)).fingerprint(),
    }
    assert len(prints) == 5
    assert sensors(zero.copy()).fingerprint() in prints


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"sound": "wave"}, "of a kind among image, text, array, got 'sound': 'wave'"),
        ({"my sound": "text"}, "named by identifiers"),
        ({"late": "text"}, "got 'late': 'text'; rename it"),
        ({"keys": "array"}, "identifiers that are free, .*got 'keys'"),
        ({"train": "text"}, "got 'train': 'text'"),
    ],
)
def test_kinds_and_names_that_would_be_misread_are_refused(kinds, message):
    with pytest.raises(InputError, match=message):
        Dataset("toy", kinds, CLASSES, ())


def test_a_device_is_no_image_to_read_for_ever(tmp_path):
    record = Record("a", {"image": Path("/dev/zero"), "text": "plot"}, ("War",), "train")
    with pytest.raises(InputError, match="cannot read image /dev/zero .no ordinary file.; restore"):
        Dataset("toy", KINDS, CLASSES, (record,)).fingerprint()


LABELLED = {
    "a label": {"a": {"labels": ("War",)}},
    "another one": {"b": {"labels": ("War",)}},
    "none any more": {"c": {"labels": None}},
    "an id": {"a": {"id": "e"}},
}


@pytest.mark.parametrize("change", LABELLED)
def test_label_fingerprint_changes_with_labels_and_whose_they_are(tmp_path, change):
    before = make(tmp_path)
    assert before.label_fingerprint() == make(tmp_path).label_fingerprint()
    assert make(tmp_path, **LABELLED[change]).label_fingerprint() != before.label_fingerprint()


def test_label_fingerprint_changes_with_classes_and_not_with_texts(tmp_path):
    data = make(tmp_path)
    other = make(tmp_path, a={"inputs": {"image": tmp_path / "b.jpeg", "text": "another"}})
    assert other.label_fingerprint() == data.label_fingerprint()
    for change in ({"classes": (*CLASSES, "Western")}, {"classes": CLASSES[::-1]}):
        assert dataclasses.replace(data, **change).label_fingerprint() != data.label_fingerprint()


# --- soft targets


def answers(**given):
    fields = {"labels": ("War",), "split": "test", "soft": {"War": 0.9, "Drama": 0.3}} | given
    record = Record("a", {"text": "who", "image": Path("a.png")}, **fields)
    return Dataset("toy", KINDS, CLASSES, (record,), task="answering")


def test_soft_targets_are_what_is_learnt_and_survive_a_file(tmp_path):
    data = answers()
    assert data.soft().tolist() == data.targets().tolist()
    assert data.targets().tolist() == [pytest.approx([0.3, 0, 0.9])]
    assert data.labels().tolist() == [[0, 0, 1]]
    assert answers(soft=None).targets().tolist() == [[0, 0, 1]]
    assert answers(soft={}).targets().tolist() == [[0, 0, 0]]
    save_dataset(data, tmp_path / "data.json")
    loaded = load_dataset(tmp_path / "data.json")
    assert loaded.records[0] == data.records[0] and loaded.task == "answering"
    other = answers(soft={"War": 0.9})
    assert changes(tmp_path / "data.json", data) == ""
    assert "other labels in 1 of 1 records" in changes(tmp_path / "data.json", other)
    assert other.label_fingerprint() != data.label_fingerprint()
    assert data.without({}).records == data.records


def test_file_with_other_soft_targets_than_numbers_is_refused(tmp_path):
    save_dataset(answers(), tmp_path / "data.json")
    text = (tmp_path / "data.json").read_text().replace("0.9", '"0.9"')
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(InputError, match=r"soft of record 0.War: expected float, got '0.9'"):
        load_dataset(tmp_path / "data.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"soft": {"News": 1.0}}, r"needs soft targets in \(0, 1\] of classes, got \{'News': 1.0"),
        ({"soft": {"War": 0.0}}, r"needs soft targets in \(0, 1\] of classes"),
        ({"soft": {"War": 1.1}}, r"needs soft targets in \(0, 1\] of classes"),
        ({"labels": None, "split": "dev"}, "needs no soft targets, as it has no labels"),
    ],
)
def test_soft_targets_that_are_none_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        answers(**change)
    with pytest.raises(InputError, match="no soft targets, as it has classes"):
        dataclasses.replace(answers(), task="classification")
