"""Operations, cells and their stack (DARTS, arXiv:1806.09055, sec. 2, and released code).

A cell has two inputs, the outputs s_0 and s_1 of the two cells before it, brought to C channels.
Each of its nodes is the sum of two operations on two earlier states; the output is the
concatenation of some nodes. In the search a node is a sum over *all* earlier states,

    s_i = sum_(j < i) sum_o w_o^(i, j) o(s_j),   w^(i, j) = softmax(alpha^(i, j)),

and all normal cells share one alpha, as do all reduction cells. Cells at one and two thirds of
the depth reduce: their operations on s_0 and s_1 have stride 2, and C doubles.

Batch norms have weights in a final network, and none in the search. A batch norm follows each
pool in the search alone.

Deviations from the released code: pixels go through a batch norm without weights, where it
subtracts and divides by numbers for each data set; the probability of drop path does not grow
over the epochs; there is no auxiliary head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.spaces.base import SHADOW

OPERATIONS = (
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
"""The operations of a mixed edge, in DARTS's order; "none" is never derived."""

KINDS = ("normal", "reduce")
INPUTS = 2  # states that a cell begins with
CONCAT = 4  # nodes at most, the last ones, that are the output of a cell of the space

Edge = tuple[str, int]  # an operation, and the number of the state that it reads
Relax = Callable[[Tensor], Tensor]
Weights = tuple[Tensor, list[list[float]]]  # (E, 8), as a tensor and as numbers


@dataclass(frozen=True)
class Plan:
    """What one kind of cell computes; states 0 and 1 are its inputs, nodes are numbered from 2.

    Args:
        nodes: two edges for each node.
        concat: numbers of the nodes that are the output.
    """

    nodes: tuple[tuple[Edge, Edge], ...]
    concat: tuple[int, ...]


def softmax(logits: Tensor) -> Tensor:
    """Return the weights of options (..., O)."""
    return logits.softmax(-1)


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Return x (N, C, H, W), of which each sample is 0 with a probability, else scaled up."""
    kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - probability)
    return x * kept / (1 - probability)


def operation(name: str, channels: int, stride: int, *, affine: bool) -> nn.Module:
    """Return an operation that keeps C channels: (N, C, H, W) -> (N, C, H / stride, W / stride).

    Args:
        name: of `OPERATIONS` but "none"; or "sep_conv_7x7" or "conv_7x1_1x7", which published
            cells have besides.
        channels: C.
        stride: 1 or 2.
        affine: whether batch norms have weights.
    """
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    if name == "skip_connect":
        if stride == 1:
            return nn.Identity()
        return FactorizedReduce(channels, channels, affine=affine)
    if name == "conv_7x1_1x7":
        return nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 7), (1, stride), padding=(0, 3), bias=False),
            nn.Conv2d(channels, channels, (7, 1), (stride, 1), padding=(3, 0), bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )
    size = int(name[-1])
    if name.startswith("dil_conv"):
        if stride == 2:  # it reads even pixels alone: of these it is an ordinary one, and faster
            return nn.Sequential(_EvenPixels(), *_separable(channels, size, affine=affine))
        return nn.Sequential(*_separable(channels, size, dilation=2, affine=affine))
    first = _separable(channels, size, stride=stride, affine=affine)
    return nn.Sequential(*first, *_separable(channels, size, affine=affine))


def _separable(
    channels: int, size: int, *, stride: int = 1, dilation: int = 1, affine: bool
) -> list[nn.Module]:
    """Return ReLU, a convolution of each channel by itself, one of each pixel, batch norm."""
    padding = dilation * (size // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, size, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


class _EvenPixels(nn.Module):
    """Every second row and column of x (N, C, H, W), the first ones included."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, ceil(H / 2), ceil(W / 2))."""
        return x[:, :, ::2, ::2]


