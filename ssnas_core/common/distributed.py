"""Several processes with equal replicas of one model: each reads its share of a batch, all see it.

The model runs on a process's own share; its outputs are gathered, with
gradients, into the whole batch, and every process computes the same loss of it.
The mean of the gradients over processes is then that of the whole batch, also
for losses that do not divide into shares, as NT-Xent with all its negatives.

What is here uses torch.distributed's default group, as whoever launched the
processes made it, and does nothing where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssnas_core.common.errors import InputError

_T = TypeVar("_T")
_ALONE = ContextVar("_ALONE", default=False)  # inside `on_rank_zero`
_ENDED = "ssnas: the first process ends"


def world_size() -> int:
    """How many processes work together; 1 where they were not launched, and in `on_rank_zero`."""
    grouped = dist.is_available() and dist.is_initialized() and not _ALONE.get()
    return dist.get_world_size() if grouped else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def on_rank_zero(do: Callable[[], _T]) -> _T:
    """What `do` returns in the first process, which does it alone while the others wait.

    It is for writing, and for decisions that files take part in. Inside, that
    process works as one without others. What is returned is pickled.

    Raises:
        InputError: where `do` raised anything, in the others.
    """
    if world_size() == 1:
        return do()
    if rank():
        result, failed = _tell(None, None)
        if failed is not None:
            raise InputError(failed)
        return result
    alone = _ALONE.set(True)
    try:
        result = do()
    except Exception as error:
        _ALONE.reset(alone)
        with suppress(InputError):  # what went wrong here is what is told
            _tell(None, str(error) or type(error).__name__)
        raise
    except BaseException:  # Ctrl-C, of which the others learn by this one's end
        _ALONE.reset(alone)
        raise
    _ALONE.reset(alone)
    return _tell(result, None)[0]


def _tell(result: Any, failed: str | None) -> list[Any]:
    """The first process's arguments, in all processes."""
    told = [result, failed]
    _exchange(dist.broadcast_object_list, told, src=0)
    return told


def share(total: int) -> slice:
    """Which of a batch's `total` rows this process reads; shares differ by at most one row.

    Raises:
        InputError: fewer rows than processes.
    """
    if world_size() == 1:
        return slice(None)
    sizes = _sizes(total)
    start = sum(sizes[: rank()])
    return slice(start, start + sizes[rank()])


