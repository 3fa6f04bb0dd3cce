"""The two networks of the fusion space: all choices at once, and one choice each.

They share the stems and the operators' weights by name, so that a derived
network can take its weights from the supernet; only a genotype joins them
otherwise. `choices` has the choices, `space` derives them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import drop_modality
from ssnas_core.spaces import OPERATORS
from ssnas_core.spaces.fusion.choices import Cell, Pair, Step, predecessors, states
from ssnas_core.spaces.fusion.mixing import ReluDropout, mix
from ssnas_core.spaces.operators import PRIMITIVES, Factory, is_ordered

Relax = Callable[[Tensor], Tensor]  # a choice's scores (options,) -> the options' weights
softmax: Relax = partial(torch.softmax, dim=-1)


Output = Literal["cells", "beside", "chosen"]
Released = Literal["operator_norm", "operator_dropout", "residual", "cell_norm", "output_norm"]
RELEASED: tuple[Released, ...] = get_args(Released)
"""What BM-NAS's released networks hold and its formulas do not, see `FusionConfig`."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the networks; defaults: `FusionConfig`."""

    channels: int = 192  # C, channels of every state
    length: int = 4  # L, positions of the pooled features
    cells: int = 2  # each takes two of the features and earlier cells
    steps: int = 1  # operations inside one cell, at most 6
    dropout: float = 0.1  # of the stems, and of the operators where `released` says so
    modality_dropout: float = 0.0  # probability that a sample loses one modality in training
    output: Output = "cells"  # what reaches the classifier: all cells, or as chosen
    released: tuple[Released, ...] = ()  # of BM-NAS's released networks, beside the formulas


