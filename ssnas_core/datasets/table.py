"""A data set of one's own: a CSV file, and image files beside it.

    id,image,text,labels,split
    m1,posters/m1.jpg,"A sheriff rides in.",Western|Drama,train

UTF-8, commas, one row per sample; quoted texts may hold line breaks.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TextIO

from tqdm.auto import tqdm

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import (
    SPLITS,
    BadRecordError,
    Dataset,
    Record,
    Skips,
    check_bytes,
    label_matrix,
)
from ssnas_core.datasets.splits import stratified_split

MAX_TABLE_BYTES = 10**9
"""A larger CSV file is refused: its texts are held in memory."""

MAX_ROWS = 500_000
"""More rows are refused; they are held in memory too."""

MAX_IMAGE_BYTES = 50 * 10**6
"""A larger image is not decoded."""

MAX_CLASSES = 1000
"""More labels than this are taken for a wrong column."""

_MAX_LINE = 1 << 22  # characters
_SPLITS = {name: name for name in SPLITS} | dict.fromkeys(("val", "valid", "validation"), "dev")


def csv_file(path: Path) -> Path:
    """Return the CSV file at `path`: itself, or the only one in that folder.

    Raises:
        InputError: there is none, or it is too large.
    """
    if path.is_dir():
        inside = [f for f in path.iterdir() if f.suffix.lower() == ".csv" and f.name[0] != "."]
        if len(inside) != 1:
            raise InputError(
                f"{path}: expected a folder with exactly one CSV file, got {len(inside)}; "
                "name the file itself."
            )
        path = inside[0]
    if not path.is_file():
        raise InputError(f"{path} is no file; expected a CSV file or its folder, mend the path.")
    size = path.stat().st_size
    if size > MAX_TABLE_BYTES:
        raise InputError(
            f"{path}: expected at most {MAX_TABLE_BYTES // 10**6} MB, got {size // 10**6} MB; "
            "is it a table of texts? Split it if so."
        )
    return path


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row that is not empty; the header always comes.

    Raises:
        InputError: not UTF-8, malformed, or too many rows.
    """
    reader = None
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(file), strict=True)
            count = 0
            for row in reader:
                if count == 0 or any(cell.strip() for cell in row):
                    count += 1
                    yield reader.line_num, row
                if count > MAX_ROWS + 1:
                    raise InputError(
                        f"{path}: expected at most {MAX_ROWS:,} rows, got more; split the table."
                    )
    except UnicodeDecodeError as error:
        line = reader.line_num if reader is not None else 0
        raise InputError(
            f"{path} is not UTF-8 ({error.reason} after line {line}); save it as UTF-8."
        ) from error
    except csv.Error as error:
        line = reader.line_num if reader is not None else 1
        raise InputError(
            f"{path}, line {line}: not a row of a CSV file ({error}); expected quotes closed, "
            f"and doubled inside, and cells of at most {csv.field_size_limit():,} characters."
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise csv.Error(f"and the line after it is longer than {_MAX_LINE:,} characters")
        yield line


def read_table(
    path: Path,
    *,
    images: str | Sequence[str] | None = None,
    texts: str | Sequence[str] | None = None,
    labels: str | None = None,
    id: str | None = None,
    split: str | None = None,
    single_label: bool | None = None,
    seed: int = 0,
    strict: bool = False,
    progress: bool = False,
) -> Dataset:
    """Read the samples of a CSV file, each with images, texts, labels and perhaps a split.

    Columns are found by their names in the first row, whatever their case, or
    named here. One image or text column makes the modality `"image"` or
    `"text"`; of several, each makes one of the column's own name.

    A record that cannot be used (an image missing, empty or outside of the CSV's
    folder, no text, no label, an unknown split, an id that occurs twice, a row of
    another length) is left out, and all of them are reported in one warning and in
    `Dataset.skipped`. Empty rows do not count. Images are not decoded here. Classes
    are sorted by name.

    Args:
        path: the CSV file, or a folder with exactly one.
        images: columns of image files, as paths relative to the CSV's folder and
            inside of it; else `image`, or `poster`, or all `image_...`.
        texts: columns of texts; else `text`, or `plot`, or all `text_...`.
        labels: column of labels, separated by `|`, or by `;` where there is no `|`;
            else `labels`, or `genres`.
        id: column of unique names; else `id`; without one, the row's number from 1.
        split: column of train, dev (or val, valid, validation) and test; else
            `split`; without one, a stratified 70/10/20 split by `seed`.
        single_label: whether each sample has exactly one label; by default, whether
            all usable records do.
        seed: of the split, where the file has none.
        strict: raise on the first unusable record instead.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no CSV file, not UTF-8, malformed, without the columns, fewer
            than two modalities or classes, a split without usable records, or, if
            `strict`, any unusable record.
    """
    path = csv_file(Path(path))
    rows = _csv_rows(path)
    header = [" ".join(name.split()) for name in next(rows, (0, []))[1]]
    columns = _columns(_Header(path, header), images, texts, labels, id, split)
    cells = [(line, row[: len(header) + 1]) for line, row in rows]  # enough to see it is longer
    ids = [_id(columns, number, row) for number, (_, row) in enumerate(cells, 1)]
    count = Counter(ids)
    skips = Skips(str(path), strict)
    records: list[Record] = []
    bar = tqdm(zip(ids, cells, strict=True), "reading table", len(ids), disable=not progress)
    for name, (line, row) in bar:
        try:
            if name and count[name] > 1:
                raise BadRecordError(f"its id occurs {count[name]} times")
            records.append(_record(columns, path.parent, name, row, single_label))
        except BadRecordError as bad:
            skips.add(name or f"line {line}", str(bad), f", line {line}")

    classes = tuple(sorted({label for record in records for label in record.labels}))
    if records and not 2 <= len(classes) <= MAX_CLASSES:
        raise InputError(
            f"{path}: expected 2 to {MAX_CLASSES} classes in column {header[columns.labels]!r}, "
            f"got {len(classes)} (e.g. {classes[0][:40]!r}); name the right column by labels=."
        )
    if columns.split is None and records:
        drawn = stratified_split(label_matrix(records, classes), seed)
        records = [replace(one, split=part) for one, part in zip(records, drawn, strict=True)]
    skips.check(records)
    single = all(len(one.labels) == 1 for one in records) if single_label is None else single_label
    kinds = dict.fromkeys(columns.images.values(), "image")
    kinds |= dict.fromkeys(columns.texts.values(), "text")
    return Dataset(path.stem, kinds, classes, tuple(records), skips.reasons, single)


@dataclass(frozen=True)
class _Header:
    """The titles of a file's columns, by which these are found."""

    path: Path
    titles: Sequence[str]

    def find(
        self, option: str, named: str | Sequence[str] | None, usual: Sequence[str], prefix: str = ""
    ) -> list[int]:
        """Return the columns that are named, else one of a usual name, else all with the prefix.

        There is one at least.
        """
        if named is not None:
            wanted = [named] if isinstance(named, str) else list(named)
            if len(set(wanted)) != len(wanted):
                raise InputError(f"expected different columns by {option}=, got {wanted}.")
            return [self._named(option, name) for name in wanted]
        found = self.usual(*usual)
        if found is not None:
            return [found]
        titles = enumerate(self.titles)
        several = [c for c, title in titles if prefix and title.casefold().startswith(prefix)]
        if not several:
            forms = " or ".join([*usual, f"{prefix}..."] if prefix else usual)
            raise InputError(
                f"{self.path}: expected a column {forms}, got {self}; "
                f"name it by {option}=, and separate columns by commas."
            )
        return several

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
                f"{self.path}: expected one column {name!r} as named by {option}=, got "
                f"{len(places)}; it has {self}."
            )
        return places[0]

    def __str__(self) -> str:
        names = ", ".join(title[:40] or "''" for title in self.titles[:10]) or "nothing"
        return f"{names}, ..." if len(self.titles) > 10 else names


