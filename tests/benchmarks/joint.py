"""Backbone and fusion searched together, against searched apart and not at all; without labels.

    python tests/benchmarks/joint.py --data mmimdb_subset.tar.gz --out runs/joint-movies
    python tests/benchmarks/joint.py --data data/avmnist --out runs/joint-avmnist

All are architectures of the space "joint": 3 convolutional cells of 8 channels over the pixels of
each picture, fusion cells beside all features above. Compared on test, paired by seed, are

- together: both found at once, by gates on the contrastive loss of all modalities;
- apart: first the cells of each picture by gates on the contrastive loss of that picture; a network
  of these is trained by the same loss and frozen; then the fusion cells, by gates over its maps
  and the other features, on the loss of all modalities;
- random: drawn from the space.

Then each is trained alike from fresh weights, backbone and fusion as one network: without labels on
all of train, then on the labels of a ratio r. Each seed draws other architectures, searches,
weights and labels. So what is compared is who decides, and nothing else.

Pictures have 16 x 16 pixels, and so many samples of each part are drawn once as --train, --dev and
--test say: sizes for one core, which tell of the three ways and of no record. Nothing was tuned.
Writes joint_NAME.md into --tables; it resumes where it was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from ssnas_core.common.files import read_json, write_json, write_text
from ssnas_core.common.random import seeded
from ssnas_core.datasets.open import open_dataset
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.splits import labelled_part
from ssnas_core.features.prepare import Prepared, prepare
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.runs.recipes import RECIPES, Recipe
from ssnas_core.search.context import SearchContext
from ssnas_core.search.gates import GatesConfig
from ssnas_core.show.tables import as_table, score_name, section, with_interval
from ssnas_core.spaces.cells.space import CellsConfig
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.spaces.joint import JointConfig, JointSpace, JointSupernet
from ssnas_core.training.loop import TrainConfig, fit, join
from ssnas_core.training.metrics import mean_interval
from ssnas_core.training.tasks import task_of

WAYS = ("together", "apart", "random")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    data: Path
    out: Path
    seeds: int = 5
    prepared: int = 5000  # of train, which the backbones of texts learn from, without labels
    train: int = 1000
    dev: int = 400
    test: int = 1000
    label_ratio: tuple[float, ...] = (0.1, 1.0)
    epochs: int = 6  # of each search, and of pretraining
    tables: Path = Path(__file__).parents[2] / "book" / "tables"


def drawn(dataset: Dataset, **counts: int) -> Dataset:
    """So many samples of each part, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    rows: list[int] = []
    for part, count in counts.items():
        own = torch.from_numpy(dataset.indices(part))
        rows += own[torch.randperm(len(own), generator=generator)[:count]].tolist()
    return replace(dataset, records=tuple(dataset.records[row] for row in rows))


class Above:
    """The fusions over cells that are fixed, as a space: what the joint space has above them.

    Args:
        space: of both.
        found: the cells of each picture.
        stacks: their networks, frozen.
    """

    def __init__(
        self, space: JointSpace, found: Mapping[str, Genotype], stacks: Mapping[str, Any]
    ) -> None:
        self.space, self.found, self.stacks = space, found, stacks

    def supernet(self) -> JointSupernet:
        return JointSupernet(self.stacks, self.space.fusion.supernet())

    def derive(self, logits: Mapping[str, Tensor]) -> Genotype:
        return self.space.join({**self.found, "": self.space.fusion.derive(logits)})


