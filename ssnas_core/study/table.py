"""The rows of a label-ratio study: one tidy CSV, and the paired numbers drawn from it.

A row is one method at one label ratio with one seed. Cells may be missing while
a study is under way, so nothing is averaged over whatever is there: a
difference or a rank is taken only over seeds that both, or all, methods have.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.common.typed import brief, typed
from ssnas_core.datasets.table import csv_file, csv_rows
from ssnas_core.study.significance import permutation_test, ranks
from ssnas_core.training.metrics import mean_interval

_NEEDED = ("method", "label_ratio", "seed", "score")
SECONDS = ("search_seconds", "pretrain_seconds", "train_seconds")
_STEPS = ("search_steps", "pretrain_steps", "train_steps")
_COUNTS = (*_STEPS, "parameters", "search_parameters")
_TEXTS = ("method", "genotype")
_WHOLE = {"seed", "labelled", *_COUNTS}
_DECIMALS = dict.fromkeys(SECONDS, 2) | {"peak_anonymous_mb": 1, "label_ratio": 6}
_SCORE_DECIMALS = 4
_LARGEST = 1e30  # what means and axes can bear
_BEFORE, _AFTER = (
    (*_NEEDED, "dev_score"),
    ("labelled", *SECONDS, *_COUNTS, "peak_anonymous_mb", "genotype"),
)

Row = dict[str, Any]


def checked(rows: Iterable[Mapping[str, Any]], where: str = "rows of a study") -> list[Row]:
    """Rows with every value checked, and rounded as the table has them.

    Scores keep 4 decimals, seconds 2, megabytes 1. Methods stay in the order in
    which they first come; a method's rows are sorted by label ratio and seed.

    Args:
        rows: mappings with `method`, `label_ratio`, `seed` and `score`; optionally
            `dev_score`, costs, `labelled`, `genotype`. Any other name is a score.
            A value may be None except in the first four.
        where: begins the message of an error.

    Raises:
        InputError: no rows, a value of another kind, or one cell twice.
    """
    found: list[Row] = []
    for number, row in enumerate(rows, 1):
        at = f"{where}, row {number}"
        lacking = [name for name in _NEEDED if row.get(name) is None]
        if lacking:
            raise InputError(f"{at}: expected a {lacking[0]}, got none; make the table anew.")
        found.append({name: _value(name, value, at) for name, value in row.items()})
    if not found:
        raise InputError(f"{where}: expected at least one row, got none; run the study first.")
    seen: set[tuple[str, float, int]] = set()
    for row in found:
        cell = (row["method"], row["label_ratio"], row["seed"])
        if cell in seen:
            raise InputError(
                f"{where}: expected each cell once, got {cell[0]!r} at r = {cell[1]:g} with seed "
                f"{cell[2]} twice; leave one out."
            )
        seen.add(cell)
    order = methods_of(found)
    found.sort(key=lambda row: (order.index(row["method"]), row["label_ratio"], row["seed"]))
    return found


def study_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of a study as tidy CSV; what a row has not is empty.

    The same cells give the same bytes: columns are the cell, `score`,
    `dev_score`, further scores by name, `labelled`, costs, `genotype`.

    Raises:
        InputError: as `checked`.
    """
    known = checked(rows)
    present = {name for row in known for name in row}
    scores = sorted(present.difference(_BEFORE, _AFTER))
    columns = [name for name in (*_BEFORE, *scores, *_AFTER) if name in present]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(known)
    return buffer.getvalue()


def read_study(path: Path) -> list[Row]:
    """The rows that `study_csv` wrote, each value of its own type, None where it is empty.

    Raises:
        InputError: no such file, not this table, or a broken value.
    """
    path = csv_file(Path(path))
    lines = csv_rows(path)
    _, names = next(lines, (1, []))
    lacking = [name for name in _NEEDED if name not in names]
    if lacking or len(set(names)) < len(names):
        told = f"it lacks {lacking[0]}" if lacking else "a column comes twice"
        raise InputError(
            f"{path}: expected a study's table with columns {', '.join(_NEEDED)}, but {told}; "
            "write it anew with study_csv."
        )
    rows = []
    for number, cells in lines:
        at = f"{path}, line {number}"
        if len(cells) != len(names):
            raise InputError(
                f"{at}: expected {len(names)} cells, got {len(cells)}; make the table anew."
            )
        values = {n: _parsed(n, text, at) for n, text in zip(names, cells, strict=True)}
        rows.append(values)
    return checked(rows, str(path))


@dataclass(frozen=True)
class Difference:
    """A paired difference: each seed's score of `first` less that of `second`.

    Over several `ratios` it is the mean over them, of the seeds that have all.
    """

    first: str
    second: str
    ratios: tuple[float, ...]
    by_seed: Mapping[int, float]

    @property
    def interval(self) -> tuple[float, float, float]:
        """Mean over seeds and 95 % t interval; NaN where it is not known."""
        return (
            mean_interval(list(self.by_seed.values())) if self.by_seed else (np.nan, np.nan, np.nan)
        )

    @property
    def p(self) -> float:
        """Two-sided p of the sign-flip test; there must be a seed."""
        values = list(self.by_seed.values())
        return permutation_test(values, np.zeros(len(values)))


