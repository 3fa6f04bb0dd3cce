"""Files that are either whole or absent: atomic writes and checked JSON."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ssnas_core._checked import MAX_JSON, file_size, parse_json, plain_name, read_bytes
from ssnas_core.errors import InputError, one_line

MAX_HEADER = 2**22
"""Bytes of the names and shapes in a safetensors file; VGG-19's take 4,000."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_PART = ".part"  # how the names of temporary files end; they begin with a dot


@contextmanager
def told_where(path: Path) -> Iterator[None]:
    """Tell a disk that is full or read-only in one line that names `path`.

    Raises:
        InputError: instead of what the block raises in such a case.
        KeyboardInterrupt: one that came in the block, whatever was raised over it.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # torch and safetensors have their own kinds
        for cause in _causes(error):
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
        number = _errno_of(error, Path(path).parent)
        if number in _FULL:
            remedy = "make room there; what was written before is whole, and is gone on from"
        elif number in _READ_ONLY:
            remedy = "make it writable, or name another folder"
        else:
            raise
        raise InputError(f"cannot write {path}: {os.strerror(number)}; {remedy}.") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it hides: torch raises one of its own over any other."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _errno_of(error: BaseException, folder: Path) -> int:
    """The system's number for what went wrong in `folder`, or 0."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno:
            named = Path(os.fsdecode(cause.filename)) if cause.filename else folder
            return cause.errno if folder.is_relative_to(named) or folder in named.parents else 0
        rust = re.search(r"\(os error (\d+)\)", str(cause))  # safetensors
        if rust is not None:
            return int(rust[1])
    return 0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it only if the block succeeds.

    Args:
        path: the file to be; its folder is created.

    Yields:
        The path to write to. If the block raises, nothing is left behind and
        an older file at `path` is untouched.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    with told_where(path), _beside(path) as temporary:
        yield temporary


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Delete the temporary files under `folder` that killed processes left there.

    Only for who is alone there. Folders in it that have a lock of their own are
    left as they are: another process may be at work.
    """
    for parent, folders, files in os.walk(folder):
        if ".lock" in files and Path(parent) != Path(folder):
            folders.clear()
            continue
        for name in files:
            if name.startswith(".") and name.endswith(_PART):
                with suppress(OSError):
                    os.unlink(Path(parent, name))


def reserve(path: Path) -> None:
    """Claim the disk's blocks for a file that will be written through a map.

    A full disk is then an error now, and not a fatal signal (SIGBUS) later.

    Raises:
        OSError: the disk is full.
    """
    with open(path, "rb+") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, limit: int = MAX_JSON) -> Any:
    """The JSON document in `path`, of at most `limit` bytes.

    Raises:
        InputError: the file is missing, unreadable, too large, or not JSON.
    """
    data = read_bytes(path, limit)
    try:
        return parse_json(data)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); restore or delete it.") from error


def read_fields(path: Path, *names: str) -> dict[str, Any]:
    """The JSON object in `path`, which has these fields.

    Raises:
        InputError: as `read_json`; or it is something else.
    """
    told = read_json(path)
    lacking = [name for name in names if not isinstance(told, dict) or name not in told]
    if lacking:
        raise InputError(
            f"{path}: expected an object with {', '.join(names)}, got none with "
            f"{lacking[0]}; restore it, or make the run anew."
        )
    return told


def read_name(path: Path, field: str) -> str:
    """The field of the JSON object in `path` that names an entry of a folder, and is no path.

    Raises:
        InputError: as `read_fields`; or it is something else.
    """
    return plain_name(read_fields(path, field)[field], f"{path}: {field}")


def save_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write named tensors to `path` as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, temporary)


def load_tensors(path: Path) -> dict[str, Any]:
    """The named tensors in the safetensors file `path`, on the CPU.

    Raises:
        InputError: the file is missing or broken.
    """
    from safetensors.torch import load_file

    try:
        size = file_size(path)
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > min(size, MAX_HEADER):  # it is parsed as a whole
            raise ValueError(f"a header of {header:,} bytes")
        return load_file(path)
    except Exception as error:  # a header may also name types and sizes that torch refuses
        reason = one_line(str(error) or type(error).__name__)
        raise InputError(f"cannot read tensors from {path}: {reason}; make it anew.") from error
