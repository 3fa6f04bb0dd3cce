import io
import json
import logging
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.datasets import mmimdb_hdf5 as hdf5
from ssnas_core.datasets.mmimdb import GENRES, read_mmimdb
from ssnas_core.datasets.mmimdb_hdf5 import read_mmimdb_hdf5
from ssnas_core.features.inputs import decode_image, decode_images

FIELDS = ("images", "features", "genres", "imdb_ids")
SPLIT = {"train": (0, 3), "dev": (3, 4), "test": (4, 6)}
MEAN = np.reshape([103.939, 116.779, 123.68], (3, 1, 1))
IDS = [f"{number:07d}" for number in range(1, 7)]


def cover(poster):
    """A poster's file as (3, 256, 160) float32, by the steps of the authors' `vgg.py`."""
    image, (width, height) = Image.open(io.BytesIO(poster)), (160, 256)
    x1, y1, (x2, y2) = 0, 0, image.size
    if y2 / height > x2 / width:
        y1, y2 = (int(y2 / 2 + sign * height * x2 / width / 2) for sign in (-1, 1))
    else:
        x1, x2 = (int(x2 / 2 + sign * width * y2 / height / 2) for sign in (-1, 1))
    image = image.crop((x1, y1, x2, y2)).resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(image.convert("RGB"), dtype="float32")[..., [2, 1, 0]].copy()
    for channel, mean in enumerate((103.939, 116.779, 123.68)):
        pixels[:, :, channel] -= mean
    return pixels.transpose((2, 0, 1))


def fuel(spans, sources=FIELDS, indices=None):
    """Fuel's table, as its `H5PYDataset.create_split_array` makes it."""
    kind = [("split", "S5"), ("source", "S12"), ("start", "i8"), ("stop", "i8"),
            ("indices", h5py.special_dtype(ref=h5py.Reference)),
            ("available", "?"), ("comment", "S1")]  # fmt: skip
    rows = [(split.encode(), source.encode(), *span, indices or h5py.Reference(), True, b".")
            for split, span in spans.items() for source in (*sources, "sequences")]  # fmt: skip
    return np.array(rows, dtype=kind)


def write(path, covers, features, genres, ids, *, names=GENRES, split=SPLIT, **changes):
    """`multimodal_imdb.hdf5` as the authors' `make_dataset.py` writes it."""
    made = {
        "images": covers,
        "features": features,
        "genres": np.asarray(genres, dtype="int32"),
        "imdb_ids": np.asarray(ids, dtype="S7"),
    } | changes
    with h5py.File(path, "w") as file:
        if made["images"] is covers:
            images = file.create_dataset(
                "images", (len(covers), 3, 256, 160), "int32", chunks=(1, 3, 256, 160),
                compression="gzip", compression_opts=1,
            )  # fmt: skip
            for row, pixels in enumerate(covers):
                images[row] = pixels  # HDF5 itself cuts the fraction off
        for name, values in made.items():
            if values is not None and name not in file:
                file[name] = values
        if names is not None and isinstance(file.get("genres"), h5py.Dataset):
            file["genres"].attrs["target_names"] = json.dumps(names)
        if split is not None:
            file.attrs["split"] = fuel(split) if isinstance(split, dict) else split
    return path


def grey(level):
    """A grey image as it is stored."""
    return (np.full((3, 256, 160), level) - MEAN).astype("float32")


def small(path, **changes):
    """Six movies: shades of grey, features 0 to 5, each of one genre."""
    covers = [grey(40 * row + 10) for row in range(6)]
    features = np.repeat(np.arange(6, dtype="float32")[:, None], 300, 1)
    given = {"covers": covers, "features": features, "genres": np.eye(6, 23), "ids": IDS}
    return write(path, **given | changes)


