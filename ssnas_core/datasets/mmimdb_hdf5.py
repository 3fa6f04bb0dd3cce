"""MM-IMDB as its authors' HDF5 file, `multimodal_imdb.hdf5` (arXiv:1702.01992).

Written by `make_dataset.py` of github.com/johnarevalo/gmu-mmimdb, and read here:

    images    (N, 3, 256, 160) int32, BGR less the Caffe mean, the fraction cut off
    features  (N, 300) float32, mean word2vec vector of a plot
    genres    (N, 23) int32 of 0 and 1; attribute `target_names`, JSON, names the columns
    imdb_ids  (N,) bytes, e.g. b"0107290"
    attribute `split` of the file: Fuel's table of (split, source, start, stop, ...)

Images are read when they are used: together they are 12.8 GB. A few are looked at when
the file is opened, since copies hold them in other forms, as in [0, 1] or as RGB.
"""

from __future__ import annotations

import json
import logging
import math
import os
import reprlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.datasets.mmimdb import GENRES
from ssnas_core.datasets.records import SPLITS, Dataset, Record, Skips

MAX_RECORDS = 10**5
"""A file that claims more is refused; the published one has 25,959."""

MAX_CHUNK_BYTES = 64 * 10**6
"""HDF5 unpacks a chunk whole; one that claims more is refused. Published: 0.5 MB, an image."""

_LOG = logging.getLogger(__name__)
_MEAN = np.array([103.939, 116.779, 123.68]).reshape(3, 1, 1)  # Caffe's, of B, G and R
_SHAPES = {"images": (3, 256, 160), "features": (300,), "genres": (len(GENRES),), "imdb_ids": ()}
_MAX_SPANS = 1000  # of Fuel's table; published: three splits of five fields
_MAX_ID = 64  # bytes; published ones have seven
_BLOCK = 4096  # rows that are read at a time
_LOOKED_AT = 16  # images, evenly spread, that say in which form a file has them
_NORMALISED = 5  # pixels less mean and divided by deviation stay within; published: -124 to 152
_KINDS = {"images": "if", "features": "f", "genres": "iufb", "imdb_ids": "SUOiu"}
_PUBLISHED = {"train": 15_552, "dev": 2_608, "test": 7_799}
# what h5py raises at data it cannot make sense of
_BROKEN = (OSError, RuntimeError, LookupError, ValueError, TypeError)


@dataclass(frozen=True)
class _Poster:
    """Row `row` of the images in the HDF5 file `path`: a `StoredImage`."""

    path: Path
    row: int

    def __str__(self) -> str:
        return f"row {self.row} of {self.path}"

    def load(self) -> np.ndarray:
        """The pixels, uint8 (3, 256, 160) RGB.

        Raises:
            OSError: the file is gone or cannot be opened.
            ValueError: this row is damaged, or holds numbers that are no pixels.
        """
        status = os.stat(self.path)
        key = (os.getpid(), status.st_ino, status.st_mtime_ns, status.st_size)
        file = _opened(self.path, key)  # a local name: an open file closes with its last one
        try:
            stored = file["images"][self.row]
        except _BROKEN as error:
            raise ValueError(f"{self} is damaged: {one_line(error)}") from error
        if not stored.any():  # what HDF5 gives for what nobody wrote
            raise ValueError(f"{self} holds only zeros; it was never written")
        return _rgb(stored)


@lru_cache(maxsize=4)
def _opened(path: Path, key: tuple[int, ...]) -> Any:
    """Return the file, opened once per process and content; `key` tells these apart."""
    import h5py

    return h5py.File(path, "r")


def _rgb(stored: np.ndarray) -> np.ndarray:
    """Undo mean and channel order: (3, H, W) BGR less the mean -> uint8 RGB.

    Whole numbers lost their fraction towards 0: of the pixels p >= mean, p less
    the mean rounded up is left, of the others p less the mean rounded down. So
    all come back exactly but p = floor(mean), which comes back one higher.
    """
    if stored.dtype.kind == "i":
        pixels = stored + np.where(stored >= 0, np.ceil(_MEAN), np.floor(_MEAN))
    else:
        pixels = np.rint(stored + _MEAN)
    if not ((pixels >= 0) & (pixels <= 255)).all():
        raise ValueError(f"pixels from {pixels.min():g} to {pixels.max():g} after adding the mean")
    return pixels[::-1].astype(np.uint8)


