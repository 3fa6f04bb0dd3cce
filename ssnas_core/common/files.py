"""Files: read within bounds, whoever made them, and written so that they are whole or absent.

A reader returns what its docstring says, or refuses the file in one line that names it.
A writer leaves the older file as it was until the new one is whole on the disk.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_dir

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.typed import typed

if TYPE_CHECKING:  # JSON is read without waiting for torch
    from torch import Tensor, nn

MAX_JSON = 32 * 2**20
"""Bytes of a JSON document, unless its reader knows better; full-size runs stay below 5 MB."""

MAX_HEADER = 2**22
"""Bytes of the names and shapes in a safetensors file; VGG-19's take 4,000."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair, perhaps without the other
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_PART = ".part"  # how the names of temporary files end; they begin with a dot

# --- reading


def file_size(path: Path) -> int:
    """Bytes of the regular file `path`; what is not one could be read for ever.

    Raises:
        InputError: there is none, or it is a folder, a pipe or a device.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {path}: {reason}.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "Is a directory" if stat.S_ISDIR(status.st_mode) else "it is no ordinary file"
        raise InputError(f"cannot read {path}: {kind}.")
    return status.st_size


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of the file `path`, of at most `limit` bytes.

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


def parse_json(data: bytes, shortest: int = 16) -> Any:
    """The JSON document in `data`, UTF-8, or another UTF as its first bytes tell.

    Of more than 2,000,000 values each has `shortest` bytes, on average, or more.

    Raises:
        ValueError: it is none, has too many values (each may take 200 bytes of memory),
            is nested too deeply, or has texts that cannot be written.
    """
    text = data.decode(json.detect_encoding(data))
    values = sum(map(text.count, ",[{"))
    if values > max(2_000_000, len(data) // shortest):
        raise ValueError(f"{values:,} values, more than such a document has")
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_texts(document, text)
    return document


def _check_texts(document: Any, text: str) -> None:
    """Raise UnicodeEncodeError, a ValueError, where `text`, a JSON document, has half a pair."""
    if _HALF.search(text):
        json.dumps(document, ensure_ascii=False).encode()


def read_json(path: Path, limit: int = MAX_JSON, shortest: int = 16) -> Any:
    """The JSON document in `path`, of at most `limit` bytes, as `parse_json` reads it.

    Raises:
        InputError: the file is missing, unreadable, too large, or not JSON.
    """
    data = read_bytes(path, limit)
    try:
        return parse_json(data, shortest)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); restore or delete it.") from error


def read_fields(path: Path, *names: str) -> dict[str, Any]:
    """The JSON object in `path`, which has these fields.

    Raises:
        InputError: as `read_json`; or it is something else.
    """
    value = read_json(path)
    lacking = [name for name in names if not isinstance(value, dict) or name not in value]
    if lacking:
        raise InputError(
            f"{path}: expected an object with {', '.join(names)}, got none with "
            f"{lacking[0]}; restore it, or make the run anew."
        )
    return value


def read_name(path: Path, field: str) -> str:
    """The field of the JSON object in `path` that names an entry of a folder, and is no path.

    Raises:
        InputError: as `read_fields`; or it is something else.
    """
    return plain_name(read_fields(path, field)[field], f"{path}: {field}")


def plain_name(name: Any, where: str) -> str:
    """`name` if it is that of an entry of one folder, and not a path to somewhere else.

    Raises:
        InputError: it is none; the message begins with `where`.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.,-]{0,200}", name, re.ASCII):
        raise InputError(f"{where}: expected a plain name, got {str(name)[:60]!r}; restore it.")
    return name


def load_states(path: Path, what: str = "checkpoint") -> Any:
    """The tensors and plain values that `torch.save` wrote to `path`, on the CPU; nothing is run.

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
            warnings.simplefilter("ignore")  # the file is judged below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        kind = type(error).__name__
        raise InputError(f"{path} is not a usable {what} ({kind}); delete it.") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
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


def check_shapes(build: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> None:
    """Raise unless the module that `build` makes fits `state`, before memory is taken for it.

    A description of a few bytes may ask for any number of weights; those in `state`
    are there already. So the module is built on torch's "meta" device, where tensors
    have shapes only. Draws no random number.

    Args:
        build: makes the module.
        state: what it is to be given by `load_state_dict`.

    Raises:
        InputError: a tensor of another shape, or far more tensors than `state` has.
            Names may differ: loading `state` is to refuse them.
    """
    import torch

    most, made = 4 * len(state) + 1000, 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise InputError(f"expected about {len(state)} tensors, got a module of more")

    hook = torch.nn.modules.module.register_module_parameter_registration_hook(count)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .* to a meta parameter", UserWarning)
        try:
            module = build()
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error):
                raise
            return  # it computes with its numbers, which only a real one can
        finally:
            hook.remove()
        try:
            module.load_state_dict(state, strict=False)
        except RuntimeError as error:  # a title, and a line for each tensor
            reason = str(error).partition("\n")[2] or error
            raise InputError(one_line(reason).rstrip(".")) from error


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


# --- writing


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Name `path` in the one-line error of a block that meets a full or read-only disk.

    Raises:
        InputError: instead of the block's error in such a case.
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
    """An error and those that it hides: torch raises one of its own over any other."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _errno_of(error: BaseException, folder: Path) -> int:
    """The system's number of an error in `folder`, or 0."""
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
    with disk_errors(path):
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
    """Claim the disk's blocks for a file that is to be written through a map.

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
    """Write `value` to `path` as indented JSON, atomically; NaN is refused.

    Raises:
        InputError: it has texts that no reader of JSON takes.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    try:
        _check_texts(value, text)
    except UnicodeEncodeError as error:
        raise InputError(
            f"cannot write {path}: expected texts that are Unicode, got {error.object[:60]!a}; "
            "mend it where it comes from."
        ) from error
    write_text(path, text)


# --- paths


def path_text(path: Path | str) -> str:
    """Return a path as files hold it: the same in every locale; `path_of` reads it.

    Raises:
        InputError: its bytes are not UTF-8, or it has control characters or line breaks.
    """
    try:
        text = os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected a path whose name is UTF-8, got {os.fsencode(path)!r:.300}; rename the "
            "folder or file, as no file that names it could be read again."
        ) from error
    return _plain_path(text)


def path_of(value: Any, where: str) -> Path:
    """Return the path that `path_text` made a text of; `value` comes from a file.

    Raises:
        InputError: it made no such text; the message begins with `where`.
    """
    text = typed(str, value, where)
    try:
        return Path(os.fsdecode(_plain_path(text).encode()))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _plain_path(text: str) -> str:
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text):
        raise InputError(
            f"expected a path of one line without control characters, got {text!a:.300}; rename "
            "the folder or file."
        )
    return text


def cache_folder() -> Path:
    """Return the folder on this machine for what can be made anew.

    `SSNAS_CACHE`, else `ssnas` in the user's folder for caches.
    """
    return Path(os.environ.get("SSNAS_CACHE") or user_cache_dir("ssnas"))


def save_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write named tensors to `path` as safetensors, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, temporary)
