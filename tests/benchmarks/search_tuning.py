"""Settings of the bilevel search compared on dev: as many with labels as without.

    python tests/benchmarks/search_tuning.py --data ../shared/realdata/mmimdb_subset.tar.gz \
        --out runs/search-tuning

Each setting is searched by a seed that the study does not use: with the labels of each ratio, or
once without labels. What is found is fine-tuned on each ratio, and scored on the labelled dev
part alone. Test is not read. The best of each half are the settings of the study (`ssnas study`).

Writes book/tables/NAME.md. It resumes where it was interrupted.
"""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro

from ssnas_core.common.files import write_text
from ssnas_core.features.prepare import prepare
from ssnas_core.runs.reading import read_trained
from ssnas_core.runs.recipes import RECIPES, Recipe, RunConfig
from ssnas_core.runs.run import Run

# dropout and L2 of the weights while searching, learning rate of the logits, as many steps
# as without labels or as many epochs
WITH_LABELS = {
    "P": (0.1, 1e-4, 1e-2, True),
    "K": (0.1, 1e-4, 1e-2, False),
    "C": (0.1, 1e-4, 3e-4, True),
    "M": (0.1, 1e-2, 1e-2, True),
    "N": (0.1, 3e-2, 1e-2, True),
    "A": (0.5, 1e-4, 1e-2, True),
    "G": (0.5, 1e-4, 1e-2, False),
    "D": (0.5, 1e-4, 3e-4, True),
    "B": (0.5, 1e-3, 1e-2, True),
    "I": (0.5, 1e-2, 1e-2, True),
    "J": (0.5, 1e-2, 1e-2, False),
    "L": (0.5, 3e-2, 1e-2, True),
    "H": (0.7, 1e-4, 1e-2, False),
}
# the same, and the temperature instead of the steps
WITHOUT_LABELS = {
    "a": (0.1, 1e-4, 1e-2, 0.2),
    "b": (0.1, 1e-4, 1e-2, 0.1),
    "c": (0.1, 1e-4, 1e-2, 0.5),
    "d": (0.1, 1e-4, 1e-2, 1.0),
    "e": (0.1, 1e-4, 3e-4, 0.2),
    "f": (0.1, 1e-2, 1e-2, 0.2),
    "g": (0.3, 1e-4, 1e-2, 0.2),
    "h": (0.5, 1e-4, 1e-2, 0.2),
    "i": (0.5, 1e-4, 1e-2, 0.1),
    "j": (0.5, 1e-4, 1e-2, 0.5),
    "k": (0.5, 1e-4, 3e-4, 0.2),
    "l": (0.5, 1e-2, 1e-2, 0.2),
    "m": (0.5, 1e-2, 1e-2, 0.5),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which data, where to, how much."""

    data: Path
    out: Path
    store: Path | None = None
    name: str = "search_tuning"
    """Of the table, and of the runs' folders."""
    recipe: str = "two-core"
    text_backbone: str | None = None
    """As in `ssnas run`."""
    label_ratio: tuple[float, ...] = (0.1, 0.3, 1.0)
    seed: int = 100
    workers: int = 2
    """Processes, each of one thread."""


@dataclass(frozen=True)
class Score:
    """What was found at one label ratio, and its score on dev."""

    value: float
    genotype: str


def of_setting(base: Recipe, dropout: float, decay: float, rate: float) -> Recipe:
    """The recipe with the settings that both searches have."""
    search = replace(base.strategy("bilevel"), arch_learning_rate=rate, weight_decay=decay)
    return replace(base, parts=(replace(base.space("fusion"), dropout=dropout), search))


def with_labels(base: Recipe, letter: str, samples: int) -> Recipe:
    """The recipe with one of the settings; `samples` are those of the train part."""
    dropout, decay, rate, same_steps = WITH_LABELS[letter]
    recipe = of_setting(base, dropout, decay, rate)
    fusion, search = recipe.parts
    return replace(recipe, parts=(fusion, search.as_long_as(samples) if same_steps else search))


def without_labels(base: Recipe, letter: str) -> Recipe:
    """The recipe with one of the settings."""
    dropout, decay, rate, temperature = WITHOUT_LABELS[letter]
    recipe = of_setting(base, dropout, decay, rate)
    return replace(recipe, contrastive=replace(recipe.contrastive, temperature=temperature))


def scored(config: RunConfig, folder: Path, store: Path) -> list[Score]:
    """Search, fine-tune what is found on each ratio, and score it on dev."""
    torch.set_num_threads(1)
    run = Run(config, folder, store=store, device="cpu")
    scores = []
    for ratio in config.label_ratio:
        told = read_trained(run.train("found", ratio) / "train.json")
        scores.append(Score(told["dev"][run.task.primary], told["genotype"]))
    return scores


def row(named: list[str], trials: list[Future[list[Score]]]) -> str:
    """One line of a table; printed when it is known."""
    scores = [score for trial in trials for score in trial.result()]
    cells = [f"{score.value:.3f} | `{score.genotype}`" for score in scores]
    mean = sum(score.value for score in scores) / len(scores)
    line = f"| {' | '.join(named)} | {mean:.3f} | {' | '.join(cells)} |"
    print(line, flush=True)
    return line


def main(options: Options) -> None:
    """Run what is missing, then write and print the table."""
    base, store = RECIPES[options.recipe], options.store or options.out / "store"
    if options.text_backbone is not None:
        base = replace(base, prepare=replace(base.prepare, text=options.text_backbone))
    samples = len(prepare(options.data, store, base.prepare).indices("train"))
    heads = " | ".join(f"r = {ratio:g} | found" for ratio in options.label_ratio)
    rule = "|---" * (5 + 2 * len(options.label_ratio)) + "|"
    lines = [
        "Score on the labelled dev part of what the search finds, not pretrained; one seed "
        f"({options.seed}).",
        *("", "With labels:", ""),
        *(f"| dropout | L2 | rate of the logits | steps | mean | {heads} |", rule),
    ]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:

        def tried(folder: str, **changes: Any) -> Future[list[Score]]:
            config = RunConfig(data=options.data, seed=options.seed, **changes)
            return pool.submit(scored, config, options.out / f"{options.name}-{folder}", store)

        labelled = {
            letter: [
                tried(
                    f"{letter}-{ratio}",
                    label_ratio=(ratio,),
                    objective="supervised",
                    recipe=with_labels(base, letter, samples),
                )
                for ratio in options.label_ratio
            ]
            for letter in WITH_LABELS
        }
        free = {
            letter: tried(
                f"free-{letter}",
                label_ratio=options.label_ratio,
                recipe=without_labels(base, letter),
            )
            for letter in WITHOUT_LABELS
        }
        for letter, (*common, same) in WITH_LABELS.items():
            named = [*(f"{value:g}" for value in common)]
            named += ["as without labels" if same else "as many epochs"]
            lines.append(row(named, labelled[letter]))
        lines += ["", "Without labels:", ""]
        lines += [f"| dropout | L2 | rate of the logits | temperature | mean | {heads} |", rule]
        for letter, setting in WITHOUT_LABELS.items():
            lines.append(row([f"{value:g}" for value in setting], [free[letter]]))
    folder = Path(__file__).parents[2] / "book" / "tables"
    write_text(folder / f"{options.name}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
