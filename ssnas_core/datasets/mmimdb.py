"""MM-IMDB: movie posters and plots with genres (Arevalo et al. 2017, arXiv:1702.01992).

Reads the raw archive as published, or its unpacked folder:

    mmimdb/split.json            {"train": [ids], "dev": [ids], "test": [ids]}
    mmimdb/dataset/<id>.json     {"plot": [texts], "genres": [names], ...}
    mmimdb/dataset/<id>.jpeg     the poster

The archive knows 27 genres, the published task 23: News, Adult, Talk-Show and
Reality-TV are dropped from a record's genres without a word. Of several plots
the longest counts, as in the authors' own preparation.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ssnas_core.datasets._genres import GENRES
from ssnas_core.datasets._unpacking import oversized, unpack_once
from ssnas_core.datasets.records import SPLITS, Dataset, Record
from ssnas_core.errors import InputError
from ssnas_core.files import read_json

DROPPED_GENRES = frozenset({"News", "Adult", "Talk-Show", "Reality-TV"})
"""Genres of the archive that are not part of the 23-genre task."""

MAX_JSON_BYTES = 10 * 10**6
"""A larger JSON file is not a movie's data; published ones are a few kB."""

MAX_POSTER_BYTES = 50 * 10**6
"""A larger poster is not decoded; published ones are about 300 kB."""

MAX_PLOT = 100_000
"""Characters of the longest plot that is taken for one; published ones have a few thousand."""

_LOG = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MEMBER = re.compile(rf"(?:mmimdb/)?(split\.json|dataset/{_ID.pattern}\.(?:json|jpeg|jpg))")


class _BadRecordError(Exception):
    """A record that cannot be used; its arguments are the file to blame, and why."""


def read_mmimdb(
    path: Path, *, unpack_to: Path | None = None, strict: bool = False, progress: bool = False
) -> Dataset:
    """MM-IMDB as a dataset of `"image"` (poster path) and `"text"` (plot).

    Records come in the order of `split.json`: train, dev, test, each as listed.
    A record that cannot be used (files missing or empty, malformed JSON, no
    plot, an unknown genre or none of the 23, listed twice) is left out, and
    all of them are reported in one warning and in `Dataset.skipped`. Posters
    are not decoded here.

    Args:
        path: `mmimdb.tar.gz`, or the folder that holds `split.json` and
            `dataset/`, or that folder's parent.
        unpack_to: folder for an archive's files, unpacked on first use; by
            default `<archive>-unpacked` beside it. A folder is read in place.
        strict: raise on the first unusable record instead.
        progress: show progress bars on stderr.

    Raises:
        InputError: nothing usable at `path`, a damaged or hostile archive, a
            split without usable records, or, if `strict`, any unusable record.
    """
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
        stem = re.sub(r"(\.tar)?\.[^.]+$", "", path.name)
        root = Path(unpack_to) if unpack_to is not None else path.parent / f"{stem}-unpacked"
        unpack_once(path, root, _wanted, progress=progress)
    return _read_folder(root, strict=strict, progress=progress)


def _wanted(name: str) -> tuple[str, int] | None:
    """Where a member of the archive belongs, and how large it may be."""
    found = _MEMBER.fullmatch(name)
    if found is None:
        return None
    return found[1], MAX_JSON_BYTES if name.endswith(".json") else MAX_POSTER_BYTES


def _sizes(folder: Path) -> dict[str, int]:
    """File name -> bytes."""
    sizes = {}
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}.") from error
    for entry in entries:
        with contextlib.suppress(OSError):  # as of a link to itself: the record lacks it
            if entry.is_file():
                sizes[entry.name] = entry.stat().st_size
    return sizes


def _read_folder(root: Path, *, strict: bool, progress: bool) -> Dataset:
    if not (root / "dataset").is_dir():
        raise InputError(f"{root} holds no folder dataset/; expected it beside split.json.")
    sizes = _sizes(root / "dataset") | oversized(root)

    listed = _listed_ids(root / "split.json")
    places: dict[str, list[str]] = {}
    for split, entry in listed:
        places.setdefault(_name(entry), []).append(split)
    records: list[Record] = []
    skipped: dict[str, str] = {}
    for split, entry in tqdm(listed, desc="reading MM-IMDB", disable=not progress):
        try:
            if not isinstance(entry, str) or not _ID.fullmatch(entry):
                raise _BadRecordError("split.json", "not a safe id (letters, digits, _ and -)")
            if len(places[entry]) > 1:
                raise _BadRecordError("split.json", f"listed in {' and '.join(places[entry])}")
            records.append(_read_record(root / "dataset", entry, split, sizes))
        except _BadRecordError as bad:
            file, reason = bad.args
            if strict:
                raise InputError(
                    f"{root / file}: record {_name(entry)!r}: {reason}; mend it, "
                    "or read with strict off to leave it out."
                ) from None
            skipped[_name(entry)] = reason
    _report(skipped, len(listed))
    for split in SPLITS:
        if all(record.split != split for record in records):
            example = next((f", e.g. {name!r}: {why}" for name, why in skipped.items()), "")
            raise InputError(
                f"{root}: expected usable records in split {split!r}, got none "
                f"({len(skipped)} of all {len(listed)} unusable{example}); restore the data."
            )
    return Dataset("mmimdb", {"image": "image", "text": "text"}, GENRES, tuple(records), skipped)


