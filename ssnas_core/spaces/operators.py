"""Primitive fusion operators: two (N, L, C) inputs to one (BM-NAS, arXiv:2104.09379).

The maths is in functions; the modules only hold weights. `Zero` has no code:
it adds nothing to a relaxed sum and is never derived. An operator from outside is
written as these are: `FusionConfig.operators` names it, `FusionSpace` takes it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRIMITIVES = ("Zero", "Sum", "Attention", "LinearGLU", "ConcatFC")
"""The five primitives, in the order of a gamma vector."""

ORDERED = frozenset({"Attention"})
"""Primitives for which f(x, y) and f(y, x) differ by more than a renaming of weights."""

Factory = Callable[[int], nn.Module]
"""Makes an operator of C channels: a module with forward(x, y), (N, L, C) each -> (N, L, C)."""


def is_ordered(name: str) -> bool:
    """Return whether f(x, y) and f(y, x) are two choices; True for operators from outside."""
    return name in ORDERED or name not in PRIMITIVES


def attention(query: Tensor, value: Tensor) -> Tensor:
    """Return softmax(x y^T / sqrt(C)) y: each position of x reads from the positions of y.

    Args:
        query: x, (N, L, C).
        value: y, (N, L, C); keys and values at once, without projections.

    Returns:
        (N, L, C).
    """
    scores = query @ value.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (N, L, L)
    return scores.softmax(-1) @ value


def glu(gated: Tensor) -> Tensor:
    """Return a * sigmoid(b) for [a; b] along the last axis: (..., 2C) -> (..., C)."""
    return F.glu(gated, dim=-1)


class Sum(nn.Module):
    """x + y."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Attention(nn.Module):
    """`attention` as a module: x is the query, y is key and value."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return attention(x, y)


class LinearGLU(nn.Module):
    """(W1 [x; y] + b1) * sigmoid(W2 [x; y] + b2), W1 and W2 stacked in one product."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, 2 * channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return glu(self.linear(torch.cat((x, y), -1)))


class ConcatFC(nn.Module):
    """ReLU(W [x; y] + b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.linear(torch.cat((x, y), -1)).relu()
