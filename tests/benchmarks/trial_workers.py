"""Trials per minute by number of workers: one search by TPE, of cells on scikit-learn's digits.

    python tests/benchmarks/trial_workers.py --out runs/trial-workers

Searches with each number of workers follow each other, --repeats times, so that what else the
machine does meets all of them. Counted is from the moment when every worker has ended a trial: the
start, a few seconds in which workers import torch, is told apart. A trial's seconds of the
processor, of all processes, say what workers cost where others take the cores away.

Writes book/tables/NAME.md.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
import tyro

from ssnas_core.common.files import write_text
from ssnas_core.datasets.digits import digits
from ssnas_core.features.prepare import prepare
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.runs.recipes import RECIPES
from ssnas_core.search.context import SearchContext
from ssnas_core.show.tables import as_table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where to, how much."""

    out: Path
    workers: tuple[int, ...] = (1, 2)
    trials: int = 20
    repeats: int = 2
    name: str = "trial_workers"
    """Of the table."""


def processor() -> float:
    """Seconds of the processor that this process and those it has started took so far."""
    own = psutil.Process()
    alive = [own, *own.children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in alive)


def measured(options: Options, workers: int) -> tuple[float, float, float]:
    """Trials per minute, seconds of the processor per trial, and seconds to the first trials."""
    recipe = RECIPES["digits"]
    prepared = prepare(digits(), options.out / "store", recipe.prepare)
    store = prepared.store
    space = recipe.space("cells").open(store.channels, store.positions)
    moments = []
    context = SearchContext(
        train=prepared.indices("train"),
        dev=prepared.indices("dev"),
        on_epoch=lambda _: moments.append((time.perf_counter(), processor())),
    )
    config = replace(recipe.strategy("tpe"), trials=options.trials, workers=workers)
    start = time.perf_counter()
    result = config.search(space, store, Contrastive(), context)
    assert not any("repeats" in one for one in result.history)  # these take no time
    (begun, before), (end, after) = moments[workers - 1], moments[-1]
    counted = options.trials - workers
    return 60 * counted / (end - begun), (after - before) / counted, begun - start


def main(options: Options) -> None:
    """Measure, and write the table."""
    torch.set_num_threads(1)
    found: dict[int, list[tuple[float, float, float]]] = {one: [] for one in options.workers}
    for _ in range(options.repeats):
        for workers in options.workers:
            found[workers].append(measured(options, workers))
            print(workers, found[workers][-1], flush=True)
    rows = [
        [str(one), *(f"{of:.1f}" for of in np.median(found[one], axis=0))]
        for one in options.workers
    ]
    text = (
        f"One search by TPE, {options.trials} trials of two epochs: cells on scikit-learn's digits "
        f"by recipe digits; medians of {options.repeats} searches, one thread a worker, on "
        f"{os.cpu_count()} cores with a load of {os.getloadavg()[2]:.1f} (15 minutes; all that "
        "runs on the machine, these searches included).\n\n"
    )
    head = ["workers", "trials per minute", "processor, s per trial", "start, s"]
    tables = Path(__file__).parents[2] / "book" / "tables"
    write_text(tables / f"{options.name}.md", f"{text}{chr(10).join(as_table(head, rows))}\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
