"""Published data sets, fetched from their mirrors with pooch.

A file appears whole and checked, or not at all; its SHA-256 is written beside it.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import atomic_path, write_text

# Where published data sets lie: their files, mirrors, and the hashes that others published.


@dataclass(frozen=True)
class Published:
    """A published file, and the addresses of it."""

    file: str
    urls: tuple[str, ...]
    sha256: str | None  # published by others, never our own
    start: bytes  # what such a file begins with; a mirror may send a page instead


# The authors' own host, lisi1.unal.edu.co, is dead; they name these mirrors themselves
# (github.com/johnarevalo/gmu-mmimdb, README and issues 3, 4 and 7). The hash is the one that
# github.com/facebookresearch/mmf checks, mmf/configs/zoo/datasets.yaml, mmimdb: images. Nobody
# we know of published one of the HDF5 file.
FILES = {
    "mmimdb": Published(
        "mmimdb.tar.gz",
        ("https://archive.org/download/mmimdb/mmimdb.tar.gz",),
        "7facb412f84e8e707cf5c15bb58e4cf3ac12d33e6e944e1bdefebada1259a253",
        b"\x1f\x8b",
    ),
    "mmimdb-hdf5": Published(
        "multimodal_imdb.hdf5",
        ("https://archive.org/download/mmimdb/multimodal_imdb.hdf5",),
        None,
        b"\x89HDF\r\n\x1a\n",
    ),
}


def _mnist(name: str, sha256: str) -> Published:
    """A file of MNIST, whose own host no longer gives it to programs.

    The mirrors are those of torchvision and TensorFlow Datasets, the hashes those that the
    latter checks (github.com/tensorflow/datasets, url_checksums/mnist.txt).
    """
    file = f"{name}-ubyte.gz"
    hosts = ("ossci-datasets.s3.amazonaws.com", "storage.googleapis.com/cvdf-datasets")
    return Published(file, tuple(f"https://{h}/mnist/{file}" for h in hosts), sha256, b"\x1f\x8b")


# GitHub packs the archive of a tag when it is asked for, so there is no hash of it to rely on.
_FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
SETS = {
    "avmnist": (
        _mnist(
            "train-images-idx3", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        _mnist(
            "train-labels-idx1", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        _mnist(
            "t10k-images-idx3", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        _mnist(
            "t10k-labels-idx1", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
        Published("fsdd.tar.gz", (_FSDD,), None, b"\x1f\x8b"),
    ),
}

_LOG = logging.getLogger(__name__)
_TIMEOUT = 30.0  # seconds without a word from a mirror, after which it counts as dead
_CHUNK = 1 << 16
_SLOWEST = 1000  # bytes a second; a mirror that gives less would take for ever
_MOST = 40 * 10**9  # bytes of a file; the published ones have 8 and 13 GB


class _NoSpaceError(Exception):
    """The disk is too small, which no other mirror mends."""


def download(
    name: str,
    folder: Path,
    *,
    urls: Sequence[str] | None = None,
    sha256: str | None = None,
    progress: bool = False,
) -> Path:
    """Fetch a published data set into `folder`, unless it is there.

    Mirrors are tried in order until one gives the whole file with the right hash.
    What a file's hash is beside it, `<file>.sha256` in the form of `sha256sum`. A
    file that is there is kept if it has that hash (or the one expected here), or,
    where neither is known, the size that a mirror tells.

    Args:
        name: `"mmimdb"` (the raw archive, 8 GB, `mmimdb.tar.gz`), `"mmimdb-hdf5"`
            (`multimodal_imdb.hdf5`) or `"avmnist"` (MNIST's four files and FSDD's
            release archive, `fsdd.tar.gz`; 27 MB).
        folder: where the file goes; made if need be.
        urls: mirrors instead of the published ones; of a set of several files,
            folders that hold them.
        sha256: 64 hex digits, instead of the published hash if there is one; not for
            a set of several files.
        progress: show a progress bar on stderr.

    Returns:
        The file's path; of several files, their folder.

    Raises:
        InputError: an unknown name, no space, or no mirror gives the file (not there,
            connection cut, wrong hash); it says why for each.
    """
    if name not in FILES and name not in SETS:
        known = ", ".join((*FILES, *SETS))
        raise InputError(f"expected a data set among {known}, got {name!r}.")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise InputError(f"expected a SHA-256 of 64 hex digits, got {sha256!r}.")
    if name in SETS:
        if sha256 is not None:
            raise InputError(f"expected no SHA-256 for the several files of {name}, got one.")
        for one in SETS[name]:
            places = one.urls if urls is None else [f"{u.rstrip('/')}/{one.file}" for u in urls]
            _download(one, Path(folder), places, one.sha256, progress)
        return Path(folder)
    published = FILES[name]
    expected = sha256.lower() if sha256 is not None else published.sha256
    mirrors = published.urls if urls is None else urls
    return _download(published, Path(folder), mirrors, expected, progress)


def _download(
    published: Published,
    folder: Path,
    mirrors: Sequence[str],
    expected: str | None,
    progress: bool,
) -> Path:
    """One file, unless it is there; its path."""
    path = folder / published.file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and _is_whole(path, expected, published.start, mirrors, progress):
            _LOG.info("%s is there already", path)
            return path
        digest = _fetch(path, mirrors, expected, published.start, progress)
        write_text(_note(path), f"{digest}  {path.name}\n")
    except (_NoSpaceError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"cannot write {path} ({error.strerror or error}); name a folder that can be "
                "written."
            ) from error
        raise InputError(
            f"no space for {path} ({error}); make room, or name a folder on another disk."
        ) from error
    _LOG.info("%s: SHA-256 %s, written beside it", path, digest)
    return path


def _fetch(
    path: Path, mirrors: Sequence[str], expected: str | None, start: bytes, progress: bool
) -> str:
    """Put the file at `path` from the first mirror that has it; its hash."""
    import pooch
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    pooch.get_logger().setLevel("WARNING")
    known = None if expected is None else f"sha256:{expected}"
    failures = []
    for url in mirrors:
        writer: Any = _Writer(progress)
        # a folder of its own: what is there stays until the new file is whole and checked
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as part:
            try:
                found = pooch.retrieve(url, known, fname=path.name, path=part, downloader=writer)
            except (RequestException, _CutError) as error:
                failures.append(f"{url}: {_reason(error)}")
            except (ValueError, HTTPError) as error:
                wrong = f"expected SHA-256 {expected}, got {writer.digest}"  # pooch says it longer
                failures.append(f"{url}: {wrong if writer.digest else _reason(error)}")
            else:
                if known is None and not _starts(Path(found), start):
                    failures.append(f"{url}: got something else, which does not begin as one")
                    continue
                with atomic_path(path) as whole:
                    os.replace(found, whole)
                return writer.digest
    raise InputError(
        f"cannot download {path.name} ({'; '.join(failures) or 'no mirror named'}); try again "
        "later, or name another mirror, or the hash that is right."
    )


class _CutError(Exception):
    """A connection that ended before the file did."""


class _Writer:
    """What pooch calls to write the content of a URL into a file; `digest` is its SHA-256."""

    def __init__(self, progress: bool) -> None:
        self.progress = progress
        self.digest = ""

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        import requests
        from urllib3.exceptions import HTTPError

        digest = hashlib.sha256()
        hooks = {"response": _drop_moved}
        with requests.get(url, stream=True, timeout=_TIMEOUT, hooks=hooks) as response:
            response.raise_for_status()
            size = _size(response)
            free = shutil.disk_usage(Path(output_file).parent).free
            if (size or 0) > _MOST:
                raise _CutError(f"it has {size:,} bytes, more than such a file may have")
            if size is not None and size > free:
                raise _NoSpaceError(f"it has {size:,} bytes, the disk {free:,} free")
            with (
                open(output_file, "wb") as file,
                tqdm(
                    desc=f"downloading {url.rpartition('/')[2]}",
                    total=size,
                    unit="B",
                    unit_scale=True,
                    disable=not self.progress,
                ) as bar,
            ):
                began = time.monotonic()
                try:
                    for chunk in _chunks(response.raw):
                        file.write(chunk)
                        digest.update(chunk)
                        bar.update(len(chunk))
                        passed = time.monotonic() - began
                        if passed > _TIMEOUT and file.tell() < _SLOWEST * passed:
                            raise _CutError(f"less than {_SLOWEST:,} bytes a second")
                        if file.tell() > _MOST:
                            raise _CutError(f"more than {_MOST:,} bytes, and no end")
                except HTTPError as error:
                    raise _cut(file.tell(), size) from error
                if size is not None and file.tell() != size:  # old clients do not tell
                    raise _cut(file.tell(), size)
        self.digest = digest.hexdigest()


def _chunks(raw: Any) -> Iterator[bytes]:
    """What comes, when it comes, as it lies there: a .gz is not to be decoded on the way."""
    if hasattr(raw, "read1"):  # else old: it waits until a chunk is full
        while chunk := raw.read1(_CHUNK, decode_content=False):
            yield chunk
    else:
        yield from raw.stream(_CHUNK, decode_content=False)


def _drop_moved(response: Any, **_: Any) -> None:
    """Close what only says where else to look: `requests` would read its body, of any size."""
    if response.is_redirect:
        response.close()


def _starts(path: Path, start: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(start)) == start


def _cut(got: int, size: int | None) -> _CutError:
    of = "" if size is None else f" of {size:,}"
    return _CutError(f"connection cut after {got:,}{of} bytes")


def _size(response: Any) -> int | None:
    """Length of the content in bytes, where the mirror tells."""
    told = response.headers.get("Content-Length", "")
    return int(told) if re.fullmatch("[0-9]{1,18}", told) else None


def _reason(error: Exception) -> str:
    """One line on why a mirror failed."""
    from requests.exceptions import ConnectionError, HTTPError, Timeout

    if isinstance(error, HTTPError) and error.response is not None:
        return _line(f"HTTP {error.response.status_code} {error.response.reason}")
    if isinstance(error, Timeout):
        return f"no answer within {_TIMEOUT:g} s"
    if isinstance(error, ConnectionError):
        return "no connection"
    return _line(str(error))


def _line(text: str) -> str:
    """What a mirror says, in one line that does nothing to a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def _is_whole(
    path: Path, expected: str | None, start: bytes, mirrors: Sequence[str], progress: bool
) -> bool:
    """Whether the file at `path` is the one that is wanted."""
    import requests
    from urllib3.exceptions import HTTPError

    note = _note(path)
    known = expected
    if known is None and note.is_file():
        known = note.read_text(encoding="utf-8", errors="replace").split(" ")[0]
    if known is not None:
        return _sha256(path, progress) == known
    if not _starts(path, start):
        return False
    hooks = {"response": _drop_moved}
    for url in mirrors:
        try:
            with requests.head(
                url, allow_redirects=True, timeout=_TIMEOUT, hooks=hooks
            ) as response:
                size = _size(response) if response.ok else None
        except (requests.exceptions.RequestException, HTTPError, ValueError):
            continue
        if size is not None:
            return path.stat().st_size == size
    _LOG.warning("%s: no mirror tells its size; taken as it is", path)
    return True


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path, progress: bool) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with (
        open(path, "rb") as file,
        tqdm(
            desc=f"checking {path.name}",
            total=size,
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar,
    ):
        while chunk := file.read(_CHUNK * 16):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()
