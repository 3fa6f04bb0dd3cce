"""Train every one-cell architecture on the generated sample: what does a good choice gain?

    python tests/benchmarks/sample_enumeration.py --out data/sample-enumeration.csv

Prepares the sample with the defaults (small backbones trained by SimCLR, without
labels), then trains each of the space's genotypes, feature pairs x operators, on
all train labels from several seeds, and scores it by weighted F1 on dev, at the
threshold that is best there. Then the 16 two-cell networks that join the plot
with one image depth and the result with another. Prints what a random
architecture scores and where those rank that the sample was made for: both
modalities, a deep image feature. About 12 minutes on two CPU cores; the test
split is never read.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import logging
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssnas_core.common.files import atomic_path
from ssnas_core.common.random import seeded
from ssnas_core.datasets.sample.corpus import sample_archive
from ssnas_core.features.prepare import Prepared, prepare
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.loop import TrainConfig, fit, predict
from ssnas_core.training.metrics import choose_threshold, f1_scores

FUSION = FusionConfig(channels=64, length=4, cells=1, dropout=0.3)
TRAIN = TrainConfig(epochs=30, batch_size=64, learning_rate=3e-3, weight_decay=0.1)

_shared: dict[str, Prepared] = {}


def dev_score(prepared: Prepared, space: FusionSpace, genotype: Genotype, seed: int) -> float:
    """Weighted F1 on dev, at dev's best threshold, of `genotype` trained on all train labels."""
    labels = torch.from_numpy(prepared.dataset.labels())
    objective = Supervised(labels=labels)
    with seeded(seed):
        network = space.build(genotype)
        model = nn.Sequential(network, objective.head(network.width))
    fit(model, prepared.store, objective, prepared.indices("train"), TRAIN, seed=seed)
    dev = prepared.indices("dev")
    probabilities = predict(model, prepared.store, dev).sigmoid().numpy()
    truth = labels[dev].numpy()
    return float(
        f1_scores(probabilities, truth, choose_threshold(probabilities, truth))["weighted"]
    )


def _work(job: tuple[str, FusionConfig, Genotype, int]) -> float:
    folder, config, genotype, seed = job
    if folder not in _shared:
        torch.set_num_threads(1)
        logging.disable()
        _shared[folder] = prepare(sample_archive(), Path(folder))
    prepared = _shared[folder]
    return dev_score(prepared, FusionSpace(prepared.store.channels, config), genotype, seed)


def train_all(
    folder: Path, config: FusionConfig, genotypes: list[Genotype], seeds: int, workers: int
) -> list[tuple[str, np.ndarray]]:
    """Every genotype, written out, with its dev scores (seeds,)."""
    jobs = [(str(folder), config, g, seed) for g in genotypes for seed in range(seeds)]
    with ProcessPoolExecutor(workers) as pool:
        scores = np.array(list(pool.map(_work, jobs, chunksize=seeds))).reshape(-1, seeds)
    return [(str(g), row) for g, row in zip(genotypes, scores, strict=True)]


def two_cells(space: FusionSpace) -> list[Genotype]:
    """The plot with one image depth, then the result with another or the same, by ConcatFC."""
    images = [name for name in space.features if name.startswith("image")]
    found = []
    for first, second in itertools.product(images, repeat=2):
        cells = (
            Node("cell_0", "ConcatFC", (first, "text_0")),
            Node("cell_1", "ConcatFC", ("cell_0", second)),
        )
        found.append(Genotype(space.name, cells))
    return found


def report(table: list[tuple[str, np.ndarray]]) -> str:
    """What the enumeration says, in lines, from (architecture, scores (seeds,)) pairs."""
    table = sorted(table, key=lambda row: -row[1].mean())
    chains = [row for row in table if "->" in row[0]]
    found = [row for row in table if "->" not in row[0]]
    mean = np.array([scores.mean() for _, scores in found])
    noise = np.sqrt(np.mean([scores.var(ddof=1) for _, scores in found]))
    lines = [
        f"{len(found)} one-cell architectures, {len(found[0][1])} seeds; dev weighted F1",
        f"random: {mean.mean():.3f} on average, median {np.median(mean):.3f}, "
        f"{mean[-1]:.3f} to {mean[0]:.3f}",
        f"spread between architectures {mean.std():.3f}, between seeds {noise:.3f}",
    ]

    def ranked(title: str, chosen: Callable[[str], bool]) -> str:
        ranks = [k for k, (name, _) in enumerate(found) if chosen(name)]
        return (
            f"{title:28s} {len(ranks):2d}: best {mean[ranks].max():.3f} (rank {ranks[0] + 1}), "
            f"mean {mean[ranks].mean():.3f}"
        )

    lines += [
        ranked("posters alone", lambda name: "text" not in name),
        ranked("plots alone", lambda name: "image" not in name),
        ranked("posters and plots", lambda name: "image" in name and "text" in name),
    ]
    for depth in range(4):
        feature = f"image_{depth}"
        lines.append(
            ranked(
                f"  {feature} with text_0", lambda name, f=feature: f in name and "text_0" in name
            )
        )
    for name, scores in found[:3]:
        lines.append(f"best of one cell:  {scores.mean():.3f}  {name}")
    for name, scores in chains[:3]:
        lines.append(f"best of two cells: {scores.mean():.3f}  {name}")
    same = next(row for row in chains if len(set(re.findall(r"image_\d", row[0]))) == 1)
    lines.append(f"two cells, one depth: {same[1].mean():.3f}  {same[0]}")
    return "\n".join(lines)


def read_table(path: Path) -> list[tuple[str, np.ndarray]]:
    """What `--out` wrote."""
    with open(path, newline="") as file:
        return [
            (row["genotype"], np.array([float(row[key]) for key in row if key.startswith("seed")]))
            for row in csv.DictReader(file)
        ]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, help="CSV to write")
    options.add_argument("--read", type=Path, help="only print what this CSV says")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--folder", type=Path, help="where to prepare; a temporary folder without")
    given = options.parse_args()
    if given.read is not None:
        print(report(read_table(given.read)))
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="ssnas-"))
    channels = prepare(sample_archive(), folder, progress=True).store.channels
    table = []
    for cells in (1, 2):
        config = replace(FUSION, cells=cells)
        space = FusionSpace(channels, config)
        genotypes = list(space.genotypes()) if cells == 1 else two_cells(space)
        table += train_all(folder, config, genotypes, given.seeds, given.workers)
    print(report(table))
    if given.out is not None:
        with atomic_path(given.out) as temporary, open(temporary, "w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["genotype", *(f"seed_{seed}" for seed in range(given.seeds))])
            rows.writerows([name, *(f"{score:.5f}" for score in scores)] for name, scores in table)


if __name__ == "__main__":
    main()
