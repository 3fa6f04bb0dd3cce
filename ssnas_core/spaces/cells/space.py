"""The space of convolutional cells (DARTS, arXiv:1806.09055; CSNAS, arXiv:2102.10557).

An architecture is a normal and a reduction cell, repeated in one stack over the pixels of an
image. Each node of a cell adds two operations on two different earlier states: the outputs of
the two cells before, c_k-2 and c_k-1, and earlier nodes. In a genotype a node reads

    normal_2 = sep_conv_3x3+skip_connect(c_k-2, c_k-1)

with the two states in their order, so that no node is written in two ways. Of k states and 7
operations, as "none" is never chosen, a node has 49 k (k - 1) / 2 forms: 1.0 10^9 cells of 4
nodes and 7.7 10^11 of 5, and the square of that many architectures. Cells that differ by the
order of their nodes alone count as different. A cell's output are its last four nodes.

Deviations from CSNAS: its choices are an operation, or none, for each of all edges, of which
the two lowest-numbered that are not "none" count in a node; here the inputs of a node are
chosen. For those from DARTS see `blocks`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import by_modality
from ssnas_core.common.typed import check_fields
from ssnas_core.spaces.cells.blocks import (
    CONCAT,
    INPUTS,
    KINDS,
    OPERATIONS,
    CellsNetwork,
    CellsSupernet,
    Edge,
    Plan,
    stack,
    taps,
)
from ssnas_core.spaces.genotype import Genotype, Node

STATES = ("c_k-2", "c_k-1")
"""Names of the states that a cell begins with; those of the first cell are the stem's output."""

_CHOSEN = OPERATIONS[1:]

_SHORT = {
    **{"max": "max_pool_3x3", "avg": "avg_pool_3x3", "skip": "skip_connect"},
    **{f"sep{size}": f"sep_conv_{size}x{size}" for size in (3, 5, 7)},
    **{f"dil{size}": f"dil_conv_{size}x{size}" for size in (3, 5)},
    "conv7": "conv_7x1_1x7",
}
_PUBLISHED: dict[str, tuple[str, str]] = {
    "DARTS_V1": (
        "sep3 1 sep3 0, skip 0 sep3 1, skip 0 sep3 1, sep3 0 skip 2",
        "max 0 max 1, skip 2 max 0, max 0 skip 2, skip 2 avg 0",
    ),
    "DARTS_V2": (
        "sep3 0 sep3 1, sep3 0 sep3 1, sep3 1 skip 0, skip 0 dil3 2",
        "max 0 max 1, skip 2 max 1, max 0 skip 2, skip 2 max 1",
    ),
    "BayesNAS": (
        "sep5 0 skip 1, dil5 0 dil5 1, dil5 0 dil3 1, sep3 0 sep3 1",
        "max 1 max 0, skip 0 dil5 1, dil3 0 max 1, dil3 0 avg 1",
    ),
    "CSNAS s4": (
        "skip 0 avg 1, dil5 0 dil3 1, skip 0 sep5 1, skip 0 avg 1",
        "skip 0 max 1, dil3 0 dil5 2, dil3 0 sep3 1, max 1 dil3 2",
    ),
    "CSNAS s5": (
        "avg 1 max 0, dil5 0 sep5 1, dil3 0 avg 1, dil5 0 dil5 2, avg 0 max 1",
        "dil5 0 max 1, skip 0 avg 1, skip 0 dil5 1, sep5 0 avg 1, max 0 dil5 1",
    ),
    "NASNet": (
        "sep5 1 sep3 0, sep5 0 sep3 0, avg 1 skip 0, avg 0 avg 0, sep3 1 skip 1: 2 3 4 5 6",
        "sep5 1 sep7 0, max 1 sep7 0, avg 1 sep5 0, skip 3 avg 2, sep3 2 max 1: 4 5 6",
    ),
    "AmoebaNet": (
        "avg 0 max 1, sep3 0 sep5 2, sep3 0 avg 3, sep3 1 skip 1, skip 0 avg 1: 4 5 6",
        "avg 0 sep3 1, max 0 sep7 2, sep7 0 avg 1, max 0 max 1, conv7 0 sep3 5: 3 4 6",
    ),
}
PUBLISHED = tuple(_PUBLISHED)
"""Names of published pairs of cells; all but the last two are of a space of 4 or 5 nodes."""