def _sizes(total: int) -> list[int]:
    count = world_size()
    if total < count:
        raise InputError(
            f"a batch of {total} cannot be divided among {count} processes; "
            "use fewer processes, or a larger batch."
        )
    return [total // count + (one < total % count) for one in range(count)]


def all_gather(outputs: Tensor, total: int, views: int = 1) -> Tensor:
    """A model's outputs on its share, as the outputs on the whole batch, with gradients.

    Args:
        outputs: (views * n, ...) of this process's n samples, view after view.
        total: N, samples of the whole batch.
        views: how many outputs each sample has.

    Returns:
        (views * N, ...) in the order of one process, the same in all; with one
        process, `outputs`. Float32 where they are gathered.
    """
    if world_size() == 1:
        return outputs
    sizes = _sizes(total)
    mine = outputs.float().unflatten(0, (views, -1)).transpose(0, 1)  # (n, views, ...)
    short = sizes[0] - len(mine)
    if short:
        mine = torch.cat((mine, mine.new_zeros(short, *mine.shape[1:])))
    parts = everyone(mine)
    whole = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return whole.transpose(0, 1).flatten(0, 1)


def everyone(mine: Tensor) -> Tensor:
    """Tensors of one shape from all W processes, (W, ...), through which gradients flow."""
    return _Everyone.apply(mine)  # type: ignore[return-value]


class _Everyone(torch.autograd.Function):
    """Backward is the gradient of the sum of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        mine = mine.contiguous()
        parts = [torch.empty_like(mine) for _ in range(world_size())]
        _exchange(dist.all_gather, parts, mine)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        total = slopes[0].clone()
        _exchange(dist.all_reduce, total)
        return total[rank()]


def batch_mean(rows: Tensor) -> Tensor:
    """Mean of the rows (n, ...) of all processes, as (1, ...), with gradients."""
    if world_size() == 1:
        return rows.mean(0, keepdim=True)
    count = rows.new_full((1,), len(rows))
    sums = everyone(torch.cat((rows.sum(0).flatten(), count))).sum(0)
    return (sums[:-1] / sums[-1]).view(1, *rows.shape[1:])


def all_mean(tensors: Iterable[Tensor | None]) -> None:
    """Replace tensors (as: gradients) by their means over processes, in one exchange."""
    held = [one for one in tensors if one is not None]
    if world_size() == 1 or not held:
        return
    flat = torch.cat([one.flatten() for one in held])
    _exchange(dist.all_reduce, flat)
    flat /= world_size()
    for one, mean in zip(held, flat.split([one.numel() for one in held]), strict=True):
        one.copy_(mean.view_as(one))


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every process the gradients of the whole batch, after `backward`."""
    if world_size() > 1:
        all_mean([one.grad for one in parameters])


def broadcast_parameters(model: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    if world_size() > 1:
        for held in (*model.parameters(), *model.buffers()):
            _exchange(dist.broadcast, held.detach(), src=0)


def _exchange(collective: Callable[..., Any], *args: Any, **more: Any) -> None:
    """Do a collective operation.

    Raises:
        InputError: another process is there no more.
    """
    try:
        collective(*args, **more)
    except RuntimeError as error:  # of torch, gloo or NCCL
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"another process ended or did not answer ({reason}); where it said why, mend that; "
            "the same command goes on from the last whole epoch."
        ) from error


def destroy() -> None:
    """End the work with the others, once all are done."""
    if world_size() > 1:
        _exchange(dist.barrier)
        dist.destroy_process_group()


def says_why() -> bool:
    """Whether this process should tell why it ends: as the first does, and one that ends alone.

    A mistake that all processes meet is so told once.
    """
    if world_size() == 1:
        return True
    store = dist.distributed_c10d._get_default_store()
    try:
        if rank() == 0:
            store.set(_ENDED, "1")
            return True
        until = time.monotonic() + 3
        while time.monotonic() < until:
            if store.check([_ENDED]):
                return False
            time.sleep(0.05)
    except RuntimeError:  # the first is gone, and the store with it
        return rank() == 0
    return True  # the first goes on, or was killed


# Batch normalisation over the batch of all processes, on any device.


class JoinedBatchNorm(_BatchNorm):
    """Statistics of the joined batch while training; a plain batch norm in all else."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Inputs are (N, C, ...), of any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same; N may differ between processes."""
        local = not self.training and self.running_mean is not None
        if local or world_size() == 1:
            return super().forward(input)
        rows = input.float()
        dims = [0, *range(2, rows.ndim)]
        variance, mean = torch.var_mean(rows, dims, correction=0)
        count = torch.full_like(mean, rows.numel() / rows.shape[1])
        means, variances, counts = everyone(torch.stack((mean, variance, count))).unbind(1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        if self.training and self.running_mean is not None:
            self._remember(mean.detach(), (variance * total / (total - 1)).detach())
        shape = (1, -1, *[1] * (rows.ndim - 2))
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        normed = (rows - mean.view(shape)) * scale.view(shape)
        normed = normed if self.bias is None else normed + self.bias.view(shape)
        return normed.to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch, as batch norms do."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def join_norms(model: nn.Module) -> None:
    """Let the batch norms inside `model` see the batches of all processes; names stay."""
    if world_size() == 1:
        return
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                setattr(parent, name, _joined(norm))


def _joined(norm: nn.Module) -> JoinedBatchNorm:
    """The same norm, with the same parameters and buffers, over all processes."""
    joined = JoinedBatchNorm.__new__(JoinedBatchNorm)
    joined.__dict__.update(norm.__dict__)
    return joined