@pytest.fixture(scope="module")
def both(movies, tmp_path_factory):
    """The movies, posters enlarged to 160 x 256, through both readers."""
    home = tmp_path_factory.mktemp("both")
    files = dict(movies.files)
    for name, content in files.items():
        if name.endswith(".jpeg"):
            buffer = io.BytesIO()
            Image.open(io.BytesIO(content)).resize((160, 256)).save(buffer, "JPEG", quality=95)
            files[name] = buffer.getvalue()
    told = [json.loads(files[movies.json(number)])["genres"] for number in range(60)]
    columns = [*movies.genres, *(genre for genre in reversed(GENRES) if genre not in movies.genres)]
    path = write(
        home / "multimodal_imdb.hdf5",
        [cover(files[movies.poster(number)]) for number in range(60)],
        np.random.default_rng(0).normal(size=(60, 300)).astype("float32"),
        [[genre in genres for genre in columns] for genres in told],
        [movies.name(number) for number in range(60)],
        names=columns,  # the file's own order, which is not the published one
        split={name: (numbers.start, numbers.stop) for name, numbers in movies.splits.items()},
    )
    raw = read_mmimdb(movies.folder(home / "mmimdb", files), strict=True)
    return raw, read_mmimdb_hdf5(path, strict=True)


def test_ids_splits_and_labels_are_those_of_the_raw_archive(both):
    raw, stored = both
    assert [r.id for r in stored.records] == [r.id for r in raw.records]
    assert [r.split for r in stored.records] == [r.split for r in raw.records]
    assert [r.labels for r in stored.records] == [r.labels for r in raw.records]
    assert (stored.name, stored.classes) == (raw.name, raw.classes)
    assert np.array_equal(stored.labels(), raw.labels())
    assert stored.kinds == {"image": "image", "text": "array"}
    assert not stored.single_label and stored.skipped == {}


def test_images_are_those_of_the_raw_archive_up_to_one_level_where_the_mean_lies(both):
    for ours, theirs in zip(both[1].records, both[0].records, strict=True):
        image = decode_image(ours.inputs["image"], (256, 160)).astype(int)
        expected = decode_image(theirs.inputs["image"], (256, 160)).astype(int)
        at_mean = expected == np.reshape([123, 116, 103], (3, 1, 1))
        assert np.array_equal(image - expected, at_mean)


def test_small_posters_keep_their_colours_and_places(movies, tmp_path):
    posters = [movies.files[movies.poster(number)] for number in range(6)]
    data = read_mmimdb_hdf5(small(tmp_path / "a.h5", covers=[cover(p) for p in posters]))
    for record, poster in zip(data.records, posters, strict=True):
        (tmp_path / "p.jpeg").write_bytes(poster)
        image = decode_image(record.inputs["image"], (64, 40)).astype(int)
        expected = decode_image(tmp_path / "p.jpeg", (64, 40)).astype(int)
        error = np.abs(image - expected).mean()  # another filter, and a crop of whole pixels
        for wrong in (expected[::-1], expected[:, ::-1], expected[:, :, ::-1]):
            assert np.abs(image - wrong).mean() > 3 * error


def test_every_level_of_a_channel_comes_back():
    for channel, mean in enumerate(MEAN.flat):
        levels = np.arange(256)
        stored = np.zeros((3, 1, 256), dtype="int32")
        stored[channel, 0] = (levels.astype("float32") - np.float32(mean)).astype("int32")
        back = hdf5._rgb(stored)[2 - channel, 0]
        assert np.flatnonzero(back != levels).tolist() == [int(mean)]
        assert back[int(mean)] == int(mean) + 1


def test_numbers_with_their_fraction_come_back_exactly():
    levels = np.broadcast_to(np.arange(256), (3, 1, 256))
    assert np.array_equal(hdf5._rgb((levels - MEAN).astype("float32")), levels)


@pytest.mark.parametrize("value", [152, -125, 255, np.nan])
def test_one_image_of_numbers_that_are_no_pixels_less_the_mean_is_counted(tmp_path, value):
    covers = [grey(40)] * 5 + [np.full((3, 256, 160), value, "float32")]
    images = np.array(covers) if np.isnan(value) else np.array(covers).astype("int32")
    data = read_mmimdb_hdf5(small(tmp_path / "a.h5", images=images))
    assert (data.records[0].inputs["image"].load() == 40).mean() > 0.6  # the rest is one more
    with pytest.raises(ValueError, match="after adding the mean"):
        data.records[5].inputs["image"].load()


