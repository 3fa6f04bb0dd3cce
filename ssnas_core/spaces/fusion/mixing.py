"""Weighted sums of states, and ReLU with dropout: the elementwise work of a relaxed network.

Both compute what the plain expressions do, with a backward pass written out:
the product of a (S, K) with a (K, many) matrix that autograd would take costs ten
times its memory traffic, and half a search step, on CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def mix(weights: Tensor, states: Sequence[Tensor], length: int) -> tuple[Tensor, ...]:
    """Return K weighted sums of S states: sum_s weights[k, s] * states[s], for each k.

    Args:
        weights: (K, S).
        states: S tensors (N, P, C), P in {1, L}; one position stands for L equal ones.
        length: L.

    Returns:
        K tensors (N, L, C), of the widest of the states' types.
    """
    return _Mix.apply(weights, length, *states)  # type: ignore[return-value]


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, length: int, *states: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(weights, *states)
        kind = reduce(torch.promote_types, (state.dtype for state in states))
        cast = weights.to(kind)
        order = sorted(range(len(states)), key=lambda s: states[s].shape[1])  # columns first
        sums = []
        for row in cast:
            total = row[order[0]] * states[order[0]].to(kind)
            for s in order[1:]:
                # in place once it has its full shape
                into = total if total.shape[1] == states[s].shape[1] else None
                total = torch.addcmul(total, row[s], states[s], out=into)
            sums.append(total if total.shape[1] == length else total.repeat(1, length, 1))
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weights, *states = ctx.saved_tensors
        needs = ctx.needs_input_grad
        cast = weights.to(gradients[0].dtype)
        columns = (
            [gradient.sum(1, keepdim=True) for gradient in gradients]
            if any(state.shape[1] == 1 for state in states)
            else []
        )
        slopes: list[Tensor | None] = []
        of_weights = torch.zeros(0)
        products = []
        for s, state in enumerate(states):
            met = columns if state.shape[1] == 1 else gradients
            if needs[0]:
                flat = state.flatten()
                products.append(torch.stack([g.flatten().to(flat.dtype).dot(flat) for g in met]))
            if needs[2 + s]:
                slope = cast[0, s] * met[0]
                for k in range(1, len(met)):
                    slope.addcmul_(cast[k, s], met[k])
                slopes.append(slope.to(state.dtype))
            else:
                slopes.append(None)
        if needs[0]:
            of_weights = torch.stack(products, 1).to(weights.dtype)
        return (of_weights if needs[0] else None, None, *slopes)


class ReluDropout(nn.Dropout):
    """ReLU, then dropout: in training each number is kept with probability 1 - p, and scaled.

    On CPUs a decision takes 16 random bits, where torch takes 64: p is rounded to a multiple
    of 1/65536, and the scale is that of the rounded p.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return dropout(relu(input)), of any shape."""
        if input.device.type != "cpu" or not self.training or not 0 < self.p < 1:
            return super().forward(input.relu())
        return _ReluDropout.apply(input, self.p)  # type: ignore[return-value]


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, rate: float) -> Tensor:
        levels = 1 << 16
        dropped = min(round(rate * levels), levels - 1)
        words = torch.empty(-(-value.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        bits = words.view(torch.int16)[: value.numel()].view(value.shape)
        # whole numbers cut off at 0 and 1: booleans would take six times as long
        keep = bits.float().add_(levels // 2 - dropped + 1).clamp_(0, 1)
        result = value.relu().mul_(keep.mul_(levels / (levels - dropped)))
        ctx.scale = levels / (levels - dropped)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (result,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient * ctx.scale, result, 0), None
