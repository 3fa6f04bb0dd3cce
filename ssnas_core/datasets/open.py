"""Any source of samples by its path: what lies there decides which reader is called."""

from __future__ import annotations

from pathlib import Path

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.avmnist import is_avmnist, read_avmnist
from ssnas_core.datasets.mmimdb import read_mmimdb
from ssnas_core.datasets.mmimdb_hdf5 import read_mmimdb_hdf5
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.table import read_table

_UNDERSTOOD = (
    "mmimdb.tar.gz or its unpacked folder, multimodal_imdb.hdf5, a CSV file of images, texts and "
    "labels, or a folder with exactly one, or a folder of MNIST's files and FSDD"
)
_HDF5 = b"\x89HDF\r\n\x1a\n"
_GZIP = b"\x1f\x8b"
_SUFFIXES = {"hdf5": (".hdf5", ".h5"), "mmimdb": (".tar.gz", ".tgz"), "table": (".csv",)}


def open_dataset(
    path: Path, *, unpack_to: Path | None = None, strict: bool = False, progress: bool = False
) -> Dataset:
    """The dataset at `path`.

    A file is told by its first bytes, else by its suffix; a folder by what it holds.

    - HDF5: `read_mmimdb_hdf5`
    - a gzip archive, or a folder with `split.json` or its parent: `read_mmimdb`
    - a `.csv` file, or a folder with exactly one: `read_table`
    - a folder with MNIST's training images: `read_avmnist`

    Args:
        path: a file or folder.
        unpack_to: folder for an archive's files, see `read_mmimdb`.
        strict: raise on the first unusable record instead of leaving it out.
        progress: show progress bars on stderr.

    Raises:
        InputError: nothing that is understood at `path`, or what its reader raises.
    """
    path = Path(path)
    form = form_of(path)
    if form == "hdf5":
        return read_mmimdb_hdf5(path, strict=strict, progress=progress)
    if form == "table":
        return read_table(path, strict=strict, progress=progress)
    if form == "avmnist":
        return read_avmnist(path, strict=strict, progress=progress)
    return read_mmimdb(path, unpack_to=unpack_to, strict=strict, progress=progress)


def form_of(path: Path) -> str:
    """What lies at `path`: "hdf5", "table", "avmnist" or "mmimdb".

    Raises:
        InputError: nothing that is understood.
    """
    if path.is_dir():
        if any((root / "split.json").is_file() for root in (path, path / "mmimdb")):
            return "mmimdb"
        if is_avmnist(path):
            return "avmnist"
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        tables = [name for name in names if name.lower().endswith(".csv")]
        if len(tables) == 1:
            return "table"
        held = f"{len(tables)} CSV files" if tables else ", ".join(names[:5]) or "nothing"
        raise InputError(f"{path} holds {held}; expected {_UNDERSTOOD}: mend the path.")
    if not path.is_file():
        what = "is neither file nor folder" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}; expected {_UNDERSTOOD}: mend the path.")
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error
    name = path.name.lower()
    if head.startswith(_HDF5):
        return "hdf5"
    if head.startswith(_GZIP):
        return "mmimdb"
    for form, suffixes in _SUFFIXES.items():
        if name.endswith(suffixes):
            return form  # whose reader says what is wrong
    raise InputError(f"{path} is of no known form; expected {_UNDERSTOOD}: mend the path.")
