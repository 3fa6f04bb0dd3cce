"""Files from anywhere, read within bounds: each reader returns, or refuses the file in one line.

A file may be cut short, edited, made by somebody else to do harm, or no file at
all (a pipe, a device). So its size is looked at before it is read, and what it
declares before memory is taken for that. Nothing in a file is executed.
"""

from __future__ import annotations

import json
import re
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any

from ssnas_core.errors import InputError, one_line

MAX_JSON = 32 * 2**20
"""Bytes of a JSON document, unless its reader knows better; full-size runs stay below 5 MB."""

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a surrogate pair, perhaps without the other


def file_size(path: Path) -> int:
    """Bytes of the regular file `path`; what is not one could be read for ever.

    Raises:
        InputError: there is none, or it is a folder, a pipe or a device.
    """
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path}: {reason}.") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "Is a directory" if stat.S_ISDIR(found.st_mode) else "it is no ordinary file"
        raise InputError(f"cannot read {path}: {kind}.")
    return found.st_size


def read_bytes(path: Path, limit: int) -> bytes:
    """What is in the file `path` of at most `limit` bytes.

    Raises:
        InputError: as `file_size`; or it is larger, or not to be read.
    """
    size = file_size(path)
    if size > limit:
        raise InputError(
            f"{path} has {size:,} bytes, more than the {limit:,} that such a file may have; "
            "restore or delete it."
        )
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error


def parse_json(data: bytes) -> Any:
    """The JSON document in `data`, UTF-8.

    Raises:
        ValueError: it is none, has too many values (each may take 200 bytes of memory),
            is nested too deeply, or has texts that cannot be written.
    """
    values = sum(map(data.count, (b",", b"[", b"{")))
    if values > max(2_000_000, len(data) // 16):
        raise ValueError(f"{values:,} values, more than such a document has")
    try:
        found = json.loads(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _HALF.search(data):
        json.dumps(found, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return found


def load_states(path: Path, what: str = "checkpoint") -> Any:
    """What `torch.save` wrote to `path`: tensors and plain values, on the CPU; nothing is run.

    The file is a zip. Its checksums are compared, which torch does not do, so that
    a flipped bit does not become another weight; and what is packed in it could
    unpack to any size.

    Raises:
        InputError: it is missing, broken, or holds something else.
    """
    import torch

    size = file_size(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(one.file_size for one in archive.infolist()) > size:
                raise zipfile.BadZipFile("members that unpack to more, or overlap")
            broken = archive.testzip()
        if broken is not None:
            raise zipfile.BadZipFile(f"checksum of {broken}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about the file is told below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        kind = type(error).__name__
        raise InputError(f"{path} is not a usable {what} ({kind}); delete it.") from error


def map_array(path: Path, mode: str = "r") -> Any:
    """The .npy array in `path`, mapped: a header that promises more than the file is refused.

    Raises:
        InputError: it is missing, no array of numbers, or shorter than it says.
    """
    import numpy as np

    file_size(path)
    try:
        with open(path, "rb") as file:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:
                raise ValueError("no .npy file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that overflow
            array = np.load(path, mmap_mode=mode, allow_pickle=False)  # type: ignore[call-overload]
        if array.dtype.kind not in "biufc" or not array.dtype.isnative:
            raise ValueError(f"values of type {array.dtype}")
    except Exception as error:  # a broken header is parsed as Python's literals: many kinds
        reason = one_line(str(error) or type(error).__name__)
        raise InputError(f"cannot read an array from {path} ({reason}); make it anew.") from error
    return array


def plain_name(name: Any, where: str) -> str:
    """`name` if it is that of an entry of one folder, and not a path to somewhere else.

    Raises:
        InputError: it is none; the message begins with `where`.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.,-]{0,200}", name, re.ASCII):
        raise InputError(f"{where}: expected a plain name, got {str(name)[:60]!r}; restore it.")
    return name
