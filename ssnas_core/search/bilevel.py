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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssnas_core._allocator import keep_freed_memory
from ssnas_core._checkpoints import keep_epoch, resume, told_of
from ssnas_core._joined_norm import join_norms
from ssnas_core._processes import average, average_gradients, place, same_start
from ssnas_core.errors import InputError
from ssnas_core.genotype import Genotype, SearchResult
from ssnas_core.objectives import Objective, Source
from ssnas_core.search._bilevel_config import BilevelConfig as BilevelConfig
from ssnas_core.search._bilevel_config import warm_restarts as warm_restarts
from ssnas_core.search._second_order import unrolled_gradient
from ssnas_core.search._stable import (
    WINDOW,
    check_samples,
    curvature,
    epoch_before_sharp,
    importances,
    risen,
    sampled,
    smooth_maximum,
)
from ssnas_core.search._turns import steps_of, turns
from ssnas_core.training import OnEpoch, finite, loss_of, seeded


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
    on_epoch: OnEpoch | None = None,
    precision: str = "float32",
) -> SearchResult:
    """Search `space` by gradient.

    Where torch.distributed has a process group, all its processes are to call
    this with the same arguments: they search together, and divide each batch.

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
        on_epoch: called with the history after each epoch, once that is in the
            checkpoint; and when going on from one, with what it holds; in the first
            process alone.
        precision: of the supernet's products, "float32" or "bfloat16".

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
    same_start(model)
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
        desc=progress,
        unit="step",
        disable=progress is None or place() > 0,
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
                    average(rises.values())  # the same in all processes, to the last bit
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