def test_image_that_was_never_written_is_counted(tmp_path):
    path = small(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["images"][1] = 0
    image = read_mmimdb_hdf5(path).records[1].inputs["image"]
    with pytest.raises(
        ValueError, match=r"row 1 of .*a\.h5 holds only zeros; it was never written"
    ):
        image.load()


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 256, 160)).astype("float32")
DARK = PIXELS / 255 * 99  # all of it would fit as pixels less the mean
STD = np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
FORMS = {
    "floats to 1": (PIXELS / 255, "pixels from 0 to 1"),
    "dark floats to 1": (DARK / 255, "pixels from 0 to 1"),
    "floats to 255": (PIXELS, "pixels from 0 to 255 of which no mean was subtracted"),
    "whole numbers to 255": (PIXELS.astype("i4"), "pixels from 0 to 255 of which no mean"),
    "dark whole numbers": (DARK.astype("i4"), "pixels from 0 to 255 of which no mean"),
    "from -1 to 1": (PIXELS / 127.5 - 1, "numbers from -1 to 1, as of normalised pixels"),
    "from -0.5 to 0.5": (PIXELS / 255 - 0.5, "numbers from -0.5 to 0.5, as of normalised pixels"),
    "by ImageNet's mean and deviation": (
        (PIXELS / 255 - MEAN[::-1] / 255) / STD, "numbers from -2.12 to 2.63, as of normalised"
    ),
    "the same as whole numbers": (
        np.rint((PIXELS / 255 - 0.45) / STD).astype("i4"), "numbers from -2 to 2, as of normalised"
    ),
    "RGB less the mean": (PIXELS - MEAN[::-1], "RGB less the mean, channels in the other order"),
    "16 bits less the mean": (PIXELS * 257 - MEAN, "numbers from -123.68 to 65431.1"),
    "nothing written": (PIXELS * 0, "only zeros"),
    "NaN": (PIXELS * np.nan, "NaN or infinity"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_images_in_another_form_than_the_published_are_refused_by_name(tmp_path, form):
    images, looks = FORMS[form]
    message = rf"a\.h5: expected 'images' as published, BGR .* less the mean .*, got .*{looks}"
    with pytest.raises(InputError, match=message + ".*; bring them to that form, or give the post"):
        read_mmimdb_hdf5(small(tmp_path / "a.h5", images=images))


@pytest.mark.parametrize("kind", ["i4", "f4", "f8", "i2"])
def test_published_form_is_read_in_every_type(tmp_path, kind):
    images = (PIXELS - MEAN).astype(kind)  # whole numbers lose their fraction, towards 0
    data = read_mmimdb_hdf5(small(tmp_path / "a.h5", images=images))
    for row, record in enumerate(data.records):
        error = record.inputs["image"].load() - PIXELS[row, ::-1]
        assert error.min() == 0 and error.max() == (1 if kind.startswith("i") else 0)


def test_features_are_the_text(tmp_path):
    data = read_mmimdb_hdf5(small(tmp_path / "a.h5"))
    for row, record in enumerate(data.records):
        assert record.inputs["text"].dtype == np.float32
        assert np.array_equal(record.inputs["text"], np.full(300, row))


# In a process of its own: these tests' own has threads of other tests, whose locks a fork keeps.
FORKS = """
import multiprocessing, pickle, sys

def total(image):
    return int(image.load().sum())

images = pickle.load(sys.stdin.buffer)
here = [total(image) for image in images]  # the file is open when it forks
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(total, images * 5) == here * 5)
"""


def test_image_is_small_when_pickled_and_loads_in_threads_and_forks(tmp_path):
    data = read_mmimdb_hdf5(small(tmp_path / "a.h5"))
    images = data.column("image")
    assert len(pickle.dumps(images[0])) < 1000
    here = [image.load() for image in images]
    again = pickle.loads(pickle.dumps(images))
    with ThreadPoolExecutor(4) as threads:
        for one, other in zip(here * 5, threads.map(_load, again * 5), strict=True):
            assert np.array_equal(one, other)
    command = [sys.executable, "-c", FORKS]
    told = subprocess.run(command, input=pickle.dumps(images), capture_output=True, timeout=60)
    assert told.stdout == b"True\n", told.stderr


def _load(image):
    return image.load()


def test_at_most_four_files_stay_open_and_one_that_changed_is_read_anew(tmp_path):
    for number in range(7):
        path = small(tmp_path / f"{number}.h5")
        assert read_mmimdb_hdf5(path).records[0].inputs["image"].load().max() < 20
    assert hdf5._opened.cache_info().currsize <= 4
    image = read_mmimdb_hdf5(path).records[0].inputs["image"]
    changed = small(tmp_path / "new", covers=[grey(200)] * 6)
    changed.rename(path)
    assert image.load().min() > 150


def test_image_of_a_file_that_is_gone_is_an_os_error(tmp_path):
    path = small(tmp_path / "a.h5")
    data = read_mmimdb_hdf5(path)
    path.unlink()
    with pytest.raises(OSError, match=re.escape(str(path))):
        data.records[0].inputs["image"].load()
    with pytest.raises(InputError, match="cannot read image"):
        data.fingerprint()


def test_relative_path_still_works_from_another_folder(tmp_path, monkeypatch):
    small(tmp_path / "a.h5")
    monkeypatch.chdir(tmp_path)
    image = read_mmimdb_hdf5("a.h5").records[0].inputs["image"]
    monkeypatch.chdir("/")
    assert image.load().shape == (3, 256, 160)


@pytest.mark.parametrize(
    "ids",
    [
        np.array(IDS, dtype="S9"),
        np.array(IDS, dtype=object),  # text of any length
        np.arange(1, 7),
    ],
    ids=["bytes", "str", "int"],
)
def test_ids_are_seven_digits_however_they_are_stored(tmp_path, ids):
    assert [r.id for r in read_mmimdb_hdf5(small(tmp_path / "a", imdb_ids=ids)).records] == IDS


def test_without_target_names_the_columns_are_in_published_order(tmp_path):
    data = read_mmimdb_hdf5(small(tmp_path / "a.h5", names=None))
    assert [record.labels for record in data.records] == [(genre,) for genre in GENRES[:6]]


def test_target_names_order_the_columns(tmp_path):
    data = read_mmimdb_hdf5(small(tmp_path / "a.h5", names=GENRES[::-1]))
    assert [record.labels[0] for record in data.records] == list(GENRES[::-1][:6])
    assert data.classes == GENRES


@pytest.mark.parametrize("names", [[*GENRES[:-1], "Opera"], GENRES[:-1], 3, {"a": 1}, "Drama"])
def test_other_genres_are_refused(tmp_path, names):
    with pytest.raises(InputError, match="target_names of 'genres' to name the 23 published"):
        read_mmimdb_hdf5(small(tmp_path / "a.h5", names=names))


BAD = {
    "NaN or inf in features": {"features": np.where(np.arange(6)[:, None] == 1, np.nan, 1)
                               * np.ones((1, 300))},
    "none of the 23 genres": {"genres": np.eye(6, 23) * (np.arange(6)[:, None] != 1)},
    "its id occurs 2 times": {"ids": [*IDS[:2], IDS[1], *IDS[3:]]},
    "no id": {"ids": [IDS[0], "", *IDS[2:]]},
    "in no split": {"split": SPLIT | {"train": (0, 1), "dev": (2, 4)}},
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD)
def test_bad_record_is_left_out_and_told_or_refused(tmp_path, caplog, reason):
    path = small(tmp_path / "a.h5", **BAD[reason])
    with caplog.at_level(logging.WARNING):
        data = read_mmimdb_hdf5(path)
    assert "0000002" not in {record.id for record in data.records}
    assert set(data.skipped.values()) == {reason}
    assert len(caplog.records) == 1 and f"x {reason}" in caplog.text
    assert np.isfinite(np.stack(data.column("text"))).all()
    with pytest.raises(InputError, match=rf"a\.h5, row 1: record '.*': {reason}; mend it"):
        read_mmimdb_hdf5(path, strict=True)


def test_features_too_large_for_float32_are_bad(tmp_path):
    features = np.ones((6, 300))
    features[2, 7] = 1e300
    assert list(read_mmimdb_hdf5(small(tmp_path / "a", features=features)).skipped) == [IDS[2]]


def test_split_without_usable_records_is_refused(tmp_path):
    features = np.ones((6, 300))
    features[3] = np.nan
    with pytest.raises(InputError, match=r"split 'dev', got none \(1 of all 6 unusable, e\.g\."):
        read_mmimdb_hdf5(small(tmp_path / "a.h5", features=features))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": None}, "no field 'features'; expected images, features, genres, imdb_ids"),
        ({"imdb_ids": None}, "no field 'imdb_ids'; .* got features, genres, images; download"),
        ({"images": np.zeros((6, 256, 160, 3), "i4")}, r"'images' of shape \(N, 3, 256, 160\)"),
        ({"images": np.zeros((5, 3, 256, 160), "i4")}, r"N = 6 as in imdb_ids.*int32 \(5, 3,"),
        ({"images": np.zeros((6, 3, 256, 160), "u1")}, "published type, got uint8"),
        ({"features": np.zeros((6, 200))}, r"'features' of shape \(N, 300\).*got float64 \(6, 200"),
        ({"features": np.zeros((6, 300), "S3")}, r"published type, got \|S3"),
        ({"genres": np.eye(6, 27)}, r"'genres' of shape \(N, 23\)"),
        ({"genres": np.eye(6, 23) * 2}, "expected 0 and 1 in 'genres'"),
        ({"imdb_ids": np.array(b"one")}, "expected 1 to 100,000 records, got 0"),
        ({"imdb_ids": np.zeros((0,), "S7")}, "expected 1 to 100,000 records, got 0"),
        ({"imdb_ids": np.zeros((6, 2), "S7")}, r"'imdb_ids' of shape \(N\)"),
    ],
)
def test_missing_fields_and_wrong_shapes_are_told(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_mmimdb_hdf5(small(tmp_path / "a.h5", **change))


def test_group_in_place_of_a_field_is_refused(tmp_path):
    path = small(tmp_path / "a.h5", features=None)
    with h5py.File(path, "a") as file:
        file.create_group("features")
    with pytest.raises(InputError, match="something else than data as 'features'"):
        read_mmimdb_hdf5(path)


def test_large_chunks_are_refused(tmp_path, monkeypatch):
    path = small(tmp_path / "a.h5")
    monkeypatch.setattr(hdf5, "MAX_CHUNK_BYTES", 3 * 256 * 160 * 4)
    read_mmimdb_hdf5(path)
    monkeypatch.setattr(hdf5, "MAX_CHUNK_BYTES", 3 * 256 * 160 * 4 - 1)
    with pytest.raises(InputError, match="'images' in small chunks.*in chunks of 491,520 bytes"):
        read_mmimdb_hdf5(path)


@pytest.mark.parametrize("ids", [np.zeros(6, "S65"), ["x" * 65] * 6])
def test_long_ids_are_refused(tmp_path, ids):
    message = "published type, got .S65" if isinstance(ids, np.ndarray) else "an id of 65 char"
    path = small(tmp_path / "a.h5", imdb_ids=ids)
    with pytest.raises(InputError, match=message):
        read_mmimdb_hdf5(path)


def test_attributes_of_thousands_of_values_are_not_read(tmp_path):
    path = small(tmp_path / "a.h5", split=np.repeat(fuel(SPLIT), 100))
    with pytest.raises(InputError, match=r"no usable attribute 'split' \(split has 1500 values"):
        read_mmimdb_hdf5(path)
    path = small(tmp_path / "b.h5", names=None)
    with h5py.File(path, "a") as file:  # texts of any length: each could be the same long one
        file["genres"].attrs["target_names"] = [*GENRES, "Opera"]
    with pytest.raises(InputError, match=r"\(target_names has 24 values\)"):
        read_mmimdb_hdf5(path)


def test_rows_are_read_in_blocks_to_the_same_records(tmp_path, monkeypatch):
    whole = read_mmimdb_hdf5(small(tmp_path / "a.h5"))
    monkeypatch.setattr(hdf5, "_BLOCK", 4)
    blocks = read_mmimdb_hdf5(tmp_path / "a.h5")
    assert blocks.fingerprint() == whole.fingerprint()
    assert (blocks.labels() == whole.labels()).all()


def test_claim_of_a_trillion_rows_costs_nothing(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, shape in hdf5._SHAPES.items():
            kind = "S7" if name == "imdb_ids" else "f4"
            file.create_dataset(name, (10**12, *shape), kind, chunks=(1, *shape))
    with pytest.raises(InputError, match="got 1,000,000,000,000"):
        read_mmimdb_hdf5(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6, 0.999])
def test_truncated_file_is_refused(tmp_path, share):
    path = small(tmp_path / "a.h5")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"is not (a whole|an) HDF5 file.*download it again"):
        read_mmimdb_hdf5(path)


