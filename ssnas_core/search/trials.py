"""Trials: architectures tried one by one, each trained briefly and judged on dev.

What the strategies that try share. A strategy is a pure function of its seed and
of the losses that it is told, so its only state to save is the trials' results:
after a kill it begins anew, and is told what was measured before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssnas_core.common.distributed import on_rank_zero
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_json, write_json
from ssnas_core.common.random import seeded
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.spaces.base import BuildableSpace
from ssnas_core.spaces.genotype import Genotype, SearchResult
from ssnas_core.training.checkpoints import (
    OnEpoch,
    load_checkpoint,
    same_run,
    save_checkpoint,
    told_of,
)
from ssnas_core.training.loop import TrainConfig, finite, fit, loss_of


class TrialConfig(Protocol):
    """What a trial asks of a strategy's configuration."""

    @property
    def train(self) -> TrainConfig:
        """How each architecture is trained."""
        ...


class Trials:
    """Architectures tried one by one: each trained briefly, judged by the objective's loss on dev.

    Args:
        space: builds the networks; another may be named trial by trial.
        source: where views come from.
        objective: gives head and loss.
        train: (n,) sample numbers to train on.
        dev: (m,) sample numbers to judge on, m >= 2; the same batches and views in each trial.
        config: the strategy's, whole: a checkpoint is of one configuration.
        seed: decides each trial, with its number.
        device: where to train.
        checkpoint: a file to save to after each trial and to go on from.
        progress: label of a progress bar on standard error; none without it.
        on_epoch: called with the history after each trial, and when going on from a checkpoint
            with what it holds.
        precision: as in `training.fit`.
        total: how many trials there will be, for the label.
        shared: weights by key, from which networks start and which they leave changed,
            by their `sharing()`: name in the state dict -> key; those without it share
            nothing. They are kept in the checkpoint, and given back when going on from it.

    Raises:
        InputError: fewer than two dev samples, or a checkpoint of another run.
    """

    def __init__(
        self,
        space: BuildableSpace,
        source: Source,
        objective: Objective,
        *,
        train: Tensor,
        dev: Tensor,
        config: TrialConfig,
        seed: int,
        device: torch.device | str = "cpu",
        checkpoint: Path | None = None,
        progress: str | None = None,
        on_epoch: OnEpoch | None = None,
        precision: str = "float32",
        total: int | None = None,
        shared: dict[str, Tensor] | None = None,
    ) -> None:
        if len(dev) < 2:
            raise InputError(
                f"a search by trials needs two dev samples, got {len(dev)}; raise the ratio."
            )
        self.space, self.source, self.objective = space, source, objective
        self.train, self.dev, self.config = train, dev, config.train
        self.seed, self.device, self.precision = seed, device, precision
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.progress, self.on_epoch, self.total = progress, on_epoch, total
        self.shared = shared
        self.history: list[dict[str, Any]] = []
        self._told = told_of(seed, config, len(train), len(dev), precision=precision)
        self._tried: list[Genotype] = []
        self._kept, weights = on_rank_zero(self._saved)
        if shared is not None:
            shared.update(weights)

    def evaluate(
        self, genotype: Genotype, *, space: BuildableSpace | None = None, **extra: Any
    ) -> float:
        """The loss on dev of the next trial, in the units of the objective.

        While the checkpoint holds it, it is only read.

        Args:
            genotype: the architecture to train and judge.
            space: the space that builds it; the trials' own by default.
            extra: what else its entry in the history says, plain JSON values.

        Raises:
            InputError: the checkpoint holds another architecture there, or a loss that
                is not finite.
        """
        trial, entry = len(self.history), self._replayed(genotype)
        if entry is None:
            loss = self._train(genotype, space or self.space)
            entry = {"trial": trial, "genotype": str(genotype), "dev_loss": loss, **extra}
            self._add(genotype, entry, save=True)
        else:
            self._add(genotype, entry)
        return entry["dev_loss"]

    def evaluate_once(self, genotype: Genotype, **extra: Any) -> float:
        """As `evaluate`; one tried before is not trained again, and its entry `repeats` that."""
        name = str(genotype)
        first = next((one for one in self.history if one["genotype"] == name), None)
        if first is None:
            return self.evaluate(genotype, **extra)
        entry = self._replayed(genotype)
        new = entry is None
        if entry is None:
            entry = {
                "trial": len(self.history),
                "genotype": name,
                "dev_loss": first["dev_loss"],
                "repeats": first["trial"],
                **extra,
            }
        self._add(genotype, entry, save=new)
        return entry["dev_loss"]

    def best(self, among: Iterable[int] | None = None) -> SearchResult:
        """The genotype of the lowest loss (the first of equals), and the whole history.

        Args:
            among: numbers of the trials to choose from; all by default.
        """
        numbers = range(len(self.history)) if among is None else among
        best = min(numbers, key=lambda trial: self.history[trial]["dev_loss"])
        return SearchResult(self._tried[best], tuple(self.history))

    def _replayed(self, genotype: Genotype) -> dict[str, Any] | None:
        """The next trial's entry as the checkpoint holds it, if it does."""
        trial = len(self.history)
        if trial >= len(self._kept):
            return None
        if self._kept[trial]["genotype"] != str(genotype):
            raise InputError(
                f"{self.checkpoint} is of another search; delete it or use another folder."
            )
        return self._kept[trial]

    def _add(self, genotype: Genotype, entry: dict[str, Any], save: bool = False) -> None:
        self._tried.append(genotype)
        self.history.append(entry)
        if save:
            on_rank_zero(partial(self._tell, self.history, save=True))

    def _train(self, genotype: Genotype, space: BuildableSpace) -> float:
        trial = len(self.history)
        with seeded(self.seed, 1, trial):
            encoder = space.build(genotype)
            model = nn.Sequential(encoder, self.objective.head(space.width))
        self._start_shared(encoder)
        model = model.to(self.device)
        label = self.progress and f"{self.progress} {trial + 1}"
        label = f"{label}/{self.total}" if label and self.total else label
        fit(
            model, self.source, self.objective, self.train, self.config,
            seed=self.seed, progress=label, precision=self.precision,
        )  # fmt: skip
        loss_at = loss_of(model, self.objective, self.precision)
        # The same dev batches and views for every trial.
        with seeded(self.seed, 2) as generator, torch.no_grad():
            size = min(self.config.batch_size, len(self.dev))
            losses = [
                loss_at(self.source, rows, generator)
                for rows in self.dev.split(size)
                if len(rows) == size
            ]
        loss = finite(torch.stack(losses).mean(), self.config.epochs, model)
        self._keep_shared(encoder)
        return on_rank_zero(lambda: loss)  # from it the next architecture follows, in all processes

    def _start_shared(self, encoder: nn.Module) -> None:
        if self.shared is not None:
            weights = encoder.state_dict()  # which are the network's own, not copies
            for name, key in _sharing(encoder).items():
                if key in self.shared:
                    weights[name].copy_(self.shared[key])

    def _keep_shared(self, encoder: nn.Module) -> None:
        if self.shared is not None:
            weights = encoder.state_dict()
            for name, key in _sharing(encoder).items():
                self.shared[key] = weights[name].detach().to("cpu", copy=True)

    def _tell(self, history: list[dict[str, Any]], save: bool = False) -> None:
        if save and self.checkpoint is not None:
            if self.shared is None:
                write_json(self.checkpoint, {"told": self._told, "trials": history})
            else:
                save_checkpoint(self.checkpoint, {}, history, told=self._told, shared=self.shared)
        if self.on_epoch is not None:
            self.on_epoch(list(history))

    def _saved(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """The trials and the shared weights that the checkpoint holds, once they are told.

        Raises:
            InputError: they are of another run, or something else.
        """
        path = self.checkpoint
        if path is None or not path.exists():
            return [], {}
        saved: Any = read_json(path) if self.shared is None else load_checkpoint(path)
        saved = saved if isinstance(saved, dict) else {}
        same_run(saved.get("told"), self._told, str(path))
        trials = saved.get("trials" if self.shared is None else "history")
        weights = saved.get("shared", {})
        if not (
            isinstance(trials, list)
            and all(map(_is_trial, trials))
            and isinstance(weights, dict)
            and all(map(torch.is_tensor, weights.values()))
        ):
            raise InputError(f"{path} does not hold the trials of a search; delete it.")
        self._tell(trials)
        return trials, weights


def _sharing(encoder: nn.Module) -> Mapping[str, str]:
    """Which of a network's tensors are shared, and by which keys; a network need not say."""
    share = getattr(encoder, "sharing", None)
    return {} if share is None else share()


def _is_trial(entry: Any) -> bool:
    """Whether what a checkpoint holds can stand for a trial."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("genotype"), str)
        and isinstance(entry.get("dev_loss"), float)
        and math.isfinite(entry["dev_loss"])
    )