class FactorizedReduce(nn.Module):
    """Half the height and width: two 1x1 convolutions of stride 2, one pixel apart, joined."""

    def __init__(self, inputs: int, outputs: int, *, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H / 2, W / 2) of x (N, inputs, H, W); H and W are even."""
        x = F.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))


@dataclass(frozen=True, kw_only=True)
class Place:
    """What the cell at one place of a stack has to fit.

    Args:
        before: channels of the outputs of the two cells before it.
        channels: C, of the cell's states.
        reduces: whether it halves height and width.
        reduced: whether the cell before it did.
    """

    before: tuple[int, int]
    channels: int
    reduces: bool
    reduced: bool

    def stride(self, state: int) -> int:
        """Return the stride of the operations on a state."""
        return 2 if self.reduces and state < INPUTS else 1


def stack(
    cells: int, channels: int, stem: int, concat: Mapping[str, int]
) -> Iterator[tuple[str, Place]]:
    """Yield the kind and the place of each cell.

    Args:
        cells: how many, >= 3.
        channels: C of the first ones.
        stem: channels of the stem's output, in units of C.
        concat: of each kind of cell, how many nodes are its output.
    """
    before, reduced = (stem * channels, stem * channels), False
    for place in range(cells):
        reduces = place in (cells // 3, 2 * cells // 3)
        channels *= 2 if reduces else 1
        kind = KINDS[reduces]
        yield kind, Place(before=before, channels=channels, reduces=reduces, reduced=reduced)
        before, reduced = (before[1], concat[kind] * channels), reduces


def taps(kinds: Sequence[str]) -> list[int]:
    """Return the places of the last cells of each size, of a stack of cells of these kinds."""
    after = [*kinds[1:], KINDS[1]]
    return [place for place, kind in enumerate(after) if kind == KINDS[1]]


class _Inputs(nn.Module):
    """The outputs of the two cells before, at C channels and of one size."""

    def __init__(self, place: Place, *, affine: bool) -> None:
        super().__init__()

        def point(inputs: int) -> nn.Module:
            return nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(inputs, place.channels, 1, bias=False),
                nn.BatchNorm2d(place.channels, affine=affine),
            )

        first, second = place.before
        halved = FactorizedReduce(first, place.channels, affine=affine) if place.reduced else None
        self.first = halved or point(first)
        self.second = point(second)

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        return [self.first(first), self.second(second)]


class Cell(nn.Module):
    """One cell of a final network."""

    def __init__(self, plan: Plan, place: Place, drop: float) -> None:
        super().__init__()
        self.plan, self.drop = plan, drop
        self.inputs = _Inputs(place, affine=True)
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                operation(name, place.channels, place.stride(state), affine=True)
                for name, state in pair
            )
            for pair in plan.nodes
        )

    def forward(self, first: Tensor, second: Tensor, weights: None = None) -> Tensor:
        """Return (N, len(concat) C, H', W') of the outputs of the two cells before.

        Its operations are fixed, so that there is nothing to weigh.
        """
        states = self.inputs(first, second)
        of_nodes: Any = self.nodes
        for (first_edge, second_edge), (one, other) in zip(self.plan.nodes, of_nodes, strict=True):
            left = self._dropped(one, one(states[first_edge[1]]))
            right = self._dropped(other, other(states[second_edge[1]]))
            states.append(left + right)
        return torch.cat([states[node] for node in self.plan.concat], 1)

    def _dropped(self, one: nn.Module, output: Tensor) -> Tensor:
        if not self.training or self.drop == 0 or isinstance(one, nn.Identity):
            return output
        return drop_path(output, self.drop)


class RelaxedCell(nn.Module):
    """One cell of the supernet: all operations on all edges.

    A pool of a state, with its batch norm, is the same on all edges from there: computed once.
    """

    def __init__(self, nodes: int, place: Place) -> None:
        super().__init__()
        self.stride = place.stride(0)
        self.inputs = _Inputs(place, affine=False)

        def made(name: str, state: int) -> nn.Module:
            return operation(name, place.channels, place.stride(state), affine=False)

        def pool(name: str, state: int) -> nn.Module:
            return nn.Sequential(made(name, state), nn.BatchNorm2d(place.channels, affine=False))

        self.pools = nn.ModuleList(
            nn.ModuleDict({name: pool(name, state) for name in OPERATIONS[1:3]})
            for state in range(INPUTS + nodes - 1)
        )
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict({name: made(name, state) for name in OPERATIONS[3:]})
                for state in range(node)
            )
            for node in range(INPUTS, INPUTS + nodes)
        )

    def forward(self, first: Tensor, second: Tensor, weights: Weights) -> Tensor:
        """Return (N, min(4, nodes) C, H', W') of the outputs of the two cells before.

        Args:
            first, second: as said.
            weights: (E, 8) of the operations of each edge, as a tensor and as numbers. An
                operation of weight 0 is not computed.
        """
        states = self.inputs(first, second)
        pooled: dict[tuple[int, str, bool], Tensor] = {}
        of_nodes: Any = self.nodes
        of_states: Any = self.pools
        rows = iter(zip(*weights, strict=True))  # (8,) of each edge
        for edges in of_nodes:
            parts: list[Tensor] = []
            for state, edge in enumerate(edges):
                shares, values = next(rows)
                for place, name in enumerate(OPERATIONS[1:], 1):
                    if values[place] == 0:
                        continue
                    learns = values[place] > SHADOW
                    with nullcontext() if learns else torch.no_grad():
                        if name in edge:
                            output = edge[name](states[state])
                        elif (key := (state, name, learns)) in pooled:
                            output = pooled[key]
                        else:
                            output = pooled[key] = of_states[state][name](states[state])
                    # no product of matrices, which would round the weights under autocast
                    parts.append(shares[place] * output)
            nothing = states[0][:, :, :: self.stride, :: self.stride]
            states.append(sum(parts[1:], parts[0]) if parts else torch.zeros_like(nothing))
        return torch.cat(states[INPUTS:][-CONCAT:], 1)


class _Stack(nn.Module):
    """Stem, cells, and the mean over all positions of the last cell's output.

    Args:
        feature: name of the stored feature that is read, the pixels of a square image.
        inputs: its channels.
        cells, channels, stem, concat: as `stack` takes them.
        make: kind and place of a cell -> the cell.
    """

    def __init__(
        self,
        feature: str,
        inputs: int,
        *,
        cells: int,
        channels: int,
        stem: int,
        concat: Mapping[str, int],
        make: Callable[[str, Place], nn.Module],
    ) -> None:
        super().__init__()
        self.features = [feature]
        self.norm = nn.BatchNorm2d(inputs, affine=False)
        self.stem = nn.Sequential(
            nn.Conv2d(inputs, stem * channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem * channels),
        )
        stacked = list(stack(cells, channels, stem, concat))
        self.kinds = [kind for kind, _ in stacked]
        self.cells = nn.ModuleList(make(kind, place) for kind, place in stacked)
        self.taps = taps(self.kinds)
        kind, last = stacked[-1]
        self.width = concat[kind] * last.channels
        self.to(memory_format=torch.channels_last)  # faster on CPUs

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return embeddings (N, width) of features (N, P, C_in) by name."""
        return self.maps_of(features)[-1].mean((2, 3))

    def maps_of(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Return `maps` of the square image whose pixels are among features (N, P, C_in)."""
        pixels = features[self.features[0]]
        side = math.isqrt(pixels.shape[1])
        return self.maps(pixels.unflatten(1, (side, side)).permute(0, 3, 1, 2))

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the output (N, C, H', W') of the last cell of each size, the largest first.

        Args:
            image: (N, C_in, H, W); 4 divides H and W.
        """
        outputs = [self.stem(self.norm(image))] * INPUTS
        weights = self.weights()
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            outputs.append(cell(*outputs[-INPUTS:], weights.get(kind)))
        return [outputs[INPUTS + place] for place in self.taps]

    def weights(self) -> dict[str, Weights]:
        """Return the weights of the operations of all edges, by kind of cell; {} where fixed."""
        return {}


class CellsNetwork(_Stack):
    """The network of one normal and one reduction cell.

    Args:
        feature, inputs: name and channels of the pixels.
        plans: of each kind, what it computes.
        drop: probability in training that a sample goes without an operation.
        sizes: `cells`, `channels` and `stem`.
    """

    def __init__(
        self, feature: str, inputs: int, plans: Mapping[str, Plan], drop: float, **sizes: int
    ) -> None:
        super().__init__(
            feature,
            inputs,
            concat={kind: len(plan.concat) for kind, plan in plans.items()},
            make=lambda kind, place: Cell(plans[kind], place, drop),
            **sizes,
        )


class CellsSupernet(_Stack):
    """All networks of the space at once.

    `logits.normal` and `logits.reduce`, (E, 8) each, are parameters; `relax` turns them into
    weights, and a strategy may set another.

    Args:
        feature, inputs: name and channels of the pixels.
        nodes: of a cell.
        sizes: `cells`, `channels` and `stem`.
    """

    def __init__(self, feature: str, inputs: int, nodes: int, **sizes: int) -> None:
        super().__init__(
            feature,
            inputs,
            concat=dict.fromkeys(KINDS, min(nodes, CONCAT)),
            make=lambda kind, place: RelaxedCell(nodes, place),
            **sizes,
        )
        self.relax: Relax = softmax
        edges = sum(range(INPUTS, INPUTS + nodes))
        self.logits = nn.ParameterDict(
            {kind: nn.Parameter(1e-3 * torch.randn(edges, len(OPERATIONS))) for kind in KINDS}
        )

    def weights(self) -> dict[str, Weights]:
        """Return the weights (E, 8) of the operations of all edges, by kind of cell."""
        relaxed = {kind: self.relax(logits) for kind, logits in self.logits.items()}
        return {kind: (weights, weights.tolist()) for kind, weights in relaxed.items()}
