"""The fusion space: which features meet, and by which operation (BM-NAS, arXiv:2104.09379, sec. 3).

Upper level: each cell takes two of its predecessors, which are the stored
features and the earlier cells (logits alpha, one per edge). Lower level: each
step inside a cell takes two of the cell's states, which are its two inputs and
its earlier steps (logits beta, one per edge and slot), and one of five
primitives (logits gamma), to which a space may add others by name. The
network's output is all cells' outputs.

A pair of edges weighs the product of its edge weights, normalised over all
pairs; so the paper's rule for deriving, the pair with the largest product, is
the mode of exactly what was relaxed, and one-hot logits compute the derived
network. Deviations from the paper and its code:

- One softmax over all pairs of a cell's edges, where the paper chooses between
  Identity and Zero on each edge by itself.
- One softmax over all ordered pairs of distinct states for beta, joint over
  both slots, where the paper weighs each state by itself.
- The relaxation mixes pairs of *distinct* predecessors into two separate
  inputs; the released code feeds one mixture as both inputs of a step.
- Every derivable architecture includes earlier cells as predecessors; the
  released code relaxes those edges and then never derives them.
- A cell returns LayerNorm(steps + x + y): a pair has no first member, so both
  inputs pass by the operation, where the paper adds one of them.
- LayerNorm is over channels, at each position.
- The networks hold the paper's formulas alone, where the code has further norms and
  dropout; `FusionConfig.released` adds them, and takes the last two deviations back.
"""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import deepest
from ssnas_core.common.typed import brief, check_fields
from ssnas_core.spaces import OPERATORS
from ssnas_core.spaces.base import check_dropouts
from ssnas_core.spaces.fusion.choices import (
    Cell,
    Form,
    Pair,
    Step,
    canonical,
    predecessors,
    states,
    step_options,
)
from ssnas_core.spaces.fusion.networks import (
    RELEASED,
    FusionNetwork,
    FusionSupernet,
    Sizes,
    ordered_pairs,
    pair_labels,
    pair_scores,
)
from ssnas_core.spaces.fusion.released import (
    ReleasedSupernet,
    check_released,
    derive_released,
    released_labels,
)
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.spaces.operators import PRIMITIVES, Factory, is_ordered

MAX_STEPS = 6


@dataclass(frozen=True, kw_only=True)
class FusionConfig(Sizes):
    """Fusion cells: which features meet, by which operation.

    Defaults: BM-NAS on MM-IMDB (Table 8), but for `length`, which is that of `PrepareConfig`
    (BM-NAS: 16). In a run it is that of the recipe's features.

    An operator of one's own is a class of `nn.Module` that is made with the number of
    channels C and has forward(x, y), (N, L, C) each, -> (N, L, C). `operators` has
    "package.module:Name" of the class, whose module is imported already (a name in a
    file imports nothing), or the name of an entry point. In a genotype the operator
    stands as the short name of the class.

    `released` names what BM-NAS's released networks hold beside the paper's formulas; with
    all of `RELEASED` a genotype's network computes what theirs does:

    - operator_norm: batch norm in ConcatFC and LinearGLU, before what bends; LayerNorm over
      (L, C) after attention;
    - operator_dropout: `dropout` of what these three give (attention: before its norm);
    - residual: a cell adds x alone to its steps, the first of its two inputs in the order of
      earlier cells and then features; of at most two cells, whose order decides no x;
    - cell_norm: a cell's LayerNorm is over (L, C), not over the channels of each position;
    - output_norm: ReLU(LayerNorm) of all cells' outputs together, over (cells, L, C).
    """

    relaxation: Literal["pairs", "released"] = "pairs"  # released: as in BM-NAS's code
    taps: int | None = None  # deepest features of each modality that may be read; None: all
    operators: tuple[str, ...] = ()  # further primitives

    def __post_init__(self) -> None:
        check_fields(self, channels=1, length=1, cells=1, steps=1, taps=1)
        if self.steps > MAX_STEPS:  # all orders of a cell's steps are gone through
            raise InputError(f"FusionConfig.steps must be <= {MAX_STEPS}, got {self.steps}.")
        self._check_released()
        check_dropouts(self)
        _further_operators(self.operators)

    def _check_released(self) -> None:
        if not set(self.released) <= set(RELEASED) or len(set(self.released)) < len(self.released):
            raise InputError(
                f"FusionConfig.released must be some of {RELEASED}, each once, got {self.released}."
            )
        if "residual" in self.released and self.cells > 2:  # which of two cells is x?
            raise InputError(
                f"FusionConfig.released: residual knows at most two cells, got {self.cells}; "
                "leave it out."
            )

    def open(self, channels: Mapping[str, int]) -> FusionSpace:
        """Return the space over features of so many `channels`, by name."""
        return FusionSpace(channels, self)

    def trained_with(self, dropout: float) -> Self:
        """Return the configuration of the same architectures with another dropout."""
        return replace(self, dropout=dropout)


