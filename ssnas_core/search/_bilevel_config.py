"""Choices of the bilevel search: optimisers, schedules, and what keeps it from collapsing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ssnas_core.errors import InputError

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


def warm_restarts(epoch: float, config: BilevelConfig) -> float:
    """Learning rate of the weights at a fractional epoch (SGDR, arXiv:1608.03983, eq. 5)."""
    start, period = 0.0, float(config.restart_epochs)
    while epoch >= start + period:
        start, period = start + period, period * config.restart_factor
    fall = 0.5 * (1 + math.cos(math.pi * (epoch - start) / period))
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * fall
