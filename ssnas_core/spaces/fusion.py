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
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ssnas_core.errors import InputError
from ssnas_core.genotype import Genotype, Node
from ssnas_core.ops import PRIMITIVES, Factory, is_ordered
from ssnas_core.spaces._fusion_forms import Form, canonical, check_name, step_options
from ssnas_core.spaces._fusion_nets import (
    Cell,
    FusionConfig,
    FusionNetwork,
    FusionSupernet,
    Stem,
    Step,
    ordered_pairs,
    pair_labels,
    pair_scores,
)
from ssnas_core.spaces._released import (
    ReleasedSupernet,
    check_released,
    derive_released,
    released_labels,
)

__all__ = ["FusionConfig", "FusionNetwork", "FusionSpace", "FusionSupernet", "Stem"]


class FusionSpace:
    """The architectures over a set of named features.

    Args:
        channels: channels of each feature by name, in order of modality and
            depth, e.g. `{"image_0": 32, ..., "text_0": 300}`.
        config: number of cells and steps, and sizes.
        operators: further primitives by name: what takes the number of channels
            C and returns a module with forward(x, y), (N, L, C) each, -> (N, L, C).
            Which input comes first is taken to matter.

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
        self.channels = dict(channels)
        self.operators = dict(operators or {})
        for name in self.operators:
            check_name(name)
        self.primitives = (*PRIMITIVES, *self.operators)
        self.config = config or FusionConfig()
        self.features = tuple(self.channels)
        if len(self.features) < 2:
            raise InputError(
                f"a fusion space needs at least two features, got {list(self.features)}."
            )
        if self.config.relaxation == "released":
            check_released(self.config, self.operators, self.features)
        self.pairs = tuple(
            tuple(itertools.combinations(range(len(self.predecessors(cell))), 2))
            for cell in range(self.config.cells)
        )

    @property
    def width(self) -> int:
        """Numbers in the embedding that a network of this space returns, cells x L x C."""
        return self.config.cells * self.config.length * self.config.channels

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

    def supernet(self) -> FusionSupernet | ReleasedSupernet:
        """All choices at once, with fresh weights and small random logits (torch's global seed)."""
        if self.config.relaxation == "released":
            return ReleasedSupernet(self.channels, self.config)
        return FusionSupernet(self.channels, self.pairs, self.config, self.operators)

    def build(self, genotype: Genotype) -> FusionNetwork:
        """The derived network of `genotype` with fresh weights (torch's global seed)."""
        return FusionNetwork(self.channels, self._cells(genotype), self.config, self.operators)

    def validate(self, genotype: Genotype) -> None:
        """Check that `genotype` is in this space, in canonical form.

        Raises:
            InputError: another space, unknown operators or features, wrong
                numbers of cells or steps, or a form that is not canonical.
        """
        self._cells(genotype)

    def derive(self, logits: Mapping[str, Tensor]) -> Genotype:
        """The most probable genotype under `logits` (as `FusionSupernet.logits()` names them)."""
        return self._genotype(self._form(self._argmax(logits)).cells)

    def inherit(self, genotype: Genotype, state: Mapping[str, Tensor]) -> FusionNetwork:
        """The derived network with the weights of the supernet that it was derived from.

        Args:
            genotype: what `derive` returned for the supernet.
            state: that supernet's state dict.

        Raises:
            InputError: `genotype` is not what the state's own logits derive.
        """
        prefix = "logits."
        logits = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        cells = self._argmax(logits)
        form = self._form(cells)
        derived = self._genotype(form.cells)
        if derived != genotype:
            raise InputError(
                f"the supernet derives {derived}, not {genotype}; "
                "inherit weights from the search that found the genotype."
            )
        network = self.build(genotype)
        weights = {}
        for name in network.state_dict():
            source = name.split(".")
            if source[0] != "cells":
                weights[name] = state[name]
                continue
            cell = int(source[1])
            source[1] = str(form.order[cell])
            if source[2] != "steps":
                weight = state[".".join(source)]
                if name.endswith("project.weight"):  # its columns are in blocks, one per step
                    blocks = weight.chunk(self.config.steps, 1)
                    weight = torch.cat([blocks[old] for old in form.steps[cell]], 1)
                weights[name] = weight
                continue
            step = int(source[3])
            source[3] = str(form.steps[cell][step])
            source[4] = form.cells[cell][1][step][0]  # the supernet holds operators by name
            weight = state[".".join(source)]
            if source[-1] == "weight" and (cell, step) in form.turned:
                weight = weight.roll(weight.shape[1] // 2, 1)  # W [x; y] now meets [y; x]
            weights[name] = weight
        network.load_state_dict(weights)
        return network

    def one_hot(self, genotype: Genotype, scale: float = 200.0) -> dict[str, Tensor]:
        """Logits under which the relaxation is `genotype`: `scale` on each choice, 0 elsewhere.
        Raises:
            InputError: the released relaxation, which has none.
        """
        if self.config.relaxation == "released":
            raise InputError("the released relaxation is no one genotype's network at any logits.")
        logits = {}
        for cell, (pair, steps) in enumerate(self._cells(genotype)):
            alpha = torch.zeros(len(self.predecessors(cell)))
            alpha[list(pair)] = scale
            logits[f"alpha_{cell}"] = alpha
            for step, (operator, (first, second)) in enumerate(steps):
                beta = torch.zeros(2, 2 + step)
                beta[0, first] = beta[1, second] = scale
                gamma = torch.zeros(len(self.primitives))
                gamma[self.primitives.index(operator)] = scale
                logits |= {f"beta_{cell}_{step}": beta, f"gamma_{cell}_{step}": gamma}
        return logits

    def labels(self) -> dict[str, tuple[str, ...]]:
        """What each entry of each logit vector stands for, for tables and plots."""
        if self.config.relaxation == "released":
            return released_labels(self.config, self.features)
        return pair_labels(self.config, self.features, self.primitives)

    def _argmax(self, logits: Mapping[str, Tensor]) -> list[Cell]:
        """The mode: per cell the best pair, no pair twice (best total), and per step the best."""
        if self.config.relaxation == "released":
            return derive_released(logits, self.config, len(self.features))
        from scipy.optimize import linear_sum_assignment

        # Pairs by name, so that "the same pair" means the same in every cell.
        columns: dict[tuple[str, str], int] = {}
        scores = torch.full((self.config.cells, len(self.pairs[-1])), -torch.inf)
        for cell, pairs in enumerate(self.pairs):
            names = self.predecessors(cell)
            alpha = logits[f"alpha_{cell}"].detach().cpu()
            log_p = pair_scores(alpha, pairs).log_softmax(0).tolist()
            for (first, second), value in zip(pairs, log_p, strict=True):
                column = columns.setdefault((names[first], names[second]), len(columns))
                scores[cell, column] = value
        floor = -1e9  # a pair that a cell does not have; never chosen while another is free
        _, chosen = linear_sum_assignment(scores.clamp(min=floor).double().numpy(), maximize=True)
        pair_names = list(columns)
        cells: list[Cell] = []
        for cell, column in enumerate(chosen):
            names = self.predecessors(cell)
            first, second = pair_names[column]
            steps = [
                self._best_step(logits[f"beta_{cell}_{step}"], logits[f"gamma_{cell}_{step}"])
                for step in range(self.config.steps)
            ]
            cells.append(((names.index(first), names.index(second)), tuple(steps)))
        return cells

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

    def _best_step(self, beta: Tensor, gamma: Tensor) -> Step:
        """The most probable primitive, then its most probable inputs."""
        operator = self.primitives[1 + int(gamma.detach()[1:].argmax())]  # Zero is never derived
        table = ordered_pairs(beta.detach())
        if not is_ordered(operator):
            table = (table + table.T).triu(1)
        first, second = divmod(int(table.argmax()), table.shape[1])
        return operator, (first, second)

    def _form(self, cells: Sequence[Cell]) -> Form:
        return canonical(cells, self.primitives)
