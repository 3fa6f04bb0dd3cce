"""Settings of the search with labels, compared on dev: what BM-NAS gets in the study.

    python tests/benchmarks/search_tuning.py --data ../shared/realdata/mmimdb_subset.tar.gz \
        --out runs/search-tuning

Each setting is searched with the labels of each ratio by a seed that the study does not use;
what is found is fine-tuned, and scored on the labelled dev part alone. Test is not read.

Writes book/tables/NAME.md. It resumes where it was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from ssnas_core._cells import read_trained
from ssnas_core.files import write_text
from ssnas_core.preparation import prepare
from ssnas_core.recipes import RECIPES, RunConfig
from ssnas_core.studies import Run

# dropout and L2 of the weights while searching, learning rate of the logits, as many steps
# as without labels or as many epochs
SETTINGS = {
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


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which data, where to, how much."""

    data: Path
    out: Path
    store: Path | None = None
    name: str = "search_tuning"
    """Of the table, and of the runs' folders."""
    recipe: str = "two-core"
    label_ratio: tuple[float, ...] = (0.1, 0.3, 1.0)
    seed: int = 100


def main(options: Options) -> None:
    """Run what is missing, then write and print the table."""
    base, store = RECIPES[options.recipe], options.store or options.out / "store"
    samples = len(prepare(options.data, store, base.prepare).indices("train"))
    heads = " | ".join(f"r = {ratio:g} | found" for ratio in options.label_ratio)
    lines = [
        "Score on the labelled dev part of what a search with labels finds, one seed "
        f"({options.seed}).",
        "",
        f"| dropout | L2 | rate of the logits | steps | mean | {heads} |",
        "|---" * (5 + 2 * len(options.label_ratio)) + "|",
    ]
    for letter, (dropout, decay, rate, same_steps) in SETTINGS.items():
        scores, cells = [], []
        for ratio in options.label_ratio:
            search = replace(base.search, arch_learning_rate=rate, weight_decay=decay)
            fusion = replace(base.fusion, dropout=dropout)
            steps = search.epochs * (samples // search.batch_size)
            search = replace(search, min_steps=steps if same_steps else 0)
            config = RunConfig(
                data=options.data,
                seed=options.seed,
                label_ratio=(ratio,),
                objective="supervised",
                recipe=replace(base, search=search, fusion=fusion),
            )
            folder = options.out / f"{options.name}-{letter}-{ratio}"
            run = Run(config, folder, store=store, device="cpu")
            told = read_trained(run.train("found", ratio) / "train.json")
            scores.append(told["dev"][run.scoring.primary])
            cells.append(f"{scores[-1]:.3f} | `{told['genotype']}`")
        steps = "as without labels" if same_steps else "as many epochs"
        mean = sum(scores) / len(scores)
        lines.append(
            f"| {dropout:g} | {decay:g} | {rate:g} | {steps} | {mean:.3f} | {' | '.join(cells)} |"
        )
        print(lines[-1], flush=True)
    folder = Path(__file__).parents[2] / "book" / "tables"
    write_text(folder / f"{options.name}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
