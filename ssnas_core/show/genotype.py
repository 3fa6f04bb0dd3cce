"""The drawing of a genotype: where its blocks stand, and how they are painted.

`Layout` places features, cells and head in columns from left to right; `paint` draws them.
`curves.draw_genotype` does both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ssnas_core.common.modalities import by_modality
from ssnas_core.show.style import COLOURS, FONT, INK, PALE, PAPER, new_figure, text_width
from ssnas_core.spaces.genotype import OUTPUT, Genotype, Node

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Where everything stands.

BOX = 0.30
"""Height of the box of a feature or operation."""
FRAME = 0.22
"""Space between the operations of a cell and the sides of the frame around them."""
_STEP, _GAP, _BETWEEN_COLUMNS = 0.44, 0.16, 0.4
_PADDING, _NAME = 0.12, 0.13  # inside a frame: above and below; for the cell's name


@dataclass
class Block:
    """One place in a column: a feature, a cell, the head, or (without texts) a passing edge."""

    name: str
    column: int
    texts: Sequence[str] = ()
    nodes: Sequence[Node] = ()
    sources: list[str] = field(default_factory=list)  # blocks one column to the left
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0

    @property
    def framed(self) -> bool:
        """Whether this is a cell of several steps, drawn as a frame around them."""
        return bool(self.nodes) and self.nodes[0].name != self.name

    @property
    def height(self) -> float:
        if self.framed:
            return (len(self.texts) - 1) * _STEP + BOX + 2 * _PADDING + _NAME
        if self.nodes:
            return BOX + 0.26  # its name stands above; the same below keeps it centred
        return BOX if self.texts else 0.0

    def row(self, place: int) -> float:
        """Return the centre of operation number `place`."""
        if not self.framed:
            return self.y
        return self.y + self.height / 2 - _PADDING - _NAME - BOX / 2 - place * _STEP


class Layout:
    """The blocks of a drawing, placed.

    Args:
        genotype: what is drawn.
        features: names of all features to show, modalities in order.
        text_width: the printed width of a text.

    Attributes:
        blocks: by name; features by theirs, cells by theirs, `"head"`.
        cells: operations of each cell.
        owner: the cell that a node belongs to.
        routes: the passing places of an edge, by (block, block).
    """

    def __init__(
        self, genotype: Genotype, features: Sequence[str], text_width: Callable[[str], float]
    ) -> None:
        import networkx as nx

        self.cells = cells_of(genotype)
        self.owner = {node.name: cell for cell, nodes in self.cells.items() for node in nodes}
        self.owner |= {cell: cell for cell in self.cells}
        groups = by_modality(features).values()  # image_2 stands before image_10
        self.features = [n for names in groups for n in sorted(names, key=lambda n: (len(n), n))]
        graph = nx.DiGraph()
        graph.add_nodes_from(self.features)
        for cell, nodes in self.cells.items():
            inputs = dict.fromkeys(self.owner.get(i, i) for node in nodes for i in node.inputs)
            graph.add_edges_from((source, cell) for source in inputs if source != cell)
        ends = [cell for cell in self.cells if not graph.out_degree(cell)]
        last = genotype.nodes[-1]
        if genotype.space in ("fusion", "cells"):  # what it names, else all, not only the ends
            ends = list(last.inputs if last.name == OUTPUT else self.cells)
        if genotype.space == "encdec":  # the last of either side, though GA asks the encoder's
            sides = ([c for c in self.cells if c.startswith(side)] for side in ("enc", "dec"))
            ends = [side[-1] for side in sides if side]
        joins = genotype.space == "fusion" or len(ends) > 1
        join = {"encdec": "sum → head", "cells": "concat → c_k"}.get(genotype.space)
        graph.add_edges_from((end, "head") for end in ends)

        self.blocks: dict[str, Block] = {}
        self.columns: list[list[Block]] = []
        for column, names in enumerate(nx.topological_generations(graph)):
            self.columns.append([])
            for name in names:
                nodes = self.cells.get(name, [])
                texts = [node.operator for node in nodes] or [name]
                if name == "head" and joins:
                    texts = [join or "concat → head"]
                self._add(Block(name, column, texts, nodes))
        self.routes = {edge: self._route(*edge) for edge in graph.edges}
        self._arrange(text_width)

    def _add(self, block: Block) -> Block:
        self.blocks[block.name] = block
        self.columns[block.column].append(block)
        return block

    def _route(self, source: str, target: str) -> list[Block]:
        """Return the places in the columns between; edges of one source share them."""
        places, before = [], source
        for column in range(self.blocks[source].column + 1, self.blocks[target].column):
            name = f"{source} passing column {column}"
            block = self.blocks.get(name) or self._add(Block(name, column, sources=[before]))
            places.append(block)
            before = name
        self.blocks[target].sources.append(before)
        return places

    def _arrange(self, text_width: Callable[[str], float]) -> None:
        y = 0.0
        for names in by_modality(self.features).values():
            for name in names:
                y -= _STEP
                self.blocks[name].y = y
            y -= 1.5 * _GAP
        left = 0.0
        for number, column in enumerate(self.columns):
            width = max((text_width(text) for block in column for text in block.texts), default=0)
            width += 0.28 + (2 * FRAME if any(block.framed for block in column) else 0)
            for block in column:
                block.x, block.width = left + width / 2, width
            left += width + _BETWEEN_COLUMNS
            if number:
                column.sort(key=self._goal, reverse=True)
                goals = [self._goal(block) for block in column]
                for block, height in zip(column, spread(column, goals), strict=True):
                    block.y = float(height)

    def _goal(self, block: Block) -> float:
        """Return the mean height of the inputs, which keeps edges short and mostly uncrossed."""
        return float(np.mean([self.blocks[source].y for source in block.sources]))

    def extent(self) -> tuple[float, float, float, float]:
        """Return left, right, bottom and top of all blocks."""
        blocks = self.blocks.values()
        return (
            min(block.x - block.width / 2 for block in blocks),
            max(block.x + block.width / 2 for block in blocks),
            min(block.y - max(block.height, BOX) / 2 for block in blocks),
            max(block.y + max(block.height, BOX) / 2 for block in blocks),
        )

    def move(self, right: float, up: float) -> None:
        """Move all blocks."""
        for block in self.blocks.values():
            block.x, block.y = block.x + right, block.y + up


def cells_of(genotype: Genotype) -> dict[str, list[Node]]:
    """Return operations by cell: a node itself, or `cell_0` for `cell_0_step_0` and so on.

    A node `cell_0` that joins these steps is that cell, not one more operation, and a node
    `output` is the head.
    """
    cells: dict[str, list[Node]] = {}
    for node in genotype.nodes:
        if node.name not in (*cells, OUTPUT):
            cells.setdefault(re.sub(r"_step_\d+$", "", node.name), []).append(node)
    return cells


def drawn_parts(
    genotype: Genotype, features: Sequence[str]
) -> list[tuple[Genotype, Sequence[str]]]:
    """Return what is drawn side by side, each with the features to show beside it.

    That is a genotype itself; or its convolutional cells, and the fusion cells above them.
    Convolutional cells read the outputs of the two cells before as features, and each operation
    of a node stands for itself.
    """
    if genotype.space not in ("cells", "joint"):
        return [(genotype, features)]
    parts: list[Genotype] = []
    nodes: list[Node] = []
    pixels, taps = set(), []
    for node in genotype.nodes:
        if node.operator == "concat":
            parts.append(Genotype("cells", (*nodes, replace(node, name=OUTPUT))))
            nodes = []
        elif node.operator == "stem":
            pixels.update(node.inputs)
        elif node.operator == "pool":
            taps.append(node.name)
        elif "+" in node.operator:
            pairs = zip(node.operator.split("+"), node.inputs, strict=False)
            steps = [
                Node(f"{node.name}_step_{place}", operation, (read,))
                for place, (operation, read) in enumerate(pairs)
            ]
            nodes += [*steps, Node(node.name, "add", tuple(step.name for step in steps))]
        else:
            nodes.append(node)
    shown: list[tuple[Genotype, Sequence[str]]] = [(part, part.features) for part in parts]
    if taps and nodes:
        rest = (name for name in features if name not in pixels)
        shown.append((Genotype("fusion", tuple(nodes)), (*taps, *rest)))
    return shown or [(genotype, features)]  # a file may name the space, and hold something else


def spread(blocks: Sequence[Block], goals: Sequence[float]) -> np.ndarray:
    """Return the heights nearest to `goals` (descending) at which the blocks do not overlap.

    Least squares under these distances is an isotonic regression: blocks in each other's way
    are pooled and move together.
    """
    heights = np.array([block.height for block in blocks])
    offsets = np.cumsum([0.0, *(heights[:-1] + heights[1:]) / 2 + _GAP])
    pools: list[tuple[float, int]] = []  # mean and number of blocks that move together
    for mean in np.asarray(goals, float) + offsets:
        count = 1
        while pools and pools[-1][0] < mean:
            above, others = pools.pop()
            mean, count = (above * others + mean * count) / (others + count), others + count
        pools.append((mean, count))
    means, counts = zip(*pools, strict=True)
    return np.repeat(means, counts) - offsets


# How it is painted.

_MARGIN = 0.12  # inches
_WIDEST = 16.0


def paint(layouts: Sequence[Layout], used: Sequence[str], title: str | None) -> Figure:
    """Return what is placed, side by side, as a figure; features that are not `used` are pale.

    What would be too wide for a row begins the next one.
    """
    row: list[Layout] = []
    for layout in layouts:
        if row:
            first, before = row[0].extent(), row[-1].extent()
            start, end, _, top = layout.extent()
            right, up = before[1] + 2 * _BETWEEN_COLUMNS - start, first[3] - top
            if end + right - first[0] > _WIDEST:
                lowest = min(one.extent()[2] for one in row)
                right, up, row = first[0] - start, lowest - 2 * _BETWEEN_COLUMNS - top, []
            layout.move(right, up)
        row.append(layout)
    ends = np.array([layout.extent() for layout in layouts])
    left, bottom = ends[:, [0, 2]].min(0) - _MARGIN
    right, top = ends[:, [1, 3]].max(0) + _MARGIN
    if title is not None:
        top += 0.25
        right = max(right, left + 2 * _MARGIN + 1.2 * text_width(title))
    figure = new_figure(right - left, top - bottom)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    if title is not None:
        _write(axes, (left + right) / 2, top - 0.18, title, size=FONT + 1)
    for layout in layouts:
        _paint_layout(axes, layout, used)
    return figure


def _paint_layout(axes: Axes, layout: Layout, used: Sequence[str]) -> None:
    colours: dict[str, str] = {}
    for number, names in enumerate(by_modality(layout.features).values()):
        colours |= dict.fromkeys({*names} & {*used}, COLOURS[number % len(COLOURS)])
        for above, name in zip([None, *names], names, strict=False):
            block, colour = layout.blocks[name], colours.get(name, PALE)
            fill = f"{colour}22" if name in colours else PAPER
            _box(axes, block.x, block.y, block.width, BOX, facecolor=fill, edgecolor=colour)
            _write(axes, block.x, block.y, name, INK if name in colours else PALE)
            if above is not None:
                ends = layout.blocks[above].y - BOX / 2, block.y + BOX / 2
                axes.plot([block.x, block.x], ends, color=PALE, linewidth=1.1)
    head = layout.blocks["head"]
    for cell in layout.cells:
        _paint_cell(axes, layout, cell, colours)
    for source, target in layout.routes:
        if target == "head":
            end = head.x - head.width / 2, head.y
            _edge(axes, layout, source, target, end, colours.get(source, INK))
    _box(axes, head.x, head.y, head.width, BOX, facecolor=INK, edgecolor=INK)
    _write(axes, head.x, head.y, head.texts[0], PAPER)


def _paint_cell(axes: Axes, layout: Layout, cell: str, colours: Mapping[str, str]) -> None:
    block = layout.blocks[cell]
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


def _edge(
    axes: Axes, layout: Layout, source: str, target: str, end: tuple[float, float], colour: str
) -> None:
    """Draw a smooth edge that is level wherever it leaves, passes or enters a column."""
    block = layout.blocks[source]
    points = [(block.x + block.width / 2, block.y)]
    for place in layout.routes[source, target]:
        points += [(place.x - place.width / 2, place.y), (place.x + place.width / 2, place.y)]
    _curve(axes, [*points, end], colour)


def _curve(
    axes: Axes, points: Sequence[tuple[float, float]], colour: str, bulge: float = 0.0
) -> None:
    """Draw an arrow through `points`, level at each; or with `bulge`, out to the right and back."""
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
