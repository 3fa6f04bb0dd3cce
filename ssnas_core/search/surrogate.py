"""Sequential model-based search: a learned guess says which architectures to train next.

MFAS (arXiv:1903.06496, sec. 3.2), after progressive search (arXiv:1712.00559): grow
architectures level by level. At each level, extend those kept at the level before in
every way, let a surrogate guess how good each is, draw some by their guesses, train
them, and fit the surrogate to all that was trained. The first level is trained
whole. Draws are nearly uniform at first and follow the guesses at last: step number
i = iteration * levels + level (from 0) draws at the temperature
9.8 exp(-i^2 / 16) + 0.2. Networks may start from weights that earlier ones left.

Deviations from the paper's released code:

- It scores by accuracy. Any objective's loss is ranked here: an architecture's score
  is the share of the trained ones of as many levels that it beats, its equals and
  itself counted half, so in (0, 1); one trained several times has its lowest loss.
- It counts steps as iteration * iterations + level, which uses temperatures twice, and begins
  one step later.
- It shares no weights unless asked to (`share_weights`).
- Each iteration grows from one level again; its code, from the second iteration
  on, replaces level after level of the full architectures kept last.
- The surrogate reads each choice as one of several, not as a number, so that
  choices without an order can be told apart.
- The networks of its random control share weights too; `random_search` starts each anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.distributed import on_rank_zero
from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.common.typed import check_fields
from ssnas_core.objectives.base import Objective, Source
from ssnas_core.search.context import SearchContext
from ssnas_core.search.trials import TrialConfig, Trials
from ssnas_core.spaces.base import GrowingSpace
from ssnas_core.spaces.genotype import Genotype, SearchResult


@dataclass(frozen=True, kw_only=True)
class SurrogateConfig(TrialConfig):
    """Growth by a surrogate's guesses (MFAS): what it tries, and how it learns.

    Args:
        iterations: how often architectures are grown from nothing.
        samples: architectures trained at each level, and extended at the next.
        hidden: width of the surrogate's embedding and of its LSTM.
        epochs: passes of the surrogate over all results, after each level.
        learning_rate: its rate (Adam).
        share_weights: start each network from the weights that the last one with a
            layer of the same place, sizes and activation left.
    """

    needs: ClassVar[tuple[str, ...]] = ("first", "extensions", "tokens", "validate")

    iterations: int = 3
    samples: int = 15
    hidden: int = 100
    epochs: int = 50
    learning_rate: float = 1e-3
    share_weights: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "learning_rate", iterations=1, samples=1, hidden=1, epochs=1)

    def search(
        self, space: GrowingSpace, source: Source, objective: Objective, context: SearchContext
    ) -> SearchResult:
        """`surrogate` with this configuration."""
        return surrogate(space, source, objective, context, self)


def surrogate(
    space: GrowingSpace,
    source: Source,
    objective: Objective,
    context: SearchContext,
    config: SurrogateConfig | None = None,
) -> SearchResult:
    """Return the best architecture that sequential model-based search trains, by its loss on dev.

    Errors are those of `Trials`.

    Returns:
        The genotype of the lowest dev loss among those that are in `space` itself, as
        the layer space's of fewer layers are and the fusion space's of fewer cells are
        not; a history with `trial`, `genotype`, `dev_loss`, `iteration`, `level` and
        `temperature` of each trial; no state.
    """
    config = config or SurrogateConfig()
    shared = {} if config.share_weights else None
    trials = Trials(space, source, objective, context, config, shared=shared)
    with seeded(context.seed, 3):
        guess = _Surrogate(space.token_sizes, config)
    lowest: dict[Genotype, float] = {}  # loss of each genotype
    full_grown: list[int] = []  # trials of genotypes that are in the space itself
    parents: list[Genotype] = []
    for step in range(config.iterations * space.levels):
        iteration, level = divmod(step, space.levels)
        prefixes = parents if level else [None]
        options = list(dict.fromkeys(new for old in prefixes for new in space.extensions(old)))
        tried = options
        if step:
            scores = guess.scores([space.tokens(option) for option in options])
            tried = _drawn(options, scores, step, config.samples, context.seed)
        extra = {"iteration": iteration, "level": level, "temperature": _temperature(step)}
        for genotype in tried:
            if _is_in(space, genotype):
                full_grown.append(len(trials.history))
            loss = trials.evaluate(genotype, space=space.first(1 + level), **extra)
            lowest[genotype] = min(loss, lowest.get(genotype, math.inf))
        tokens = [space.tokens(genotype) for genotype in lowest]
        scores = _scores(list(lowest.values()), list(map(len, tokens)))
        guess.learn(tokens, scores)
        parents = tried if step else _drawn(options, scores, step, config.samples, context.seed)
    return trials.best(full_grown)


def _temperature(step: int) -> float:
    """Return how far draws are from the scores' own order: 10 at first, 0.2 at last."""
    return 9.8 * math.exp(-(step**2) / 16) + 0.2


