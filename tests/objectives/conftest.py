"""What the tests of objectives share: a source in memory, and SimCLR's loss as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(3)
    names = ("image_0", "image_1", "text_0")
    return memory_source({n: torch.randn(64, 2, 4, generator=generator) for n in names})


@pytest.fixture
def algorithm_1():
    return _algorithm_1


def _algorithm_1(first: Tensor, second: Tensor, tau: float) -> float:
    """SimCLR's Algorithm 1, line by line: z[2k] and z[2k + 1] are the views of sample k."""
    z = [row.tolist() for pair in zip(first, second, strict=True) for row in pair]

    def s(i: int, j: int) -> float:
        dot = sum(a * b for a, b in zip(z[i], z[j], strict=True))
        return dot / (math.hypot(*z[i]) * math.hypot(*z[j]))

    def ell(i: int, j: int) -> float:
        others = sum(math.exp(s(i, k) / tau) for k in range(len(z)) if k != i)
        return -math.log(math.exp(s(i, j) / tau) / others)

    total = 0.0
    for k in range(len(first)):
        total += ell(2 * k, 2 * k + 1) + ell(2 * k + 1, 2 * k)
    return total / (2 * len(first))
