"""What the contrastive tasks find, and views of texts that share no words: on dev.

    python tests/benchmarks/objectives.py --out runs/objectives
    python tests/benchmarks/objectives.py --data data/avmnist --recipe av-mnist --tasks simclr \
        clip --views --hard-tasks --name objectives_avmnist --out runs/objectives-avmnist

With the recipe as it is, by default "classroom" on the generated sample, one seed after the other:

- each task of `Contrastive` searches, and pretrains what it found, a random architecture and
  late concatenation; these are fine-tuned at r = 0.1;
- "simclr" does the same on other views of the texts, whose backbone learns from them too, and
  tasks on the hardest of these.

The threshold is chosen on the labelled dev part, the score is of the whole dev part. Test is
not read. Writes NAME.md into --tables; it resumes where it was interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from ssnas_core.common.files import read_json, write_json, write_text
from ssnas_core.common.modalities import by_modality
from ssnas_core.datasets.sample.corpus import sample_archive
from ssnas_core.features.augment import TextAugment
from ssnas_core.objectives.contrastive import Task, match_rate
from ssnas_core.runs.reading import read_trained
from ssnas_core.runs.recipes import RECIPES, RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.show.tables import as_table, score_name
from ssnas_core.training.metrics import mean_interval
from ssnas_core.training.shuffling import shuffled_scores

RATIO = 0.1
TASKS: tuple[Task, ...] = ("simclr", "swapped", "comm", "clip")
VIEWS = {
    "30 % of the words dropped": TextAugment(),
    "half of the words dropped": TextAugment(drop=0.5),
    "halves of the words": TextAugment(drop=0, parts=2),
    "quarters of the words": TextAugment(drop=0, parts=4),
    "halves of the sentences": TextAugment(drop=0, parts=2, unit="sentences"),
}
OWN = "halves of the words"  # the classroom's; of another recipe its own, whatever they are
HARD = "halves of the sentences"  # so hard that "simclr" leaves the texts alone
METHODS = ("found, pretrained", "found", "random, pretrained", "late concat, pretrained",
           "late concat")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    out: Path
    data: Path = field(default_factory=sample_archive)
    recipe: str = "classroom"
    name: str = "objectives"
    """Of the table."""
    store: Path | None = None
    """Of prepared data; OUT/store if not given."""
    tables: Path = Path(__file__).parents[2] / "book" / "tables"
    seeds: tuple[int, ...] = (0, 1, 2)
    view_seeds: tuple[int, ...] = (0, 1, 2)
    """Of the views of texts, each of which is prepared anew."""
    tasks: tuple[Task, ...] = TASKS
    views: tuple[str, ...] = tuple(VIEWS)
    hard_tasks: tuple[Task, ...] = ("simclr", "swapped")


def run_of(options: Options, task: Task, views: str, seed: int) -> Run:
    """The run of one task on one kind of views."""
    recipe = RECIPES[options.recipe]
    augment = recipe.prepare.augment
    augment = augment if views == OWN else replace(augment, text=VIEWS[views])
    recipe = replace(
        recipe,
        prepare=replace(recipe.prepare, augment=augment),
        contrastive=replace(recipe.contrastive, task=task),
    )
    config = RunConfig(data=options.data, seed=seed, label_ratio=(RATIO,), recipe=recipe)
    folder = options.out / "runs" / f"{task}-{list(VIEWS).index(views)}-{seed}"
    return Run(config, folder, store=options.store or options.out / "store", device="cpu")


def scored(run: Run, method: str) -> dict[str, Any]:
    """Fine-tune a method at r; return its score on the whole dev part, as it is and shuffled."""
    cell = run.train(method, RATIO)
    told = read_trained(cell / "train.json")
    model, rows = run.trained(method, cell), run.prepared.indices("dev")
    task, source, threshold = run.task, run.data.source(), told["threshold"]
    probs = task.predict(model, source, rows)
    return {
        "score": task.scores(probs, rows, threshold)[task.primary],
        "shuffled": shuffled_scores(task, model, source, rows, threshold),
        "parameters": told["parameters"],
    }


def measured(options: Options, task: Task, views: str, seed: int) -> dict[str, Any]:
    """All that is told of one run, computed once."""
    file = options.out / "told" / f"{task}-{list(VIEWS).index(views)}-{seed}.json"
    if file.exists():
        return read_json(file)
    run = run_of(options, task, views, seed)
    genotype = run.search()
    cells = {method: scored(run, method) for method in METHODS}
    seconds: dict[str, float] = {}
    for timing in run.folder.timings():
        if timing.stage == "search" or (timing.stage, timing.of) == ("pretrain", "found"):
            seconds[timing.stage] = round(timing.cpu_seconds or 0.0, 1)
    told = {
        "primary": run.task.primary,
        "genotype": str(genotype),
        "reads": sorted({n for node in genotype.nodes for n in node.inputs if "cell" not in n}),
        "report": read_json(run.folder / "pretrain.json")["history"][-1],
        "random": str(run.genotype_of("random")),
        "cells": cells,
        "seconds": seconds,
        "match": matches(run),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, told)
    return told


def matches(run: Run) -> dict[str, float]:
    """The share of 256 dev samples whose two views find each other by one feature as it is."""
    rows, generator = run.prepared.indices("dev")[:256], torch.Generator().manual_seed(0)
    source, mean = run.data.source(), run.data.source().clean(run.prepared.indices("train"))

    def flat(view: Mapping[str, Tensor], name: str) -> Tensor:
        return F.normalize((view[name] - mean[name].mean(0)).flatten(1))

    first, second = source.augmented(rows, generator, 2)
    return {n: float(match_rate(flat(first, n), flat(second, n))) for n in first}


def spread(values: Sequence[float]) -> str:
    """Mean and the values' range."""
    mean, *_ = mean_interval(values)
    rounded = [round(value, 3) + 0.0 for value in (mean, min(values), max(values))]  # no -0.000
    return "{:.3f} ({:.3f} to {:.3f})".format(*rounded)


