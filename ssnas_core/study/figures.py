"""Figures of a study: curves over the label ratio, paired differences, ranks.

Pure functions of a study's rows and a choice of methods, so that a page can
draw one plainly and a widget many. What is drawn is computed where the report
computes it (`_study_rows`): over the seeds that both, or all, methods have.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.show.genotype import Block, spread
from ssnas_core.show.style import (
    COLOURS,
    FONT,
    INK,
    PALE,
    PAPER,
    dress,
    legend_beside,
    legend_size,
    marker,
    new_figure,
    ratio_axis,
    style,
    text_width,
)
from ssnas_core.study.table import (
    SECONDS,
    by_cell,
    checked,
    chosen,
    difference,
    mean_curves,
    methods_of,
    ranking,
    ratios_of,
    score_name,
)
from ssnas_core.training.metrics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Figures of a study by dots: what search and pretraining gain, and what quality costs.


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


def plot_ablation(
    rows: Iterable[Mapping[str, Any]], grid: Mapping[str, tuple[str, str]] | None = None
) -> Figure:
    """What choosing the architecture gains, and what pretraining gains: a panel per label ratio.

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
    grid = GRID if grid is None else grid
    grid = {name: pair for name, pair in grid.items() if set(pair) & set(there)}
    panels: dict[float, dict[str, list[float]]] = {}
    for ratio in ratios_of(known):
        seeds = {
            name: {seed for method, r, seed in scores if (method, r) == (name, ratio)}
            for pair in grid.values()
            for name in pair
        }
        seeds = {name: own for name, own in seeds.items() if own}
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
    for place, (axes, (ratio, own)) in enumerate(zip(drawn, panels.items(), strict=False)):
        for column, pair in enumerate(grid.values()):
            for shift, name, hollow in zip((-0.15, 0.15), pair, (True, False), strict=True):
                if name in own:
                    mean, low, high = mean_interval(own[name])
                    axes.errorbar(
                        [column + shift], [mean], [[mean - low], [high - mean]],
                        **_group(column, hollow), capsize=2, elinewidth=1.0,
                    )  # fmt: skip
        count = len(next(iter(own.values())))
        dress(axes, f"r = {ratio:g}, {count} seed{'s' if count > 1 else ''}")
        axes.set_xlim(-0.6, len(grid) - 0.4)
        axes.set_xticks([])
        axes.set_ylabel(score_name(known) if place % columns == 0 else "")
    _same_span(drawn[: len(panels)])
    dots = [Line2D([], [], **_group(column), label=name) for column, name in enumerate(grid)]
    for name, hollow in _PRETRAINED.items():
        look = _group(0, hollow) | {"color": INK, "markerfacecolor": PAPER if hollow else INK}
        dots.append(Line2D([], [], **look, label=name))
    figure.legend(
        handles=dots, loc="outside right center", frameon=False, fontsize=FONT - 1.5,
        labelcolor=INK,
    )  # fmt: skip
    return figure


