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
    as_table,
    at_ratios,
    how_many,
    listed,
    p_text,
    section,
    with_interval,
)
from ssnas_core.study.significance import holm, smallest_p
from ssnas_core.study.table import (
    Difference,
    checked,
    difference,
    methods_of,
    ranking,
    ratios_of,
    score_name,
)
from ssnas_core.training.metrics import mean_interval

# The paired tests of a study as tables, and what they could have found at all.


FEW_LABELS = 0.3
"""Label ratios up to this one are "few labels": where the method claims to win."""

_ALPHA = 0.05


def comparisons(
    rows: Sequence[Mapping[str, Any]],
    pairs: Sequence[tuple[str, str]],
    across: Sequence[tuple[str, float, str, float]] = (),
) -> list[str]:
    """The section of paired differences: each label ratio by itself, means, and across ratios."""
    if not pairs and not across:
        return []
    lines = [
        *section("Paired differences"),
        "Each seed's score of the first less that of the second, over the seeds that have both: "
        "mean [95 % t interval]; p of the two-sided paired sign-flip test of the mean, and in "
        f"round brackets p after Holm's correction, * where that is at most {_ALPHA:g}.",
    ]
    named = [*(name for pair in pairs for name in pair)]
    named += [name for first, _, second, _ in across for name in (first, second)]
    absent = dict.fromkeys(name for name in named if name not in methods_of(rows))
    if absent:
        lines += ["", f"Without any cell: {'; '.join(absent)}."]
    if pairs:
        lines += _over_ratios(rows, pairs)
    if across:
        family = {
            f"{first} at r = {few:g} - {second} at r = {many:g}": {
                "difference": difference(rows, first, second, (few,), (many,))
            }
            for first, few, second, many in across
        }
        lines += ["", "Across label ratios, by seed:", *_tests(family)]
    return lines


