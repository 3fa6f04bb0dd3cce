"""Regularised evolution: change one choice of a good architecture; the oldest dies.

Real et al. 2019 (arXiv:1802.01548), algorithm 1. The population is a queue: in each
cycle the best of a few architectures, drawn from it with replacement, has a child,
and the oldest leaves, however good it is. So what was lucky once has to prove itself
again through its children. Deviation: a child that was tried before is not trained
again; it joins with the loss that is known.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import torch

from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.search.context import SearchContext
from ssnas_core.search.trials import TrialConfig, Trials
from ssnas_core.spaces.base import ChoiceSpace
from ssnas_core.spaces.genotype import Genotype, SearchResult

_DRAWS = 10_000  # of a mutation; a space where so many fail has no other architecture near


@dataclass(frozen=True, kw_only=True)
class EvolutionConfig(TrialConfig):
    """Regularised evolution: the best of a few has a child, and the oldest dies.

    Args:
        population: P, how many live; the first are drawn at random.
        sample: S, how many compete to be the parent of the next.
        trials: how many are tried in all, the first ones included.
    """

    needs: ClassVar[tuple[str, ...]] = ("sample", "build", "decode", "encode")

    population: int = 10
    sample: int = 3
    trials: int = 40

    def __post_init__(self) -> None:
        if self.sample < 1 or not 1 <= self.population <= self.trials:
            raise InputError(
                "evolution needs sample >= 1 and 1 <= population <= trials, got "
                f"{self.sample}, {self.population} and {self.trials}; raise trials."
            )

    def search(
        self, space: ChoiceSpace, source: Source, objective: Objective, context: SearchContext
    ) -> SearchResult:
        """`evolution` with this configuration."""
        return evolution(space, source, objective, context, self)


def evolution(
    space: ChoiceSpace,
    source: Source,
    objective: Objective,
    context: SearchContext,
    config: EvolutionConfig | None = None,
) -> SearchResult:
    """Return the best of all architectures that lived, by the objective's loss on dev.

    Errors are those of `Trials`.

    Returns:
        The genotype of the lowest dev loss; a history with `trial`, `genotype` and
        `dev_loss` of each trial, the trial that is its `parent`, and the one that it
        `repeats`, where there is one; no state.
    """
    config = config or EvolutionConfig()
    trials = Trials(space, source, objective, context, config, total=config.trials)
    with seeded(context.seed, 0) as generator:
        first = [space.sample(generator) for _ in range(config.population)]
    living: deque[tuple[float, int, Genotype]] = deque(maxlen=config.population)  # by age
    for trial, genotype in enumerate(first):
        living.append((trials.evaluate_once(genotype), trial, genotype))
    for trial in range(config.population, config.trials):
        drawn = [living[_draw(len(living), generator)] for _ in range(config.sample)]
        _, parent, genotype = min(drawn, key=lambda member: member[0])
        child = _mutated(space, genotype, generator)
        loss = trials.evaluate_once(child, parent=parent)
        living.append((loss, trial, child))  # which drops the oldest
    return trials.best()


def _mutated(space: ChoiceSpace, genotype: Genotype, generator: torch.Generator) -> Genotype:
    """Return `genotype` with another random value of one random variable.

    Raises:
        InputError: there seems to be no such architecture.
    """
    choice = space.encode(genotype)
    free = [(name, len(values)) for name, values in space.variables.items() if len(values) > 1]
    for _ in range(_DRAWS if free else 0):
        name, size = free[_draw(len(free), generator)]
        value = (choice[name] + 1 + _draw(size - 1, generator)) % size
        child = space.decode({**choice, name: value})
        if child is not None and child != genotype:
            return child
    raise InputError(
        f"no change of one variable of {genotype!s:.300} makes another architecture; "
        "use a larger space, or random search."
    )


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