def _further_operators(
    names: Sequence[str], given: Mapping[str, Factory] | None = None
) -> dict[str, Factory]:
    """Return the operators beyond the primitives, by their names in a genotype.

    Args:
        names: as `FusionConfig.operators`.
        given: others by name.

    Raises:
        InputError: no such operator, one that was not imported, or a name that is in use
            or is no identifier.
    """
    named = [(name, OPERATORS.find(name, from_file=True)) for name in names]
    for name, operator in named:
        if not isinstance(operator, type) or not issubclass(operator, nn.Module):
            raise InputError(
                f"operator {brief(name)!r} must be a class of nn.Module, got {brief(operator)}; "
                "name a class that is made with the number of channels."
            )
    operators: dict[str, Factory] = {}
    by_class = ((operator.__name__, operator) for _, operator in named)
    for name, operator in (*by_class, *(given or {}).items()):
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise InputError(f"an operator's name must be an identifier, got {name!r}; rename it.")
        taken = (*PRIMITIVES, "Concat", *operators)
        if name in taken or hasattr(nn.Module(), name):  # also the name of a supernet's submodule
            raise InputError(
                f"operator {name!r} has a name in use ({', '.join(taken)}, and those of "
                "nn.Module); rename it."
            )
        operators[name] = operator
    return operators


