"""Plain text tables of scores."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
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


# Sections, tables and numbers as Markdown.


def section(text: str) -> list[str]:
    """A heading, and the empty lines around it."""
    return ["", f"## {text}", ""]


def as_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """A table's lines; texts must not hold a bar."""
    rows = [head, ["---"] * len(head), *body]
    return [f"| {' | '.join(row)} |" for row in rows]


def with_interval(interval: tuple[float, float, float], sign: str = "", digits: int = 3) -> str:
    """(mean, low, high) as "mean [low, high]", without ends that are not known."""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in interval)
    return mean if math.isnan(interval[1]) else f"{mean} [{low}, {high}]"


def p_text(value: float) -> str:
    """A p of three digits."""
    return f"{value:.3g}" if value >= 0.0001 else "< 0.0001"


def at_ratios(ratios: Iterable[float]) -> list[str]:
    """Headings of a table's columns."""
    return [f"r = {ratio:g}" for ratio in ratios]


def listed(ratios: Iterable[float]) -> str:
    """Label ratios in a sentence."""
    return ", ".join(f"{ratio:g}" for ratio in ratios)


def how_many(number: int, what: str) -> str:
    """A number of things, plural where it is not one."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
