"""What sees where things are, and what a search adds to it: three tasks on generated scenes.

    python tests/benchmarks/scenes.py --out runs/scenes
    python tests/benchmarks/scenes.py --out runs/phrases --task grounding
    python tests/benchmarks/scenes.py --out runs/captions --task matching --scenes 1000

Networks of encoder and decoder, of the recipe "scenes", are trained alike on all labels of train
and scored on test, by kind of text:

- by hand: MCAN's stack, and the one that MMnas's search starts from, which has RSA where MCAN has
  SA;
- drawn: one that has RSA and as many weights as these, to 5 %;
- found by gates: with labels, from noise and from that stack; and without labels, by matching
  texts with scenes;
- without architecture: late concatenation, which is given the boxes as numbers.

Each seed draws other networks, other searches and other weights; scenes and texts are the
same. Nothing is chosen on test. Writes scenes.md, scenes_grounding.md or scenes_matching.md into
--tables; it resumes where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from ssnas_core.common.files import read_json, write_json, write_text
from ssnas_core.common.random import seeded
from ssnas_core.datasets.scenes import (
    CAPTIONS,
    KINDS,
    PHRASES,
    kind_of,
    read_captions,
    read_phrases,
    read_scenes,
)
from ssnas_core.features.prepare import Prepared, prepare
from ssnas_core.runs.baselines import LateConcat
from ssnas_core.runs.recipes import RECIPES
from ssnas_core.search.context import SearchContext
from ssnas_core.search.gates import gates
from ssnas_core.show.tables import as_table, section, with_interval
from ssnas_core.spaces.encdec.space import EncDecSpace
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.training.loop import fit, join
from ssnas_core.training.metrics import mean_interval
from ssnas_core.training.tasks import task_of

RECIPE = RECIPES["scenes"]
ALIKE = 0.05  # by how much of the weights networks of equal size may differ
PRIOR = "MMnas prior"
TASKS = {
    "questions": (read_scenes, KINDS, "accuracy"),
    "grounding": (read_phrases, PHRASES, "accuracy"),
    "matching": (read_captions, CAPTIONS, "mean recall at 1, 5 and 10, both ways"),
}
NAMES = {
    "questions": ("Questions about", "a question of each kind"),
    "grounding": ("Phrases about", "a phrase of each kind"),
    "matching": ("Captions of", "a caption of each kind"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    out: Path
    task: Literal["questions", "grounding", "matching"] = "questions"
    scenes: int = 3000
    seeds: tuple[int, ...] = (0, 1, 2)
    networks: tuple[str, ...] = ()  # rows of the table; all without it
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
    read, kinds, _ = TASKS[options.task]
    data = read(options.scenes)
    prepared = prepare(data, options.out / "store", RECIPE.prepare)
    store = prepared.store
    space = RECIPE.space("encdec").open(store.channels, store.positions)
    task = task_of(data)
    labels = replace(task.learning, augment=False)
    kind = [kind_of(record.id) for record in data.records]
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
            model = join(encoder, encoder, labels)
        fit(model, store, labels, prepared.indices("train"), RECIPE.finetune, seed=seed)
        scores = {}
        for name in kinds:
            rows = [row for row in prepared.indices("test").tolist() if kind[row] == name]
            part = torch.tensor(rows)
            scores[name] = task.scores(task.predict(model, store, part), part, None)[task.primary]
        result = {
            "genotype": "" if genotype is None else str(genotype),
            "weights": sum(weight.numel() for weight in model.parameters()),
            "all": sum(scores.values()) / len(kinds),  # of each kind there are as many
            **scores,
        }
        write_json(path, result)
        print(way, seed, result, flush=True)
        return result

    asked = options.networks or tuple(ways)
    scores = {way: [score(way, seed) for seed in options.seeds] for way in asked}
    name = "scenes" if options.task == "questions" else f"scenes_{options.task}"
    write_text(options.tables / f"{name}.md", report(options, scores))


def command(options: Options) -> str:
    """The command that makes the table, but for its folder."""
    said = {"task": options.task, "scenes": options.scenes, "seeds": options.seeds}
    more = [
        f"--{name} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in said.items()
        if value != getattr(Options, name)
    ]
    if options.networks:
        more.append("--networks " + " ".join(f'"{one}"' for one in options.networks))
    return " ".join(["python tests/benchmarks/scenes.py --out runs/scenes", *more])


def report(options: Options, scores: dict[str, list[dict[str, Any]]]) -> str:
    """The table as Markdown."""
    _, kinds, metric = TASKS[options.task]
    title, each = NAMES[options.task]
    rows, found = [], []
    for way, ones in scores.items():
        cells = [with_interval(mean_interval([o[kind] for o in ones])) for kind in (*kinds, "all")]
        sizes = sorted({f"{one['weights']:,}" for one in ones})
        related = ", ".join(str(one["genotype"].count("RSA(")) for one in ones)
        rows.append([way, *cells, " to ".join(dict.fromkeys((sizes[0], sizes[-1]))), related])
        if way.startswith(("found", "random")):
            named = zip(options.seeds, ones, strict=True)
            found += [f"- {way}, seed {seed}: {one['genotype']}" for seed, one in named]
    ours = "found with labels" if "found with labels" in scores else next(iter(scores))
    paired = []
    for way in scores.keys() - {ours}:
        pairs = zip(scores[ours], scores[way], strict=True)
        gap = mean_interval([one["all"] - other["all"] for one, other in pairs])
        paired.append(f"- {ours} less {way}: {with_interval(gap, '+')}")
    about = (
        f"{options.scenes:,} scenes, {each} for each; {len(options.seeds)} seeds, "
        f"mean [95 % t interval]. By `{command(options)}`."
    )
    head = ["network", *kinds, "all", "weights", "blocks of RSA"]
    return "\n".join([
        *(f"# {title} generated scenes: {metric} on test", "", about, ""),
        *as_table(head, rows),
        *section(f"All {options.task}, paired by seed", "", *sorted(paired)),
        *section("Networks", "", *found),
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
