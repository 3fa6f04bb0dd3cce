"""Batch normalisation over the batch of all processes, on any device.

PyTorch's SyncBatchNorm is for CUDA only. Here each process tells its channels'
means and variances, through which gradients flow, and all normalise alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssnas_core._processes import everyone, processes


class JoinedBatchNorm(_BatchNorm):
    """Statistics of the joined batch while training; a plain batch norm in all else."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Inputs are (N, C, ...), of any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same; N may differ between processes."""
        local = not self.training and self.running_mean is not None
        if local or processes() == 1:
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
    if processes() == 1:
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
