"""NLVR: are sentences that people wrote about drawn pictures true, by pixels and by boxes?

    python tests/benchmarks/nlvr.py --data nlvr.tar.gz --out runs/nlvr

Train are five of the six directories of NLVR's dev part, dev is the sixth, test is NLVR's test; no
sentence is in two of them (`ssnas_core/datasets/nlvr.py`). Compared are

- by what the regions are and where (boxes): late concatenation, either modality alone, and found
  fusion cells, of the recipe scenes; and in the space of encoder and decoder MCAN's stack, the
  one MMnas's search starts from, which has RSA where MCAN has SA, a random one with RSA of its
  size, and what gates find with labels and without;
- by the pictures' pixels: late concatenation, the picture alone and found fusion cells of the
  recipe classroom with pictures of 48 x 192, neither mirrored nor coloured.

Several pictures share a sentence, so that intervals are of sentences: all of a sentence's pictures
are redrawn together, 10,000 times, and the scores of a picture are means over --seeds seeds.
Writes nlvr.md into --tables; it resumes where it was interrupted.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scenes import PRIOR, drawn  # the script beside this one
from torch import Tensor

from ssnas_core.common.files import read_json, write_json, write_text
from ssnas_core.common.random import seeded
from ssnas_core.datasets.nlvr import REGIONS, read_nlvr
from ssnas_core.datasets.records import Dataset
from ssnas_core.features.augment import TextAugment
from ssnas_core.features.prepare import Prepared, prepare
from ssnas_core.runs.baselines import LateConcat
from ssnas_core.runs.recipes import RECIPES, Recipe
from ssnas_core.search.context import SearchContext
from ssnas_core.show.tables import as_table, section
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.training.loop import fit, join
from ssnas_core.training.tasks import task_of

DRAWS = 10_000
_CLASSROOM = RECIPES["classroom"]
_SCENES = RECIPES["scenes"]
BOXES = replace(_SCENES, prepare=replace(_SCENES.prepare, length=REGIONS))
PIXELS = replace(
    _CLASSROOM,
    prepare=replace(
        _CLASSROOM.prepare,
        text="characters",
        image_size=(48, 192),
        augment=replace(RECIPES["av-mnist"].prepare.augment, text=TextAugment(drop=0.0)),
    ),
)
"""A sentence keeps its words, also "not" and "only"; a picture its sides and colours."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """From where, and how much."""

    data: Path
    out: Path
    seeds: int = 5
    tables: Path = Path(__file__).parents[2] / "book" / "tables"


def pictures(dataset: Dataset, archive: Path, folder: Path) -> Dataset:
    """The same sentences with the first of a picture's six orders of boxes as an image."""
    records = []
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    for record in dataset.records:
        part, _, identifier = record.id.partition("-")
        (image,) = (folder / "nlvr" / part / "images").glob(f"*/{part}-{identifier}-0.png")
        inputs = {"image": image, "sentence": record.inputs["sentence"]}
        records.append(replace(record, inputs=inputs))
    return replace(
        dataset, name="nlvr", kinds={"image": "image", "sentence": "text"}, records=tuple(records)
    )


class Setting:
    """One way to read the pictures: prepared data, and networks over them.

    Args:
        name: of its files.
        data: what is prepared.
        recipe: of all sizes.
        options: of the command.
    """

    def __init__(self, name: str, data: Dataset, recipe: Recipe, options: Options) -> None:
        self.name, self.data, self.recipe, self.options = name, data, recipe, options

    @cached_property
    def prepared(self) -> Prepared:
        return prepare(self.data, self.options.out / "store", self.recipe.prepare)

    def right(self, way: str, seed: int, find: Callable[[int], Genotype | str]) -> np.ndarray:
        """Which of the test pictures a network is right about, (n,) of 0 and 1."""
        file = self.options.out / f"{self.name}-{way}-{seed}.json".replace(" ", "-")
        if not file.exists():
            found = find(seed)
            values = self._trained(found, seed).tolist()
            write_json(file, {"genotype": str(found), "right": values})
            print(file.stem, np.mean(values), found, flush=True)
        return np.array(read_json(file)["right"])

    def _trained(self, found: Genotype | str, seed: int) -> Tensor:
        store, task = self.prepared.store, task_of(self.prepared.dataset)
        if isinstance(found, Genotype):
            config = self.recipe.space(found.space).trained_with(self.recipe.finetune_dropout)
            network = config.open(store.channels, store.positions)
        with seeded(seed, 1):
            if isinstance(found, Genotype):
                embedder: Any = network.build(found)
            else:
                sizes = self.recipe.space("fusion").trained_with(self.recipe.finetune_dropout)
                alone = found.removesuffix(" only")
                names = [n for n in store.channels if found == "late concat" or n.startswith(alone)]
                channels = {name: store.channels[name] for name in names}
                embedder = LateConcat(channels, sizes, store.positions)
            model = join(embedder, embedder, task.learning)
        train, test = (self.prepared.indices(part) for part in ("train", "test"))
        fit(model, store, task.learning, train, self.recipe.finetune, seed=seed)
        predicted = task.predict(model, store, test).argmax(1)
        return (predicted == torch.from_numpy(self.prepared.dataset.targets())[test]).int()

    def found(self, space: str, strategy: str, with_labels: bool, seed: int) -> Genotype:
        """What a search finds, on train and dev."""
        store = self.prepared.store
        train, dev = (self.prepared.indices(part) for part in ("train", "dev"))
        objective: Any = self.recipe.contrastive
        if with_labels:
            objective = replace(task_of(self.prepared.dataset).learning, augment=False)
        opened = self.recipe.space(space).open(store.channels, store.positions)
        config = replace(self.recipe.strategy(strategy), min_steps=500)
        context = SearchContext(train=train, dev=dev, seed=seed)
        return config.search(opened, store, objective, context).genotype

    def named(self, name: str) -> Genotype:
        store = self.prepared.store
        return self.recipe.space("encdec").open(store.channels, store.positions).named(name)

    def drawn(self, seed: int) -> Genotype:
        """A random network that has RSA, of the prior's size to 5 %."""
        store = self.prepared.store
        return drawn(self.recipe.space("encdec").open(store.channels, store.positions), seed)


