"""MM-IMDB: movie posters and plots with genres (Arevalo et al. 2017, arXiv:1702.01992).

Reads the raw archive as published, or its unpacked folder:

    mmimdb/split.json            {"train": [ids], "dev": [ids], "test": [ids]}
    mmimdb/dataset/<id>.json     {"plot": [texts], "genres": [names], ...}
    mmimdb/dataset/<id>.jpeg     the poster, in repacked copies also as .jpg, .png, ...

The archive knows 27 genres, the published task 23: News, Adult, Talk-Show and
Reality-TV are dropped from a record's genres without a word, unless they are asked for.
Of several plots the longest counts, as in the authors' own preparation.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import os
import re
import reprlib
import shutil
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import cache_folder, read_json, write_json
from ssnas_core.common.locks import alone_in
from ssnas_core.datasets.cells import plain_text
from ssnas_core.datasets.records import SPLITS, BadRecordError, Dataset, Record, Skips, check_bytes

_LOG = logging.getLogger(__name__)

GENRES = (
    "Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror",
    "Documentary", "Mystery", "Sci-Fi", "Fantasy", "Family", "Biography", "War", "History",
    "Music", "Animation", "Musical", "Western", "Sport", "Short", "Film-Noir",
)  # fmt: skip
"""The 23 classes in published order."""

DROPPED_GENRES = ("News", "Adult", "Talk-Show", "Reality-TV")
"""Genres of the archive that are not part of the 23-genre task."""

MAX_JSON_BYTES = 10 * 10**6
"""A larger JSON file is not a movie's data; published ones are a few kB."""

MAX_POSTER_BYTES = 50 * 10**6
"""A larger poster is not decoded; published ones are about 300 kB."""

MAX_PLOT = 100_000
"""Characters of the longest plot that is taken for one; published ones have a few thousand."""

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

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_POSTERS = ("jpeg", "jpg", "png", "webp", "avif", "bmp", "gif", "tif", "tiff")  # in any case
_MEMBER = re.compile(
    rf"(?:mmimdb/)?(split\.json|dataset/{_ID.pattern}\.(?i:json|{'|'.join(_POSTERS)}))"
)
_MARKER = "unpacked.json"
_ELSEWHERE = "name another folder (--store of a command; in Python unpack_to or SSNAS_CACHE)"
# what gzip and tarfile raise at data they cannot make sense of
_BROKEN = (
    *(gzip.BadGzipFile, zlib.error, EOFError, tarfile.TarError, ValueError),
    *(ArithmeticError, LookupError, RuntimeError),
)


def read_mmimdb(
    path: Path,
    *,
    genres: Sequence[str] = GENRES,
    unpack_to: Path | None = None,
    strict: bool = False,
    progress: bool = False,
) -> Dataset:
    """Read MM-IMDB as a dataset of `"image"` (poster path) and `"text"` (plot).

    Records come in the order of `split.json`: train, dev, test, each as listed.
    Without genres a record of train or dev is unlabelled, as are those that `split.json`
    lists as `unlabelled` (they join train). A record that cannot be used (files missing
    or empty, several posters, malformed JSON, no plot, an unknown genre or none of those asked
    for, no genre in test, listed twice) is left out, and all of them are reported in one
    warning and in `Dataset.skipped`. Posters are not decoded here.

    Args:
        path: `mmimdb.tar.gz`, or the folder that holds `split.json` and
            `dataset/`, or that folder's parent.
        genres: the classes, of the archive's 27; the other genres are dropped.
        unpack_to: folder for an archive's files, unpacked on first use; by
            default one in `cache_folder()`, which is said. A folder is read in place.
        strict: raise on the first unusable record instead.
        progress: show progress bars on stderr.

    Raises:
        InputError: a genre that the archive does not know, nothing usable at `path`, a damaged
            or hostile archive, a split without usable records, or, if `strict`, any unusable
            record.
    """
    wrong = [genre for genre in genres if genre not in (*GENRES, *DROPPED_GENRES)]
    if wrong or not genres:
        raise InputError(
            f"expected genres among {', '.join((*GENRES, *DROPPED_GENRES))}, "
            f"got {', '.join(map(repr, wrong)) or 'none'}."
        )
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path} does not exist; expected mmimdb.tar.gz or its unpacked folder, "
            "mend the path or download the archive."
        )
    if path.is_dir():
        root = next((f for f in (path, path / "mmimdb") if (f / "split.json").is_file()), None)
        if root is None:
            raise InputError(
                f"{path} holds no split.json; expected MM-IMDB's folder with split.json and "
                "dataset/, name that folder or its parent."
            )
    else:
        key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
        cached = cache_folder() / f"unpacked-{key}"
        root = cached if unpack_to is None else Path(unpack_to)
        if _unpack_once(path, root, progress) and unpack_to is None:
            size = sum(_sizes(root / "dataset").values()) / 1e6
            _LOG.warning(
                "%s is unpacked in %s (%.1f MB), where it stays for the next time; the "
                "environment variable SSNAS_CACHE names another place", path, cached, size,
            )  # fmt: skip
    return _read_folder(root, genres, strict=strict, progress=progress)


