"""Widgets of studies: one of several tables, looked at in one of several ways, by two lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ssnas_core.common.errors import InputError
from ssnas_core.show.curves import plot_scores
from ssnas_core.show.frames import box, image, linked, page, sentence
from ssnas_core.show.tables import methods_of, ratios_of, with_interval
from ssnas_core.study.figures import plot_differences
from ssnas_core.study.table import checked, difference, ranking

if TYPE_CHECKING:
    from ipywidgets import VBox

Rows = Sequence[Mapping[str, Any]]
Tables = Mapping[str, Rows]


def study_widget(tables: Tables, groups: Mapping[str, Sequence[str]]) -> VBox:
    """`plot_scores` of one table with one group of methods told apart, and their mean ranks.

    Args:
        tables: a study's rows, as `read_study` gives them, by name of the data.
        groups: two or more methods by what they are told apart for; those that a table
            has not are left out there.

    Returns:
        An ipywidgets box: two lists, and below them the figure of what they choose.

    Raises:
        InputError: no table or no group.
    """

    def shown(name: str, rows: Rows, methods: Sequence[str]) -> str:
        present = [method for method in methods if method in methods_of(rows)]
        if len(present) < 2:
            return sentence(f"The table of {name} has fewer than two methods of this group.")
        alt = f"Score on test against the label ratio, {name}: {'; '.join(present)}."
        return image(plot_scores(rows, present), alt) + sentence(_ranks(rows, present))

    return _by_two_lists(tables, groups, "tell apart", shown)


def differences_widget(tables: Tables, questions: Mapping[str, Sequence[tuple[str, str]]]) -> VBox:
    """`plot_differences` of one table for one question, and the means over all label ratios.

    Args:
        tables: as in `study_widget`.
        questions: by what is asked, the pairs of methods that answer it, each the
            first less the second; those that share no cell in a table are left out there.

    Returns:
        An ipywidgets box, as that of `study_widget`.

    Raises:
        InputError: no table or no question, or rows that are not a study's.
    """

    def shown(name: str, rows: Rows, pairs: Sequence[tuple[str, str]]) -> str:
        ratios = ratios_of(rows)
        known = [
            pair for pair in pairs if any(difference(rows, *pair, [r]).by_seed for r in ratios)
        ]
        if not known:
            return sentence(f"The table of {name} has no pair for this question.")
        names = "; ".join(" minus ".join(pair) for pair in known)
        alt = f"Paired differences against the label ratio, {name}: {names}."
        lines = [_mean_difference(rows, pair, ratios) for pair in known]
        return image(plot_differences(rows, known), alt) + sentence("\n".join(lines))

    return _by_two_lists(tables, questions, "question", shown)


def _by_two_lists(
    tables: Tables,
    choices: Mapping[str, Any],
    description: str,
    shown: Callable[[str, Rows, Any], str],
) -> VBox:
    """A list of tables and one of `choices`, and the page of each two."""
    from ipywidgets import Dropdown, Layout

    if not tables or not choices:
        raise InputError(
            f"expected at least one table and one {description}, got {len(tables)} and "
            f"{len(choices)}; pass both by name."
        )
    data = [(name, checked(rows, name)) for name, rows in tables.items()]
    pages = [[page(shown(*table, choice)) for choice in choices.values()] for table in data]
    controls = [
        Dropdown(
            options=list(names), index=0, description=text, layout=Layout(width="auto",
            max_width="460px"), style={"description_width": "5.5em"},
        )
        for names, text in ((tables, "data"), (choices, description))
    ]  # fmt: skip
    outer = linked(controls, lambda table, choice: pages[table][choice])
    summary = f"{len(tables)} tables, {len(choices)} choices to look at each"
    return box([*controls, outer], summary)


def _ranks(rows: Rows, methods: Sequence[str]) -> str:
    result = ranking(rows, methods)
    if not result.blocks:
        return "No ranks: there is no label ratio and seed that all of these have."
    means = ", ".join(f"{name} {mean:.1f}" for name, (mean, *_) in result.intervals.items())
    return (
        f"Mean rank of these {len(methods)} over the {len(result.blocks)} cells of label ratio x "
        f"seed that all of them have: {means}."
    )


def _mean_difference(rows: Rows, pair: tuple[str, str], ratios: Sequence[float]) -> str:
    """One pair over all label ratios, in words."""
    result = difference(rows, *pair, ratios)
    name = f"{' − '.join(pair)}, mean over all r"
    if not result.by_seed:
        return f"{name}: no seed has every r of both."
    text = f"{name}: {with_interval(result.interval, sign='+z')}"
    if len(result.by_seed) == 1:
        return f"{text}, one seed."
    return f"{text}, {len(result.by_seed)} seeds, p = {result.p:.3f} before any correction."
