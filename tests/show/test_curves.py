"""Figures show what is in a genotype, history or table; nothing overlaps, nothing is clipped."""

from __future__ import annotations

import io
import itertools
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssnas_core.common.errors import InputError
from ssnas_core.show.curves import draw_genotype, plot_history, plot_losses, plot_scores, posters
from ssnas_core.show.genotype import Layout, spread
from ssnas_core.show.style import COLOURS, pixels, save
from ssnas_core.show.widget_figures import draw_threshold, draw_weights
from ssnas_core.spaces.genotype import Genotype, Node

FEATURES = [f"{modality}_{depth}" for modality in ("image", "text") for depth in range(4)]


def chain(*nodes: tuple[str, str, tuple[str, ...]]) -> Genotype:
    return Genotype("fusion", tuple(Node(*node) for node in nodes))


GENOTYPES = {
    "published": chain(
        ("cell_0", "ConcatFC", ("image_2", "text_0")), ("cell_1", "LinearGLU", ("cell_0", "text_0"))
    ),
    "four cells in a row": chain(
        ("cell_0", "ConcatFC", ("image_0", "text_3")),
        ("cell_1", "LinearGLU", ("cell_0", "image_3")),
        ("cell_2", "Attention", ("cell_1", "text_0")),
        ("cell_3", "LinearGLU", ("cell_0", "cell_2")),
    ),
    "four cells side by side": chain(
        *((f"cell_{i}", "Attention", (FEATURES[i], FEATURES[7 - i])) for i in range(4))
    ),
    "cells of several steps": chain(
        ("cell_0_step_0", "ConcatFC", ("image_2", "text_0")),
        ("cell_0_step_1", "Attention", ("cell_0_step_0", "text_0")),
        ("cell_0", "Concat", ("cell_0_step_0", "cell_0_step_1")),
        ("cell_1_step_0", "LinearGLU", ("text_1", "cell_0")),
        ("cell_1_step_1", "Sum", ("cell_1_step_0", "text_1")),
        ("cell_1", "Concat", ("cell_1_step_0", "cell_1_step_1")),
    ),
    "a chain of steps": chain(
        ("cell_0_step_0", "Sum", ("image_2", "text_0")),
        ("cell_0_step_1", "ConcatFC", ("text_0", "cell_0_step_0")),
        ("cell_0_step_2", "Attention", ("cell_0_step_0", "cell_0_step_1")),
        ("cell_0", "Concat", ("cell_0_step_0", "cell_0_step_1", "cell_0_step_2")),
    ),
    "one cell": chain(("cell_0", "Sum", ("image_0", "text_1"))),
    "one input": chain(("cell_0", "Identity", ("audio",))),
}


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("name", GENOTYPES)
def test_drawing_names_every_feature_operator_and_cell_once(name):
    genotype = GENOTYPES[name]
    found = texts(draw_genotype(genotype, FEATURES, title="a title"))
    operators = [node.operator for node in genotype.nodes if node.operator != "Concat"]
    cells = {node.name.split("_step_")[0] for node in genotype.nodes}
    features = {*FEATURES, *genotype.features}
    expected = [*operators, *cells, *features, "concat → head", "a title"]
    assert sorted(text for text in found if text not in "xy") == sorted(expected)


@pytest.mark.parametrize("name", GENOTYPES)
def test_nothing_overlaps_and_nothing_is_clipped(name):
    from matplotlib.patches import FancyBboxPatch

    figure = draw_genotype(GENOTYPES[name], FEATURES, title="A title wider than a drawing " * 4)
    figure.draw_without_rendering()
    axes, page = figure.axes[0], figure.bbox
    written = [text.get_window_extent() for text in axes.texts]
    for extent in written:
        assert page.x0 <= extent.x0
        assert extent.x1 <= page.x1
        assert page.y0 <= extent.y0
        assert extent.y1 <= page.y1
    for first, second in itertools.combinations(written, 2):
        assert not first.overlaps(second)
    drawn = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    boxes = [p.get_window_extent() for p in drawn if p.get_linestyle() == "-"]
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)
    for box in boxes:  # a text is inside a box or outside it, never across its border
        for extent in written:
            inside = box.x0 < extent.x0 and extent.x1 < box.x1
            assert inside or not box.overlaps(extent)