def _scores(losses: Sequence[float], lengths: Sequence[int]) -> list[float]:
    """Return the share of the losses of its length that each beats; its equals count half."""
    scores = []
    for loss, length in zip(losses, lengths, strict=True):
        others = [
            other for other, as_long in zip(losses, lengths, strict=True) if as_long == length
        ]
        beaten = sum((other > loss) + 0.5 * (other == loss) for other in others)
        scores.append(beaten / len(others))
    return scores


def _drawn(
    options: Sequence[Genotype], scores: Sequence[float], step: int, count: int, seed: int
) -> list[Genotype]:
    """Return up to `count` different options, drawn with probabilities ~ score^(1/temperature).

    The first process draws for all, as their scores may differ in the last bits.
    """

    def draw() -> list[Genotype]:
        logs = torch.tensor(scores, dtype=torch.float64).log() / _temperature(step)
        with seeded(seed, 4, step) as generator:
            places = torch.multinomial(
                (logs - logs.max()).exp(), min(count, len(options)), generator=generator
            )
        return [options[place] for place in places.tolist()]

    return on_rank_zero(draw)


def _is_in(space: GrowingSpace, genotype: Genotype) -> bool:
    """Whether a grown architecture is one of the space."""
    try:
        space.validate(genotype)
    except InputError:
        return False
    return True


class _Surrogate(nn.Module):
    """Guesses scores in (0, 1) from what is chosen level by level: embedding, LSTM, sigmoid."""

    def __init__(self, token_sizes: Sequence[int], config: SurrogateConfig) -> None:
        super().__init__()
        self.token_sizes = tuple(token_sizes)
        self.epochs = config.epochs
        self.embedding = nn.Linear(sum(token_sizes), config.hidden)
        self.lstm = nn.LSTM(config.hidden, config.hidden, batch_first=True)
        self.value = nn.Linear(config.hidden, 1)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=config.learning_rate)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores (n,) of architectures of one number of levels, (n, levels, numbers) int64."""
        columns = zip(tokens.unbind(-1), self.token_sizes, strict=True)
        one_hot = torch.cat([F.one_hot(column, size) for column, size in columns], -1)
        embedded = self.embedding(one_hot.to(self.value.weight.dtype)).sigmoid()
        return self.value(self.lstm(embedded)[0][:, -1]).sigmoid().squeeze(1)

    @torch.no_grad()
    def scores(self, tokens: Sequence[Sequence[tuple[int, ...]]]) -> list[float]:
        """Return guesses for architectures of one number of levels."""
        return self(torch.tensor(tokens)).tolist()

    def learn(self, tokens: Sequence[Sequence[tuple[int, ...]]], scores: Sequence[float]) -> None:
        """Go on fitting to the scores of architectures: in each epoch one step per length."""
        groups = []
        for length in sorted(set(map(len, tokens))):
            rows = [row for row, levels in enumerate(tokens) if len(levels) == length]
            targets = torch.tensor([scores[row] for row in rows])
            groups.append((torch.tensor([tokens[row] for row in rows]), targets))
        for _ in range(self.epochs):
            for inputs, targets in groups:
                self.optimizer.zero_grad()
                F.mse_loss(self(inputs), targets).backward()
                self.optimizer.step()
