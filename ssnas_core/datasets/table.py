"""A data set of one's own: a table of texts, labels and image files.

    id,image,text,labels,split
    m1,posters/m1.jpg,"A sheriff rides in.",Western|Drama,train

A CSV file, JSON lines, Parquet or Arrow, or a folder of these (`ssnas_core.datasets.rows`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tqdm.auto import tqdm

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.cells import MISSING, is_missing, label_cells, plain_text
from ssnas_core.datasets.records import (
    MAX_CLASSES,
    MAX_IMAGE_BYTES,
    BadRecordError,
    Dataset,
    Record,
    Skips,
    check_bytes,
)
from ssnas_core.datasets.rows import SPLIT_NAMES, Row, only_file, read_rows, table_name
from ssnas_core.datasets.splits import with_splits

_USUAL = {
    "images": ("image", "poster", "img", "file_name"),
    "texts": ("text", "plot", "plots", "caption", "overview", "description"),
    "labels": ("labels", "genres", "label", "genre"),
}


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How the columns of a table are read.

    Args:
        images: columns of images, as paths relative to the table's folder and inside of it; by
            default `image`, `poster`, `img` or `file_name`, or all `image_...`.
        texts: columns of texts; by default `text`, `plot`, `caption`, `overview` or
            `description`, or all `text_...`. Of a list of texts the longest counts.
        labels: column of labels; by default `labels`, `genres`, `label` or `genre`.
        id: column of unique names; by default `id`; without one, the row's number from 1.
        split: column of train, dev (or val, valid, validation), test and unlabelled; by
            default `split`, or the files' names; without, a stratified 70/10/20 split.
        labels_separator: what is between the labels of a cell; by default bars, semicolons
            where there is no bar, or what the column plainly shows.
        single_label: whether each sample has exactly one label; by default, whether all have.
        missing: cells that say "no value", in any case, beside empty ones.
    """

    images: tuple[str, ...] | None = None
    texts: tuple[str, ...] | None = None
    labels: str | None = None
    id: str | None = None
    split: str | None = None
    labels_separator: str | None = None
    single_label: bool | None = None
    missing: tuple[str, ...] = MISSING

    def __post_init__(self) -> None:
        for name in ("images", "texts", "missing"):
            value = getattr(self, name)
            if value is not None:
                several = (value,) if isinstance(value, str) else tuple(value)
                object.__setattr__(self, name, several)


def read_table(
    path: Path,
    options: TableOptions | None = None,
    *,
    seed: int = 0,
    strict: bool = False,
    progress: bool = False,
) -> Dataset:
    """Read a table as a dataset of images, texts and labels.

    Modalities come in the order images, texts, those of a kind as named or else as
    in the file. The only one of a kind is called `image` or `text`, others by their
    columns. Classes are sorted. A record that cannot be used (an image
    missing, empty, larger than 50 MB or outside of the folder; no text, or no label
    in test; an unknown split; an id that occurs twice; cells missing) is left out, and all
    are reported in one warning and in `Dataset.skipped`. Without a label in train or dev a
    record is unlabelled. Images are not decoded here.

    Args:
        path: the file, or a folder of tables, see `ssnas_core.datasets.rows`.
        options: what its columns are.
        seed: of the split, where the file has none.
        strict: raise on the first unusable record instead.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no table, not UTF-8, malformed, without the columns, fewer
            than two modalities or classes, labels of an unknown form, a split without
            usable records, or, if `strict`, any unusable record.
    """
    path, options = Path(path), options or TableOptions()
    titles, rows = read_rows(path)
    name, path = table_name(path), only_file(path)
    columns = _columns(_Header(path, titles), options)
    whole = [row for row in rows if len(row.cells) == len(titles)]
    where = f"{path}, column {titles[columns.labels]!r}"
    read = label_cells(
        [row.cells[columns.labels] for row in whole],
        separator=options.labels_separator,
        single=options.single_label,
        missing=options.missing,
        where=where,
    )
    labels = iter(read)
    ids = [_id(columns, number, row) for number, row in enumerate(rows, 1)]
    count = Counter(ids)
    skips = Skips(str(path), strict)
    records: list[Record] = []
    bar = tqdm(zip(ids, rows, strict=True), "reading table", len(ids), disable=not progress)
    for id, row in bar:
        named = next(labels) if len(row.cells) == len(titles) else ()
        try:
            if id and count[id] > 1:
                raise BadRecordError(f"its id occurs {count[id]} times")
            records.append(_record(columns, options, id, row, named))
        except BadRecordError as bad:
            skips.add(id or row.place, str(bad), f", {row.place}")

    classes = tuple(sorted({label for record in records for label in record.labels or ()}))
    if records and not 2 <= len(classes) <= MAX_CLASSES:
        example = f" (e.g. {classes[0][:40]!r})" if classes else ""
        raise InputError(
            f"{where}: expected 2 to {MAX_CLASSES} classes, got {len(classes)}{example}; name the "
            "right column by --labels (TableOptions.labels)."
        )
    placed = with_splits(records, classes, seed)
    skips.check(placed)
    single = options.single_label
    if single is None:
        single = all(len(one.labels) == 1 for one in records if one.labels is not None)
    kinds = dict.fromkeys(columns.images.values(), "image")
    kinds |= dict.fromkeys(columns.texts.values(), "text")
    return Dataset(name, kinds, classes, placed, skips.reasons, single)


