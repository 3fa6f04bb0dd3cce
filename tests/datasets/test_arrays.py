import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.datasets import arrays
from ssnas_core.datasets.arrays import ArrayDataset, read_npz
from ssnas_core.datasets.open import open_dataset
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


@pytest.mark.parametrize("shape", [(N, 3, 8, 6), (N, 8, 6, 3), (N, 8, 6), (N, 3, 1, 1)])
@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])
def test_images_whose_fraction_was_cut_off_are_refused(shape, kind):
    shares = np.random.default_rng(0).random(shape)
    shares.reshape(-1)[:: shares[0].size] = 1  # a white pixel in each
    for images in (shares.astype(np.uint8), np.rint(shares).astype(np.uint8)):
        given = torch.from_numpy(images) if kind is torch.Tensor else images
        with pytest.raises(InputError, match="'a': expected images of levels from 0 to 255, got n"):
            ArrayDataset({"a": given, "t": TEXTS}, LABELS)
    data = ArrayDataset({"a": (shares * 255).astype(np.uint8), "t": TEXTS}, LABELS)
    assert max(record.inputs["a"].max() for record in data.records) == 255


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
    (INPUTS, {"labels": MANY * np.nan}, "labels: expected some, got none of 40"),
    (INPUTS, {"labels": LABELS / 2}, r"whole numbers or strings, or .* got float64 \(40,\)"),
    (INPUTS, {"labels": MANY[:, None]}, r"got int64 \(40, 1, 6\)"),
    (INPUTS, {"labels": [{}] * N}, "labels: expected numbers or strings"),
    (INPUTS, {"labels": LABELS * 0}, r"at least two classes, got \['0'\]"),
    (INPUTS, {"classes": "abc"}, "numbers from 0 to 2, of 3 classes, got 0 to 3"),
    (INPUTS, {"labels": LABELS - 2, "classes": "abcd"}, "numbers from 0 to 3, .* got -2 to 1"),
    (INPUTS, {"labels": list("abcd") * 10, "classes": "abd"}, "names among classes, got 'c'"),
    (INPUTS, {"classes": "abca"}, "classes of different names"),
    (INPUTS, {"labels": MANY, "classes": "abcde"}, "expected 6 classes as labels, got 5"),
    (INPUTS, {"split": ["valid"] * 4 + SPLIT[4:]}, "one of train, dev, test, .*'valid': 4"),
    (INPUTS, {"split": [f"part {n}" for n in range(N)]}, r"got 'train': 0, .*'part 2': 1\.$"),
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


# --- the same from a .npz file

WORDS = {"text": np.array(TEXTS)}


def saved(path, labels=LABELS, save=np.savez, **others):
    """A file of the four modalities; others come beside them, or leave them out by None."""
    values = {**INPUTS, **WORDS, "labels": labels, **others}
    save(path, **{name: value for name, value in values.items() if value is not None})
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_file_holds_the_dataset_that_its_arrays_make(tmp_path, save):
    path = saved(tmp_path / "owls.npz", save=save)
    data, same = read_npz(path), ArrayDataset(INPUTS, LABELS)
    assert (data.name, data.kinds, data.classes) == ("owls", same.kinds, same.classes)
    assert data.fingerprint() == same.fingerprint() == open_dataset(path).fingerprint()
    assert np.array_equal(data.targets(), same.targets()) and data.single_label
    assert (
        read_npz(path, seed=1).fingerprint() == ArrayDataset(INPUTS, LABELS, seed=1).fingerprint()
    )


def test_file_tells_split_ids_and_classes(tmp_path):
    names, ids = [f"kind {k}" for k in range(6)], [f"m{n}" for n in range(N)]
    data = read_npz(saved(tmp_path / "a.npz", MANY, classes=names, split=SPLIT, ids=ids))
    assert data.classes == tuple(names) and not data.single_label
    assert np.array_equal(data.labels(), MANY)
    assert [r.split for r in data.records] == SPLIT and [r.id for r in data.records] == ids
    assert type(data.records[0].id) is type(data.records[0].split) is str
    words = np.array(["owl", "cat", "eel", "fox"])[LABELS]
    named = read_npz(saved(tmp_path / "b.npz", words, ids=np.arange(N) + 7))
    assert named.classes == ("cat", "eel", "fox", "owl") and named.records[0].id == "7"


def test_any_order_of_axes_and_bytes_is_the_same_dataset(tmp_path):
    others = {
        "audio": np.asfortranarray(AUDIO),
        "frames": FRAMES.astype(">f8"),
        "image": np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1)),
        "text": np.array(TEXTS).astype(">U9"),
    }
    data = read_npz(saved(tmp_path / "a.npz", **others))
    assert data.fingerprint() == ArrayDataset(INPUTS, LABELS).fingerprint()


