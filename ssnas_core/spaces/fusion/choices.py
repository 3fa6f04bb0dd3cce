"""Choices of the fusion space, and the one canonical way to write each architecture.

A cell is a pair of its predecessors and its steps; a step is a primitive and two of
the cell's states. What reaches the classifier is a choice of its own, of cells and
features; a cell that does not, by itself or by others, computes for nobody. Cells may
change places, steps may, and an unordered primitive's inputs may: all these ways of
writing compute the same, and `canonical` returns one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ssnas_core.spaces.operators import PRIMITIVES, is_ordered

Pair = tuple[int, int]
Step = tuple[str, Pair]  # a primitive and two states: 0 is x, 1 is y, 2 + s is step s
Cell = tuple[Pair, tuple[Step, ...]]  # two predecessors and the steps


@dataclass(frozen=True)
class Form:
    """Cells in canonical form, and how they came from the given ones.

    Args:
        cells: the canonical cells, those that reach the classifier.
        outputs: what reaches it itself, as the pair of one more cell would name it.
        order: for each of the cells, its number among the given ones.
        steps: for each of them, the given number of each of its steps.
        turned: (cell, step), canonical numbers, of unordered primitives whose
            inputs changed places.
    """

    cells: list[Cell]
    outputs: tuple[int, ...]
    order: list[int]
    steps: list[tuple[int, ...]]
    turned: frozenset[tuple[int, int]]


def predecessors(cell: int, features: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a cell's possible inputs: the earlier cells, then the features."""
    return (*(f"cell_{earlier}" for earlier in range(cell)), *features)


def states(step: int) -> tuple[str, ...]:
    """Return the names of a step's possible inputs: the cell's two, then the earlier steps."""
    return ("x", "y", *(f"step_{earlier}" for earlier in range(step)))


def step_options(step: int, primitives: Sequence[str] = PRIMITIVES) -> list[Step]:
    """Return every derivable step number `step`; unordered primitives take sorted pairs."""
    options: list[Step] = []
    for operator in primitives[1:]:  # Zero is never derived
        choose = itertools.permutations if is_ordered(operator) else itertools.combinations
        options += [(operator, pair) for pair in choose(range(2 + step), 2)]
    return options


def canonical(
    cells: Sequence[Cell], outputs: Sequence[int], primitives: Sequence[str] = PRIMITIVES
) -> Form:
    """Return the canonical form of `cells`: equal for all ways of writing one architecture.

    Args:
        cells: as given.
        outputs: what reaches the classifier, as the pair of one more cell would name it.
        primitives: in the order that ranks them.
    """
    order = _cell_order(cells, live(cells, outputs))
    place = {old: new for new, old in enumerate(order)}
    result: list[Cell] = []
    orders: list[tuple[int, ...]] = []
    turned: set[tuple[int, int]] = set()

    def moved(member: int, old: int, new: int) -> int:
        # earlier cells are numbered first, features after them
        return place[member] if member < old else member - old + new

    for new, old in enumerate(order):
        pair, steps = cells[old]
        first, second = (moved(m, old, new) for m in pair)
        reverse = first > second  # two earlier cells changed places, so x and y do
        chosen, step_order, swapped = _canonical_steps(steps, reverse, primitives)
        result.append(((min(first, second), max(first, second)), chosen))
        orders.append(step_order)
        turned |= {(new, step) for step in swapped}
    reached = sorted({moved(m, len(cells), len(order)) for m in outputs})
    return Form(result, tuple(reached), order, orders, frozenset(turned))


def live(cells: Sequence[Cell], outputs: Sequence[int]) -> set[int]:
    """Return the numbers of the cells that reach the classifier, by themselves or by others."""
    found = {m for m in outputs if m < len(cells)}
    for cell in reversed(range(len(cells))):
        if cell in found:
            found |= {m for m in cells[cell][0] if m < cell}
    return found


def _cell_order(cells: Sequence[Cell], among: set[int]) -> list[int]:
    """Return each cell after its inputs; of those that are ready, that of the smallest inputs.

    Distinct pairs of inputs make this order unique.
    """
    order: list[int] = []
    while len(order) < len(among):
        ready = []
        for cell in among:
            pair = cells[cell][0]
            if cell not in order and all(m in order for m in pair if m < cell):
                key = sorted((0, order.index(m)) if m < cell else (1, m - cell) for m in pair)
                ready.append((key, cell))
        order.append(min(ready)[1])
    return order


def _canonical_steps(
    steps: Sequence[Step], reverse: bool, primitives: Sequence[str]
) -> tuple[tuple[Step, ...], tuple[int, ...], list[int]]:
    """Return the smallest way to write a cell's steps, its order, and the steps that were turned.

    Args:
        steps: as given.
        reverse: whether x and y change places.
        primitives: in the order that ranks them.
    """
    best = None
    for order in itertools.permutations(range(len(steps))):
        names = {0: int(reverse), 1: int(not reverse)}
        written: list[Step] = []
        swapped: list[int] = []
        for place, old in enumerate(order):
            operator, inputs = steps[old]
            if not all(state in names for state in inputs):
                break  # a step before its input
            pair: Pair = (names[inputs[0]], names[inputs[1]])
            if not is_ordered(operator) and pair[0] > pair[1]:
                pair = (pair[1], pair[0])
                swapped.append(place)
            written.append((operator, pair))
            names[2 + old] = 2 + place
        else:
            key = [(primitives.index(operator), pair) for operator, pair in written]
            if best is None or key < best[0]:
                best = (key, tuple(written), order, swapped)
    assert best is not None
    return best[1:]
