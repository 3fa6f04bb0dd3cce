import pickle

import numpy as np
import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.arrays import ArrayDataset
from ssnas_core.datasets.records import Dataset
from ssnas_core.features.inputs import decode_image

N = 40
RNG = np.random.default_rng(0)
AUDIO = RNG.normal(size=(N, 5)).astype(np.float32)
FRAMES = RNG.normal(size=(N, 4, 3))
IMAGES = RNG.integers(256, size=(N, 3, 6, 7), dtype=np.uint8)
TEXTS = [f"text {n}" for n in range(N)]
LABELS = np.arange(N) % 4
MANY = (RNG.random((N, 6)) < 0.4).astype(int)
SPLIT = ["train"] * 30 + ["dev"] * 4 + ["test"] * 6
INPUTS = {"audio": AUDIO, "frames": FRAMES, "image": IMAGES, "text": TEXTS}


def test_kinds_follow_from_the_values():
    data = ArrayDataset(INPUTS, LABELS)
    assert isinstance(data, Dataset) and len(data) == N
    assert list(data.kinds.items()) == [
        ("audio", "array"), ("frames", "array"), ("image", "image"), ("text", "text"),
    ]  # fmt: skip
    record = data.records[3]
    assert np.array_equal(record.inputs["audio"], AUDIO[3])
    assert record.inputs["frames"].dtype == np.float32
    assert np.array_equal(record.inputs["frames"], FRAMES[3].astype(np.float32))
    assert np.array_equal(record.inputs["image"], IMAGES[3])
    assert record.inputs["text"] == "text 3"
    assert (data.name, record.id) == ("arrays", "3")


def test_tensors_lists_and_arrays_give_the_same_dataset():
    given = [
        INPUTS,
        {name: torch.tensor(value) if name != "text" else value for name, value in INPUTS.items()},
        {name: value if name == "text" else value.tolist() for name, value in INPUTS.items()}
        | {"image": IMAGES},
        INPUTS | {"text": tuple(TEXTS)},
        INPUTS | {"text": np.array(TEXTS)},
        INPUTS | {"text": np.array(TEXTS, dtype=object)},
        INPUTS | {"audio": torch.tensor(AUDIO, requires_grad=True)},
    ]
    prints = {ArrayDataset(inputs, LABELS).fingerprint() for inputs in given}
    assert len(prints) == 1
    assert type(ArrayDataset(given[4], LABELS).records[0].inputs["text"]) is str
    half = ArrayDataset({"a": torch.ones(N, 2, dtype=torch.bfloat16), "t": TEXTS}, LABELS)
    assert half.records[0].inputs["a"].tolist() == [1, 1]


def test_images_come_as_channels_first_and_grey_ones_threefold():
    last = ArrayDataset({"a": IMAGES.transpose(0, 2, 3, 1), "t": TEXTS}, LABELS)
    first = ArrayDataset({"a": IMAGES, "t": TEXTS}, LABELS)
    assert last.fingerprint() == first.fingerprint()
    grey = ArrayDataset({"a": IMAGES[:, 0], "t": TEXTS}, LABELS).records[2].inputs["a"]
    assert np.array_equal(grey, np.stack([IMAGES[2, 0]] * 3))
    assert decode_image(grey, (4, 4)).shape == (3, 4, 4)
    both = np.zeros((N, 3, 8, 3), dtype=np.uint8)  # could be either
    assert ArrayDataset({"a": both, "t": TEXTS}, LABELS).records[0].inputs["a"].shape == (3, 8, 3)


def test_what_is_given_can_change_later_and_the_dataset_does_not():
    audio, tensor = AUDIO.copy(), torch.tensor(AUDIO)
    images = IMAGES.copy()
    data = ArrayDataset({"a": audio, "b": tensor, "c": images, "d": images[:, 0]}, LABELS)
    before = data.fingerprint()
    audio[:], tensor[:], images[:] = 7, 7, 7
    data.__dict__.pop("_fingerprint")
    assert data.fingerprint() == before
    with pytest.raises(ValueError, match="read-only"):
        data.records[0].inputs["a"][0] = 1


