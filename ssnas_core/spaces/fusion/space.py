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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import deepest
from ssnas_core.common.typed import brief
from ssnas_core.spaces import OPERATORS
from ssnas_core.spaces.fusion.choices import FusionChoices, check_name
from ssnas_core.spaces.fusion.networks import (
    Cell,
    FusionNetwork,
    FusionSupernet,
    Step,
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
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.spaces.operators import Factory, is_ordered


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Size of the fusion space. Defaults: BM-NAS on MM-IMDB (Table 8).

    An operator of one's own is an `nn.Module` that is made with the number of channels C and
    has forward(x, y), (N, L, C) each, -> (N, L, C). `operators` names its class, in a module
    that is imported already (a name in a file imports nothing), or its entry point. In a
    genotype it stands as the short name of the class.
    """

    lacks: ClassVar[tuple[str, ...]] = ()  # methods that its space has not

    channels: int = 192  # C
    length: int = 16  # L, positions after pooling
    cells: int = 2
    steps: int = 1  # operations inside one cell
    dropout: float = 0.1
    modality_dropout: float = 0.0  # probability that a sample loses one modality in training
    relaxation: Literal["pairs", "released"] = "pairs"  # or as BM-NAS's released code has it
    taps: int | None = None  # deepest features of each modality that may be read; None: all
    operators: tuple[str, ...] = ()  # further primitives, as "package.module:Name"

    def __post_init__(self) -> None:
        for name in ("channels", "length", "cells", "steps", "taps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"FusionConfig.{name} must be >= 1, got {value}.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"FusionConfig.dropout must be in [0, 1), got {self.dropout}.")
        if self.relaxation not in ("pairs", "released"):
            raise InputError(
                f"FusionConfig.relaxation must be 'pairs' or 'released', got {self.relaxation!r}."
            )
        if not 0 <= self.modality_dropout <= 1:
            raise InputError(
                f"FusionConfig.modality_dropout must be in [0, 1], got {self.modality_dropout}."
            )
        named_operators(self.operators)

    def open(self, channels: Mapping[str, int]) -> FusionSpace:
        """Return the space over features of so many `channels`, by name."""
        return FusionSpace(channels, self)

    def trained_with(self, dropout: float) -> Self:
        """Return the configuration of the same architectures, trained with another dropout."""
        return replace(self, dropout=dropout)


def named_operators(names: Sequence[str]) -> dict[str, type[nn.Module]]:
    """Return the operator classes of these names (`FusionConfig.operators`) by their short names.

    Raises:
        InputError: no such class, one that was not imported, or a short name that is in use.
    """
    operators: dict[str, type[nn.Module]] = {}
    for name in names:
        made = OPERATORS.find(name, from_file=True)  # who reads a file may not import by it
        if not isinstance(made, type) or not issubclass(made, nn.Module):
            raise InputError(
                f"operator {brief(name)!r} must be a class of nn.Module, got {brief(made)}; name "
                "the class, which is made with the number of channels."
            )
        if made.__name__ in operators:
            raise InputError(
                f"two operators are called {made.__name__}, so that no genotype could tell them "
                "apart; rename one."
            )
        check_name(made.__name__)
        operators[made.__name__] = made
    return operators


class FusionSpace(FusionChoices):
    """The architectures over a set of named features.

    Args:
        channels: channels of each feature by name, in order of modality and
            depth, e.g. `{"image_0": 32, ..., "text_0": 300}`.
        config: number of cells and steps, sizes, and how many `taps` of each modality may
            be read, the deepest.
        operators: further primitives by name: what takes the number of channels
            C and returns a module with forward(x, y), (N, L, C) each, -> (N, L, C).
            Which input comes first is taken to matter.

    Raises:
        InputError: fewer than two features, or an operator whose name is taken or
            is no identifier; or what the released relaxation does not know.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        config: FusionConfig | None = None,
        operators: Mapping[str, Factory] | None = None,
    ) -> None:
        config = config or FusionConfig()
        operators, named = operators or {}, named_operators(config.operators)
        twice = operators.keys() & named.keys()
        if twice:
            raise InputError(f"operators {sorted(twice)} are given twice; rename one of each.")
        super().__init__(deepest(channels, config.taps), config, {**named, **operators})
        if self.config.relaxation == "released":
            check_released(self.config, self.operators, self.features)

    @property
    def width(self) -> int:
        """Numbers in the embedding that a network of this space returns, cells x L x C."""
        return self.config.cells * self.config.length * self.config.channels

    def supernet(self) -> FusionSupernet | ReleasedSupernet:
        """All choices at once, with fresh weights and small random logits (torch's global seed)."""
        if self.config.relaxation == "released":
            return ReleasedSupernet(self.channels, self.config)
        return FusionSupernet(self.channels, self.pairs, self.config, self.operators)

    def build(self, genotype: Genotype) -> FusionNetwork:
        """The derived network of `genotype` with fresh weights (torch's global seed)."""
        return FusionNetwork(self.channels, self._cells(genotype), self.config, self.operators)

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

    def _best_step(self, beta: Tensor, gamma: Tensor) -> Step:
        """The most probable primitive, then its most probable inputs."""
        operator = self.primitives[1 + int(gamma.detach()[1:].argmax())]  # Zero is never derived
        table = ordered_pairs(beta.detach())
        if not is_ordered(operator):
            table = (table + table.T).triu(1)
        first, second = divmod(int(table.argmax()), table.shape[1])
        return operator, (first, second)