def test_each_edge_is_drawn_once_and_the_first_input_enters_above():
    from matplotlib.colors import to_rgba
    from matplotlib.patches import FancyArrowPatch

    def tip(arrow: FancyArrowPatch) -> tuple[float, float]:
        return tuple(arrow._path_original.vertices[-1])

    axes = draw_genotype(GENOTYPES["published"], FEATURES).axes[0]
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 4 + 2  # the inputs, and both cells into the head
    ports = {
        text.get_text(): text.get_position()[1] for text in axes.texts if text.get_text() in "xy"
    }
    assert ports["x"] > ports["y"]
    into_cell_1 = sorted(
        (
            (end[1], arrow.get_edgecolor())
            for arrow in arrows
            if (end := tip(arrow))[1] in ports.values()
        ),
        reverse=True,
    )
    ink, text_colour = to_rgba("#222222"), to_rgba(COLOURS[1])
    assert [colour for _, colour in into_cell_1] == [ink, text_colour]  # LinearGLU(cell_0, text_0)


def test_of_fusion_layers_the_head_takes_the_last_alone():
    from matplotlib.patches import FancyArrowPatch

    nodes = (
        Node("layer_0", "relu", ("image_2", "text_0")),
        Node("layer_1", "relu", ("image_1", "text_0", "layer_0")),
        Node("layer_2", "sigmoid", ("image_2", "text_1", "layer_1")),
    )
    layout = Layout(Genotype("layers", nodes), FEATURES, lambda text: 0.5)
    assert [source for source, target in layout.routes if target == "head"] == ["layer_2"]
    axes = draw_genotype(Genotype("layers", nodes), FEATURES).axes[0]
    assert sum(isinstance(patch, FancyArrowPatch) for patch in axes.patches) == 2 + 3 + 3 + 1
    words = [text.get_text() for text in axes.texts]
    assert "head" in words and "concat → head" not in words
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert heights["x"] > heights["y"] > heights["z"]


def test_an_edge_inside_a_cell_does_not_leave_a_step_where_another_enters():
    from matplotlib.patches import FancyArrowPatch

    axes = draw_genotype(GENOTYPES["a chain of steps"]).axes[0]
    paths = [p._path_original.vertices for p in axes.patches if isinstance(p, FancyArrowPatch)]
    inside = [path for path in paths if path[0][0] == path[-1][0]]  # from right side to right side
    assert len(inside) == 3
    for first, second in itertools.product(inside, inside):
        assert abs(first[0][1] - second[-1][1]) > 0.1  # inches
    assert len({path[1][0] for path in inside}) == 2  # the one that spans two steps is wider


def test_unused_features_are_pale():
    axes = draw_genotype(GENOTYPES["published"], FEATURES).axes[0]
    colours = {text.get_text(): text.get_color() for text in axes.texts}
    assert colours["image_2"] == colours["text_0"] == "#222222"
    assert all(colours[name] == "#858585" for name in FEATURES if name not in ("image_2", "text_0"))


def test_features_stand_by_modality_and_depth_whatever_their_order():
    names = ["image_10", "text_1", "image_2", "text_0"]
    layout = Layout(GENOTYPES["one cell"], [*names, "image_0"], lambda text: 0.5)
    heights = {name: layout.blocks[name].y for name in layout.features}
    assert sorted(heights, key=heights.__getitem__, reverse=True) == [
        "image_0", "image_2", "image_10", "text_0", "text_1",
    ]  # fmt: skip


def test_without_features_only_the_used_ones_are_drawn():
    assert {"image_1", "text_1"}.isdisjoint(texts(draw_genotype(GENOTYPES["published"])))


