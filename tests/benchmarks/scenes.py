"""What sees where things are, and what a search adds to it: questions about generated scenes.

    python tests/benchmarks/scenes.py --out runs/scenes

Networks of encoder and decoder, of the recipe "scenes", are trained alike on all labels of train
and scored on test, by kind of question:

- by hand: MCAN's stack, and the one that MMnas's search starts from, which has RSA where MCAN has
  SA;
- drawn: one that has RSA and as many weights as these, to 5 %;
- found by gates: with labels, from noise and from that stack; and without labels, by matching
  questions with scenes;
- without architecture: late concatenation, which is given the boxes as numbers.

Each seed draws other networks, other searches and other weights; scenes and questions are the
same. Nothing is chosen on test. Writes scenes.md into --tables; it resumes where it was
interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from ssnas_core.common.files import read_json, write_json, write_text
from ssnas_core.common.random import seeded
from ssnas_core.datasets.scenes import KINDS, kind_of, read_scenes
from ssnas_core.features.prepare import Prepared, prepare
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.runs.baselines import LateConcat
from ssnas_core.runs.recipes import RECIPES
from ssnas_core.search.context import SearchContext
from ssnas_core.search.gates import gates
from ssnas_core.show.tables import as_table, section, with_interval
from ssnas_core.spaces.encdec.space import EncDecSpace
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.training.loop import fit, predict
from ssnas_core.training.metrics import mean_interval

RECIPE = RECIPES["scenes"]
ALIKE = 0.05  # by how much of the weights networks of equal size may differ
PRIOR = "MMnas prior"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    out: Path
    scenes: int = 3000
    seeds: tuple[int, ...] = (0, 1, 2)
    tables: Path = Path(__file__).parents[2] / "book" / "tables"


def size_of(space: EncDecSpace, genotype: Genotype) -> int:
    """Weights of a network."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in space.build(genotype).parameters())


def drawn(space: EncDecSpace, seed: int) -> Genotype:
    """A random network that has RSA and the size of the prior."""
    size = size_of(space, space.named(PRIOR))
    with seeded(seed, 7) as generator:
        while True:
            genotype = space.sample(generator)
            has = any(node.operator == "RSA" for node in genotype.nodes)
            alike = abs(size_of(space, genotype) - size) <= ALIKE * size
            if has and alike:
                return genotype


def searched(
    prepared: Prepared, space: EncDecSpace, objective: Any, seed: int, prior: str | None
) -> Genotype:
    """The network that gates find on train and dev."""
    config = replace(RECIPE.strategy("gates"), prior=prior)
    parts = {name: prepared.indices(name) for name in ("train", "dev")}
    context = SearchContext(**parts, seed=seed)
    return gates(space, prepared.store, objective, context, config).genotype


def main(options: Options) -> None:
    """Train, score and write the table."""
    data = read_scenes(options.scenes)
    prepared = prepare(data, options.out / "store", RECIPE.prepare)
    store = prepared.store
    space = RECIPE.space("encdec").open(store.channels, store.positions)
    labels = Supervised(
        labels=torch.from_numpy(data.targets()), classes=len(data.classes), augment=False
    )
    kinds = [kind_of(record.id) for record in data.records]
    ways: dict[str, Callable[[int], Genotype | None]] = {
        "late concat": lambda seed: None,
        "MCAN": lambda seed: space.named("MCAN"),
        "MMnas's prior": lambda seed: space.named(PRIOR),
        "random, with RSA, of equal size": lambda seed: drawn(space, seed),
        "found with labels": lambda seed: searched(prepared, space, labels, seed, None),
        "found with labels, from the prior": lambda seed: searched(
            prepared, space, labels, seed, PRIOR
        ),
        "found without labels": lambda seed: searched(
            prepared, space, RECIPE.contrastive, seed, None
        ),
    }

    def score(way: str, seed: int) -> dict[str, Any]:
        path = options.out / f"{way}_{seed}.json".replace(" ", "-")
        if path.exists():
            return read_json(path)
        genotype = ways[way](seed)
        with seeded(seed, 1):
            encoder: Any = (
                LateConcat(store.channels, RECIPE.space("fusion"), store.positions)
                if genotype is None
                else space.build(genotype)
            )
            model = nn.Sequential(encoder, labels.head(encoder.width))
        fit(model, store, labels, prepared.indices("train"), RECIPE.finetune, seed=seed)
        rows = prepared.indices("test")
        right = predict(model, store, rows).argmax(1) == labels.labels[rows]
        shares = {
            kind: right[torch.tensor([kinds[row] == kind for row in rows.tolist()])]
            for kind in KINDS
        }
        result = {
            "genotype": "" if genotype is None else str(genotype),
            "weights": sum(weight.numel() for weight in model.parameters()),
            "all": float(right.float().mean()),
            **{kind: float(one.float().mean()) for kind, one in shares.items()},
        }
        write_json(path, result)
        print(way, seed, result, flush=True)
        return result

    scores = {way: [score(way, seed) for seed in options.seeds] for way in ways}
    write_text(options.tables / "scenes.md", report(options, scores))


def report(options: Options, scores: dict[str, list[dict[str, Any]]]) -> str:
    """The table as Markdown."""
    rows, found = [], []
    for way, ones in scores.items():
        cells = [with_interval(mean_interval([o[kind] for o in ones])) for kind in (*KINDS, "all")]
        sizes = sorted({f"{one['weights']:,}" for one in ones})
        related = ", ".join(str(one["genotype"].count("RSA(")) for one in ones)
        rows.append([way, *cells, " to ".join(dict.fromkeys((sizes[0], sizes[-1]))), related])
        if way.startswith(("found", "random")):
            named = zip(options.seeds, ones, strict=True)
            found += [f"- {way}, seed {seed}: {one['genotype']}" for seed, one in named]
    ours, paired = "found with labels", []
    for way in scores.keys() - {ours}:
        pairs = zip(scores[ours], scores[way], strict=True)
        gap = mean_interval([one["all"] - other["all"] for one, other in pairs])
        paired.append(f"- {ours} less {way}: {with_interval(gap, '+')}")
    about = (
        f"{options.scenes:,} scenes, a question of each kind for each; {len(options.seeds)} seeds, "
        "mean [95 % t interval]. By `python tests/benchmarks/scenes.py --out runs/scenes`."
    )
    head = ["network", *KINDS, "all", "weights", "blocks of RSA"]
    return "\n".join([
        *("# Questions about generated scenes: accuracy on test", "", about, ""),
        *as_table(head, rows),
        *section("All questions, paired by seed", "", *sorted(paired)),
        *section("Networks", "", *found),
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
