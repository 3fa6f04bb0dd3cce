"""Is there anything to find? Random architectures against the chance of a seed, on dev.

    python tests/benchmarks/to_find.py --data FILE --recipe NAME --out runs/to_find

In each space (`FusionConfig.output`) it draws architectures, and fine-tunes each on frozen
stored features at every label ratio, with several seeds: a seed has its own labelled part and
initial weights. Late concatenation is the rival, and not among those. The score is of the whole
dev part, with the threshold chosen on the labelled dev part. Test is not read.

For each space and ratio the table tells the mean over architectures; how far they are apart (the
standard deviation between them, that of seeds within taken off; what is left by chance alone is
0); how far seeds are apart; the best one, chosen on half of the seeds and scored on the others,
less late concatenation on these; and, over architectures, Kendall's tau of the mean score with
the loss on dev of each objective without labels, after a brief training.

Writes to_find_<name>.md into --tables; it resumes where it was interrupted.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scipy.stats import kendalltau
from torch import nn

from ssnas_core.common.files import read_json, write_json, write_text
from ssnas_core.common.random import seeded
from ssnas_core.datasets.splits import labelled_part
from ssnas_core.features.prepare import Prepared, prepare
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.runs.recipes import Recipe, recipe_named
from ssnas_core.search.context import SearchContext
from ssnas_core.search.trials import TrialConfig, Trials
from ssnas_core.show.tables import as_table
from ssnas_core.spaces.fusion.networks import Output
from ssnas_core.spaces.fusion.space import FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.loop import fit, predict
from ssnas_core.training.metrics import Scoring

LOSSES = ("contrastive", "swapped", "matching")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What, how much, and where to."""

    data: Path
    recipe: str
    name: str
    """Of the data, in the name of the table and in its text."""
    out: Path
    store: Path | None = None
    """Of prepared data; OUT/store if not given."""
    tables: Path = Path(__file__).parents[2] / "book" / "tables"
    spaces: tuple[Output, ...] = ("cells", "beside", "chosen")
    architectures: int = 20
    seeds: int = 4
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    losses: tuple[str, ...] = LOSSES


@dataclass(frozen=True)
class Setting:
    """Prepared data and what it is studied with."""

    options: Options
    recipe: Recipe
    prepared: Prepared

    def space(self, output: Output, dropout: float | None = None) -> FusionSpace:
        config = replace(self.recipe.space("fusion"), output=output)
        config = config if dropout is None else config.trained_with(dropout)
        return config.open(self.prepared.store.channels, self.prepared.store.positions)

    @property
    def late_concat(self) -> Genotype:
        return Genotype("fusion", (Node("output", "Concat", tuple(self.prepared.store.channels)),))

    def drawn(self, output: Output) -> list[Genotype]:
        """So many architectures, no two alike, none of them late concatenation."""
        space, generator = self.space(output), torch.Generator().manual_seed(0)
        found: dict[Genotype, None] = {}
        while len(found) < self.options.architectures:
            found[space.sample(generator)] = None
            found.pop(self.late_concat, None)
        return list(found)

    def score(self, output: Output, genotype: Genotype, ratio: float, seed: int) -> float:
        """The score on dev after fine-tuning on the labelled part of a seed."""
        dataset, store = self.prepared.dataset, self.prepared.store
        part, scoring = labelled_part(dataset, ratio, seed), Scoring(dataset.single_label)
        targets = torch.from_numpy(dataset.targets())
        objective = Supervised(labels=targets, classes=len(dataset.classes))
        with seeded(seed, 20):
            network = self.space(output, self.recipe.finetune_dropout).build(genotype)
            model = nn.Sequential(network, objective.head(network.width))
        rows = torch.from_numpy(part.train)
        fit(model, store, objective, rows, self.recipe.finetune, seed=seed)
        dev, labels = self.prepared.indices("dev"), dataset.labels()
        probs = scoring.probabilities(predict(model, store, dev))
        own = np.isin(dev.numpy(), part.dev).nonzero()[0]
        threshold = scoring.threshold(probs[own], labels[dev[own]])
        return scoring.scores(probs, labels[dev], threshold)[scoring.primary]

    def loss(self, output: Output, genotype: Genotype, objective: str) -> float:
        """The loss on dev, without labels, after a brief training."""
        context = SearchContext(
            train=self.prepared.indices("train"), dev=self.prepared.indices("dev")
        )
        goal, brief = self.recipe.objective(objective), TrialConfig()
        trials = Trials(self.space(output), self.prepared.store, goal, context, brief)
        return trials.evaluate(genotype)


