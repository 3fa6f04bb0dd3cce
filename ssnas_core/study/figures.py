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
    PAPER,
    dress,
    legend_beside,
    legend_size,
    marker,
    new_figure,
    ratio_axis,
    text_width,
)
from ssnas_core.show.tables import (
    SECONDS,
    Interval,
    chosen,
    methods_of,
    ratios_of,
    score_name,
)
from ssnas_core.study.table import by_cell, checked, difference, ranking
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
    scores, there = by_cell(known), methods_of(known)
    grid = {name: pair for name, pair in (grid or GRID).items() if set(pair) & set(there)}
    asked = {name for pair in grid.values() for name in pair}
    panels: dict[float, dict[str, list[float]]] = {}
    for ratio in ratios_of(known):
        seeds: dict[str, set[int]] = {}
        for method, r, seed in scores:
            if r == ratio and method in asked:
                seeds.setdefault(method, set()).add(seed)
        common = sorted(set.intersection(*seeds.values())) if seeds else []
        if common:
            panels[ratio] = {name: [scores[name, ratio, s] for s in common] for name in seeds}
    if not panels:
        raise InputError(
            f"expected cells of the grid's methods with a common seed, got {'; '.join(there)}; "
            "pass a grid of these."
        )
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    beside = legend_size([*grid, *_PRETRAINED])[0]
    figure = new_figure(0.5 + 1.4 * columns + beside, max(1.75 * lines, 1.9), layout="constrained")
    drawn = figure.subplots(lines, columns, squeeze=False).flat
    for axes in drawn[len(panels) :]:
        axes.set_axis_off()
    for place, (axes, (ratio, cells)) in enumerate(zip(drawn, panels.items(), strict=False)):
        for column, pair in enumerate(grid.values()):
            for shift, name, hollow in zip((-0.15, 0.15), pair, (True, False), strict=True):
                if name in cells:
                    look = _look(column, hollow)
                    _dot(axes, column + shift, mean_interval(cells[name]), **look, elinewidth=1.0)
        count = len(next(iter(cells.values())))
        dress(axes, f"r = {ratio:g}, {count} seed{'s' if count > 1 else ''}")
        axes.set_xlim(-0.6, len(grid) - 0.4)
        axes.set_xticks([])
        axes.set_ylabel(score_name(known) if place % columns == 0 else "")
    _same_span(drawn[: len(panels)])
    dots = [Line2D([], [], **_look(column), label=name) for column, name in enumerate(grid)]
    for name, hollow in _PRETRAINED.items():
        look = _look(0, hollow) | {"color": INK, "markerfacecolor": PAPER if hollow else INK}
        dots.append(Line2D([], [], **look, label=name))
    figure.legend(
        handles=dots, loc="outside right center", frameon=False, fontsize=FONT - 1.5,
        labelcolor=INK,
    )  # fmt: skip
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
    dots = {}
    for name in chosen(known, methods):
        cells = [row for row in known if (row["method"], row["label_ratio"]) == (name, ratio)]
        cells = [row for row in cells if all(row.get(part) is not None for part in parts)]
        if cells:
            spent = median(sum(row[part] for part in parts) for row in cells)
            dots[name] = (spent, mean_interval([row["score"] for row in cells]))
    if not dots:
        raise InputError(
            f"expected rows with {' + '.join(parts)} at r = {ratio:g}, got none; choose another "
            "cost or label ratio."
        )
    ordered = sorted(dots, key=lambda name: -dots[name][1][0])
    width, height = legend_size(ordered)
    figure = new_figure(3.9 + width, max(2.8, height + 0.3), layout="constrained")
    axes = figure.add_subplot()
    looks = {name: _look(place, hollow=place >= len(COLOURS)) for place, name in enumerate(dots)}
    for name, (spent, interval) in dots.items():
        _dot(axes, spent, interval, **looks[name], elinewidth=0.8)
    _cost_axis(axes, [spent for spent, _ in dots.values()])
    axes.set_xlabel(_SUMS.get(cost, cost.replace("_", " ").replace(" mb", ", MB")))
    axes.set_ylabel(f"{score_name(known)} on test at r = {ratio:g}")
    dress(axes)
    legend_beside(axes, [Line2D([], [], **looks[name], label=name) for name in ordered])
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
    panels = {}
    for pair in dict.fromkeys(pairs):
        by_ratio = {ratio: difference(known, *pair, (ratio,)) for ratio in ratios}
        by_ratio = {ratio: one.interval for ratio, one in by_ratio.items() if one.by_seed}
        if by_ratio:
            panels[pair] = by_ratio
    if not panels:
        raise InputError(
            f"expected pairs of methods that share a seed, got {list(pairs)}; there are "
            f"{'; '.join(methods_of(known))}."
        )
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = new_figure(0.5 + 2.05 * columns, 0.4 + 1.95 * lines, layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for place, (axes, (pair, by_ratio)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        for ratio, interval in by_ratio.items():
            sure = interval[1] > 0 or interval[2] < 0
            _dot(
                axes, ratio, interval, color=COLOURS[0], marker="o", markersize=4.5,
                markerfacecolor=COLOURS[0] if sure else PAPER, elinewidth=1.0, zorder=2,
            )  # fmt: skip
        ratio_axis(axes, ratios, width=1.6)
        dress(axes, "\n− ".join(map(_fold, pair)))
        axes.set_xlabel("label ratio r" if place >= len(panels) - columns else "")
        axes.set_ylabel(f"difference in {score_name(known)}" if place % columns == 0 else "")
    figure.text(
        0.995, 0.0, "bars: 95 % over paired seeds; filled: without 0", fontsize=FONT - 1.5,
        color=INK, ha="right", va="bottom",
    )  # fmt: skip
    foot = 0.16 / figure.get_figheight()
    figure.set_layout_engine("constrained", rect=(0, foot, 1, 1 - foot))
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
    figure = new_figure(
        3.0 + max(text_width(name, FONT - 1) for name in shown), 0.75 + 0.2 * len(shown),
        layout="constrained",
    )  # fmt: skip
    axes = figure.add_subplot()
    for place, (name, (mean, low, high)) in enumerate(result.intervals.items()):
        ranks = list(result.by_seed[name].values())
        pale: Any = {"color": COLOURS[5], "markersize": 3, "alpha": 0.6, "zorder": 1}
        axes.plot(ranks, [place] * len(ranks), "o", **pale)
        axes.errorbar(
            [mean], [place], xerr=[[mean - low], [high - mean]], color=COLOURS[0], marker="o",
            markersize=5, capsize=2.5, elinewidth=1.2, zorder=2,
        )  # fmt: skip
    dress(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.6)
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
