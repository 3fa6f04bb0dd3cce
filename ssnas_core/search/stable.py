"""Pieces of bilevel search from the papers: the second order, and ways to keep it from collapsing.

- `unrolled_gradient`: the second-order gradient of the logits (DARTS, arXiv:1806.09055,
  eq. 7 and 8).
- `sampled`: one-hot samples of every choice in a step, instead of the softmax over its
  options (GDAS, arXiv:1910.04465). Deviation: all options are computed, so that those not
  drawn have the gradient of what they would add; the released code computes the one drawn.
- `smooth_maximum`: the Beta-Decay regulariser (beta-DARTS, arXiv:2203.01665).
- `importances`: an option counts by how much the loss rises without it (DARTS-PT,
  arXiv:2108.04392). Deviations: all choices are judged on the one supernet that the search
  ends with, where the paper fixes one choice after the other and trains in between; the
  measure is the objective's loss, where the paper's is accuracy; and the weights of the
  options that are left sum to 1 again, where the paper's code keeps them as they were.
- `curvature` and `epoch_before_sharp`: stop once the largest eigenvalue of the Hessian of
  the dev loss rises (RobustDARTS, arXiv:1909.09656). Deviation: the smoothing looks back
  only, over the last epochs, where the paper's is around an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.distributed import all_mean
from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.spaces.base import SHADOW

WEIGHTS_REACH = 0.01  # of w+- from w, in Euclidean length over all weights (DARTS, sec. 2.3)
LOGIT_REACH = 0.01  # of a logit, to both sides, in differences of gradients
LEFT_OUT = -1e4  # the logit of an option that weighs nothing
WINDOW = 5  # k, epochs over which eigenvalues are averaged, and epochs to go back
SHARPER = 0.75  # stop where the earlier mean is less than this share of the later one

Draw = Callable[[Tensor, Generator], Tensor]


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

    With w' = w - xi dL_train(w, a)/dw and v = dL_dev(w', a)/dw', the gradient is

        dL_dev(w', a)/da - xi (dL_train(w + e v, a)/da - dL_train(w - e v, a)/da) / 2e,

    where e |v| = 0.01. The three passes over train see the same views and the same
    dropout, so that they differ by the weights alone. Weights and buffers (running
    statistics) are in the end what they were.

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
    set_weights(train_gradient(weights), -rate)  # w'
    loss = dev_loss(generator)
    slopes = gradients(loss, [*weights, *logits])
    direction, gradient = slopes[: len(weights)], slopes[len(weights) :]  # v, dL_dev/da
    norm = torch.stack([by.norm() for by in direction]).norm()
    if norm > 0:
        reach = WEIGHTS_REACH / norm  # e
        set_weights(direction, reach)
        ahead = train_gradient(logits)
        set_weights(direction, -reach)
        behind = train_gradient(logits)
        gradient = [
            direct - rate * (plus - minus) / (2 * reach)
            for direct, plus, minus in zip(gradient, ahead, behind, strict=True)
        ]
    with torch.no_grad():
        for tensor, before in zip((*weights, *model.buffers()), (*starts, *buffers), strict=True):
            tensor.copy_(before)
    return loss.detach(), gradient


def gradients(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of `loss`, over all processes; zeros where it does not depend."""
    slopes = torch.autograd.grad(loss, list(leaves), allow_unused=True)
    all_mean(slopes)
    return [
        torch.zeros_like(leaf) if slope is None else slope
        for leaf, slope in zip(leaves, slopes, strict=True)
    ]


def risen(epoch: int, epochs: int) -> float:
    """Return the share of the way from epoch 1 to the last: 0 to 1; 1 where there is one."""
    return (epoch - 1) / (epochs - 1) if epochs > 1 else 1.0


def check_samples(supernet: nn.Module) -> None:
    """Raise `InputError` for a supernet whose choices cannot be sampled: it has no `relax`."""
    if not hasattr(supernet, "relax"):
        raise InputError(
            "sampling='gumbel' needs a supernet that weighs its choices by a function `relax`, got "
            f"{type(supernet).__name__}; use sampling='softmax', or for fusion "
            "FusionConfig(relaxation='pairs')."
        )


@contextmanager
def drawing(supernet: nn.Module, draw: Draw | None, generator: Generator) -> Iterator[None]:
    """Inside, every pass through `supernet` weighs its choices by the same draws.

    Args:
        supernet: weighs its choices by `relax`.
        draw: a choice's scores (..., O), and its chance -> the weights of its options. Those that
            it gives no weight at all need not be computed. None leaves all as it is, and draws
            nothing.
        generator: of this step's chance; equal in all processes that work together.
    """
    if draw is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator))
    chance = Generator().manual_seed(seed)

    def begin(*_: Any) -> None:
        chance.manual_seed(seed)

    before, hook = supernet.relax, supernet.register_forward_pre_hook(begin)
    supernet.relax = lambda scores: draw(scores, chance)  # type: ignore[assignment]
    try:
        yield
    finally:
        supernet.relax = before
        hook.remove()