def read_mmimdb_hdf5(path: Path, *, strict: bool = False, progress: bool = False) -> Dataset:
    """Read `multimodal_imdb.hdf5` as a dataset of `"image"` (posters) and `"text"` (arrays (300,)).

    Records come in the order of the file's rows. The genres' columns are named by
    the file itself (`target_names`); where it has no such attribute, they are taken
    to be in published order: the authors number genres by falling frequency, and
    that order is `GENRES`. Classes come in the order of `GENRES` either way, as from
    `read_mmimdb`. The split is the file's own; without one, a file of exactly 25,959
    rows is taken to be in published order, 15,552 train, 2,608 dev, 7,799 test.

    A record that cannot be used (no id, an id that occurs twice, NaN in its features,
    no genre, in no split) is left out, and all of them are reported in one warning
    and in `Dataset.skipped`. Images are not read here.

    Args:
        path: the HDF5 file.
        strict: raise on the first unusable record instead.
        progress: show a progress bar on stderr.

    Raises:
        InputError: not a whole HDF5 file of these fields and shapes, images in another
            form, other genres, no split, a split without usable records, or, if
            `strict`, any unusable record.
    """
    import h5py

    path = Path(path).absolute()  # images are read later, perhaps from elsewhere
    if not path.is_file():
        raise InputError(
            f"{path} is no file; expected multimodal_imdb.hdf5, mend the path or download it."
        )
    try:
        if not h5py.is_hdf5(path):
            raise InputError(
                f"{path} is not an HDF5 file; expected multimodal_imdb.hdf5 as published, "
                "download it again."
            )
        with h5py.File(path, "r") as file:
            ids, features, labels, splits = _content(path, file)
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"{path} is not a whole HDF5 file ({one_line(error)}); expected multimodal_imdb.hdf5 "
            "as published, download it again."
        ) from error
    bad = set(np.flatnonzero(~np.isfinite(features).all(1)).tolist())
    count = Counter(ids)
    skips = Skips(str(path), strict)
    records: list[Record] = []
    for row in tqdm(range(len(ids)), desc="reading MM-IMDB", disable=not progress):
        genres = tuple(genre for genre, has in zip(GENRES, labels[row], strict=True) if has)
        problem = None
        if not ids[row]:
            problem = "no id"
        elif count[ids[row]] > 1:
            problem = f"its id occurs {count[ids[row]]} times"
        elif row in bad:
            problem = "NaN or inf in features"
        elif not genres:
            problem = f"none of the {len(GENRES)} genres"
        elif splits[row] is None:
            problem = "in no split"
        if problem is not None:
            skips.add(ids[row] or f"row {row}", problem, f", row {row}")
            continue
        inputs = {"image": _Poster(path, row), "text": features[row]}
        records.append(Record(ids[row], inputs, genres, splits[row] or ""))
    skips.check(records)
    kinds = {"image": "image", "text": "array"}
    return Dataset("mmimdb", kinds, GENRES, tuple(records), skips.reasons)


def _content(path: Path, file: Any) -> tuple[list[str], np.ndarray, np.ndarray, list[str | None]]:
    """Return all but the images: ids, features (N, 300), labels (N, 23), splits."""
    rows = _checked(path, file)
    _check_images(path, file["images"])
    names = _columns(path, file["genres"])
    labels = np.empty((rows, len(GENRES)), np.uint8)
    features = np.empty((rows, *_SHAPES["features"]), np.float32)
    for start in range(0, rows, _BLOCK):  # what a file claims may be much more than it has
        some = slice(start, start + _BLOCK)
        block = file["genres"][some]
        if not ((block == 0) | (block == 1)).all():
            raise InputError(
                f"{path}: expected 0 and 1 in 'genres', got other numbers; restore it."
            )
        labels[some] = block
        with np.errstate(over="ignore"):  # becomes inf, as bad as NaN
            features[some] = file["features"][some]
    features.setflags(write=False)
    labels = labels[:, [names.index(genre) for genre in GENRES]]
    return _ids(file["imdb_ids"]), features, labels, _splits(path, file, rows)


