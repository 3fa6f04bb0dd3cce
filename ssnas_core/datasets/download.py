"""Published data sets, fetched from their mirrors.

A file appears whole and checked, or not at all; its SHA-256 is written beside it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import atomic_path, write_text


@dataclass(frozen=True)
class Published:
    """A published file.

    Args:
        name: of the file.
        urls: its mirrors.
        sha256: as others published it, never our own; None where nobody did.
        start: its first bytes, as a mirror may send a page instead.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None
    start: bytes


def _mnist(name: str, sha256: str) -> Published:
    """A file of MNIST, whose own host no longer gives it to programs.

    The mirrors are those of torchvision and TensorFlow Datasets, the hashes those that the
    latter checks (github.com/tensorflow/datasets, url_checksums/mnist.txt).
    """
    name = f"{name}-ubyte.gz"
    hosts = ("ossci-datasets.s3.amazonaws.com", "storage.googleapis.com/cvdf-datasets")
    return Published(name, tuple(f"https://{h}/mnist/{name}" for h in hosts), sha256, b"\x1f\x8b")


# MM-IMDB: the authors' own host, lisi1.unal.edu.co, is dead; they name these mirrors themselves
# (github.com/johnarevalo/gmu-mmimdb, README and issues 3, 4 and 7). The hash is the one that
# github.com/facebookresearch/mmf checks, mmf/configs/zoo/datasets.yaml, mmimdb: images. Nobody
# we know of published one of the HDF5 file.
# FSDD: GitHub packs the archive of a tag when it is asked for, so there is no hash to rely on.
_FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
PUBLISHED = {
    "mmimdb": (
        Published(
            "mmimdb.tar.gz",
            ("https://archive.org/download/mmimdb/mmimdb.tar.gz",),
            "7facb412f84e8e707cf5c15bb58e4cf3ac12d33e6e944e1bdefebada1259a253",
            b"\x1f\x8b",
        ),
    ),
    "mmimdb-hdf5": (
        Published(
            "multimodal_imdb.hdf5",
            ("https://archive.org/download/mmimdb/multimodal_imdb.hdf5",),
            None,
            b"\x89HDF\r\n\x1a\n",
        ),
    ),
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
"""Name of a data set -> its files."""

_LOG = logging.getLogger(__name__)
_TIMEOUT = 30.0  # seconds of silence after which a mirror counts as dead
_CHUNK = 1 << 16
_SLOWEST = 1000  # bytes a second; a mirror that gives less would take for ever
_MOST = 40 * 10**9  # bytes of a file; the published ones have 8 and 13 GB


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
    The hash of a file is written beside it, `<file>.sha256` in the form of `sha256sum`.
    A file that is there is kept if it has that hash (or the one expected here), or,
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
    if name not in PUBLISHED:
        raise InputError(f"expected a data set among {', '.join(PUBLISHED)}, got {name!r}.")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise InputError(f"expected a SHA-256 of 64 hex digits, got {sha256!r}.")
    folder, files = Path(folder), PUBLISHED[name]
    if len(files) == 1:
        mirrors = files[0].urls if urls is None else tuple(urls)
        known = files[0].sha256 if sha256 is None else sha256.lower()
        return _download(replace(files[0], urls=mirrors, sha256=known), folder, progress)
    if sha256 is not None:
        raise InputError(f"expected no SHA-256 for the several files of {name}, got one.")
    for file in files:
        if urls is not None:
            file = replace(file, urls=tuple(f"{url.rstrip('/')}/{file.name}" for url in urls))
        _download(file, folder, progress)
    return folder


def _download(file: Published, folder: Path, progress: bool) -> Path:
    """Fetch one file unless it is there; return its path."""
    path = folder / file.name
    note = folder / f"{file.name}.sha256"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file() and _is_whole(path, note, file, progress):
            _LOG.info("%s is there already", path)
            return path
        digest = _fetch(path, file, progress)
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}); make room there, or name another "
            "folder that can be written."
        ) from error
    write_text(note, f"{digest}  {path.name}\n")
    _LOG.info("%s: SHA-256 %s, written beside it", path, digest)
    return path