def lines_of(rows: Mapping[str, list[dict[str, Any]]], head: str) -> list[str]:
    """The tables of some runs by name, a run per seed."""
    modalities = list(by_modality(next(iter(rows.values()))[0]["match"]))
    found = "found, pretrained"
    body, scores = [], []
    for name, runs in rows.items():
        reports = [run["report"] for run in runs]
        names = ("match", *(f"match_without_{modality}" for modality in modalities))
        shares = [f"{sum(r[n] for r in reports) / len(reports):.2f}" for n in names]
        found_cells = [run["genotype"].partition(" -> Concat(")[0] for run in runs]
        genotypes = "; ".join(
            f"`{cell}`" if "Concat(" not in cell else "none" for cell in found_cells
        )
        seconds = [
            f"{sum(r['seconds'][s] for r in runs) / len(runs):.0f}" for s in ("search", "pretrain")
        ]
        body.append([name, genotypes, *shares, *seconds])
        gaps = []
        for modality in modalities:
            cells = [run["cells"][found] for run in runs]
            gaps.append(spread([cell["score"] - cell["shuffled"][modality] for cell in cells]))
        columns = [spread([run["cells"][method]["score"] for run in runs]) for method in METHODS]
        scores.append([name, *columns, *gaps])
    without = [f"without {modality}" for modality in modalities]
    told = as_table([head, "cells found", "match", *without, "s search", "s pretraining"], body)
    lost = [f"lost if {modality} is shuffled" for modality in modalities]
    return [*told, "", *as_table([head, *METHODS, *lost], scores)]


def table(options: Options, told: Mapping[tuple[str, str, int], dict[str, Any]]) -> str:
    """The whole page."""
    tasks = {t: [told[t, OWN, s] for s in options.seeds] for t in options.tasks}
    views = {v: [told["simclr", v, s] for s in options.view_seeds] for v in options.views}
    hard = {t: [told[t, HARD, s] for s in options.view_seeds] for t in options.hard_tasks}
    first = next(iter(told.values()))
    features, score = list(first["match"]), score_name([], first["primary"])
    score = score[0].upper() + score[1:]
    matched = views or {"the recipe's": next(iter(tasks.values()))}
    by_depth = [[v, *(f"{r[0]['match'][n]:.2f}" for n in features)] for v, r in matched.items()]
    lines = [
        f"{score} on the whole dev part at r = {RATIO:g}, a threshold chosen on its labelled part: "
        f"mean (range) of {len(options.seeds)} seeds, recipe {options.recipe}. "
        "`match`: the share of views that find their sample's other view, after pretraining the "
        "found network; without a modality: when that is another sample's. Seconds of one core. "
        "Lost if shuffled: of the found and pretrained network.",
        "",
        "This can show which networks are found, and what these rest on. It cannot show which "
        "task is better, where seeds differ by more than the tasks do, and it says nothing of "
        "other data.",
        *("", *lines_of(tasks, "task"), ""),
    ]
    if views:
        seeds = ", ".join(map(str, options.view_seeds))
        lines += [f"Views of the texts (task simclr, seeds: {seeds}):", ""]
        lines += [*lines_of(views, "views"), ""]
    if hard:
        lines += [f"Tasks on {HARD}:", "", *lines_of(hard, "task"), ""]
    lines += [
        "Two views of 256 dev samples that find each other by one stored feature, less its mean:",
        *("", *as_table(["views", *features], by_depth)),
    ]
    return "\n".join(lines) + "\n"


def main(options: Options) -> None:
    """Compute what is missing, then write and print the table."""
    torch.set_num_threads(1)
    logging.disable()
    jobs = [(t, OWN, s) for s in options.seeds for t in options.tasks]
    jobs += [(t, HARD, s) for s in options.view_seeds for t in options.hard_tasks]
    jobs += [("simclr", v, s) for s in options.view_seeds for v in options.views]
    told = {}
    for job in dict.fromkeys(jobs):
        told[job] = measured(options, *job)
        cells = {name: round(cell["score"], 3) for name, cell in told[job]["cells"].items()}
        print(*job, told[job]["genotype"], cells, told[job]["seconds"], flush=True)
    text = table(options, told)
    write_text(options.tables / f"{options.name}.md", text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
