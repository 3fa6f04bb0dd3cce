"""Pictures that texts are about: the regions that a detector found in them, or the images.

The files lie anywhere below a folder. A file's name ends in the number of its picture, as
`COCO_val2014_000000000042.jpg.npz`, or is the picture's name, as `1000092795.jpg`.

A file of regions is a .npz as bottom-up attention (arXiv:1707.07998) is published for PyTorch and
MMnas (arXiv:2004.12070) reads it: `x` (C, n), what is in n regions; `bbox` (n, 4), x1, y1, x2, y2
in pixels; `image_w` and `image_h`. Where a folder has such files, its images are not looked at.
"""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import MAX_IMAGE_BYTES, BadRecordError, check_bytes

MAX_REGION_BYTES = 64 * 10**6
"""A file of regions that unpacks to more is not read: 100 regions of 2048 numbers take 0.8 MB."""

MAX_ALL_BYTES = 20 * 10**9
"""Regions of all pictures that take more are refused: they are held in memory."""

_ARRAYS = ("x", "bbox", "image_w", "image_h")
_IMAGES = (".jpg", ".jpeg", ".png")
_ASIDE = 1.0  # pixels that a box may reach out of its image: both corner pixels may be within


@dataclass(frozen=True)
class Pictures:
    """Pictures by name, each as a record's input.

    Attributes:
        modality: "regions" or "image", what a record has of a picture.
        kind: of the modality.
        values: name -> regions, (R, C + 4) float32, a box at the end of each row and rows of 0
            after a picture's regions; or the file of the image.
        bad: name -> why there is no value.
    """

    modality: str
    kind: str
    values: Mapping[str, Any]
    bad: Mapping[str, str] = field(default_factory=dict)

    def inputs(self, name: str) -> dict[str, Any]:
        """Return a picture as the input of a record.

        Raises:
            BadRecordError: it cannot be used.
        """
        if name not in self.values:
            raise BadRecordError(self.bad.get(name, "picture missing"))
        return {self.modality: self.values[name]}


def picture_name(file: str) -> str:
    """Return the number at the end of a file's name, after "_" or alone, else the whole stem.

    Examples:
        >>> picture_name("COCO_val2014_000000000042.jpg.npz")
        '42'
        >>> picture_name("2513260012_03d33305cf.jpg")
        '2513260012_03d33305cf'
    """
    stem = file.rpartition("/")[2]
    for ending in (".npz", *_IMAGES):
        if stem.lower().endswith(ending):
            stem = stem[: -len(ending)]
    last = stem.rpartition("_")[2]
    return str(int(last)) if last.isascii() and last.isdigit() else stem