@dataclass(frozen=True)
class _Header:
    """The titles of a file's columns, by which these are found."""

    path: Path
    titles: Sequence[str]

    def find(self, option: str, named: Sequence[str] | None, prefix: str) -> list[int]:
        """Return the columns that are named, else one of a usual name, else all with the prefix."""
        if named is not None:
            if len(set(named)) != len(named):
                raise InputError(f"expected different columns by --{option}, got {[*named]}.")
            return [self._named(option, name) for name in named]
        found = self.usual(*_USUAL[option])
        if found is not None:
            return [found]
        return [c for c, title in enumerate(self.titles) if title.casefold().startswith(prefix)]

    def optional(self, option: str, named: str | None) -> int | None:
        """Return the column that is named, else the one that is called as the option, if any."""
        return self.usual(option) if named is None else self._named(option, named)

    def usual(self, *names: str) -> int | None:
        """Return the column of the first of these names that there is, whatever its case."""
        for name in names:
            places = [c for c, title in enumerate(self.titles) if title.casefold() == name]
            if len(places) > 1:
                raise InputError(
                    f"{self.path}: expected one column {name!r}, got {len(places)}; rename the "
                    "others."
                )
            if places:
                return places[0]
        return None

    def _named(self, option: str, name: str) -> int:
        places = [column for column, title in enumerate(self.titles) if title == name]
        if len(places) != 1:
            raise InputError(
                f"{self.path}: expected one column {name!r} as named by --{option}, got "
                f"{len(places)}; it has {self}."
            )
        return places[0]

    def __str__(self) -> str:
        names = ", ".join(title[:40] or "''" for title in self.titles[:20]) or "nothing"
        return f"{names}, ..." if len(self.titles) > 20 else names


@dataclass(frozen=True)
class _Columns:
    """The columns by what they hold; images and texts: column -> modality."""

    header: Sequence[str]
    images: Mapping[int, str]
    texts: Mapping[int, str]
    labels: int
    id: int | None
    split: int | None


def _columns(header: _Header, options: TableOptions) -> _Columns:
    image = header.find("images", options.images, "image_")
    text = header.find("texts", options.texts, "text_")
    named = options.labels
    label = header.usual(*_USUAL["labels"]) if named is None else header.optional("labels", named)
    if len(image) + len(text) < 2 or label is None:
        found = [header.titles[column] for column in (*image, *text)]
        what = "a column of labels" if label is None else "at least two columns of images and texts"
        got = "none" if label is None else (" and ".join(found) or "none")
        usual = {name: f"--{name} ({', '.join(_USUAL[name])})" for name in _USUAL}
        raise InputError(
            f"{header.path}: expected {what}, got {got} among {header}; name the columns by "
            f"{usual['labels'] if label is None else usual['images'] + ' and ' + usual['texts']}."
        )
    modality: dict[int, str] = {}
    for group, only in ((image, "image"), (text, "text")):
        for column in group:
            title = re.sub(r"\W", "_", header.titles[column])
            modality[column] = only if len(group) == 1 else title
    if len(set(modality.values())) != len(image) + len(text):
        raise InputError(
            f"{header.path}: expected a column of its own for each modality, got "
            f"{', '.join(modality.values())}; rename columns."
        )
    return _Columns(
        header.titles,
        {column: modality[column] for column in image},
        {column: modality[column] for column in text},
        label,
        header.optional("id", options.id),
        header.optional("split", options.split),
    )


