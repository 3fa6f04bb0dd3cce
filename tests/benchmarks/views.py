"""What storing V views instead of drawing fresh ones costs in quality.

    python tests/benchmarks/views.py --out runs/views

Prepares the generated sample once (two-core recipe), then stores 1, 2, 4 and 8 views of it
by the same backbones. From each store, and from views made anew at every step by running
the backbones ("live"), it searches, pretrains the found network and fine-tunes it at each
label ratio, once per seed. Every stage draws its views from that source; only fine-tuning
after live views is on the largest store, as in `ssnas run`. A contrastive pair from a store
of one view is that view and the clean one. Thresholds are chosen on the labelled dev part;
the test part is read once per cell.

Writes one JSON per source and seed into --out, and views.csv (every score) and views.md
(means and 95 % intervals over seeds) into book/tables. It resumes where it was interrupted.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import nn

from ssnas_core.common.files import read_json, write_json, write_text
from ssnas_core.common.random import seeded
from ssnas_core.datasets.sample.corpus import sample_archive
from ssnas_core.datasets.splits import labelled_part
from ssnas_core.features.extract import extract_features
from ssnas_core.features.inputs import content_key
from ssnas_core.features.live import LiveFeatures, LiveInputs
from ssnas_core.features.prepare import Prepared, prepare
from ssnas_core.features.store import FeatureStore
from ssnas_core.objectives.base import Source
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.runs.recipes import RECIPES, Recipe
from ssnas_core.search.bilevel import bilevel
from ssnas_core.search.context import SearchContext
from ssnas_core.spaces.fusion.space import FusionSpace
from ssnas_core.training.loop import fit, predict
from ssnas_core.training.metrics import choose_threshold, mean_interval, multi_label_scores

LIVE = "live"
COLUMNS = ("views", "seed", "label_ratio", "weighted_f1", "micro_f1", "macro_f1", "threshold",
           "search_seconds", "pretrain_seconds", "megabytes", "genotype")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    out: Path
    tables: Path = Path(__file__).parents[2] / "book" / "tables"
    views: tuple[int, ...] = (1, 2, 4, 8)
    live: bool = True
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    workers: int = 2
    tiny: bool = False
    """Train hardly at all: to see that everything works."""


def recipe_of(options: Options) -> Recipe:
    """The two-core recipe, or one of a few steps."""
    recipe = RECIPES["two-core"]
    if not options.tiny:
        return recipe
    prepared = replace(
        recipe.prepare,
        image_training=replace(recipe.prepare.image_training, epochs=1),
        text_training=replace(recipe.prepare.text_training, epochs=1),
    )
    return replace(
        recipe,
        prepare=prepared,
        parts=(recipe.space("fusion"), replace(recipe.strategy("bilevel"), epochs=1)),
        pretrain=replace(recipe.pretrain, epochs=1),
        finetune=replace(recipe.finetune, epochs=1, min_steps=0),
    )


def home(options: Options) -> Path:
    """The folder of this recipe's features and results, in --out."""
    return options.out / content_key(repr(recipe_of(options)))


def open_prepared(options: Options, progress: bool = False) -> Prepared:
    """The sample, prepared at the first use."""
    config = recipe_of(options).prepare
    return prepare(sample_archive(), home(options) / "store", config, progress=progress)


def open_store(options: Options, prepared: Prepared, views: int) -> FeatureStore:
    """The features in `views` views, by the backbones of the preparation."""
    config = prepared.config
    if views == config.views:
        return prepared.store
    return extract_features(
        prepared.live().inputs,
        prepared.backbones(),
        home(options) / "store" / f"views-{views}",
        views=views,
        length=config.length,
        seed=config.seed,
    )


def open_source(options: Options, prepared: Prepared, kind: str) -> tuple[Source, float]:
    """A source of views, and its size on disk in MB."""
    if kind != LIVE:
        store = open_store(options, prepared, int(kind))
        return store, store.bytes / 1e6
    taps = prepared.taps()
    folder = home(options) / "store" / LIVE
    live = LiveInputs(prepared.live().inputs, prepared.backbones(), folder, views=None)
    return LiveFeatures(live, taps), live.bytes / 1e6


def cell_file(options: Options, kind: str, seed: int) -> Path:
    """Where the result of one source and seed lies."""
    return home(options) / "cells" / f"views-{kind}_seed-{seed}.json"


