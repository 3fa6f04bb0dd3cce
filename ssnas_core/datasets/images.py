"""Images in folders: the class of an image is the name of its folder.

    photos/cat/1.jpg              a folder for each class, and the parts drawn
    photos/dog/a/2.png
    photos/unlabelled/3.jpg       images that nobody has labelled

    photos/train/cat/1.jpg        or the same for each part: train, dev (or val, ...), test
    photos/dev/dog/2.png

Where there is a folder `train` with folders in it, the folders beside it are parts. A part that
is not there is drawn from train.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.datasets.records import (
    MAX_CLASSES,
    MAX_IMAGE_BYTES,
    SPLITS,
    BadRecordError,
    Dataset,
    Record,
    Skips,
    check_bytes,
)
from ssnas_core.datasets.rows import SPLIT_NAMES
from ssnas_core.datasets.splits import with_splits

MAX_IMAGES = 2_000_000
"""More images are refused: their paths are held in memory. ImageNet has 1.4 million."""

_LOG = logging.getLogger(__name__)
_ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)


def holds_images(folder: Path, depth: int = 2) -> bool:
    """Whether there is an image in a folder's folders, down to a depth below it."""
    with contextlib.suppress(OSError):  # of a folder that cannot be read nothing is known
        for one in _listed(folder)[1]:
            if _listed(one)[0] or (depth > 1 and holds_images(one, depth - 1)):
                return True
    return False


def read_images(
    folder: Path, *, seed: int = 0, strict: bool = False, progress: bool = False
) -> Dataset:
    """Read folders of images as a dataset of `"image"`, with one label each: its folder's name.

    Classes are sorted. All images below a class's folder are of that class. Those beside the
    folders of classes and those in a folder `unlabelled` are unlabelled. An image that cannot
    be used (empty, larger than 50 MB, without a class in test) is left out, and all are
    reported in one warning and in `Dataset.skipped`. Images are not decoded here; hidden files,
    and files without the ending of an image, are not looked at.

    Args:
        folder: see above.
        seed: of the parts that are drawn, stratified: dev gets 10 % and test 20 % of the
            labelled images that are in no other part.
        strict: raise on the first unusable image instead.
        progress: show a progress bar on stderr.

    Raises:
        InputError: folders of classes beside those of parts, a class without an image, fewer
            than two classes or more than 1,000, a part without usable images, or, if `strict`,
            any unusable image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images, got none; mend the path.")
    parts = _parts(folder)
    skips = Skips(str(folder), strict)
    records: list[Record] = []
    files = _files(folder, parts)
    bar = tqdm(files, "reading images", disable=not progress, unit=" images")
    for path, split, label in bar:
        name = path.relative_to(folder).as_posix()
        try:
            records.append(_record(path, name, split, label))
        except BadRecordError as bad:
            skips.add(name.encode(errors="backslashreplace").decode(), str(bad))
    classes = tuple(sorted({label for one in records for label in one.labels or ()}))
    if not 2 <= len(classes) <= MAX_CLASSES:
        example = f" ({classes[0][:40]!r})" if classes else ""
        raise InputError(
            f"{folder}: expected folders of images of 2 to {MAX_CLASSES:,} classes, got "
            f"{len(classes)}{example}; put the images of each class into a folder of its name."
        )
    given = {split for split in parts.values() if split in SPLITS}
    if empty := given - {one.split for one in records}:
        raise InputError(
            f"{folder}: expected usable images in {' and '.join(sorted(empty))}, got none "
            f"({len(skips.reasons)} unusable); restore them, or delete the folder."
        )
    placed = with_splits(records, classes, seed)
    skips.check(placed)
    drawn = [split for split in SPLITS[1:] if split not in given]
    if drawn:
        _LOG.warning(
            "%s has no folder of %s: drawn from the other labelled images (seed %d)",
            *(folder, " and none of ".join(drawn), seed),
        )
    kinds = {"image": "image"}
    return Dataset(folder.resolve().name, kinds, classes, placed, skips.reasons, single_label=True)


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images and the folders in a folder, in order."""
    with os.scandir(folder) as entries:
        shown = sorted((e for e in entries if e.name[0] != "."), key=lambda entry: entry.name)
    images = [Path(e.path) for e in shown if _is_image(e.name) and not e.is_dir()]
    return images, [Path(e.path) for e in shown if e.is_dir()]


def _is_image(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and name[0] != "."


def _split(folder: Path) -> str | None:
    """Return the part that the name of a folder tells, as "dev" of "val"; None for others."""
    return SPLIT_NAMES.get(folder.name.casefold())


def _parts(folder: Path) -> dict[Path, str]:
    """Return the folders of the parts, with "dev", "test" or "unlabelled", or "" if to be drawn.

    Images of train are to be drawn as well: into the parts that are missing.
    """
    folders = _listed(folder)[1]
    told = {one: _split(one) for one in folders}
    train = [one for one, split in told.items() if split == "train"]
    if not any(_listed(one)[1] for one in train) and (None in told.values() or not train):
        return {folder: ""}  # a class may be called train
    foreign = [one.name for one, split in told.items() if split is None]
    if foreign:
        raise InputError(
            f"{folder}: expected folders of the parts train, dev, test and unlabelled alone, as "
            f"{train[0].name} has folders, got {one_line(', '.join(foreign))} beside it; put each "
            "class into its part."
        )
    return {one: "" if split == "train" else split or "" for one, split in told.items()}


def _files(folder: Path, parts: dict[Path, str]) -> Iterator[tuple[Path, str, str | None]]:
    """Yield each image, its part, and its class or None; "" is a part that is to be drawn."""
    count = 0
    for part, split in parts.items():
        place = "" if split == "unlabelled" else split
        images, folders = _listed(part)
        groups: list[tuple[Path, str | None]] = [(image, None) for image in images]
        for one in folders:
            unlabelled = "unlabelled" in (split, _split(one))
            found = [*_below(one)]
            if not found and not unlabelled:
                raise InputError(
                    f"{folder}: expected images in the folder of each class, got none in "
                    f"{str(one.relative_to(folder))[:200]!r}; put some there, or delete it."
                )
            groups += [(image, None if unlabelled else one.name) for image in found]
        count += len(groups)
        if count > MAX_IMAGES:
            raise InputError(
                f"{folder}: expected at most {MAX_IMAGES:,} images, got more; give fewer."
            )
        yield from ((image, place, label) for image, label in groups)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the images below a folder, in order; links to other folders are not followed."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        yield from (Path(root, name) for name in sorted(names) if _is_image(name))


def _record(path: Path, name: str, split: str, label: str | None) -> Record:
    if re.search("[\ud800-\udfff]", name):
        raise BadRecordError("its name is not valid Unicode")
    if label is None and split == "test":
        raise BadRecordError("no class, in test")
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:
        size = None
    check_bytes("image", size, MAX_IMAGE_BYTES)
    return Record(name, {"image": path}, None if label is None else (label,), split)
