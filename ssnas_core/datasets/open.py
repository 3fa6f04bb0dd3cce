"""Any source of samples: a path, whose content decides on its reader, or a name.

A name is that of a part: "sample", "scenes", "scenes:grounding", "scenes:captions", "digits", an
entry point "ssnas.dataset" of an installed package, or "package.module:Name". It stands for a
`Dataset`, or for a function or class that makes one (or the path of one) without arguments. Or it
is a reader's with a path behind it, as "posters:mmimdb.tar.gz" and "mnist:FOLDER", where the
content alone would lead to another one.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from pathlib import Path
from typing import Any

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.datasets import DATASETS, MADE_HERE
from ssnas_core.datasets.avmnist import is_avmnist
from ssnas_core.datasets.cifar import is_cifar
from ssnas_core.datasets.flickr8k import is_flickr8k
from ssnas_core.datasets.images import holds_images
from ssnas_core.datasets.karpathy import is_karpathy
from ssnas_core.datasets.mnist import has_digits
from ssnas_core.datasets.nlvr import is_nlvr
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.refcoco import is_refcoco
from ssnas_core.datasets.rows import FORMS, table_files
from ssnas_core.datasets.table import TableOptions
from ssnas_core.datasets.vqa import is_vqa

_UNDERSTOOD = (
    "mmimdb.tar.gz or its unpacked folder, multimodal_imdb.hdf5, a table of images, texts and "
    "labels (.csv, .tsv, .jsonl, .parquet, .arrow), or a folder with exactly one or with one for "
    "each split, or a folder of MNIST's files (with FSDD: AV-MNIST), of torchvision's CIFAR10 or "
    "CIFAR100, or with a folder of images for each class, or nlvr.tar.gz, or captions.json and "
    "split.json beside pictures, or Karpathy's dataset_flickr30k.json or VQA v2's questions and "
    "annotations beside pictures or region files, or RefCOCO's train.json, val.json, testA.json "
    "and testB.json beside region files, or a .npz file of arrays, or READER:PATH, as "
    "posters:mmimdb.tar.gz, or scenes, scenes:grounding, scenes:captions, digits or "
    "package.module:Name of a data set"
)
_STARTS = {
    **{b"\x89HDF\r\n\x1a\n": "mmimdb-hdf5", b"\x1f\x8b": "mmimdb", b"PK\3\4": "npz"},
    **{b"PAR1": "table", b"ARROW1": "table"},
}


def _is_mmimdb(folder: Path) -> bool:
    """Whether the folder, or the one `mmimdb` in it, holds MM-IMDB's split.json."""
    return any((root / "split.json").is_file() for root in (folder, folder / "mmimdb"))


_FOLDERS = {  # asked in this order
    **{"flickr8k": is_flickr8k, "mmimdb": _is_mmimdb, "avmnist": is_avmnist, "mnist": has_digits},
    **{"nlvr": is_nlvr, "cifar": is_cifar, "karpathy": is_karpathy, "vqa": is_vqa},
    "refcoco": is_refcoco,
    **{"table": lambda folder: bool(table_files(folder)), "images": holds_images},
}
_ENDINGS = {
    **{".hdf5": "mmimdb-hdf5", ".h5": "mmimdb-hdf5", ".tar.gz": "mmimdb", ".tgz": "mmimdb"},
    **dict.fromkeys(FORMS, "table"),
    ".npz": "npz",
}


def open_dataset(
    data: Path | str | Dataset,
    *,
    table: TableOptions | None = None,
    unpack_to: Path | None = None,
    strict: bool = False,
    progress: bool = False,
) -> Dataset:
    """Return the dataset that `data` is, leads to, or names.

    The first bytes of a file tell its reader, else its suffix; a folder's content does.

    - HDF5: `read_mmimdb_hdf5`
    - a gzip archive, or a folder with `split.json` or its parent: `read_mmimdb`
    - a `.csv`, `.tsv`, `.jsonl`, `.parquet` or `.arrow` file, or a folder of these: `read_table`
    - a `.npz` file: `read_npz`
    - a folder with MNIST's training images: `read_avmnist` where recordings or an archive of
      them are beside them, else `read_mnist`
    - a gzip archive that begins with a folder `nlvr`, or that folder or its parent: `read_nlvr`
    - a gzip archive that begins with a folder flickr8k..., or a folder with `captions.json` and
      `split.json`: `read_flickr8k`
    - a folder that torchvision's CIFAR10 or CIFAR100 downloaded to: `read_cifar`
    - a folder with a file as `dataset_flickr30k.json`: `read_karpathy`
    - a folder with train.json, val.json, testA.json and testB.json: `read_refcoco`
    - a folder with VQA's questions and annotations: `read_vqa`
    - any other folder with images in it, or in its folders: `read_images`

    Args:
        data: a file or folder; that behind the name of its reader, as "posters:mmimdb.tar.gz";
            the name of a dataset, as "package.module:Name"; or a dataset.
        table: what the columns of a table are; of other data nothing but the default is taken.
        unpack_to: folder for an archive's files, see `read_mmimdb`.
        strict: raise on the first unusable record instead of leaving it out.
        progress: show progress bars on stderr.

    Raises:
        InputError: nothing that is understood at a path, a name that stands for no dataset,
            options of a table for something else, or what the reader raises.
    """
    form = ""
    if not isinstance(data, Dataset) and is_named(data):
        form, path = _reader_in(str(data))
        data = Path(path) if form else _named(str(data))
    if isinstance(data, Dataset):
        _refuse_options(data.name, table)
        return data
    path = Path(data)
    form = form or form_of(path)
    options: dict[str, Any] = {"strict": strict, "progress": progress}
    if form == "table":
        options["options"] = table
    else:
        _refuse_options(str(data), table)
    if form in ("mmimdb", "posters"):
        options["unpack_to"] = unpack_to
    if form == "npz":
        options = {}
    return DATASETS.find(form)(path, **options)