def work(job: tuple[Options, str, int]) -> None:
    """Search, pretrain, fine-tune and score with one source and seed; once."""
    options, kind, seed = job
    file = cell_file(options, kind, seed)
    if file.exists():
        return
    torch.set_num_threads(1)
    logging.disable()
    recipe, prepared = recipe_of(options), open_prepared(options)
    source, megabytes = open_source(options, prepared, kind)
    train, dev, test = (prepared.indices(split) for split in ("train", "dev", "test"))
    simclr, space = recipe.contrastive, FusionSpace(prepared.store.channels, recipe.space("fusion"))

    context = SearchContext(train=train, dev=dev, seed=seed)
    start = time.perf_counter()
    found = bilevel(space, source, simclr, context, recipe.strategy("bilevel")).genotype
    searched = time.perf_counter()
    with seeded(seed, 10):
        embedder = space.build(found)
        model = nn.Sequential(embedder, simclr.head(embedder.width))
    fit(model, source, simclr, train, recipe.pretrain, seed=seed)
    seconds = {"search": searched - start, "pretrain": time.perf_counter() - searched}
    stored = source if kind != LIVE else open_store(options, prepared, max(options.views))

    labels = torch.from_numpy(prepared.dataset.labels())
    objective = Supervised(labels=labels)
    tuned = FusionSpace(space.channels, replace(space.config, dropout=recipe.finetune_dropout))
    rows = []
    for ratio in options.label_ratio:
        part = labelled_part(prepared.dataset, ratio, seed)
        with seeded(seed, 20):
            network = nn.Sequential(tuned.build(found), objective.head(embedder.width))
        network[0].load_state_dict(model[0].state_dict())
        fit(network, stored, objective, torch.from_numpy(part.train), recipe.finetune, seed=seed)
        probs = predict(network, stored, torch.from_numpy(part.dev)).sigmoid().numpy()
        threshold = choose_threshold(probs, labels[part.dev].numpy())
        probs = predict(network, stored, test).sigmoid().numpy()
        rows.append(
            {"label_ratio": ratio, **multi_label_scores(probs, labels[test].numpy(), threshold)}
        )
    seconds["finetune"] = time.perf_counter() - start - sum(seconds.values())
    write_json(
        file,
        {
            "views": kind,
            "seed": seed,
            "genotype": str(found),
            "megabytes": megabytes,
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "scores": rows,
        },
    )


def interval(values: Sequence[float], signed: bool = False) -> str:
    """Mean and 95 % interval, as a cell of the table."""
    form = "+.3f" if signed else ".3f"
    if len(values) < 2:
        return f"{values[0]:{form}}"
    return "{0:{3}} [{1:{3}}, {2:{3}}]".format(*mean_interval(values), form)


def tables(options: Options, kinds: Sequence[str]) -> tuple[str, str]:
    """The CSV of all scores, and the Markdown of their means."""
    cells = {
        (kind, seed): read_json(cell_file(options, kind, seed))
        for kind in kinds
        for seed in options.seeds
    }
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for cell in cells.values():
        told = {f"{stage}_seconds": value for stage, value in cell["seconds"].items()}
        for row in cell["scores"]:
            whole = {**cell, **told, **row}
            table.writerow(
                {k: round(v, 4) if isinstance(v, float) else v for k, v in whole.items()}
            )

    def score(kind: str, place: int) -> list[float]:
        return [cells[kind, seed]["scores"][place]["weighted_f1"] for seed in options.seeds]

    def middle(kind: str, stage: str) -> float:
        values = sorted(cells[kind, seed]["seconds"][stage] for seed in options.seeds)
        return values[len(values) // 2]

    ratios = list(enumerate(options.label_ratio))
    least = kinds[-1]
    lines = [
        f"Weighted F1 on test of the generated sample, mean [95 % interval] over seeds "
        f"{' '.join(map(str, options.seeds))}; threshold chosen on the labelled dev part. "
        f"Every stage draws from the stored views; after live views, fine-tuning draws from "
        f"{max(options.views)} stored ones. Seconds are medians on one core; MB are those of the "
        "features, or of the inputs that live views are made of.",
        "",
        "| views | MB | search, s | pretraining, s | "
        + " | ".join(f"r = {ratio:g}" for _, ratio in ratios)
        + " |",
        "|---" * (4 + len(ratios)) + "|",
    ]
    for kind in kinds:
        size = cells[kind, options.seeds[0]]["megabytes"]
        found = " | ".join(interval(score(kind, place)) for place, _ in ratios)
        lines.append(
            f"| {kind} | {size:.1f} | {middle(kind, 'search'):.1f} | "
            f"{middle(kind, 'pretrain'):.1f} | {found} |"
        )
    lines += [
        "",
        f"Difference to {least}, paired by seed:",
        "",
        "| views | " + " | ".join(f"r = {ratio:g}" for _, ratio in ratios) + " |",
        "|---" * (1 + len(ratios)) + "|",
    ]
    for kind in kinds[:-1]:
        differences = [
            [a - b for a, b in zip(score(kind, place), score(least, place), strict=True)]
            for place, _ in ratios
        ]
        lines.append(f"| {kind} | " + " | ".join(interval(d, True) for d in differences) + " |")
    return text.getvalue(), "\n".join(lines) + "\n"


def main(options: Options) -> None:
    """Run what is missing, then write and print the tables."""
    kinds = [str(views) for views in sorted(options.views)] + [LIVE] * options.live
    start = time.perf_counter()
    prepared = open_prepared(options, progress=True)
    for kind in kinds:
        open_source(options, prepared, kind)  # made here, so that workers only open them
    print(f"prepared after {time.perf_counter() - start:.0f} s")
    jobs = [(options, kind, seed) for seed in options.seeds for kind in reversed(kinds)]
    with ProcessPoolExecutor(options.workers) as pool:
        for number, _ in enumerate(pool.map(work, jobs), 1):
            print(f"{number} of {len(jobs)} after {time.perf_counter() - start:.0f} s", flush=True)
    scores_csv, means = tables(options, kinds)
    write_text(options.tables / "views.csv", scores_csv)
    write_text(options.tables / "views.md", means)
    print(means)


if __name__ == "__main__":
    main(tyro.cli(Options))
