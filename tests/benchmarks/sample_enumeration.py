"""Train every one-cell architecture on the generated sample: what does a good choice gain?

    python tests/benchmarks/sample_enumeration.py --out data/sample-enumeration.csv

Prepares the sample with the defaults (small backbones trained by SimCLR, without
labels), then trains each of the space's genotypes, feature pairs x operators, on
all train labels from several seeds, and scores it by weighted F1 on dev, at the
threshold that is best there. Writes one row per genotype; prints where the
intended architectures rank, what a random one scores, and the best two-cell
network that joins a shallow and a deep image feature with the plot.
About 25 minutes on two CPU cores; the test split is never read.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import logging
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ssnas_core.datasets.sample import sample_archive
from ssnas_core.files import atomic_path
from ssnas_core.genotype import Genotype
from ssnas_core.metrics import choose_threshold, f1_scores
from ssnas_core.objectives import Supervised
from ssnas_core.preparation import Prepared, prepare
from ssnas_core.spaces.fusion import FusionConfig, FusionSpace
from ssnas_core.training import TrainConfig, fit, predict, seeded

FUSION = FusionConfig(channels=64, length=4, cells=1, dropout=0.3)
TRAIN = TrainConfig(epochs=30, batch_size=64, learning_rate=3e-3, weight_decay=0.1)

_shared: dict[str, Prepared] = {}


def dev_score(prepared: Prepared, space: FusionSpace, genotype: Genotype, seed: int) -> float:
    """Weighted F1 on dev, at dev's best threshold, of `genotype` trained on all train labels."""
    labels = torch.from_numpy(prepared.dataset.labels())
    objective = Supervised(labels=labels)
    with seeded(seed):
        model = nn.Sequential(space.build(genotype), objective.head(space.width))
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


def enumerate_space(
    folder: Path, config: FusionConfig, genotypes: Iterable[Genotype], seeds: int, workers: int
) -> list[tuple[Genotype, np.ndarray]]:
    """Every genotype with its dev scores (seeds,), best mean first."""
    genotypes = list(genotypes)
    jobs = [(str(folder), config, g, seed) for g in genotypes for seed in range(seeds)]
    with ProcessPoolExecutor(workers) as pool:
        scores = np.array(list(pool.map(_work, jobs, chunksize=seeds))).reshape(-1, seeds)
    found = list(zip(genotypes, scores, strict=True))
    return sorted(found, key=lambda entry: -entry[1].mean())


def modalities(genotype: Genotype) -> frozenset[str]:
    return frozenset(name.rsplit("_", 1)[0] for name in genotype.features)


def report(found: list[tuple[Genotype, np.ndarray]]) -> str:
    """What the enumeration says, in lines."""
    mean = np.array([scores.mean() for _, scores in found])
    noise = np.sqrt(np.mean([scores.var(ddof=1) for _, scores in found]))
    lines = [
        f"{len(found)} architectures, {len(found[0][1])} seeds; dev weighted F1",
        f"best   {mean[0]:.3f}  {found[0][0]}",
        f"random {mean.mean():.3f} (mean), {np.median(mean):.3f} (median), worst {mean[-1]:.3f}",
        f"spread between architectures {mean.std():.3f}, between seeds {noise:.3f}",
    ]
    for title, wanted in (
        ("posters and plots", {"image", "text"}),
        ("posters alone", {"image"}),
        ("plots alone", {"text"}),
    ):
        ranks = [k for k, (g, _) in enumerate(found) if modalities(g) == wanted]
        lines.append(
            f"{title:18s} best {mean[ranks].max():.3f} (rank {ranks[0] + 1}), "
            f"mean {mean[ranks].mean():.3f}, {len(ranks)} architectures"
        )
    both = [(g, s.mean()) for g, s in found if modalities(g) == {"image", "text"}]
    for part in (0, 1):
        features = sorted({sorted(g.features)[part] for g, _ in both})
        told = ", ".join(
            f"{f} {np.mean([m for g, m in both if f in g.features]):.3f}" for f in features
        )
        lines.append(f"of these, by feature: {told}")
    operators = sorted({g.nodes[0].operator for g, _ in both})
    told = ", ".join(
        f"{o} {np.mean([m for g, m in both if g.nodes[0].operator == o]):.3f}" for o in operators
    )
    lines.append(f"of these, by operator: {told}")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, help="CSV to write")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--folder", type=Path, help="where to prepare; a temporary folder without")
    given = options.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="ssnas-"))

    channels = prepare(sample_archive(), folder, progress=True).store.channels
    space = FusionSpace(channels, FUSION)
    found = enumerate_space(folder, FUSION, space.genotypes(), given.seeds, given.workers)
    print(report(found))

    # Two cells, both ConcatFC: the plot with one image depth, then the result with another.
    two = replace(FUSION, cells=2)
    pairs = itertools.product([name for name in channels if name.startswith("image")], repeat=2)
    wide = FusionSpace(channels, two)
    deep = [
        g
        for g in wide.genotypes()
        if (first := g.nodes[0]).operator == (second := g.nodes[1]).operator == "ConcatFC"
        and "cell_0" in second.inputs
        and "text_0" in first.inputs
        and (set(first.inputs) - {"text_0"}).pop().startswith("image")
        and (set(second.inputs) - {"cell_0"}).pop().startswith("image")
    ]
    assert len(deep) <= len(list(pairs))
    for genotype, scores in enumerate_space(folder, two, deep, given.seeds, given.workers)[:3]:
        print(f"two cells {scores.mean():.3f}  {genotype}")

    if given.out is not None:
        with atomic_path(given.out) as temporary, open(temporary, "w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["genotype", "mean", *(f"seed_{seed}" for seed in range(given.seeds))])
            for genotype, scores in found:
                rows.writerow(
                    [str(genotype), f"{scores.mean():.4f}", *(f"{s:.4f}" for s in scores)]
                )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
