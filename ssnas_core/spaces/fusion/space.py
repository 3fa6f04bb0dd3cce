"""The fusion space: which features meet, and by which operation (BM-NAS, arXiv:2104.09379, sec. 3).

Upper level: each cell takes two of its predecessors, which are the stored
features and the earlier cells (logits alpha, one per edge). Lower level: each
step inside a cell takes two of the cell's states, which are its two inputs and
its earlier steps (logits beta, one per edge and slot), and one of five
primitives (logits gamma), to which a space may add others by name. What reaches the
classifier is all cells' outputs, as there; or a choice of its own (`FusionConfig.output`),
of any cells and any features, each kept or left (logits output).

BM-NAS's space, in which all cells reach the classifier, cannot pass on a feature as it is:
it holds neither a network of one modality nor late concatenation. With the choice these
are members, and fewer cells than there may be.

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
- Attention that reads from a state of one position returns that state, whatever its query
  is. BM-NAS's space holds such steps. Where what reaches the classifier is a choice, and the
  features' positions are known, none is derived, and in the relaxation it gives nothing, as
  Zero does.
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
    optional,
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
from ssnas_core.spaces.genotype import OUTPUT, Genotype, Node
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

    `output` says what reaches the classifier: all "cells"; every feature, and "beside" them
    any cells; or any cells and any features, as "chosen", at least one. `budget` leaves out
    architectures of more weights, which the classifier's do not count among; of a relaxation it
    keeps what the logits are surest of, and still fits.

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
    budget: int | None = None  # weights of a network, at most; None: any

    @property
    def lacks(self) -> tuple[str, ...]:
        """Names of methods of other spaces that this one's has not."""
        return () if self.output == "cells" else ("extensions",)

    def __post_init__(self) -> None:
        check_fields(self, channels=1, length=1, cells=1, steps=1, taps=1, budget=1)
        if self.steps > MAX_STEPS:  # all orders of a cell's steps are gone through
            raise InputError(f"FusionConfig.steps must be <= {MAX_STEPS}, got {self.steps}.")
        self._check_released()
        if self.budget is not None and self.output != "chosen":
            raise InputError(
                f"FusionConfig.budget needs output='chosen', got {self.output!r}; set it."
            )
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
        if "output_norm" in self.released and self.output != "cells":
            raise InputError(
                "FusionConfig.released: output_norm is over all cells, got "
                f"FusionConfig.output {self.output!r}; use output 'cells', or leave it out."
            )

    def open(
        self, channels: Mapping[str, int], positions: Mapping[str, int] | None = None
    ) -> FusionSpace:
        """Return the space over features of so many `channels` and `positions`, by name."""
        return FusionSpace(channels, self, positions=positions)

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
        if name in OPERATORS.table and operator is not OPERATORS.find(name):
            taken = (*taken, name)
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
        positions: of each feature by name, 1 or L. None: not known; then attention may
            read from one, and a feature that reaches the classifier does so at L.

    Raises:
        InputError: fewer than two features, or an operator whose name is taken or
            is no identifier; what the released relaxation does not know; or a budget
            that no architecture keeps.
    """

    name = "fusion"

    def __init__(
        self,
        channels: Mapping[str, int],
        config: FusionConfig | None = None,
        operators: Mapping[str, Factory] | None = None,
        positions: Mapping[str, int] | None = None,
    ) -> None:
        self.config = config or FusionConfig()
        self.channels = deepest(channels, self.config.taps)
        self.features = tuple(self.channels)
        length = self.config.length
        self.positions = {name: (positions or {}).get(name, length) for name in self.features}
        known = positions if positions and self.config.output != "cells" else {}
        self._vectors = {name for name, count in known.items() if count == 1}
        self.operators = _further_operators(self.config.operators, operators)
        self.primitives = (*PRIMITIVES, *self.operators)
        if len(self.features) < 2:
            raise InputError(
                f"a fusion space needs at least two features, got {list(self.features)}; take "
                "backbones that give more, or for the pixels of an image the space cells."
            )
        steps = self.config.steps
        self._nodes_per_cell = steps + (steps > 1)  # several are concatenated by a node
        if self.config.relaxation == "released":
            check_released(self.config, self.operators, self.features)
        alone = (self._form([], [member]) for member in range(len(self.features)))
        if not any(map(self._fits, alone)):
            raise InputError(
                "FusionConfig.budget: expected the weights of one feature's stem or more, got "
                f"{self.config.budget}; raise it, or lower FusionConfig.channels."
            )

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
        """Return a random genotype of the space.

        Its cells are drawn uniformly from all ways to have all of them, each way once; where
        what reaches the classifier is a choice, each part is then kept or left by a coin, and
        cells that reach it no more are none.
        """

        def draw(options: Sequence) -> int:
            return int(torch.randint(len(options), (), generator=generator))

        while True:
            cells: list[Cell] = []
            for pairs in self.pairs:
                pair = pairs[draw(pairs)]
                cells.append((pair, tuple(options[draw(options)] for options in self._steps)))
            if not self._is_canonical(cells):
                continue
            form = self._form(cells, self._drawn_outputs(generator))
            if form.outputs and self._fits(form):
                return self._genotype(form)

    def _drawn_outputs(self, generator: torch.Generator) -> list[int]:
        parts = self._parts(self.config.cells)
        kept = torch.ones(len(parts), dtype=torch.int64)
        if self._optional:
            kept[: self._optional] = torch.randint(2, (self._optional,), generator=generator)
        return kept.nonzero()[:, 0].tolist()

    @property
    def _optional(self) -> int:
        return optional(self.config, len(self.features))

    def _parts(self, count: int) -> range:
        """Return the numbers of all that may reach the classifier, of so many cells."""
        return range(count + (0 if self.config.output == "cells" else len(self.features)))

    def genotypes(self) -> Iterator[Genotype]:
        """Yield every genotype of the space, those of fewer cells first."""
        counts = [self.levels] if self.config.output == "cells" else range(self.levels + 1)
        for count in counts:
            for cells in self._of_cells(count):
                for outputs in self._outputs(count):
                    form = self._form(cells, outputs)
                    if len(form.cells) == count and self._fits(form):
                        yield self._genotype(form)

    def _of_cells(self, count: int) -> Iterator[list[Cell]]:
        """Yield every way to have so many cells, in canonical form."""
        steps = list(itertools.product(*self._steps))
        options = (itertools.product(pairs, steps) for pairs in self.pairs[:count])
        for cells in itertools.product(*options):
            if self._is_canonical(list(cells)):
                yield list(cells)

    def _outputs(self, count: int) -> Iterator[tuple[int, ...]]:
        """Yield all that may reach the classifier of so many cells."""
        free = max(self._optional - self.levels + count, 0)
        always = tuple(self._parts(count)[free:])
        for size in range(free + 1):
            for kept in itertools.combinations(range(free), size):
                if kept or always:
                    yield (*kept, *always)

    def validate(self, genotype: Genotype) -> None:
        """Raise unless `genotype` is in this space.

        Raises:
            InputError: another space, unknown operators or features, wrong
                numbers of cells or steps, a form that is not canonical, attention to
                one position, or more weights than the budget.
        """
        self._choices(genotype)

    def build(self, genotype: Genotype) -> FusionNetwork:
        """Return the network of `genotype` with fresh weights (torch's global seed)."""
        return self._network(self._choices(genotype))

    def _network(self, form: Form) -> FusionNetwork:
        return FusionNetwork(
            self.channels, form.cells, form.outputs, self.config, self.operators, self.positions
        )

    def _fits(self, form: Form) -> bool:
        """Whether the network of these choices is within the budget."""
        if self.config.budget is None:
            return True
        with torch.device("meta"):  # takes no memory, and draws nothing
            network = self._network(form)
        return sum(weight.numel() for weight in network.parameters()) <= self.config.budget

    # As variables (`ChoiceSpace`).

    @property
    def variables(self) -> dict[str, tuple[str, ...]]:
        """The values of each choice: `pair_<cell>`, and `step_<cell>_<step>` of the cell's states.

        Where what reaches the classifier is a choice, `output_<part>` says of each part
        whether it is kept.

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
        parts = self.predecessors(self.levels)[: self._optional]
        return names | {f"output_{part}": ("left", "kept") for part in parts}

    def decode(self, choice: Mapping[str, int]) -> Genotype | None:
        """Return the architecture of a value (its number, from 0) for each of the `variables`.

        Several choices may be one architecture. None where two cells would take the same pair,
        attention would read from one position, nothing reaches the classifier, or the budget
        is not kept.
        """
        cells: list[Cell] = []
        for cell, pairs in enumerate(self.pairs):
            steps = enumerate(self._steps)
            chosen = tuple(options[choice[f"step_{cell}_{step}"]] for step, options in steps)
            cells.append((pairs[choice[f"pair_{cell}"]], chosen))
        names = self.predecessors(self.levels)
        outputs = [m for m in self._parts(self.levels) if choice.get(f"output_{names[m]}", 1)]
        form = self._form(cells, outputs)
        is_one = form.outputs and self._is_sound(form.cells) and self._fits(form)
        return self._genotype(form) if is_one else None

    def encode(self, genotype: Genotype) -> dict[str, int]:
        """Return the choice that is written as `genotype`; it decodes to it.

        Variables of cells that it does not have, and which are left, are 0.

        Raises:
            InputError: as `validate`.
        """
        form = self._choices(genotype)
        choice = dict.fromkeys(self.variables, 0)
        for cell, (pair, steps) in enumerate(form.cells):
            choice[f"pair_{cell}"] = self.pairs[cell].index(pair)
            for step, (options, chosen) in enumerate(zip(self._steps, steps, strict=True)):
                choice[f"step_{cell}_{step}"] = options.index(chosen)
        names = self.predecessors(len(form.cells))
        kept = (f"output_{names[member]}" for member in form.outputs)
        return choice | {name: 1 for name in kept if name in choice}

    # Cell by cell (`GrowingSpace`).

    @property
    def levels(self) -> int:
        """How many cells an architecture grows by, one after the other."""
        return self.config.cells

    def first(self, count: int) -> FusionSpace:
        """Return the space of the architectures of `count` cells; each begins larger ones."""
        config = replace(self.config, cells=count, operators=())
        return FusionSpace(self.channels, config, self.operators, self.positions)

    def extensions(self, prefix: Genotype | None) -> list[Genotype]:
        """Return every architecture of one cell more that begins with `prefix`, each once.

        Each beginning of a canonical form is one, so extensions of extensions of None
        are all the architectures of the space. A whole architecture has none.

        Args:
            prefix: of `first(count)`; None for the architectures of one cell.

        Raises:
            InputError: it is of no such space, or what reaches the classifier is a choice,
                which is no cell.
        """
        if self.config.output != "cells":
            raise InputError(
                "an architecture grows by cells only where all of them reach the classifier; use "
                "FusionConfig(output='cells')."
            )
        begun = [] if prefix is None else self._choices(prefix, self._count(prefix)).cells
        pairs = self.pairs[len(begun)] if len(begun) < self.levels else ()
        grown = (
            [*begun, last] for last in itertools.product(pairs, itertools.product(*self._steps))
        )
        return [
            self._genotype(self._form(cells, range(len(cells))))
            for cells in grown
            if self._is_canonical(cells)
        ]

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
        form = self._choices(genotype, self._count(genotype))
        for cell, (pair, steps) in enumerate(form.cells):
            chosen = (options.index(step) for options, step in zip(self._steps, steps, strict=True))
            result.append((self._numbers[self._pair(cell, pair)], *chosen))
        return result

    # Relaxed (`GradientSpace`).

    def supernet(self) -> FusionSupernet | ReleasedSupernet:
        """Return all choices at once: fresh weights and small random logits (torch's seed)."""
        if self.config.relaxation == "released":
            return ReleasedSupernet(self.channels, self.config)
        return FusionSupernet(
            self.channels, self.pairs, self.config, self.operators, self.positions
        )

    def derive(self, logits: Mapping[str, Tensor]) -> Genotype:
        """Return the most probable genotype under `logits`, named as in `labels`."""
        return self._genotype(self._derived(logits))

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
        form = self._derived(logits)
        derived = self._genotype(form)
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
        form = self._choices(genotype)
        logits = {}
        if self._optional:
            parts = self.predecessors(self.levels)[: self._optional]
            reached = {self.predecessors(len(form.cells))[member] for member in form.outputs}
            logits["output"] = torch.tensor(
                [[scale, 0.0] if part in reached else [0.0, scale] for part in parts]
            )  # kept, left
        for cell in range(self.config.cells):
            alpha = torch.zeros(len(self.predecessors(cell)))  # (E,)
            # a cell beyond those of the genotype is left, and may be any
            pair, steps = form.cells[cell] if cell < len(form.cells) else ((), ())
            alpha[list(pair)] = scale
            logits[f"alpha_{cell}"] = alpha
            for step in range(self.config.steps):
                beta = torch.zeros(2, 2 + step)  # (slots, states)
                gamma = torch.zeros(len(self.primitives))  # (O,)
                if steps:
                    operator, (first, second) = steps[step]
                    beta[0, first] = beta[1, second] = scale
                    gamma[self.primitives.index(operator)] = scale
                logits |= {f"beta_{cell}_{step}": beta, f"gamma_{cell}_{step}": gamma}
        return logits

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Return the meaning of each entry of each logit vector, for tables and plots."""
        if self.config.relaxation == "released":
            return released_labels(self.config, self.features)
        return pair_labels(self.config, self.features, self.primitives)

    def _derived(self, logits: Mapping[str, Tensor]) -> Form:
        """Return the mode: the most probable cells, and what most probably reaches the classifier.

        Of a budget, the parts that are surest to be kept use it up first.
        """
        cells = self._argmax(logits)
        outputs = list(self._parts(self.levels)[self._optional :])
        if not self._optional:
            return self._form(cells, outputs)
        kept, left = logits["output"].detach().cpu().unbind(1)
        odds = kept - left
        for member in odds.argsort(descending=True, stable=True).tolist():
            wanted = odds[member] > 0 or not outputs
            if wanted and self._fits(self._form(cells, [*outputs, member])):
                outputs.append(member)
        return self._form(cells, outputs)

    def _argmax(self, logits: Mapping[str, Tensor]) -> list[Cell]:
        """Return the best pairs in total, none of them twice, and the best steps."""
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
            cells.append(((first, second), ()))
            for step in range(self.config.steps):
                beta, gamma = logits[f"beta_{cell}_{step}"], logits[f"gamma_{cell}_{step}"]
                chosen_step = self._best_step(beta, gamma, self._columns(cells)[-1])
                cells[-1] = (cells[-1][0], (*cells[-1][1], chosen_step))
        return cells

    def _best_step(self, beta: Tensor, gamma: Tensor, columns: Sequence[bool]) -> Step:
        """Return the most probable primitive that says what it does, with its likeliest inputs.

        Args:
            beta: (2, states).
            gamma: (O,).
            columns: which states are the same at all positions.
        """
        ordered = ordered_pairs(beta.detach())
        for place in gamma.detach()[1:].argsort(descending=True, stable=True).tolist():
            operator = self.primitives[1 + place]  # Zero is never derived
            table = ordered if is_ordered(operator) else (ordered + ordered.T).triu(1)
            for cell in table.flatten().argsort(descending=True, stable=True).tolist():
                first, second = divmod(cell, table.shape[1])
                step = operator, (first, second)
                if table[first, second] > 0 and not _is_idle(step, columns):
                    return step
        raise AssertionError("Sum is never idle")

    # Between cells of numbers and genotypes of names.

    def _pair(self, cell: int, pair: tuple[int, int]) -> tuple[str, str]:
        """Return a cell's pair by the names of its members."""
        names = self.predecessors(cell)
        return names[pair[0]], names[pair[1]]

    def _form(self, cells: Sequence[Cell], outputs: Sequence[int]) -> Form:
        return canonical(cells, outputs, self.primitives)

    def _columns(self, cells: Sequence[Cell]) -> list[list[bool]]:
        """Return which states of each cell are known to be the same at all positions."""
        features = [name in self._vectors for name in self.features]
        of_cells: list[bool] = []
        result = []
        for pair, steps in cells:
            columns = [[*of_cells, *features][member] for member in pair]
            for operator, inputs in steps:
                read = inputs[:1] if operator == "Attention" else inputs
                columns.append(all(columns[state] for state in read))
            of_cells.append(all(columns))
            result.append(columns)
        return result

    def _is_sound(self, cells: Sequence[Cell]) -> bool:
        """Whether no two cells share their pair of inputs, and each step does what it says."""
        pairs = {self._pair(cell, pair) for cell, (pair, _) in enumerate(cells)}
        return len(pairs) == len(cells) and not self._idle_steps(cells)

    def _idle_steps(self, cells: Sequence[Cell]) -> list[Step]:
        columns = zip(cells, self._columns(cells), strict=True)
        return [step for (_, steps), of in columns for step in steps if _is_idle(step, of)]

    def _is_canonical(self, cells: list[Cell]) -> bool:
        """Whether these are cells of an architecture, all of which reach the classifier."""
        return self._is_sound(cells) and self._form(cells, range(len(cells))).cells == cells

    def _count(self, genotype: Genotype) -> int:
        """Return how many cells a genotype of this space or of its `first` ones has."""
        return min(-(-len(genotype.nodes) // self._nodes_per_cell), self.levels)

    def _genotype(self, form: Form) -> Genotype:
        nodes = []
        for cell, (pair, steps) in enumerate(form.cells):
            of = list(self._pair(cell, pair))
            for step, (operator, (first, second)) in enumerate(steps):
                name = f"cell_{cell}" if len(steps) == 1 else f"cell_{cell}_step_{step}"
                nodes.append(Node(name, operator, (of[first], of[second])))
                of.append(name)
            if len(steps) > 1:
                nodes.append(Node(f"cell_{cell}", "Concat", tuple(of[2:])))
        if self.config.output != "cells":
            names = self.predecessors(len(form.cells))
            nodes.append(Node(OUTPUT, "Concat", tuple(names[m] for m in form.outputs)))
        return Genotype(self.name, tuple(nodes))

    def _choices(self, genotype: Genotype, count: int | None = None) -> Form:
        """Return the choices behind `genotype`, checked; of `count` cells, by default all."""
        wrong = f"{genotype!s:.300} is not a genotype of this space"
        if genotype.space != self.name:
            raise InputError(f"{wrong}: expected {self.name}, got {genotype.space}.")
        unknown = set(genotype.features) - set(self.features)
        if unknown:
            raise InputError(
                f"{wrong}: it uses {str(sorted(unknown))[:200]}; "
                f"the features are {', '.join(self.features)}."
            )
        nodes, most = list(genotype.nodes), self.levels if count is None else count
        if self.config.output != "cells":
            output = nodes.pop()
            most = len(nodes) // self._nodes_per_cell
            names = self.predecessors(most)
            if (output.name, output.operator) != (OUTPUT, "Concat") or most > self.levels:
                raise InputError(
                    f"{wrong}: expected at most {self.levels} cells and then output = Concat(...) "
                    f"of what reaches the classifier, got {most} cells and {output.name} = "
                    f"{output!s:.200}; use FusionConfig(output='cells') for one without."
                )
        if len(nodes) != most * self._nodes_per_cell:
            raise InputError(
                f"{wrong}: expected {most} cells of {self.config.steps} steps, "
                f"got {len(nodes)} nodes."
            )
        cells: list[Cell] = []
        for cell in range(most):
            begin = cell * self._nodes_per_cell
            steps = nodes[begin : begin + self.config.steps]
            cells.append(self._cell(steps, self.predecessors(cell), f"{wrong}, at cell_{cell}"))
        outputs = list(range(most))
        if self.config.output != "cells":
            outputs = [names.index(name) for name in output.inputs if name in names]
            left = [n for n in self.features if n not in output.inputs]
            if left and self.config.output == "beside":
                raise InputError(
                    f"{wrong}: every feature reaches the classifier, got {output!s:.200} without "
                    f"{', '.join(left)[:200]}; use FusionConfig(output='chosen')."
                )
        form = self._form(cells, outputs)
        if (same := self._genotype(form)) != genotype:
            raise InputError(f"{genotype!s:.300} is not in canonical form; write {same!s:.300}.")
        if idle := self._idle_steps(cells):
            raise InputError(
                f"{wrong}: {idle[0][0]} reads from a state of one position, which it returns as "
                "it is; attend to a feature map."
            )
        if not self._is_sound(cells):
            raise InputError(f"{wrong}: two cells share the same pair of inputs.")
        if not self._fits(form):
            raise InputError(f"{wrong}: it has more than {self.config.budget} weights.")
        return form

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


def _is_idle(step: Step, columns: Sequence[bool]) -> bool:
    """Whether a step gives one of its inputs as it is: attention that reads from one position."""
    operator, (_, value) = step
    return operator == "Attention" and columns[value]


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
