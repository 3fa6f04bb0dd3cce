"""RefCOCO, RefCOCO+ and RefCOCOg: phrases that mean one thing in a photograph (grounding).

A folder holds a JSON list for each part, as MMnas (arXiv:2004.12070) makes them of the published
`refs(unc).p` and `instances.json`, an entry for each phrase:

    train.json val.json         [{"tokens": ["the", "lady"], "image_id", "split", "bbox": [x, y, w,
    testA.json testB.json           h], "height", "width", "file_name", "name"}, ...]; or test.json
    .../COCO_train2014_000000581857.jpg.npz
                                regions of each picture, see `ssnas_core.datasets.regions`

testA and testB are test together; a record's name says of which it is. No picture is in two parts:
where one is, the phrases of the earlier part are left out.

A region is as right as it overlaps the true box, intersection over union with corner pixels within
a box, where that is at least 0.5; else it is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_json
from ssnas_core.common.typed import brief
from ssnas_core.datasets.records import BadRecordError, Dataset, Record, Skips
from ssnas_core.datasets.regions import read_pictures

LEAST = 0.5
"""Intersection over union with the true box, from which on a region is right."""

_PARTS = {"train": "train", "val": "dev", "test": "test", "testA": "test", "testB": "test"}
_RANK = ("train", "dev", "test")
_MOST = 2**30  # bytes of a file
_SHORTEST = 4  # bytes of a value in it, a word of a phrase
_ASIDE = 1.0  # pixels that a true box may reach out of its image


@dataclass(frozen=True)
class _Phrase:
    """A phrase, its part and picture, and the box that it means, x1, y1, x2, y2 in pixels."""

    id: str
    text: str
    part: str
    picture: str
    box: np.ndarray


def is_refcoco(folder: Path) -> bool:
    """Whether a folder holds the parts that RefCOCO and RefCOCO+ alone have."""
    return all((folder / f"{part}.json").is_file() for part in ("train", "val", "testA", "testB"))


def overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes (n, 4) with one (4,), corner pixels within."""
    wide, high = (
        np.minimum(boxes[:, end], box[end]) - np.maximum(boxes[:, end - 2], box[end - 2]) + 1
        for end in (2, 3)
    )
    both = wide.clip(0) * high.clip(0)
    sizes = [np.prod(one[..., 2:] - one[..., :2] + 1, axis=-1) for one in (boxes, box)]
    return both / (sizes[0] + sizes[1] - both)


def read_refcoco(
    path: Path, *, regions: int | None = None, strict: bool = False, progress: bool = False
) -> Dataset:
    """Return phrases with the regions of their pictures, of which each means one.

    Modalities: `regions`, (R, C + 4) float32, the last four columns a box, and `phrase`. The label
    is the row of the region that overlaps the true box most; `Record.soft` has those that do by
    half. A phrase of train without one is left out; one of dev or test stays, and whatever region
    is chosen is wrong. The true box itself is not regressed.

    Args:
        path: the folder.
        regions: R, kept of each picture; without, the smallest square number with room for all.
        strict: raise on the first phrase that cannot be used instead of leaving it out.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no such files, or none of their form; no region files; or a part without a
            phrase that can be used.
    """
    path = Path(path)
    skips = Skips(str(path), strict)
    phrases = _phrases(path, skips)
    names = dict.fromkeys(one.picture for one in phrases)
    pictures = read_pictures(path, names, regions=regions, progress=progress)
    if pictures.kind != "array":
        raise InputError(
            f"{path}: expected region files (NAME.jpg.npz), of which a phrase means a region, got "
            "images alone; put the regions there."
        )
    last: dict[str, int] = {}
    for one in phrases:
        last[one.picture] = max(last.get(one.picture, 0), _RANK.index(one.part))
    records: list[Record] = []
    rows = 0
    for one in phrases:
        try:
            if _RANK.index(one.part) < last[one.picture]:
                raise BadRecordError("its picture is in a later part too")
            found = pictures.inputs(one.picture)["regions"]
            rows = len(found)
            shares = overlaps(found[:, -4:].astype(float), one.box) * found.any(1)  # 0 of padding
            soft = {str(k): float(share) for k, share in enumerate(shares) if share >= LEAST}
            if one.part == "train" and not soft:
                raise BadRecordError("no region overlaps the true box by half")
            label, inputs = str(int(shares.argmax())), {"regions": found, "phrase": one.text}
            records.append(Record(one.id, inputs, (label,), one.part, soft))
        except BadRecordError as bad:
            skips.add(one.id, str(bad))
    skips.check(records)
    return Dataset(
        "refcoco",
        {"regions": "array", "phrase": "text"},
        tuple(str(row) for row in range(rows)),
        tuple(records),
        skips.reasons,
        single_label=True,
        task="grounding",
    )


def _phrases(path: Path, skips: Skips) -> list[_Phrase]:
    """Return the phrases that are as published."""
    phrases: list[_Phrase] = []
    files = {name: path / f"{name}.json" for name in _PARTS}
    for name, file in files.items():
        if not file.is_file():
            continue
        entries = read_json(file, _MOST, _SHORTEST)
        if not isinstance(entries, list):
            raise InputError(
                f"{file}: expected a list of phrases, got {brief(entries)}; make it again."
            )
        for number, entry in enumerate(entries):
            id = f"{name}-{number}"
            try:
                phrases.append(_phrase(id, name, entry if isinstance(entry, dict) else {}))
            except BadRecordError as bad:
                skips.add(id, str(bad))
    if not phrases:
        raise InputError(
            f"{path}: expected phrases in train.json, val.json and testA.json, testB.json or "
            f"test.json, got none ({len(skips.reasons)} unusable); mend the path."
        )
    return phrases


def _phrase(id: str, part: str, entry: Mapping[str, Any]) -> _Phrase:
    """Return an entry of a file.

    Raises:
        BadRecordError: something of it is missing, or not of its form.
    """
    words, picture = entry.get("tokens"), entry.get("image_id")
    text = " ".join(map(str, words)).strip() if isinstance(words, list) else ""
    if not text or not isinstance(picture, int):
        raise BadRecordError("no tokens or image_id")
    if entry.get("split") != part:
        raise BadRecordError(f"split {brief(entry.get('split'))!r} in {part}.json")
    numbers = [entry.get("bbox"), [entry.get("width"), entry.get("height")]]
    try:
        box, size = (np.array(one, dtype=float) for one in numbers)
    except (TypeError, ValueError):
        raise BadRecordError("no bbox, width and height") from None
    if box.shape != (4,) or not (np.isfinite(box).all() and np.isfinite(size).all()):
        raise BadRecordError("no bbox, width and height")
    corners = np.concatenate([box[:2], box[:2] + box[2:]])
    if (box[2:] <= 0).any() or (box[:2] < -_ASIDE).any() or (corners[2:] > size + _ASIDE).any():
        raise BadRecordError("true box outside its image")
    return _Phrase(id, text, _PARTS[part], str(picture), corners)
