"""TPE: draw each choice where good architectures have been denser than the others.

The tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS) as Optuna has it,
with what CSNAS (arXiv:2102.10557) asked of Hyperopt: random trials first, then the best
gamma * sqrt(n) of n trials are the good ones. Deviations from it:

- The densities are of all variables together, which repeats less; `joint=False` takes
  each variable by itself.
- A choice that makes no architecture (`space.decode` is None) counts for the estimator as
  worse than any trial, and another is drawn.
- An architecture that was tried before is not trained again: its known loss counts as one
  more trial.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from ssnas_core.common.distributed import on_rank_zero, rank
from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.search.context import SearchContext
from ssnas_core.search.trials import TrialConfig, Trials
from ssnas_core.spaces.base import ChoiceSpace
from ssnas_core.spaces.genotype import SearchResult

_DRAWS = 1_000  # in a row, without an architecture


@dataclass(frozen=True, kw_only=True)
class TPEConfig(TrialConfig):
    """TPE: draw choices where good ones were denser. Defaults: CSNAS's.

    Args:
        trials: how many are tried in all.
        startup: how many of them, the first, are drawn at random.
        gamma: so many times sqrt(n) of the n trials so far are the good ones, rounded up.
        joint: estimate densities of all variables together, not of each by itself.
    """

    needs: ClassVar[tuple[str, ...]] = ("build", "decode")

    trials: int = 40
    startup: int = 20
    gamma: float = 0.2
    joint: bool = True

    def __post_init__(self) -> None:
        if self.trials < 1 or self.startup < 1 or not 0 < self.gamma <= 1:
            raise InputError(
                "TPE needs trials >= 1, startup >= 1 and gamma in (0, 1], got "
                f"{self.trials}, {self.startup} and {self.gamma}."
            )

    def search(
        self, space: ChoiceSpace, source: Source, objective: Objective, context: SearchContext
    ) -> SearchResult:
        """`tpe` with this configuration."""
        return tpe(space, source, objective, context, self)


def tpe(
    space: ChoiceSpace,
    source: Source,
    objective: Objective,
    context: SearchContext,
    config: TPEConfig | None = None,
) -> SearchResult:
    """Return the best of the architectures that TPE tries, by the objective's loss on dev.

    Errors are those of `Trials`; and `InputError` where no choice makes an architecture.

    Returns:
        The genotype of the lowest dev loss; a history with `trial`, `genotype` and
        `dev_loss` of each trial, and the one that it `repeats`, where there is one;
        no state.
    """
    config = config or TPEConfig()
    trials = Trials(space, source, objective, context, config, total=config.trials)
    with seeded(context.seed, 0) as generator:
        study = _study()
    for trial in range(config.trials):
        # Only the first process's study is asked: what it answers hangs on rounding.
        number, choice = on_rank_zero(partial(_asked, study, space, config, trial, generator))
        genotype = space.decode(choice)
        assert genotype is not None
        loss = trials.evaluate_once(genotype)
        if rank() == 0:
            study.tell(number, loss)
    return trials.best()


def _study() -> Any:
    """Return a study in memory, whose making Optuna would log."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(direction="minimize")
    finally:
        optuna.logging.set_verbosity(level)


def _asked(
    study: Any, space: ChoiceSpace, config: TPEConfig, trial: int, generator: torch.Generator
) -> tuple[int, dict[str, int]]:
    """Return the next choice that makes an architecture, after its number in the study."""
    import optuna

    sizes = {name: len(values) for name, values in space.variables.items()}
    for _ in range(_DRAWS):
        study.sampler = _sampler(config, trial, int(torch.randint(2**31, (), generator=generator)))
        asked = study.ask()
        choice = {name: asked.suggest_categorical(name, range(n)) for name, n in sizes.items()}
        if space.decode(choice) is not None:
            return asked.number, choice
        # Worse than any trial; or the estimator would propose the same again.
        study.tell(asked, state=optuna.trial.TrialState.PRUNED)
    raise InputError(
        f"{_DRAWS:,} choices in a row make no architecture of this space; use random search."
    )


def _sampler(config: TPEConfig, trial: int, seed: int) -> Any:
    """Return the sampler of a trial: random at the start, then the estimator."""
    from optuna.samplers import RandomSampler, TPESampler

    if trial < config.startup:
        return RandomSampler(seed=seed)
    good = math.ceil(config.gamma * math.sqrt(trial))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `gamma` is to go in Optuna 6; `multivariate` was new in 3
        return TPESampler(
            n_startup_trials=0, multivariate=config.joint, constant_liar=False,
            gamma=lambda _: good, seed=seed,
        )  # fmt: skip