def _checked(path: Path, file: Any) -> int:
    """Return N, if the file has all fields, of N rows each, in their shapes and types."""
    import h5py

    for name in _SHAPES:
        # a link may lead into another file; so may a field's data
        link = file.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
            held = ", ".join(one_line(one, 40) for one in islice(file, 10))
            what = f"no field {name!r}" if link is None else f"something else than data as {name!r}"
            raise InputError(
                f"{path} has {what}; expected {', '.join(_SHAPES)} as in "
                f"multimodal_imdb.hdf5, got {held or 'none'}; download it again."
            )
        field = file[name]
        chunk = math.prod(field.chunks or ()) * field.dtype.itemsize
        if field.is_virtual or field.external or chunk > MAX_CHUNK_BYTES:
            what = f"in chunks of {chunk:,} bytes" if chunk > MAX_CHUNK_BYTES else "in other files"
            raise InputError(
                f"{path}: expected the data of {name!r} in small chunks or one piece, got them "
                f"{what}; download it again."
            )
    rows = (file["imdb_ids"].shape or (0,))[0]
    if not 0 < rows <= MAX_RECORDS:
        raise InputError(
            f"{path}: expected 1 to {MAX_RECORDS:,} records, got {rows:,}; download it again."
        )
    for name, shape in _SHAPES.items():
        field = file[name]
        fits = field.shape == (rows, *shape) and field.dtype.kind in _KINDS[name]
        if not fits or field.dtype.itemsize > _MAX_ID:
            wanted = ", ".join(map(str, ("N", *shape)))
            raise InputError(
                f"{path}: expected {name!r} of shape ({wanted}), N = {rows} as in imdb_ids, and "
                f"its published type, got {field.dtype} {field.shape}; download it again."
            )
    return rows


def _check_images(path: Path, images: Any) -> None:
    """Raise `InputError` where a sample of the images is not BGR pixels less the mean."""
    ends: list[np.ndarray] = []  # per image (2, 3): the least and the largest of each channel
    for row in np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT, dtype=int)):
        try:
            image = images[row]
        except _BROKEN:  # one damaged image is told when it is decoded
            continue
        if image.any():  # else nobody wrote it
            ends.append(np.stack([image.min((1, 2)), image.max((1, 2))]).astype(float))
    looks = _form_of(np.array(ends)) if ends else "only zeros, as HDF5 gives for what is not there"
    if looks is not None:
        raise InputError(
            f"{path}: expected 'images' as published, BGR from 0 to 255 less the mean "
            f"({', '.join(map(str, _MEAN.flat))}), got {looks}; bring them to that form, or give "
            "the posters as image files beside a table."
        )


def _form_of(ends: np.ndarray) -> str | None:
    """Return what images of another form than the published one look like; None if of that.

    Args:
        ends: (N, 2, 3), the least and the largest number of each channel of N images.
    """
    ends = ends[np.isfinite(ends).all((1, 2))]
    if not len(ends):
        return "NaN or infinity"
    fits, turned = (  # whole numbers lost a fraction, others may be rounded
        ((ends[:, 0] > -mean - 1) & (ends[:, 1] < 256 - mean)).all(1).sum()
        for mean in (_MEAN.ravel(), _MEAN.ravel()[::-1])
    )
    low, high = ends[:, 0].min(), ends[:, 1].max()
    if low >= 0 and high <= 1:
        return "pixels from 0 to 1"
    if low >= 0 and high <= 255:
        return "pixels from 0 to 255 of which no mean was subtracted"
    if max(-low, high) <= _NORMALISED:
        return f"numbers from {low:.3g} to {high:.3g}, as of normalised pixels"
    if turned > fits:
        return "what looks like RGB less the mean, channels in the other order"
    if 2 * fits < len(ends):
        return f"numbers from {low:.6g} to {high:.6g}"
    return None


