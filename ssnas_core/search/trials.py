"""Trials: architectures tried one by one, each trained briefly and judged on dev.

The strategies that try share this. Such a strategy is a pure function of its seed and
of the losses that it gets, so its only state to save is the trials' results:
after a kill it begins anew, and gets what was measured before.

A strategy may end a trial early (`Stop`): it is then judged on dev after each epoch. Judging
changes nothing in it, so one that reaches its last epoch has the loss that it has anyway.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from ssnas_core.common.bars import progress_bar
from ssnas_core.common.distributed import on_rank_zero, rank, world_size
from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.common.workers import become_worker, dask_client, result_of
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.search.context import SearchContext
from ssnas_core.spaces.base import Space
from ssnas_core.spaces.genotype import Genotype, SearchResult
from ssnas_core.training.checkpoints import (
    load_checkpoint,
    same_run,
    save_checkpoint,
    settings_of,
)
from ssnas_core.training.loop import (
    TrainConfig,
    epochs_of,
    finite,
    fit,
    join,
    loss_of,
    mean_loss,
    parts_of,
    steps_of,
)

_MEASURED = ("dev_loss", "dev_losses", "stopped")

Stop = Callable[[int, float], bool]
"""Whether to end a trial, of the number of its epochs so far and its loss on dev after them."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """The base of configurations of strategies that try.

    Args:
        train: how each architecture is trained.
    """

    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=3))

    def as_long_as(self, samples: int) -> Self:
        """Return the same, each trial with at least as many steps as on `samples` samples."""
        train = replace(self.train, min_steps=steps_of(samples, self.train))
        return replace(self, train=train)

    def steps(self, history: Sequence[Mapping[str, Any]], train: int, dev: int) -> int:
        """Return how many steps all trials of that history took; repeats took none."""
        trained = [one for one in history if "dev_loss" in one and "repeats" not in one]
        epochs = epochs_of(train, self.train)
        done = sum(len(one["dev_losses"]) if "dev_losses" in one else epochs for one in trained)
        return done * steps_of(train, self.train) // epochs


class Trials:
    """Architectures tried one by one: each trained briefly, judged by the objective's loss on dev.

    Args:
        space: builds the networks; another may be named trial by trial.
        source: where views come from.
        objective: gives head and loss.
        context: samples, seed, device and files; all trials are judged on the same views.
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
        space: Space,
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
        self._tried: list[Genotype] = []
        self._settings = settings_of(context.seed, config, train, dev, precision=context.precision)
        self._stored, weights = on_rank_zero(self._load)
        if shared is not None:
            shared.update(weights)

    @property
    def epochs(self) -> int:
        """How long a trial is trained that is not stopped."""
        return epochs_of(len(self.context.train), self.config)

    def evaluate(
        self,
        genotype: Genotype,
        *,
        space: Space | None = None,
        stop: Stop | None = None,
        **extra: Any,
    ) -> float:
        """Return the loss on dev of the next trial, in the units of the objective.

        While the checkpoint holds it, it is only read.

        Args:
            genotype: the architecture to train and judge.
            space: the space that builds it; the trials' own by default.
            stop: asked after each epoch, in the first process, whether to go no further; told
                the last one as well, and all of a trial that is only read. The entry then has
                `dev_losses`, after each epoch, and `stopped` where it was.
            extra: more for its entry in the history, plain JSON values.

        Raises:
            InputError: the checkpoint holds another architecture there, or a loss that
                is not finite.
        """
        measure = partial(self._train, genotype, space or self.space, stop, len(self.history))
        return self._add(genotype, measure, extra, stop)

    def evaluate_once(self, genotype: Genotype, *, stop: Stop | None = None, **extra: Any) -> float:
        """As `evaluate`; one tried before is not trained again, and its entry `repeats` that."""
        name = str(genotype)
        first = next((entry for entry in self.history if entry["genotype"] == name), None)
        if first is None:
            return self.evaluate(genotype, stop=stop, **extra)
        known = {name: first[name] for name in _MEASURED if name in first}
        return self._add(genotype, lambda: {**known, "repeats": first["trial"]}, extra, stop)

    def at_once(
        self, genotypes: Iterable[Genotype], workers: int, *, stop: Stop | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the entry of each trial in order, as `evaluate_once` makes it.

        Up to `workers` trials are trained at once, each in a process of its own. Whichever ends
        first, `genotypes` is asked for trial n once those up to n - `workers` were yielded, and
        no more. What is yielded is in the checkpoint, and is not trained again; a killed worker's
        trial is given to another, and is the same there.

        Raises:
            InputError: as `evaluate`, or several workers in one of several processes.
        """
        if workers == 1:
            for genotype in genotypes:
                self.evaluate_once(genotype, stop=stop)
                yield self.history[-1]
            return
        if world_size() > 1:
            raise InputError(
                f"expected one worker where {world_size()} processes train each trial together, "
                f"got {workers}; launch one process, or set workers to 1."
            )
        assert self.shared is None and stop is None
        bare = copy.copy(self)  # what a worker needs
        bare.context = replace(self.context, checkpoint=None, on_epoch=None, progress=None)
        bare.history, bare._tried, bare._stored = [], [], []
        threads = max(1, torch.get_num_threads() // workers)
        waiting: deque[tuple[Genotype, Any]] = deque()
        bar = progress_bar(self.context.progress, self.total or 0, "trial", leave=False)
        with bar, dask_client(workers) as (client, refill):

            def ended() -> dict[str, Any]:
                genotype, future = waiting.popleft()
                if future is None:
                    self.evaluate_once(genotype)
                else:
                    self._add(genotype, partial(result_of, future, refill), {}, None)
                bar.update()
                return self.history[-1]

            for genotype in genotypes:
                trial = len(self._tried) + len(waiting)
                known = genotype in self._tried or any(genotype == one for one, _ in waiting)
                future = None
                if trial >= len(self._stored) and not known:
                    refill()
                    future = client.submit(
                        _train_as_worker, bare, genotype, trial, threads,
                        pure=False, priority=-trial,
                    )  # fmt: skip
                waiting.append((genotype, future))
                if len(waiting) == workers:
                    yield ended()
            while waiting:
                yield ended()

    def best(self, among: Iterable[int] | None = None) -> SearchResult:
        """Return the genotype of the lowest loss (the first of equals), and the whole history.

        Trials that were stopped are not compared with those that were not.

        Args:
            among: numbers of the trials to choose from; all by default.
        """
        numbers = range(len(self.history)) if among is None else among
        whole = [trial for trial in numbers if not self.history[trial].get("stopped")]
        best = min(whole, key=lambda trial: self.history[trial]["dev_loss"])
        return SearchResult(self._tried[best], tuple(self.history))

    def _add(
        self,
        genotype: Genotype,
        measure: Callable[[], dict[str, Any]],
        extra: Mapping[str, Any],
        stop: Stop | None,
    ) -> float:
        """Return the next trial's loss: the checkpoint's, or else what `measure` says."""
        trial, name = len(self.history), str(genotype)
        stored = trial < len(self._stored)
        if stored and self._stored[trial]["genotype"] != name:
            raise InputError(
                f"{self.context.checkpoint} is of another search; delete it or use another folder."
            )
        new = {} if stored else {"trial": trial, "genotype": name, **measure(), **extra}
        self._tried.append(genotype)
        entry = new or self._stored[trial]
        self.history.append(entry)
        if stop is not None and (stored or "repeats" in entry) and rank() == 0:
            for epoch, loss in enumerate(entry.get("dev_losses", ()), 1):
                stop(epoch, loss)
        if new:
            on_rank_zero(self._save)
        return entry["dev_loss"]

    def _train(
        self, genotype: Genotype, space: Space, stop: Stop | None, trial: int
    ) -> dict[str, Any]:
        """Train a network of `genotype`; return its `dev_loss`, and the report on dev."""
        context = self.context
        with seeded(context.seed, 1, trial):
            encoder = space.build(genotype)
            model = join(encoder, encoder, self.objective)
        shared = {} if self.shared is None else self.shared
        for key, weight in self._sharing(encoder):
            if key in shared:
                weight.copy_(shared[key])
        model = model.to(context.device)
        label = context.progress and f"{context.progress} {trial + 1}"
        label = f"{label}/{self.total}" if label and self.total else label
        losses: list[float] = []

        def judged(epochs: int) -> bool:
            losses.append(loss := self._judge(model, epochs))
            return stop is not None and on_rank_zero(partial(stop, epochs, loss))

        history = fit(
            model, self.source, self.objective, context.train, self.config, seed=context.seed,
            progress=label, precision=context.precision, stop=None if stop is None else judged,
        )  # fmt: skip
        stopped = stop is not None and len(history) < self.epochs
        if not stopped:
            judged(self.epochs)
        for key, weight in self._sharing(encoder):
            shared[key] = weight.detach().to("cpu", copy=True)
        with seeded(context.seed, 3) as generator:
            report = self.objective.report(model, self.source, context.dev[:256], generator)
        early = {} if stop is None else {"dev_losses": losses}
        early |= {"stopped": True} if stopped else {}
        # from the loss the next architecture follows, in all processes
        return on_rank_zero(lambda: {"dev_loss": losses[-1], **early, **report})

    def _judge(self, model: nn.Module, epochs: int) -> float:
        """Return the loss on dev, on the same batches and views for every trial and epoch."""
        model.eval()
        loss_at = loss_of(model, self.objective, self.context.precision)
        with seeded(self.context.seed, 2) as generator, torch.no_grad():
            parts = parts_of(self.context.dev, self.config.batch_size)
            return finite(mean_loss(loss_at, self.source, parts, generator), epochs, model)

    def _sharing(self, encoder: nn.Module) -> list[tuple[str, Tensor]]:
        """Return a network's own tensors that are shared, with their keys."""
        share: Any = getattr(encoder, "sharing", None)
        if self.shared is None or share is None:
            return []
        weights = encoder.state_dict()  # not copies
        return [(key, weights[name]) for name, key in share().items()]

    def _save(self) -> None:
        path, history = self.context.checkpoint, self.history
        if path is not None:
            save_checkpoint(path, {}, history, settings=self._settings, shared=self.shared or {})
        if self.context.on_epoch is not None:
            self.context.on_epoch(list(history))

    def _load(self) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Return the trials and the shared weights that the checkpoint holds, if there is one.

        Raises:
            InputError: they are of another run, or something else.
        """
        path = self.context.checkpoint
        saved = load_checkpoint(path)
        if saved is None:
            return [], {}
        same_run(saved.get("settings"), self._settings, str(path))
        trials: Any = saved["history"]
        weights: Any = saved.get("shared")
        tensors = isinstance(weights, dict) and all(map(torch.is_tensor, weights.values()))
        if not (tensors and all(map(_is_trial, trials))):
            raise InputError(f"{path} does not hold the trials of a search; delete it.")
        if self.context.on_epoch is not None:
            self.context.on_epoch(list(trials))
        return trials, weights


def _train_as_worker(
    trials: Trials, genotype: Genotype, trial: int, threads: int
) -> dict[str, Any]:
    """Return what `trials` measure of a trial, in a process that may be killed."""
    become_worker()
    torch.set_num_threads(threads)
    return trials._train(genotype, trials.space, None, trial)


def _is_trial(entry: Any) -> bool:
    """Whether an entry of a checkpoint can stand for a trial."""
    match entry:
        case {"genotype": str(), "dev_loss": float(loss)}:
            return math.isfinite(loss)
    return False