def test_file_under_another_name_is_told_by_its_first_bytes(tmp_path):
    path = saved(tmp_path / "a.npz").rename(tmp_path / "a.bin")
    assert len(open_dataset(path)) == N
    (tmp_path / "b.npz").write_text("no zip")
    with pytest.raises(InputError, match="b.npz .*not a zip file.*expected arrays as np.savez"):
        open_dataset(tmp_path / "b.npz")


BAD_FILES = [
    ({"labels": None}, "it has no labels.; expected arrays as np.savez writes them: labels, two"),
    ({"text": np.array(TEXTS, dtype=object)}, r"'text' is object \(40,\), no numbers or strings"),
    ({"text": np.array(TEXTS).astype("S")}, r"'text' is \|S7 \(40,\), no numbers or strings"),
    ({"audio": np.zeros((N, 2), complex)}, "'audio' is complex128"),
    ({"audio": np.zeros((N, 0))}, r"'audio' is float64 \(40, 0\), no numbers"),
    ({"audio": np.float32(3)}, r"'audio' is float32 \(\), no numbers"),
    ({"a b": AUDIO}, "'a b.npy' is not NAME.npy"),
    ({"audio": AUDIO[1:]}, "a.npz: a: expected as many rows everywhere, got 39 of audio"),
    ({"audio": nan([3])}, r"a.npz: 'audio': expected finite numbers, .* in 1 of 40 rows \(3\)"),
    ({"text": np.array([*TEXTS[1:], "\ud800"])}, "surrogates not allowed"),
    ({"labels": LABELS / 2}, "a.npz: labels: expected .*whole numbers or strings"),
    ({"labels": MANY + 1}, "a.npz: labels .N, K.: expected 0 and 1"),
    ({"labels": np.zeros((N, 1001), int)}, "labels of 1,001 classes, more than 1,000"),
    ({"classes": np.arange(4)}, "classes are no strings .N,. of at most 100 characters"),
    ({"classes": ["a", "b", "c", "d" * 101]}, "classes are no strings"),
    ({"classes": list("abc")}, "numbers from 0 to 2, of 3 classes, got 0 to 3"),
    ({"split": np.arange(N)}, "split are no strings"),
    ({"split": ["valid"] * N}, "one of train, dev, test, .*'valid': 40"),
    ({"ids": ["x"] * N}, "record 'x' needs an id that no other record has"),
    ({"ids": ["x" * 101] * N}, "ids are no strings"),
    ({"image": None, "text": None, "frames": None}, "at least two modalities, got"),
]


@pytest.mark.parametrize(("change", "message"), BAD_FILES)
def test_file_that_holds_no_dataset_is_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as refusal:
        read_npz(saved(tmp_path / "a.npz", **change))
    assert str(refusal.value).isprintable() and "a.npz" in str(refusal.value)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.npz", other=np.array([{}] * N))
    monkeypatch.setattr(np.lib.format, "read_array", pytest.fail)
    monkeypatch.setattr(pickle, "load", pytest.fail)
    with pytest.raises(InputError, match="'other' is object"):
        read_npz(path)


@pytest.mark.parametrize("rows", [N - 1, N + 1])
def test_array_of_another_size_than_it_declares_is_refused(tmp_path, rows):
    path, lying = saved(tmp_path / "a.npz", audio=None), io.BytesIO()
    declared = {"descr": "<f4", "fortran_order": False, "shape": (rows, 5)}
    np.lib.format.write_array_header_1_0(lying, declared)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("audio.npy", lying.getvalue() + AUDIO.tobytes())
    with pytest.raises(InputError, match=f"'audio' declares {rows * 20} bytes, got {N * 20}"):
        read_npz(path)


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_NPZ_BYTES", 1000, "it unpacks to more than 1,000 bytes"),
        ("MIN_NPZ_BYTES", 1000, r"it unpacks to more than \d\d\d,\d\d\d bytes"),  # 100 x size
        ("MAX_NPZ_ROWS", 100, "'labels' has 40 rows, too many for this file"),
        ("MAX_CLASSES", 3, "labels of 4 classes, more than 3"),
    ],
)
def test_limits_are_checked_before_memory_is_taken(tmp_path, monkeypatch, limit, value, message):
    values = {"audio": np.zeros((N, 50_000), np.uint8), "text": np.zeros((N, 1))}
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **values, labels=LABELS)
    assert path.stat().st_size < 5000
    assert read_npz(path).kinds == {"audio": "array", "text": "array"}
    monkeypatch.setattr(arrays, limit, value)
    with pytest.raises(InputError, match=message):
        read_npz(path)


def test_a_flipped_bit_is_found(tmp_path):
    path = saved(tmp_path / "a.npz")
    data = bytearray(path.read_bytes())
    data[data.index(AUDIO.tobytes()[:16])] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="a.npz .*CRC-32"):
        read_npz(path)
