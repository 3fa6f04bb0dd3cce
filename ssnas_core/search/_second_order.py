"""DARTS's second-order architecture gradient (arXiv:1806.09055, eq. 7 and 8).

How the loss on dev changes with the logits when the weights follow them: with
w' = w - xi grad_w L_train(w, a), the weights after one virtual step,

    grad_a L_dev(w', a) - xi (grad_a L_train(w+, a) - grad_a L_train(w-, a)) / (2 eps),

w+- = w +- eps grad_w' L_dev(w', a) and eps = 0.01 / |grad_w' L_dev(w', a)|: the
difference stands for the product of a second derivative with a vector.
Deviation from the weights' own optimiser: the virtual step is plain SGD of the
loss (no moments, no L2), where they take a step of Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn

from ssnas_core._processes import average
from ssnas_core.training import seeded

REACH = 0.01  # of w+- from w, in Euclidean length over all weights (DARTS, sec. 2.3)


def unrolled_gradient(
    train_loss: Callable[[Generator], Tensor],
    dev_loss: Callable[[Generator], Tensor],
    *,
    model: nn.Module,
    weights: Sequence[Tensor],
    logits: Sequence[Tensor],
    rate: float,
    generator: Generator,
) -> tuple[Tensor, list[Tensor]]:
    """Dev loss after one virtual weight step, and its gradient for the logits.

    The three passes over train see the same views and the same dropout, so
    that their difference is that of the weights alone. Weights and buffers
    (running statistics) are in the end what they were.

    Args:
        train_loss, dev_loss: of `model` as it stands; views from the generator given.
        model: holds weights, logits and buffers.
        weights, logits: leaves that require gradients.
        rate: xi, size of the virtual step.
        generator: of this step's chance.

    Returns:
        The loss, without a graph; and one gradient per tensor of `logits`.
    """
    seed = int(torch.randint(2**62, (), generator=generator))

    def train_gradient(leaves: Sequence[Tensor]) -> list[Tensor]:
        with seeded(seed, apart=True) as same:
            return gradients(train_loss(same), leaves)

    def set_weights(shift: Sequence[Tensor], factor: float | Tensor) -> None:
        with torch.no_grad():
            for weight, start, by in zip(weights, starts, shift, strict=True):
                weight.copy_(start + factor * by)

    starts = [weight.detach().clone() for weight in weights]
    buffers = [buffer.clone() for buffer in model.buffers()]
    set_weights(train_gradient(weights), -rate)
    loss = dev_loss(generator)
    found = gradients(loss, [*weights, *logits])
    direction, gradient = found[: len(weights)], found[len(weights) :]
    norm = torch.stack([by.norm() for by in direction]).norm()
    if norm > 0:
        reach = REACH / norm
        set_weights(direction, reach)
        ahead = train_gradient(logits)
        set_weights(direction, -reach)
        behind = train_gradient(logits)
        gradient = [
            direct - rate * (plus - minus) / (2 * reach)
            for direct, plus, minus in zip(gradient, ahead, behind, strict=True)
        ]
    with torch.no_grad():
        for weight, start in zip(weights, starts, strict=True):
            weight.copy_(start)
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    return loss.detach(), gradient


def gradients(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of `loss`, over all processes; zeros for what it does not depend on."""
    found = torch.autograd.grad(loss, list(leaves), allow_unused=True)
    average(found)
    return [
        torch.zeros_like(leaf) if slope is None else slope
        for leaf, slope in zip(leaves, found, strict=True)
    ]
