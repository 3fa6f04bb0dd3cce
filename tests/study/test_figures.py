"""Figures of a study show its numbers, paired; no text overlaps another or leaves the page."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from ssnas_core.common.errors import InputError
from ssnas_core.study.figures import (
    GRID,
    plot_ablation,
    plot_costs,
    plot_differences,
    plot_ranking,
)
from ssnas_core.study.methods import study_method
from ssnas_core.training.metrics import mean_interval

RATIOS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
ABLATION = [name for pair in GRID.values() for name in pair]
MANY = [*ABLATION, *(f"another method, number {n}" for n in range(14)), "late concat"]


def study(
    methods: list[str], seeds: int = 5, ratios: tuple[float, ...] = RATIOS
) -> list[dict[str, Any]]:
    found = []
    for place, method in enumerate(methods):
        for ratio, seed in itertools.product(ratios, range(seeds)):
            chance = random.Random(f"{method} {ratio} {seed}").uniform(-0.02, 0.02)
            score = 0.3 + 0.1 * ratio + 0.002 * place + 0.01 * seed + chance
            found.append(
                {
                    "method": method, "label_ratio": ratio, "seed": seed,
                    "score": round(score, 4), "weighted_f1": round(score, 4),
                    "search_seconds": 10.0 * place, "pretrain_seconds": 5.0,
                    "train_seconds": 100.0 * ratio + seed, "parameters": 1000 * (place + 1),
                }
            )  # fmt: skip
    return found


def scores(rows, method, ratio) -> dict[int, float]:
    return {
        one["seed"]: one["score"]
        for one in rows
        if (one["method"], one["label_ratio"]) == (method, ratio)
    }


def bars(axes) -> list[tuple[float, float, float, float]]:
    """Of each dot with an interval its x, and mean, low and high."""
    found = []
    for container in axes.containers:
        (dot, _, (stem,)) = container
        x, y = (values[0] for values in dot.get_data())
        ((_, low), (_, high)) = stem.get_segments()[0]
        found.append((x, y, low, high))
    return found


FIGURES = {
    "differences": lambda: plot_differences(
        study(ABLATION), [(one, "random") for one in ABLATION if one != "random"]
    ),
    "one difference": lambda: plot_differences(study(ABLATION), [("SSNAS", "BM-NAS")]),
    "ranking": lambda: plot_ranking(study(MANY)),
    "ablation": lambda: plot_ablation(study(ABLATION)),
    "ablation at two ratios": lambda: plot_ablation(study(ABLATION, 3, (0.1, 0.3))),
    "costs of many": lambda: plot_costs(study(MANY)),
    "parameters": lambda: plot_costs(study(ABLATION), "parameters"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_texts_neither_overlap_nor_leave_the_page(name):
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    page = figure.bbox
    shown = [*figure.texts]
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    for axes in (one for one in figure.axes if one.axison):
        shown += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in axis.get_major_ticks():
                if min(limits) <= tick.get_loc() <= max(limits) and tick.label1.get_visible():
                    shown.append(tick.label1)
    shown += [text for legend in legends for text in legend.get_texts()]
    boxes = {f"{n} {text.get_text()}": text.get_window_extent()
             for n, text in enumerate(shown) if text.get_text()}  # fmt: skip
    assert len(boxes) > 5
    for text, box in boxes.items():
        assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1, text
        assert page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, text
    for (one, first), (other, second) in itertools.combinations(boxes.items(), 2):
        first, second = first.shrunk(0.98, 0.9), second.shrunk(0.98, 0.9)
        assert not first.overlaps(second), (one, other)


def test_differences_are_paired_and_filled_where_the_interval_excludes_0():
    rows = study(["SSNAS", "random"], 4, (0.1, 0.3, 1.0))
    rows = [one for one in rows if (one["method"], one["seed"]) != ("random", 0)]
    for one in rows:
        if one["method"] == "SSNAS" and one["label_ratio"] == 0.3:
            one["score"] += 0.2
    axes = plot_differences(rows, [("SSNAS", "random"), ("SSNAS", "absent")]).axes
    assert len(axes) == 1 and axes[0].get_title() == "SSNAS\n− random"
    for (x, mean, low, high), container in zip(bars(axes[0]), axes[0].containers, strict=True):
        ours, theirs = scores(rows, "SSNAS", x), scores(rows, "random", x)
        expected = mean_interval([ours[seed] - theirs[seed] for seed in theirs])
        assert (mean, low, high) == pytest.approx(expected)
        filled = to_hex(container[0].get_markerfacecolor()) != "#ffffff"
        assert filled == (low > 0 or high < 0)
    assert [x for x, *_ in bars(axes[0])] == [0.1, 0.3, 1.0]
    assert to_hex(axes[0].containers[1][0].get_markerfacecolor()) != "#ffffff"
    assert any(set(line.get_ydata()) == {0} for line in axes[0].lines)  # the zero line


def test_ranking_is_drawn_best_on_top():
    rows = study(["a", "b", "c"])
    for one in rows:
        one["score"] = {"a": 0.1, "b": 0.9, "c": 0.5}[one["method"]]
    axes = plot_ranking(rows).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]
    assert axes.yaxis_inverted()
    assert [float(one[0].get_xdata()[0]) for one in axes.containers] == [1, 2, 3]
    assert "35 cells of label ratio x seed, 5 seeds" in axes.get_xlabel()


def test_ablation_is_over_seeds_that_all_have_and_its_panels_span_equally_much():
    rows = [one for one in study(ABLATION, 4) if (one["method"], one["seed"]) != ("random", 2)]
    rows = [one for one in rows if one["method"] != "BM-NAS" or one["label_ratio"] > 0.01]
    panels = [axes for axes in plot_ablation(rows).axes if axes.axison]
    assert [axes.get_title() for axes in panels] == [f"r = {r:g}, 3 seeds" for r in RATIOS]
    spans = [high - low for low, high in (axes.get_ylim() for axes in panels)]
    assert spans == pytest.approx([spans[0]] * len(RATIOS))
    assert [len(axes.containers) for axes in panels] == [5, *[6] * 6]
    order = [name for name in ABLATION if name != "BM-NAS"]
    for name, (_, *drawn) in zip(order, bars(panels[0]), strict=True):
        own = scores(rows, name, 0.01)
        assert drawn == pytest.approx(mean_interval([own[seed] for seed in (0, 1, 3)]))
    faces = [to_hex(one[0].get_markerfacecolor()) == "#ffffff" for one in panels[1].containers]
    assert faces == [True, False] * 3  # hollow: not pretrained


def test_default_grid_differs_in_pretraining_alone():
    for plain, pretrained in GRID.values():
        first, second = study_method(plain), study_method(pretrained)
        assert (second.cell.network, second.cell.pretrained) == (first.cell.network, True)
        assert not first.cell.pretrained
        same = ("space", "objective", "strategy", "backbones", "changes")
        assert all(getattr(first, name) == getattr(second, name) for name in same)


def test_cost_is_the_median_sum_of_the_stages_at_the_largest_ratio():
    rows = study(["a", "b"])
    axes = plot_costs(rows).axes[0]
    assert [x for x, *_ in bars(axes)] == [5 + 102, 10 + 5 + 102]
    assert bars(axes)[1][1:] == pytest.approx(mean_interval(list(scores(rows, "b", 1.0).values())))
    assert "r = 1" in axes.get_ylabel()
    axes = plot_costs(rows, "parameters", ["b"], 0.1).axes[0]
    assert [x for x, *_ in bars(axes)] == [2000]
    assert axes.get_xlabel() == "parameters" and "r = 0.1" in axes.get_ylabel()


def test_costs_that_differ_by_much_have_a_logarithmic_axis_with_plain_numbers():
    rows = study(MANY)
    axes = plot_costs(rows, "parameters").axes[0]
    assert axes.get_xscale() == "log"
    axes.figure.draw_without_rendering()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert {"1,000", "2,000", "5,000", "10,000"} <= set(labels)
    assert plot_costs(study(["a", "b"]), "parameters").axes[0].get_xscale() == "linear"


def test_ratios_stand_on_a_logarithmic_axis():
    axes = plot_differences(study(["a", "b"]), [("a", "b")]).axes[0]
    assert axes.get_xscale() == "log"
    assert np.allclose(axes.get_xticks(), RATIOS)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda rows: plot_ranking(rows, ["x"]), "methods of the table, got 'x'; there are a; b"),
        (lambda rows: plot_costs(rows, methods=[]), "expected methods of the table, got 'none'"),
        (lambda rows: plot_differences([], []), "expected at least one row, got none"),
        (lambda rows: plot_ranking([*rows, rows[0]]), "expected each cell once, got 'a'"),
        (lambda rows: plot_differences(rows, [("a", "x")]), "expected pairs of methods that share"),
        (lambda rows: plot_ranking(rows, ["a"]), "expected two or more methods .* got a"),
        (lambda rows: plot_ablation(rows), "expected cells of the grid's methods .* got a; b"),
        (lambda rows: plot_costs(rows, "watts"), "expected rows with watts at r = 0.3, got none"),
        (lambda rows: plot_costs(rows, ratio=0.2), "at r = 0.2, got none"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_told(draw, message):
    with pytest.raises(InputError, match=message):
        draw(study(["a", "b"], 2, (0.1, 0.3)))