def test_edges_pass_other_cells_in_a_place_of_their_own():
    layout = Layout(GENOTYPES["four cells in a row"], FEATURES, lambda text: 0.5)
    for column in layout.columns[1:]:
        for upper, lower in itertools.pairwise(column):
            assert upper.y - upper.height / 2 > lower.y + lower.height / 2
    assert [block.column for block in layout.routes["cell_0", "head"]] == [2, 3, 4]


def test_what_a_genotype_says_reaches_the_classifier_is_joined_to_the_head():
    last = ("output", "Concat", ("cell_1", "image_3", "text_0"))
    names = {"cell_0": ("image_2", "text_0"), "cell_1": ("cell_0", "text_0")}
    cells = [(name, "LinearGLU", inputs) for name, inputs in names.items()]
    layout = Layout(chain(*cells, last), FEATURES, lambda text: 0.5)
    assert list(layout.cells) == list(names)
    assert {source for source, end in layout.routes if end == "head"} == set(last[2])
    assert {"Concat", "output"}.isdisjoint(texts(draw_genotype(chain(*cells, last), FEATURES)))
    alone = Layout(chain(("output", "Concat", ("text_0",))), FEATURES, lambda text: 0.5)
    assert list(alone.routes) == [("text_0", "head")]


def test_blocks_that_are_not_in_each_others_way_stay_where_they_want_to_be():
    layout = Layout(GENOTYPES["four cells side by side"], FEATURES, lambda text: 0.5)
    blocks = layout.columns[1]
    assert spread(blocks, [9.0, 5.0, 1.0, -3.0]) == pytest.approx([9, 5, 1, -3])
    crowded = spread(blocks, [0.0, 0.0, 0.0, 0.0])
    assert crowded.mean() == pytest.approx(0)
    assert (np.diff(crowded) < -blocks[0].height).all()


@pytest.mark.parametrize("seed", range(5))
def test_spread_is_isotonic_regression(seed):
    from sklearn.isotonic import isotonic_regression

    column = max(Layout(GENOTYPES["published"], FEATURES, len).columns, key=len)
    goals = np.sort(np.random.default_rng(seed).uniform(-3, 0, len(column)))[::-1]
    distances = column[0].height + 0.16
    offsets = distances * np.arange(len(column))
    expected = isotonic_regression(goals + offsets, increasing=False) - offsets
    assert spread(column, goals) == pytest.approx(expected)


def history(epochs: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "epoch": epoch,
            "train_loss": 3.0 - epoch,
            "arch_loss": 4.0 - epoch,
            "logits": {"alpha_0": [0.0, float(epoch)], "beta_0": rng.normal(size=(2, 3)).tolist()},
            "genotype": "Sum(image_0, text_0)",
        }
        for epoch in range(epochs)
    ]


def panels(figure) -> list:
    """The charts of a figure, without the places of legends."""
    return [axes for axes in figure.axes if axes.axison]


def legends(figure) -> list[list[str]]:
    found = [axes.get_legend() for axes in figure.axes]
    return [[text.get_text() for text in legend.get_texts()] for legend in found if legend]


def test_history_shows_losses_and_the_softmax_of_every_logit_vector():
    figure = plot_history(history(3), {"alpha_0": ("image_0", "text_0")}, unit="nats")
    losses, alpha, beta = panels(figure)
    assert [line.get_ydata().tolist() for line in losses.lines] == [[3, 2, 1], [4, 3, 2]]
    assert losses.get_ylabel() == "mean loss (nats)"
    sigmoid = 1 / (1 + np.exp(-np.arange(3)))
    assert np.allclose([line.get_ydata() for line in alpha.lines], [1 - sigmoid, sigmoid])
    rows = np.array([line.get_ydata() for line in beta.lines])
    assert np.allclose(rows[:3].sum(0), 1)  # each row of a matrix is a softmax of its own
    assert np.allclose(rows[3:].sum(0), 1)
    assert legends(figure) == [
        ["weights, on train", "architecture, on dev"], ["image_0", "text_0"],
    ]  # fmt: skip