class Stem(nn.Module):
    """One feature brought to C channels: (N, P, C_in) -> (N, P, C), P in {1, L}.

    A 1x1 convolution, batch norm, ReLU, dropout (BM-NAS's reshape layer). A
    vector feature (P = 1) stays one column until it meets a map: every
    position would hold the same numbers.
    """

    def __init__(self, in_channels: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        self.dropout = ReluDropout(dropout)

    def forward(self, feature: Tensor) -> Tensor:
        hidden = self.linear(feature)
        return self.dropout(self.norm(hidden.flatten(0, 1))).view_as(hidden)


class FusionStems(nn.Module):
    """The stems of some features, by name: dict of (N, P, C_in) -> list of (N, L, C)."""

    def __init__(self, channels: Mapping[str, int], config: Sizes) -> None:
        super().__init__()
        self.length = config.length
        self.modality_dropout = config.modality_dropout
        for name, width in channels.items():
            self.add_module(name, Stem(width, config.channels, config.dropout))

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Return all states at L positions; vectors are repeated there."""
        return [state.expand(-1, self.length, -1) for state in self.columns(features)]

    def columns(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the states (N, P, C), P in {1, L}: vectors as the one column that they are."""
        if self.training:
            features = drop_modality(features, list(self._modules), self.modality_dropout)
        hidden = []
        for name, stem in self.named_children():
            feature = stem(features[name])
            if feature.shape[1] not in (1, self.length):
                raise InputError(
                    f"feature {name} has {feature.shape[1]} positions, the fusion network "
                    f"expects 1 or {self.length}; set FusionConfig.length to the store's length."
                )
            hidden.append(feature)
        return hidden


def pair_scores(logits: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """Return the log of the product of each pair's two edge weights: (E,) -> (pairs,)."""
    first, second = torch.tensor(pairs, device=logits.device).T
    return logits[first] + logits[second]


def ordered_pairs(beta: Tensor, relax: Relax = softmax) -> Tensor:
    """Return weights of all ordered pairs of distinct states: (2, S) -> (S, S), zero diagonal."""
    scores = beta[0][:, None] + beta[1][None, :]
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return relax(scores.masked_fill(diagonal, -torch.inf).flatten()).view_as(scores)


def optional(config: Sizes, features: int) -> int:
    """Return how many of the cells, and features behind them, may be kept or left."""
    return {"cells": 0, "beside": config.cells, "chosen": config.cells + features}[config.output]


def pair_labels(
    config: Sizes, features: Sequence[str], primitives: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the meaning of each entry of each of `FusionSupernet`'s logit vectors."""
    names: dict[str, tuple[str, ...]] = {}
    if config.output != "cells":
        parts = predecessors(config.cells, features)[: optional(config, len(features))]
        kinds = itertools.product(parts, ("kept", "left"))
        names["output"] = tuple(f"{part} {kind}" for part, kind in kinds)
    for cell in range(config.cells):
        names[f"alpha_{cell}"] = predecessors(cell, features)
        for step in range(config.steps):
            edges = itertools.product(("first", "second"), states(step))
            slots = tuple(f"{state} {slot}" for slot, state in edges)
            names |= {f"beta_{cell}_{step}": slots, f"gamma_{cell}_{step}": tuple(primitives)}
    return names


class FusionSupernet(nn.Module):
    """The relaxed fusion network: every pair, state and primitive, weighted by softmaxed logits.

    Logits are parameters named `logits.alpha_<cell>` (one per edge),
    `logits.beta_<cell>_<step>` (2 slots x states) and `logits.gamma_<cell>_<step>`
    (5 primitives, then the further ones), so a state dict holds the architecture too. Where
    what reaches the classifier is a choice, `logits.output` has a row for each cell, or cell
    and feature: that it is kept, and that it is left.
    `relax` turns the scores of a choice's options into weights: a strategy may set another.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        pairs: Sequence[Sequence[Pair]],
        config: Sizes,
        operators: Mapping[str, Factory],
        positions: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.config = config
        self.relax: Relax = softmax
        self.stems = FusionStems(channels, config)
        self.cells = nn.ModuleList(_RelaxedCell(config, operators) for _ in range(config.cells))
        self.embedding = Embedding(config)
        self._positions = list(positions.values()) if config.output != "cells" else []
        self.width = config.channels * (config.cells * config.length + sum(self._positions))
        sizes: dict[str, tuple[int, ...]] = {}
        if config.output != "cells":
            sizes["output"] = (optional(config, len(channels)), 2)
        for cell in range(config.cells):
            sizes[f"alpha_{cell}"] = (cell + len(channels),)
            # which member of each pair is which predecessor, as two (pairs, E) tables
            members = torch.tensor(pairs[cell])
            tables = F.one_hot(members.T, cell + len(channels)).float()
            self.register_buffer(f"_pairs_{cell}", tables, persistent=False)
            for step in range(config.steps):
                sizes[f"beta_{cell}_{step}"] = (2, 2 + step)
                sizes[f"gamma_{cell}_{step}"] = (len(PRIMITIVES) + len(operators),)
        noise = 1e-3  # BM-NAS: logits start as small noise
        self.logits = nn.ParameterDict(
            {name: nn.Parameter(noise * torch.randn(size)) for name, size in sizes.items()}
        )

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return embeddings (N, width) of features by name, (N, P, C_in) each.

        They are those of all cells; where these are a choice, each of its weight, and of all
        features behind them.
        """
        states = self.stems.columns(features)
        outputs: list[Tensor] = []
        for index, cell in enumerate(self.cells):
            tables = self.get_buffer(f"_pairs_{index}")
            alpha = self.logits[f"alpha_{index}"]
            shares = self.relax((tables @ alpha).sum(0)) @ tables  # (2, E), in x and in y
            inputs = [*outputs, *states]
            x, y = mix(shares, inputs, self.config.length)
            steps = range(self.config.steps)
            pairs = [ordered_pairs(self.logits[f"beta_{index}_{s}"], self.relax) for s in steps]
            primitives = [self.relax(self.logits[f"gamma_{index}_{s}"]) for s in steps]
            outputs.append(
                cell((x, y), self._read(index, shares, inputs, (x, y)), pairs, primitives)
            )
        if self.config.output != "cells":
            kept = self.relax(self.logits["output"])[:, 0]
            outputs += at_positions(states, self._positions)
            weighed = [weight * part for weight, part in zip(kept, outputs, strict=False)]
            outputs = [*weighed, *outputs[len(kept) :]]
        return self.embedding(outputs)

    def _read(
        self, cell: int, shares: Tensor, states: Sequence[Tensor], mixed: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Return what attention may read from: the mixtures x and y of a cell's input states.

        Where the output is a choice, they are without the features of one position, which
        attention would return as they are, and which it is never derived for.
        """
        if self.config.output == "cells":
            return mixed
        maps = [n for n in range(len(states)) if n < cell or self._positions[n - cell] > 1]
        if not maps:
            return tuple(torch.zeros_like(one) for one in mixed)
        return mix(shares[:, maps], [states[n] for n in maps], self.config.length)


def at_positions(states: Sequence[Tensor], positions: Sequence[int]) -> list[Tensor]:
    """Return states (N, P, C) at so many positions: one that is asked for at L is repeated."""
    return [state.expand(-1, p, -1) for state, p in zip(states, positions, strict=True)]


class Embedding(nn.Module):
    """What reaches the classifier as one vector; `output_norm`: ReLU(LayerNorm) of it."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        shape = [config.cells, config.length, config.channels]
        self.norm = nn.LayerNorm(shape) if "output_norm" in config.released else None

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return (N, sum of P * C) of parts (N, P, C); the norm is of all cells."""
        if self.norm is None:
            return torch.cat([part.flatten(1) for part in outputs], 1)
        return self.norm(torch.stack(list(outputs), 1)).relu().flatten(1)


class CellOutput(nn.Module):
    """LayerNorm(steps + inputs); several steps are first projected from S*C to C channels.

    The norm is over the channels of each position, or over positions as well (`cell_norm`).
    With `residual` the first input alone is added.
    """

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        self.project = (
            nn.Linear(config.steps * config.channels, config.channels)
            if config.steps > 1
            else nn.Identity()
        )
        sizes = [config.length, config.channels]
        self.norm = nn.LayerNorm(sizes if "cell_norm" in config.released else sizes[1:])
        self._passing = slice(1 if "residual" in config.released else None)

    def forward(self, steps: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        """Return (N, L, C) of the steps' results and the cell's inputs, (N, L, C) each."""
        total = self.project(steps[0] if len(steps) == 1 else torch.cat(list(steps), -1))
        for one in inputs[self._passing]:
            total = total + one
        return self.norm(total)


class _RelaxedStep(nn.Module):
    """All primitives on the mixed inputs, each with its weight; Zero's weight goes nowhere."""

    def __init__(self, config: Sizes, operators: Mapping[str, Factory]) -> None:
        super().__init__()
        self.LinearGLU = primitive("LinearGLU", config)
        self.ConcatFC = primitive("ConcatFC", config)
        self.Attention = primitive("Attention", config)
        self._further = tuple(operators)
        for name, factory in operators.items():
            self.add_module(name, _made(name, factory, config.channels))

    def forward(
        self, states: Sequence[Tensor], read: Sequence[Tensor], ordered: Tensor, weights: Tensor
    ) -> Tensor:
        length = states[0].shape[1]
        query, value = mix(torch.stack((ordered.sum(1), ordered.sum(0))), states, length)
        source = value
        if read[0] is not states[0]:
            (source,) = mix(ordered.sum(0)[None], read, length)
        x, y = states[:2]  # one pair only, of weight 1
        if len(states) > 2:
            # Primitives that do not tell x from y see each unordered pair in one order.
            pairs = (ordered + ordered.T).triu(1)
            x, y = mix(torch.stack((pairs.sum(1), pairs.sum(0))), states, length)
        linears = (self.LinearGLU.linear, self.ConcatFC.linear)
        width = x.shape[-1]
        hidden = F.linear(
            torch.cat((x, y), -1),
            torch.cat([linear.weight for linear in linears]),
            torch.cat([linear.bias for linear in linears]),
        )
        gates, dense = hidden.split((2 * width, width), -1)
        results = [x + y, self.Attention(query, source)]
        results += [self.LinearGLU.finish(gates), self.ConcatFC.finish(dense)]
        for name in self._further:
            inputs = (query, value) if is_ordered(name) else (x, y)
            results.append(_applied(self.get_submodule(name), name, *inputs))
        return mix(weights[None, 1:], results, length)[0]


def primitive(name: str, config: Sizes) -> Any:
    """Return a fresh primitive, with the norm and dropout that `config.released` names."""
    normed = "operator_norm" in config.released
    dropout = config.dropout if "operator_dropout" in config.released else 0.0
    factory = OPERATORS.find(name)
    if name == "Sum":
        return factory(config.channels)
    if name == "Attention":
        length = config.length if normed else None
        return factory(config.channels, length=length, dropout=dropout)
    return factory(config.channels, norm=normed, dropout=dropout)


def _made(name: str, factory: Factory, channels: int) -> nn.Module:
    """Return a fresh operator."""
    operator = factory(channels)
    if not isinstance(operator, nn.Module):
        raise InputError(
            f"operator {name} must be made as an nn.Module, got {type(operator).__name__}; "
            "pass what takes the number of channels and returns a module."
        )
    return operator


def _applied(operator: nn.Module, name: str, x: Tensor, y: Tensor) -> Tensor:
    """Return operator(x, y), of the same shape."""
    result = operator(x, y)
    if result.shape != x.shape:
        raise InputError(
            f"operator {name} must give the shape of its inputs, {tuple(x.shape)}, got "
            f"{tuple(result.shape)}; mend its forward(x, y)."
        )
    return result


class _RelaxedCell(nn.Module):
    def __init__(self, config: Sizes, operators: Mapping[str, Factory]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_RelaxedStep(config, operators) for _ in range(config.steps))
        self.output = CellOutput(config)

    def forward(
        self,
        inputs: Sequence[Tensor],
        read: Sequence[Tensor],
        pairs: Sequence[Tensor],
        primitives: Sequence[Tensor],
    ) -> Tensor:
        """Return (N, L, C) of the inputs x and y, and of those that attention reads from."""
        results: list[Tensor] = []
        for step, ordered, weights in zip(self.steps, pairs, primitives, strict=True):
            states = [*inputs, *results]
            results.append(step(states, [*read, *results], ordered, weights))
        return self.output(results, *inputs)


class FusionNetwork(nn.Module):
    """The network of one genotype; it reads only the features that the genotype uses.

    Args:
        channels: channels of every feature of the space.
        cells: the genotype's choices (`choices.Cell`).
        outputs: what reaches the classifier (`choices.Form`).
        config: sizes.
        operators: further primitives by name.
        positions: of every feature of the space.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        cells: Sequence[Cell],
        outputs: Sequence[int],
        config: Sizes,
        operators: Mapping[str, Factory],
        positions: Mapping[str, int],
    ) -> None:
        super().__init__()
        names = list(channels)

        def named(member: int, cell: int) -> int | str:  # an earlier cell, or a feature
            return member if member < cell else names[member - cell]

        self._pairs = [tuple(named(m, cell) for m in pair) for cell, (pair, _) in enumerate(cells)]
        self._outputs = [named(m, len(cells)) for m in outputs]
        used = {*itertools.chain(*self._pairs, self._outputs)}
        self.features = [name for name in names if name in used]
        self._positions = [positions.get(str(one), config.length) for one in self._outputs]
        self.width = config.channels * sum(self._positions)
        self.stems = FusionStems({name: channels[name] for name in self.features}, config)
        self.cells = nn.ModuleList(_DerivedCell(steps, config, operators) for _, steps in cells)
        self.embedding = Embedding(config)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return embeddings (N, width) of features by name, (N, P, C_in) each."""
        states: dict[int | str, Tensor] = dict(
            zip(self.features, self.stems.columns(features), strict=True)
        )
        length = self.stems.length
        for index, cell in enumerate(self.cells):
            x, y = (states[member].expand(-1, length, -1) for member in self._pairs[index])
            states[index] = cell(x, y)
        outputs = [states[member] for member in self._outputs]
        return self.embedding(at_positions(outputs, self._positions))


class _DerivedStep(nn.Module):
    def __init__(self, step: Step, config: Sizes, operators: Mapping[str, Factory]) -> None:
        super().__init__()
        self.name, (self.first, self.second) = step
        factory = operators.get(self.name)
        self.operator = (
            primitive(self.name, config)
            if factory is None
            else _made(self.name, factory, config.channels)
        )

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        return _applied(self.operator, self.name, states[self.first], states[self.second])


class _DerivedCell(nn.Module):
    def __init__(
        self, steps: Sequence[Step], config: Sizes, operators: Mapping[str, Factory]
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_DerivedStep(step, config, operators) for step in steps)
        self.output = CellOutput(config)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        states = [x, y]
        for step in self.steps:
            states.append(step(states))
        return self.output(states[2:], x, y)
