"""Both relaxations written as their definitions say, edge by edge: what the supernets must equal.

An oracle shares the parameters of the supernet that it is made for, and takes a
step with torch's own modules: every pair of edges, every state and every operator
by itself, vectors repeated to all positions.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.spaces.fusion.space import FusionSpace
from ssnas_core.spaces.operators import attention


class Oracle(nn.Module):
    """The relaxation of `space`, with the parameters of its supernet `net`."""

    def __init__(self, net: nn.Module, space: FusionSpace) -> None:
        super().__init__()
        self.net, self.space = net, space

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Embeddings (N, cells * L * C), as the supernet's."""
        config, net = self.space.config, self.net
        states = []
        for name, stem in net.stems.named_children():
            hidden = stem.linear(features[name])
            normed = stem.norm(hidden.transpose(1, 2)).relu()
            dropped = F.dropout(normed, config.dropout, self.training).transpose(1, 2)
            states.append(dropped.expand(-1, config.length, -1))
        outputs: list[Tensor] = []
        for cell in range(config.cells):
            mixed = self._pairs if config.relaxation == "pairs" else self._edges
            outputs.append(mixed(cell, [*outputs, *states]))
        return torch.cat([output.flatten(1) for output in outputs], 1)

    def _pairs(self, cell: int, states: list[Tensor]) -> Tensor:
        """A cell on pairs of distinct predecessors, weighted by a softmax over all pairs."""
        logits, module = self.net.logits, self.net.cells[cell]
        x, y = _pair_sums(logits[f"alpha_{cell}"].expand(2, -1), states, ordered=False)
        inner = [x, y]
        for step, operators in enumerate(module.steps):
            beta = logits[f"beta_{cell}_{step}"]
            query, value = _pair_sums(beta, inner, ordered=True)
            first, second = (
                inner if len(inner) == 2 else _pair_sums(beta, inner, ordered=True, sort=True)
            )
            made = [
                torch.zeros_like(x),
                first + second,
                attention(query, value),
                operators.LinearGLU(first, second),
                operators.ConcatFC(first, second),
            ]
            weights = logits[f"gamma_{cell}_{step}"].softmax(0)
            inner.append(_sum(weights, made))
        output = module.output
        return output.norm(output.project(torch.cat(inner[2:], -1)) + x + y)

    def _edges(self, cell: int, states: list[Tensor]) -> Tensor:
        """A cell as released: Identity or Zero on each edge, and one mixture as both inputs."""
        logits, module = self.net.logits, self.net.cells[cell]
        z = _edge_sum(logits[f"alpha_{cell}"], states)
        inner = [z, z]
        for step, operators in enumerate(module.steps):
            met = _edge_sum(logits[f"beta_{cell}_{step}"], inner)
            made = [
                met + met,
                attention(met, met),
                operators.LinearGLU(met, met),
                operators.ConcatFC(met, met),
            ]
            weights = logits[f"gamma_{cell}_{step}"].softmax(0)
            inner.append(_sum(weights, made))
        output = module.output
        return output.norm(output.project(torch.cat(inner[2:], -1)) + z)


def _sum(weights: Tensor, values: list[Tensor]) -> Tensor:
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        total = total + weight * value
    return total


def _edge_sum(logits: Tensor, states: list[Tensor]) -> Tensor:
    """Identity of every state and Zero of every state, by a softmax for each edge."""
    total = torch.zeros_like(states[0])
    for edge, state in zip(logits, states, strict=True):
        identity, zero = edge.softmax(0)
        total = total + identity * state + zero * torch.zeros_like(state)
    return total


def _pair_sums(
    slots: Tensor, states: list[Tensor], *, ordered: bool, sort: bool = False
) -> tuple[Tensor, Tensor]:
    """The weighted firsts and seconds of all pairs; `sort` brings each pair into one order."""
    choose = itertools.permutations if ordered else itertools.combinations
    pairs = list(choose(range(len(states)), 2))
    weights = torch.stack([slots[0][i] + slots[1][j] for i, j in pairs]).softmax(0)
    if sort:
        pairs = [(min(pair), max(pair)) for pair in pairs]
    first, second = torch.zeros_like(states[0]), torch.zeros_like(states[0])
    for weight, (i, j) in zip(weights, pairs, strict=True):
        first = first + weight * states[i]
        second = second + weight * states[j]
    return first, second
