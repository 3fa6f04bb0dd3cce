"""Several processes with equal replicas of one model: each reads its share of a batch, all see it.

The model runs on a process's own share; its outputs are gathered, with
gradients, into the whole batch, and every process computes the same loss of it.
The mean of the gradients over processes is then that of the whole batch, also
for losses that do not divide into shares, as NT-Xent with all its negatives.

Everything here uses torch.distributed's default group, as whoever launched the
processes made it, and does nothing where there is none. Two things that torch
offers do not fit: the gathering functions of `torch.distributed.nn` are
deprecated, and `torch.nn.SyncBatchNorm` refuses tensors of the CPU.
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
    """The number of this process among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def on_rank_zero(do: Callable[[], _T]) -> _T:
    """Return the result of `do`, which the first process calls alone while the others wait.

    It is for writing, and for decisions that files take part in. Inside, that
    process works as one without others. The result is pickled.

    Raises:
        InputError: where `do` raised anything, in the others.
    """
    if world_size() == 1:
        return do()
    outcome: list[Any] = [None, None]  # the result, or the message of a failure
    if rank() == 0:
        token = _ALONE.set(True)
        failure = None
        try:
            outcome[0] = do()
        except Exception as error:  # not Ctrl-C, of which the others learn by this one's end
            failure, outcome[1] = error, str(error) or type(error).__name__
        finally:
            _ALONE.reset(token)
        if failure is not None:
            with suppress(InputError):  # the failure itself says more
                _exchange(dist.broadcast_object_list, outcome, src=0)
            raise failure
    _exchange(dist.broadcast_object_list, outcome, src=0)
    if outcome[1] is not None:
        raise InputError(outcome[1])
    return outcome[0]


def share(total: int) -> slice:
    """The part of a batch's `total` rows that this process reads; parts differ by one row at most.

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


def at_least_float32(values: Tensor) -> Tensor:
    """Return half precisions as float32, and what is finer as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def all_gather(outputs: Tensor, total: int, views: int = 1) -> Tensor:
    """A model's outputs on its share, as the outputs on the whole batch, with gradients.

    Args:
        outputs: (views * n, ...) of this process's n samples, view after view.
        total: N, samples of the whole batch.
        views: how many outputs each sample has.

    Returns:
        (views * N, ...) in the order of one process, the same in all; with one
        process, `outputs`. Half precisions are float32 where they are gathered.
    """
    if world_size() == 1:
        return outputs
    sizes = _sizes(total)
    rows = at_least_float32(outputs).unflatten(0, (views, -1)).transpose(0, 1)  # (n, views, ...)
    short = sizes[0] - len(rows)
    if short:
        rows = torch.cat((rows, rows.new_zeros(short, *rows.shape[1:])))
    parts = _Gather.apply(rows)
    whole = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return whole.transpose(0, 1).flatten(0, 1)


class _Gather(torch.autograd.Function):
    """Tensors of one shape from all W processes, (W, ...), through which gradients flow."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        _exchange(dist.all_gather, parts, tensor)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The gradient of the sum of all processes' losses."""
        total = gradients[0].clone()
        _exchange(dist.all_reduce, total)
        return total[rank()]


def batch_mean(rows: Tensor) -> Tensor:
    """Mean of the rows (n, ...) of all processes, as (1, ...), with gradients."""
    if world_size() == 1:
        return rows.mean(0, keepdim=True)
    count = rows.new_full((1,), len(rows))
    sums = _Gather.apply(torch.cat((rows.sum(0).flatten(), count))).sum(0)
    return (sums[:-1] / sums[-1]).view(1, *rows.shape[1:])


def all_mean(tensors: Iterable[Tensor | None]) -> None:
    """Replace tensors (as: gradients) by their means over processes, in one exchange."""
    present = [one for one in tensors if one is not None]
    if world_size() == 1 or not present:
        return
    flat = torch.cat([one.flatten() for one in present])
    _exchange(dist.all_reduce, flat)
    flat /= world_size()
    for one, mean in zip(present, flat.split([one.numel() for one in present]), strict=True):
        one.copy_(mean.view_as(one))


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every process the gradients of the whole batch, after `backward`."""
    all_mean(one.grad for one in parameters)


def broadcast_parameters(model: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    if world_size() > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            _exchange(dist.broadcast, tensor.detach(), src=0)


def _exchange(collective: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Do a collective operation.

    Raises:
        InputError: another process has ended.
    """
    try:
        collective(*args, **options)
    except RuntimeError as error:  # of torch, gloo or NCCL
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"another process ended or did not answer ({reason}); where it said why, mend that; "
            "the same command goes on from its last checkpoint."
        ) from error


def destroy() -> None:
    """End the work with the others, once all are done."""
    if world_size() > 1:
        _exchange(dist.barrier)
        dist.destroy_process_group()


def says_why() -> bool:
    """Whether this process should say why it ends: the first does, and one that ends alone.

    So a mistake that all processes meet is said once.
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


class _JoinedBatchNorm(_BatchNorm):
    """A batch norm whose statistics, while training, are of the batch of all processes.

    It works on any device; in all else it is a plain batch norm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept inputs (N, C, ...) of any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same; N may differ between processes."""
        local = not self.training and self.running_mean is not None
        if local or world_size() == 1:
            return super().forward(input)
        rows = at_least_float32(input)
        dims = [0, *range(2, rows.ndim)]
        variance, mean = torch.var_mean(rows, dims, correction=0)  # (C,) each
        count = torch.full_like(mean, rows.numel() / rows.shape[1])
        means, variances, counts = _Gather.apply(torch.stack((mean, variance, count))).unbind(1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        if self.training and self.running_mean is not None:
            self._update(mean.detach(), (variance * total / (total - 1)).detach())
        shape = (1, -1, *[1] * (rows.ndim - 2))
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        normed = (rows - mean.view(shape)) * scale.view(shape)
        normed = normed if self.bias is None else normed + self.bias.view(shape)
        return normed.to(input.dtype)

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch, as batch norms do."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # a cumulative average
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def join_norms(model: nn.Module) -> None:
    """Let the batch norms of `model` see the batches of all processes.

    They stay the same objects, with their names, parameters and buffers.
    """
    if world_size() > 1:
        for norm in model.modules():
            if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                norm.__class__ = _JoinedBatchNorm