def read_pictures(
    folder: Path, names: Iterable[str], *, regions: int | None = None, progress: bool = False
) -> Pictures:
    """Return the pictures of these names, as `picture_name` has them.

    Args:
        folder: where their files lie, in any folders.
        names: those that are needed; others are not read.
        regions: R, kept of each picture, the first ones; without, the smallest square number
            that all have room in.
        progress: show a progress bar on stderr.

    Raises:
        InputError: two files of a picture, no file at all, or more regions than fit into memory.
    """
    files, modality = _files(folder, set(names))
    if modality == "image":
        images, bad = {}, {}
        for name, path in files.items():
            try:
                check_bytes("picture", path.stat().st_size, MAX_IMAGE_BYTES)
                images[name] = path
            except BadRecordError as problem:
                bad[name] = str(problem)
        return Pictures("image", "image", images, bad)
    found: dict[str, np.ndarray] = {}
    bad = dict.fromkeys(set(names) - files.keys(), "region file missing")
    channels, left = 0, MAX_ALL_BYTES
    for name, path in tqdm(files.items(), "reading regions", disable=not progress):
        try:
            rows = _read(path)[:regions]  # (n, C + 4)
            channels = channels or rows.shape[1]
            if rows.shape[1] != channels:
                raise BadRecordError(
                    f"region file of {rows.shape[1] - 4} channels, others have {channels - 4}"
                )
        except BadRecordError as problem:
            bad[name] = str(problem)
            continue
        found[name] = rows
        left -= rows.nbytes
        if left < 0:
            raise InputError(
                f"{folder}: expected regions of at most {MAX_ALL_BYTES:,} bytes, got more in "
                f"{len(found):,} of {len(files):,} pictures; give fewer pictures, or fewer regions."
            )
    most = max(map(len, found.values()), default=1)
    size = regions or (math.isqrt(most - 1) + 1) ** 2
    for name, rows in found.items():
        found[name] = _filled(rows, size)
    return Pictures("regions", "array", found, bad)


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Return rows (n, C) with rows of 0 after them, (size, C)."""
    whole = np.zeros((size, rows.shape[1]), np.float32)
    whole[: len(rows)] = rows
    whole.setflags(write=False)  # records share it
    return whole


def _files(folder: Path, names: set[str]) -> tuple[dict[str, Path], str]:
    """Return the files of pictures by name, of regions where there are any, and the modality."""
    found: dict[str, dict[str, Path]] = {"regions": {}, "image": {}}
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if one[0] != ".")
        for file in sorted(files):
            regions = file.endswith(".npz")
            name = picture_name(file)
            if name not in names or not (regions or file.lower().endswith(_IMAGES)):
                continue
            places = found["regions" if regions else "image"]
            if name in places:
                raise InputError(
                    f"{folder}: expected one file of the picture {name}, got {places[name].name} "
                    f"and {file}; keep the files of one set of regions or images."
                )
            places[name] = Path(root, file)
    modality = "regions" if found["regions"] else "image"
    if not found[modality]:
        raise InputError(
            f"{folder}: expected region files (NAME.jpg.npz) or images (.jpg, .png) below it whose "
            "names end in a picture's number, got none; put them there."
        )
    return found[modality], modality


def _read(path: Path) -> np.ndarray:
    """Return the regions of a file, (n, C + 4) float32.

    Raises:
        BadRecordError: they cannot be used.
    """
    try:
        arrays = [*_unpacked(path)]
    except KeyError as error:
        raise BadRecordError(f"region file without {error.args[0]}") from error
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for a broken file
        if isinstance(error, BadRecordError):
            raise
        raise BadRecordError("region file damaged") from error
    if any(one.dtype.kind not in "biuf" for one in arrays):
        raise BadRecordError("region file without numbers")
    what, boxes = arrays[:2]
    if what.ndim != 2 or boxes.shape != (what.shape[1], 4) or not what.size or arrays[2].size != 1:
        raise BadRecordError(
            f"region file with x {what.shape} and bbox {boxes.shape}, expected (C, n) and (n, 4)"
        )
    rows = np.concatenate([what.T, boxes], 1).astype(np.float32)
    if not np.isfinite(rows).all():
        raise BadRecordError("region file with NaN or inf")
    wide, high = (float(one.reshape(-1)[0]) for one in arrays[2:])
    x1, y1, x2, y2 = rows[:, -4:].T
    aside = min(x1.min(), y1.min(), wide - x2.max(), high - y2.max()) < -_ASIDE
    if aside or (x2 < x1).any() or (y2 < y1).any():
        raise BadRecordError("a box outside its image")
    return rows


def _unpacked(path: Path) -> Iterable[np.ndarray]:
    """Yield the arrays of a file, which runs nothing and takes no more than it may."""
    with zipfile.ZipFile(path) as archive:
        if sum(one.file_size for one in archive.infolist()) > MAX_REGION_BYTES:
            raise BadRecordError(f"region file larger than {MAX_REGION_BYTES // 10**6} MB")
        for name in _ARRAYS:
            if f"{name}.npy" not in archive.namelist():
                raise KeyError(name)
            content = archive.read(f"{name}.npy")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of headers that Python 2 wrote
                yield np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
