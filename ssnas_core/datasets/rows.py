"""The rows of a table, whatever file they come in: CSV, JSON lines, Parquet or Arrow.

A folder is read too where its files tell what they are: one table, `metadata.csv` beside
images (Hugging Face's image folder), or a table for each split, as `train.csv` and `test.csv`,
`train-00000-of-00002.parquet` or `mmimdb_dev.arrow`; the same in folders of those names.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from ssnas_core.common.errors import InputError, one_line

_LOG = logging.getLogger(__name__)

MAX_TABLE_BYTES = 10**9
"""A larger CSV or JSON file, or more text in an Arrow file, is refused: it is held in memory."""

MAX_ROWS = 500_000
"""More rows are refused; they are held in memory too."""

MAX_RATIO = 20
"""So are a Parquet or Arrow file's texts of more than so many times the size of the file."""

MIN_BYTES = 128 * 10**6
"""So much may be unpacked whatever the ratio."""

FORMS = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow")
"""Endings of the files that are tables."""

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled", "unsupervised"), "unlabelled"),
}
"""What splits are called -> "train", "dev", "test" or "unlabelled"."""

_MAX_LINE = 1 << 22  # characters
_BATCH = 16  # rows of a Parquet or Arrow file that are unpacked at once
_METADATA = re.compile(r"metadata\.(csv|jsonl|parquet)", re.I)


@dataclass(frozen=True)
class Row:
    """One row: where it is, for messages; its cells; images are beside `folder`.

    Args:
        place: as "line 3" or "row 3 of train.parquet".
        cells: a text, number, list, object, None or `StoredImage` per title.
        folder: what paths of images are relative to.
        split: of its file, "" where that tells none.
    """

    place: str
    cells: list[Any]
    folder: Path
    split: str


def table_files(path: Path) -> list[tuple[Path, str]]:
    """Return the files of the table at `path`, each with the split that it tells, "" of none.

    A file is a table of its own. Of a folder there are none where it holds no table, or
    several whose names do not tell their splits.
    """
    if not path.is_dir():
        return [(path, "")]
    for folder in (path, path / "data"):
        files = _tables_in(folder)
        if len(files) == 1:
            return [(files[0], "")]
        named = [(file, split_named(file.stem)) for file in files]
        if named and all(split for _, split in named):
            return named
        if files:
            return []
    inside = sorted(one for one in path.iterdir() if one.is_dir() and split_named(one.name))
    return [(file, split_named(one.name)) for one in inside for file in _tables_in(one)]


def table_name(path: Path) -> str:
    """Return what to call the table at `path`: its file, or the folder of several or of images."""
    file = only_file(path)
    return path.name if file.is_dir() or _METADATA.fullmatch(file.name) else file.stem


def only_file(path: Path) -> Path:
    """Return the only file of the table at `path`, or the folder of several."""
    files = [file for file, _ in table_files(path)]
    return files[0] if len(files) == 1 else path


def split_named(name: str) -> str:
    """Return the split that a name tells, as "dev" for "mmimdb_val-00000"; "" of none or two."""
    words = re.split(r"[\W\d_]+", name.casefold())
    told = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return told.pop() if len(told) == 1 else ""