def searched(cells: int, steps: int, features: int = 7) -> tuple[list[dict], dict]:
    """A made-up history of a fusion search, and its labels."""
    rng = np.random.default_rng(0)
    names = [f"image_{n}" for n in range(features - 3)] + [f"text_{n}" for n in range(3)]
    labels: dict[str, tuple[str, ...]] = {}
    for cell in range(cells):
        labels[f"alpha_{cell}"] = (*(f"cell_{c}" for c in range(cell)), *names)
    for cell, step in itertools.product(range(cells), range(steps)):
        states = ("x", "y", *(f"step_{s}" for s in range(step)))
        labels[f"beta_{cell}_{step}"] = tuple(
            f"{s} {o}" for o in ("first", "second") for s in states
        )
    sizes = {k: (2, len(v) // 2) if "beta" in k else (len(v),) for k, v in labels.items()}
    entries = [
        {
            "epoch": epoch,
            "train_loss": 3 - 0.1 * epoch,
            "logits": {name: rng.normal(size=size).tolist() for name, size in sizes.items()},
        }
        for epoch in range(1, 13)
    ]
    return entries, labels


def test_each_block_of_a_side_has_a_panel_four_in_a_row():
    rng = np.random.default_rng(0)
    entries = [
        {"epoch": epoch, "logits": {"decoder": rng.normal(size=(6, 3)).tolist()}}
        for epoch in range(2)
    ]
    figure = plot_history(entries, {"decoder": ("SA", "GA", "FFN")})
    found = panels(figure)
    assert [axes.get_title() for axes in found] == [f"decoder_{block}" for block in range(6)]
    assert [axes.get_subplotspec().rowspan.start for axes in found] == [0, 0, 0, 0, 1, 1]
    assert legends(figure) == [["SA", "GA", "FFN"]] * 2
    for block, axes in enumerate(found):
        logits = np.array([entry["logits"]["decoder"][block] for entry in entries])
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert np.allclose([line.get_ydata() for line in axes.lines], shares.T)


def test_cells_stand_side_by_side_and_a_feature_has_one_colour_in_all():
    figure = plot_history(*searched(3, 2))
    found = {axes.get_title(): axes for axes in panels(figure)}
    for kind in ("alpha_{}", "beta_{}_0", "beta_{}_1"):
        row = [found[kind.format(cell)].get_subplotspec() for cell in range(3)]
        assert len({spec.rowspan.start for spec in row}) == 1
        assert [spec.colspan.start for spec in row] == [0, 1, 2]
    looks = {}
    for cell in range(3):
        for line in found[f"alpha_{cell}"].lines:
            look = (line.get_color(), line.get_linestyle())
            assert looks.setdefault(line.get_label(), look) == look
    assert len(set(looks.values())) == len(looks) == 7 + 2
    solid, dashed = (
        [line for line in found["beta_1_1"].lines if line.get_label().endswith(which)]
        for which in ("first", "second")
    )
    assert [line.get_color() for line in solid] == [line.get_color() for line in dashed]
    assert {line.get_linestyle() for line in solid} == {"-"}
    assert {line.get_linestyle() for line in dashed} == {"--"}
    assert legends(figure)[1][-2:] == ["cell_0", "cell_1"]  # what the first cell has not


def test_trials_of_a_random_search_are_dots_and_their_lowest_so_far_a_line():
    losses = [3.0, 2.0, 2.5, 1.0]
    trials = [{"trial": n, "genotype": "Sum(a, b)", "dev_loss": v} for n, v in enumerate(losses)]
    (axes,) = panels(plot_history(trials, unit="nats"))
    dots, best = axes.lines
    assert dots.get_linestyle() == "None" and dots.get_ydata().tolist() == losses
    assert best.get_ydata().tolist() == [3, 2, 2, 1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "mean loss on dev (nats)")
    assert "random" not in " ".join(texts(axes.figure))  # other strategies try, too


def test_trials_of_architectures_that_grow_are_told_apart_by_level():
    told = [(0, 3.0), (1, 2.0), (0, 2.5), (1, 1.0)]
    trials = [{"trial": n, "level": at, "dev_loss": loss} for n, (at, loss) in enumerate(told)]
    figure = plot_history(trials)
    first, second, lowest = panels(figure)[0].lines
    assert (first.get_xdata().tolist(), first.get_ydata().tolist()) == ([0, 2], [3.0, 2.5])
    assert (second.get_xdata().tolist(), second.get_ydata().tolist()) == ([1, 3], [2.0, 1.0])
    assert len({line.get_color() for line in (first, second, lowest)}) == 3
    assert lowest.get_ydata().tolist() == [3, 2, 2, 1]
    assert legends(figure) == [["a trial of level 1", "a trial of level 2", "lowest so far"]]


@pytest.mark.parametrize("level", [-1, 9, True, "1", [1], None])
def test_level_that_is_none_is_not_drawn_as_one(level):
    trials = [{"trial": n, "level": level, "dev_loss": 1.0} for n in range(2)]
    assert legends(plot_history(trials)) == [["a trial", "lowest so far"]]


def stages() -> dict[str, dict[str, list[dict]]]:
    def curve(epochs: int) -> list[dict]:
        return [{"epoch": epoch, "loss": 1 / (1 + epoch)} for epoch in range(epochs)]

    methods = ("text only", "image only", "found, pretrained")
    fine_tuning = {
        f"fine-tuning, r = {r}": {method: curve(4) for method in methods} for r in (0.05, 0.1, 1)
    }
    return {
        "search": {"search: weights": curve(3)},
        "pretraining": {"found, pretrained": curve(5), "nothing yet": []},
        **fine_tuning,
    }


def test_losses_of_all_stages_have_one_legend_and_one_colour_per_name():
    figure = plot_losses(stages(), ["text only", "image only", "never trained"])
    found = {axes.get_title(): axes for axes in panels(figure)}
    assert list(found) == list(stages())
    (names,) = legends(figure)
    assert names == ["text only", "image only", "search: weights", "found, pretrained"]
    for axes in found.values():
        for line in axes.lines:
            assert line.get_color() == COLOURS[names.index(line.get_label())]
    assert found["pretraining"].lines[0].get_ydata() == pytest.approx(
        [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    )


def test_history_of_one_epoch_is_visible():
    for axes in panels(plot_history(history(1))):
        assert axes.lines and all(line.get_marker() == "o" for line in axes.lines)


def rows() -> list[dict]:
    return [
        {"method": method, "label_ratio": ratio, "seed": seed, "weighted_f1": 0.4 + 0.1 * seed}
        for method in ("random", "found")
        for ratio in (1.0, 0.05)
        for seed in range(3 if ratio == 1.0 else 1)
    ]


def curves(figure) -> dict:
    """The lines of a figure of scores by name; what leads to the names has none."""
    lines = figure.axes[0].lines
    return {line.get_label(): line for line in lines if not line.get_label().startswith("_")}


def test_scores_are_means_with_bands_from_the_smallest_ratio_up():
    axes = plot_scores(rows()).axes[0]
    drawn = curves(axes.figure)
    assert list(drawn) == ["random", "found"]
    assert drawn["found"].get_xdata().tolist() == [0.05, 1.0]
    assert drawn["found"].get_ydata() == pytest.approx([0.4, 0.5])
    assert axes.get_ylabel() == "weighted F1 on test"
    ends = axes.collections[0].get_paths()[0].vertices
    ends = ends[ends[:, 0] == 1.0][:, 1]
    half = 0.248414  # t(2) 0.1 / sqrt 3
    assert (min(ends), max(ends)) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-5)


def test_scores_of_one_ratio_are_points_side_by_side_with_bars():
    axes = plot_scores([row for row in rows() if row["label_ratio"] == 1]).axes[0]
    places = [line.get_xdata()[0] for line in curves(axes.figure).values()]
    assert len(set(places)) == 2
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    assert bar[:, 1] == pytest.approx([0.5 - 0.248414, 0.5 + 0.248414], abs=1e-5)


def test_the_other_methods_are_pale_and_counted():
    table = many(6)
    axes = plot_scores(table, [table[0]["method"], table[-1]["method"]]).axes[0]
    assert list(curves(axes.figure)) == [table[0]["method"], table[-1]["method"]]
    pale = [line for line in axes.lines if line.get_color() == "#D2D2D2"]
    assert len(pale) == 4 and len(axes.collections) == 2
    words = {text.get_text() for text in axes.texts}
    assert words == {table[0]["method"], table[-1]["method"], "pale: 4 more"}


def test_names_stand_in_the_order_and_colour_of_their_curves_ends():
    figure = plot_scores(many(8))
    by_end = sorted(curves(figure).values(), key=lambda line: -line.get_ydata()[-1])
    by_text = sorted(figure.axes[0].texts, key=lambda text: -text.get_position()[1])
    assert [text.get_text() for text in by_text] == [line.get_label() for line in by_end]
    assert [text.get_color() for text in by_text] == [line.get_color() for line in by_end]
    assert len({text.get_color() for text in by_text}) == 8


@pytest.mark.parametrize("crowd", [0.1, 0.9])
def test_names_stay_beside_the_axes_where_many_curves_end_together(crowd):
    table = many(12, seeds=1)
    for one in table:
        one["weighted_f1"] = 1 - crowd if one["method"] == table[0]["method"] else crowd
    figure = plot_scores(table)
    places = sorted(text.get_position()[1] for text in figure.axes[0].texts)
    assert places[0] >= 0 and places[-1] <= 1
    height = figure.axes[0].get_position().height * figure.get_figheight()
    assert min(np.diff(places)) * height == pytest.approx(0.16)


def test_markers_stand_beside_names_where_curves_share_a_colour():
    for count, expected in ((8, 0), (9, 9)):
        lines = plot_scores(many(count)).axes[0].lines
        beside = [line for line in lines if line.get_marker() != "None" and not line.get_clip_on()]
        assert len(beside) == expected


def test_settings_of_one_method_share_its_colour_and_differ_in_dash_and_filling():
    two = [{**row, "setting": setting} for setting in ("A", "B") for row in rows()]
    figure = plot_scores(two, part="dev", notes=["A: short", "B: long"])
    looks = {
        name: (
            *(line.get_color(), line.get_marker()),
            *(line.get_linestyle(), line.get_markerfacecolor() == "white"),
        )
        for name, line in curves(figure).items()
    }
    assert set(looks) == {"random, A", "random, B", "found, A", "found, B"}
    assert looks["random, A"][:2] == looks["random, B"][:2] != looks["found, B"][:2]
    assert {look[2:] for name, look in looks.items() if name.endswith("A")} == {("-", False)}
    assert {look[2:] for name, look in looks.items() if name.endswith("B")} == {("--", True)}
    assert [text.get_text() for text in figure.texts] == ["A: short\nB: long"]
    assert figure.axes[0].get_ylabel() == "weighted F1 on dev"


def test_metric_is_the_score_that_all_rows_have_or_the_one_asked_for():
    table = [{**row, "score": row["weighted_f1"], "accuracy": 0.9} for row in rows()]
    assert plot_scores(table).axes[0].get_ylabel() == "weighted F1 on test"
    assert plot_scores(table, metric="accuracy").axes[0].get_ylabel() == "accuracy on test"
    table = [{**row, "accuracy": 0.9} for row in rows()]
    assert plot_scores(table, part="").axes[0].get_ylabel() == "accuracy"


def test_intervals_of_two_seeds_do_not_stretch_the_axis_beyond_what_scores_can_be():
    two = [{"method": "found", "label_ratio": 1, "seed": s, "f1": 0.2 + 0.5 * s} for s in (0, 1)]
    assert plot_scores(two, metric="f1").axes[0].get_ylim() == (0, 1)
    ranks = [{**row, "f1": 10 * row["f1"]} for row in two]  # no share
    assert plot_scores(ranks, metric="f1").axes[0].get_ylim()[1] > 10


def many(methods: int, ratios=(0.01, 0.05, 0.1, 1.0), seeds: int = 5, **more) -> list[dict]:
    names = [f"a method of a long name, number {n}" for n in range(methods)]
    return [
        {"method": m, "label_ratio": r, "seed": s, "weighted_f1": (n + r + s) / 20, **more}
        for n, m in enumerate(names)
        for r in ratios
        for s in range(seeds)
    ]


FIGURES = {
    "one cell": lambda: plot_history(*searched(1, 1)),
    "four cells of three steps": lambda: plot_history(*searched(4, 3), unit="nats"),
    "sixteen features": lambda: plot_history(*searched(2, 1, features=16)),
    "without labels": lambda: plot_history(searched(2, 2)[0]),
    "losses": lambda: plot_losses(stages()),
    "losses of one stage": lambda: plot_losses({"search": stages()["search"]}),
    "twelve methods": lambda: plot_scores(many(12)),
    "one method, one seed, one ratio": lambda: plot_scores(many(1, (1.0,), 1)),
    "ratios near to each other": lambda: plot_scores(many(3, (0.01, 0.2, 0.25, 0.3, 1.0), 1)),
    "a few of twelve methods": lambda: plot_scores(many(12), [many(12)[0]["method"]]),
    "long settings": lambda: plot_scores(
        [*many(3, setting="A"), *many(3, setting="B")],
        notes=["A: strategy=bilevel, strategy.epochs=12, space.cells=4, data=/a/long/path/to/it",
               "B: strategy=random, strategy.train.epochs=12, space.cells=2, data=/a/long/path"],
    ),
}  # fmt: skip


def printed(figure) -> dict[str, tuple]:
    """Place of every text in a figure of charts."""
    figure.draw_without_rendering()
    found = [*figure.texts]
    for axes in figure.axes:
        if axes.axison:
            found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
            found += [tick.label1 for a in (axes.xaxis, axes.yaxis) for tick in a._update_ticks()]
        if axes.get_legend():
            found += axes.get_legend().get_texts()
    shown = [text for text in found if text.get_text() and text.get_visible()]
    return {f"{n} {text.get_text()}": text.get_window_extent() for n, text in enumerate(shown)}


QUICK = ("without labels", "losses", "twelve methods", "long settings")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.thorough) for n in FIGURES],
)
def test_texts_of_charts_neither_overlap_nor_leave_the_page(name):
    figure = FIGURES[name]()
    places = printed(figure)
    for text, place in places.items():
        assert place.x0 >= 0 and place.y0 >= 0, text
        assert place.x1 <= figure.bbox.x1 and place.y1 <= figure.bbox.y1, text
    for (one, first), (other, second) in itertools.combinations(places.items(), 2):
        shared = [min(a, b) - max(c, d) for a, b, c, d in (
            (first.x1, second.x1, first.x0, second.x0), (first.y1, second.y1, first.y0, second.y0),
        )]  # fmt: skip
        assert min(shared) < 2, (one, other)  # pixels: boxes of texts have some air
    for axes in panels(figure):
        box = axes.get_window_extent()
        assert box.width > 1.2 * figure.dpi and box.height > 0.6 * figure.dpi  # legend or not
        for text, place in places.items():
            if not text.endswith(axes.get_title()) or not axes.get_title():
                middle = (place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2
                assert not box.contains(*middle), text  # legends are outside


@pytest.mark.parametrize("name", ["twelve methods", "long settings"])
def test_long_names_widen_the_page_and_leave_the_chart_its_width(name):
    figure, short = FIGURES[name](), plot_scores(rows())
    for drawn in (figure, short):
        drawn.draw_without_rendering()
    assert figure.get_figwidth() > short.get_figwidth() + 0.5
    widths = [drawn.axes[0].get_window_extent().width for drawn in (figure, short)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


@pytest.mark.parametrize(
    "kind", ["svg", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("png", "pdf"))]
)
def test_same_figure_is_the_same_file(kind, tmp_path):
    def drawn(name: str) -> bytes:
        figures = (
            draw_genotype(GENOTYPES["cells of several steps"], FEATURES),
            plot_scores(rows()),
            plot_history(*searched(2, 1)),
        )
        return b"".join(
            save(figure, tmp_path / f"{name}{n}.{kind}").read_bytes()
            for n, figure in enumerate(figures)
        )

    first = drawn("first")
    assert first == drawn("second")
    assert all(word not in first for word in (b"CreationDate", b"<dc:date>", b"Software"))
    with pytest.raises(InputError, match=r"named \.png, \.svg or \.pdf, got 'figure\.gif'"):
        save(plot_scores(rows()), tmp_path / "figure.gif")


@pytest.mark.parametrize("name", [*QUICK[:2], "thresholds"])
def test_picture_is_the_one_that_savefig_writes(name):
    def made() -> Any:
        if name == "thresholds":
            return draw_threshold(np.eye(4), np.eye(4, dtype=int), 0.5)
        return FIGURES[name]()

    buffer = io.BytesIO()
    made().savefig(buffer, format="png", dpi=100)
    figure = made()
    assert (np.asarray(pixels(figure, 100)) == np.asarray(Image.open(buffer).convert("RGB"))).all()
    assert figure.dpi == 150


def test_posters_stand_in_rows_with_their_captions():
    images = np.zeros((5, 6, 4, 3), dtype=np.uint8)
    figure = posters(images, captions=[f"film {i}" for i in range(5)], columns=3)
    assert [axes.get_xlabel() for axes in figure.axes] == [f"film {i}" for i in range(5)]
    assert figure.axes[3].get_subplotspec().rowspan.start == 1


def test_figures_show_themselves_are_opaque_and_belong_to_no_global_state():
    figures = [
        draw_genotype(GENOTYPES["published"]),
        plot_history(history(2)),
        plot_losses(stages()),
        plot_scores(rows()),
        posters(np.zeros((1, 6, 4, 3))),
    ]
    for figure in figures:
        assert figure._repr_png_().startswith(b"\x89PNG")
        assert figure.get_facecolor() == (1, 1, 1, 1)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="at least one epoch, got an empty history"):
        plot_history([])
    with pytest.raises(ValueError, match="neither losses nor logits"):
        plot_history([{"epoch": 0}])
    with pytest.raises(ValueError, match="with one trial nothing is compared"):
        plot_history([{"trial": 0, "genotype": "Sum(a, b)"}])
    with pytest.raises(ValueError, match="plot_losses needs at least one epoch, got none"):
        plot_losses({"search": {"weights": []}})
    with pytest.raises(ValueError, match="at least one row of scores, got none"):
        plot_scores([])
    with pytest.raises(ValueError, match="one caption for each, got 2 and 1"):
        posters(np.zeros((2, 6, 4, 3)), captions=["one"])
    with pytest.raises(InputError, match="methods of the table, got 'x'; there are random; found"):
        plot_scores(rows(), ["x"])


def test_of_many_choices_of_two_the_first_is_drawn():
    names = [
        f"{part} {kind}" for part in ("cell_0", "image_0", "text_0") for kind in ("kept", "left")
    ]
    history = [
        {"epoch": epoch, "logits": {"output": [[0.0, epoch], [epoch, 0.0], [0.0, 0.0]]}}
        for epoch in range(3)
    ]
    panel = plot_history(history, {"output": names}).axes[0]
    drawn = {line.get_label(): line.get_ydata()[-1] for line in panel.lines}
    assert list(drawn) == names[::2]
    assert drawn["cell_0 kept"] < 0.2 < 0.8 < drawn["image_0 kept"]
    assert len({line.get_color() for line in panel.lines}) == 3
    (bars,) = draw_weights(history[-1]["logits"], {"output": names}).axes
    assert [text.get_text() for text in bars.get_yticklabels()] == names[::2]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(list(drawn.values()))
