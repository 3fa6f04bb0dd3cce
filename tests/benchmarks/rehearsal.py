"""The full-size search on stored random features: seconds, samples a second, memory.

    python tests/benchmarks/rehearsal.py --out runs/rehearsal
    python tests/benchmarks/rehearsal.py --out runs/rehearsal --samples 1000 10000 100000

OMP_NUM_THREADS=2 in front of them stands for two cores.

Features are those of MM-IMDB in shape (four maps of VGG-19, pooled to 16 x 512, and two text
vectors of 64 and 128 numbers), standard normal, clean and in two views. The first command
searches as BM-NAS does: 12 epochs in batches of 96, weights over the 15,552 train samples, then
logits over the 2,608 dev samples, contrastively; and with made-up labels on one view for
`--supervised-epochs`. The second takes `--steps` steps of each level on stores of several sizes,
twice on the same samples: read from disk, then from the system's cache.

CPU seconds, of all threads, tell a machine that was busy with other things from a slow search.
Anonymous memory is what the process allocates itself, without the pages of the store. A store
of 18,160 samples takes 3.6 GB, one of 100,000 19.8 GB; each is deleted when it is measured.
Writes rehearsal.md or curve.md, and a .json beside it, into --out.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from ssnas_core.common.files import write_json, write_text
from ssnas_core.features.store import STORE_VERSION, FeatureStore
from ssnas_core.objectives.base import Objective
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.runs.folder import PeakMemory
from ssnas_core.search.bilevel import BilevelConfig, bilevel
from ssnas_core.search.context import SearchContext
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace

CHANNELS = {**{f"image_{depth}": 512 for depth in range(4)}, "text_0": 64, "text_1": 128}
POSITIONS = {name: 16 if name.startswith("image") else 1 for name in CHANNELS}
CLASSES = 23


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    out: Path
    train: int = 15552
    dev: int = 2608
    epochs: int = 12
    supervised_epochs: int = 1
    batch_size: int = 96
    views: int = 2
    samples: tuple[int, ...] = ()
    """Sizes of the stores of the curve, which takes the place of the full-size search."""
    steps: int = 60
    """Of each level, for one point of the curve."""


@contextmanager
def random_store(folder: Path, rows: int, views: int) -> Iterator[FeatureStore]:
    """A store of random features, deleted at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        random = np.random.default_rng(0)
        for name, channels in CHANNELS.items():
            shape = (rows, 1 + views, POSITIONS[name], channels)
            array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape)
            for first in range(0, rows, 256):
                part = array[first : first + 256]
                part[:] = random.standard_normal(part.shape, np.float32)
            array.flush()
        told = {"version": STORE_VERSION, "key": "random", "rows": rows, "views": views}
        write_json(folder / "store.json", {**told, "channels": CHANNELS, "positions": POSITIONS})
        yield FeatureStore.open(folder)
    finally:
        shutil.rmtree(folder)


def forget(folder: Path) -> None:
    """Let the system drop what it keeps of the store's files, where it can be asked to."""
    for path in folder.glob("*.npy"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def searched(
    store: FeatureStore,
    objective: Objective,
    train: torch.Tensor,
    dev: torch.Tensor,
    options: Options,
    epochs: int,
) -> dict[str, float]:
    """What one search takes."""
    config = BilevelConfig(alternate="epoch", epochs=epochs, batch_size=options.batch_size)
    space = FusionSpace(store.channels, FusionConfig(length=max(store.positions.values())))
    start, busy = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        context = SearchContext(train=train, dev=dev, progress="search")
        bilevel(space, store, objective, context, config)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    batch = options.batch_size
    taken = epochs * (len(train) // batch + len(dev) // batch) * batch
    return {
        "epochs": epochs,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(busy, 2),
        "samples_per_second": round(taken / seconds, 1),
        "ms_per_sample": round(1000 * seconds / taken, 4),
        "cpu_ms_per_sample": round(1000 * busy / taken, 4),
        "peak_anonymous_mb": memory.peak_mb or 0.0,
    }


def rehearsal(options: Options) -> tuple[str, dict[str, Any]]:
    """The search at its full size, without labels and with them."""
    rows = options.train + options.dev
    train, dev = torch.arange(options.train), torch.arange(options.train, rows)
    found = {}
    with random_store(options.out / "store", rows, options.views) as store:
        megabytes = store.bytes / 1e6
        labels = torch.rand(rows, CLASSES, generator=torch.Generator().manual_seed(0)) < 0.1
        objectives: dict[str, tuple[Objective, int]] = {
            "contrastive, 2 views": (Contrastive(), options.epochs),
            "supervised, 1 view": (Supervised(labels=labels), options.supervised_epochs),
        }
        for name, (objective, epochs) in objectives.items():
            if epochs:
                found[name] = searched(store, objective, train, dev, options, epochs)
    lines = [
        f"{options.train:,} train and {options.dev:,} dev samples of random features, "
        f"{megabytes:,.0f} MB on disk; batch {options.batch_size}, "
        f"{torch.get_num_threads()} threads.",
        "",
        "| search | epochs | seconds | CPU seconds | samples/s | peak anonymous memory, MB |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {row['epochs']} | {row['seconds']:.0f} | {row['cpu_seconds']:.0f} | "
            f"{row['samples_per_second']:.0f} | {row['peak_anonymous_mb']:.0f} |"
            for name, row in found.items()
        ),
    ]
    return "\n".join(lines) + "\n", found


def curve(options: Options) -> tuple[str, dict[str, Any]]:
    """The same steps on stores of several sizes."""
    found = {}
    generator = torch.Generator().manual_seed(0)
    count = options.steps * options.batch_size
    for rows in options.samples:
        train, dev = (torch.randint(rows, (count,), generator=generator) for _ in range(2))
        folder = options.out / "store"
        with random_store(folder, rows, options.views) as store:
            megabytes = store.bytes / 1e6
            del store  # files that are mapped stay in the cache
            forget(folder)
            store = FeatureStore.open(folder)
            for state in ("from disk", "again"):
                row = searched(store, Contrastive(), train, dev, options, 1)
                found[f"{rows:,} samples, {state}"] = {"store_mb": round(megabytes), **row}
                print(f"{rows:,} samples, {state}: {row['ms_per_sample']} ms each", flush=True)
    lines = [
        f"{2 * options.steps} steps of {options.batch_size} samples in two views, drawn from all "
        f"samples of a store; {torch.get_num_threads()} threads.",
        "",
        "| store | MB on disk | ms per sample | CPU ms | peak anonymous memory, MB |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {row['store_mb']:,} | {row['ms_per_sample']:.3f} | "
            f"{row['cpu_ms_per_sample']:.3f} | "
            f"{row['peak_anonymous_mb']:.0f} |"
            for name, row in found.items()
        ),
    ]
    return "\n".join(lines) + "\n", found


def main(options: Options) -> None:
    """Measure, write and print."""
    name, work = ("curve", curve) if options.samples else ("rehearsal", rehearsal)
    options.out.mkdir(parents=True, exist_ok=True)
    table, found = work(options)
    write_text(options.out / f"{name}.md", table)
    told = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": found}
    write_json(options.out / f"{name}.json", told)
    print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
