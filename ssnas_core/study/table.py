"""The rows of a label-ratio study: one tidy CSV, and the paired numbers drawn from it.

A row is one method at one label ratio with one seed. Cells may be missing while
a study is under way, so nothing is averaged over whatever is there: a
difference or a rank is taken only over seeds that both, or all, methods have.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.typed import brief
from ssnas_core.show.tables import COUNTS, SECONDS, Interval, methods_of, table_csv
from ssnas_core.study.significance import permutation_test
from ssnas_core.training.metrics import mean_interval

_NEEDED = ("method", "label_ratio", "seed", "score")
_TEXTS = ("method", "genotype")
_WHOLE = {"seed", "labelled", *COUNTS}
_DECIMALS = dict.fromkeys(SECONDS, 2) | {"peak_anonymous_mb": 1, "label_ratio": 6}
_SCORE_DECIMALS = 4
_LARGEST = 1e30  # what means and axes can bear
_MOST_BYTES = 10**8


def checked(rows: Iterable[Mapping[str, Any]], where: str = "rows of a study") -> list[dict]:
    """Return the rows rounded and in the order of the table.

    Scores keep 4 decimals, seconds 2, megabytes 1. Methods stay in the order in
    which they first come; a method's rows are sorted by label ratio and seed.

    Args:
        rows: mappings with `method`, `label_ratio`, `seed` and `score`; optionally
            `dev_score`, costs, `labelled`, `genotype`. Any other name is a score.
            A value may be None except in the first four.
        where: begins the message of an error.

    Raises:
        InputError: no rows, or one cell twice.
    """
    table = [{name: _rounded(name, value) for name, value in row.items()} for row in rows]
    if not table:
        raise InputError(f"{where}: expected at least one row, got none; run the study first.")
    order = {name: place for place, name in enumerate(methods_of(table))}
    table.sort(key=lambda row: (order[row["method"]], row["label_ratio"], row["seed"]))
    for one, other in pairwise(table):
        if all(one[name] == other[name] for name in ("method", "label_ratio", "seed")):
            raise InputError(
                f"{where}: expected each cell once, got {one['method']!r} at r = "
                f"{one['label_ratio']:g} with seed {one['seed']} twice; leave one out."
            )
    return table


def study_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows of a study as tidy CSV; the same cells give the same bytes.

    Raises:
        InputError: as `checked`.
    """
    return table_csv(checked(rows))


def read_study(path: Path) -> list[dict[str, Any]]:
    """Return the rows that `study_csv` wrote, each value of its own type, None where it is empty.

    Raises:
        InputError: no such file, not this table, or a broken value.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(
                f"{path}: expected the table of a study, got more than 100 MB; name another file."
            )
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(reader.fieldnames or [], path)
            rows = [_parsed(row, f"{path}, line {reader.line_num}") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot read {path} ({one_line(error)}); expected the table of a study as CSV."
        ) from error
    return checked(rows, str(path))


def _check_columns(names: Sequence[str], path: Path) -> None:
    """Refuse the header of another table."""
    lacking = [name for name in _NEEDED if name not in names]
    if lacking or len(set(names)) < len(names):
        problem = f"it lacks {lacking[0]}" if lacking else "a column comes twice"
        raise InputError(
            f"{path}: expected a study's table with columns {', '.join(_NEEDED)}, but {problem}; "
            "write it anew with study_csv."
        )
    for name in names:
        if not name.replace(".", "").isidentifier():  # as weighted_f1_at_0.3
            raise InputError(f"{path}: {brief(name)}: expected a plain name; rename the column.")


def _parsed(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return one line of the file as typed values."""
    if None in row or None in row.values():
        raise InputError(f"{where}: expected a cell for each column; make the table anew.")
    lacking = [name for name in _NEEDED if not row[name]]
    if lacking:
        raise InputError(f"{where}: expected a {lacking[0]}, got none; make the table anew.")
    return {name: _value(name, text, f"{where}: {name}") for name, text in row.items()}