def _tables_in(folder: Path) -> list[Path]:
    """Return the tables in a folder; beside images the one with their descriptions alone."""
    if not folder.is_dir():
        return []
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in FORMS and f.name[0] != ".")
    return [f for f in files if _METADATA.fullmatch(f.name)] or files


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Return titles and rows of the table at `path`.

    Raises:
        InputError: no table, one that cannot be read, or tables of different columns.
    """
    files = table_files(path)
    if not files:
        held = len(_tables_in(path))
        raise InputError(
            f"{path}: expected a folder with exactly one CSV file, got {held}; name the file "
            "itself, or name files by their splits, as train.csv, dev.csv and test.csv."
        )
    titles: list[str] = []
    rows: list[Row] = []
    for file, split in files:
        found, lines = _read_file(file)
        titles = titles or found
        if sorted(found) != sorted(titles):
            raise InputError(
                f"{file}: expected the columns {', '.join(titles)[:200]} of {files[0][0].name}, "
                f"got {', '.join(found)[:200]}; make them alike."
            )
        order = [found.index(title) for title in titles]
        beside = f" of {file.name}" if len(files) > 1 else ""
        for place, cells in lines:
            whole = len(cells) == len(found)  # else its reader says what is wrong with it
            put = [cells[c] for c in order] if whole and found != titles else cells
            rows.append(Row(f"{place}{beside}", put, file.parent, split))
        if len(rows) > MAX_ROWS:
            raise InputError(
                f"{path}: expected at most {MAX_ROWS:,} rows, got more; split the table."
            )
    return titles, rows


def _read_file(path: Path) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """Return titles, and place and cells of each row, of one file."""
    if not path.is_file():
        raise InputError(f"{path} is no file; expected a CSV file or its folder, mend the path.")
    form = path.suffix.lower()
    if form in (".parquet", ".arrow"):
        return _arrow_rows(path)
    size = path.stat().st_size
    if size > MAX_TABLE_BYTES:
        raise InputError(
            f"{path}: expected at most {MAX_TABLE_BYTES // 10**6} MB, got {size // 10**6} MB; "
            "is it a table of texts? Split it if so."
        )
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return (_json_rows if form == ".jsonl" else _csv_rows)(path, file)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 ({error.reason} in line {_bad_line(path)}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from error


def _bad_line(path: Path) -> int:
    """Return the number of the first line that is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _csv_rows(path: Path, file: TextIO) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    sign = _delimiter(path, file)
    reader = csv.reader(_lines(file), strict=True, delimiter=sign)
    rows: list[tuple[str, list[Any]]] = []
    titles: list[str] | None = None
    try:
        for row in reader:
            if titles is None:
                titles = [" ".join(name.split()) for name in row]
            elif any(cell.strip() for cell in row):
                rows.append((f"line {reader.line_num}", row[: len(titles) + 1]))  # longer: refused
            if len(rows) > MAX_ROWS:
                break
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: not a row of a CSV file ({error}); expected quotes "
            f"closed, and doubled inside, and cells of at most {csv.field_size_limit():,} "
            "characters."
        ) from error
    return titles or [], rows


def _delimiter(path: Path, file: TextIO) -> str:
    """Return what separates the columns: the comma, unless the header has more of another."""
    header = file.readline(_MAX_LINE)
    file.seek(0)
    count = {sign: header.count(sign) for sign in ",;\t"}
    sign = max(count, key=lambda one: count[one])
    if sign != "," and path.suffix.lower() != ".tsv":
        _LOG.warning("%s: its columns are read as separated by %r", path, sign)
    return sign


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise csv.Error(f"and the line after it is longer than {_MAX_LINE:,} characters")
        yield line


def _json_rows(path: Path, file: TextIO) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    objects: list[tuple[str, dict[str, Any]]] = []
    titles: dict[str, None] = {}
    try:
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                continue
            one = json.loads(line)
            if not isinstance(one, dict):
                raise ValueError(f"line {number} is no object")
            titles |= dict.fromkeys(one)
            objects.append((f"line {number}", one))
            if len(objects) > MAX_ROWS:
                break
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError, csv.Error) as error:
        place = f"line {len(objects) + 1}"
        raise InputError(
            f"{path}, {place}: not JSON lines ({one_line(error)}); expected an object per line."
        ) from error
    return list(titles), [(place, [one.get(t) for t in titles]) for place, one in objects]


# Parquet and Arrow


@dataclass(frozen=True)
class _Stored:
    """The image in one cell of a Parquet or Arrow file: a `StoredImage`."""

    path: Path
    column: str
    group: int
    row: int

    def __str__(self) -> str:
        return f"row {self.row} of part {self.group} of {self.path}"

    def load(self) -> bytes:
        """The content of its image file.

        Raises:
            OSError: the file is gone or cannot be opened.
            ValueError: it is damaged, or the cell holds no image.
        """
        status = os.stat(self.path)
        key = (status.st_ino, status.st_mtime_ns, status.st_size)
        try:
            cell = _column(self.path, key, self.column, self.group)[self.row].as_py()
        except OSError:
            raise
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            raise ValueError(f"{self} is damaged: {one_line(error)}") from error
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes) or not content:
            raise ValueError(f"{self} holds no image")
        return content


@lru_cache(maxsize=2)
def _column(path: Path, key: tuple[int, ...], column: str, group: int) -> Any:
    """Return a column of a part of a file; `key` tells contents of one path apart."""
    import pyarrow as arrow

    batches = _parts(path)[1](group, [column])
    return arrow.chunked_array([batch.column(0) for batch in batches])