def test_damaged_image_is_counted_when_decoded(tmp_path):
    path = small(tmp_path / "a.h5")
    whole = read_mmimdb_hdf5(path).fingerprint()
    with h5py.File(path, "r") as file:
        chunk = file["images"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    data = read_mmimdb_hdf5(path)
    with pytest.raises(ValueError, match="damaged: .*filter returned failure"):
        data.records[2].inputs["image"].load()
    images, bad = decode_images(data, "image", (8, 8), tmp_path / "images.npy")
    assert list(bad) == [IDS[2]] and len(images) == 5
    assert data.fingerprint() != whole


def test_what_is_no_hdf5_file_is_refused(tmp_path):
    (tmp_path / "a.h5").write_text("hello")
    with pytest.raises(InputError, match="is not an HDF5 file; expected multimodal_imdb.hdf5"):
        read_mmimdb_hdf5(tmp_path / "a.h5")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is no file; expected multimodal_imdb.hdf5"):
            read_mmimdb_hdf5(path)


SPLITS_THAT_ARE_NONE = {
    "missing": (None, "split"),
    "text": ("train", "no usable attribute 'split'"),
    "two splits": ({"train": (0, 3), "test": (3, 6)}, r"it has the splits \['test', 'train'\]"),
    "overlap": (SPLIT | {"dev": (2, 4)}, "dev is rows 2 to 4 of 6, or shares some"),
    "too long": (SPLIT | {"test": (4, 7)}, "test is rows 4 to 7 of 6"),
    "empty": (SPLIT | {"dev": (3, 3)}, "dev is rows 3 to 3"),
    "negative": (SPLIT | {"train": (-3, 3)}, "train is rows -3 to 3"),
    "disagreeing": (
        np.concatenate([fuel(SPLIT, ["images"]), fuel(SPLIT | {"dev": (2, 3)}, ["genres"])]),
        "the fields disagree on dev",
    ),
}


@pytest.mark.parametrize("case", SPLITS_THAT_ARE_NONE)
def test_split_that_is_none_is_told(tmp_path, case):
    split, message = SPLITS_THAT_ARE_NONE[case]
    path = small(tmp_path / "a.h5", split=split)
    with pytest.raises(InputError, match=rf"{message}.* or the published 25,959 rows, got 6"):
        read_mmimdb_hdf5(path)


def test_split_that_lists_rows_is_refused(tmp_path):
    path = small(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file["rows"] = np.arange(3)
        file.attrs["split"] = fuel(SPLIT, indices=file["rows"].ref)
    with pytest.raises(InputError, match="it lists single rows"):
        read_mmimdb_hdf5(path)


def test_published_row_order_stands_in_for_a_missing_split(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(hdf5, "_PUBLISHED", {"train": 3, "dev": 2, "test": 1})
    data = read_mmimdb_hdf5(small(tmp_path / "a.h5", split=None))
    assert [r.split for r in data.records] == ["train"] * 3 + ["dev"] * 2 + ["test"]
    assert "its rows are taken to be in published order" in caplog.text


def test_published_sizes_are_the_papers():
    assert sum(hdf5._PUBLISHED.values()) == 25_959
    assert hdf5._PUBLISHED == {"train": 15_552, "dev": 2_608, "test": 7_799}


def test_fingerprint_covers_pixels_and_features(tmp_path):
    plain = read_mmimdb_hdf5(small(tmp_path / "a.h5"))
    again = read_mmimdb_hdf5(small(tmp_path / "b.h5", names=GENRES[::-1]))
    assert plain.fingerprint() == again.fingerprint()
    others = {"covers": [grey(7)] * 6}, {"features": np.zeros((6, 300))}
    for name, change in zip("cd", others, strict=True):
        other = read_mmimdb_hdf5(small(tmp_path / name, **change))
        assert other.fingerprint() != plain.fingerprint()
