"""One training loop: backbones by SimCLR, contrastive pretraining, and fine-tuning.

What is trained is an encoder with an objective's head; where its inputs come
from is a source. A run that is interrupted goes on at the last epoch that it saved and
ends bit-identical to one that was not: each epoch's randomness depends only on
the seed and the epoch.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core.common.bars import progress_bar
from ssnas_core.common.distributed import average_gradients, broadcast_parameters, join_norms
from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.common.typed import check_fields
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.spaces.base import width_of
from ssnas_core.training.checkpoints import OnEpoch, keep_epoch, resume, settings_of

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """AdamW with a linear warm-up and one cosine decay to zero.

    Args:
        epochs: passes over the samples.
        min_steps: at least so many steps, by more epochs where samples are few.
        batch_size: samples in a step; fewer where there are fewer.
        learning_rate: peak rate.
        weight_decay: decoupled decay of matrices (not of biases and norms).
        warmup: share of all steps in which the rate rises.
    """

    epochs: int = 20
    min_steps: int = 0
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05

    def __post_init__(self) -> None:
        check_fields(self, "learning_rate", epochs=1, batch_size=2)


def fit(
    model: nn.Module,
    source: Source,
    objective: Objective,
    indices: Tensor,
    config: TrainConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: str | None = None,
    on_epoch: OnEpoch | None = None,
    stop: Callable[[int], bool] | None = None,
    precision: str = "float32",
) -> list[dict[str, Any]]:
    """Train `model` in place on the samples `indices` of `source`.

    Where torch.distributed has a process group, all its processes are to call
    this with the same arguments: they train one model, and divide each batch.

    Args:
        model: encoder and head, on the device to train on.
        source: where views come from, on the model's device (`objectives.base.OnDevice`).
        objective: gives the loss.
        indices: (n,) sample numbers, n >= 2.
        config: optimiser and schedule.
        seed: decides the order of samples, views and dropout.
        checkpoint: a file to save to after an epoch, at most every five seconds, and to go on
            from.
        progress: label of a progress bar on standard error; none without it.
        on_epoch: called with the history after each epoch, and when going on from a
            checkpoint, with its history; in the first process alone.
        stop: called with the number of epochs done after each but the last, in every process;
            training ends where it returns True, the same in all.
        precision: of the network's products while training, see `loss_of`.

    Returns:
        One entry per epoch: `epoch`, `loss`, and the objective's report at the end; none of
        that where `stop` ended it.

    Raises:
        InputError: fewer than two samples, a loss that is not finite, or a
            checkpoint of another model, seed, configuration, number of samples or of
            processes.
    """
    keep_freed_memory()
    if len(indices) < 2:
        raise InputError(f"training needs at least two samples, got {len(indices)}.")
    batch = min(config.batch_size, len(indices))
    steps = len(indices) // batch
    epochs = epochs_of(len(indices), config)
    join_norms(model)
    broadcast_parameters(model)
    loss_at = loss_of(model, objective, precision)
    optimizer, schedule = _optimizer(model, config, epochs * steps)
    parts = {"model": model, "optimizer": optimizer}
    settings = settings_of(seed, config, len(indices), precision=precision)
    history = resume(checkpoint, parts, settings, on_epoch) or []
    done = len(history) * steps
    with progress_bar(progress, epochs * steps, "step", initial=done, leave=False) as bar:
        for epoch in range(len(history), epochs):
            with seeded(seed, epoch, apart=True) as generator:
                model.train()
                total = torch.zeros(())  # of the losses, where they are
                for step, rows in enumerate(batches(indices, batch, generator)):
                    for group in optimizer.param_groups:
                        group["lr"] = schedule(epoch * steps + step)
                    loss = loss_at(source, rows, generator)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    average_gradients(model.parameters())
                    optimizer.step()
                    total = total.to(loss.device) + loss.detach()
                    bar.update()
                entry = {"epoch": epoch, "loss": finite(total / steps, epoch, model, checkpoint)}
                if epoch == epochs - 1:
                    model.eval()
                    entry |= objective.report(model, source, indices[:256], generator)
            history.append(entry)
            bar.set_postfix(loss=f"{entry['loss']:.3f}")
            keep_epoch(checkpoint, parts, history, settings, on_epoch)
            if stop is not None and epoch + 1 < epochs and stop(epoch + 1):
                break
    model.eval()
    return history


def join(encoder: nn.Module, network: nn.Module, objective: Objective) -> nn.Sequential:
    """Return an encoder with a fresh head of an objective behind it (torch's global seed).

    Args:
        encoder: ends with `network`; often it is that.
        network: has a `width`. One that can embed each region by itself, and says so by an
            attribute `apart`, will, where the objective has a head for that.
        objective: gives the head.
    """
    each = getattr(objective, "each", None)
    if each is not None and hasattr(network, "apart"):
        network.apart = True  # type: ignore[assignment]  # no tensor
        return nn.Sequential(encoder, each(width_of(network)))
    return nn.Sequential(encoder, objective.head(width_of(network)))


def steps_of(samples: int, config: TrainConfig) -> int:
    """Steps that `fit` takes on so many samples, in whole epochs."""
    return samples // min(config.batch_size, samples) * epochs_of(samples, config)


def epochs_of(samples: int, config: TrainConfig) -> int:
    """Epochs that `fit` takes on so many samples."""
    steps = samples // min(config.batch_size, samples)
    return max(config.epochs, math.ceil(config.min_steps / steps))


def loss_of(
    model: nn.Module, objective: Objective, precision: str
) -> Callable[[Source, Tensor, torch.Generator], Tensor]:
    """The objective's loss of `model`, as a function of source, sample numbers and generator.

    Args:
        model: encoder and head, on the device to train on.
        objective: the loss.
        precision: "float32"; or "bfloat16": matrix products and convolutions of the
            forward and backward pass are in it (torch.autocast), the loss itself,
            weights and optimisers are not.

    Raises:
        InputError: another precision.
    """
    if precision not in ("float32", "bfloat16"):
        raise InputError(f"precision must be float32 or bfloat16, got {precision!r}.")
    device, low = next(model.parameters()).device.type, precision == "bfloat16"

    def loss(source: Source, indices: Tensor, generator: torch.Generator) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=low):
            return objective.loss(model, source, indices, generator)

    return loss


@torch.inference_mode()
def predict(model: nn.Module, source: Source, indices: Tensor, batch_size: int = 256) -> Tensor:
    """Logits (n, K) of the clean samples `indices`, on the CPU; the model is left in eval mode.

    Raises:
        InputError: they are not finite.
    """
    model.eval()
    parts = indices.split(batch_size)
    logits = torch.cat([model(source.clean(rows)).float().cpu() for rows in parts])
    if not bool(logits.isfinite().all()):
        raise InputError(
            "the model's outputs are NaN or infinite; lower the learning rate, or look for NaN in "
            "the features."
        )
    return logits


def mean_loss(
    loss_at: Callable[[Source, Tensor, torch.Generator], Tensor],
    source: Source,
    parts: Sequence[Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Return the mean loss over the samples in `parts`: each counts as often as it has rows."""
    losses = torch.stack([loss_at(source, rows, generator) for rows in parts])
    weights = torch.tensor([float(len(rows)) for rows in parts], device=losses.device)
    return losses @ (weights / weights.sum()).to(losses.dtype)


def parts_of(indices: Tensor, size: int) -> tuple[Tensor, ...]:
    """Return all of `indices` in parts as equal as may be, of at most `size`, at least two each.

    A contrastive loss depends on the size of its batch, so no part is a small remainder.
    """
    return indices.tensor_split(max(1, min(math.ceil(len(indices) / size), len(indices) // 2)))


def batches(indices: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`indices` in random order, in whole batches; a last smaller one is dropped."""
    order = indices[torch.randperm(len(indices), generator=generator)]
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]


def cycled(indices: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`batches` without end: all of `indices` again, in another order, once they are used up."""
    while True:
        yield from batches(indices, size, generator)


def finite(loss: Tensor, epoch: int, model: nn.Module, checkpoint: Path | None = None) -> float:
    """The mean loss of an epoch as a number.

    Raises:
        InputError: it is NaN or infinite, or the last step made the weights so.
    """
    value = float(loss)
    mistake = "" if math.isfinite(value) else f"the loss became {value}"
    if not mistake and not all(math.isfinite(p.detach().sum()) for p in model.parameters()):
        mistake = "the weights became NaN or infinite"
    if mistake:
        saved = checkpoint is not None and Path(checkpoint).exists()
        raise InputError(
            f"{mistake} in epoch {epoch}; lower the learning rate, or look for NaN in the features."
            + (f" An earlier epoch is kept in {checkpoint}." if saved else "")
        )
    return value


def _optimizer(
    model: nn.Module, config: TrainConfig, total: int
) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    warm = max(1, round(config.warmup * total))

    def rate(step: int) -> float:
        decay = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, total - warm)))
        return config.learning_rate * min((step + 1) / warm, decay)

    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True), rate


@cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, instead of giving it back each step.

    By default glibc returns it to the system and takes it again page by page, every page
    cleared: thousands of page faults in a step, most felt where other processes want the
    machine too. The price is that a process stays at the peak of its use. Nothing is
    changed where the user's environment tunes malloc, or under another C library.
    """
    tuned = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if any(name in os.environ for name in tuned):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
