"""Canonical forms of fusion architectures: one way to write what computes the same.

Three things can be written in more than one way. Cells that do not feed each
other may stand in either order (the embedding's blocks change places). So may
the steps inside a cell. And a primitive that does not tell its inputs apart,
except by which columns of its weights meet which, may name them in either order.
"""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ssnas_core.errors import InputError
from ssnas_core.ops import PRIMITIVES, is_ordered
from ssnas_core.spaces._fusion_nets import Cell, Pair, Step


@dataclass(frozen=True)
class Form:
    """Cells in canonical form, and how they came from those that were given.

    Args:
        cells: the canonical cells.
        order: for each of them, its number among the given ones.
        steps: for each of them, the given number of each of its steps.
        turned: (cell, step), canonical numbers, of unordered primitives whose
            inputs changed places.
    """

    cells: list[Cell]
    order: list[int]
    steps: list[tuple[int, ...]]
    turned: frozenset[tuple[int, int]]


def step_options(step: int, primitives: Sequence[str] = PRIMITIVES) -> list[Step]:
    """Every derivable step over `2 + step` states; unordered primitives take sorted pairs."""
    states = range(2 + step)
    options: list[Step] = []
    for operator in primitives[1:]:
        choose = itertools.permutations if is_ordered(operator) else itertools.combinations
        options += [(operator, pair) for pair in choose(states, 2)]
    return options


def canonical(cells: Sequence[Cell], primitives: Sequence[str] = PRIMITIVES) -> Form:
    """The canonical form of `cells`; equal for all ways of writing one architecture."""
    order = _cell_order(cells)
    place = {old: new for new, old in enumerate(order)}
    result: list[Cell] = []
    orders: list[tuple[int, ...]] = []
    turned: set[tuple[int, int]] = set()
    for new, old in enumerate(order):
        pair, steps = cells[old]
        # earlier cells are numbered first, features after them
        first, second = (place[m] if m < old else m - old + new for m in pair)
        reverse = first > second  # two earlier cells changed places, so x and y do
        chosen, step_order, swapped = _canonical_steps(steps, reverse, primitives)
        result.append(((min(first, second), max(first, second)), chosen))
        orders.append(step_order)
        turned |= {(new, step) for step in swapped}
    return Form(result, order, orders, frozenset(turned))


def _cell_order(cells: Sequence[Cell]) -> list[int]:
    """Each cell after its inputs; of those that are ready, the one with the smallest inputs.

    Distinct pairs of inputs make this order unique.
    """
    order: list[int] = []
    while len(order) < len(cells):
        ready = []
        for cell, (pair, _) in enumerate(cells):
            if cell not in order and all(m in order for m in pair if m < cell):
                key = sorted((0, order.index(m)) if m < cell else (1, m - cell) for m in pair)
                ready.append((key, cell))
        order.append(min(ready)[1])
    return order


def _canonical_steps(
    steps: Sequence[Step], reverse: bool, primitives: Sequence[str]
) -> tuple[tuple[Step, ...], tuple[int, ...], list[int]]:
    """The smallest way to write a cell's steps, its order, and the steps that were turned.

    Args:
        steps: as given; state 0 is x, 1 is y, 2 + s is step s.
        reverse: whether x and y change places.
        primitives: in the order that ranks them.
    """
    best = None
    for order in itertools.permutations(range(len(steps))):
        names = {0: int(reverse), 1: int(not reverse)}
        written: list[Step] = []
        swapped: list[int] = []
        for place, old in enumerate(order):
            operator, states = steps[old]
            if not all(state in names for state in states):
                break  # a step before its input
            pair: Pair = (names[states[0]], names[states[1]])
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


def check_name(name: str) -> None:
    """Refuse a name that an operator cannot have in a genotype and in a state dict."""
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise InputError(f"an operator's name must be an identifier, got {name!r}; rename it.")
    taken = (*PRIMITIVES, "Concat")
    if name in taken or hasattr(nn.Module(), name):
        raise InputError(
            f"operator {name!r} has a name in use ({', '.join(taken)}, and those of nn.Module); "
            "rename it."
        )
