"""Figures for papers, notebooks and the command line: genotypes, searches, scores, posters.

Every function returns a `matplotlib.figure.Figure` that belongs to no global
state, so it needs no display and no closing. The background is opaque and
light, so that a figure also reads on a dark page; the colours are those of
Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import functools
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssnas_core._layout import BOX, FRAME, Layout, split_feature
from ssnas_core.genotype import Genotype
from ssnas_core.metrics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C7A00")
"""Okabe and Ito's palette, most contrast first; its yellow darkened to show on white."""

_PAPER, _INK, _PALE = "white", "#222222", "#858585"
_MARKERS, _DASHES = "osD^vPX*", ("-", "--", ":", "-.")

_MARGIN, _FONT = 0.12, 8.0  # of the genotype drawing: inches, points


def draw_genotype(
    genotype: Genotype, features: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """The architecture as a graph: features on the left, cells, head on the right.

    Features stand in one column, grouped by modality, shallow ones on top. A
    node's first input (x) enters above its second (y). A cell of several steps
    is a frame around them; the head takes the concatenated outputs of all cells.

    Args:
        genotype: what to draw.
        features: all features that were to choose from, e.g. a store's; those
            not used are drawn pale. By default only the used ones are drawn.
        title: printed above; none by default.

    Returns:
        A figure in its natural printed size (8 features and 4 cells in a row: 7.3 inches wide).
    """
    names = tuple(dict.fromkeys((*(features or ()), *genotype.features)))
    return _paint(Layout(genotype, names, _text_width), genotype.features, title)


def plot_history(
    history: Iterable[Mapping[str, Any]],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Losses and architecture weights over the epochs of a search.

    Args:
        history: `SearchResult.history`: entries with `"epoch"`, any of
            `"train_loss"` and `"arch_loss"`, and `"logits"`, a mapping from name
            to a vector, or to a matrix whose rows are softmaxes of their own.
        labels: what the entries of each logit vector stand for, by its name
            (`FusionSpace.labels()`); vectors without labels get no legend.

    Returns:
        One panel for the losses, then one per logit vector with its softmax.

    Raises:
        ValueError: the history is empty.
    """
    entries = list(history)
    if not entries:
        raise ValueError("plot_history needs at least one epoch, got an empty history.")
    epochs = [entry["epoch"] for entry in entries]
    vectors = list(entries[0].get("logits", {}))
    columns = min(3, 1 + len(vectors))
    rows = math.ceil((1 + len(vectors)) / columns)
    figure = _figure(2.6 * columns, 1.75 * rows, layout="constrained")
    panels = [figure.add_subplot(rows, columns, 1 + place) for place in range(1 + len(vectors))]

    for place, (key, text) in enumerate((("train_loss", "weights"), ("arch_loss", "architecture"))):
        known = [entry for entry in entries if key in entry]  # the start has no loss yet
        if known:
            xs = [entry["epoch"] for entry in known]
            _line(panels[0], xs, [entry[key] for entry in known], place, text)
    _dress(panels[0], title="loss", legend=True)
    for panel, name in zip(panels[1:], vectors, strict=True):
        paths = np.stack([_softmax(entry["logits"][name]) for entry in entries])
        texts = (labels or {}).get(name)
        for place in range(paths.shape[1]):
            _line(panel, epochs, paths[:, place], place, texts[place] if texts else None)
        panel.set_ylim(0, None)
        _dress(panel, title=f"softmax of {name}", legend=texts is not None)
    for panel in panels:
        panel.locator_params(axis="x", integer=True)
    for panel in panels[-columns:]:
        panel.set_xlabel("epoch")
    return figure


def plot_scores(rows: Iterable[Mapping[str, Any]], metric: str = "weighted_f1") -> Figure:
    """Score against label ratio, one curve per method, with 95 % intervals over seeds.

    Args:
        rows: one mapping per run: `"method"`, `"label_ratio"`, `"seed"` and `metric`.
        metric: name of the score to draw.

    Returns:
        Means with Student t intervals; a single seed is a point without one.

    Raises:
        ValueError: no rows.
    """
    runs: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        curve = runs.setdefault(row["method"], {})
        curve.setdefault(float(row["label_ratio"]), []).append(float(row[metric]))
    if not runs:
        raise ValueError("plot_scores needs at least one row, got none.")
    figure = _figure(5.6, 3.4, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    ratios = sorted({ratio for curve in runs.values() for ratio in curve})
    for place, (method, curve) in enumerate(runs.items()):
        own = sorted(curve)
        means, lows, highs = np.array([mean_interval(curve[ratio]) for ratio in own]).T
        shift = 1.02 ** (place - (len(runs) - 1) / 2)  # bars side by side, not on top of each other
        style = _style(place) | {"marker": _MARKERS[place % len(_MARKERS)], "markersize": 4.5}
        errors = np.nan_to_num([means - lows, highs - means])
        axes.errorbar(
            np.array(own) * shift, means, errors, **style, capsize=2, elinewidth=0.8, label=method
        )
    axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("label ratio r")
    axes.set_ylabel(metric.replace("_", " ").replace("f1", "F1"))
    _dress(axes, legend=True)
    return figure


def posters(
    images: Sequence[Any], captions: Sequence[str] | None = None, columns: int = 6
) -> Figure:
    """Images side by side, e.g. posters with their genres.

    Args:
        images: arrays as `Axes.imshow` takes them: (H, W, 3), uint8 or floats in [0, 1].
        captions: a short text below each.
        columns: images in one row.

    Raises:
        ValueError: no images, or another number of captions.
    """
    if not len(images) or (captions is not None and len(captions) != len(images)):
        raise ValueError(
            "posters needs at least one image and one caption for each, "
            f"got {len(images)} and {None if captions is None else len(captions)}."
        )
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    figure = _figure(1.25 * columns, 2.2 * rows, layout="constrained")
    for place, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, 1 + place)
        axes.imshow(image)
        axes.set_xticks([])
        axes.set_yticks([])
        if captions is not None:
            axes.set_xlabel(
                textwrap.fill(captions[place], 20, break_on_hyphens=False), fontsize=7, color=_INK
            )
    return figure


def _paint(layout: Layout, used: Sequence[str], title: str | None) -> Figure:
    blocks = layout.blocks.values()
    left = min(block.x - block.width / 2 for block in blocks) - _MARGIN
    right = max(block.x + block.width / 2 for block in blocks) + _MARGIN
    bottom = min(block.y - max(block.height, BOX) / 2 for block in blocks) - _MARGIN
    top = max(block.y + max(block.height, BOX) / 2 for block in blocks) + _MARGIN
    if title is not None:
        top += 0.25
        right = max(right, left + 2 * _MARGIN + 1.2 * _text_width(title))
    figure = _figure(right - left, top - bottom)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    if title is not None:
        _write(axes, (left + right) / 2, top - 0.18, title, size=_FONT + 1)

    modalities = list(dict.fromkeys(split_feature(name)[0] for name in layout.features))
    colours = {
        name: COLOURS[modalities.index(split_feature(name)[0]) % len(COLOURS)] for name in used
    }
    above = None  # the feature one less deep
    for name in layout.features:
        block, colour = layout.blocks[name], colours.get(name, _PALE)
        fill = f"{colour}22" if name in colours else _PAPER
        _box(axes, block.x, block.y, block.width, BOX, facecolor=fill, edgecolor=colour)
        _write(axes, block.x, block.y, name, _INK if name in colours else _PALE)
        if above is not None and split_feature(above.name)[0] == split_feature(name)[0]:
            ends = above.y - BOX / 2, block.y + BOX / 2
            axes.plot([block.x, block.x], ends, color=_PALE, linewidth=1.1)
        above = block
    for cell in layout.cells:
        _paint_cell(axes, layout, cell, colours)
    head = layout.blocks["head"]
    _box(axes, head.x, head.y, head.width, BOX, facecolor=_INK, edgecolor=_INK)
    _write(axes, head.x, head.y, head.texts[0], _PAPER)
    return figure


def _paint_cell(axes: Axes, layout: Layout, cell: str, colours: Mapping[str, str]) -> None:
    block, head = layout.blocks[cell], layout.blocks["head"]
    width, name_height = block.width, block.y + BOX / 2 + 0.07
    if block.framed:
        width, name_height = block.width - 2 * FRAME, block.y + block.height / 2 - 0.11
        _box(axes, block.x, block.y, block.width, block.height,
             facecolor="#F4F4F4", edgecolor=_PALE, linestyle="--", linewidth=0.8)  # fmt: skip
    _write(axes, block.x, name_height, cell, "#555555", _FONT - 1.5)
    left = block.x - width / 2
    steps = [node.name for node in block.nodes]
    for place, node in enumerate(block.nodes):
        y = block.row(place)
        _box(axes, block.x, y, width, BOX, facecolor=_PAPER, edgecolor=_INK, zorder=3)
        _write(axes, block.x + 0.03, y, node.operator)
        spread_ports = len(node.inputs) > 1
        for number, name in enumerate(node.inputs):
            port = y + 0.075 - 0.15 * number / (len(node.inputs) - 1) if spread_ports else y
            if name in steps:  # an earlier step of this cell: around the right side
                right, start = block.x + width / 2, block.row(steps.index(name))
                _curve(axes, [(right, start - 0.05), (right, port)], _INK, bulge=0.8 * FRAME)
                letter = (right - 0.06, port)
            else:
                source = layout.owner.get(name, name)
                _edge(axes, layout, source, cell, (left, port), colours.get(name, _INK))
                letter = (left + 0.06, port)
            if spread_ports:
                _write(axes, *letter, "xyzuvw"[number % 6], "#777777", _FONT - 2.5)
    _edge(axes, layout, cell, "head", (head.x - head.width / 2, head.y), _INK)


def _edge(
    axes: Axes, layout: Layout, source: str, target: str, end: tuple[float, float], colour: str
) -> None:
    """A smooth edge that is level wherever it leaves, passes or enters a column."""
    block = layout.blocks[source]
    points = [(block.x + block.width / 2, block.y)]
    for place in layout.routes[source, target]:
        points += [(place.x - place.width / 2, place.y), (place.x + place.width / 2, place.y)]
    _curve(axes, [*points, end], colour)


def _curve(
    axes: Axes, points: Sequence[tuple[float, float]], colour: str, bulge: float = 0.0
) -> None:
    """An arrow through `points`, level at each; or with `bulge`, out to the right and back."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    vertices, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        middle = x1 + 4 / 3 * bulge if bulge else (x0 + x1) / 2
        vertices += [(middle, y0), (middle, y1), (x1, y1)]
        codes += [Path.CURVE4] * 3
    style = {"arrowstyle": "-|>,head_length=4,head_width=1.8", "mutation_scale": 1}
    style |= {"color": colour, "linewidth": 1.1, "zorder": 3.5 if bulge else 2.5}
    axes.add_patch(FancyArrowPatch(path=Path(vertices, codes), **style))


def _box(axes: Axes, x: float, y: float, width: float, height: float, **style: Any) -> None:
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2, y - height / 2)
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "linewidth": 1.1, "zorder": 2} | style
    axes.add_patch(FancyBboxPatch(corner, width, height, **style))