def test_memory_map_stays_on_disk(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    data = ArrayDataset({"a": mapped, "t": TEXTS}, LABELS)
    assert np.shares_memory(data.records[5].inputs["a"], mapped)


def test_whole_numbers_and_strings_are_single_labels():
    numbers = ArrayDataset(INPUTS, LABELS * 10)
    assert numbers.single_label and numbers.classes == ("0", "10", "20", "30")
    assert numbers.targets().tolist() == LABELS.tolist()
    words = np.array(["owl", "cat", "eel", "fox"])[LABELS]
    for labels in (words, words.tolist(), words.astype(object)):
        named = ArrayDataset(INPUTS, labels)
        assert named.classes == ("cat", "eel", "fox", "owl")
        assert [r.labels[0] for r in named.records] == words.tolist()
    assert ArrayDataset(INPUTS, torch.tensor(LABELS)).targets().tolist() == LABELS.tolist()
    assert ArrayDataset(INPUTS, LABELS > 1).classes == ("0", "1")


def test_classes_name_numbers_in_their_order():
    data = ArrayDataset(INPUTS, LABELS, classes=["owl", "cat", "eel", "fox", "ant"])
    assert data.classes == ("owl", "cat", "eel", "fox", "ant")
    assert data.targets().tolist() == LABELS.tolist()
    words = np.array(["owl", "cat", "eel", "fox"])[LABELS]
    named = ArrayDataset(INPUTS, words, classes=["owl", "cat", "eel", "fox", "ant"])
    assert named.targets().tolist() == LABELS.tolist()


def test_matrix_is_any_number_of_labels():
    for labels in (MANY, MANY.tolist(), MANY.astype(bool), torch.tensor(MANY).float()):
        data = ArrayDataset(INPUTS, labels)
        assert not data.single_label and data.classes == tuple("012345")
        assert np.array_equal(data.labels(), MANY)
    assert ArrayDataset(INPUTS, MANY, classes="abcdef").classes == tuple("abcdef")


def test_split_ids_and_name_are_taken_as_given():
    data = ArrayDataset(INPUTS, LABELS, split=SPLIT, ids=range(100, 140), name="owls")
    assert [r.split for r in data.records] == SPLIT
    assert data.records[0].id == "100" and data.name == "owls"


def test_without_a_split_one_is_drawn_by_the_seed():
    data = ArrayDataset(INPUTS, LABELS)
    assert [len(data.indices(s)) for s in ("train", "dev", "test")] == [28, 4, 8]
    for split, each in (("dev", 1), ("test", 2)):
        assert np.bincount(data.targets()[data.indices(split)]).tolist() == [each] * 4
    assert data.fingerprint() == ArrayDataset(INPUTS, LABELS).fingerprint()
    assert data.fingerprint() != ArrayDataset(INPUTS, LABELS, seed=1).fingerprint()


def test_ids_go_by_their_place_whatever_index_they_have():
    class Series(dict):  # as of pandas: [] looks an index up, iterating goes by place
        def __iter__(self):
            return iter(self.values())

    ids = Series({N - 1 - row: f"m{row}" for row in range(N)})
    found = ArrayDataset(INPUTS, LABELS, split=SPLIT, ids=ids)  # type: ignore[arg-type]
    assert [record.id for record in found.records] == [f"m{row}" for row in range(N)]


def test_it_is_a_dataset_in_every_way():
    data = ArrayDataset(INPUTS, LABELS, split=SPLIT)
    less = data.without({"3": "torn"})
    assert len(less) == N - 1 and less.skipped == {"3": "torn"} and less.single_label
    again = pickle.loads(pickle.dumps(data))
    assert type(again) is ArrayDataset
    assert again.fingerprint() == data.fingerprint()
    other = ArrayDataset(INPUTS | {"audio": AUDIO + 1}, LABELS, split=SPLIT)
    assert other.fingerprint() != data.fingerprint()
    with pytest.raises(AttributeError):
        data.name = "x"


def nan(rows, shape=(N, 5), value=np.nan):
    array = np.zeros(shape)
    array[rows] = value
    return array


BAD = [
    ({"audio": AUDIO}, {}, "expected at least two modalities, got"),
    ({"audio": AUDIO[:-1], "text": TEXTS}, {}, "got 39 of audio, 40 of text, 40 of labels"),
    (INPUTS, {"split": SPLIT[1:]}, "39 of split; give one row per sample"),
    (INPUTS, {"ids": range(41)}, "41 of ids"),
    (INPUTS, {"labels": LABELS[1:]}, "39 of labels"),
    ({"a": nan([3, 17]), "t": TEXTS}, {}, r"'a': expected finite .* in 2 of 40 rows \(3, 17\)"),
    ({"a": nan(slice(8)), "t": TEXTS}, {}, r"8 of 40 rows \(0, 1, 2, 3, 4, \.\.\.\)"),
    ({"a": nan([1], (N, 2, 3), np.inf), "t": TEXTS}, {}, r"NaN or inf in 1 of 40 rows \(1\)"),
    ({"a": nan([1], value=1e300), "t": TEXTS}, {}, r"NaN or inf in 1 of 40 rows \(1\)"),
    ({"a": AUDIO[:, 0], "t": TEXTS}, {}, r"'a': expected numbers \(N, C\) .*float32 \(40,\)"),
    ({"a": IMAGES / 255, "t": TEXTS}, {}, r"images uint8 .*got float64 \(40, 3, 6, 7\)"),
    ({"a": np.zeros((N, 6, 7, 4), np.uint8), "t": TEXTS}, {}, r"got \(40, 6, 7, 4\); reorder"),
    ({"a": np.zeros((N, 1, 3, 6, 7), np.uint8), "t": TEXTS}, {}, "reorder the axes"),
    ({"a": np.zeros((N, 0)), "t": TEXTS}, {}, r"at least one per sample, got float64 \(40, 0\)"),
    ({"a": np.array([["x"]] * N), "t": TEXTS}, {}, r"or N strings, got <U1 \(40, 1\)"),
    ({"a": np.array([{}] * N), "t": TEXTS}, {}, "expected numbers or strings, .*got object"),
    ({"a": [[1, 2], [3]] * 20, "t": TEXTS}, {}, "'a': expected rows of one shape"),
    ({"a": np.zeros((N, 2), complex), "t": TEXTS}, {}, "got complex128"),
    ({"a": torch.zeros(N, 2).to_sparse(), "t": TEXTS}, {}, "'a': expected rows of one shape"),
    ({"a": None, "t": TEXTS}, {}, "'a': expected numbers or strings"),
    ({"a": "text", "t": TEXTS}, {}, "'a': expected numbers or strings"),
    ({"a": AUDIO, "t": [*TEXTS[:-1], None]}, {}, "string per sample, got NoneType in row 39"),
    ({"a": AUDIO, "t": [*TEXTS[:-1], "\ud800"]}, {}, "row 39 is not valid Unicode"),
    ({"a b": AUDIO, "t": TEXTS}, {}, "modalities named by identifiers"),
    (INPUTS, {"labels": MANY + 1}, "expected 0 and 1, a column per class, got other values"),
    (INPUTS, {"labels": MANY * np.nan}, "expected 0 and 1, a column per class"),
    (INPUTS, {"labels": LABELS / 2}, r"whole numbers or strings, or .* got float64 \(40,\)"),
    (INPUTS, {"labels": MANY[:, None]}, r"got int64 \(40, 1, 6\)"),
    (INPUTS, {"labels": [{}] * N}, "labels: expected numbers or strings"),
    (INPUTS, {"labels": LABELS * 0}, r"at least two classes, got \['0'\]"),
    (INPUTS, {"classes": "abc"}, "numbers from 0 to 2, of 3 classes, got 0 to 3"),
    (INPUTS, {"labels": LABELS - 1, "classes": "abcd"}, "numbers from 0 to 3, .* got -1 to 2"),
    (INPUTS, {"labels": list("abcd") * 10, "classes": "abd"}, "names among classes, got 'c'"),
    (INPUTS, {"classes": "abca"}, "classes of different names"),
    (INPUTS, {"labels": MANY, "classes": "abcde"}, "expected 6 classes as labels, got 5"),
    (INPUTS, {"split": ["valid"] * 4 + SPLIT[4:]}, "one of train, dev, test, .*'valid': 4"),
    (INPUTS, {"split": ["train"] * 34 + ["test"] * 6}, "none to be empty, got .*'dev': 0"),
    (INPUTS, {"ids": [1] * N}, "record '1' needs an id that no other record has"),
    (INPUTS, {"seed": -1}, "seed that is a whole number >= 0"),
]


@pytest.mark.parametrize(("inputs", "given", "message"), BAD)
def test_bad_input_is_refused(inputs, given, message):
    with pytest.raises(InputError, match=message):
        ArrayDataset(inputs, **{"labels": LABELS} | given)


def test_two_samples_are_too_few_to_split_but_three_are_enough():
    def cut(count):
        inputs = {name: value[:count] for name, value in INPUTS.items()}
        return ArrayDataset(inputs, LABELS[:count])

    with pytest.raises(InputError, match="at least 3 samples to split"):
        cut(2)
    assert sorted(r.split for r in cut(3).records) == ["dev", "test", "train"]
