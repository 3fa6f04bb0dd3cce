"""One training loop: backbones by SimCLR, contrastive pretraining, and fine-tuning.

What is trained is an encoder with an objective's head; where its inputs come
from is a source. A run that is interrupted goes on at its last whole epoch and
ends bit-identical to one that was not: each epoch's randomness depends only on
the seed and the epoch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core._allocator import keep_freed_memory
from ssnas_core._checkpoints import OnEpoch as OnEpoch
from ssnas_core._checkpoints import keep_epoch, resume, told_of
from ssnas_core._checkpoints import load_checkpoint as load_checkpoint
from ssnas_core._checkpoints import save_checkpoint as save_checkpoint
from ssnas_core._joined_norm import join_norms
from ssnas_core._processes import average_gradients, place, same_start
from ssnas_core.errors import InputError
from ssnas_core.objectives import Objective, Source

log = logging.getLogger(__name__)


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
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise InputError(
                "training needs epochs >= 1, batch_size >= 2 and learning_rate > 0, got "
                f"{self.epochs}, {self.batch_size} and {self.learning_rate}."
            )


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
    precision: str = "float32",
) -> list[dict[str, Any]]:
    """Train `model` in place on the samples `indices` of `source`.

    Where torch.distributed has a process group, all its processes are to call
    this with the same arguments: they train one model, and divide each batch.

    Args:
        model: encoder and head, on the device to train on.
        source: where views come from, on the model's device (`objectives.OnDevice`).
        objective: gives the loss.
        indices: (n,) sample numbers, n >= 2.
        config: optimiser and schedule.
        seed: decides the order of samples, views and dropout.
        checkpoint: a file to save to after each epoch and to go on from.
        progress: label of a progress bar on standard error; none without it.
        on_epoch: called with the history after each epoch, once that is in the
            checkpoint; and when going on from one, with what it holds; in the first
            process alone.
        precision: of the network's products while training, see `loss_of`.

    Returns:
        One entry per epoch: `epoch`, `loss`, and the objective's report at the end.

    Raises:
        InputError: fewer than two samples, a loss that is not finite, or a
            checkpoint of another model, seed, configuration, number of samples or of
            processes.
    """
    from tqdm.auto import tqdm

    keep_freed_memory()
    if len(indices) < 2:
        raise InputError(f"training needs at least two samples, got {len(indices)}.")
    batch = min(config.batch_size, len(indices))
    steps = len(indices) // batch
    epochs = steps_of(len(indices), config) // steps
    join_norms(model)
    same_start(model)
    loss_at = loss_of(model, objective, precision)
    optimizer, schedule = _optimizer(model, config, epochs * steps)
    parts = {"model": model, "optimizer": optimizer}
    told = told_of(seed, config, len(indices), precision=precision)
    history = resume(checkpoint, parts, told) or []
    if history:
        keep_epoch(None, parts, history, told, on_epoch)
    bar = tqdm(
        total=epochs * steps,
        initial=len(history) * steps,
        desc=progress,
        unit="step",
        disable=progress is None or place() > 0,
        leave=False,
    )
    with bar:
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
            keep_epoch(checkpoint, parts, history, told, on_epoch)
    model.eval()
    return history


def steps_of(samples: int, config: TrainConfig) -> int:
    """Steps that `fit` takes on so many samples, in whole epochs."""
    steps = samples // min(config.batch_size, samples)
    return steps * max(config.epochs, math.ceil(config.min_steps / steps))


def loss_of(
    model: nn.Module, objective: Objective, precision: str
) -> Callable[[Source, Tensor, torch.Generator], Tensor]:
    """The objective's loss of `model`, as a function of what it is taken on.

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


def batches(indices: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`indices` in random order, in whole batches; a last smaller one is dropped."""
    order = indices[torch.randperm(len(indices), generator=generator)]
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]


@contextmanager
def seeded(*seed: int, apart: bool = False) -> Iterator[torch.Generator]:
    """A generator for `seed`, and torch's global one (dropout, initial weights) set alike.

    The caller's global state is restored at the end, so that what is inside
    depends on nothing but `seed`. With `apart` the global one differs between
    processes that work together, as dropout on their shares of a batch has to.

    Raises:
        InputError: a number that is negative or not whole.
    """
    import numpy

    try:
        words, own = (
            numpy.random.SeedSequence(seed, spawn_key=key).generate_state(2)
            for key in ((), (place(),) if apart and place() else ())
        )
    except (TypeError, ValueError) as error:
        bad = next((n for n in seed if not isinstance(n, int) or n < 0), seed)
        raise InputError(f"a seed must be a whole number >= 0, got {bad}.") from error
    value, chance = (int(pair[0]) << 31 ^ int(pair[1]) for pair in (words, own))
    with torch.random.fork_rng():
        torch.manual_seed(chance)
        yield torch.Generator().manual_seed(value + 1)


def finite(loss: Tensor, epoch: int, model: nn.Module, checkpoint: Path | None = None) -> float:
    """The mean loss of an epoch as a number.

    Raises:
        InputError: it is NaN or infinite, or the last step made the weights so.
    """
    value = float(loss)
    what = "" if math.isfinite(value) else f"the loss became {value}"
    if not what and not all(bool(p.isfinite().all()) for p in model.parameters()):
        what = "the weights became NaN or infinite"
    if what:
        kept = checkpoint is not None and Path(checkpoint).exists()
        raise InputError(
            f"{what} in epoch {epoch}; lower the learning rate, or look for NaN in the features."
            + (f" The last whole epoch is kept in {checkpoint}." if kept else "")
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