def _parts(path: Path) -> tuple[int, Callable[[int, list[str]], Iterable[Any]], Any]:
    """Return how many parts a file has, a reader of some columns of one, and the schema."""
    try:
        import pyarrow as arrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise InputError(
            f"{path}: Parquet and Arrow files need pyarrow; pip install 'ssnas[arrow]'."
        ) from error
    if path.suffix.lower() == ".parquet":
        file = parquet.ParquetFile(path, memory_map=True)

        def read(group: int, names: list[str]) -> Iterable[Any]:
            return file.iter_batches(_BATCH, row_groups=[group], columns=names)

        return file.num_row_groups, read, file.schema_arrow
    source = arrow.memory_map(str(path))
    try:
        opened = ipc.open_file(source)
        batches = [opened.get_batch(k) for k in range(opened.num_record_batches)]
    except arrow.ArrowInvalid:  # as `datasets` saves them: a stream
        opened = ipc.open_stream(source)
        batches = list(opened)
    for batch in batches:
        batch.validate(full=True)  # else what a damaged one points at is read, whatever it is

    def slices(group: int, names: list[str]) -> Iterable[Any]:
        batch = batches[group].select(names)
        return (batch.slice(start, _BATCH) for start in range(0, batch.num_rows, _BATCH))

    return len(batches), slices, opened.schema


def _arrow_rows(path: Path) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    try:
        parts, read, schema = _parts(path)
        titles = list(schema.names)
        images = {name for name in titles if _is_image(schema.field(name).type)}
        classes = _class_names(schema)
        plain = [name for name in titles if name not in images]
        rows: list[list[Any]] = []
        most = min(MAX_TABLE_BYTES, max(MIN_BYTES, MAX_RATIO * path.stat().st_size))
        for group in range(parts):
            before = len(rows)
            for batch in read(group, plain):
                columns = {name: batch.column(name).to_pylist() for name in plain}
                most -= sum(_size(cell) for column in columns.values() for cell in column)
                if most < 0 or len(rows) + len(batch) > MAX_ROWS:
                    raise InputError(
                        f"{path}: expected at most {MAX_ROWS:,} rows and "
                        f"{MAX_TABLE_BYTES // 10**6} MB beside images, or {MAX_RATIO} times the "
                        "size of the file, got more; split the table."
                    )
                for name, named in classes.items():
                    columns[name] = [_named(cell, named) for cell in columns[name]]
                first = len(rows) - before
                for name in images:
                    places = range(first, first + len(batch))
                    columns[name] = [_Stored(path, name, group, row) for row in places]
                rows += map(list, zip(*(columns[title] for title in titles), strict=True))
    except InputError:
        raise
    except Exception as error:  # pyarrow raises many kinds for what is no such file
        raise InputError(
            f"{path} is not a whole Parquet or Arrow file ({one_line(error)}); write it again."
        ) from error
    return titles, [(f"row {number}", cells) for number, cells in enumerate(rows, 1)]


def _size(cell: Any) -> int:
    """Return how many letters and bytes a cell holds."""
    if isinstance(cell, str | bytes):
        return len(cell)
    parts = cell.values() if isinstance(cell, dict) else cell
    return sum(map(_size, parts)) if isinstance(parts, Iterable) else 1


def _is_image(kind: Any) -> bool:
    """Whether a column of a type holds files: bytes, or `datasets`' structure of bytes and path."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(k).name == "bytes" for k in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the names of the classes of those columns for which `datasets` has noted them."""
    noted = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(noted)["info"]["features"] if noted else {}
    except (ValueError, KeyError, TypeError):
        return {}
    found = {}
    for name, feature in features.items() if isinstance(features, Mapping) else ():
        inner = feature.get("feature", feature) if isinstance(feature, Mapping) else {}
        inner = inner[0] if isinstance(inner, list) and inner else inner
        names = inner.get("names") if isinstance(inner, Mapping) else None
        if name in schema.names and isinstance(names, list):
            found[name] = [str(one) for one in names]
    return found


def _named(cell: Any, names: list[str]) -> Any:
    """Return the classes that numbers stand for; -1 is none."""
    if isinstance(cell, list):
        return [_named(one, names) for one in cell]
    if not isinstance(cell, int) or cell == -1:
        return None if cell == -1 else cell
    if not 0 <= cell < len(names):
        raise ValueError(f"class {cell} of {len(names)}")
    return names[cell]