def _columns(path: Path, genres: Any) -> list[str]:
    """Return the names of the genres' columns."""
    if "target_names" not in genres.attrs:
        return list(GENRES)
    stored = _attribute(genres, "target_names", len(GENRES))
    try:
        names = json.loads(stored) if isinstance(stored, str | bytes) else np.ravel(stored).tolist()
        names = [_text(name) for name in names]
        known = sorted(names) == sorted(GENRES)
    except (ValueError, TypeError, RecursionError):
        names, known = [], False
    if not known:
        raise InputError(
            f"{path}: expected the attribute target_names of 'genres' to name the {len(GENRES)} "
            f"published genres, got {reprlib.repr(stored)[:60]!r}; restore the file."
        )
    return names


def _attribute(owner: Any, name: str, most: int) -> Any:
    """Return an attribute of at most `most` values; ValueError if it has more.

    A text of any length may stand alone: of many, each could be the same long one.
    """
    import h5py

    attribute = owner.attrs.get_id(name)
    count = math.prod(attribute.shape or ())
    fields = attribute.dtype.fields or {"": (attribute.dtype,)}
    kinds = [kind for kind, *_ in fields.values()]
    loose = any(kind.hasobject and h5py.check_ref_dtype(kind) is None for kind in kinds)
    if count > (len(GENRES) if loose else most):
        raise ValueError(f"{name} has {count} values")
    return owner.attrs[name]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _ids(field: Any) -> list[str]:
    """Return the name of each row, "" where it has none."""
    import h5py

    loose = field.dtype.kind == "O"  # texts of any length, which may all be one long one
    if loose and h5py.check_string_dtype(field.dtype) is None:
        raise ValueError("imdb_ids are neither texts nor numbers")
    ids: list[str] = []
    for row in range(0, len(field), 1 if loose else _BLOCK):
        for value in field[row : row + (1 if loose else _BLOCK)]:
            whole = isinstance(value, int | np.integer)
            name = f"{value:07d}" if whole else _text(value).strip("\0 ")
            if len(name) > _MAX_ID:
                raise ValueError(f"row {len(ids)} has an id of {len(name):,} characters")
            ids.append(name)
    return ids


def _splits(path: Path, file: Any, rows: int) -> list[str | None]:
    """Return the split of each row, None where it is in none."""
    try:
        return _fuel_splits(_attribute(file, "split", _MAX_SPANS), rows)
    except _BROKEN as error:
        problem = f"no usable attribute 'split' ({one_line(error)})"
    if rows == sum(_PUBLISHED.values()):
        _LOG.warning("%s: %s; its rows are taken to be in published order", path, problem)
        return [split for split, count in _PUBLISHED.items() for _ in range(count)]
    raise InputError(
        f"{path} has {problem}; expected Fuel's table of train, dev and test, or the published "
        f"{sum(_PUBLISHED.values()):,} rows, got {rows:,}; restore the file."
    )


def _fuel_splits(table: Any, rows: int) -> list[str | None]:
    """Return Fuel's table as one split per row; one of `_BROKEN` where it cannot be."""
    spans: dict[str, set[tuple[int, int]]] = {}
    for entry in np.ravel(table):
        if _text(entry["source"]) in _SHAPES and bool(entry["available"]):
            if entry["indices"]:
                raise ValueError("it lists single rows")
            span = (int(np.ravel(entry["start"])[0]), int(np.ravel(entry["stop"])[0]))
            spans.setdefault(_text(entry["split"]), set()).add(span)
    if not set(SPLITS) <= spans.keys():
        raise ValueError(f"it has the splits {sorted(spans)}")
    names: list[str | None] = [None] * rows
    for split in SPLITS:
        if len(spans[split]) != 1:
            raise ValueError(f"the fields disagree on {split}")
        ((start, stop),) = spans[split]
        if not 0 <= start < stop <= rows or any(names[start:stop]):
            raise ValueError(f"{split} is rows {start} to {stop} of {rows}, or shares some")
        names[start:stop] = [split] * (stop - start)
    return names
