import json
import shutil
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets import DATASETS
from ssnas_core.datasets.arrays import ArrayDataset
from ssnas_core.datasets.open import is_named, open_dataset
from ssnas_core.datasets.sample import corpus


@pytest.fixture
def stored(tmp_path):
    """MM-IMDB's HDF5 file with three posters of noise."""
    with h5py.File(tmp_path / "multimodal_imdb.hdf5", "w") as file:
        file["images"] = np.random.default_rng(0).integers(-103, 131, (3, 3, 256, 160), "i4")
        file["features"] = np.zeros((3, 300), "f4")
        file["genres"] = np.eye(3, 23, dtype="i4")
        file["imdb_ids"] = np.array([b"1", b"2", b"3"])
        split = [(s, b"images", n, n + 1, h5py.Reference(), True, b".")
                 for n, s in enumerate((b"train", b"dev", b"test"))]  # fmt: skip
        kind = [("split", "S5"), ("source", "S6"), ("start", "i8"), ("stop", "i8"),
                ("indices", h5py.special_dtype(ref=h5py.Reference)), ("available", "?"),
                ("comment", "S1")]  # fmt: skip
        file.attrs["split"] = np.array(split, dtype=kind)
    return tmp_path / "multimodal_imdb.hdf5"


@pytest.fixture
def table(movies, tmp_path):
    """A folder with the movies as a CSV file and posters."""
    folder = movies.folder(tmp_path / "table")
    (folder / "split.json").unlink()
    lines = ["id,poster,plot,genres"]
    for number in range(60):
        movie = json.loads(movies.files[movies.json(number)])
        cells = movies.name(number), movies.poster(number), movie["plot"][0]
        lines.append(",".join((*cells, "|".join(movie["genres"]))))
    (folder / "movies.csv").write_text("\n".join(lines))
    return folder


def test_archive_its_folder_and_the_folders_parent_are_mmimdb(movies, tmp_path):
    folder = movies.folder(tmp_path / "home" / "mmimdb")
    archive = movies.archive(tmp_path / "data")  # told by its first bytes
    prints = {
        open_dataset(path, unpack_to=tmp_path / "unpacked").fingerprint()
        for path in (archive, str(archive), folder, folder.parent)
    }
    assert len(prints) == 1
    assert (tmp_path / "unpacked" / "split.json").exists()


def test_folder_of_mmimdb_stays_so_with_a_csv_beside(movies, tmp_path):
    folder = movies.folder(tmp_path / "mmimdb")
    (folder / "notes.csv").write_text("x")
    assert open_dataset(folder).name == "mmimdb"


def test_hdf5_is_told_by_its_first_bytes(stored):
    assert open_dataset(stored).kinds == {"image": "image", "text": "array"}
    for name in ("data.bin", "data.csv", "data.tar.gz"):
        copy = stored.with_name(name)
        shutil.copy(stored, copy)
        assert open_dataset(copy).kinds == {"image": "image", "text": "array"}


def test_table_and_its_folder_are_read(table):
    for path in (table, table / "movies.csv"):
        data = open_dataset(path)
        assert len(data) == 60
        assert data.kinds == {"image": "image", "text": "text"}
        assert data.name == "movies"


def test_strict_reaches_every_reader(table, stored, movies, tmp_path):
    (table / movies.poster(3)).unlink()
    broken = movies.folder(tmp_path / "broken")
    (broken / movies.poster(3)).unlink()
    with h5py.File(stored, "a") as file:
        file["imdb_ids"][0] = b"2"
    for path in (table, broken, stored):
        with pytest.raises(InputError, match="read with strict off to leave it out"):
            open_dataset(path, strict=True)
    assert len(open_dataset(table)) == len(open_dataset(broken)) == 59


class Owls(ArrayDataset):
    """A data set of one's own that needs no arguments."""

    def __init__(self):
        rng = np.random.default_rng(0)
        super().__init__(
            {"a": rng.normal(size=(20, 3)), "b": rng.normal(size=(20, 2))}, [0, 1] * 10
        )


def owls():
    return Owls()


def needy(path):
    return path