@dataclass(frozen=True, kw_only=True)
class CellsConfig:
    """Convolutional cells over the pixels of an image (DARTS, CSNAS).

    Defaults: DARTS's search. Its final network for CIFAR-10 has 20 cells of 36 channels and a
    drop path of 0.2; CSNAS has cells of 5 nodes, and searches with 32 channels.

    Args:
        cells: in the stack, at least 3; those at one and two thirds of it reduce.
        nodes: of a cell, each the sum of two operations.
        channels: C of the first cells; it doubles where a cell reduces.
        stem: channels of the stem's output, in units of C.
        drop_path: probability in training that a sample goes without an operation; identities
            stay. It is this space's dropout, of which training has the recipe's.
    """

    lacks: ClassVar[tuple[str, ...]] = ("extensions",)  # methods that its space has not

    cells: int = 8
    nodes: int = 4
    channels: int = 16
    stem: int = 3
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, cells=3, nodes=1, channels=1, stem=1)
        if not 0 <= self.drop_path < 1:
            raise InputError(f"CellsConfig.drop_path must be in [0, 1), got {self.drop_path}.")

    def trained_with(self, dropout: float) -> Self:
        """Return the configuration of the same architectures with another drop path."""
        return replace(self, drop_path=dropout)

    def open(
        self, channels: Mapping[str, int], positions: Mapping[str, int] | None = None
    ) -> CellsSpace:
        """Return the space over the feature of so many `channels` at so many `positions`."""
        return CellsSpace(channels, positions or {}, self)