def told(setting: Setting, output: Output, genotype: Genotype) -> dict[str, Any]:
    """All figures of an architecture, computed once."""
    options = setting.options
    file = options.out / output / f"{zlib.crc32(str(genotype).encode()):x}.json"
    known = read_json(file) if file.exists() else {"genotype": str(genotype), "scores": {}}
    for ratio, seed in itertools.product(options.label_ratio, range(options.seeds)):
        key = f"{ratio:g} {seed}"
        if key not in known["scores"]:
            known["scores"][key] = setting.score(output, genotype, ratio, seed)
            write_json(file, known)
    for objective in options.losses:
        if objective not in known:
            known[objective] = setting.loss(output, genotype, objective)
            write_json(file, known)
    return known


def between(scores: np.ndarray) -> tuple[float, float]:
    """Standard deviations of scores (A, S): between architectures, and of seeds within.

    Seeds are crossed with architectures, so each seed's mean is taken off first; then the
    variance of architectures' means is that between them and that within over S.
    """
    centred = scores - scores.mean(0)
    rest = centred - centred.mean(1, keepdims=True)
    freedom = (scores.shape[0] - 1) * (scores.shape[1] - 1)
    within = float(np.square(rest).sum() / freedom)
    means = float(centred.mean(1).var(ddof=1))
    return max(means - within / scores.shape[1], 0.0) ** 0.5, within**0.5


def ahead(scores: np.ndarray, rival: np.ndarray) -> float:
    """The best (A, S) by half of the seeds, less the rival (S,), on the others; all halvings."""
    seeds = range(scores.shape[1])
    gains = []
    for half in itertools.combinations(seeds, len(seeds) // 2):
        other = [seed for seed in seeds if seed not in half]
        best = scores[:, list(half)].mean(1).argmax()
        gains.append(scores[best, other].mean() - rival[other].mean())
    return float(np.mean(gains))


def row_of(
    setting: Setting, output: Output, ratio: float, figures: Sequence[dict], late: dict
) -> list[str]:
    """A row of the table."""
    seeds = range(setting.options.seeds)
    scores = np.array([[f["scores"][f"{ratio:g} {s}"] for s in seeds] for f in figures])
    rival = np.array([late["scores"][f"{ratio:g} {s}"] for s in seeds])
    apart, chance = between(scores)
    taus = []
    for objective in setting.options.losses:
        found: Any = kendalltau([-f[objective] for f in figures], scores.mean(1))
        taus.append(f"{found.statistic:.2f}" + "*" * int(found.pvalue < 0.05))
    gap = scores.mean() - rival.mean()
    return [
        output, f"{ratio:g}", f"{scores.mean():.4f}", f"{rival.mean():.4f}", f"{gap:+.4f}",
        f"{apart:.4f}", f"{chance:.4f}", f"{ahead(scores, rival):+.4f}", *taus,
    ]  # fmt: skip


def main(options: Options) -> None:
    """Score what is missing, and write the table."""
    torch.set_num_threads(1)
    recipe = recipe_named(options.recipe)
    store = options.store or options.out / "store"
    setting = Setting(options, recipe, prepare(options.data, store, recipe.prepare))
    late = told(setting, "chosen", setting.late_concat)
    rows = []
    for output in options.spaces:
        figures = [told(setting, output, genotype) for genotype in setting.drawn(output)]
        rows += [row_of(setting, output, ratio, figures, late) for ratio in options.label_ratio]
    head = ["output", "r", "mean", "late concat", "difference", "apart", "seeds", "best, ahead",
            *(f"tau {name}" for name in options.losses)]  # fmt: skip
    text = (
        f"{options.architectures} random architectures of each space on {options.name}, recipe "
        f"{options.recipe}, {options.seeds} seeds, frozen stored features, no pretraining: "
        f"{'accuracy' if setting.prepared.dataset.single_label else 'weighted F1'} on the whole "
        "dev part, the threshold chosen on its labelled part. Apart: standard deviation between "
        "architectures, chance taken off; seeds: within one, each seed's mean taken off; best, "
        "ahead: of late concatenation, chosen and scored on different seeds; tau: Kendall's, of "
        "the loss without labels on dev (lower is better) with the score, * where p < 0.05.\n\n"
    )
    write_text(
        options.tables / f"to_find_{options.name}.md", text + "\n".join(as_table(head, rows)) + "\n"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
