"""Trials: architectures tried one by one, each trained briefly and judged on dev.

What the strategies that try share. A strategy is a pure function of its seed and
of the losses that it is told, so its only state to save is the trials' results:
after a kill it begins anew, and is told what was measured before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from ssnas_core.common.distributed import on_rank_zero
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_json, write_json
from ssnas_core.common.random import seeded
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.search.context import SearchContext
from ssnas_core.spaces.base import BuildableSpace
from ssnas_core.spaces.genotype import Genotype, SearchResult
from ssnas_core.training.checkpoints import (
    load_checkpoint,
    same_run,
    save_checkpoint,
    told_of,
)
from ssnas_core.training.loop import TrainConfig, finite, fit, loss_of, steps_of


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """The base of configurations of strategies that try.

    Args:
        train: how each architecture is trained.
    """

    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=3))

    def as_long_as(self, samples: int) -> Self:
        """The same, each trial with at least as many steps as on `samples` training samples."""
        least = self.train.epochs * (samples // min(self.train.batch_size, samples))
        train = replace(self.train, min_steps=max(self.train.min_steps, least))
        return replace(self, train=train)

    def steps(self, history: Sequence[Mapping[str, Any]], train: int, dev: int) -> int:
        """Steps of all trials in a search of that history, on so many samples."""
        trained = sum("dev_loss" in trial and "repeats" not in trial for trial in history)
        return trained * steps_of(train, self.train)


class Trials:
    """Architectures tried one by one: each trained briefly, judged by the objective's loss on dev.

    Args:
        space: builds the networks; another may be named trial by trial.
        source: where views come from.
        objective: gives head and loss.
        context: samples, seed, device and files; each trial sees the same dev batches and views.
        config: the strategy's, whole: a checkpoint is of one configuration.
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
        context: SearchContext,
        config: TrialConfig,
        *,
        total: int | None = None,
        shared: dict[str, Tensor] | None = None,
    ) -> None:
        train, dev = len(context.train), len(context.dev)
        if dev < 2:
            raise InputError(
                f"a search by trials needs two dev samples, got {dev}; raise the ratio."
            )
        self.space, self.source, self.objective = space, source, objective
        self.context, self.config, self.total, self.shared = context, config.train, total, shared
        self.history: list[dict[str, Any]] = []
        self._told = told_of(context.seed, config, train, dev, precision=context.precision)
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
                f"{self.context.checkpoint} is of another search; delete it or use another folder."
            )
        return self._kept[trial]

    def _add(self, genotype: Genotype, entry: dict[str, Any], save: bool = False) -> None:
        self._tried.append(genotype)
        self.history.append(entry)
        if save:
            on_rank_zero(partial(self._tell, self.history, save=True))

    def _train(self, genotype: Genotype, space: BuildableSpace) -> float:
        trial, context = len(self.history), self.context
        with seeded(context.seed, 1, trial):
            encoder = space.build(genotype)
            model = nn.Sequential(encoder, self.objective.head(space.width))
        self._start_shared(encoder)
        model = model.to(context.device)
        label = context.progress and f"{context.progress} {trial + 1}"
        label = f"{label}/{self.total}" if label and self.total else label
        fit(
            model, self.source, self.objective, context.train, self.config,
            seed=context.seed, progress=label, precision=context.precision,
        )  # fmt: skip
        loss_at = loss_of(model, self.objective, context.precision)
        # The same dev batches and views for every trial.
        with seeded(context.seed, 2) as generator, torch.no_grad():
            size = min(self.config.batch_size, len(context.dev))
            losses = [
                loss_at(self.source, rows, generator)
                for rows in context.dev.split(size)
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
        path = self.context.checkpoint
        if save and path is not None:
            if self.shared is None:
                write_json(path, {"told": self._told, "trials": history})
            else:
                save_checkpoint(path, {}, history, told=self._told, shared=self.shared)
        if self.context.on_epoch is not None:
            self.context.on_epoch(list(history))

    def _saved(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """The trials and the shared weights that the checkpoint holds, once they are told.

        Raises:
            InputError: they are of another run, or something else.
        """
        path = self.context.checkpoint
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