def _over_ratios(rows: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Pairs x label ratios, and pairs x means over label ratios."""
    ratios = ratios_of(rows)

    def family(groups: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, Difference]]:
        return {
            " - ".join(pair): {name: difference(rows, *pair, own) for name, own in groups.items()}
            for pair in pairs
        }

    lines = _tests(family({f"r = {ratio:g}": (ratio,) for ratio in ratios}))
    few = tuple(ratio for ratio in ratios if ratio <= FEW_LABELS)
    means = {f"r <= {FEW_LABELS:g}": few, "all r": tuple(ratios)}
    means = {name: own for name, own in means.items() if len(own) > 1}
    if len(set(means.values())) < len(means):
        del means["all r"]
    if means:
        lines += [
            "",
            "The same for each seed's mean difference over several label ratios, of the seeds "
            f"that have all of them ({'; '.join(f'{n}: {listed(o)}' for n, o in means.items())}):",
            *_tests(family(means)),
        ]
    return lines


def _tests(family: Mapping[str, Mapping[str, Difference]]) -> list[str]:
    """One family of tests as a table: differences by row and column."""
    found = {(row, column): own for row, line in family.items() for column, own in line.items()}
    tested = {place: own for place, own in found.items() if len(own.by_seed) > 1}
    p_values = {place: own.p for place, own in tested.items()}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    counts = {len(own.by_seed) for own in found.values() if own.by_seed}
    columns = list(next(iter(family.values())))
    body = []
    for row in family:
        line = [row]
        for place in ((row, column) for column in columns):
            own = found[place]
            text = with_interval(own.interval, sign="+") if own.by_seed else "-"
            if place in tested:
                star = "*" if adjusted[place] <= _ALPHA else ""
                text += f", p {p_text(p_values[place])} ({p_text(adjusted[place])}){star}"
            if own.by_seed and len(counts) > 1:
                text += f", n = {len(own.by_seed)}"
            line.append(text)
        body.append(line)
    return [
        "",
        *as_table(["first - second", *columns], body),
        "",
        _floor(list(tested.values()), counts),
    ]


def _floor(tested: Sequence[Difference], counts: set[int]) -> str:
    """What these tests could have found at all."""
    if not tested:
        return "No test: no pair has two seeds."
    sizes = sorted({len(own.by_seed) for own in tested})
    floors = [f"{p_text(smallest_p(size))} for n = {size}" for size in sizes]
    least = len(tested) * smallest_p(sizes[-1])
    told = [
        f"n = {counts.pop()} seeds each." if len(counts) == 1 else "n seeds as given.",
        f"Holm's correction is over the {how_many(len(tested), 'test')} of this table.",
        f"The smallest p of this test is {', '.join(floors)}.",
    ]
    if smallest_p(sizes[-1]) > _ALPHA:
        told.append(
            f"So no difference here can be significant at {_ALPHA:g}, however large; "
            "the intervals say what is known."
        )
    elif least > _ALPHA:
        told.append(
            f"Corrected for {len(tested)} tests it is at least {p_text(min(least, 1.0))}, so none "
            f"here can be significant at {_ALPHA:g} after correction, however large: more seeds "
            "or fewer pairs are needed."
        )
    elif smallest_p(sizes[0]) > _ALPHA:
        short = [str(size) for size in sizes if smallest_p(size) > _ALPHA]
        told.append(
            f"So a difference of n = {' or '.join(short)} cannot be significant at {_ALPHA:g}, "
            "however large."
        )
    return " ".join(told)


_MOST_SHOWN = 3  # architectures that more than one seed found
_COSTS = {
    "search_seconds": "search s",
    "pretrain_seconds": "pretrain s",
    "train_seconds": "train s",
    "search_steps": "search steps",
    "pretrain_steps": "pretrain steps",
    "train_steps": "train steps",
    "search_parameters": "parameters searched",
    "parameters": "parameters",
    "peak_anonymous_mb": "memory MB",
}


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
        *comparisons(known, pairs, across),
        *_ranking(known, ranked),
        *_costs(known),
        *_genotypes(known),
        *_labels(known),
    ]
    return "\n".join(lines) + "\n"


def _scores(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    ratios = ratios_of(rows)
    cells = {
        (method, ratio): [
            row["score"] for row in rows if row["method"] == method and row["label_ratio"] == ratio
        ]
        for method in methods_of(rows)
        for ratio in ratios
    }
    most = {
        method: max(len(cells[method, ratio]) for ratio in ratios) for method in methods_of(rows)
    }
    told = "n seeds, unless a cell has another n."
    told += "" if all(cells.values()) else " A cell that is not there is -."
    body = []
    for method, count in most.items():
        line = [method, str(count)]
        for ratio in ratios:
            values = cells[method, ratio]
            text = with_interval(mean_interval(values)) if values else "-"
            line.append(text if len(values) in (0, count) else f"{text}, n = {len(values)}")
        body.append(line)
    name = score_name(rows)
    return [
        *section(name[0].upper() + name[1:]),
        f"Mean [95 % t interval] over {told} The interval is that of seeds (labels drawn, weights, "
        "search), on one test part.",
        "",
        *as_table(["method", "n", *at_ratios(ratios)], body),
    ]


def _ranking(rows: Sequence[Mapping[str, Any]], methods: Sequence[str] | None) -> list[str]:
    found = ranking(rows, methods)
    asked = methods_of(rows) if methods is None else list(dict.fromkeys(methods))
    if len(asked) < 2:
        return []
    lines = section("Ranking")
    if not found.blocks:
        return [*lines, f"No label ratio and seed is there for all of: {'; '.join(asked)}."]
    seeds = {seed for _, seed in found.blocks}
    ratios = sorted({ratio for ratio, _ in found.blocks})
    left_out = [name for name in methods_of(rows) if name not in asked]
    told = (
        f"Mean rank (1 is best of {len(asked)}; equal scores share ranks) over the "
        f"{how_many(len(found.blocks), 'block')} (label ratio x seed) that all these methods have: "
        f"r {listed(ratios)}; {how_many(len(seeds), 'seed')}. The 95 % t interval is over seeds, "
        "since the label ratios of a seed are not independent."
    )
    told += f" Not ranked: {'; '.join(left_out)}." if left_out else ""
    body = [[name, with_interval(interval, digits=2)] for name, interval in found.intervals.items()]
    return [*lines, told, "", *as_table(["method", "mean rank"], body)]


def _costs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [name for name in _COSTS if any(row.get(name) is not None for row in rows)]
    if not names:
        return []
    body = []
    for method in methods_of(rows):
        own = [row for row in rows if row["method"] == method]
        ratio = max(row["label_ratio"] for row in own)
        own = [row for row in own if row["label_ratio"] == ratio]
        line = [method, f"{ratio:g}", str(len(own))]
        for name in names:
            values = [row[name] for row in own if row.get(name) is not None]
            line.append(_amount(name, median(values)) if values else "-")
        body.append(line)
    return [
        *section("Cost"),
        "Median over seeds at the largest label ratio that a method has. Seconds are of the CPU; a "
        "search or pretraining that serves several label ratios counts in full at each. Memory is "
        "the largest anonymous memory of the process.",
        "",
        *as_table(["method", "r", "n", *(_COSTS[name] for name in names)], body),
    ]


def _genotypes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for method in methods_of(rows):
        own = [row for row in rows if row["method"] == method and row.get("genotype")]
        by_seed: dict[int, set[str]] = {}
        for row in own:
            by_seed.setdefault(row["seed"], set()).add(row["genotype"])
        if all(len(found) == 1 for found in by_seed.values()):
            groups = {"": {row["seed"]: row["genotype"] for row in own}}
        else:
            groups = {
                f", r = {r:g}": {
                    row["seed"]: row["genotype"] for row in own if row["label_ratio"] == r
                }
                for r in ratios_of(own)
            }
        lines += [f"- {method}{at}: {_often(found)}" for at, found in groups.items() if found]
    if not lines:
        return []
    return [
        *section("Architectures"),
        "How many seeds found each; a method is told per label ratio where that changes it.",
        "",
        *lines,
    ]


def _often(by_seed: Mapping[int, str]) -> str:
    """The commonest architectures with their counts, and how many others there are."""
    counts = Counter(by_seed.values())
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    shown = [name for name in ordered if counts[name] > 1][:_MOST_SHOWN]
    shown = ordered if len(ordered) <= len(shown) + 1 else shown
    told = [f"`{name}` {counts[name]} of {len(by_seed)}" for name in shown]
    rest = ordered[len(shown) :]
    if rest:
        each = " once each" if all(counts[name] == 1 for name in rest) else ""
        told.append(f"{len(rest)} {'others' if shown else 'different ones'}{each}")
    return ", ".join(told)


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    ratios = ratios_of(rows)
    used: dict[tuple[str, ...], list[str]] = {}
    for method in methods_of(rows):
        own = [row for row in rows if row["method"] == method]
        line = []
        for ratio in ratios:
            at = [row.get("labelled") for row in own if row["label_ratio"] == ratio]
            counts = sorted({value for value in at if value is not None})
            ends = dict.fromkeys((counts[0], counts[-1])) if counts else ()
            line.append(" to ".join(f"{value:,}" for value in ends) or "-")
        used.setdefault(tuple(line), []).append(method)
    if all(text == "-" for line in used for text in line):
        return []
    everyone = "all methods" if len(used) == 1 else None
    body = [[everyone or "; ".join(methods), *line] for line, methods in used.items()]
    return [
        *section("Budget of labels"),
        "Labelled samples used, those of train and of dev together: for searching, training and "
        "choosing a threshold.",
        "",
        *as_table(["method", *at_ratios(ratios)], body),
    ]


def _amount(name: str, value: float) -> str:
    return f"{value:,.1f}" if name.endswith("_seconds") else f"{value:,.0f}"