def _value(name: str, text: str, where: str) -> str | float | None:
    """Return a cell of the file as a text, a whole number or a number."""
    if text == "":
        return None
    if name in _TEXTS:
        # A table, a legend and a list show them: no markup of either, and one line.
        if not text.isprintable() or len(text) > 1000 or set(text) & set("|$`"):
            raise InputError(
                f"{where}: expected a text of one line without | $ `, got {text[:40]!a}; rename it."
            )
        return text
    low, high = (0 if name in _WHOLE else -_LARGEST), _LARGEST
    if name == "label_ratio":
        low, high = 1e-6, 1
    try:
        number = int(text) if name in _WHOLE else float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        expected = "a whole number" if name in _WHOLE else "a number"
        raise InputError(
            f"{where}: expected {expected} from {low:g} to {high:g}, got {brief(text)!r}; "
            "make the table anew."
        )
    return number


def _rounded(name: str, value: Any) -> Any:
    if value is None or name in _TEXTS:
        return value
    if name in _WHOLE:
        return int(value)
    return round(float(value), _DECIMALS.get(name, _SCORE_DECIMALS))


@dataclass(frozen=True)
class Difference:
    """A paired difference: each seed's score of one method less that of another."""

    by_seed: Mapping[int, float]

    @property
    def interval(self) -> Interval:
        """Mean over seeds and 95 % t interval; NaN where it is not known."""
        values = list(self.by_seed.values())
        return mean_interval(values) if values else (math.nan, math.nan, math.nan)

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
    """Return `first` at `ratios` less `second` at `against` (the same), of the seeds with all.

    Over several ratios it is the mean over them.
    """
    scores = _by_cell(rows)
    pairs = list(zip(ratios, ratios if against is None else against, strict=True))
    by_seed = {}
    for seed in sorted({seed for _, _, seed in scores}):
        cells = [((first, one, seed), (second, other, seed)) for one, other in pairs]
        if all(ours in scores and theirs in scores for ours, theirs in cells):
            gains = [scores[ours] - scores[theirs] for ours, theirs in cells]
            by_seed[seed] = float(np.mean(gains))
    return Difference(by_seed)


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
    def intervals(self) -> dict[str, Interval]:
        """Mean rank and 95 % t interval over seeds by method, best first.

        Intervals are cut at the first and the last rank.
        """
        intervals = {}
        for name, ranks in self.by_seed.items():
            mean, low, high = mean_interval(list(ranks.values()))
            low, high = np.clip((low, high), 1, len(self.by_seed))
            intervals[name] = (mean, float(low), float(high))
        return dict(sorted(intervals.items(), key=lambda item: item[1][0]))


def ranking(rows: Iterable[Mapping[str, Any]], methods: Sequence[str] | None = None) -> Ranking:
    """Rank `methods` (all, by default) against each other; without common blocks, of nothing.

    The highest score of a block has rank 1; equal scores share the mean of their ranks.
    """
    from scipy.stats import rankdata

    rows = list(rows)
    methods = methods_of(rows) if methods is None else list(dict.fromkeys(methods))
    scores = _by_cell(rows)
    cells = sorted({(ratio, seed) for _, ratio, seed in scores})
    blocks = [cell for cell in cells if all((name, *cell) in scores for name in methods)]
    if not blocks:
        return Ranking({}, ())
    ranks = rankdata([[-scores[name, *block] for name in methods] for block in blocks], axis=1)
    seeds = np.array([seed for _, seed in blocks])
    by_seed = {
        name: {int(seed): float(ranks[seeds == seed, column].mean()) for seed in np.unique(seeds)}
        for column, name in enumerate(methods)
    }
    return Ranking(by_seed, tuple(blocks))


def _by_cell(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, float, int], float]:
    """Return the score by method, label ratio and seed."""
    return {(row["method"], row["label_ratio"], row["seed"]): row["score"] for row in rows}
