"""First-order bilevel search: weights on one part, architecture on the other (DARTS, BM-NAS).

The weight step lowers the loss on `train` with the logits fixed, the
architecture step the loss on `dev` with the weights fixed (arXiv:1806.09055,
sec. 2.3, xi = 0). A strategy sees a supernet's named logits and a loss, and
knows neither the space behind the first nor the objective behind the second.

Deviation from BM-NAS's code: the levels alternate by step, as in its paper's
algorithm, not by whole epochs; after each epoch's last dev batch, dev starts again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssnas_core.errors import InputError
from ssnas_core.genotype import Genotype, SearchResult
from ssnas_core.objectives import Objective, Source
from ssnas_core.training import (
    batches,
    finite,
    load_checkpoint,
    restore,
    save_checkpoint,
    seeded,
)


class GradientSpace(Protocol):
    """What a gradient strategy asks of a space."""

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        ...

    def supernet(self) -> nn.Module:
        """All choices at once, with a `logits` mapping of named parameters."""
        ...

    def derive(self, logits: Any) -> Genotype:
        """The genotype that the logits stand for."""
        ...


@dataclass(frozen=True, kw_only=True)
class BilevelConfig:
    """Optimisers and schedules. Defaults: BM-NAS on MM-IMDB (its Table 8).

    Args:
        epochs: passes over `train`.
        batch_size: samples in a step of either level.
        learning_rate, min_learning_rate: of the weights; cosine with warm
            restarts after `restart_epochs`, each period `restart_factor` times
            the last.
        weight_decay: L2 of the weights, inside Adam.
        arch_learning_rate, arch_betas, arch_weight_decay: of the logits.
    """

    epochs: int = 12
    batch_size: int = 96
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-6
    restart_epochs: int = 1
    restart_factor: int = 2
    weight_decay: float = 1e-4
    arch_learning_rate: float = 3e-4
    arch_betas: tuple[float, float] = (0.5, 0.999)
    arch_weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise InputError(
                "a search needs epochs >= 1 and batch_size >= 2, got "
                f"{self.epochs} and {self.batch_size}."
            )
        if self.restart_epochs < 1 or self.restart_factor < 1:
            raise InputError(
                "restart_epochs and restart_factor must be >= 1, got "
                f"{self.restart_epochs} and {self.restart_factor}."
            )


def bilevel(
    space: GradientSpace,
    source: Source,
    objective: Objective,
    *,
    train: Tensor,
    dev: Tensor,
    config: BilevelConfig | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: str | None = None,
) -> SearchResult:
    """Search `space` by gradient.

    Args:
        space: gives the supernet and derives genotypes from its logits.
        source: views of the samples.
        objective: the loss of both levels.
        train, dev: (n,) sample numbers for the weights and for the logits; for
            a supervised objective, the labelled ones.
        config: optimisers and schedules.
        seed: decides initial weights and logits, sample order, views, dropout.
        device: where the supernet lives; `source` must give tensors there (`objectives.OnDevice`).
        checkpoint: a file to save to after each epoch and to go on from.
        progress: label of a progress bar; none without it.

    Returns:
        The genotype derived at the end; a history with, per epoch (entry 0 is
        the start), `train_loss`, `arch_loss`, every logit, the derived
        genotype, and the objective's report on dev; and the supernet's state.

    Raises:
        InputError: fewer than two samples in a part, or a loss that is not finite.
    """
    from tqdm.auto import tqdm

    config = config or BilevelConfig()
    if min(len(train), len(dev)) < 2:
        raise InputError(
            f"bilevel search needs two samples in each part, got {len(train)} train and "
            f"{len(dev)} dev; raise the label ratio."
        )
    with seeded(seed, 0):
        supernet = space.supernet().to(device)
        model = nn.Sequential(supernet, objective.head(space.width).to(device))
    logits = dict(supernet.logits.items())  # type: ignore[union-attr]
    held = {id(p) for p in logits.values()}
    weights = [p for p in model.parameters() if id(p) not in held]
    optimizers = {
        "weights": torch.optim.Adam(
            weights, lr=config.learning_rate, weight_decay=config.weight_decay
        ),
        "logits": torch.optim.Adam(
            list(logits.values()),
            lr=config.arch_learning_rate,
            betas=config.arch_betas,
            weight_decay=config.arch_weight_decay,
        ),
    }
    parts = {"model": model, **optimizers}
    sizes = {"train": min(config.batch_size, len(train)), "dev": min(config.batch_size, len(dev))}
    steps = len(train) // sizes["train"]

    history = [{"epoch": 0, **_snapshot(space, logits)}]
    saved = load_checkpoint(checkpoint)
    if saved is not None:
        restore(saved, parts, str(checkpoint))
        history = saved["history"]
    bar = tqdm(
        total=config.epochs * steps,
        initial=(len(history) - 1) * steps,
        desc=progress,
        unit="step",
        disable=progress is None,
        leave=False,
    )
    with bar:
        for epoch in range(len(history), config.epochs + 1):
            with seeded(seed, epoch) as generator:
                model.train()
                totals = torch.zeros(2)
                dev_batches = _forever(dev, sizes["dev"], generator)
                for step, rows in enumerate(batches(train, sizes["train"], generator)):
                    rate = warm_restarts(epoch - 1 + step / steps, config)
                    optimizers["weights"].param_groups[0]["lr"] = rate
                    for level, part, optimizer in (
                        (0, rows, optimizers["weights"]),
                        (1, next(dev_batches), optimizers["logits"]),
                    ):
                        _require_grad(weights, level == 0)
                        _require_grad(logits.values(), level == 1)
                        loss = objective.loss(model, source, part, generator)
                        optimizer.zero_grad(set_to_none=True)
                        loss.backward()
                        optimizer.step()
                        totals[level] += loss.detach().cpu()
                    bar.update()
                means = [finite(total, epoch, model) for total in totals / steps]
                model.eval()
                report = objective.report(model, source, dev[:256], generator)
            history.append(
                {
                    "epoch": epoch,
                    "train_loss": means[0],
                    "arch_loss": means[1],
                    **report,
                    **_snapshot(space, logits),
                }
            )
            bar.set_postfix(loss=f"{means[0]:.3f}")
            if checkpoint is not None:
                save_checkpoint(checkpoint, parts, history)
    state = {name: value.detach().cpu() for name, value in supernet.state_dict().items()}
    return SearchResult(space.derive(logits), tuple(history), state)


def warm_restarts(epoch: float, config: BilevelConfig) -> float:
    """Learning rate of the weights at a fractional epoch (SGDR, arXiv:1608.03983, eq. 5)."""
    start, period = 0.0, float(config.restart_epochs)
    while epoch >= start + period:
        start, period = start + period, period * config.restart_factor
    fall = 0.5 * (1 + math.cos(math.pi * (epoch - start) / period))
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * fall


def _snapshot(space: GradientSpace, logits: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "logits": {name: value.detach().tolist() for name, value in logits.items()},
        "genotype": str(space.derive(logits)),
    }


def _forever(indices: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from batches(indices, size, generator)


def _require_grad(parameters: Any, on: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(on)
