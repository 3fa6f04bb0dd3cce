"""Targets of the fuzz tests: every reader of other people's data."""

from __future__ import annotations

import importlib
import json
import os
import random
from functools import partial
from pathlib import Path

import archive_inputs
import classes_inputs
import folder_inputs
import hdf5_inputs
import image_inputs
import mirror_inputs
import npz_inputs
import rows_inputs
import saved_inputs
import table_inputs
import vector_inputs
from making import Case
from PIL import Image
from targets import Target

from ssnas_core.backbones.text import Word2VecMLP
from ssnas_core.datasets import download as mirrors
from ssnas_core.datasets.open import open_dataset
from ssnas_core.datasets.records import Dataset, load_dataset
from ssnas_core.features.inputs import decode_images

# What readers import at their first use: once here, and not in each child.
for _module in (
    *("h5py", "requests", "urllib3", "PIL.ImageOps", "tqdm.auto", "pyarrow.parquet"),
    "torchvision.datasets",
):
    importlib.import_module(_module)
Image.init()


def use(dataset: Dataset, folder: Path) -> str:
    """Do with a data set what a preparation does: decode, hash, count, split."""
    work = folder / "work"
    bad: dict[str, str] = {}
    for modality, kind in dataset.kinds.items():
        if kind == "image":
            rows, told = decode_images(dataset, modality, (48, 32), work / f"{modality}.npy")
            assert len(rows) + len(told) == len(dataset)
            assert int(rows.sum()) >= 0
            bad |= told
        else:
            assert len(dataset.column(modality)) == len(dataset)
    kept = dataset.without(bad) if bad else dataset
    assert len(kept.targets()) == len(kept.labels()) == len(kept)
    assert sum(len(kept.indices(split)) for split in ("train", "dev", "test")) == len(kept)
    kept.fingerprint()
    return f"{len(kept)} records, {len(kept.skipped)} skipped"


def read(path: Path) -> str:
    """Open a data set and use it."""
    home = next(p for p in (path, *path.parents) if p.name == "input")
    return use(open_dataset(path, unpack_to=home / "unpacked"), home)


def read_vectors(path: Path) -> str:
    """Fit word vectors, and use them."""
    text = "ship robot queen war love city"
    fitted = Word2VecMLP(path, words=5).fit([text, "war war"])
    vectors = fitted.vectorize([text, "nothing"])
    assert vectors.isfinite().all() or not fitted.vectors.isfinite().all()
    return f"{tuple(vectors.shape)}"


def read_saved(path: Path) -> str:
    """Load the records of a run, and use them."""
    return use(load_dataset(path), path.parent)


def fetch(path: Path) -> str:
    """Download from a mirror, and look whether what came is kept as the data."""
    told = json.loads(path.read_text())
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    mirrors._TIMEOUT, mirrors._MOST = 2.0, 50 * 10**6
    folder = path.parent / "data"
    if told["there"]:
        folder.mkdir()
        (folder / "multimodal_imdb.hdf5").write_bytes(b"an older file")
    made = mirrors.download("mmimdb-hdf5", folder, urls=[told["url"]])
    assert made.read_bytes()[:4] == b"\x89HDF" or False, "no HDF5 file was kept as one"
    return f"{made.stat().st_size} bytes"


SLOW = {  # seconds each
    ("archive", "many posters of zeros"), ("archive", "zeros behind the end"),
    ("archive", "many members"), ("archive", "record of 9 MB of lists"),
    ("archive", "many sparse posters"), ("archive", "member of three gigabytes"),
    ("archive", "long name of a gigabyte"), ("archive", "pax of a gigabyte"),
    ("folder", "record of 9 MB of objects"), ("hdf5", "100,000 rows"), ("hdf5", "one huge chunk"),
    *(("image", case) for case in image_inputs.CASES if "large" in case or "zTXt" in case),
    *(("image", case) for case in ("shapes", "PNG of many chunks", "PNG pixels bomb")),
    *(("image", case) for case in ("PNG iCCP bomb", "scans of a progressive JPEG")),
    *(("table", case) for case in table_inputs.CASES if "0 " in case or "million" in case),
    *(("vectors", case) for case in vector_inputs.CASES if "gzip of" in case),
    *(("mirror", case) for case in ("trickle", "silence", "endless", "gzip of a bomb")),
    ("mirror", "moved with an endless body"), ("saved", "100 MB of lists"),
    *(("npz", "150,000 samples"), ("mnist", "gzip of a gigabyte"), ("images", "1,001 classes")),
}  # fmt: skip
# What no reader may take, however well it looks: files that lead to other files.
REFUSED = {
    *(("hdf5", case) for case in ("links", "soft link to an external one", "external storage")),
    *(("hdf5", "virtual"), ("mirror", "HTML"), ("mirror", "no content"), ("mirror", "endless")),
    *(("npz", case) for case in ("pickle", "overlapping", "encrypted", "directory of a million")),
    ("rows", "bomb of a dictionary"),
    *(("npz", case) for case in ("zeros of a gigabyte", "many modalities", "a class for each")),
    *(("archive", case) for case in ("sparse of terabytes", "long name of a gigabyte")),
    *(("cifar", case) for case in classes_inputs.CIFAR),
    *(("mnist", case) for case in ("missing", "empty", "gzip of a gigabyte")),
    *(("images", case) for case in ("one class", "empty class", "1,001 classes")),
    *(("archive", case) for case in ("member of three gigabytes", "many posters of zeros")),
}


def make(name: str, cases: dict[str, Case], folder: Path, rng: random.Random) -> Path:
    """One of the cases, drawn; the slow ones less often."""
    slow = sorted(case for case in cases if (name, case) in SLOW)
    quick = sorted(cases.keys() - set(slow))
    return cases[rng.choice(slow if slow and rng.random() < 0.03 else quick)](folder, rng)


_READERS = {
    "archive": (archive_inputs.CASES, read),
    "cifar": (classes_inputs.CIFAR, read),
    "folder": (folder_inputs.CASES, read),
    "hdf5": (hdf5_inputs.CASES, read),
    "image": (image_inputs.CASES, read),
    "images": (classes_inputs.IMAGES, read),
    "mirror": (mirror_inputs.CASES, fetch),
    "mnist": (classes_inputs.MNIST, read),
    "npz": (npz_inputs.CASES, read),
    "rows": (rows_inputs.CASES, read),
    "saved": (saved_inputs.CASES, read_saved),
    "table": (table_inputs.CASES, read),
    "vectors": (vector_inputs.CASES, read_vectors),
}
CASES: dict[str, dict[str, Target]] = {
    name: {
        case: Target(one, reader, network=name == "mirror", named=name == "saved")
        for case, one in cases.items()
    }
    for name, (cases, reader) in _READERS.items()
}
TARGETS: dict[str, Target] = {
    name: Target(
        partial(make, name, cases), reader, network=name == "mirror", named=name == "saved"
    )
    for name, (cases, reader) in _READERS.items()
}
