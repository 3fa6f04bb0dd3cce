"""What sees where things are, and what a search adds to it: three tasks on generated scenes.

    python tests/benchmarks/scenes.py --out runs/scenes
    python tests/benchmarks/scenes.py --out runs/phrases --task grounding
    python tests/benchmarks/scenes.py --out runs/captions --task matching --scenes 1000
    python tests/benchmarks/scenes.py --out runs/scarce --scenes 1000 --label-ratio 0.05 0.3 1 \
        --networks "MMnas's prior" "random, with RSA, of equal size" "found with labels" \
        "found without labels"

Networks of encoder and decoder, of the recipe "scenes", are trained alike on all labels of train
and scored on test, by kind of text:

- by hand: MCAN's stack, and the one that MMnas's search starts from, which has RSA where MCAN has
  SA;
- drawn: one that has RSA and as many weights as these, to 5 %;
- found by gates: with labels, from noise and from that stack; and without labels, by matching
  texts with scenes;
- without architecture: late concatenation, which is given the boxes as numbers.

At a label ratio below 1 fine-tuning and searches with labels have that part of train's and dev's
labels, and as many steps of the search as on all of them; a search without labels has all texts.

Each seed draws other networks, other searches and other weights; scenes and texts are the
same. Nothing is chosen on test. Writes scenes.md, scenes_grounding.md or scenes_matching.md into
--tables, of several ratios scenes_ratios.md; it resumes where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
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
from ssnas_core.datasets.splits import labelled_part
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
    label_ratio: tuple[float, ...] = (1.0,)
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
    prepared: Prepared,
    space: EncDecSpace,
    objective: Any,
    seed: int,
    prior: str | None = None,
    ratio: float = 1.0,
) -> Genotype:
    """The network that gates find on train and dev, or on the labelled parts of them."""
    train = prepared.indices("train")
    config = replace(RECIPE.strategy("gates"), prior=prior).as_long_as(len(train))
    part = labelled_part(prepared.dataset, ratio, seed)
    rows, dev = torch.from_numpy(part.train), torch.from_numpy(part.dev)
    context = SearchContext(train=rows, dev=dev, seed=seed)
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
    ways: dict[str, Callable[[int, float], Genotype | None]] = {
        "late concat": lambda seed, ratio: None,
        "MCAN": lambda seed, ratio: space.named("MCAN"),
        "MMnas's prior": lambda seed, ratio: space.named(PRIOR),
        "random, with RSA, of equal size": lambda seed, ratio: drawn(space, seed),
        "found with labels": lambda seed, ratio: searched(
            prepared, space, labels, seed, ratio=ratio
        ),
        "found with labels, from the prior": lambda seed, ratio: searched(
            prepared, space, labels, seed, PRIOR, ratio
        ),
        "found without labels": lambda seed, ratio: without_labels(seed),
    }

    @cache
    def without_labels(seed: int) -> Genotype:
        return searched(prepared, space, RECIPE.contrastive, seed)

    def score(way: str, seed: int, ratio: float) -> dict[str, Any]:
        path = options.out / f"{way}_{ratio:g}_{seed}.json".replace(" ", "-")
        if path.exists():
            return read_json(path)
        genotype = ways[way](seed, ratio)
        with seeded(seed, 1):
            encoder: Any = (
                LateConcat(store.channels, RECIPE.space("fusion"), store.positions)
                if genotype is None
                else space.build(genotype)
            )
            model = join(encoder, encoder, labels)
        train = torch.from_numpy(labelled_part(prepared.dataset, ratio, seed).train)
        fit(model, store, labels, train, RECIPE.finetune, seed=seed)
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
        print(way, seed, ratio, result, flush=True)
        return result

    asked = options.networks or tuple(ways)
    scores = {
        (way, ratio): [score(way, seed, ratio) for seed in options.seeds]
        for way in asked
        for ratio in options.label_ratio
    }
    name = "scenes" if options.task == "questions" else f"scenes_{options.task}"
    if len(options.label_ratio) > 1:
        write_text(options.tables / f"{name}_ratios.md", by_ratio(options, scores))
    else:
        last = {way: ones for (way, _), ones in scores.items()}
        write_text(options.tables / f"{name}.md", report(options, last))


def command(options: Options) -> str:
    """The command that makes the table, but for its folder."""
    names = ("task", "scenes", "seeds", "label_ratio")
    said = {name: getattr(options, name) for name in names}
    more = []
    for name, value in said.items():
        values = value if isinstance(value, tuple) else (value,)
        if value != getattr(Options, name):
            more.append(f"--{name.replace('_', '-')} {' '.join(map(str, values))}")
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
        *section(f"All {options.task}, paired by seed", "\n".join(sorted(paired))),
        *section("Networks", "\n".join(found)),
        "",
    ])  # fmt: skip


def by_ratio(options: Options, scores: dict[tuple[str, float], list[dict[str, Any]]]) -> str:
    """The table of several label ratios as Markdown."""
    _, _, metric = TASKS[options.task]
    title, each = NAMES[options.task]
    ways = list(dict.fromkeys(way for way, _ in scores))
    rows, paired, found = [], [], []
    for way in ways:
        of = {ratio: scores[way, ratio] for ratio in options.label_ratio}
        cells = [with_interval(mean_interval([o["all"] for o in of[r]])) for r in of]
        related = (", ".join(str(o["genotype"].count("RSA(")) for o in of[r]) for r in of)
        rows.append([way, *cells, "; ".join(dict.fromkeys(related))])
    ours = "found without labels"
    for way in (way for way in ways if way != ours and ours in ways):
        gaps = []
        for ratio in options.label_ratio:
            pairs = zip(scores[ours, ratio], scores[way, ratio], strict=True)
            gap = mean_interval([one["all"] - other["all"] for one, other in pairs])
            gaps.append(f"r = {ratio:g}: {with_interval(gap, '+')}")
        paired.append(f"- {ours} less {way}: {'; '.join(gaps)}")
    for (way, ratio), ones in scores.items():
        if way.startswith("found"):
            named = zip(options.seeds, ones, strict=True)
            found += [f"- {way}, r = {ratio:g}, seed {seed}: {o['genotype']}" for seed, o in named]
    about = (
        f"{options.scenes:,} scenes, {each} for each; {len(options.seeds)} seeds, "
        f"mean [95 % t interval]. By `{command(options)}`."
    )
    head = ["network", *(f"r = {ratio:g}" for ratio in options.label_ratio), "blocks of RSA"]
    return "\n".join([
        *(f"# {title} generated scenes: {metric} on test, by share of labels", "", about, ""),
        *as_table(head, rows),
        *section("Paired by seed", "\n".join(paired)),
        *section("Networks", "\n".join(dict.fromkeys(found))),
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
