"""Figures of a study: what search and pretraining gain, what quality costs, differences, ranks.

Pure functions of a study's rows and a choice of methods, so that a page can
draw one plainly and a widget many. The numbers are those of the report (`study.table`):
over the seeds that both, or all, methods have. Curves are `show.curves.plot_scores`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from ssnas_core.common.errors import InputError
from ssnas_core.show.style import (
    COLOURS,
    FONT,
    INK,
    LEGEND,
    PAPER,
    legend_size,
    marker,
    panels,
    ratio_axis,
    text_width,
)
from ssnas_core.show.tables import (
    SECONDS,
    Interval,
    chosen,
    grouped,
    how_many,
    methods_of,
    ratios_of,
    score_name,
)
from ssnas_core.study.table import checked, difference, ranking
from ssnas_core.training.metrics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Iterable[Mapping[str, Any]]

GRID: Mapping[str, tuple[str, str]] = {
    "searched without labels": ("SSNAS, not pretrained", "SSNAS"),
    "searched with labels": ("BM-NAS", "BM-NAS, pretrained"),
    "random": ("random", "random, pretrained"),
}
"""By how the architecture was chosen: the method not pretrained, and pretrained."""

_PRETRAINED = {"not pretrained": True, "pretrained": False}  # whether its dot is hollow
_SUMS = {
    "seconds": "seconds of search, pretraining and training",
    "steps": "steps of search, pretraining and training",
}


def plot_ablation(rows: Rows, grid: Mapping[str, tuple[str, str]] | None = None) -> Figure:
    """Draw the gains of choosing the architecture and of pretraining: a panel per label ratio.

    Args:
        rows: of a study.
        grid: by how the architecture was chosen, the method not pretrained and
            the one pretrained; by default `GRID`. Those without cells are left out.

    Returns:
        Means with 95 % intervals over the seeds that all methods of a panel have;
        all panels span equally much, so that gains compare.

    Raises:
        InputError: there is no such seed at any label ratio.
    """
    from matplotlib.lines import Line2D

    known = checked(rows)
    there = methods_of(known)
    grid = {name: pair for name, pair in (grid or GRID).items() if set(pair) & set(there)}
    asked = {name for pair in grid.values() for name in pair}
    by_ratio = grouped((row for row in known if row["method"] in asked), "label_ratio")
    cells: dict[float, dict[str, list[float]]] = {}
    for ratio in sorted(by_ratio):
        scores = {
            name: {row["seed"]: row["score"] for row in part}
            for name, part in grouped(by_ratio[ratio], "method").items()
        }
        if common := sorted(set.intersection(*map(set, scores.values()))):
            cells[ratio] = {name: [own[seed] for seed in common] for name, own in scores.items()}
    if not cells:
        raise InputError(
            f"expected cells of the grid's methods with a common seed, got {'; '.join(there)}; "
            "pass a grid of these."
        )
    counts = {ratio: len(next(iter(cell.values()))) for ratio, cell in cells.items()}
    titles = [f"r = {ratio:g}, {how_many(count, 'seed')}" for ratio, count in counts.items()]
    columns = min(4, len(cells))
    height = max(1.75 * -(-len(cells) // columns), 1.9)
    beside = legend_size([*grid, *_PRETRAINED])[0]
    figure, drawn = panels(titles, 0.5 + 1.4 * columns + beside, height, columns)
    for place, (axes, cell) in enumerate(zip(drawn, cells.values(), strict=True)):
        for column, pair in enumerate(grid.values()):
            for shift, name, hollow in zip((-0.15, 0.15), pair, (True, False), strict=True):
                if name in cell:
                    look = _look(column, hollow)
                    _dot(axes, column + shift, mean_interval(cell[name]), **look, elinewidth=1.0)
        axes.set_xlim(-0.6, len(grid) - 0.4)
        axes.set_xticks([])
        axes.set_ylabel(score_name(known) if place % columns == 0 else "")
    _same_span(drawn)
    dots = [Line2D([], [], **_look(column), label=name) for column, name in enumerate(grid)]
    for name, hollow in _PRETRAINED.items():
        look = _look(0, hollow) | {"color": INK, "markerfacecolor": PAPER if hollow else INK}
        dots.append(Line2D([], [], **look, label=name))
    figure.legend(handles=dots, **LEGEND)
    return figure


def plot_costs(
    rows: Rows, cost: str = "seconds", methods: Sequence[str] | None = None,
    ratio: float | None = None,
) -> Figure:  # fmt: skip
    """Score against cost at one label ratio, a dot per method.

    Args:
        rows: of a study.
        cost: a column such as "parameters" or "peak_anonymous_mb"; "seconds" and
            "steps" are the sums of searching, pretraining and training.
        methods: those to draw; all by default.
        ratio: of labels; by default the largest.

    Raises:
        InputError: nothing has that cost at that label ratio, or an unknown method.
    """
    from matplotlib.lines import Line2D

    known = checked(rows)
    ratio = ratios_of(known)[-1] if ratio is None else ratio
    parts = [name.replace("seconds", cost) for name in SECONDS] if cost in _SUMS else [cost]
    priced = [r for r in known if r["label_ratio"] == ratio and None not in map(r.get, parts)]
    cells = grouped(priced, "method")
    dots = {}
    for name in chosen(known, methods):
        if name in cells:
            spent = median(sum(row[part] for part in parts) for row in cells[name])
            dots[name] = (spent, mean_interval([row["score"] for row in cells[name]]))
    if not dots:
        raise InputError(
            f"expected rows with {' + '.join(parts)} at r = {ratio:g}, got none; choose another "
            "cost or label ratio."
        )
    ordered = sorted(dots, key=lambda name: -dots[name][1][0])
    width, height = legend_size(ordered)
    figure, (axes,) = panels([""], 3.9 + width, max(2.8, height + 0.3))
    looks = {name: _look(place, hollow=place >= len(COLOURS)) for place, name in enumerate(dots)}
    for name, (spent, interval) in dots.items():
        _dot(axes, spent, interval, **looks[name], elinewidth=0.8)
    _cost_axis(axes, [spent for spent, _ in dots.values()])
    axes.set_xlabel(_SUMS.get(cost, cost.replace("_", " ").replace(" mb", ", MB")))
    axes.set_ylabel(f"{score_name(known)} on test at r = {ratio:g}")
    figure.legend(handles=[Line2D([], [], **looks[name], label=name) for name in ordered], **LEGEND)
    return figure


def plot_differences(rows: Rows, pairs: Sequence[tuple[str, str]]) -> Figure:
    """Paired differences against label ratio with 95 % intervals, a panel per pair.

    Args:
        rows: of a study.
        pairs: each the first less the second; above zero the first is better.

    Raises:
        InputError: no pair has a cell of both with the same seed.
    """
    known = checked(rows)
    ratios = ratios_of(known)
    intervals = {}
    for pair in dict.fromkeys(pairs):
        by_ratio = {ratio: difference(known, *pair, (ratio,)) for ratio in ratios}
        if paired := {r: one.interval for r, one in by_ratio.items() if one.by_seed}:
            intervals[pair] = paired
    if not intervals:
        raise InputError(
            f"expected pairs of methods that share a seed, got {list(pairs)}; there are "
            f"{'; '.join(methods_of(known))}."
        )
    columns = 2 if len(intervals) == 4 else min(3, len(intervals))
    height = 0.4 + 1.95 * -(-len(intervals) // columns)
    titles = ["\n− ".join(map(_fold, pair)) for pair in intervals]
    figure, drawn = panels(titles, 0.5 + 2.05 * columns, height, columns, sharey=True)
    for place, (axes, by_ratio) in enumerate(zip(drawn, intervals.values(), strict=True)):
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        for ratio, interval in by_ratio.items():
            sure = interval[1] > 0 or interval[2] < 0
            look = _look(0, hollow=not sure) | {"markersize": 4.5, "zorder": 2}
            _dot(axes, ratio, interval, **look, elinewidth=1.0)
        ratio_axis(axes, ratios, width=1.6)
        axes.set_xlabel("label ratio r" if place >= len(drawn) - columns else "")
        axes.set_ylabel(f"difference in {score_name(known)}" if place % columns == 0 else "")
    figure.supxlabel(
        "bars: 95 % over paired seeds; filled: without 0", x=0.995, ha="right", color=INK,
        fontsize=FONT - 1.5,
    )  # fmt: skip
    return figure


def plot_ranking(rows: Rows, methods: Sequence[str] | None = None) -> Figure:
    """Mean rank of each method with its 95 % interval over seeds, best on top.

    Args:
        rows: of a study.
        methods: those to rank, over the label ratios and seeds that all of them
            have; all by default. Pale dots are single seeds.

    Raises:
        InputError: fewer than two methods, or no cell that all of them have.
    """
    known = checked(rows)
    shown = chosen(known, methods)
    result = ranking(known, shown)
    if len(shown) < 2 or not result.blocks:
        raise InputError(
            f"expected two or more methods that share a label ratio and seed, got "
            f"{'; '.join(shown)}; choose others."
        )
    width = 3.0 + max(text_width(name, FONT - 1) for name in shown)
    figure, (axes,) = panels([""], width, 0.75 + 0.2 * len(shown), grid="x")
    for place, (name, (mean, low, high)) in enumerate(result.intervals.items()):
        ranks = list(result.by_seed[name].values())
        pale: Any = {"color": COLOURS[5], "markersize": 3, "alpha": 0.6, "zorder": 1}
        axes.plot(ranks, [place] * len(ranks), "o", **pale)
        axes.errorbar(
            [mean], [place], xerr=[[mean - low], [high - mean]], color=COLOURS[0], marker="o",
            markersize=5, capsize=2.5, elinewidth=1.2, zorder=2,
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), list(result.intervals))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0.5, len(shown) + 0.5)
    seeds = len({seed for _, seed in result.blocks})
    axes.set_xlabel(
        f"mean rank of {len(shown)} (1 is best)\n"
        f"{len(result.blocks)} cells of label ratio x seed, {seeds} seeds"
    )
    return figure


def _fold(name: str) -> str:
    return textwrap.fill(name, 30, break_long_words=False, break_on_hyphens=False)


def _dot(axes: Axes, x: float, interval: Interval, **look: Any) -> None:
    """A mean with its interval."""
    mean, low, high = interval
    axes.errorbar([x], [mean], [[mean - low], [high - mean]], capsize=2, **look)


def _look(column: int, hollow: bool = False) -> Any:
    """How the dots of a group are drawn."""
    colour = COLOURS[column % len(COLOURS)]
    face = PAPER if hollow else colour
    return {"color": colour, "markerfacecolor": face, "linestyle": "", **marker(column, 5.0)}


def _cost_axis(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic where costs differ by much; numbers written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if min(values) > 0 and max(values) / min(values) > 5:
        axes.set_xscale("log")
        wide = max(values) / min(values) > 1000
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _same_span(panels: Iterable[Axes]) -> None:
    """Give all panels the y span of the widest, each around its own middle."""
    limits = {axes: axes.get_ylim() for axes in panels}
    half = max(high - low for low, high in limits.values()) / 2
    for axes, (low, high) in limits.items():
        axes.set_ylim((low + high) / 2 - half, (low + high) / 2 + half)