def read_posters(
    path: Path,
    *,
    genres: Sequence[str] = GENRES,
    unpack_to: Path | None = None,
    strict: bool = False,
    progress: bool = False,
) -> Dataset:
    """Read MM-IMDB's posters alone, with their genres: the records of `read_mmimdb` without plots.

    A record that has no plot is left out here too, so that scores compare with those of both.

    Args:
        path, genres, unpack_to, strict, progress: as of `read_mmimdb`.

    Raises:
        InputError: as `read_mmimdb`.
    """
    both = read_mmimdb(path, genres=genres, unpack_to=unpack_to, strict=strict, progress=progress)
    records = (replace(one, inputs={"image": one.inputs["image"]}) for one in both.records)
    return replace(both, name="mmimdb posters", kinds={"image": "image"}, records=tuple(records))


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file by its name, as "dataset/1.json"."""
    sizes = {}
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}.") from error
    for entry in entries:
        with contextlib.suppress(OSError):  # as of a link to itself: the record lacks it
            if entry.is_file():
                sizes[f"{folder.name}/{entry.name}"] = entry.stat().st_size
    return sizes


def _read_folder(root: Path, classes: Sequence[str], *, strict: bool, progress: bool) -> Dataset:
    if not (root / "dataset").is_dir():
        raise InputError(f"{root} holds no folder dataset/; expected it beside split.json.")
    sizes = _sizes(root / "dataset") | _oversized(root)

    listed: dict[str, list[tuple[str, Any]]] = {}
    for split, entry in _entries(root / "split.json"):
        listed.setdefault(_name(entry), []).append((split, entry))
    skips = Skips(str(root), strict)
    records: list[Record] = []
    files: dict[str, list[str]] = {}  # by id
    for file in sizes:
        files.setdefault(Path(file).stem, []).append(file)
    for name, listings in tqdm(listed.items(), desc="reading MM-IMDB", disable=not progress):
        split, entry = listings[0]
        file = "split.json"  # the one to blame
        try:
            if not isinstance(entry, str) or not _ID.fullmatch(entry):
                raise BadRecordError("not a safe id (letters, digits, _ and -)")
            if len(listings) > 1:
                raise BadRecordError(f"listed in {' and '.join(split for split, _ in listings)}")
            file = facts = _only("JSON", files.get(name, []), name, ("json",))
            check_bytes("JSON", sizes.get(file), MAX_JSON_BYTES)
            file = poster = _only("poster", files[name], name, _POSTERS)
            check_bytes("poster", sizes.get(file), MAX_POSTER_BYTES)
            file = facts
            document = _document(root / file)
            inputs = {"image": root / poster, "text": _longest_plot(document)}
            genres = None if split == "unlabelled" else _genres(document, classes)
            if split == "test" and genres is None:
                raise BadRecordError("no genre, in test")
            place = "train" if split == "unlabelled" else split
            records.append(Record(name, inputs, genres, place))
        except BadRecordError as bad:
            skips.add(name, str(bad), f"/{file}")
    skips.check(records)
    kinds = {"image": "image", "text": "text"}
    return Dataset("mmimdb", kinds, tuple(classes), tuple(records), skips.reasons)


def _only(what: str, files: list[str], name: str, endings: tuple[str, ...]) -> str:
    """Return the file of `files` with one of these endings, in any case; a usual name for none."""
    found = [one for one in files if one.rpartition(".")[2].lower() in endings]
    if len(found) > 1:
        raise BadRecordError(f"several files for the {what} ({', '.join(sorted(found))})")
    return found[0] if found else f"dataset/{name}.{endings[0]}"


def _name(entry: Any) -> str:
    """Return what reports call an entry of the split, which may be no id at all."""
    return entry[:64] if isinstance(entry, str) else reprlib.repr(entry)[:64]


def _entries(path: Path) -> list[tuple[str, Any]]:
    """Return all (split, id) of a split file, in order; ids are not checked yet."""
    document = read_json(path)
    named = document if isinstance(document, dict) else {}
    splits = (*SPLITS, *(["unlabelled"] if "unlabelled" in named else []))
    lists = [named.get(split) for split in splits]
    if not all(isinstance(ids, list) for ids in lists):
        raise InputError(
            f"{path}: expected lists of ids under train, dev and test, "
            f"got {reprlib.repr(document)[:60]}; restore the file."
        )
    return [(split, entry) for split, ids in zip(splits, lists, strict=True) for entry in ids or ()]


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise BadRecordError("JSON unreadable or malformed") from None
    if not isinstance(document, dict):
        raise BadRecordError("JSON is not an object")
    return document


def _longest_plot(document: Mapping[str, Any]) -> str:
    if "plot" not in document:
        raise BadRecordError("no 'plot'")
    plots = document["plot"]
    plots = [plots] if isinstance(plots, str) else plots
    if not isinstance(plots, list) or not all(isinstance(plot, str) for plot in plots):
        raise BadRecordError("'plot' is not text or a list of texts")
    plot = max(map(plain_text, plots), key=len, default="")
    if not plot:
        raise BadRecordError("plot is empty")
    if len(plot) > MAX_PLOT:
        raise BadRecordError(f"plot longer than {MAX_PLOT:,} characters")
    if re.search("[\ud800-\udfff]", plot):  # JSON can escape what UTF-8 cannot encode
        raise BadRecordError("plot is not valid Unicode")
    return plot


def _genres(document: Mapping[str, Any], classes: Sequence[str]) -> tuple[str, ...] | None:
    """Return the genres of a movie among `classes`, None where nobody has named any."""
    named = document.get("genres")
    if named in (None, []):
        return None
    if not isinstance(named, list) or not all(isinstance(genre, str) for genre in named):
        raise BadRecordError("'genres' is not a list of texts")
    for genre in named:
        if genre not in (*GENRES, *DROPPED_GENRES):
            raise BadRecordError(f"unknown genre {genre[:40]!r}")
    genres = tuple(genre for genre in classes if genre in named)
    if not genres:
        raise BadRecordError(f"none of the {len(classes)} genres")
    return genres


# An archive from anywhere, unpacked once: only the files that are wanted, within bounds.


def _unpack_once(archive: Path, root: Path, progress: bool) -> bool:
    """Unpack into `root` unless the marker there says that this archive already is.

    Returns whether it was not.

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
                f"new folder: {_ELSEWHERE}."
            )
        whole = {"archive": identity, "done": True}
        if marker and whole.items() <= marker.items():
            return False
        with alone_in(root, "unpacking into", wait=True):
            marker = _marker(root)
            if marker and whole.items() <= marker.items():
                return False  # by the process that was waited for
            if marker is not None and marker.get("archive") != identity:
                shutil.rmtree(root / "dataset", ignore_errors=True)  # of another archive
                (root / "split.json").unlink(missing_ok=True)
            write_json(root / _MARKER, {"archive": identity, "done": False})
            (root / "dataset").mkdir(exist_ok=True)
            whole["oversized"] = _unpack(archive, root, progress)
            write_json(root / _MARKER, whole)
            return True
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"{archive} is not a whole .tar.gz archive ({one_line(error)}); "
            "expected MM-IMDB's as published, download it again."
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot unpack {archive} into {root} ({error.strerror or error}); {_ELSEWHERE}."
        ) from error


