"""Where everything stands in the drawing of a genotype; `plots.draw_genotype` paints it.

Columns from left to right: the features, then cells by depth, then the head.
An edge that spans several columns gets a place of its own in each of those
between (Sugiyama et al., 1981, "Methods for visual understanding of
hierarchical system structures"), so no edge crosses a box. Lengths are inches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ssnas_core.genotype import Genotype, Node

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
        """Centre of operation number `place`."""
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
        modalities = list(dict.fromkeys(split_feature(name)[0] for name in features))

        def place(name: str) -> tuple[int, int]:
            modality, depth = split_feature(name)
            return modalities.index(modality), depth

        self.features = sorted(features, key=place)
        graph = nx.DiGraph()
        graph.add_nodes_from(self.features)
        for cell, nodes in self.cells.items():
            inputs = dict.fromkeys(self.owner.get(i, i) for node in nodes for i in node.inputs)
            graph.add_edges_from((source, cell) for source in inputs if source != cell)
        last = genotype.space == "layers"  # its output is the last layer alone
        graph.add_edges_from((cell, "head") for cell in list(self.cells)[-1 if last else 0 :])

        self.blocks: dict[str, Block] = {}
        self.columns: list[list[Block]] = []
        for column, names in enumerate(nx.topological_generations(graph)):
            self.columns.append([])
            for name in names:
                nodes = self.cells.get(name, [])
                texts = [node.operator for node in nodes] or [name]
                if name == "head" and not last:
                    texts = ["concat → head"]
                self._add(Block(name, column, texts, nodes))
        self.routes = {edge: self._route(*edge) for edge in graph.edges}
        self._arrange(text_width)

    def _add(self, block: Block) -> Block:
        self.blocks[block.name] = block
        self.columns[block.column].append(block)
        return block

    def _route(self, source: str, target: str) -> list[Block]:
        """Places in the columns between; edges of one source share them."""
        places, before = [], source
        for column in range(self.blocks[source].column + 1, self.blocks[target].column):
            name = f"{source} passing column {column}"
            block = self.blocks.get(name) or self._add(Block(name, column, sources=[before]))
            places.append(block)
            before = name
        self.blocks[target].sources.append(before)
        return places

    def _arrange(self, text_width: Callable[[str], float]) -> None:
        y, modality = 0.0, split_feature(self.features[0])[0]
        for name in self.features:
            y -= _STEP if split_feature(name)[0] == modality else _STEP + 1.5 * _GAP
            modality = split_feature(name)[0]
            self.blocks[name].y = y
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
        """The mean height of what enters, which keeps edges short and mostly uncrossed."""
        return float(np.mean([self.blocks[source].y for source in block.sources]))


def cells_of(genotype: Genotype) -> dict[str, list[Node]]:
    """Operations by cell: a node itself, or `cell_0` for `cell_0_step_0`, `cell_0_step_1`, ...

    A node `cell_0` that joins these steps is that cell, not one more operation.
    """
    cells: dict[str, list[Node]] = {}
    for node in genotype.nodes:
        if node.name not in cells:
            cells.setdefault(re.sub(r"_step_\d+$", "", node.name), []).append(node)
    return cells


def split_feature(feature: str) -> tuple[str, int]:
    """Modality and depth: `image_2` is ("image", 2)."""
    match = re.fullmatch(r"(.*)_(\d+)", feature)
    return (match[1], int(match[2])) if match else (feature, 0)


def spread(blocks: Sequence[Block], goals: Sequence[float]) -> np.ndarray:
    """Heights nearest to `goals` (descending) at which the blocks do not overlap.

    Least squares under these distances is an isotonic regression: blocks in each other's way
    are pooled and move together.
    """
    offsets = np.zeros(len(blocks))
    for place in range(1, len(blocks)):
        room = (blocks[place - 1].height + blocks[place].height) / 2 + _GAP
        offsets[place] = offsets[place - 1] + room
    pools: list[tuple[float, int]] = []  # mean and size
    for goal, offset in zip(goals, offsets, strict=True):
        mean, size = goal + offset, 1
        while pools and pools[-1][0] < mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    return np.repeat([mean for mean, _ in pools], [size for _, size in pools]) - offsets