def _id(columns: _Columns, number: int, row: Row) -> str:
    """Return the name of a row, "" where it has none; `number` counts rows from 1."""
    if len(row.cells) != len(columns.header):
        return ""
    cell = number if columns.id is None else row.cells[columns.id]
    return "" if cell is None else str(cell).strip()


def _record(
    columns: _Columns,
    options: TableOptions,
    name: str,
    row: Row,
    labels: tuple[str, ...] | str,
) -> Record:
    """Return the record of a row, its split "" where the table has none."""
    cells = row.cells
    if len(cells) != len(columns.header):
        raise BadRecordError(f"{len(cells)} cells, where the header has {len(columns.header)}")
    if not name:
        raise BadRecordError("no id")
    inputs: dict[str, Any] = {}
    for column, modality in columns.images.items():
        inputs[modality] = _image(row.folder, cells[column], options.missing)
    for column, modality in columns.texts.items():
        inputs[modality] = _text(columns.header[column], cells[column], options.missing)
    split = row.split if columns.split is None else _split(cells[columns.split])
    if isinstance(labels, str):
        raise BadRecordError(f"labels are {labels}")
    if split == "test" and not labels:
        raise BadRecordError("no label, in test")
    if options.single_label and len(labels) > 1:
        raise BadRecordError(f"{len(labels)} labels, where one is expected")
    known = labels or None
    if re.search("[\ud800-\udfff]", "".join([name, *labels])):
        raise BadRecordError("its id or labels are not valid Unicode")
    return Record(name, inputs, None if split == "unlabelled" else known, _TRAIN.get(split, split))


_TRAIN = {"unlabelled": "train"}


def _text(title: str, cell: Any, missing: Sequence[str]) -> str:
    """Return the text of a cell; of several the longest."""
    texts = cell if isinstance(cell, list) else [cell]
    known = [one for one in texts if not is_missing(one, missing)]
    if not known:
        said = f" ({cell[:20]!r})" if isinstance(cell, str) and cell.strip() else ""
        raise BadRecordError(f"{title} is missing{said}")
    if not all(isinstance(one, str) for one in known):
        raise BadRecordError(f"{title} is no text, but {type(known[0]).__name__}")
    text = max(map(plain_text, known), key=len)
    if re.search("[\ud800-\udfff]", text):  # JSON can escape what UTF-8 cannot encode
        raise BadRecordError(f"{title} is not valid Unicode")
    return text


def _image(folder: Path, cell: Any, missing: Sequence[str]) -> Any:
    """Return the image file that a cell names, or the image that it holds."""
    if hasattr(cell, "load"):
        return cell
    if is_missing(cell, missing) or not isinstance(cell, str) or "\0" in cell:
        raise BadRecordError("no image path")
    cell = cell.strip()
    if re.match(r"[a-z]{2,9}://", cell, re.I):
        raise BadRecordError("image is a URL; download the images, and name their files instead")
    windows = PureWindowsPath(cell)
    if PurePosixPath(cell).is_absolute() or windows.drive or windows.root:
        raise BadRecordError("image path is absolute, expected one relative to the table's folder")
    inside = os.path.normpath(cell if os.sep == "\\" else cell.replace("\\", "/"))
    if inside.split(os.sep)[0] == os.pardir:
        raise BadRecordError("image path leads out of the table's folder")
    path = folder / inside
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:
        size = None
    check_bytes("image", size, MAX_IMAGE_BYTES)
    return path


def _split(cell: Any) -> str:
    known = SPLIT_NAMES.get(str(cell).strip().casefold())
    if known is None:
        raise BadRecordError(f"split {str(cell).strip()[:20]!r} is none of train, dev, test")
    return known