def source_stamp(data: Path) -> str | None:
    """Return a hash of name, size and time of the files at a path; None where there are none.

    It changes whenever a table, a file of records or an archive is written, but not with the
    images that a table names.
    """
    path = Path(data)
    if not path.exists():
        return None
    files = [path] if path.is_file() else [file for file, _ in table_files(path)]
    if path.is_dir() and form_of(path) != "table":
        files = [Path(root) / name for root, _, names in os.walk(path) for name in names]
    stats = [(str(file.relative_to(path)), file.stat()) for file in sorted(files)]
    parts = [(name, status.st_size, status.st_mtime_ns) for name, status in stats]
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _refuse_options(name: str, table: TableOptions | None) -> None:
    if table not in (None, TableOptions()):
        raise InputError(
            f"{name} is no table, so it has no columns to name; drop --images, --texts, --labels, "
            "--id, --split, --labels-separator, --single-label and --missing."
        )


def is_named(data: Path | str) -> bool:
    """Whether `data` is the name of a dataset or of a reader with a path, and no path."""
    name = str(data)
    module, colon, attribute = name.partition(":")
    words = [*module.split("."), attribute]
    dotted = bool(colon) and all(word.isidentifier() for word in words)
    known = name in MADE_HERE or name in DATASETS.brought or bool(_reader_in(name)[0])
    return (dotted or known) and not Path(data).exists()


def _reader_in(name: str) -> tuple[str, str]:
    """Return the reader and the path of "READER:PATH"; "" for the reader of any other name."""
    reader, _, path = name.partition(":")
    there = path and reader in DATASETS.table and reader not in MADE_HERE
    return (reader, path) if there else ("", name)


def _named(name: str) -> Dataset | Path:
    """Return the dataset that a name stands for, or the path of one."""
    part = DATASETS.find(name)
    if not isinstance(part, Dataset) and callable(part):
        try:
            inspect.signature(part).bind()
        except (TypeError, ValueError) as error:
            raise InputError(
                f"cannot call the dataset {name!r} ({error}); expected a function or class "
                "without required arguments."
            ) from error
        part = part()
    if not isinstance(part, Dataset | Path):
        raise InputError(
            f"the dataset {name!r} is a {type(part).__name__}; expected a Dataset, or a function "
            "that returns one, as ArrayDataset({...}, labels)."
        )
    return part


def form_of(path: Path) -> str:
    """Return the name of the reader, of those in `DATASETS`, of what lies at `path`.

    Raises:
        InputError: nothing that is understood.
    """
    if path.is_dir():
        for form, holds in _FOLDERS.items():
            if holds(path):
                return form
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        tables = [name for name in names if name.lower().endswith(FORMS)]
        held = f"{len(tables)} tables" if tables else one_line(", ".join(names[:5])) or "nothing"
        raise InputError(f"{path} holds {held}; expected {_UNDERSTOOD}: mend the path.")
    if not path.is_file():
        problem = "is neither file nor folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {problem}; expected {_UNDERSTOOD}: mend the path.")
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    for start, form in _STARTS.items():
        if head.startswith(start):
            archives = {"flickr8k": is_flickr8k, "nlvr": is_nlvr} if form == "mmimdb" else {}
            return next((other for other, holds in archives.items() if holds(path)), form)
    for ending, form in _ENDINGS.items():
        if path.name.lower().endswith(ending):
            return form  # whose reader says what is wrong
    raise InputError(f"{path} is of no known form; expected {_UNDERSTOOD}: mend the path.")
