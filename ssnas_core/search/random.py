"""Random search: draw architectures, train each briefly, keep the best on dev.

The control that every search has to beat (Li & Talwalkar 2019, arXiv:1902.07638).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ssnas_core.common.random import seeded
from ssnas_core.common.typed import check_fields
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.search.context import SearchContext
from ssnas_core.search.trials import TrialConfig, Trials
from ssnas_core.spaces.base import Space
from ssnas_core.spaces.genotype import SearchResult
from ssnas_core.training.checkpoints import keep_epoch


@dataclass(frozen=True, kw_only=True)
class RandomConfig(TrialConfig):
    """Random search: the best of some drawn architectures.

    Args:
        trials: how many are drawn, trained and judged.
    """

    needs: ClassVar[tuple[str, ...]] = ("sample", "build")

    trials: int = 10

    def __post_init__(self) -> None:
        check_fields(self, trials=1)

    def search(
        self, space: Space, source: Source, objective: Objective, context: SearchContext
    ) -> SearchResult:
        """`random_search` with this configuration."""
        return random_search(space, source, objective, context, self)


def random_search(
    space: Space,
    source: Source,
    objective: Objective,
    context: SearchContext,
    config: RandomConfig | None = None,
) -> SearchResult:
    """Return the best of `config.trials` random architectures by the objective's loss on dev.

    With `trials=1` it is one random draw and nothing is trained. Errors are those of `Trials`.

    Returns:
        The genotype of the lowest dev loss; a history with `trial`, `genotype`
        and `dev_loss` of each trial; no state.
    """
    config = config or RandomConfig()
    with seeded(context.seed, 0) as generator:
        drawn = [space.sample(generator) for _ in range(config.trials)]
    if config.trials == 1:
        history = [{"trial": 0, "genotype": str(drawn[0])}]
        keep_epoch(None, {}, history, "", context.on_epoch)
        return SearchResult(drawn[0], tuple(history))
    trials = Trials(space, source, objective, context, config, total=config.trials)
    for genotype in drawn:
        trials.evaluate(genotype)
    return trials.best()
