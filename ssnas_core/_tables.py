"""Plain text tables of scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def primary_score(rows: Sequence[Mapping[str, Any]]) -> str:
    """The score that methods are compared by: accuracy where each row has it, else weighted F1."""
    return "accuracy" if rows and all("accuracy" in row for row in rows) else "weighted_f1"


def heading(name: str) -> str:
    """A score's name for people: `weighted_f1` is "weighted F1"."""
    return name.replace("_", " ").replace("f1", "F1").replace(" ap", " AP")


def align(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows as lines with aligned columns, numbers to the right; columns in `left` to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
