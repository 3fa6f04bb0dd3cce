"""In which order the two levels take their steps, and on which samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ssnas_core.training import batches


def steps_of(train: int, dev: int, batch_size: int, by_epoch: bool) -> tuple[int, int]:
    """Steps of the weights and of the logits in an epoch, on so many samples."""
    weights = train // min(batch_size, train)
    return weights, dev // min(batch_size, dev) if by_epoch else weights


def turns(
    train: Tensor,
    dev: Tensor,
    batch_size: int,
    generator: torch.Generator,
    *,
    by_epoch: bool,
    unrolled: bool,
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """An epoch's steps: the level (0 weights, 1 logits), its samples, and those to unroll on.

    Args:
        train, dev: (n,) sample numbers of the two levels.
        batch_size: samples in a step; fewer where there are fewer.
        generator: of the order of samples.
        by_epoch: one pass of logit steps after the pass of weight steps, instead of a
            logit step after each weight step.
        unrolled: logit steps come with train samples.
    """
    size, dev_size = min(batch_size, len(train)), min(batch_size, len(dev))
    if by_epoch:
        for rows in batches(train, size, generator):
            yield 0, rows, None
        again = _forever(train, size, generator)
        for part in batches(dev, dev_size, generator):
            yield 1, part, next(again) if unrolled else None
    else:
        dev_batches = _forever(dev, dev_size, generator)
        for rows in batches(train, size, generator):
            part = next(dev_batches)
            yield 0, rows, None
            yield 1, part, rows if unrolled else None


def _forever(indices: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from batches(indices, size, generator)