class Clusters:
    """Means over pictures with intervals of sentences."""

    def __init__(self, sentences: list[str]) -> None:
        _, self.of = np.unique(sentences, return_inverse=True)
        rng, count = np.random.default_rng(0), self.of.max() + 1
        self.times = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS)  # (draws, S)
        self.sizes = np.bincount(self.of)

    def interval(self, values: np.ndarray, sign: str = "") -> str:
        """Mean of a value for each picture, with the middle 95 % of redrawn sentences."""
        sums = np.bincount(self.of, values)
        means = self.times @ sums / (self.times @ self.sizes)
        low, high = np.quantile(means, (0.025, 0.975))
        return f"{values.mean():{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def main(options: Options) -> None:
    """Train, score and write the table."""
    torch.set_num_threads(1)
    sentences = read_nlvr(options.data)
    boxes = Setting("boxes", sentences, BOXES, options)
    seen = pictures(sentences, options.data, options.out / "raw")
    pixels = Setting("pixels", seen, PIXELS, options)
    ways: dict[str, tuple[Setting, Callable[[int], Genotype | str]]] = {
        "boxes, sentence only": (boxes, lambda seed: "sentence only"),
        "boxes, regions only": (boxes, lambda seed: "regions only"),
        "boxes, late concat": (boxes, lambda seed: "late concat"),
        "boxes, fusion cells found without labels": (
            boxes,
            lambda seed: boxes.found("fusion", "bilevel", False, seed),
        ),
        "boxes, MCAN": (boxes, lambda seed: boxes.named("MCAN")),
        "boxes, MMnas's prior": (boxes, lambda seed: boxes.named(PRIOR)),
        "boxes, random with RSA": (boxes, boxes.drawn),
        "boxes, found with labels": (
            boxes,
            lambda seed: boxes.found("encdec", "gates", True, seed),
        ),
        "boxes, found without labels": (
            boxes,
            lambda seed: boxes.found("encdec", "gates", False, seed),
        ),
        "pixels, picture only": (pixels, lambda seed: "image only"),
        "pixels, late concat": (pixels, lambda seed: "late concat"),
        "pixels, fusion cells found without labels": (
            pixels,
            lambda seed: pixels.found("fusion", "bilevel", False, seed),
        ),
    }
    right = {
        way: np.mean([of.right(way, seed, find) for seed in range(options.seeds)], 0)
        for way, (of, find) in ways.items()
    }
    test = [record for record in sentences.records if record.split == "test"]
    clusters = Clusters([_plain(str(record.inputs["sentence"])) for record in test])
    true = np.array([record.labels == ("true",) for record in test], dtype=float)
    counts = {part: len(sentences.indices(part)) for part in ("train", "dev", "test")}
    prior = "boxes, MMnas's prior"
    paired = [
        (prior, "boxes, MCAN"),
        (prior, "boxes, late concat"),
        ("boxes, found with labels", prior),
        ("boxes, found without labels", "boxes, found with labels"),
        ("boxes, late concat", "pixels, late concat"),
    ]
    gaps = {pair: clusters.interval(right[pair[0]] - right[pair[1]], "+") for pair in paired}
    rows = [["majority (true)", clusters.interval(true)]]
    rows += [[way, clusters.interval(values)] for way, values in right.items()]
    told = [f"- {one} less {other}: {gap}" for (one, other), gap in gaps.items()]
    about = (
        f"Accuracy on NLVR's test: {counts['test']} pictures with {len(clusters.sizes)} "
        f"sentences; trained on {counts['train']} pictures of its dev part, {counts['dev']} are "
        f"dev. Means over {options.seeds} seeds with 95 % bootstrap intervals of sentences. By "
        "`python tests/benchmarks/nlvr.py --data nlvr.tar.gz --out runs/nlvr`. "
        "NLVR: Suhr et al. 2017, CC BY 4.0."
    )
    text = "\n".join([
        *("# NLVR: is the sentence true of the picture?", "", about, ""),
        *as_table(["network", "accuracy"], rows),
        *section("Paired by picture", "\n".join(told)),
        "",
    ])  # fmt: skip
    write_text(options.tables / "nlvr.md", text)
    print(text)


def _plain(sentence: str) -> str:
    return " ".join(re.findall(r"\w+", sentence.lower()))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
