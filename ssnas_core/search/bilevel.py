"""Bilevel search by gradient: weights on one part, architecture on the other (DARTS, BM-NAS).

The weights w and the logits a of all choices are two levels of one problem (DARTS, eq. 3):

    min over a of L_dev(w*(a), a),   where w*(a) = argmin over w of L_train(w, a).

The weight step lowers the loss on `train` with the logits fixed. The
architecture step lowers the loss on `dev`: with the weights fixed (first order,
arXiv:1806.09055, sec. 2.3, xi = 0), or with the weights that one step on `train`
would make of them (second order, eq. 7). A strategy sees a supernet's named
logits and a loss, and knows neither the space behind the first nor the
objective behind the second.

The levels alternate by step, as in BM-NAS's algorithm, where dev starts again
once it is used up; or by whole epochs of both, as in its released code.
Ways to keep this from collapsing (sampling, Beta-Decay, selection by perturbation,
early stop) are options, with their sources in `stable`.
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
from torch import Generator, Tensor

from ssnas_core.common.bars import progress_bar
from ssnas_core.common.distributed import (
    all_mean,
    average_gradients,
    broadcast_parameters,
    join_norms,
)
from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.common.typed import check_fields
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
from ssnas_core.training.checkpoints import keep_epoch, resume, settings_of
from ssnas_core.training.loop import (
    batches,
    cycled,
    finite,
    join,
    keep_freed_memory,
    loss_of,
    mean_loss,
    parts_of,
)


@dataclass(frozen=True, kw_only=True)
class BilevelConfig:
    """Bilevel search by gradient (DARTS). Defaults: BM-NAS on MM-IMDB (its Table 8).

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
    restart_epochs: int = 1  # of the first period of the learning rate
    restart_factor: int = 2  # by which each period is longer than the one before
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
        least = {"batch_size": 2, "min_steps": 0, "beta_decay": 0}
        check_fields(self, epochs=1, restart_epochs=1, restart_factor=1, **least)
        if not min(self.gumbel_temperature) > 0:
            raise InputError(
                "BilevelConfig.gumbel_temperature must be two numbers > 0, got "
                f"{self.gumbel_temperature}."
            )
        if self.select == "perturbation" and self.stop == "eigenvalue":
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
        """Return the same, with at least as many weight steps as on `samples` train samples."""
        least = self.epochs * self.steps_in_epoch(samples, samples)["weights"]
        return replace(self, min_steps=max(self.min_steps, least))

    def steps(self, history: Sequence[Mapping[str, Any]], train: int, dev: int) -> int:
        """Return how many steps, of both levels, a search of that history took."""
        return (len(history) - 1) * sum(self.steps_in_epoch(train, dev).values())

    def steps_in_epoch(self, train: int, dev: int) -> dict[str, int]:
        """Return the steps of each level on so many samples."""
        weights = train // min(self.batch_size, train)
        logits = dev // min(self.batch_size, dev) if self.alternate == "epoch" else weights
        return {"weights": weights, "logits": logits}

    def temperature(self, share: float) -> float | None:
        """Return tau at a share of the way from the first epoch to the last; None without one."""
        hot, cold = self.gumbel_temperature
        return hot + (cold - hot) * share if self.sampling == "gumbel" else None


def warm_restarts(epoch: float, config: BilevelConfig) -> float:
    """Return the rate of the weights at a fractional epoch (SGDR, arXiv:1608.03983, eq. 5)."""
    start, period = 0.0, float(config.restart_epochs)
    while epoch >= start + period:
        start, period = start + period, period * config.restart_factor
    fall = 0.5 * (1 + math.cos(math.pi * (epoch - start) / period))
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * fall


