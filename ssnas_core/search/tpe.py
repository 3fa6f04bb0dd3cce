"""TPE: draw each choice where good architectures have been denser than the others.

The tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS) as Optuna has it,
with what CSNAS (arXiv:2102.10557) asked of Hyperopt: 20 random trials first, then the best
gamma * sqrt(n) of n trials are the good ones. Optuna's own rule is `TPEConfig(startup=10,
gamma=0.1, good="share")`. Deviations from CSNAS:

- The next trial is the most promising of 24 candidates, as both libraries have it by default;
  CSNAS means `candidates=20_000`, which takes a third of a second a trial for cells of 4 nodes.
- The densities are of all variables together, which repeats less; `joint=False` takes
  each variable by itself, as Hyperopt does.
- A choice that makes no architecture (`space.decode` is None) counts for the estimator as
  worse than any trial, and another is drawn.
- An architecture that was tried before is not trained again: its known loss counts as one
  more trial.
- A trial may end early (`pruning`), by Optuna's rules: "median", where its loss on dev is above
  the median of earlier trials after as many epochs, or "hyperband" (Li et al. 2018,
  arXiv:1603.06560), where it is not among the best third. It is never the one that is found.
- Several `workers` train trials at once: each trial is then proposed as if the unfinished ones
  were bad (Optuna's constant liar), so that it is another one.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ssnas_core.common.distributed import on_rank_zero, rank
from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.search.context import SearchContext
from ssnas_core.search.trials import TrialConfig, Trials
from ssnas_core.spaces.base import ChoiceSpace
from ssnas_core.spaces.genotype import Genotype, SearchResult

_DRAWS = 1_000  # in a row, without an architecture
_MOST_GOOD = 25  # trials, of however many; Hyperopt's and Optuna's


@dataclass(frozen=True, kw_only=True)
class TPEConfig(TrialConfig):
    """TPE: draw choices where good ones were denser. Defaults: CSNAS's.

    Args:
        trials: how many are tried in all.
        startup: how many of them, the first, are drawn at random.
        gamma: so many times sqrt(n) of the n trials so far are the good ones, rounded up, at
            most 25; or so many times n of them, by `good`.
        good: "root" for sqrt(n), as Hyperopt, or "share" for n, as Optuna.
        candidates: drawn for each trial, of which the most promising is tried.
        joint: estimate densities of all variables together, not of each by itself.
        pruning: which trials end early, after an epoch of theirs: those above the "median" of
            earlier ones, those that "hyperband" halves away, or "none".
        workers: trials trained at once, each by a process of its own on this machine. Trial n is
            proposed from those up to n - `workers`, so that the result hangs on this number, but
            not on which process is faster.
    """

    needs: ClassVar[tuple[str, ...]] = ("build", "decode")

    trials: int = 40
    startup: int = 20
    gamma: float = 0.2
    good: Literal["root", "share"] = "root"
    candidates: int = 24
    joint: bool = True
    pruning: Literal["none", "median", "hyperband"] = "none"
    workers: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.gamma <= 1 and min(self.trials, self.startup, self.candidates) >= 1):
            raise InputError(
                "TPE needs trials >= 1, startup >= 1, candidates >= 1 and gamma in (0, 1], got "
                f"{self.trials}, {self.startup}, {self.candidates} and {self.gamma}."
            )
        if self.workers < 1 or (self.workers > 1 and self.pruning != "none"):
            raise InputError(
                'TPE needs workers >= 1, and pruning="none" with several: trials that run at once '
                f"are not compared; got {self.workers} and {self.pruning!r}."
            )

    def good_of(self, trials: int) -> int:
        """Return how many of so many trials are good ones."""
        size = math.sqrt(trials) if self.good == "root" else trials
        return min(math.ceil(self.gamma * size), _MOST_GOOD)

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
        `dev_loss` of each trial, and the one that it `repeats`, where there is one; with
        pruning also `dev_losses` after each epoch, and `stopped` for those that ended early;
        no state.
    """
    config = config or TPEConfig()
    trials = Trials(space, source, objective, context, config, total=config.trials)
    with seeded(context.seed, 0) as generator:
        estimator = _Estimator(space, config, trials.epochs, generator)
    stop = None if config.pruning == "none" else estimator.stop

    def asked() -> Iterator[Genotype]:
        for _ in range(config.trials):
            # Only the first process's study is asked: what it answers hangs on rounding.
            genotype = space.decode(on_rank_zero(estimator.ask))
            assert genotype is not None
            yield genotype

    for entry in trials.at_once(asked(), config.workers, stop=stop):
        if rank() == 0:
            estimator.tell(entry)
    return trials.best()


class _Estimator:
    """Optuna's study, in memory: which choice to try next, and which trial to end.

    It is a function of its seed and of what it was told, so nothing of it is saved.
    """

    def __init__(
        self, space: ChoiceSpace, config: TPEConfig, epochs: int, generator: torch.Generator
    ) -> None:
        import optuna
        from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

        self.space, self.config, self.generator = space, config, generator
        self.sizes = {name: len(values) for name, values in space.variables.items()}
        self.trials = 0  # that make an architecture
        pruner = NopPruner()
        if config.pruning != "none":
            halving = config.pruning == "hyperband"
            pruner = HyperbandPruner(max_resource=epochs) if halving else MedianPruner()
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it logs that a study is made
        try:  # hyperband draws by the study's name
            self.study = optuna.create_study(study_name="ssnas", pruner=pruner)
        finally:
            optuna.logging.set_verbosity(level)
        self.asked: deque[Any] = deque()  # trials, and not told yet

    def ask(self) -> dict[str, int]:
        """Return the next choice that makes an architecture."""
        from optuna.trial import TrialState

        for _ in range(_DRAWS):
            self.study.sampler = self._sampler()
            trial = self.study.ask()
            choice = {
                name: trial.suggest_categorical(name, range(size))
                for name, size in self.sizes.items()
            }
            if self.space.decode(choice) is not None:
                self.asked.append(trial)
                return choice
            # Worse than any trial; or the estimator would propose the same again.
            self.study.tell(trial, state=TrialState.PRUNED)
        raise InputError(
            f"{_DRAWS:,} choices in a row make no architecture of this space; use random search."
        )

    def stop(self, epochs: int, loss: float) -> bool:
        """Return whether the trial that was asked for is to end, after so many epochs."""
        (trial,) = self.asked
        trial.report(loss, epochs)
        return trial.should_prune()

    def tell(self, trial: Mapping[str, Any]) -> None:
        """Take in the entry of the trial that was asked for first of those not told."""
        from optuna.trial import TrialState

        self.trials += 1
        asked = self.asked.popleft()
        if trial.get("stopped"):
            self.study.tell(asked, state=TrialState.PRUNED)
        else:
            self.study.tell(asked, trial["dev_loss"])

    def _sampler(self) -> Any:
        """Return the sampler of the next trial: random at the start, then the estimator."""
        from optuna.samplers import RandomSampler, TPESampler

        config, trials = self.config, self.trials
        seed = int(torch.randint(2**31, (), generator=self.generator))
        if trials + len(self.asked) < config.startup:
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `gamma` is to go in Optuna 6
            return TPESampler(
                n_startup_trials=0, n_ei_candidates=config.candidates, multivariate=config.joint,
                # of those that it sees: hyperband compares trials of one bracket
                constant_liar=config.workers > 1,
                gamma=lambda seen: config.good_of(min(seen, trials)), seed=seed,
            )  # fmt: skip