def _fetch(path: Path, file: Published, progress: bool) -> str:
    """Put the file at `path` from the first mirror that has it; return its SHA-256."""
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    failures = []
    for url in file.urls:
        # a folder of its own: what is there stays until the new file is whole and checked
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as part:
            fetched = Path(part, path.name)
            try:
                with _bar(f"downloading {url.rpartition('/')[2]}", progress) as bar:
                    digest = _save(url, fetched, bar)
                if file.sha256 is not None and digest != file.sha256:
                    raise ValueError(f"expected SHA-256 {file.sha256}, got {digest}")
                if file.sha256 is None and not _starts(fetched, file.start):
                    raise ValueError("got something else, which does not begin as one")
            except (RequestException, HTTPError, ValueError) as error:
                failures.append(f"{url}: {_reason(error)}")
                continue
            with atomic_path(path) as whole:
                os.replace(fetched, whole)
            return digest
    raise InputError(
        f"cannot download {path.name} ({'; '.join(failures) or 'no mirror named'}); try again "
        "later, or name another mirror, or the hash that is right."
    )


def _save(url: str, path: Path, bar: Any) -> str:
    """Write what a mirror gives to `path`, within bounds; return its SHA-256.

    Bytes come as they lie there: a .gz is not decoded on the way.

    Raises:
        RequestException, HTTPError, ValueError: this mirror is to be given up.
        OSError: there is no room; another mirror would not help.
    """
    import requests
    from urllib3.exceptions import HTTPError

    def drop_body(response: Any, **_: Any) -> None:
        if response.is_redirect:
            response.close()  # else `requests` would read its body, of any size

    hooks, digest, count = {"response": drop_body}, hashlib.sha256(), 0
    with (
        requests.get(url, stream=True, timeout=_TIMEOUT, hooks=hooks) as response,
        open(path, "wb") as file,
    ):
        response.raise_for_status()
        size = bar.total = _size(response)
        if size is not None and size > _MOST:
            raise ValueError(f"it has {size:,} bytes, more than such a file may have")
        if size is not None and size > (free := shutil.disk_usage(path.parent).free):
            raise OSError(None, f"it has {size:,} bytes, the disk {free:,} free")
        read = getattr(response.raw, "read1", response.raw.read)  # old: waits for a full chunk
        began, chunk, cut = time.monotonic(), b".", False
        while chunk:
            try:
                chunk = read(_CHUNK, decode_content=False)
                cut = not chunk and size is not None and count != size
            except HTTPError:
                chunk, cut = b"", True
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
            count += len(chunk)
            passed = time.monotonic() - began
            if cut:
                of = "" if size is None else f" of {size:,}"
                raise ValueError(f"connection cut after {count:,}{of} bytes")
            if passed > _TIMEOUT and count < _SLOWEST * passed:
                raise ValueError(f"less than {_SLOWEST:,} bytes a second")
            if count > _MOST:
                raise ValueError(f"more than {_MOST:,} bytes, and no end")
    return digest.hexdigest()


def _bar(title: str, progress: bool, size: int | None = None) -> Any:
    return tqdm(desc=title, total=size, unit="B", unit_scale=True, disable=not progress)


def _starts(path: Path, start: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(start)) == start


def _size(response: Any) -> int | None:
    """Length of the content in bytes, where the mirror tells."""
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None


def _reason(error: Exception) -> str:
    """One line on why a mirror failed, that does nothing to a terminal."""
    from requests.exceptions import ConnectionError, HTTPError, Timeout

    if isinstance(error, Timeout):
        return f"no answer within {_TIMEOUT:g} s"
    if isinstance(error, ConnectionError):
        return "no connection"
    text = str(error)
    if isinstance(error, HTTPError) and error.response is not None:
        text = f"HTTP {error.response.status_code} {error.response.reason}"
    return one_line(text)


def _is_whole(path: Path, note: Path, file: Published, progress: bool) -> bool:
    """Whether the file at `path` is the one that is wanted."""
    import requests
    from urllib3.exceptions import HTTPError

    known = file.sha256
    if known is None and note.is_file():
        known = note.read_text(encoding="utf-8", errors="replace").split(" ")[0]
    if known is not None:
        digest = hashlib.sha256()
        with (
            open(path, "rb") as stored,
            _bar(f"checking {path.name}", progress, path.stat().st_size) as bar,
        ):
            while chunk := stored.read(_CHUNK * 16):
                digest.update(chunk)
                bar.update(len(chunk))
        return digest.hexdigest() == known
    if not _starts(path, file.start):
        return False
    for url in file.urls:
        try:
            with requests.head(url, allow_redirects=True, timeout=_TIMEOUT) as response:
                size = _size(response) if response.ok else None
        except (requests.exceptions.RequestException, HTTPError, ValueError):
            continue
        if size is not None:
            return path.stat().st_size == size
    _LOG.warning("%s: no mirror tells its size; taken as it is", path)
    return True