def turns(
    train: Tensor, dev: Tensor, config: BilevelConfig, generator: Generator
) -> Iterator[tuple[Literal["weights", "logits"], Tensor, Tensor | None]]:
    """Yield an epoch's steps: the level, its samples (N,), and train samples (N,) to unroll on.

    Only the second order's steps of the logits have samples to unroll on. A batch is smaller
    where a part has fewer samples.
    """
    size, dev_size = (min(config.batch_size, len(part)) for part in (train, dev))
    if config.alternate == "epoch":
        for rows in batches(train, size, generator):
            yield "weights", rows, None
        train_again = cycled(train, size, generator)
        for dev_rows in batches(dev, dev_size, generator):
            yield "logits", dev_rows, next(train_again) if config.order == 2 else None
    else:
        dev_again = cycled(dev, dev_size, generator)
        for rows in batches(train, size, generator):
            dev_rows = next(dev_again)
            yield "weights", rows, None
            yield "logits", dev_rows, rows if config.order == 2 else None


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
        context: `train` for the weights, `dev` for the logits, seed, device and files.
        config: optimisers and schedules.

    Returns:
        The genotype derived at the end; a history with, per epoch (entry 0 is
        the start), `train_loss`, `arch_loss` (Beta-Decay included), every logit,
        the derived genotype, and the objective's report on dev; and the supernet's
        state. Where its last logits do not decide, the last entry also has what does:
        `importance` of every option, or the epoch to go back to, `from_epoch`; its
        genotype is then the result, and the state's logits are those that derive it.

    Raises:
        InputError: fewer than two samples in a part, a loss that is not finite, too few
            epochs to stop early, a supernet whose choices cannot be sampled, or a
            checkpoint of another space, seed, configuration or number of samples.
    """
    # Set up: a supernet with a head; its weights learn on train, its logits on dev.
    keep_freed_memory()
    config = config or BilevelConfig()
    train, dev, checkpoint = context.train, context.dev, context.checkpoint
    if min(len(train), len(dev)) < 2:
        raise InputError(
            f"bilevel search needs two samples in each part, got {len(train)} train and "
            f"{len(dev)} dev; give more samples (a search with labels: a larger label ratio)."
        )
    levels = Levels(space, source, objective, context, config)
    steps = config.steps_in_epoch(len(train), len(dev))
    epochs = max(config.epochs, math.ceil(config.min_steps / steps["weights"]))
    if config.stop == "eigenvalue" and epochs < 2 * WINDOW:
        raise InputError(
            f"stop='eigenvalue' compares means over {WINDOW} epochs and needs {2 * WINDOW} of "
            f"them, got {epochs}; search longer, or use stop='never'."
        )
    settings = settings_of(context.seed, config, len(train), len(dev), precision=context.precision)
    history = resume(checkpoint, levels.parts, settings, context.on_epoch)
    history = history or [{"epoch": 0, **levels.snapshot()}]
    total, done = epochs * sum(steps.values()), (len(history) - 1) * sum(steps.values())
    with progress_bar(context.progress, total, "step", initial=done, leave=False) as bar:
        for epoch in range(len(history), epochs + 1):
            if "from_epoch" in history[-1]:  # the early stop
                break
            share = risen(epoch, epochs)
            # Step: a step of w down L_train, a step of a down L_dev, and so on.
            with seeded(context.seed, epoch, apart=True) as generator:
                levels.model.train()
                totals = {level: torch.zeros(()) for level in steps}  # of losses, where they are
                rate, taken = 0.0, 0
                for level, rows, unroll in turns(train, dev, config, generator):
                    with sampled(levels.supernet, config.temperature(share), generator):
                        if level == "weights":
                            rate = warm_restarts(epoch - 1 + taken / steps["weights"], config)
                            loss = levels.step_weights(rows, rate, generator)
                            taken += 1
                        else:
                            loss = levels.step_logits(rows, unroll, rate, share, generator)
                    totals[level] = totals[level].to(loss.device) + loss
                    bar.update()
                train_loss, arch_loss = (
                    finite(totals[level] / steps[level], epoch, levels.model, checkpoint)
                    for level in steps
                )
                levels.model.eval()
                report = objective.report(levels.model, source, dev[:256], generator)
            # Keep: the epoch's losses, logits and genotype, in the history and the checkpoint.
            entry = {"epoch": epoch, "train_loss": train_loss, "arch_loss": arch_loss, **report}
            entry |= levels.snapshot()
            entry |= levels.verdict(history, last=epoch == epochs)
            history.append(entry)
            bar.set_postfix(loss=f"{train_loss:.3f}")
            keep_epoch(checkpoint, levels.parts, history, settings, context.on_epoch)
    # Decide: by importances, or the logits of the epoch to go back to, or the last logits.
    last = history[-1]
    levels.set_logits(last.get("importance", history[last.get("from_epoch", -1)]["logits"]))
    state = {name: value.detach().cpu() for name, value in levels.supernet.state_dict().items()}
    return SearchResult(space.derive(levels.named), tuple(history), state)


class Levels:
    """A supernet with a head, and what each level moves: the weights w, or the logits a.

    Frozen tensors are in an optimiser, and get no gradient.

    Raises:
        InputError: a level has nothing to move, or the choices cannot be sampled.
    """

    def __init__(
        self,
        space: GradientSpace,
        source: Source,
        objective: Objective,
        context: SearchContext,
        config: BilevelConfig,
    ) -> None:
        self.space, self.source, self.config, self.seed = space, source, config, context.seed
        with seeded(context.seed, 0):
            self.supernet: Any = space.supernet()
            self.model = join(self.supernet, self.supernet, objective).to(context.device)
        self.named: dict[str, Tensor] = dict(self.supernet.logits.items())  # each (..., O)
        logits = list(self.named.values())
        weights = [p for p in self.model.parameters() if all(p is not one for one in logits)]
        self.weight_optimizer = torch.optim.Adam(
            weights, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.logit_optimizer = torch.optim.Adam(
            logits,
            lr=config.arch_learning_rate,
            betas=config.arch_betas,
            weight_decay=config.arch_weight_decay,
            fused=True,
        )
        self.weights = [p for p in weights if p.requires_grad]
        self.logits = [p for p in logits if p.requires_grad]
        if not self.weights or not self.logits:
            raise InputError(
                "bilevel search needs weights and logits that require gradients, got "
                f"{len(self.weights)} and {len(self.logits)} tensors of them; do not freeze all "
                "of either."
            )
        if config.sampling == "gumbel":
            check_samples(self.supernet)
        join_norms(self.model)
        broadcast_parameters(self.model)
        self.parts = {
            "model": self.model,
            "weights": self.weight_optimizer,
            "logits": self.logit_optimizer,
        }
        self.loss = loss_of(self.model, objective, context.precision)
        self.exact_loss = loss_of(self.model, objective, "float32")
        self.dev_parts = parts_of(context.dev, config.batch_size)

    def step_weights(self, rows: Tensor, rate: float, generator: Generator) -> Tensor:
        """Move w down the gradient of L_train(w, a), with a fixed; return the loss.

        Args:
            rows: (N,) train samples.
            rate: xi, the learning rate.
            generator: of views and dropout.
        """
        self.weight_optimizer.param_groups[0]["lr"] = rate
        self.weight_optimizer.zero_grad(set_to_none=True)
        self._learn(weights=True, logits=False)
        loss = self.loss(self.source, rows, generator)
        loss.backward()  # dL_train / dw
        average_gradients(self.weights)
        self.weight_optimizer.step()
        return loss.detach()

    def step_logits(
        self, rows: Tensor, unroll: Tensor | None, rate: float, share: float, generator: Generator
    ) -> Tensor:
        """Move a down the gradient of L_dev(w, a), with w fixed or unrolled; return the loss.

        Args:
            rows: (N,) dev samples.
            unroll: (N,) train samples of dL_train/dw in L_dev(w - xi dL_train/dw, a), whose
                gradient it then is; None for the first order.
            rate: xi, the learning rate of the last step of w.
            share: how much of Beta-Decay is in L_dev by now, 0 to 1.
            generator: of views and dropout.
        """

        def dev_loss(generator: Generator) -> Tensor:
            loss = self.loss(self.source, rows, generator)
            if self.config.beta_decay:
                loss = loss + self.config.beta_decay * share * smooth_maximum(self.named.values())
            return loss

        self.logit_optimizer.zero_grad(set_to_none=True)
        self._learn(weights=unroll is not None, logits=True)
        if unroll is None:
            loss = dev_loss(generator)
            loss.backward()  # dL_dev / da
            average_gradients(self.logits)
        else:
            loss, slopes = unrolled_gradient(
                partial(self.loss, self.source, unroll), dev_loss, model=self.model,
                weights=self.weights, logits=self.logits, rate=rate, generator=generator,
            )  # fmt: skip
            for leaf, slope in zip(self.logits, slopes, strict=True):
                leaf.grad = slope
        self.logit_optimizer.step()
        return loss.detach()

    def snapshot(self) -> dict[str, Any]:
        """Return every logit, and the genotype that they stand for, as JSON values."""
        logits = {name: value.detach().tolist() for name, value in self.named.items()}
        return {"logits": logits, "genotype": str(self.space.derive(self.named))}

    def verdict(self, history: Sequence[Mapping[str, Any]], last: bool) -> dict[str, Any]:
        """Return what judges the genotype beside the logits, for the epoch after `history`."""
        if self.config.stop == "eigenvalue":
            self._learn(weights=False, logits=True)
            value = curvature(partial(self._judged, self.dev_parts[:1]), self.logits)
            back = epoch_before_sharp([*(e["eigenvalue"] for e in history[1:]), value])
            if back is None:
                return {"eigenvalue": value}
            genotype = history[back]["genotype"]
            return {"eigenvalue": value, "from_epoch": back, "genotype": genotype}
        if self.config.select == "perturbation" and last:
            with torch.no_grad():
                rises = importances(lambda: float(self._judged(self.dev_parts)), self.named)
                all_mean(rises.values())  # the same in all processes, to the last bit
            values = {name: rise.tolist() for name, rise in rises.items()}
            return {"importance": values, "genotype": str(self.space.derive(rises))}
        return {}

    def _judged(self, parts: Sequence[Tensor]) -> Tensor:
        """Return L_dev, the same whenever w and a are the same."""
        with seeded(self.seed, 0, 1) as same:
            return mean_loss(self.exact_loss, self.source, parts, same)

    @torch.no_grad()
    def set_logits(self, values: Mapping[str, Any]) -> None:
        """Give every logit the value of its name."""
        for name, leaf in self.named.items():
            leaf.copy_(torch.tensor(values[name]))

    def _learn(self, *, weights: bool, logits: bool) -> None:
        """Let the levels have gradients, or not."""
        for leaves, on in ((self.weights, weights), (self.logits, logits)):
            for leaf in leaves:
                leaf.requires_grad_(on)
