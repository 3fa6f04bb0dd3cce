"""The one table of scores: its rows, what is averaged over seeds, and the table as text or CSV.

A row is a mapping: `method`, `label_ratio`, `seed`, the `score` that methods are compared by,
every score by its name, and what is known of the cell besides. Rows of a run, of several
runs and of a study are all of this kind.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from ssnas_core.common.errors import InputError
from ssnas_core.training.metrics import mean_interval

Row = Mapping[str, Any]
Interval = tuple[float, float, float]
"""Mean over seeds, and the low and high end of its 95 % t interval; NaN of a single seed."""

SECONDS = ("search_seconds", "pretrain_seconds", "train_seconds")
COUNTS = ("search_steps", "pretrain_steps", "train_steps", "parameters")
# Columns before and after those of the other scores.
_FIRST = (
    *("run", "stage", "space", "objective", "strategy", "setting", "differs"),
    *("method", "label_ratio", "seed", "on", "score", "dev_score"),
)
_LAST = ("labelled", *SECONDS, *COUNTS, "peak_anonymous_mb", "genotype", "repeats", "problem")
_SCORES = {
    "vqa_accuracy": "VQA accuracy",
    "accuracy": "accuracy",
    "recall": "recall",
    **{f"{what}_at_{k}": f"{what}@{k}" for what in ("pictures", "texts") for k in (1, 5, 10)},
    "weighted_f1": "weighted F1",
    "weighted_f1_at_0.3": "at 0.3",
    "weighted_f1_at_0.5": "at 0.5",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "samples_f1": "samples F1",
    "weighted_ap": "weighted AP",
    "threshold": "threshold",
}


def primary_score(rows: Sequence[Row]) -> str:
    """Return the column that methods are compared by: the first that each row has.

    That is `score` in a table of several runs, else `vqa_accuracy`, `accuracy` or `recall`, else
    `weighted_f1`.
    """
    names = ("score", "vqa_accuracy", "accuracy", "recall")
    return next((n for n in names if rows and all(n in row for row in rows)), "weighted_f1")


def score_name(rows: Sequence[Row], metric: str = "score") -> str:
    """Return a score's name for people; `score` is named as the column that is the same."""
    if metric == "score":
        names = ("vqa_accuracy", "accuracy", "recall", "weighted_f1")
        same = (n for n in names if all(r.get(n) == r[metric] for r in rows))
        metric = next(same, metric)
    return _SCORES.get(metric, metric.replace("_", " "))


def grouped(rows: Iterable[Row], *names: str) -> dict[Any, list[Row]]:
    """Return the rows by what they have in the columns `names`, in the order of the first ones."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(itemgetter(*names)(row), []).append(row)
    return groups


def by_ratio(
    rows: Iterable[Row], metric: str = "score", by: Sequence[str] = ("method",)
) -> dict[Any, dict[float, list[float]]]:
    """Return the seeds' scores by group of rows, its method by default, and by label ratio."""
    ordered = sorted(rows, key=itemgetter("label_ratio"))
    return {
        group: {
            float(ratio): [float(row[metric]) for row in cells]
            for ratio, cells in grouped(part, "label_ratio").items()
        }
        for group, part in grouped(ordered, *by).items()
    }


def mean_curves(
    rows: Iterable[Row], metric: str = "score", by: Sequence[str] = ("method",)
) -> dict[Any, dict[float, Interval]]:
    """Return the mean over seeds with its interval, by group and label ratio as `by_ratio`."""
    return {
        group: {ratio: mean_interval(scores) for ratio, scores in curve.items()}
        for group, curve in by_ratio(rows, metric, by).items()
    }


def methods_of(rows: Iterable[Row]) -> list[str]:
    """Return the methods in the order in which they first come."""
    return list(dict.fromkeys(row["method"] for row in rows))


def ratios_of(rows: Iterable[Row]) -> list[float]:
    """Return the label ratios, ascending."""
    return sorted({row["label_ratio"] for row in rows})


def chosen(rows: Sequence[Row], methods: Sequence[str] | None) -> list[str]:
    """Return `methods`, each once; all of the table by default.

    Raises:
        InputError: no methods, or one that the table lacks.
    """
    known = methods_of(rows)
    unknown = [name for name in methods or () if name not in known]
    if unknown or methods is not None and not methods:
        raise InputError(
            f"expected methods of the table, got {unknown[0] if unknown else 'none'!r}; there are "
            f"{'; '.join(known)}."
        )
    return known if methods is None else list(dict.fromkeys(methods))


def table_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV; a value that a row lacks is empty.

    The same rows give the same bytes: the cell and its `score` come first, then the other
    scores by name, costs and the genotype last.
    """
    present = {name for row in rows for name in row}
    scores = sorted(present.difference(_FIRST, _LAST))
    buffer = io.StringIO()
    columns = [name for name in (*_FIRST, *scores, *_LAST) if name in present]
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def scores_text(rows: Sequence[Row]) -> str:
    """Return the scores of a run as an aligned table: a line per cell, a column per score."""
    names = [name for name in _SCORES if all(row.get(name) is not None for row in rows)]
    on = ["on"] if any("on" in row for row in rows) else []
    body = [
        [row["method"], f"{row['label_ratio']:g}", *(row[name] for name in on)]
        + [f"{row[name]:.3f}" for name in names]
        for row in rows
    ]
    head = ["method", "r", *on, *(_SCORES[name] for name in names)]
    return "\n".join(align([head, *body], left=(0, 2) if on else (0,)))


def align(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return lines with aligned columns, numbers to the right; columns in `left` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def section(title: str, about: str, *lines: str) -> list[str]:
    """Return a heading in Markdown and a paragraph, before the lines of a table or list."""
    return ["", f"## {title}", "", about, *(["", *lines] if lines else [])]


def as_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown; texts must not hold a bar."""
    rows = [head, ["---"] * len(head), *body]
    return [f"| {' | '.join(row)} |" for row in rows]


def with_interval(interval: Interval, sign: str = "", digits: int = 3) -> str:
    """Return "mean [low, high]", without the ends that are not known."""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in interval)
    return mean if math.isnan(interval[1]) else f"{mean} [{low}, {high}]"


def p_text(value: float) -> str:
    """Return a p of three digits."""
    return f"{value:.3g}" if value >= 0.0001 else "< 0.0001"


def at_ratios(ratios: Iterable[float]) -> list[str]:
    """Return the headings of a table's columns."""
    return [f"r = {ratio:g}" for ratio in ratios]


def listed(ratios: Iterable[float]) -> str:
    """Return label ratios as a part of a sentence."""
    return ", ".join(f"{ratio:g}" for ratio in ratios)


def how_many(number: int, what: str) -> str:
    """Return a number of things, plural where it is not one."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
