"""Random search: draw architectures, train each briefly, keep the best on dev.

The control that every search has to beat (Li & Talwalkar 2019, arXiv:1902.07638).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssnas_core._checkpoints import same_run, told_of
from ssnas_core._processes import by_first
from ssnas_core.errors import InputError
from ssnas_core.files import read_json, write_json
from ssnas_core.genotype import Genotype, SearchResult
from ssnas_core.objectives import Objective, Source
from ssnas_core.training import OnEpoch, TrainConfig, finite, fit, loss_of, seeded


class DrawableSpace(Protocol):
    """What a strategy that draws asks of a space."""

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        ...

    def sample(self, generator: torch.Generator) -> Genotype:
        """A random genotype."""
        ...

    def build(self, genotype: Genotype) -> nn.Module:
        """Its network, with fresh weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class RandomConfig:
    """How many architectures are tried, and how each is trained."""

    trials: int = 10
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=3))

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"random search needs trials >= 1, got {self.trials}.")


def random_search(
    space: DrawableSpace,
    source: Source,
    objective: Objective,
    *,
    train: Tensor,
    dev: Tensor,
    config: RandomConfig | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: str | None = None,
    on_epoch: OnEpoch | None = None,
    precision: str = "float32",
) -> SearchResult:
    """The best of `config.trials` random architectures by the objective's loss on dev.

    Args and errors are those of `bilevel`; `on_epoch` is called after each trial.
    With `trials=1` it is one random draw and nothing is trained.

    Returns:
        The genotype of the lowest dev loss; a history with `trial`, `genotype`
        and `dev_loss` of each trial; no state.
    """
    config = config or RandomConfig()
    history: list[dict[str, Any]] = []

    def tell(save_to: Path | None = None) -> None:
        if save_to is not None:
            write_json(save_to, {"told": told, "trials": history})
        if on_epoch is not None:
            on_epoch(list(history))

    told = told_of(seed, config, len(train), len(dev), precision=precision)
    with seeded(seed, 0) as generator:
        drawn = [space.sample(generator) for _ in range(config.trials)]
    if config.trials == 1:
        history = [{"trial": 0, "genotype": str(drawn[0])}]
        by_first(tell)
        return SearchResult(drawn[0], tuple(history))
    if len(dev) < 2:
        raise InputError(f"random search needs two dev samples, got {len(dev)}; raise the ratio.")
    if checkpoint is not None and Path(checkpoint).exists():
        history = _trials(Path(checkpoint), told, [str(genotype) for genotype in drawn])
        by_first(tell)
    for trial in range(len(history), config.trials):
        with seeded(seed, 1, trial):
            encoder = space.build(drawn[trial])
            model = nn.Sequential(encoder, objective.head(space.width)).to(device)
        label = None if progress is None else f"{progress} {trial + 1}/{config.trials}"
        fit(
            model, source, objective, train, config.train,
            seed=seed, progress=label, precision=precision,
        )  # fmt: skip
        loss_at = loss_of(model, objective, precision)
        # The same dev batches and views for every trial.
        with seeded(seed, 2) as generator, torch.no_grad():
            size = min(config.train.batch_size, len(dev))
            losses = [
                loss_at(source, rows, generator) for rows in dev.split(size) if len(rows) == size
            ]
        loss = finite(torch.stack(losses).mean(), config.train.epochs, model)
        history.append({"trial": trial, "genotype": str(drawn[trial]), "dev_loss": loss})
        by_first(partial(tell, checkpoint))
    best = min(range(config.trials), key=lambda trial: history[trial]["dev_loss"])
    return SearchResult(drawn[best], tuple(history))


def _trials(checkpoint: Path, told: str, drawn: list[str]) -> list[dict[str, Any]]:
    """The trials that a checkpoint holds.

    Raises:
        InputError: they are of another run, or of another space.
    """
    saved = read_json(checkpoint)
    saved = saved if isinstance(saved, dict) else {}
    same_run(saved.get("told"), told, str(checkpoint))
    history = saved.get("trials", [])
    if [trial["genotype"] for trial in history] != drawn[: len(history)]:
        raise InputError(f"{checkpoint} is of another search; delete it or use another folder.")
    return history