PARTS = {
    "Owls": Owls,
    "owls": owls,
    "ready": Owls(),
    "needy": needy,
    "word": "owl",
    "none": lambda: {},
}


@pytest.fixture
def mine(monkeypatch):
    """A module of one's own."""
    module = types.ModuleType("my.data")
    vars(module).update(PARTS)
    monkeypatch.setitem(sys.modules, "my", types.ModuleType("my"))
    monkeypatch.setitem(sys.modules, "my.data", module)
    return module


def test_dataset_is_named_as_module_and_name(mine):
    prints = {open_dataset(f"my.data:{name}").fingerprint() for name in ("Owls", "owls", "ready")}
    assert prints == {Owls().fingerprint()}
    assert open_dataset(mine.ready) is mine.ready
    assert open_dataset(Path("my.data:ready")) is mine.ready


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my.data:eagles", "cannot import the dataset 'my.data:eagles'"),
        ("nowhere.at.all:owls", "cannot import the dataset 'nowhere.at.all:owls'"),
        ("my.data:needy", "cannot call the dataset 'my.data:needy' .*path.*without required"),
        ("my.data:word", "the dataset 'my.data:word' is a str; expected a Dataset, or a function"),
        ("my.data:none", "the dataset 'my.data:none' is a dict; expected a Dataset"),
        ("my data:owls", "my data:owls does not exist; expected mmimdb.tar.gz"),
    ],
)
def test_name_that_stands_for_no_dataset_is_told(mine, name, message):
    with pytest.raises(InputError, match=message):
        open_dataset(name)


def test_path_that_looks_like_a_name_is_a_path(mine, table, monkeypatch):
    monkeypatch.chdir(table.parent)
    table.rename("my.data:ready")
    assert len(open_dataset("my.data:ready")) == 60
    assert not is_named("my.data:ready") and is_named("my.data:other")


def test_readers_and_the_sample_are_named_in_one_table(tmp_path, monkeypatch, movies):
    assert DATASETS.names()[:19] == (
        *("mmimdb", "mmimdb-hdf5", "posters", "avmnist", "mnist", "cifar", "images", "nlvr"),
        *("flickr8k", "karpathy", "refcoco", "vqa", "table", "npz"),
        *("sample", "scenes", "scenes:grounding", "scenes:captions", "digits"),
    )
    assert all(text for _, _, text in DATASETS.described())
    archive = movies.archive(tmp_path / "a.tar.gz")
    monkeypatch.setattr(corpus, "sample_archive", lambda: archive)
    assert len(open_dataset("sample", unpack_to=tmp_path / "unpacked")) == 60


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.h5", "a.h5 is not an HDF5 file"),
        ("a.HDF5", "a.HDF5 is not an HDF5 file"),
        ("a.tar.gz", r"a\.tar\.gz is not a whole \.tar\.gz archive"),
        ("a.csv", "expected a column of labels"),
        ("a.txt", "a.txt is of no known form; expected mmimdb.tar.gz or its unpacked folder, "),
        ("a", "a is of no known form; .*multimodal_imdb.hdf5, a table of images, texts and"),
    ],
)
def test_other_content_is_told_by_its_reader_or_what_is_understood_is_listed(
    tmp_path, name, message
):
    (tmp_path / name).write_text("some text")
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / name)


def test_gzip_of_something_else_is_told_by_the_archives_reader(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\x1f\x8b of something")
    with pytest.raises(InputError, match="is not a whole .tar.gz archive"):
        open_dataset(tmp_path / "a.csv")


def test_folders_that_hold_nothing_known_are_told(tmp_path):
    with pytest.raises(InputError, match="holds nothing; expected mmimdb.tar.gz or"):
        open_dataset(tmp_path)
    for name in ("a.txt", ".b.csv", "c.jpeg"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="holds a.txt, c.jpeg; expected"):
        open_dataset(tmp_path)
    for name in ("a.csv", "b.CSV"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="holds 2 tables; expected .* exactly one"):
        open_dataset(tmp_path)


def test_nothing_and_devices_are_told(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist; expected mmimdb.tar.gz or"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match="/dev/zero is neither file nor folder"):
        open_dataset(Path("/dev/zero"))