def _write(
    axes: Axes, x: float, y: float, text: str, colour: str = _INK, size: float = _FONT
) -> None:
    axes.text(x, y, text, ha="center", va="center_baseline", size=size, color=colour, zorder=4)


def _text_width(text: str) -> float:
    """Width of `text` in inches when printed at the drawing's font size."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=_FONT).get_extents().width / 72


def _softmax(logits: Any) -> np.ndarray:
    """Softmax over the last axis, flattened."""
    values = np.asarray(logits, dtype=float)
    weights = np.exp(values - values.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).ravel()


@functools.cache
def _picture_class() -> type[Figure]:
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that notebooks show without matplotlib's inline backend."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return Picture


def _figure(width: float, height: float, **options: Any) -> Figure:
    return _picture_class()(figsize=(width, height), dpi=150, facecolor=_PAPER, **options)


def _style(place: int) -> dict[str, Any]:
    """Colour and dash of curve number `place`; they repeat only after 32."""
    dash = _DASHES[place // len(COLOURS) % len(_DASHES)]
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": dash, "linewidth": 1.4}


def _line(axes: Axes, x: Sequence[Any], y: Any, place: int, label: str | None) -> None:
    marker = "o" if len(x) == 1 else None  # a single epoch would be an invisible line
    axes.plot(x, y, **_style(place), marker=marker, label=label)


def _dress(axes: Axes, title: str = "", legend: bool = False) -> None:
    """The common look of all charts."""
    axes.set_facecolor(_PAPER)
    axes.set_title(title, fontsize=8, color=_INK)
    axes.tick_params(labelsize=7, colors=_INK)
    axes.xaxis.label.set(fontsize=8, color=_INK)
    axes.yaxis.label.set(fontsize=8, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(
            fontsize=6.5, frameon=False, labelcolor=_INK, handlelength=1.8,
            loc="center left", bbox_to_anchor=(1.0, 0.5),
        )  # fmt: skip