class CellsSpace:
    """The architectures of convolutional cells over one image.

    Args:
        channels: channels of each feature by name; the last is read.
        positions: positions P of each feature, of that one H * W pixels, row by row.
        config: sizes.

    Raises:
        InputError: features of no or of several modalities, or ones that are no square image
            with a side that can be halved twice.
    """

    name = "cells"

    def __init__(
        self,
        channels: Mapping[str, int],
        positions: Mapping[str, int],
        config: CellsConfig | None = None,
    ) -> None:
        self.config = config or CellsConfig()
        modalities = list(by_modality(channels))
        if len(modalities) != 1 or set(modalities) & set(KINDS):
            raise InputError(
                "cells read one image: expected features of one modality, not named "
                f"{' or '.join(KINDS)}, got {', '.join(modalities)[:200] or 'none'}; give data of "
                "images alone, or use the fusion space."
            )
        feature = list(channels)[-1]
        pixels = positions.get(feature, 1)
        if (side := math.isqrt(pixels)) ** 2 != pixels or side % 4:
            raise InputError(
                f"cells halve a square image twice: expected {feature} at the square of a multiple "
                f"of 4 positions, got {pixels}; take the image backbone pixels (--prepare.image "
                "pixels) and a size (--prepare.image-size), as 32 32."
            )
        self.features = (feature,)
        self.channels = {feature: channels[feature]}

    @property
    def variables(self) -> dict[str, tuple[str, ...]]:
        """The values of each choice: of each node its two inputs, and an operation on each."""
        values: dict[str, tuple[str, ...]] = {}
        for kind, node in itertools.product(KINDS, self._nodes):
            pairs = itertools.combinations(_states(kind, node), 2)
            values[f"{kind}_{node} inputs"] = tuple(map(", ".join, pairs))
            values |= dict.fromkeys((f"{kind}_{node} first", f"{kind}_{node} second"), _CHOSEN)
        return values

    def decode(self, choice: Mapping[str, int]) -> Genotype:
        """Return the genotype of a value (its number, from 0) for each of the `variables`."""
        plans = {}
        for kind in KINDS:
            nodes = []
            for node in self._nodes:
                pairs = list(itertools.combinations(range(node), 2))
                read = pairs[choice[f"{kind}_{node} inputs"]]
                names = [_CHOSEN[choice[f"{kind}_{node} {which}"]] for which in ("first", "second")]
                nodes.append(((names[0], read[0]), (names[1], read[1])))
            plans[kind] = self._plan(nodes)
        return self._genotype(plans)

    def encode(self, genotype: Genotype) -> dict[str, int]:
        """Return the choice that decodes to `genotype`."""
        choice = {}
        for kind, plan in self.plans(genotype).items():
            for node, ((first, one), (second, other)) in zip(self._nodes, plan.nodes, strict=True):
                pairs = list(itertools.combinations(range(node), 2))
                choice[f"{kind}_{node} inputs"] = pairs.index((one, other))
                choice[f"{kind}_{node} first"] = _CHOSEN.index(first)
                choice[f"{kind}_{node} second"] = _CHOSEN.index(second)
        return choice

    def sample(self, generator: torch.Generator) -> Genotype:
        """Return a genotype drawn uniformly from the space."""
        return self.decode(
            {
                name: int(torch.randint(len(values), (), generator=generator))
                for name, values in self.variables.items()
            }
        )

    def genotypes(self) -> Iterator[Genotype]:
        """Yield every genotype of the space."""
        for choice in itertools.product(*(range(len(v)) for v in self.variables.values())):
            yield self.decode(dict(zip(self.variables, choice, strict=True)))

    def named(self, name: str) -> Genotype:
        """Return a published architecture of this space.

        Raises:
            InputError: there is none of that name, or it has another number of nodes, other
                operations or another output than this space.
        """
        plans = _published(name)
        nodes = [pair for plan in plans.values() for pair in plan.nodes]
        others = {name for pair in nodes for name, _ in pair} - set(_CHOSEN)
        count = len(nodes) // len(KINDS)
        faults = [
            *([f"{count} nodes, not {self.config.nodes}"] if count != self.config.nodes else []),
            *(["nodes of one state"] if any(a[1] == b[1] for a, b in nodes) else []),
            *sorted(others),
            *(["another output"] if any(p != self._plan(p.nodes) for p in plans.values()) else []),
        ]
        if faults:
            raise InputError(
                f"{name} is not of this space: it has {', '.join(faults)}; build it by "
                "cells_network."
            )
        return self._genotype(plans)

    def validate(self, genotype: Genotype) -> None:
        """Raise unless `genotype` is in this space.

        Raises:
            InputError: another space or feature, another number of nodes, other operations,
                or two inputs that are the same or not in their order.
        """
        self.plans(genotype)

    def plans(self, genotype: Genotype) -> dict[str, Plan]:
        """Return what each kind of cell of a genotype computes.

        Raises:
            InputError: as `validate`.
        """
        wrong = f"{genotype!s:.300} is not a genotype of this space"
        if genotype.space != self.name:
            raise InputError(f"{wrong}: expected {self.name}, got {genotype.space}.")
        nodes = {node.name: node for node in genotype.nodes}
        names = [node.name for node in self._genotype({}).nodes]
        for kind in KINDS:
            names += [*_states(kind, INPUTS + self.config.nodes)[INPUTS:], kind]
        if list(nodes) != names:
            raise InputError(
                f"{wrong}: expected the nodes {', '.join(names)}, got {', '.join(nodes)[:400]}."
            )
        plans = {}
        for kind in KINDS:
            pairs = []
            for node in self._nodes:
                states, made = _states(kind, node), nodes[f"{kind}_{node}"]
                names = made.operator.split("+")
                read = [states.index(one) for one in made.inputs if one in states]
                counts = {len(names), len(read), len(made.inputs)}
                if counts != {2} or set(names) - set(_CHOSEN) or read[0] >= read[1]:
                    raise InputError(
                        f"{wrong}: expected {made.name} = OPERATION+OPERATION of two of "
                        f"{', '.join(states)}, in this order, of {', '.join(_CHOSEN)}; got "
                        f"{made!s:.200}."
                    )
                pairs.append(((names[0], read[0]), (names[1], read[1])))
            plans[kind] = self._plan(pairs)
        for made in self._genotype(plans).nodes:
            if nodes[made.name] != made:
                raise InputError(
                    f"{wrong}: expected {made.name} = {made}, got {nodes[made.name]!s:.200}."
                )
        return plans

    def build(self, genotype: Genotype) -> CellsNetwork:
        """Return the network of `genotype` with fresh weights (torch's global seed)."""
        return _network(self.plans(genotype), self.channels, self.config)

    def supernet(self) -> CellsSupernet:
        """Return the network that mixes all operations on all edges, by its logits."""
        ((feature, inputs),) = self.channels.items()
        return CellsSupernet(feature, inputs, self.config.nodes, **_sizes(self.config))

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Return the meaning of each entry of each logit vector, for tables and plots."""
        return dict.fromkeys(KINDS, OPERATIONS)

    def derive(self, logits: Mapping[str, Tensor]) -> Genotype:
        """Return the genotype that logits (E, 8) of each kind of cell stand for (DARTS, sec. 2.4).

        Each edge has the operation of the largest weight but "none", and each node the two
        edges whose weight is then largest.
        """
        plans = {}
        for kind in KINDS:
            weights, best = logits[kind].detach().softmax(-1)[:, 1:].max(-1)
            nodes = []
            of_nodes = zip(weights.split([*self._nodes]), best.split([*self._nodes]), strict=True)
            for weight, names in of_nodes:  # (states,) each
                first, second = sorted(weight.argsort(descending=True, stable=True)[:2].tolist())
                nodes.append(((_CHOSEN[names[first]], first), (_CHOSEN[names[second]], second)))
            plans[kind] = self._plan(nodes)
        return self._genotype(plans)

    def one_hot(self, genotype: Genotype, scale: float = 200.0) -> dict[str, Tensor]:
        """Return logits whose relaxation is `genotype`: `scale` on each choice, 0 elsewhere."""
        logits = {}
        for kind, plan in self.plans(genotype).items():
            logits[kind] = torch.zeros(sum(self._nodes), len(OPERATIONS))
            rows = logits[kind].split([*self._nodes])
            for row, pair in zip(rows, plan.nodes, strict=True):  # (states, 8)
                chosen = {state: name for name, state in pair}
                for state in range(len(row)):
                    row[state, OPERATIONS.index(chosen.get(state, "none"))] = scale
        return logits

    def inherit(self, genotype: Genotype, state: Mapping[str, Tensor]) -> CellsNetwork:
        """Return the network of `genotype` with the weights of a supernet's state dict.

        Weights of batch norms, which the supernet has not, stay 1 and 0, so that operations
        compute the same. Pools lose the batch norm that they have in the supernet.
        """
        network, plans = self.build(genotype), self.plans(genotype)
        own = network.state_dict()
        for name in own:
            source = name
            if ".nodes." in name:  # cells.PLACE.nodes.NODE.WHICH.rest
                _, place, _, node, which, rest = name.split(".", 5)
                pair = plans[network.kinds[int(place)]].nodes[int(node)]
                operation, read = pair[int(which)]
                source = f"cells.{place}.nodes.{node}.{read}.{operation}.{rest}"
            if source in state:
                own[name] = state[source]
        network.load_state_dict(own)
        return network

    def maps(self) -> list[tuple[str, int]]:
        """Return the kind of the last cell of each size, and the channels of its output."""
        config, nodes = self.config, min(self.config.nodes, CONCAT)
        concat: dict[str, int] = dict.fromkeys(KINDS, nodes)
        stacked = list(stack(config.cells, config.channels, config.stem, concat))
        places = (stacked[place] for place in taps([kind for kind, _ in stacked]))
        return [(kind, nodes * place.channels) for kind, place in places]

    @property
    def _nodes(self) -> range:
        """Numbers of a cell's nodes; each is how many states there are before it, too."""
        return range(INPUTS, INPUTS + self.config.nodes)

    def _plan(self, nodes: Sequence[tuple[Edge, Edge]]) -> Plan:
        return Plan(tuple(nodes), tuple(self._nodes[-CONCAT:]))

    def _genotype(self, plans: Mapping[str, Plan]) -> Genotype:
        nodes = [Node(name, "stem", self.features) for name in STATES]
        for kind, plan in plans.items():
            states = _states(kind, INPUTS + len(plan.nodes))
            for name, pair in zip(states[INPUTS:], plan.nodes, strict=True):
                (first, one), (second, other) = sorted(pair, key=lambda edge: edge[1])
                nodes.append(Node(name, f"{first}+{second}", (states[one], states[other])))
            nodes.append(Node(kind, "concat", tuple(states[node] for node in plan.concat)))
        return Genotype(self.name, tuple(nodes))