def _name(entry: Any) -> str:
    """What an entry of the split, perhaps no id at all, is called in reports."""
    return entry[:64] if isinstance(entry, str) else reprlib.repr(entry)[:64]


def _listed_ids(path: Path) -> list[tuple[str, Any]]:
    """All (split, id) of a split file, in order; ids are not checked yet."""
    document = read_json(path)
    lists = [document.get(split) if isinstance(document, dict) else None for split in SPLITS]
    if not all(isinstance(ids, list) for ids in lists):
        raise InputError(
            f"{path}: expected lists of ids under train, dev and test, "
            f"got {reprlib.repr(document)[:60]}; restore the file."
        )
    return [(split, entry) for split, ids in zip(SPLITS, lists, strict=True) for entry in ids or ()]


def _read_record(folder: Path, name: str, split: str, sizes: Mapping[str, int]) -> Record:
    poster = next((f for f in (f"{name}.jpeg", f"{name}.jpg") if f in sizes), f"{name}.jpeg")
    for file, kind, limit in (
        (f"{name}.json", "JSON", MAX_JSON_BYTES),
        (poster, "poster", MAX_POSTER_BYTES),
    ):
        size = sizes.get(file)
        if size is None:
            raise _BadRecordError(f"dataset/{file}", f"{kind} missing")
        if size == 0:
            raise _BadRecordError(f"dataset/{file}", f"{kind} empty (0 bytes)")
        if size > limit:
            raise _BadRecordError(f"dataset/{file}", f"{kind} larger than {limit // 10**6} MB")
    file = f"dataset/{name}.json"
    try:
        document = json.loads((folder / f"{name}.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        raise _BadRecordError(file, "JSON unreadable or malformed") from None
    if not isinstance(document, dict):
        raise _BadRecordError(file, "JSON is not an object")
    text = _longest_plot(document, file)
    return Record(name, {"image": folder / poster, "text": text}, _genres(document, file), split)


def _longest_plot(document: Mapping[str, Any], file: str) -> str:
    if "plot" not in document:
        raise _BadRecordError(file, "no 'plot'")
    plots = document["plot"]
    plots = [plots] if isinstance(plots, str) else plots
    if not isinstance(plots, list) or not all(isinstance(plot, str) for plot in plots):
        raise _BadRecordError(file, "'plot' is not text or a list of texts")
    plot = max((plot.strip() for plot in plots), key=len, default="")
    if not plot:
        raise _BadRecordError(file, "plot is empty")
    if len(plot) > MAX_PLOT:
        raise _BadRecordError(file, f"plot longer than {MAX_PLOT:,} characters")
    if re.search("[\ud800-\udfff]", plot):  # JSON can escape what UTF-8 cannot encode
        raise _BadRecordError(file, "plot is not valid Unicode")
    return plot


def _genres(document: Mapping[str, Any], file: str) -> tuple[str, ...]:
    if "genres" not in document:
        raise _BadRecordError(file, "no 'genres'")
    named = document["genres"]
    if not isinstance(named, list) or not all(isinstance(genre, str) for genre in named):
        raise _BadRecordError(file, "'genres' is not a list of texts")
    kept = set(named) - DROPPED_GENRES
    for genre in named:
        if genre in kept and genre not in GENRES:
            raise _BadRecordError(file, f"unknown genre {genre[:40]!r}")
    if not kept:
        raise _BadRecordError(file, f"none of the {len(GENRES)} genres")
    return tuple(genre for genre in GENRES if genre in kept)


def _report(skipped: Mapping[str, str], listed: int) -> None:
    if skipped:
        reasons = Counter(skipped.values()).most_common(5)
        shown = ", ".join(f"{count} x {reason}" for reason, count in reasons)
        _LOG.warning("MM-IMDB: left out %d of %d records: %s", len(skipped), listed, shown)
