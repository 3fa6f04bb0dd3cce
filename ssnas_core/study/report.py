"""A study in words and tables: means, paired tests, ranks, costs, architectures, labels.

The text is a function of the committed table alone: the same rows give the same
bytes, whatever the order in which cells were computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ssnas_core.show.tables import (
    COUNTS,
    SECONDS,
    as_table,
    at_ratios,
    by_ratio,
    grouped,
    how_many,
    listed,
    methods_of,
    p_text,
    ratios_of,
    score_name,
    section,
    with_interval,
)
from ssnas_core.study.significance import holm, smallest_p
from ssnas_core.study.table import Difference, checked, difference, ranking
from ssnas_core.training.metrics import mean_interval

FEW_LABELS = 0.3
"""Label ratios up to this one are "few labels": where the method claims to win."""

_ALPHA = 0.05
_MOST_SHOWN = 3  # architectures that more than one seed found
_COSTS = (*SECONDS, *COUNTS, "peak_anonymous_mb")

Rows = Sequence[Mapping[str, Any]]
Differences = Mapping[str, Mapping[str, Difference]]
"""One family of tests: differences by row and column of their table."""


def study_report(
    rows: Iterable[Mapping[str, Any]],
    *,
    title: str,
    pairs: Sequence[tuple[str, str]],
    across: Sequence[tuple[str, float, str, float]] = (),
    ranked: Sequence[str] | None = None,
) -> str:
    """Markdown of what a study found.

    Args:
        rows: one per method, label ratio and seed, as `study_csv` takes them;
            cells may be missing.
        title: the heading, a line that says what was scored on what.
        pairs: methods to compare, each the first less the second. Holm's
            correction is over all tests of a table, so name only the decisive ones.
        across: (method, label ratio, method, label ratio), each the first less the
            second: whether one does with few labels what the other needs many for.
        ranked: methods to rank over the cells that all of them have; all by default.

    Raises:
        InputError: as `study_csv`.
    """
    known = checked(rows)
    seeds = sorted({row["seed"] for row in known})
    lines = [
        f"# {title}",
        "",
        f"{how_many(len(known), 'cell')}: {how_many(len(methods_of(known)), 'method')}, "
        f"{how_many(len(ratios_of(known)), 'label ratio')}, {how_many(len(seeds), 'seed')} "
        f"({', '.join(map(str, seeds))}).",
        *_scores(known),
        *_differences(known, pairs, across),
        *_ranking(known, ranked),
        *_costs(known),
        *_genotypes(known),
        *_labels(known),
    ]
    return "\n".join(lines) + "\n"


def _scores(rows: Rows) -> list[str]:
    ratios, scores = ratios_of(rows), by_ratio(rows)
    complete = all(len(curve) == len(ratios) for curve in scores.values())
    absent = "" if complete else " A cell that is not there is -."
    body = []
    for method, curve in scores.items():
        most = max(map(len, curve.values()))
        texts = {
            ratio: with_interval(mean_interval(cell))
            + (f", n = {len(cell)}" if len(cell) < most else "")
            for ratio, cell in curve.items()
        }
        body.append([method, str(most), *(texts.get(ratio, "-") for ratio in ratios)])
    name = score_name(rows)
    return section(
        name[0].upper() + name[1:],
        f"Mean [95 % t interval] over n seeds, unless a cell has another n.{absent} The interval "
        "is that of seeds (labels drawn, weights, search), on one test part.",
        *as_table(["method", "n", *at_ratios(ratios)], body),
    )


def _differences(
    rows: Rows,
    pairs: Sequence[tuple[str, str]],
    across: Sequence[tuple[str, float, str, float]],
) -> list[str]:
    """Paired differences: at each label ratio by itself, means over several, across ratios."""
    if not pairs and not across:
        return []
    lines = section(
        "Paired differences",
        "Each seed's score of the first less that of the second, over the seeds that have both: "
        "mean [95 % t interval]; p of the two-sided paired sign-flip test of the mean, and in "
        f"round brackets p after Holm's correction, * where that is at most {_ALPHA:g}.",
    )
    named = [*pairs, *((first, second) for first, _, second, _ in across)]
    absent = dict.fromkeys(n for pair in named for n in pair if n not in methods_of(rows))
    if absent:
        lines += ["", f"Without any cell: {'; '.join(absent)}."]

    def of_pairs(groups: Mapping[str, Sequence[float]]) -> Differences:
        return {
            " - ".join(pair): {name: difference(rows, *pair, of) for name, of in groups.items()}
            for pair in pairs
        }

    ratios = ratios_of(rows)
    few = [ratio for ratio in ratios if ratio <= FEW_LABELS]
    means = {f"r <= {FEW_LABELS:g}": few} if len(few) > 1 else {}
    means |= {"all r": ratios} if len(ratios) > max(1, len(few)) else {}
    if pairs:
        lines += _tests(of_pairs({f"r = {ratio:g}": (ratio,) for ratio in ratios}))
    if pairs and means:
        lines += [
            "",
            "The same for each seed's mean difference over several label ratios, of the seeds "
            f"that have all of them ({'; '.join(f'{n}: {listed(o)}' for n, o in means.items())}):",
            *_tests(of_pairs(means)),
        ]
    if across:
        family = {
            f"{first} at r = {few:g} - {second} at r = {many:g}": {
                "difference": difference(rows, first, second, (few,), (many,))
            }
            for first, few, second, many in across
        }
        lines += ["", "Across label ratios, by seed:", *_tests(family)]
    return lines


def _tests(family: Differences) -> list[str]:
    """One family of tests as a table."""
    cells = {(row, column): one for row, line in family.items() for column, one in line.items()}
    p_values = {place: one.p for place, one in cells.items() if len(one.by_seed) > 1}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    counts = {len(one.by_seed) for one in cells.values() if one.by_seed}

    def text(place: tuple[str, str]) -> str:
        one = cells[place]
        if not one.by_seed:
            return "-"
        told = with_interval(one.interval, sign="+")
        if place in p_values:
            star = "*" if adjusted[place] <= _ALPHA else ""
            told += f", p {p_text(p_values[place])} ({p_text(adjusted[place])}){star}"
        return f"{told}, n = {len(one.by_seed)}" if len(counts) > 1 else told

    columns = list(next(iter(family.values())))
    body = [[row, *(text((row, column)) for column in columns)] for row in family]
    sizes = [len(cells[place].by_seed) for place in p_values]
    return ["", *as_table(["first - second", *columns], body), "", _floor(sizes, counts)]


def _floor(tested: Sequence[int], counts: set[int]) -> str:
    """Say what tests of these sizes could have found at all."""
    if not tested:
        return "No test: no pair has two seeds."
    floors = {size: smallest_p(size) for size in sorted(set(tested))}
    lowest = min(floors.values())
    least = len(tested) * lowest
    short = [str(size) for size, floor in floors.items() if floor > _ALPHA]
    said = f"n = {counts.pop()} seeds each" if len(counts) == 1 else "n seeds as given"
    said += (
        f". Holm's correction is over the {how_many(len(tested), 'test')} of this table. The "
        "smallest p of this test is "
        f"{', '.join(f'{p_text(floor)} for n = {size}' for size, floor in floors.items())}."
    )
    if lowest > _ALPHA:
        return (
            f"{said} So no difference here can be significant at {_ALPHA:g}, however large; "
            "the intervals say what is known."
        )
    if least > _ALPHA:
        return (
            f"{said} Corrected for {len(tested)} tests it is at least {p_text(min(least, 1.0))}, "
            f"so none here can be significant at {_ALPHA:g} after correction, however large: more "
            "seeds or fewer pairs are needed."
        )
    if short:
        return (
            f"{said} So a difference of n = {' or '.join(short)} cannot be significant at "
            f"{_ALPHA:g}, however large."
        )
    return said


def _ranking(rows: Rows, methods: Sequence[str] | None) -> list[str]:
    result = ranking(rows, methods)
    ranked = methods_of(rows) if methods is None else list(dict.fromkeys(methods))
    if len(ranked) < 2:
        return []
    if not result.blocks:
        return section(
            "Ranking", f"No label ratio and seed is there for all of: {'; '.join(ranked)}."
        )
    seeds = {seed for _, seed in result.blocks}
    ratios = sorted({ratio for ratio, _ in result.blocks})
    left_out = [name for name in methods_of(rows) if name not in ranked]
    text = (
        f"Mean rank (1 is best of {len(ranked)}; equal scores share ranks) over the "
        f"{how_many(len(result.blocks), 'block')} (label ratio x seed) that all these methods "
        f"have: r {listed(ratios)}; {how_many(len(seeds), 'seed')}. The 95 % t interval is over "
        "seeds, since the label ratios of a seed are not independent."
    )
    text += f" Not ranked: {'; '.join(left_out)}." if left_out else ""
    body = [[name, with_interval(one, digits=2)] for name, one in result.intervals.items()]
    return section("Ranking", text, *as_table(["method", "mean rank"], body))


def _costs(rows: Rows) -> list[str]:
    names = [name for name in _COSTS if any(row.get(name) is not None for row in rows)]
    if not names:
        return []
    body = []
    for method, part in grouped(rows, "method").items():
        ratio, cells = max(grouped(part, "label_ratio").items())
        line = [method, f"{ratio:g}", str(len(cells))]
        for name in names:
            values = [row[name] for row in cells if row.get(name) is not None]
            digits = 1 if name.endswith("_seconds") else 0
            line.append(f"{median(values):,.{digits}f}" if values else "-")
        body.append(line)
    return section(
        "Cost",
        "Median over seeds at the largest label ratio that a method has. Seconds are of the CPU; a "
        "search or pretraining that serves several label ratios counts in full at each. Memory is "
        "the largest anonymous memory of the process.",
        *as_table(["method", "r", "n", *map(_cost_name, names)], body),
    )


def _cost_name(cost: str) -> str:
    short = cost.replace("peak_anonymous", "memory").replace("mb", "MB").replace("seconds", "s")
    return short.replace("_", " ")


def _genotypes(rows: Rows) -> list[str]:
    lines = []
    for method, part in grouped((row for row in rows if row.get("genotype")), "method").items():
        by_seed = [
            (f", r = {ratio:g}", {row["seed"]: row["genotype"] for row in cells})
            for ratio, cells in grouped(part, "label_ratio").items()
        ]
        merged = {row["seed"]: row["genotype"] for row in reversed(part)}
        if all(found.items() <= merged.items() for _, found in by_seed):
            by_seed = [("", merged)]
        lines += [f"- {method}{at}: {_often(found)}" for at, found in by_seed]
    if not lines:
        return []
    return section(
        "Architectures",
        "How many seeds found each; a method is told per label ratio where that changes it.",
        *lines,
    )


def _often(by_seed: Mapping[int, str]) -> str:
    """Return the commonest architectures with their counts, and how many others there are."""
    counts = Counter(by_seed.values())
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    shown = [name for name in ordered if counts[name] > 1][:_MOST_SHOWN]
    shown = ordered if len(ordered) <= len(shown) + 1 else shown
    texts = [f"`{name}` {counts[name]} of {len(by_seed)}" for name in shown]
    rest = ordered[len(shown) :]
    if rest:
        each = " once each" if all(counts[name] == 1 for name in rest) else ""
        texts.append(f"{len(rest)} {'others' if shown else 'different ones'}{each}")
    return ", ".join(texts)


def _labels(rows: Rows) -> list[str]:
    ratios = ratios_of(rows)
    counts = {
        cell: [row["labelled"] for row in part]
        for cell, part in grouped(
            (row for row in rows if row.get("labelled") is not None), "method", "label_ratio"
        ).items()
    }
    if not counts:
        return []

    def text(*cell: Any) -> str:
        ends = {min(counts[cell]), max(counts[cell])} if cell in counts else set()
        return " to ".join(f"{value:,}" for value in sorted(ends)) or "-"

    used: dict[tuple[str, ...], list[str]] = {}
    for method in methods_of(rows):
        used.setdefault(tuple(text(method, ratio) for ratio in ratios), []).append(method)
    everyone = "all methods" if len(used) == 1 else None
    body = [[everyone or "; ".join(methods), *line] for line, methods in used.items()]
    return section(
        "Budget of labels",
        "Labelled samples used, those of train and of dev together: for searching, training and "
        "choosing a threshold.",
        *as_table(["method", *at_ratios(ratios)], body),
    )
