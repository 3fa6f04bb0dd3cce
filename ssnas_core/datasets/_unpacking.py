"""An archive from anywhere, unpacked once: only the files that are wanted, within bounds.

A `.tar.gz` may lead out of its folder, hold links and devices, unpack to a thousand
times its size, or claim gigabytes in a header, which `tarfile` would read whole.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from ssnas_core._locks import alone_in
from ssnas_core.errors import InputError
from ssnas_core.files import read_json, write_json

MAX_TOTAL_BYTES = 40 * 10**9
"""An archive that would unpack to more is refused; the published one unpacks to about 8 GB."""

MAX_RATIO = 20
"""So is one that unpacks to more than so many times its size; JPEG files hardly shrink."""

MIN_TOTAL_BYTES = 10**9
"""So much may be unpacked whatever the ratio."""

MAX_MEMBERS = 250_000
"""More members than this are refused; the published archive has 52,000."""

MAX_HEADER_BYTES = 1 << 20
"""Headers of one member that are longer are refused; one of plain names has 512 bytes."""

_MARKER = "unpacked.json"
# what gzip and tarfile raise at data they cannot make sense of
_BROKEN = (
    *(gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError, ValueError),
    *(ArithmeticError, LookupError, RuntimeError),
)

Wanted = Callable[[str], tuple[str, int] | None]
"""Name of a member -> where it belongs in the folder, and its most bytes; None to pass it over."""


def unpack_once(archive: Path, root: Path, wanted: Wanted, *, progress: bool) -> None:
    """Unpack into `root` unless the marker there says that this archive already is.

    The marker is written as unfinished first and as done last, so a killed unpack is redone.

    Raises:
        InputError: a damaged or hostile archive, or a folder with other files, or one
            that cannot be written.
    """
    try:
        status = archive.stat()
        identity = {"format": 1, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        files = root.is_dir() and any(not entry.name.startswith(".") for entry in root.iterdir())
        marker = _marker(root)  # looked for after them, as it is written before
        if files and marker is None:
            raise InputError(
                f"cannot unpack {archive}: {root} holds other files; expected an empty or "
                "new folder, pass another as unpack_to."
            )
        whole = {"archive": identity, "done": True}
        if marker and whole.items() <= marker.items():
            return
        with alone_in(root, "unpacking into", wait=True):
            marker = _marker(root)
            if marker and whole.items() <= marker.items():
                return  # by the process that was waited for
            if marker is not None and marker.get("archive") != identity:
                shutil.rmtree(root / "dataset", ignore_errors=True)  # of another archive
                (root / "split.json").unlink(missing_ok=True)
            write_json(root / _MARKER, {"archive": identity, "done": False})
            (root / "dataset").mkdir(exist_ok=True)
            whole["oversized"] = _unpack(archive, root, wanted, progress)
            write_json(root / _MARKER, whole)
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"{archive} is not a whole .tar.gz archive ({' '.join(str(error).split())[:200]}); "
            "expected MM-IMDB's as published, download it again."
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot unpack {archive} into {root} ({error.strerror or error}); "
            "pass a folder that can be written as unpack_to."
        ) from error


def oversized(root: Path) -> dict[str, int]:
    """File name -> size of the members that unpacking left out for their size.

    Raises:
        InputError: `root` was not unpacked to the end.
    """
    marker = _marker(root)
    if marker is None:
        return {}
    told = marker.get("oversized") or {}
    if marker.get("done") is not True or not isinstance(told, dict):
        raise InputError(
            f"{root} is an interrupted unpack; expected a finished one, read the archive again "
            "to redo it."
        )
    return {name: size for name, size in told.items() if isinstance(size, int)}


def _marker(root: Path) -> dict[str, Any] | None:
    """What the marker of an unpacked folder says, {} if that is something else; None without."""
    marker = read_json(root / _MARKER) if (root / _MARKER).is_file() else None
    return marker if isinstance(marker, dict | None) else {}


def _unpack(archive: Path, root: Path, wanted: Wanted, progress: bool) -> dict[str, int]:
    """Stream the wanted members into `root`; the sizes of those left out as too large."""
    left: dict[str, int] = {}
    size = archive.stat().st_size
    most = min(MAX_TOTAL_BYTES, max(MIN_TOTAL_BYTES, MAX_RATIO * size))
    total, count, has_split = 0, 0, False
    with (
        open(archive, "rb") as raw,
        gzip.open(raw) as plain,
        tqdm(total=size, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        bar.set_description("unpacking MM-IMDB")
        stream = _Watched(plain)
        with tarfile.open(fileobj=cast(Any, stream), mode="r|") as members:
            while (member := members.next()) is not None:
                cast(Any, members).members.clear()  # it would keep all of them
                stream.most = members.offset + MAX_HEADER_BYTES
                _refuse_hostile(archive, member)
                total, count = max(total + member.size, members.offset), count + 1
                if total > most or count > MAX_MEMBERS:
                    raise _too_large(archive, most)
                place = wanted("/".join(part for part in member.name.split("/") if part != "."))
                if not member.isreg() or place is None:
                    continue
                target = root / place[0]
                if member.size > place[1]:
                    left[target.name] = member.size
                    continue
                temporary = target.with_name(f".{target.name}.part")  # there is a lock
                source = members.extractfile(member)
                assert source is not None  # regular files have content
                with open(temporary, "wb") as file:
                    shutil.copyfileobj(source, file)
                os.replace(temporary, target)
                has_split |= target.name == "split.json"
                bar.update(raw.tell() - bar.n)
            end = members.offset
        stream.most = most
        while stream.read(1 << 20):  # to the end, for gzip's checksum
            if stream.last_nonzero > end:
                raise EOFError("unreadable data between its members")
        if stream.last_nonzero > end:
            raise EOFError("unreadable data between its members")
    if not has_split:
        raise InputError(
            f"{archive} holds no mmimdb/split.json; expected MM-IMDB's archive as published, "
            "with mmimdb/split.json and mmimdb/dataset/."
        )
    return left


def _too_large(archive: Path, most: int) -> InputError:
    return InputError(
        f"{archive} unpacks to more than {most / 1e9:g} GB or {MAX_MEMBERS:,} files; expected "
        "MM-IMDB's archive as published (about 8 GB), download it again."
    )


def _refuse_hostile(archive: Path, member: tarfile.TarInfo) -> None:
    parts = re.split(r"[/\\]", member.name)
    if parts[0] == "" or ".." in parts:
        problem = "a path outside of it"
    elif not (member.isreg() or member.isdir()):
        problem = "a link or device"
    else:
        return
    raise InputError(
        f"{archive} holds {problem} ({member.name[:80]!r}); expected plain files and folders "
        "only, do not use this archive."
    )


class _Watched:
    """A readable stream that ends in an error beyond byte `most`, and that remembers
    where its last nonzero byte was.

    `tarfile` stops without a word at a damaged header, as if the archive ended
    there; only zeros may follow a true end.
    """

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream, self._read = stream, 0
        self.last_nonzero, self.most = 0, MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        filled = len(chunk.rstrip(b"\0"))
        if filled:
            self.last_nonzero = self._read + filled
        self._read += len(chunk)
        if self._read > self.most:
            raise tarfile.ReadError("more between its members than they have")
        return chunk