def difference(
    rows: Iterable[Mapping[str, Any]],
    first: str,
    second: str,
    ratios: Sequence[float],
    against: Sequence[float] | None = None,
) -> Difference:
    """`first` at `ratios` less `second` at `against` (the same), over the seeds that have all."""
    scores = by_cell(rows)
    seeds = sorted({seed for _, _, seed in scores})
    found = {}
    for seed in seeds:
        ours = [scores.get((first, r, seed)) for r in ratios]
        theirs = [scores.get((second, r, seed)) for r in (ratios if against is None else against)]
        known = [
            a - b for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None
        ]
        if len(known) == len(ratios):
            found[seed] = float(np.mean(known))
    return Difference(first, second, tuple(ratios), found)


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of methods over the blocks (label ratio x seed) that all of them have.

    `by_seed[method][seed]` is the method's rank there, a mean over that seed's
    label ratios. Seeds are what is independent: the ratios of a seed share an
    architecture and their labels are nested, so intervals are over seeds.
    """

    by_seed: Mapping[str, Mapping[int, float]]
    blocks: tuple[tuple[float, int], ...]

    @property
    def intervals(self) -> dict[str, tuple[float, float, float]]:
        """Mean rank and 95 % t interval over seeds by method, best first.

        Intervals are cut at the first and the last rank.
        """
        found = {}
        for name, own in self.by_seed.items():
            mean, low, high = mean_interval(list(own.values()))
            low, high = np.clip((low, high), 1, len(self.by_seed))
            found[name] = (mean, float(low), float(high))
        return dict(sorted(found.items(), key=lambda item: item[1][0]))


def ranking(rows: Iterable[Mapping[str, Any]], methods: Sequence[str] | None = None) -> Ranking:
    """Rank `methods` (all, by default) against each other; without common blocks, of nothing."""
    rows = list(rows)
    methods = methods_of(rows) if methods is None else list(dict.fromkeys(methods))
    scores = by_cell(rows)
    cells = sorted({(ratio, seed) for _, ratio, seed in scores})
    blocks = [cell for cell in cells if all((name, *cell) in scores for name in methods)]
    if not blocks:
        return Ranking({}, ())
    places = ranks([[scores[name, *block] for name in methods] for block in blocks])
    seeds = np.array([seed for _, seed in blocks])
    by_seed = {
        name: {int(seed): float(places[seeds == seed, column].mean()) for seed in np.unique(seeds)}
        for column, name in enumerate(methods)
    }
    return Ranking(by_seed, tuple(blocks))


def by_cell(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, float, int], float]:
    """`score` by method, label ratio and seed."""
    return {(row["method"], row["label_ratio"], row["seed"]): row["score"] for row in rows}


def methods_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The methods in the order in which they first come."""
    return list(dict.fromkeys(row["method"] for row in rows))


def ratios_of(rows: Iterable[Mapping[str, Any]]) -> list[float]:
    """The label ratios, ascending."""
    return sorted({row["label_ratio"] for row in rows})


def chosen(rows: Sequence[Mapping[str, Any]], methods: Sequence[str] | None) -> list[str]:
    """`methods`, each once; all of the study by default.

    Raises:
        InputError: none, or one that the study has not.
    """
    known = methods_of(rows)
    wrong = [name for name in methods or () if name not in known]
    if wrong or methods is not None and not methods:
        raise InputError(
            f"expected methods of the study, got {wrong[0] if wrong else 'none'!r}; there are "
            f"{'; '.join(known)}."
        )
    return known if methods is None else list(dict.fromkeys(methods))


def mean_curves(
    rows: Iterable[Mapping[str, Any]],
) -> dict[str, dict[float, tuple[float, float, float]]]:
    """(mean, low, high) of the score over seeds, by method and label ratio (ascending)."""
    runs: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        runs.setdefault(row["method"], {}).setdefault(row["label_ratio"], []).append(row["score"])
    return {
        name: {ratio: mean_interval(curve[ratio]) for ratio in sorted(curve)}
        for name, curve in runs.items()
    }


def score_name(rows: Sequence[Mapping[str, Any]]) -> str:
    """What `score` is: "accuracy" or "weighted F1" where a column of that name is the same."""
    for name, text in (("accuracy", "accuracy"), ("weighted_f1", "weighted F1")):
        if rows and all(row.get(name) == row["score"] for row in rows):
            return text
    return "score"


def _parsed(name: str, text: str, where: str) -> Any:
    """A cell of the CSV file as text or number; what is neither stays text, for `_value`."""
    if text == "" or name in _TEXTS:
        return text or None
    try:
        return int(text) if name in _WHOLE else float(text)
    except ValueError:
        return text


def _value(name: str, value: Any, where: str) -> Any:
    """A value of column `name`, checked, and rounded to what it means."""
    at = f"{where}: {brief(name)}"
    if value is None:
        return None
    if name in _TEXTS:
        text = typed(str, value, at)
        # A table, a legend and a list show them: no markup of either, and one line.
        if not text.isprintable() or len(text) > 1000 or set(text) & set("|$`"):
            raise InputError(
                f"{at}: expected a text of one line without | $ `, got {text[:40]!a}; rename it."
            )
        return text
    if isinstance(value, Integral) and not isinstance(value, bool):
        value = int(value)
    elif isinstance(value, Real) and not isinstance(value, bool):
        value = float(value)
    if name in _WHOLE:
        number = typed(int, value, at)
        if number < 0:
            raise InputError(f"{at}: expected 0 or more, got {number}; make the table anew.")
        return number
    number = round(typed(float, value, at), _DECIMALS.get(name, _SCORE_DECIMALS))
    if abs(number) > _LARGEST:
        raise InputError(f"{at}: expected a score or cost, got {number}; make the table anew.")
    if name == "label_ratio" and not 0 < number <= 1:
        raise InputError(f"{at}: expected a share in (0, 1], got {number}; make the table anew.")
    if not name.isidentifier() and not name.replace(".", "").isidentifier():
        raise InputError(f"{at}: expected a plain name of a score; rename the column.")
    return number
