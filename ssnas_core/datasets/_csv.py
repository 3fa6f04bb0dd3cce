"""The rows of a CSV file, read within bounds: neither a line nor the table may be of any size."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ssnas_core.errors import InputError

MAX_TABLE_BYTES = 10**9
"""A larger CSV file is refused: its texts are held in memory."""

MAX_ROWS = 500_000
"""More rows are refused; they are held in memory too."""

_MAX_LINE = 1 << 22  # characters


def csv_file(path: Path) -> Path:
    """The CSV file at `path`: itself, or the only one in that folder.

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


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row that is not empty; the header always comes.

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
