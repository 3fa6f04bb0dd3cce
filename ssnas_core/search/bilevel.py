"""Bilevel search by gradient: weights on one part, architecture on the other (DARTS, BM-NAS).

The weight step lowers the loss on `train` with the logits fixed. The
architecture step lowers the loss on `dev`: with the weights fixed (first order,
arXiv:1806.09055, sec. 2.3, xi = 0), or with the weights that one step on `train`
would make of them (second order, eq. 7). A strategy sees a supernet's named
logits and a loss, and knows neither the space behind the first nor the
objective behind the second.

The levels alternate by step, as in BM-NAS's algorithm, where dev starts again
once it is used up; or by whole epochs of both, as in its released code.
Ways to keep this from collapsing (sampling, Beta-Decay, selection by perturbation,
early stop) are options, with their sources in `_stable`.
Deviation from DARTS: an architecture step comes after its weight step, and the
second order unrolls on the train batch of that step, not on the coming one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from ssnas_core.common.distributed import (
    all_mean,
    average_gradients,
    broadcast_parameters,
    join_norms,
    rank,
)
from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.search.context import SearchContext
from ssnas_core.search.stable import (
    WINDOW,
    check_samples,
    curvature,
    epoch_before_sharp,
    importances,
    risen,
    sampled,
    smooth_maximum,
    unrolled_gradient,
)
from ssnas_core.spaces.base import GradientSpace
from ssnas_core.spaces.genotype import SearchResult
from ssnas_core.training.checkpoints import keep_epoch, resume, told_of
from ssnas_core.training.loop import batches, finite, keep_freed_memory, loss_of

# Choices of the bilevel search: optimisers, schedules, and what keeps it from collapsing.


_SELECT = ("argmax", "perturbation")
_STOP = ("never", "eigenvalue")


@dataclass(frozen=True, kw_only=True)
class BilevelConfig:
    """Optimisers and schedules. Defaults: BM-NAS on MM-IMDB (its Table 8).

    Args:
        epochs: passes over `train`.
        min_steps: at least so many weight steps, by more epochs where samples are few.
        batch_size: samples in a step of either level.
        learning_rate, min_learning_rate: of the weights; cosine with warm
            restarts after `restart_epochs`, each period `restart_factor` times
            the last.
        weight_decay: L2 of the weights, inside Adam.
        arch_learning_rate, arch_betas, arch_weight_decay: of the logits.
        order: 1 or 2, DARTS's first or second order of the architecture gradient.
            The second costs about four times as much for each architecture step.
        alternate: an architecture step after each weight step, or one pass of
            them over `dev` after each pass of weight steps over `train`.
        sampling: "gumbel" draws one option of each choice in every step (GDAS).
        gumbel_temperature: its tau, linear from the first epoch to the last.
        beta_decay: the weight, in the last epoch, of Beta-Decay in the loss of the
            architecture steps (beta-DARTS); it grows linearly from 0 in the first.
        select: "perturbation" derives the genotype not from the logits but from how much the
            loss on dev rises without each option (DARTS-PT).
        stop: "eigenvalue" ends the search, and goes back 5 epochs, once the loss on dev gets
            sharp in the logits (RobustDARTS). Each epoch costs two passes for every logit more.
    """

    needs: ClassVar[tuple[str, ...]] = ("supernet", "derive")

    epochs: int = 12
    min_steps: int = 0
    batch_size: int = 96
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-6
    restart_epochs: int = 1
    restart_factor: int = 2
    weight_decay: float = 1e-4
    arch_learning_rate: float = 3e-4
    arch_betas: tuple[float, float] = (0.5, 0.999)
    arch_weight_decay: float = 1e-3
    order: Literal[1, 2] = 1
    alternate: Literal["step", "epoch"] = "step"
    sampling: Literal["softmax", "gumbel"] = "softmax"
    gumbel_temperature: tuple[float, float] = (10.0, 0.1)
    beta_decay: float = 0.0
    select: Literal["argmax", "perturbation"] = "argmax"
    stop: Literal["never", "eigenvalue"] = "never"

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
        if self.order not in (1, 2) or self.alternate not in ("step", "epoch"):
            raise InputError(
                "order must be 1 or 2 and alternate 'step' or 'epoch', got "
                f"{self.order!r} and {self.alternate!r}."
            )
        if self.sampling not in ("softmax", "gumbel") or not min(self.gumbel_temperature) > 0:
            raise InputError(
                "sampling must be 'softmax' or 'gumbel' and gumbel_temperature two numbers > 0, "
                f"got {self.sampling!r} and {self.gumbel_temperature}."
            )
        if not (self.min_steps >= 0 and 0 <= self.beta_decay < math.inf):
            raise InputError(
                "min_steps and beta_decay must be numbers >= 0, got "
                f"{self.min_steps} and {self.beta_decay}."
            )
        if self.select not in _SELECT or self.stop not in _STOP:
            raise InputError(
                f"select must be one of {_SELECT} and stop one of {_STOP}, got "
                f"{self.select!r} and {self.stop!r}."
            )
        if (self.select, self.stop) == (_SELECT[1], _STOP[1]):
            raise InputError(
                "select='perturbation' judges the supernet that the search ends with, and "
                "stop='eigenvalue' goes back to an earlier epoch: choose one of them."
            )

    def search(
        self, space: GradientSpace, source: Source, objective: Objective, context: SearchContext
    ) -> SearchResult:
        """`bilevel` with this configuration."""
        return bilevel(space, source, objective, context, self)

    def as_long_as(self, samples: int) -> Self:
        """The same, with at least as many weight steps as on `samples` training samples."""
        least = self.epochs * (samples // min(self.batch_size, samples))
        return replace(self, min_steps=max(self.min_steps, least))

    def steps(self, history: Sequence[Mapping[str, Any]], train: int, dev: int) -> int:
        """Steps of weights and of logits in a search of that history, on so many samples."""
        by_epoch = self.alternate == "epoch"
        return (len(history) - 1) * sum(steps_of(train, dev, self.batch_size, by_epoch))


def warm_restarts(epoch: float, config: BilevelConfig) -> float:
    """Learning rate of the weights at a fractional epoch (SGDR, arXiv:1608.03983, eq. 5)."""
    start, period = 0.0, float(config.restart_epochs)
    while epoch >= start + period:
        start, period = start + period, period * config.restart_factor
    fall = 0.5 * (1 + math.cos(math.pi * (epoch - start) / period))
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * fall


# In which order the two levels take their steps, and on which samples.


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


def bilevel(
    space: GradientSpace,
    source: Source,
    objective: Objective,
    context: SearchContext,
    config: BilevelConfig | None = None,
) -> SearchResult:
    """Search `space` by gradient.

    Where torch.distributed has a process group, all its processes are to call
    this with the same arguments: they search together, and divide each batch.

    Args:
        space: gives the supernet and derives genotypes from its logits.
        source: views of the samples.
        objective: the loss of both levels.
        context: samples (train for the weights, dev for the logits), seed, device and files.
        config: optimisers and schedules.

    Returns:
        The genotype derived at the end; a history with, per epoch (entry 0 is
        the start), `train_loss`, `arch_loss` (Beta-Decay included), every logit,
        the derived genotype, and the objective's report on dev; and the supernet's
        state. Where its last logits do not decide, the last entry also tells what does:
        `importance` of every option, or the epoch to go back to, `from_epoch`; its
        genotype is the one found, and the state's logits are then those that derive it.

    Raises:
        InputError: fewer than two samples in a part, a loss that is not finite, too few
            epochs to stop early, a supernet whose choices cannot be sampled, or a
            checkpoint of another space, seed, configuration or number of samples.
    """
    from tqdm.auto import tqdm

    keep_freed_memory()
    config = config or BilevelConfig()
    train, dev, seed, device = context.train, context.dev, context.seed, context.device
    checkpoint, on_epoch, precision = context.checkpoint, context.on_epoch, context.precision
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
            weights, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        ),
        "logits": torch.optim.Adam(
            list(logits.values()),
            lr=config.arch_learning_rate,
            betas=config.arch_betas,
            weight_decay=config.arch_weight_decay,
            fused=True,
        ),
    }
    free = [[p for p in part if p.requires_grad] for part in (weights, logits.values())]
    if not free[0] or not free[1]:
        raise InputError(
            "bilevel search needs weights and logits that require gradients, got "
            f"{len(free[0])} and {len(free[1])} tensors of them; do not freeze all of either."
        )
    if config.sampling == "gumbel":
        check_samples(supernet)
    join_norms(model)
    broadcast_parameters(model)
    loss_at = loss_of(model, objective, precision)
    parts = {"model": model, **optimizers}
    told = told_of(seed, config, len(train), len(dev), precision=precision)
    by_epoch = config.alternate == "epoch"
    steps = steps_of(len(train), len(dev), config.batch_size, by_epoch)
    epochs = max(config.epochs, math.ceil(config.min_steps / steps[0]))
    if config.stop == "eigenvalue" and epochs < 2 * WINDOW:
        raise InputError(
            f"stop='eigenvalue' compares means over {WINDOW} epochs and needs {2 * WINDOW} of "
            f"them, got {epochs}; search longer, or use stop='never'."
        )

    def arch_loss(source: Source, rows: Tensor, generator: torch.Generator) -> Tensor:
        loss = loss_at(source, rows, generator)
        return loss + decay * smooth_maximum(logits.values()) if config.beta_decay else loss

    def judged(batches: Sequence[Tensor]) -> Tensor:
        """The same loss on dev whenever weights and logits are the same."""
        with seeded(seed, 0, 1) as same:
            return torch.stack([judge(source, rows, same) for rows in batches]).mean()

    judge = loss_of(model, objective, "float32")
    size = min(config.batch_size, len(dev))
    judging = [rows for rows in dev.split(size) if len(rows) == size]

    history = [{"epoch": 0, **_snapshot(space, logits)}]
    saved = resume(checkpoint, parts, told)
    if saved is not None:
        history = saved
        keep_epoch(None, parts, history, told, on_epoch)
    bar = tqdm(
        total=epochs * sum(steps),
        initial=(len(history) - 1) * sum(steps),
        desc=context.progress,
        unit="step",
        disable=context.progress is None or rank() > 0,
        leave=False,
    )
    with bar:
        for epoch in range(len(history), epochs + 1):
            if "from_epoch" in history[-1]:
                break
            hot, cold = config.gumbel_temperature
            tau = hot + (cold - hot) * risen(epoch, epochs) if config.sampling == "gumbel" else None
            decay = config.beta_decay * risen(epoch, epochs)
            with seeded(seed, epoch, apart=True) as generator:
                model.train()
                totals = [torch.zeros(()), torch.zeros(())]  # of the losses, where they are
                rate, taken = 0.0, 0
                for level, rows, beside in turns(
                    train, dev, config.batch_size, generator,
                    by_epoch=by_epoch, unrolled=config.order == 2,
                ):  # fmt: skip
                    optimizer = optimizers["logits" if level else "weights"]
                    optimizer.zero_grad(set_to_none=True)
                    if level == 0:
                        rate = warm_restarts(epoch - 1 + taken / steps[0], config)
                        optimizer.param_groups[0]["lr"] = rate
                        taken += 1
                    with sampled(supernet, tau, generator):
                        if beside is None:
                            _require_grad(free[0], level == 0)
                            _require_grad(free[1], level == 1)
                            loss = (arch_loss if level else loss_at)(source, rows, generator)
                            loss.backward()
                            average_gradients(free[level])
                        else:
                            _require_grad(free[0] + free[1], True)
                            loss, gradient = unrolled_gradient(
                                partial(loss_at, source, beside),
                                partial(arch_loss, source, rows),
                                model=model,
                                weights=free[0],
                                logits=free[1],
                                rate=rate,
                                generator=generator,
                            )
                            for leaf, slope in zip(free[1], gradient, strict=True):
                                leaf.grad = slope
                    optimizer.step()
                    totals[level] = totals[level].to(loss.device) + loss.detach()
                    bar.update()
                means = [
                    finite(total, epoch, model, checkpoint)
                    for total in (totals[0] / steps[0], totals[1] / steps[1])
                ]
                model.eval()
                report = objective.report(model, source, dev[:256], generator)
            entry = {
                "epoch": epoch,
                "train_loss": means[0],
                "arch_loss": means[1],
                **report,
                **_snapshot(space, logits),
            }
            if config.stop == "eigenvalue":
                _require_grad(free[0], False)
                _require_grad(free[1], True)
                entry["eigenvalue"] = curvature(partial(judged, judging[:1]), free[1])
                found = epoch_before_sharp([e["eigenvalue"] for e in [*history[1:], entry]])
                if found is not None:
                    entry |= {"from_epoch": found, "genotype": history[found]["genotype"]}
            if config.select == "perturbation" and epoch == epochs:
                with torch.no_grad():
                    rises = importances(lambda: float(judged(judging)), logits)
                    all_mean(rises.values())  # the same in all processes, to the last bit
                entry["importance"] = {name: value.tolist() for name, value in rises.items()}
                entry["genotype"] = str(space.derive(rises))
            history.append(entry)
            bar.set_postfix(loss=f"{means[0]:.3f}")
            keep_epoch(checkpoint, parts, history, told, on_epoch)
    last = history[-1]
    decisive = last.get("importance", history[last.get("from_epoch", -1)]["logits"])
    with torch.no_grad():
        for name, leaf in logits.items():
            leaf.copy_(torch.tensor(decisive[name]))
    state = {name: value.detach().cpu() for name, value in supernet.state_dict().items()}
    return SearchResult(space.derive(logits), tuple(history), state)


def _snapshot(space: GradientSpace, logits: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "logits": {name: value.detach().tolist() for name, value in logits.items()},
        "genotype": str(space.derive(logits)),
    }


def _require_grad(parameters: Any, on: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(on)
