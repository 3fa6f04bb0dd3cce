"""NLVR: is what a sentence says of a drawn picture true (Suhr et al., ACL 2017)?

A picture is three grey boxes with shapes in them; people wrote the sentences, and others judged
them. What is drawn is published with it, so that the regions of a picture are given: the boxes
and the shapes. Pictures are not read. The archive holds dev and test, so that what is learned
from is a part of dev: its folder 5 is dev here, all others are train. A sentence is in one part
alone: where one is in several, the records of the earlier part are left out.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import parse_json
from ssnas_core.common.typed import brief
from ssnas_core.datasets.records import Dataset, Record

REGIONS = 25  # rows of a picture's array, a square number; those after its regions are 0
SHAPES = ("box", "circle", "square", "triangle")
COLOURS = ("grey", "Yellow", "Black", "#0099ff")
SIZES = (100, 10, 20, 30)  # sides, in pixels

_FILES = ("dev/dev.json", "test/test.json")
_LEFT = 150  # of a box from that of the one before it
_DEV = "5"  # the directory of dev whose records are dev


def is_nlvr(path: Path) -> bool:
    """Whether NLVR's annotations lie at a path, an archive or a folder."""
    path = Path(path)
    if path.is_dir():
        return any((path / top / _FILES[0]).is_file() for top in (".", "nlvr"))
    try:
        with tarfile.open(path, "r|gz") as archive:
            first = archive.next()
            return first is not None and first.name.split("/")[0] == "nlvr"
    except (OSError, EOFError, tarfile.TarError):
        return False


def read_nlvr(path: Path, *, strict: bool = False, progress: bool = False) -> Dataset:
    """Return NLVR's sentences with the regions of their pictures.

    Modalities: `regions`, (25, 16) float32, of which the last four columns are the box of a
    region, x1, y1, x2, y2 in pixels of the 400 x 100 picture, and the others say shape, colour
    and size as 0 and 1; the first three regions are the grey boxes. And `sentence`.

    Args:
        path: nlvr.tar.gz, or its unpacked folder.
        strict: raise on the first record that cannot be read instead of leaving it out.
        progress: taken as by all readers; reading takes a second.

    Raises:
        InputError: no annotations, or none that can be read.
    """
    path = Path(path)
    rows = {name: _lines(path, text) for name, text in zip(_FILES, _texts(path), strict=True)}
    records: dict[str, list[Record]] = {"train": [], "dev": [], "test": []}
    skipped: dict[str, str] = {}
    for name, entries in rows.items():
        for number, entry in enumerate(entries, 1):
            id = f"{name.split('/')[0]}-{entry.get('identifier', f'line {number}')}"
            try:
                part = "test" if name == _FILES[1] else _part(entry)
                records[part].append(_record(id, entry, part))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                reason = f"not as NLVR has it ({type(error).__name__}: {error})"
                if strict:
                    raise InputError(f"{path}: {id} is {reason}; drop the record.") from error
                skipped[id] = reason
    later: set[str] = set()
    kept: list[Record] = []
    for part in ("test", "dev", "train"):
        for record in records[part]:
            if _plain(record) in later:
                skipped[record.id] = "its sentence is in a later part too"
            else:
                kept.append(record)
        later |= {_plain(record) for record in records[part]}
    if not kept:
        raise InputError(f"{path}: expected NLVR's annotations, got none that can be read.")
    return Dataset(
        "nlvr",
        {"regions": "array", "sentence": "text"},
        ("false", "true"),
        tuple(sorted(kept, key=lambda record: record.id)),
        skipped,
        single_label=True,
    )


def _texts(path: Path) -> list[str]:
    """Return the content of the two files of annotations."""
    found: dict[str, bytes] = {}
    try:
        if path.is_dir():
            top = path / "nlvr" if (path / "nlvr").is_dir() else path
            found = {name: (top / name).read_bytes() for name in _FILES}
        else:
            with tarfile.open(path, "r|gz") as archive:
                for member in archive:
                    name = member.name.removeprefix("nlvr/")
                    if name in _FILES and (file := archive.extractfile(member)) is not None:
                        found[name] = file.read()
        return [found[name].decode() for name in _FILES]
    except (OSError, EOFError, tarfile.TarError, UnicodeDecodeError, KeyError) as error:
        raise InputError(
            f"{path}: expected NLVR's dev/dev.json and test/test.json "
            f"({type(error).__name__}: {error}); download it again."
        ) from error


def _lines(path: Path, text: str) -> list[Mapping[str, Any]]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = parse_json(line.encode())
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise InputError(
                f"{path}: expected an object in line {number} of the annotations, got "
                f"{brief(line)}; download it again."
            )
        entries.append(entry)
    return entries


def _part(entry: Mapping[str, Any]) -> str:
    return "dev" if entry["directory"] == _DEV else "train"


def _record(id: str, entry: Mapping[str, Any], part: str) -> Record:
    label, sentence = entry["label"], entry["sentence"]
    if label not in ("true", "false") or not isinstance(sentence, str):
        raise ValueError(f"a sentence that is true or false, got {brief(label)}")
    regions = [_row("box", "grey", 100, _LEFT * box, 0) for box in range(3)]
    for box, shapes in enumerate(entry["structured_rep"]):
        for one in shapes:
            x, y = one["x_loc"] + _LEFT * box, one["y_loc"]
            regions.append(_row(one["type"], one["color"], one["size"], x, y))
    if len(regions) > REGIONS or len(entry["structured_rep"]) != 3:
        raise ValueError(f"three boxes and at most {REGIONS - 3} shapes, got {len(regions) - 3}")
    rows = np.zeros((REGIONS, len(regions[0])), np.float32)
    rows[: len(regions)] = regions
    return Record(id, {"regions": rows, "sentence": sentence}, (label,), part)


def _row(shape: str, colour: str, size: int, x: float, y: float) -> list[float]:
    row = [0.0] * (len(SHAPES) + len(COLOURS) + len(SIZES))
    row[SHAPES.index(shape)] = 1.0
    row[len(SHAPES) + COLOURS.index(colour)] = 1.0
    row[len(SHAPES) + len(COLOURS) + SIZES.index(size)] = 1.0
    return [*row, x, y, x + size - 1, y + size - 1]


def _plain(record: Record) -> str:
    """Return a sentence without case and signs."""
    return " ".join(re.findall(r"\w+", str(record.inputs["sentence"]).lower()))
