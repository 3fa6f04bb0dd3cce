"""Drawings show what is in a genotype or history, without overlap, clipping or global state."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from ssnas_core._layout import Layout, spread
from ssnas_core.genotype import Genotype, Node
from ssnas_core.plots import COLOURS, draw_genotype, plot_history, plot_scores, posters

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


def test_blocks_that_are_not_in_each_others_way_stay_where_they_want_to_be():
    layout = Layout(GENOTYPES["four cells side by side"], FEATURES, lambda text: 0.5)
    blocks = layout.columns[1]
    assert spread(blocks, [9.0, 5.0, 1.0, -3.0]) == pytest.approx([9, 5, 1, -3])
    crowded = spread(blocks, [0.0, 0.0, 0.0, 0.0])
    assert crowded.mean() == pytest.approx(0)
    assert (np.diff(crowded) < -blocks[0].height).all()


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


def test_history_shows_losses_and_the_softmax_of_every_logit_vector():
    figure = plot_history(history(3), {"alpha_0": ("image_0", "text_0")})
    losses, alpha, beta = figure.axes
    assert [line.get_ydata().tolist() for line in losses.lines] == [[3, 2, 1], [4, 3, 2]]
    sigmoid = 1 / (1 + np.exp(-np.arange(3)))
    assert np.allclose([line.get_ydata() for line in alpha.lines], [1 - sigmoid, sigmoid])
    rows = np.array([line.get_ydata() for line in beta.lines])
    assert np.allclose(rows[:3].sum(0), 1)  # each row of a matrix is a softmax of its own
    assert np.allclose(rows[3:].sum(0), 1)
    assert [text.get_text() for text in alpha.get_legend().get_texts()] == ["image_0", "text_0"]
    assert beta.get_legend() is None


def test_history_of_one_epoch_is_visible():
    assert all(line.get_marker() == "o" for axes in plot_history(history(1)).axes
               for line in axes.lines)  # fmt: skip


def rows() -> list[dict]:
    return [
        {"method": method, "label_ratio": ratio, "seed": seed, "weighted_f1": 0.4 + 0.1 * seed}
        for method in ("random", "found")
        for ratio in (1.0, 0.05)
        for seed in range(3 if ratio == 1.0 else 1)
    ]


def test_scores_are_means_with_intervals_from_the_smallest_ratio_up():
    axes = plot_scores(rows()).axes[0]
    assert [bars.get_label() for bars in axes.containers] == ["random", "found"]
    line, _, (bars,) = axes.containers[1].lines
    assert line.get_ydata() == pytest.approx([0.4, 0.5])
    assert line.get_xdata() == pytest.approx([0.05, 1.0], rel=0.03)
    single, many = (segment[:, 1] for segment in bars.get_segments())
    assert single == pytest.approx([0.4, 0.4])  # one seed: no interval
    assert many == pytest.approx([0.5 - 0.248414, 0.5 + 0.248414], abs=1e-5)  # t(2) 0.1 / sqrt 3


def test_posters_stand_in_rows_with_their_captions():
    images = np.zeros((5, 6, 4, 3), dtype=np.uint8)
    figure = posters(images, captions=[f"film {i}" for i in range(5)], columns=3)
    assert [axes.get_xlabel() for axes in figure.axes] == [f"film {i}" for i in range(5)]
    assert figure.axes[3].get_subplotspec().rowspan.start == 1


def test_figures_show_themselves_are_opaque_and_belong_to_no_global_state():
    figures = [
        draw_genotype(GENOTYPES["published"]),
        plot_history(history(2)),
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
    with pytest.raises(ValueError, match="at least one row, got none"):
        plot_scores([])
    with pytest.raises(ValueError, match="one caption for each, got 2 and 1"):
        posters(np.zeros((2, 6, 4, 3)), captions=["one"])
