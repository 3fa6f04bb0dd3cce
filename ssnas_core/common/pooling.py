"""Adaptive max pool: (n, C, H, W) to L positions, as BM-NAS's released code takes feature maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def pooled_map(value: Tensor, length: int) -> Tensor:
    """Return maps (n, C, H, W) at sqrt(L) x sqrt(L) positions, (n, C, L)."""
    return largest(value, math.isqrt(length), 2).flatten(2)


def largest(value: Tensor, count: int, dims: int) -> Tensor:
    """Return the largest in `count` windows along each of the last dimensions.

    Traced, it is slices and their maxima: ONNX has no such pool where windows differ in size.
    """
    if not torch.compiler.is_compiling():
        pool = (functional.adaptive_max_pool1d, functional.adaptive_max_pool2d)[dims - 1]
        return pool(value, count)
    for dim in range(-dims, 0):
        size = value.shape[dim]
        starts = [place * size // count for place in range(count)]
        ends = [-(-(place + 1) * size // count) for place in range(count)]
        windows = (value.narrow(dim, a, b - a) for a, b in zip(starts, ends, strict=True))
        value = torch.cat([window.amax(dim, keepdim=True) for window in windows], dim)
    return value