def _oversized(root: Path) -> dict[str, int]:
    """Return file name -> size of the members that unpacking left out for their size.

    Raises:
        InputError: `root` was not unpacked to the end.
    """
    marker = _marker(root)
    if marker is None:
        return {}
    sizes = marker.get("oversized") or {}
    if marker.get("done") is not True or not isinstance(sizes, dict):
        raise InputError(
            f"{root} is an interrupted unpack; expected a finished one, read the archive again "
            "to redo it."
        )
    return {f"dataset/{name}": n for name, n in sizes.items() if isinstance(n, int)}


def _marker(root: Path) -> dict[str, Any] | None:
    """Return the marker of an unpacked folder, {} if that is something else; None without."""
    marker = read_json(root / _MARKER) if (root / _MARKER).is_file() else None
    return marker if isinstance(marker, dict | None) else {}


def _unpack(archive: Path, root: Path, progress: bool) -> dict[str, int]:
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
                    raise InputError(
                        f"{archive} unpacks to more than {most / 1e9:g} GB or {MAX_MEMBERS:,} "
                        "files; expected MM-IMDB's archive as published (about 8 GB), download it "
                        "again."
                    )
                name = "/".join(part for part in member.name.split("/") if part != ".")
                wanted = _MEMBER.fullmatch(name)
                if not member.isreg() or wanted is None:
                    continue
                target = root / wanted[1]
                if member.size > (MAX_JSON_BYTES if name.endswith(".json") else MAX_POSTER_BYTES):
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
        more = True
        while more:  # to the end, for gzip's checksum
            more = stream.read(1 << 20)
            if stream.last_nonzero > end:
                raise EOFError("unreadable data between its members")
    if not has_split:
        raise InputError(
            f"{archive} holds no mmimdb/split.json; expected MM-IMDB's archive as published, "
            "with mmimdb/split.json and mmimdb/dataset/."
        )
    return left


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
