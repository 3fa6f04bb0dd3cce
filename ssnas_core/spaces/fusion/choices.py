"""What may be chosen in the fusion space: its architectures, without any relaxation.

An architecture is a value for each of a few named variables: per cell the pair of
its predecessors, per step a primitive and its inputs. Strategies that try, change
or grow architectures work on these; `fusion.py` relaxes the same choices.
"""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.spaces.fusion.networks import Cell, Pair, Step
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.spaces.operators import PRIMITIVES, Factory, is_ordered

if TYPE_CHECKING:
    from ssnas_core.spaces.fusion.space import FusionConfig

# Canonical forms of fusion architectures: one way to write what computes the same.


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


class FusionChoices:
    """The architectures over a set of named features; see `FusionSpace`."""

    name = "fusion"

    def __init__(
        self,
        channels: Mapping[str, int],
        config: FusionConfig,
        operators: Mapping[str, Factory],
    ) -> None:
        self.channels = dict(channels)
        self.operators = dict(operators)
        for name in self.operators:
            check_name(name)
        self.primitives = (*PRIMITIVES, *self.operators)
        self.config = config
        self.features = tuple(self.channels)
        if len(self.features) < 2:
            raise InputError(
                f"a fusion space needs at least two features, got {list(self.features)}."
            )
        self.pairs = tuple(
            tuple(itertools.combinations(range(len(self.predecessors(cell))), 2))
            for cell in range(self.config.cells)
        )

    def predecessors(self, cell: int) -> tuple[str, ...]:
        """What cell number `cell` may take: the earlier cells, then the features."""
        return (*(f"cell_{earlier}" for earlier in range(cell)), *self.features)

    def sample(self, generator: torch.Generator) -> Genotype:
        """A genotype drawn uniformly from the space (by rejecting non-canonical forms)."""

        def draw(options: Sequence) -> int:
            return int(torch.randint(len(options), (), generator=generator))

        while True:
            cells: list[Cell] = []
            for cell in range(self.config.cells):
                pair = self.pairs[cell][draw(self.pairs[cell])]
                steps = []
                for step in range(self.config.steps):
                    options = step_options(step, self.primitives)
                    steps.append(options[draw(options)])
                cells.append((pair, tuple(steps)))
            if self._distinct(cells) and self._form(cells).cells == cells:
                return self._genotype(cells)

    def genotypes(self) -> Iterator[Genotype]:
        """Every genotype of the space, each once, in canonical form."""
        steps = list(
            itertools.product(*(step_options(s, self.primitives) for s in range(self.config.steps)))
        )
        choices = (itertools.product(pairs, steps) for pairs in self.pairs)
        for chosen in itertools.product(*choices):
            cells = list(chosen)
            if self._distinct(cells) and self._form(cells).cells == cells:
                yield self._genotype(cells)

    def validate(self, genotype: Genotype) -> None:
        """Check that `genotype` is in this space, in canonical form.

        Raises:
            InputError: another space, unknown operators or features, wrong
                numbers of cells or steps, or a form that is not canonical.
        """
        self._cells(genotype)

    @property
    def variables(self) -> dict[str, tuple[str, ...]]:
        """The values of each choice: `pair_<cell>`, and `step_<cell>_<step>` of the cell's states.

        A cell's states are its inputs x and y, in the order of the pair, and its earlier
        steps. Primitives that do not tell their inputs apart have one value per pair of states.
        """
        names: dict[str, tuple[str, ...]] = {}
        for cell, pairs in enumerate(self.pairs):
            of = self.predecessors(cell)
            names[f"pair_{cell}"] = tuple(f"{of[first]}+{of[second]}" for first, second in pairs)
            for step, options in enumerate(self._steps):
                states = ("x", "y", *(f"step_{earlier}" for earlier in range(step)))
                names[f"step_{cell}_{step}"] = tuple(
                    f"{operator}({states[first]}, {states[second]})"
                    for operator, (first, second) in options
                )
        return names

    def decode(self, choice: Mapping[str, int]) -> Genotype | None:
        """The architecture of a value (its number, from 0) for each of the `variables`.

        Several choices may be one architecture, whose canonical form is returned. None
        where two cells would take the same pair.

        Raises:
            InputError: other variables, or a number that is not of a value.
        """
        sizes = {name: len(values) for name, values in self.variables.items()}
        if choice.keys() != sizes.keys():
            raise InputError(
                f"a choice needs a value for each of {', '.join(sizes)}; got {str(choice)[:200]}."
            )
        for name, size in sizes.items():
            if not isinstance(choice[name], int) or choice[name] not in range(size):
                raise InputError(f"{name} must be in 0..{size - 1}, got {choice[name]!r:.60}.")
        cells: list[Cell] = [
            (
                pairs[choice[f"pair_{cell}"]],
                tuple(
                    options[choice[f"step_{cell}_{step}"]]
                    for step, options in enumerate(self._steps)
                ),
            )
            for cell, pairs in enumerate(self.pairs)
        ]
        return self._genotype(self._form(cells).cells) if self._distinct(cells) else None

    def encode(self, genotype: Genotype) -> dict[str, int]:
        """The choice as which the canonical form of `genotype` is written; it decodes to it.

        Raises:
            InputError: as `validate`.
        """
        choice: dict[str, int] = {}
        for cell, (pair, steps) in enumerate(self._cells(genotype)):
            choice[f"pair_{cell}"] = self.pairs[cell].index(pair)
            for step, (options, chosen) in enumerate(zip(self._steps, steps, strict=True)):
                choice[f"step_{cell}_{step}"] = options.index(chosen)
        return choice

    @property
    def levels(self) -> int:
        """How many cells an architecture grows by, one after the other."""
        return self.config.cells

    def first(self, count: int) -> Self:
        """The space of the architectures of `count` cells; each begins larger ones.

        Raises:
            InputError: not 1 to `levels` cells.
        """
        if not 1 <= count <= self.levels:
            raise InputError(f"the space has 1 to {self.levels} cells, got {count}.")
        config = replace(self.config, cells=count, operators=())
        return type(self)(self.channels, config, self.operators)

    def extensions(self, prefix: Genotype | None) -> list[Genotype]:
        """Every architecture of one cell more that begins with `prefix`, canonical, each once.

        Each beginning of a canonical form is one, so extensions of extensions of None
        are all the architectures of the space.

        Args:
            prefix: of `first(count)` for a count below `levels`; None for those of one cell.

        Raises:
            InputError: it is not; or it has all cells that there are.
        """
        per_cell = self.config.steps + (self.config.steps > 1)
        count = 0 if prefix is None else -(-len(prefix.nodes) // per_cell)
        begun = [] if prefix is None else self.first(min(count, self.levels))._cells(prefix)
        if count == self.levels:
            raise InputError(f"{prefix!s:.300} has all {count} cells; there is no longer one.")
        grown = (
            [*begun, last]
            for last in itertools.product(self.pairs[count], itertools.product(*self._steps))
        )
        return [
            self._genotype(cells)
            for cells in grown
            if self._distinct(cells) and self._form(cells).cells == cells
        ]

    def tokens(self, genotype: Genotype) -> list[tuple[int, ...]]:
        """Per cell its pair and its steps as numbers, for a model that reads architectures.

        They are as in `encode`, but a pair has the same number in every cell.

        Args:
            genotype: of this space, or of `first(count)`.

        Raises:
            InputError: it is of neither.
        """
        per_cell = self.config.steps + (self.config.steps > 1)
        count = min(-(-len(genotype.nodes) // per_cell), self.levels)
        numbers: dict[tuple[str, str], int] = {}
        for cell, pairs in enumerate(self.pairs):
            of = self.predecessors(cell)
            for first, second in pairs:
                numbers.setdefault((of[first], of[second]), len(numbers))
        told = []
        for cell, (pair, steps) in enumerate(self.first(count)._cells(genotype)):
            of = self.predecessors(cell)
            chosen = (options.index(one) for options, one in zip(self._steps, steps, strict=True))
            told.append((numbers[of[pair[0]], of[pair[1]]], *chosen))
        return told

    @property
    def token_sizes(self) -> tuple[int, ...]:
        """How many numbers each of a cell's `tokens` may be."""
        return (len(self.pairs[-1]), *(len(options) for options in self._steps))

    @property
    def _steps(self) -> list[list[Step]]:
        """The values of each step of a cell."""
        return [step_options(step, self.primitives) for step in range(self.config.steps)]

    def _distinct(self, cells: Sequence[Cell]) -> bool:
        """Whether no two cells share their pair of inputs."""
        named = {
            tuple(self.predecessors(cell)[member] for member in pair)
            for cell, (pair, _) in enumerate(cells)
        }
        return len(named) == len(cells)

    def _genotype(self, cells: Sequence[Cell]) -> Genotype:
        nodes = []
        for cell, (pair, steps) in enumerate(cells):
            states = [self.predecessors(cell)[member] for member in pair]
            for step, (operator, (first, second)) in enumerate(steps):
                name = f"cell_{cell}" if len(steps) == 1 else f"cell_{cell}_step_{step}"
                nodes.append(Node(name, operator, (states[first], states[second])))
                states.append(name)
            if len(steps) > 1:
                nodes.append(Node(f"cell_{cell}", "Concat", tuple(states[2:])))
        return Genotype(self.name, tuple(nodes))

    def _cells(self, genotype: Genotype) -> list[Cell]:
        """The choices behind `genotype`, checked."""
        wrong = f"{genotype!s:.300} is not a genotype of this space"
        if genotype.space != self.name:
            raise InputError(f"{wrong}: expected {self.name}, got {genotype.space}.")
        unknown = set(genotype.features) - set(self.features)
        if unknown:
            raise InputError(
                f"{wrong}: it uses {str(sorted(unknown))[:200]}; "
                f"the features are {', '.join(self.features)}."
            )
        per_cell = self.config.steps + (self.config.steps > 1)
        if len(genotype.nodes) != self.config.cells * per_cell:
            raise InputError(
                f"{wrong}: expected {self.config.cells} cells of "
                f"{self.config.steps} steps, got {len(genotype.nodes)} nodes."
            )
        cells: list[Cell] = []
        for cell in range(self.config.cells):
            nodes = genotype.nodes[cell * per_cell : cell * per_cell + self.config.steps]
            names = self.predecessors(cell)
            cells.append(self._cell(nodes, names, f"{wrong}, at cell_{cell}"))
        form = self._genotype(self._form(cells).cells)
        if form != genotype:
            raise InputError(f"{genotype!s:.300} is not in canonical form; write {form!s:.300}.")
        if not self._distinct(cells):
            raise InputError(f"{wrong}: two cells share the same pair of inputs.")
        return cells

    def _cell(self, nodes: Sequence[Node], names: Sequence[str], wrong: str) -> Cell:
        """The choices behind the steps of one cell."""
        inputs = nodes[0].inputs
        states = sorted({name for name in inputs if name in names}, key=names.index)
        pair = [names.index(name) for name in states]
        steps: list[Step] = []
        for node in nodes:
            chosen = [states.index(name) for name in node.inputs if name in states]
            if (
                node.operator not in self.primitives[1:]
                or len(node.inputs) != 2
                or len(set(chosen)) != 2
            ):
                known = ", ".join(states if len(states) > 1 else names)
                primitives = ", ".join(self.primitives[1:])
                raise InputError(
                    f"{wrong}: expected {primitives} of two different inputs "
                    f"among {known[:300]}; got {node!s:.200}."
                )
            steps.append((node.operator, (chosen[0], chosen[1])))
            states.append(node.name)
        return (pair[0], pair[1]), tuple(steps)

    def _form(self, cells: Sequence[Cell]) -> Form:
        return canonical(cells, self.primitives)
