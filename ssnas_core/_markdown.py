"""Sections, tables and numbers as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


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
