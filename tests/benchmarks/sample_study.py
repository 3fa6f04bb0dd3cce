"""The label-ratio study in small: a search without labels beside one with labels, on the sample.

    python tests/benchmarks/sample_study.py --out runs/sample-study

For each seed one run without labels, with all its methods; and for each label ratio a
search on the labels of that ratio, whose network is trained and scored likewise: "found
with labels" takes as many epochs as the search without labels, so fewer steps where labels
are few; "found with labels, same steps" takes as many steps. One store is shared.

Writes book/tables/NAME.csv (every score, and CPU seconds) and NAME.md (means and paired
differences, with 95 % intervals over seeds). It resumes where it was interrupted. About five
minutes of one CPU core; OMP_NUM_THREADS=1 is quickest for networks this small.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from ssnas_core.datasets.sample import sample_archive
from ssnas_core.files import read_json, write_json, write_text
from ssnas_core.methods import methods_of
from ssnas_core.metrics import mean_interval
from ssnas_core.recipes import RECIPES, RunConfig
from ssnas_core.studies import Run

SAME_EPOCHS = "found with labels"
SAME_STEPS = "found with labels, same steps"
METHODS = (*methods_of(("image", "text")), SAME_EPOCHS, SAME_STEPS)
PAIRS = (
    ("found", SAME_EPOCHS),
    ("found", SAME_STEPS),
    ("found, pretrained", SAME_EPOCHS),
    ("found, pretrained", SAME_STEPS),
    ("found, pretrained", "found"),
    ("found", "random"),
    ("found", "late concat"),
)
SCORES = ("weighted_f1", "weighted_f1_at_0.3", "weighted_f1_at_0.5", "micro_f1", "macro_f1",
          "samples_f1", "weighted_ap", "threshold")  # fmt: skip
STAGES = ("search", "pretrain", "train")
COLUMNS = ("method", "label_ratio", "seed", *SCORES, *(f"{stage}_seconds" for stage in STAGES),
           "parameters", "genotype")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where to, how much."""

    out: Path
    name: str = "sample_study"
    """Of the tables."""
    tables: Path = Path(__file__).parents[2] / "book" / "tables"
    """Folder of the tables."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    label_ratio: tuple[float, ...] = (0.05, 0.1, 0.3, 1.0)
    recipe: str = "classroom"


def noted(run: Run, key: str, stage: Callable[[], Any]) -> float:
    """Do a stage; the CPU seconds that it took when it was first done.

    CPU time, unlike the clock's, hardly depends on what else the machine does. Of a stage
    that was interrupted only the rest is noted.
    """
    file = run.folder / "cpu_seconds.json"
    start = time.process_time()
    stage()
    spent = round(time.process_time() - start, 2)
    known = read_json(file) if file.exists() else {}
    if key not in known:
        write_json(file, {**known, key: spent})
    return known.get(key, spent)


def scored(run: Run, method: str, ratio: float, name: str = "") -> dict[str, Any]:
    """The test scores of one cell, and the CPU seconds of each stage that it needs."""
    seconds = dict.fromkeys((f"{stage}_seconds" for stage in STAGES), 0.0)
    if method.startswith("found"):
        seconds["search_seconds"] = noted(run, "search", run.search)
    if "pretrained" in method:
        seconds["pretrain_seconds"] = noted(run, "pretrain", run.pretrain)
    key = f"train {method} {ratio:g}"
    seconds["train_seconds"] = noted(run, key, lambda: run.train(method, ratio))
    return {**run.evaluate(method, ratio), "method": name or method, **seconds}


def study(options: Options) -> list[dict[str, Any]]:
    """Run what is missing: a row per method, label ratio and seed."""
    recipe, rows = RECIPES[options.recipe], []
    shared = {"store": options.out / "store", "device": "cpu", "progress": True}
    for seed in options.seeds:
        common = {"data": sample_archive(), "seed": seed}
        config = RunConfig(**common, label_ratio=options.label_ratio, recipe=recipe)
        free = Run(config, options.out / f"free-seed-{seed}", **shared)
        size = recipe.search.batch_size
        samples = len(free.prepared.indices("train"))
        steps = recipe.search.epochs * (samples // min(size, samples))
        for ratio in options.label_ratio:
            rows += [scored(free, method, ratio) for method in free.methods]
            labelled = len(free.part(ratio).train)
            longer = math.ceil(steps / (labelled // min(size, labelled)))
            for name, epochs in ((SAME_EPOCHS, recipe.search.epochs), (SAME_STEPS, longer)):
                search = replace(recipe.search, epochs=epochs)
                config = RunConfig(
                    **common,
                    label_ratio=(ratio,),
                    objective="supervised",
                    recipe=replace(recipe, search=search),
                )
                folder = options.out / f"labels-r{ratio:g}-epochs-{epochs}-seed-{seed}"
                rows.append(scored(Run(config, folder, **shared), "found", ratio, name))
    return rows


def values(rows: Sequence[dict[str, Any]], method: str, ratio: float) -> dict[int, float]:
    """Weighted F1 by seed."""
    return {
        row["seed"]: row["weighted_f1"]
        for row in rows
        if row["method"] == method and row["label_ratio"] == ratio
    }


def told(rows: Sequence[dict[str, Any]], options: Options) -> str:
    """Means and paired differences as Markdown."""
    seeds = " ".join(map(str, options.seeds))
    ratios = options.label_ratio
    head = " | ".join(f"r = {ratio:g}" for ratio in ratios)
    lines = [
        f"Weighted F1 on the generated sample's test part, mean [95 % interval] over seeds {seeds};"
        f' recipe "{options.recipe}"; threshold chosen on the labelled dev part.',
        "",
        f"| method | {head} |",
        "|---" * (1 + len(ratios)) + "|",
    ]
    for method in METHODS:
        cells = []
        for ratio in ratios:
            mean, low, high = mean_interval(list(values(rows, method, ratio).values()))
            cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Paired differences: each seed's score of the first less that of the second.",
        "",
        f"| first minus second | {head} |",
        "|---" * (1 + len(ratios)) + "|",
    ]
    for first, second in PAIRS:
        cells = []
        for ratio in ratios:
            ours, theirs = values(rows, first, ratio), values(rows, second, ratio)
            mean, low, high = mean_interval([ours[seed] - theirs[seed] for seed in ours])
            cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(f"| {first} - {second} | " + " | ".join(cells) + " |")
    lines += ["", "Found, and for how many seeds:", ""]
    for method in ("found", SAME_EPOCHS, SAME_STEPS):
        for ratio in ratios[-1:] if method == "found" else ratios:
            found = [row["genotype"] for row in rows
                     if row["method"] == method and row["label_ratio"] == ratio]  # fmt: skip
            counts = {name: found.count(name) for name in sorted(set(found), key=found.index)}
            where = method if method == "found" else f"{method}, r = {ratio:g}"
            listed = ", ".join(f"`{name}` {count}" for name, count in counts.items())
            lines.append(f"- {where}: {listed}")
    return "\n".join(lines) + "\n"


def main(options: Options) -> None:
    """Run what is missing, then write and print the tables."""
    rows = study(options)
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for row in rows:
        short = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        table.writerow(short)
    write_text(options.tables / f"{options.name}.csv", text.getvalue())
    summary = told(rows, options)
    write_text(options.tables / f"{options.name}.md", summary)
    print(summary)


if __name__ == "__main__":
    main(tyro.cli(Options))