def sampled(
    supernet: nn.Module, temperature: float | None, generator: Generator
) -> AbstractContextManager[None]:
    """Inside, every pass through `supernet` uses the same one-hot sample of each choice.

    An option is drawn with the probability that softmax gives it: the largest of scores plus
    Gumbel noise. Backward it is softmax((scores + noise) / temperature).

    Args:
        supernet: weighs its choices by `relax`.
        temperature: tau > 0; None leaves all as it is, and draws nothing.
        generator: of this step's chance; equal in all processes that work together.
    """
    if temperature is None:
        return drawing(supernet, None, generator)

    def gumbel(scores: Tensor, chance: Generator) -> Tensor:
        noise = -torch.empty(scores.shape).exponential_(generator=chance).log()
        soft = ((scores + noise.to(scores.device)) / temperature).softmax(-1)
        return straight_through(F.one_hot(soft.argmax(-1), soft.shape[-1]), soft)

    return drawing(supernet, gumbel, generator)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return weights that are one-hot `hard`, and have the gradient of `soft`, both (..., O).

    Where there is a gradient, an option of `hard` 0 weighs `SHADOW`, so that it is computed.
    """
    hard = hard.to(soft.dtype)
    return hard.clamp(min=SHADOW) + (soft - soft.detach()) if soft.requires_grad else hard


def smooth_maximum(logits: Iterable[Tensor]) -> Tensor:
    """Return the mean of logsumexp over all logit vectors, each (..., O): a scalar."""
    return torch.cat([vectors.logsumexp(-1).flatten() for vectors in logits]).mean()


def importances(loss: Callable[[], float], logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return how much `loss` rises without each option, for every entry of every logit tensor."""
    base, result = loss(), {}
    for name, leaf in logits.items():
        rises = []
        for entry in range(leaf.numel()):
            with _entry(leaf, entry, LEFT_OUT):
                rises.append(loss() - base)
        result[name] = torch.tensor(rises, dtype=leaf.dtype, device=leaf.device).view(leaf.shape)
    return result


def curvature(loss: Callable[[], Tensor], logits: Sequence[Tensor]) -> float:
    """Return the largest eigenvalue of the Hessian of `loss` with respect to all `logits`.

    By central differences of gradients, two of them for each number in `logits`: the
    relaxed network's sums have a backward pass of their own, which has no second derivative.
    So kinks (ReLU) that lie between the two count as the curvature that they are on average.

    Args:
        loss: the same value for the same logits, with a graph.
        logits: leaves that require gradients.
    """
    columns = []
    for leaf in logits:
        for entry in range(leaf.numel()):
            value, sides = float(leaf.detach().flatten()[entry]), []
            for side in (LOGIT_REACH, -LOGIT_REACH):
                with _entry(leaf, entry, value + side):
                    slopes = gradients(loss(), logits)
                    sides.append(torch.cat([slope.flatten() for slope in slopes]).double().cpu())
            columns.append((sides[0] - sides[1]) / (2 * LOGIT_REACH))
    hessian = torch.stack(columns)  # (A, A), A numbers in all logits
    return float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])


def epoch_before_sharp(eigenvalues: Sequence[float]) -> int | None:
    """Return the epoch to go back to, from the last of epochs 1, 2, ... with these eigenvalues.

    It is `WINDOW` epochs back where the mean over the `WINDOW` epochs up to there is less
    than `SHARPER` times that over the last ones; None where it is not, where the loss has no
    direction of positive curvature, or where there are too few epochs to compare.
    """
    if len(eigenvalues) < 2 * WINDOW:
        return None
    earlier = sum(eigenvalues[-2 * WINDOW : -WINDOW]) / WINDOW
    later = sum(eigenvalues[-WINDOW:]) / WINDOW
    return len(eigenvalues) - WINDOW if later > 0 and earlier < SHARPER * later else None


@contextmanager
def _entry(leaf: Tensor, entry: int, value: float) -> Iterator[None]:
    """Inside, one number of `leaf` is `value`."""
    flat = leaf.detach().view(-1)  # the same memory
    before = flat[entry].clone()
    flat[entry] = value
    try:
        yield
    finally:
        flat[entry] = before