def plot_costs(
    rows: Iterable[Mapping[str, Any]], cost: str = "seconds", methods: Sequence[str] | None = None,
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
        own = [row for row in known if row["method"] == name and row["label_ratio"] == ratio]
        own = [row for row in own if all(row.get(part) is not None for part in parts)]
        if own:
            spent = median(sum(row[part] for part in parts) for row in own)
            dots[name] = (spent, mean_interval([row["score"] for row in own]))
    if not dots:
        raise InputError(
            f"expected rows with {' + '.join(parts)} at r = {ratio:g}, got none; choose another "
            "cost or label ratio."
        )
    ordered = sorted(dots, key=lambda name: -dots[name][1][0])
    width, height = legend_size(ordered)
    figure = new_figure(3.9 + width, max(2.8, height + 0.3), layout="constrained")
    axes = figure.add_subplot()
    looks = {name: _group(place, hollow=place >= len(COLOURS)) for place, name in enumerate(dots)}
    for name, (spent, (mean, low, high)) in dots.items():
        axes.errorbar([spent], [mean], [[mean - low], [high - mean]], **looks[name],
                      elinewidth=0.8, capsize=2)  # fmt: skip
    _cost_axis(axes, [spent for spent, _ in dots.values()])
    axes.set_xlabel(_SUMS.get(cost, cost.replace("_", " ").replace(" mb", ", MB")))
    axes.set_ylabel(f"{score_name(known)} on test at r = {ratio:g}")
    dress(axes)
    legend_beside(axes, [Line2D([], [], **looks[name], label=name) for name in ordered])
    return figure


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


def _group(column: int, hollow: bool = False) -> Any:
    """How the dots of a group are drawn."""
    colour = COLOURS[column % len(COLOURS)]
    face = PAPER if hollow else colour
    return {"color": colour, "markerfacecolor": face, "linestyle": "", **marker(column, 5.0)}


def _same_span(panels: Iterable[Axes]) -> None:
    """Give all panels the y span of the widest, each around its own middle."""
    limits = {axes: axes.get_ylim() for axes in panels}
    half = max(high - low for low, high in limits.values()) / 2
    for axes, (low, high) in limits.items():
        axes.set_ylim((low + high) / 2 - half, (low + high) / 2 + half)


_SMALL = FONT - 1.0
_OTHERS = "#D2D2D2"

Rows = Iterable[Mapping[str, Any]]


def plot_study(rows: Rows, methods: Sequence[str] | None = None) -> Figure:
    """Score against label ratio, a curve with a 95 % band per method, named at its end.

    Args:
        rows: of a study, as `read_study` gives them.
        methods: those to tell apart; the others are pale lines without names. By
            default all. Of more than 8 no bands are drawn.

    Returns:
        Means over the seeds that each method has; `plot_differences` compares pairwise.

    Raises:
        InputError: no rows, or a method without any.
    """
    known = checked(rows)
    shown = chosen(known, methods)
    ratios, curves = ratios_of(known), mean_curves(known)
    widest = max(text_width(name, _SMALL) for name in (*shown, "pale: 10 more"))
    others = [name for name in curves if name not in shown]
    height = max(2.6, 0.17 * len(shown))
    axes = _fixed_axes(3.4, height, right=widest + 0.5)
    for name in others:
        x, means = list(curves[name]), [mean for mean, _, _ in curves[name].values()]
        axes.plot(x, means, color=_OTHERS, linewidth=0.8, zorder=1)
    for place, name in enumerate(shown):
        x, values = list(curves[name]), np.array(list(curves[name].values()))
        look = style(place)
        axes.plot(x, values[:, 0], **look, **marker(place, 4.0), label=name, zorder=3)
        if len(shown) <= len(COLOURS):
            axes.fill_between(
                x, values[:, 1], values[:, 2], color=look["color"], alpha=0.14, linewidth=0
            )
    ratio_axis(axes, ratios)
    _within_scores(axes, curves)
    axes.set_xlabel("label ratio r (share of labels used)")
    axes.set_ylabel(f"{score_name(known)} on test")
    dress(axes)
    _name_ends(axes, {name: curves[name] for name in shown}, height)
    if others:
        axes.text(
            1.06, -0.14 / height, f"pale: {len(others)} more", color=PALE, fontsize=_SMALL,
            va="center", transform=axes.transAxes,
        )  # fmt: skip
    return axes.get_figure(root=True)  # type: ignore[return-value]


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
        own = {ratio: difference(known, *pair, (ratio,)) for ratio in ratios}
        own = {ratio: one for ratio, one in own.items() if one.by_seed}
        if own:
            panels[pair] = own
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
    for place, (axes, (pair, own)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        for ratio, one in own.items():
            mean, low, high = one.interval
            sure = low > 0 or high < 0
            axes.errorbar(
                [ratio], [mean], [[mean - low], [high - mean]], color=COLOURS[0], marker="o",
                markersize=4.5, markerfacecolor=COLOURS[0] if sure else PAPER, capsize=2,
                elinewidth=1.0, zorder=2,
            )  # fmt: skip
        ratio_axis(axes, ratios, width=1.6)
        dress(axes, "\n− ".join(_fold(name, 30) for name in pair))
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
    found = ranking(known, shown)
    if len(shown) < 2 or not found.blocks:
        raise InputError(
            f"expected two or more methods that share a label ratio and seed, got "
            f"{'; '.join(shown)}; choose others."
        )
    figure = new_figure(
        3.0 + max(text_width(name, _SMALL) for name in shown), 0.75 + 0.2 * len(shown),
        layout="constrained",
    )  # fmt: skip
    axes = figure.add_subplot()
    for place, (name, (mean, low, high)) in enumerate(found.intervals.items()):
        own = list(found.by_seed[name].values())
        axes.plot(own, [place] * len(own), "o", color=COLOURS[5], markersize=3, alpha=0.6, zorder=1)
        axes.errorbar(
            [mean], [place], xerr=[[mean - low], [high - mean]], color=COLOURS[0], marker="o",
            markersize=5, capsize=2.5, elinewidth=1.2, zorder=2,
        )  # fmt: skip
    dress(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.6)
    axes.set_yticks(range(len(shown)), list(found.intervals))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0.5, len(shown) + 0.5)
    seeds = len({seed for _, seed in found.blocks})
    axes.set_xlabel(
        f"mean rank of {len(shown)} (1 is best)\n"
        f"{len(found.blocks)} cells of label ratio x seed, {seeds} seeds"
    )
    return figure


def _fixed_axes(width: float, height: float, right: float) -> Axes:
    """Axes of this size in inches with room at the right, for texts that stand at points."""
    left, below, above = 0.65, 0.55, 0.12
    figure = new_figure(left + width + right, below + height + above)
    whole = (figure.get_figwidth(), figure.get_figheight())
    return figure.add_axes((left / whole[0], below / whole[1], width / whole[0], height / whole[1]))


def _within_scores(
    axes: Axes, curves: Mapping[str, Mapping[float, tuple[float, float, float]]]
) -> None:
    """No more of the axis than scores in [0, 1] can have: intervals of few seeds leave it."""
    if all(0 <= mean <= 1 for curve in curves.values() for mean, _, _ in curve.values()):
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0.0), min(high, 1.0))


def _name_ends(
    axes: Axes,
    curves: Mapping[str, Mapping[float, tuple[float, float, float]]],
    height: float,
) -> None:
    """Each curve's name at the right, at the height of its end, none over another."""
    low, high = axes.get_ylim()
    ends = {name: list(curve.items())[-1] for name, curve in curves.items()}
    ordered = sorted(ends, key=lambda name: -ends[name][1][0])
    goals = [height * (ends[name][1][0] - low) / (high - low) for name in ordered]
    places = spread([Block(name, 0) for name in ordered], goals)
    down = np.arange(len(ordered))
    gap = min(height / max(1, len(ordered) - 1), 0.16)
    places = np.minimum(places, height - gap * down)  # all beside the axes, none above or below
    places = np.maximum(places, gap * down[::-1])
    for name, goal, place in zip(ordered, goals, places / height, strict=True):
        colour = style(list(curves).index(name))["color"]
        axes.plot(
            [1.005, 1.05], [goal / height, place], color=colour, linewidth=0.7, clip_on=False,
            transform=axes.transAxes,
        )  # fmt: skip
        axes.text(
            1.06, place, name, color=colour, fontsize=_SMALL, va="center", transform=axes.transAxes
        )


def _fold(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