@dataclass(frozen=True)
class _Columns:
    """The columns by what they hold; images and texts: column -> modality."""

    header: Sequence[str]
    images: Mapping[int, str]
    texts: Mapping[int, str]
    labels: int
    id: int | None
    split: int | None


def _columns(
    header: _Header,
    images: str | Sequence[str] | None,
    texts: str | Sequence[str] | None,
    labels: str | None,
    id: str | None,
    split: str | None,
) -> _Columns:
    image = header.find("images", images, ("image", "poster"), "image_")
    text = header.find("texts", texts, ("text", "plot"), "text_")
    if len(image) + len(text) < 2:
        raise InputError(
            f"{header.path}: expected at least two columns of images and texts, got {len(image)} "
            f"and {len(text)}; name them by images=, texts=."
        )
    (label,) = header.find("labels", labels, ("labels", "genres"))
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
        header.optional("id", id),
        header.optional("split", split),
    )


def _id(columns: _Columns, number: int, row: Sequence[str]) -> str:
    """Return the name of a row, "" where it has none; `number` counts rows from 1."""
    if len(row) != len(columns.header):
        return ""
    return str(number) if columns.id is None else row[columns.id].strip()


def _record(
    columns: _Columns, folder: Path, name: str, row: Sequence[str], single: bool | None
) -> Record:
    """Return the record of a row, its split "" where the file has none."""
    if len(row) != len(columns.header):
        raise BadRecordError(f"{len(row)} cells, where the header has {len(columns.header)}")
    if not name:
        raise BadRecordError("no id")
    inputs: dict[str, Path | str] = {}
    for column, modality in columns.images.items():
        inputs[modality] = _image(folder, row[column].strip())
    for column, modality in columns.texts.items():
        inputs[modality] = row[column].strip()
        if not inputs[modality]:
            raise BadRecordError(f"{columns.header[column]} is empty")
    labels = _labels(row[columns.labels], single)
    split = "" if columns.split is None else _split(row[columns.split])
    return Record(name, inputs, labels, split)


def _image(folder: Path, cell: str) -> Path:
    """Return the image file that a cell names."""
    if not cell or "\0" in cell:
        raise BadRecordError("no image path")
    windows = PureWindowsPath(cell)
    if PurePosixPath(cell).is_absolute() or windows.drive or windows.root:
        raise BadRecordError("image path is absolute, expected one relative to the CSV's folder")
    inside = os.path.normpath(cell if os.sep == "\\" else cell.replace("\\", "/"))
    if inside.split(os.sep)[0] == os.pardir:
        raise BadRecordError("image path leads out of the CSV's folder")
    path = folder / inside
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:
        size = None
    check_bytes("image", size, MAX_IMAGE_BYTES)
    return path


def _labels(cell: str, single: bool | None) -> tuple[str, ...]:
    parts = cell.split("|" if "|" in cell else ";")
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not names:
        raise BadRecordError("no label")
    if single and len(names) != 1:
        raise BadRecordError(f"{len(names)} labels, where one is expected")
    return names


def _split(cell: str) -> str:
    known = _SPLITS.get(cell.strip().casefold())
    if known is None:
        raise BadRecordError(f"split {cell.strip()[:20]!r} is none of train, dev, test")
    return known
