"""Figures of a study by dots: what search and pretraining gain, and what quality costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from ssnas_core._look import (
    COLOURS,
    FONT,
    INK,
    PAPER,
    dress,
    legend_beside,
    legend_size,
    marker,
    new_figure,
)
from ssnas_core._study_rows import (
    SECONDS,
    by_cell,
    checked,
    chosen,
    methods_of,
    ratios_of,
    score_name,
)
from ssnas_core.errors import InputError
from ssnas_core.metrics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