class FusionSpace:
    """The architectures over a set of named features.

    Args:
        channels: channels of each feature by name, in order of modality and
            depth, e.g. `{"image_0": 32, ..., "text_0": 300}`.
        config: number of cells and steps, sizes, and how many `taps` of each modality may
            be read, the deepest.
        operators: further primitives by name, beside those that `config` names: what
            takes the number of channels C and returns a module with forward(x, y),
            (N, L, C) each, -> (N, L, C). Their first input is taken to be another than
            the second.

    Raises:
        InputError: fewer than two features, or an operator whose name is taken or
            is no identifier; or what the released relaxation does not know.
    """

    name = "fusion"

    def __init__(
        self,
        channels: Mapping[str, int],
        config: FusionConfig | None = None,
        operators: Mapping[str, Factory] | None = None,
    ) -> None:
        self.config = config or FusionConfig()
        self.channels = deepest(channels, self.config.taps)
        self.features = tuple(self.channels)
        self.operators = _further_operators(self.config.operators, operators)
        self.primitives = (*PRIMITIVES, *self.operators)
        if len(self.features) < 2:
            raise InputError(
                f"a fusion space needs at least two features, got {list(self.features)}."
            )
        steps = self.config.steps
        self._nodes_per_cell = steps + (steps > 1)  # several are concatenated by a node
        if self.config.relaxation == "released":
            check_released(self.config, self.operators, self.features)

    @property
    def width(self) -> int:
        """Numbers in an embedding, cells x L x C."""
        return self.config.cells * self.config.length * self.config.channels

    def predecessors(self, cell: int) -> tuple[str, ...]:
        """Return the names of a cell's possible inputs: the earlier cells, then the features."""
        return predecessors(cell, self.features)

    # All options, counted at the first use: a saved model's file may say any size, and the
    # genotype beside it is held against that before anything is counted.

    @cached_property
    def pairs(self) -> tuple[tuple[Pair, ...], ...]:
        """The pairs of predecessors that each cell may take."""
        sizes = [len(self.predecessors(cell)) for cell in range(self.config.cells)]
        return tuple(tuple(itertools.combinations(range(size), 2)) for size in sizes)

    @cached_property
    def _steps(self) -> list[list[Step]]:
        return [step_options(step, self.primitives) for step in range(self.config.steps)]

    @cached_property
    def _numbers(self) -> dict[tuple[str, str], int]:
        """A number for each pair of names, the same in every cell."""
        named = (self._pair(cell, one) for cell, pairs in enumerate(self.pairs) for one in pairs)
        return {pair: number for number, pair in enumerate(dict.fromkeys(named))}

    # The architectures, each once, in canonical form.

    def sample(self, generator: torch.Generator) -> Genotype:
        """Return a genotype drawn uniformly from the space (by rejecting other forms)."""

        def draw(options: Sequence) -> int:
            return int(torch.randint(len(options), (), generator=generator))

        while True:
            cells: list[Cell] = []
            for pairs in self.pairs:
                pair = pairs[draw(pairs)]
                cells.append((pair, tuple(options[draw(options)] for options in self._steps)))
            if self._is_canonical(cells):
                return self._genotype(cells)

    def genotypes(self) -> Iterator[Genotype]:
        """Yield every genotype of the space."""
        steps = list(itertools.product(*self._steps))
        for cells in itertools.product(*(itertools.product(pairs, steps) for pairs in self.pairs)):
            if self._is_canonical(cells):
                yield self._genotype(cells)

    def validate(self, genotype: Genotype) -> None:
        """Raise unless `genotype` is in this space.

        Raises:
            InputError: another space, unknown operators or features, wrong
                numbers of cells or steps, or a form that is not canonical.
        """
        self._cells(genotype)

    def build(self, genotype: Genotype) -> FusionNetwork:
        """Return the network of `genotype` with fresh weights (torch's global seed)."""
        return FusionNetwork(self.channels, self._cells(genotype), self.config, self.operators)

    # As variables (`ChoiceSpace`).

    @property
    def variables(self) -> dict[str, tuple[str, ...]]:
        """The values of each choice: `pair_<cell>`, and `step_<cell>_<step>` of the cell's states.

        A cell's states are its inputs x and y, in the order of the pair, and its earlier
        steps. Primitives that do not tell their inputs apart have one value per pair of states.
        """
        names: dict[str, tuple[str, ...]] = {}
        for cell, pairs in enumerate(self.pairs):
            names[f"pair_{cell}"] = tuple("+".join(self._pair(cell, pair)) for pair in pairs)
            for step, options in enumerate(self._steps):
                of = states(step)
                names[f"step_{cell}_{step}"] = tuple(
                    f"{operator}({of[first]}, {of[second]})"
                    for operator, (first, second) in options
                )
        return names

    def decode(self, choice: Mapping[str, int]) -> Genotype | None:
        """Return the architecture of a value (its number, from 0) for each of the `variables`.

        Several choices may be one architecture. None where two cells would take the same pair.
        """
        cells: list[Cell] = []
        for cell, pairs in enumerate(self.pairs):
            steps = enumerate(self._steps)
            chosen = tuple(options[choice[f"step_{cell}_{step}"]] for step, options in steps)
            cells.append((pairs[choice[f"pair_{cell}"]], chosen))
        return self._genotype(self._form(cells).cells) if self._distinct(cells) else None

    def encode(self, genotype: Genotype) -> dict[str, int]:
        """Return the choice that is written as `genotype`; it decodes to it.

        Raises:
            InputError: as `validate`.
        """
        choice: dict[str, int] = {}
        for cell, (pair, steps) in enumerate(self._cells(genotype)):
            choice[f"pair_{cell}"] = self.pairs[cell].index(pair)
            for step, (options, chosen) in enumerate(zip(self._steps, steps, strict=True)):
                choice[f"step_{cell}_{step}"] = options.index(chosen)
        return choice

    # Cell by cell (`GrowingSpace`).

    @property
    def levels(self) -> int:
        """How many cells an architecture grows by, one after the other."""
        return self.config.cells

    def first(self, count: int) -> FusionSpace:
        """Return the space of the architectures of `count` cells; each begins larger ones."""
        config = replace(self.config, cells=count, operators=())
        return FusionSpace(self.channels, config, self.operators)

    def extensions(self, prefix: Genotype | None) -> list[Genotype]:
        """Return every architecture of one cell more that begins with `prefix`, each once.

        Each beginning of a canonical form is one, so extensions of extensions of None
        are all the architectures of the space. A whole architecture has none.

        Args:
            prefix: of `first(count)`; None for the architectures of one cell.

        Raises:
            InputError: it is of no such space.
        """
        begun = [] if prefix is None else self._cells(prefix, self._count(prefix))
        pairs = self.pairs[len(begun)] if len(begun) < self.levels else ()
        grown = (
            [*begun, last] for last in itertools.product(pairs, itertools.product(*self._steps))
        )
        return [self._genotype(cells) for cells in grown if self._is_canonical(cells)]

    @property
    def token_sizes(self) -> tuple[int, ...]:
        """How many values each number of a cell's token has."""
        return (len(self.pairs[-1]), *(len(options) for options in self._steps))

    def tokens(self, genotype: Genotype) -> list[tuple[int, ...]]:
        """Return the pair and the steps of each cell as numbers, for a model of architectures.

        They are as in `encode`, but a pair has the same number in every cell.

        Args:
            genotype: of this space, or of `first(count)`.

        Raises:
            InputError: it is of neither.
        """
        result = []
        for cell, (pair, steps) in enumerate(self._cells(genotype, self._count(genotype))):
            chosen = (options.index(step) for options, step in zip(self._steps, steps, strict=True))
            result.append((self._numbers[self._pair(cell, pair)], *chosen))
        return result

    # Relaxed (`GradientSpace`).

    def supernet(self) -> FusionSupernet | ReleasedSupernet:
        """Return all choices at once: fresh weights and small random logits (torch's seed)."""
        if self.config.relaxation == "released":
            return ReleasedSupernet(self.channels, self.config)
        return FusionSupernet(self.channels, self.pairs, self.config, self.operators)

    def derive(self, logits: Mapping[str, Tensor]) -> Genotype:
        """Return the most probable genotype under `logits`, named as in `labels`."""
        return self._genotype(self._form(self._argmax(logits)).cells)

    def inherit(self, genotype: Genotype, state: Mapping[str, Tensor]) -> FusionNetwork:
        """Return the derived network with the weights of the supernet that it was derived from.

        Args:
            genotype: what `derive` returned for the supernet.
            state: that supernet's state dict.

        Raises:
            InputError: `genotype` is not what the state's own logits derive.
        """
        prefix = "logits."
        logits = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        form = self._form(self._argmax(logits))
        derived = self._genotype(form.cells)
        if derived != genotype:
            raise InputError(
                f"the supernet derives {derived}, not {genotype}; "
                "inherit weights from the search that found the genotype."
            )
        network = self.build(genotype)
        network.load_state_dict(
            {name: _inherited(name, form, state) for name in network.state_dict()}
        )
        return network

    def one_hot(self, genotype: Genotype, scale: float = 200.0) -> dict[str, Tensor]:
        """Return logits whose relaxation is `genotype`: `scale` on each choice, 0 elsewhere.

        Raises:
            InputError: the released relaxation, which has none.
        """
        if self.config.relaxation == "released":
            raise InputError("the released relaxation is no one genotype's network at any logits.")
        logits = {}
        for cell, (pair, steps) in enumerate(self._cells(genotype)):
            alpha = torch.zeros(len(self.predecessors(cell)))  # (E,)
            alpha[list(pair)] = scale
            logits[f"alpha_{cell}"] = alpha
            for step, (operator, (first, second)) in enumerate(steps):
                beta = torch.zeros(2, 2 + step)  # (slots, states)
                beta[0, first] = beta[1, second] = scale
                gamma = torch.zeros(len(self.primitives))  # (O,)
                gamma[self.primitives.index(operator)] = scale
                logits |= {f"beta_{cell}_{step}": beta, f"gamma_{cell}_{step}": gamma}
        return logits

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Return the meaning of each entry of each logit vector, for tables and plots."""
        if self.config.relaxation == "released":
            return released_labels(self.config, self.features)
        return pair_labels(self.config, self.features, self.primitives)

    def _argmax(self, logits: Mapping[str, Tensor]) -> list[Cell]:
        """Return the mode: the best pairs in total, none of them twice, and the best steps."""
        if self.config.relaxation == "released":
            return derive_released(logits, self.config, len(self.features))
        from scipy.optimize import linear_sum_assignment

        floor = -1e9  # a pair that a cell does not have; never chosen while another is free
        scores = torch.full((self.config.cells, len(self._numbers)), floor)
        for cell, pairs in enumerate(self.pairs):
            log_p = pair_scores(logits[f"alpha_{cell}"].detach().cpu(), pairs).log_softmax(0)
            columns = [self._numbers[self._pair(cell, pair)] for pair in pairs]
            scores[cell, columns] = log_p.to(scores.dtype).clamp(min=floor)
        _, chosen = linear_sum_assignment(scores.double().numpy(), maximize=True)
        names = list(self._numbers)
        cells: list[Cell] = []
        for cell, column in enumerate(chosen):
            of = self.predecessors(cell)
            first, second = (of.index(name) for name in names[column])
            steps = [
                self._best_step(logits[f"beta_{cell}_{step}"], logits[f"gamma_{cell}_{step}"])
                for step in range(self.config.steps)
            ]
            cells.append(((first, second), tuple(steps)))
        return cells

    def _best_step(self, beta: Tensor, gamma: Tensor) -> Step:
        """Return the most probable primitive with its most probable inputs."""
        operator = self.primitives[1 + int(gamma.detach()[1:].argmax())]  # Zero is never derived
        table = ordered_pairs(beta.detach())
        if not is_ordered(operator):
            table = (table + table.T).triu(1)
        first, second = divmod(int(table.argmax()), table.shape[1])
        return operator, (first, second)

    # Between cells of numbers and genotypes of names.

    def _pair(self, cell: int, pair: tuple[int, int]) -> tuple[str, str]:
        """Return a cell's pair by the names of its members."""
        names = self.predecessors(cell)
        return names[pair[0]], names[pair[1]]

    def _form(self, cells: Sequence[Cell]) -> Form:
        return canonical(cells, self.primitives)

    def _distinct(self, cells: Sequence[Cell]) -> bool:
        """Return whether no two cells share their pair of inputs."""
        return len({self._pair(cell, pair) for cell, (pair, _) in enumerate(cells)}) == len(cells)

    def _is_canonical(self, cells: Sequence[Cell]) -> bool:
        """Return whether these are an architecture, in canonical form."""
        return self._distinct(cells) and self._form(cells).cells == list(cells)

    def _count(self, genotype: Genotype) -> int:
        """Return how many cells a genotype of this space or of its `first` ones has."""
        return min(-(-len(genotype.nodes) // self._nodes_per_cell), self.levels)

    def _genotype(self, cells: Sequence[Cell]) -> Genotype:
        nodes = []
        for cell, (pair, steps) in enumerate(cells):
            of = list(self._pair(cell, pair))
            for step, (operator, (first, second)) in enumerate(steps):
                name = f"cell_{cell}" if len(steps) == 1 else f"cell_{cell}_step_{step}"
                nodes.append(Node(name, operator, (of[first], of[second])))
                of.append(name)
            if len(steps) > 1:
                nodes.append(Node(f"cell_{cell}", "Concat", tuple(of[2:])))
        return Genotype(self.name, tuple(nodes))

    def _cells(self, genotype: Genotype, count: int | None = None) -> list[Cell]:
        """Return the choices behind `genotype`, checked; of `count` cells, by default all."""
        count = self.levels if count is None else count
        wrong = f"{genotype!s:.300} is not a genotype of this space"
        if genotype.space != self.name:
            raise InputError(f"{wrong}: expected {self.name}, got {genotype.space}.")
        unknown = set(genotype.features) - set(self.features)
        if unknown:
            raise InputError(
                f"{wrong}: it uses {str(sorted(unknown))[:200]}; "
                f"the features are {', '.join(self.features)}."
            )
        if len(genotype.nodes) != count * self._nodes_per_cell:
            raise InputError(
                f"{wrong}: expected {count} cells of {self.config.steps} steps, "
                f"got {len(genotype.nodes)} nodes."
            )
        cells: list[Cell] = []
        for cell in range(count):
            begin = cell * self._nodes_per_cell
            nodes = genotype.nodes[begin : begin + self.config.steps]
            cells.append(self._cell(nodes, self.predecessors(cell), f"{wrong}, at cell_{cell}"))
        form = self._genotype(self._form(cells).cells)
        if form != genotype:
            raise InputError(f"{genotype!s:.300} is not in canonical form; write {form!s:.300}.")
        if not self._distinct(cells):
            raise InputError(f"{wrong}: two cells share the same pair of inputs.")
        return cells

    def _cell(self, nodes: Sequence[Node], names: Sequence[str], wrong: str) -> Cell:
        """Return the choices behind the steps of one cell."""
        inputs = nodes[0].inputs
        of = sorted({name for name in inputs if name in names}, key=names.index)
        pair = [names.index(name) for name in of]
        steps: list[Step] = []
        for node in nodes:
            chosen = [of.index(name) for name in node.inputs if name in of]
            known = node.operator in self.primitives[1:]
            if not known or len(node.inputs) != 2 or len(set(chosen)) != 2:
                raise InputError(
                    f"{wrong}: expected {', '.join(self.primitives[1:])} of two different inputs "
                    f"among {', '.join(of if len(of) > 1 else names)[:300]}; got {node!s:.200}."
                )
            steps.append((node.operator, (chosen[0], chosen[1])))
            of.append(node.name)
        return (pair[0], pair[1]), tuple(steps)


def _inherited(name: str, form: Form, state: Mapping[str, Tensor]) -> Tensor:
    """Return the weight `name` of a derived network from the state of its supernet.

    The derived network is in canonical `form`; the supernet has its cells and steps in
    their own order, and holds operators by name.
    """
    match name.split("."):
        case ["cells", cell, "steps", step, _, *rest]:
            new, place = int(cell), int(step)
            operator, _ = form.cells[new][1][place]
            old = ("cells", form.order[new], "steps", form.steps[new][place], operator, *rest)
            weight = state[".".join(map(str, old))]
            if rest == ["linear", "weight"] and (new, place) in form.turned:
                return weight.roll(weight.shape[1] // 2, 1)  # W [x; y] now meets [y; x]
            return weight
        case ["cells", cell, *rest]:
            weight = state[".".join(("cells", str(form.order[int(cell)]), *rest))]
            if rest[-2:] == ["project", "weight"]:  # its columns are in blocks, one per step
                order = form.steps[int(cell)]
                blocks = weight.chunk(len(order), 1)
                return torch.cat([blocks[old] for old in order], 1)
            return weight
        case ["embedding", *_]:
            return state[name][form.order]
    return state[name]