class Study:
    """The data, and all figures, each computed once and kept in a file."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.out = options.out
        read = open_dataset(options.data, unpack_to=options.out / "raw")
        self.recipe: Recipe = RECIPES["av-mnist" if read.single_label else "classroom"]
        small = replace(self.recipe.prepare, image="pixels", image_size=(16, 16), views=4)
        counts = {"train": options.prepared, "dev": options.dev, "test": options.test}
        self.prepared: Prepared = prepare(drawn(read, **counts), options.out / "store", small)
        self.store = self.prepared.store
        self.task = task_of(self.prepared.dataset)
        whole = self.prepared.dataset
        self.data = drawn(whole, train=options.train, dev=options.dev, test=options.test)
        places = {record.id: row for row, record in enumerate(whole.records)}
        self.places = torch.tensor([places[record.id] for record in self.data.records])
        self.training = TrainConfig(epochs=options.epochs, batch_size=64, learning_rate=3e-3)
        self.gates = GatesConfig(epochs=options.epochs, learning_rate=1e-3)

    def space(self, dropout: float = 0.1) -> JointSpace:
        fusion = replace(self.recipe.space("fusion"), channels=32, dropout=dropout)
        config = JointConfig(cells=CellsConfig(cells=3, channels=8), fusion=fusion)
        return config.open(self.store.channels, self.store.positions)

    def once(self, name: str, compute: Callable[[], Any]) -> dict[str, Any]:
        """What `compute` gives, of plain values, with its `seconds` of the processor."""
        file = self.out / f"{name}.json"
        if not file.exists():
            start = time.process_time()
            value = compute()
            write_json(file, {"value": value, "seconds": time.process_time() - start})
            print(name, f"{time.process_time() - start:.0f} s", value, flush=True)
        return read_json(file)

    def rows(self, part: str) -> Tensor:
        """Rows of the store that are of a part and used, (n,)."""
        return self.places[self.data.indices(part)]

    def context(self, seed: int, name: str) -> SearchContext:
        train, dev = self.rows("train"), self.rows("dev")
        return SearchContext(train=train, dev=dev, seed=seed, checkpoint=self.out / f"{name}.pt")

    def architecture(self, way: str, seed: int) -> dict[str, Any]:
        """The choices that a way makes, and what they took."""

        def compute() -> dict[str, int]:
            space = self.space()
            if way == "random":
                with seeded(seed, 30) as generator:
                    return space.encode(space.sample(generator))
            context = self.context(seed, f"{way}-{seed}")
            if way == "together":
                result = self.gates.search(space, self.store, self.recipe.contrastive, context)
            else:
                above = self.below(space, seed)
                result = self.gates.search(above, self.store, self.recipe.contrastive, context)
            return space.encode(result.genotype)

        return self.once(f"{way}-{seed}", compute)

    def below(self, space: JointSpace, seed: int) -> Above:
        """Find the cells of each picture by itself, and train and freeze a network of them."""
        found, stacks = {}, {}
        for picture, cells in space.cells.items():
            context = self.context(seed, f"apart-{picture}-{seed}")
            found[picture] = self.gates.search(cells, self.store, Contrastive(), context).genotype
            with seeded(seed, 40) as _:
                stack = cells.build(found[picture])
                model = join(stack, stack, Contrastive())
            rows = self.rows("train")
            fit(model, self.store, Contrastive(), rows, self.training, seed=seed)
            stacks[picture] = stack.requires_grad_(False)
        return Above(space, found, stacks)

    def score(self, way: str, ratio: float, seed: int) -> dict[str, Any]:
        """What the way's network scores on test, pretrained and then fine-tuned."""
        choice = self.architecture(way, seed)["value"]
        genotype = self.space().decode(choice)
        assert genotype is not None
        pretrained = self.out / f"pretrained-{way}-{seed}.pt"

        def network(stage: int, dropout: float) -> Any:
            with seeded(seed, stage):
                return self.space(dropout).build(genotype)

        def pretrain() -> float:
            embedder, objective = network(10, 0.1), self.recipe.contrastive
            with seeded(seed, 11):
                model = join(embedder, embedder, objective)
            rows = self.rows("train")
            history = fit(model, self.store, objective, rows, self.training, seed=seed)
            torch.save(embedder.state_dict(), pretrained)
            return history[-1]["loss"]

        def compute() -> dict[str, Any]:
            self.once(f"pretrain-{way}-{seed}", pretrain)
            embedder = network(20, self.recipe.finetune_dropout)
            embedder.load_state_dict(torch.load(pretrained))
            with seeded(seed, 21):
                model: nn.Module = join(embedder, embedder, self.task.learning)
            part = labelled_part(self.data, ratio, seed)
            rows, dev = self.places[part.train], self.places[part.dev]
            fit(model, self.store, self.task.learning, rows, self.recipe.finetune, seed=seed)
            threshold = self.task.threshold(self.task.predict(model, self.store, dev), dev)
            test = self.rows("test")
            scores = self.task.scores(self.task.predict(model, self.store, test), test, threshold)
            return {"score": scores[self.task.primary]}

        return self.once(f"scores/{way}-{ratio:g}-{seed}", compute)["value"]

    def report(self) -> str:
        """The table as Markdown."""
        options, seeds = self.options, range(self.options.seeds)
        rows, paired, of = [], [], {}
        for way in WAYS:
            for ratio in options.label_ratio:
                of[way, ratio] = [self.score(way, ratio, seed)["score"] for seed in seeds]
            cells = [with_interval(mean_interval(of[way, r])) for r in options.label_ratio]
            taken = [self.architecture(way, seed)["seconds"] for seed in seeds]
            rows.append([way, *cells, f"{sum(taken) / len(taken):.0f}"])
        for other in WAYS[1:]:
            gaps = []
            for ratio in options.label_ratio:
                pairs = zip(of["together", ratio], of[other, ratio], strict=True)
                gap = with_interval(mean_interval([one - two for one, two in pairs]), "+")
                gaps.append(f"r = {ratio:g}: {gap}")
            paired.append(f"- together less {other}: {'; '.join(gaps)}")
        name = self.prepared.dataset.name
        about = (
            f"{score_name([], self.task.primary)} on {options.test:,} test samples of data in the "
            f"layout of {name}, "
            f"{options.train:,} of train and {options.dev:,} of dev; pictures of 16 x 16 pixels; "
            f"{options.seeds} seeds, mean [95 % t interval]; {options.epochs} epochs of search and "
            "pretraining. Search: seconds of one core."
        )
        head = ["backbone and fusion", *(f"r = {r:g}" for r in options.label_ratio), "search, s"]
        return "\n".join([
            *("# Backbone and fusion: searched together, apart, or drawn", "", about, ""),
            *as_table(head, rows),
            *section("Paired by seed", "\n".join(paired)),
            "",
        ])  # fmt: skip


def main(options: Options) -> None:
    """Search, train, score and write the table."""
    torch.set_num_threads(1)
    study = Study(options)
    text = study.report()
    write_text(options.tables / f"joint_{study.prepared.dataset.name}.md", text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