def cell_count(nodes: int) -> int:
    """Return how many different cells of so many nodes there are."""
    return math.prod(
        math.comb(states, 2) * len(_CHOSEN) ** 2 for states in range(INPUTS, INPUTS + nodes)
    )


def cells_network(
    name: str,
    channels: Mapping[str, int],
    positions: Mapping[str, int],
    config: CellsConfig | None = None,
) -> CellsNetwork:
    """Return the network of published cells with fresh weights (torch's global seed).

    They need not be of a searched space: NASNet's and AmoebaNet's have nodes with one state
    as both inputs, convolutions of size 7, and outputs of their own.

    Args:
        name: of `PUBLISHED`, as "DARTS_V2".
        channels, positions: of the features, as `CellsSpace` takes them.
        config: sizes; nodes are those of the published cells.

    Raises:
        InputError: there is none of that name, or features that are no image.
    """
    space = CellsSpace(channels, positions, config)
    return _network(_published(name), space.channels, space.config)


def _network(
    plans: Mapping[str, Plan], channels: Mapping[str, int], config: CellsConfig
) -> CellsNetwork:
    ((feature, inputs),) = channels.items()
    return CellsNetwork(feature, inputs, plans, config.drop_path, **_sizes(config))


def _sizes(config: CellsConfig) -> dict[str, int]:
    return {"cells": config.cells, "channels": config.channels, "stem": config.stem}


def _states(kind: str, count: int) -> list[str]:
    """Return the names of the first states of a kind of cell."""
    return [*STATES, *(f"{kind}_{node}" for node in range(INPUTS, count))]


def _published(name: str) -> dict[str, Plan]:
    if name not in _PUBLISHED:
        raise InputError(f"expected one of {', '.join(_PUBLISHED)}, got {name[:80]!r}.")
    plans = {}
    for kind, text in zip(KINDS, _PUBLISHED[name], strict=True):
        nodes, _, output = text.partition(": ")
        pairs: list[tuple[Edge, Edge]] = []
        for node in nodes.split(", "):
            first, one, second, other = node.split()
            pairs.append(((_SHORT[first], int(one)), (_SHORT[second], int(other))))
        last = range(INPUTS, INPUTS + len(pairs))[-CONCAT:]
        plans[kind] = Plan(tuple(pairs), tuple(map(int, output.split())) or tuple(last))
    return plans
