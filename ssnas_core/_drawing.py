"""Paints the drawing of a genotype that `_layout` has placed; `plots.draw_genotype` is its door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ssnas_core._layout import BOX, FRAME, Layout, split_feature
from ssnas_core._look import COLOURS, FONT, INK, PALE, PAPER, new_figure, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARGIN = 0.12  # inches


def paint(layout: Layout, used: Sequence[str], title: str | None) -> Figure:
    """The placed genotype as a figure; features that are not `used` are pale."""
    blocks = layout.blocks.values()
    left = min(block.x - block.width / 2 for block in blocks) - _MARGIN
    right = max(block.x + block.width / 2 for block in blocks) + _MARGIN
    bottom = min(block.y - max(block.height, BOX) / 2 for block in blocks) - _MARGIN
    top = max(block.y + max(block.height, BOX) / 2 for block in blocks) + _MARGIN
    if title is not None:
        top += 0.25
        right = max(right, left + 2 * _MARGIN + 1.2 * text_width(title))
    figure = new_figure(right - left, top - bottom)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    if title is not None:
        _write(axes, (left + right) / 2, top - 0.18, title, size=FONT + 1)

    modalities = list(dict.fromkeys(split_feature(name)[0] for name in layout.features))
    colours = {
        name: COLOURS[modalities.index(split_feature(name)[0]) % len(COLOURS)] for name in used
    }
    above = None  # the feature one less deep
    for name in layout.features:
        block, colour = layout.blocks[name], colours.get(name, PALE)
        fill = f"{colour}22" if name in colours else PAPER
        _box(axes, block.x, block.y, block.width, BOX, facecolor=fill, edgecolor=colour)
        _write(axes, block.x, block.y, name, INK if name in colours else PALE)
        if above is not None and split_feature(above.name)[0] == split_feature(name)[0]:
            ends = above.y - BOX / 2, block.y + BOX / 2
            axes.plot([block.x, block.x], ends, color=PALE, linewidth=1.1)
        above = block
    for cell in layout.cells:
        _paint_cell(axes, layout, cell, colours)
    head = layout.blocks["head"]
    _box(axes, head.x, head.y, head.width, BOX, facecolor=INK, edgecolor=INK)
    _write(axes, head.x, head.y, head.texts[0], PAPER)
    return figure


def _paint_cell(axes: Axes, layout: Layout, cell: str, colours: Mapping[str, str]) -> None:
    block, head = layout.blocks[cell], layout.blocks["head"]
    width, name_height = block.width, block.y + BOX / 2 + 0.07
    if block.framed:
        width, name_height = block.width - 2 * FRAME, block.y + block.height / 2 - 0.11
        _box(axes, block.x, block.y, block.width, block.height,
             facecolor="#F4F4F4", edgecolor=PALE, linestyle="--", linewidth=0.8)  # fmt: skip
    _write(axes, block.x, name_height, cell, "#555555", FONT - 1.5)
    left = block.x - width / 2
    steps = [node.name for node in block.nodes]
    for place, node in enumerate(block.nodes):
        y = block.row(place)
        _box(axes, block.x, y, width, BOX, facecolor=PAPER, edgecolor=INK, zorder=3)
        _write(axes, block.x + 0.03, y, node.operator)
        spread_ports = len(node.inputs) > 1
        for number, name in enumerate(node.inputs):
            reach = 0.075 if len(node.inputs) < 3 else 0.1  # of the ports, up and down
            port = y + reach - 2 * reach * number / (len(node.inputs) - 1) if spread_ports else y
            if name in steps:  # an earlier step of this cell: around the right side
                right, before = block.x + width / 2, steps.index(name)
                start = (right, block.row(before) + 0.05)  # above where another may enter
                bulge = FRAME * (0.85 if place - before > 1 else 0.5)
                _curve(axes, [start, (right, port)], INK, bulge=bulge)
                letter = (right - 0.06, port)
            else:
                source = layout.owner.get(name, name)
                _edge(axes, layout, source, cell, (left, port), colours.get(name, INK))
                letter = (left + 0.06, port)
            if spread_ports:
                _write(axes, *letter, "xyzuvw"[number % 6], "#777777", FONT - 2.5)
    if (cell, "head") in layout.routes:
        _edge(axes, layout, cell, "head", (head.x - head.width / 2, head.y), INK)


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
    axes: Axes, x: float, y: float, text: str, colour: str = INK, size: float = FONT
) -> None:
    axes.text(x, y, text, ha="center", va="center_baseline", size=size, color=colour, zorder=4)
