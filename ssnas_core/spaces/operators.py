"""Primitive fusion operators: two (N, L, C) inputs to one (BM-NAS, arXiv:2104.09379).

The maths is in functions; the modules only hold weights. `Zero` has no code:
it adds nothing to a relaxed sum and is never derived. An operator from outside is
written as these are: `FusionConfig.operators` names it, `FusionSpace` takes it as it is.

By default they are the paper's formulas. BM-NAS's released code has a norm and dropout
inside as well, which `norm`, `length` and `dropout` add.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRIMITIVES = ("Zero", "Sum", "Attention", "LinearGLU", "ConcatFC")
"""The five primitives, in the order of a gamma vector."""

SYMMETRIC = frozenset({"Sum", "LinearGLU", "ConcatFC", "Product"})
"""Operators for which f(x, y) and f(y, x) differ by no more than a renaming of weights."""

Factory = Callable[[int], nn.Module]
"""Makes an operator of C channels: a module with forward(x, y), (N, L, C) each -> (N, L, C)."""


def is_ordered(name: str) -> bool:
    """Return whether f(x, y) and f(y, x) are two choices; True for operators from outside."""
    return name not in SYMMETRIC


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


class _BatchNorm(nn.Module):
    """Batch norm over samples and positions: (N, L, C) -> (N, L, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.each = nn.BatchNorm1d(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.each(hidden.flatten(0, 1)).view_as(hidden)


class Sum(nn.Module):
    """x + y."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Attention(nn.Module):
    """`attention` as a module: x is the query, y is key and value.

    Args:
        channels: C.
        length: L, where a LayerNorm over positions and channels follows; None: none.
        dropout: of what is read, before the norm.
    """

    def __init__(self, channels: int, *, length: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm = nn.Identity() if length is None else nn.LayerNorm([length, channels])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(self.dropout(attention(x, y)))


class LinearGLU(nn.Module):
    """(W1 [x; y] + b1) * sigmoid(W2 [x; y] + b2), W1 and W2 stacked in one product.

    Args:
        channels: C.
        norm: batch norm of the product, before the gate.
        dropout: of the result.
    """

    def __init__(self, channels: int, *, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, 2 * channels)
        self.norm = _BatchNorm(2 * channels) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.finish(self.linear(torch.cat((x, y), -1)))

    def finish(self, product: Tensor) -> Tensor:
        """Return the result of W [x; y] + b: (N, L, 2C) -> (N, L, C)."""
        return self.dropout(glu(self.norm(product)))


class ConcatFC(nn.Module):
    """ReLU(W [x; y] + b).

    Args:
        channels: C.
        norm: batch norm of the product, before the ReLU.
        dropout: of the result.
    """

    def __init__(self, channels: int, *, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, channels)
        self.norm = _BatchNorm(channels) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.finish(self.linear(torch.cat((x, y), -1)))

    def finish(self, product: Tensor) -> Tensor:
        """Return the result of W [x; y] + b: (N, L, C) -> (N, L, C)."""
        return self.dropout(self.norm(product).relu())


class Product(nn.Module):
    """(W1 x + b1) * (W2 y + b2): low-rank bilinear pooling (MLB, arXiv:1610.04325).

    Not one of BM-NAS's. It learns how x and y relate, say that a poster shows what its plot
    names, from samples too few for the primitives (`tests/benchmarks/relation.py`).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.first(x) * self.second(y)
