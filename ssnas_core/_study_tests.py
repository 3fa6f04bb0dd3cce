"""The paired tests of a study as tables, and what they could have found at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssnas_core._markdown import as_table, how_many, listed, p_text, section, with_interval
from ssnas_core._study_rows import Difference, difference, methods_of, ratios_of
from ssnas_core.significance import holm, smallest_p

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
