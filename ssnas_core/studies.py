"""Whole runs: search, pretrain, fine-tune and score, as resumable stages in a run folder.

The methods of a run differ only in what is trained; the labelled part, the
training recipe, the threshold policy and the features are shared. Each trained
cell (method x label ratio x seed) leaves its own files, which are its result.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core import metrics
from ssnas_core.baselines import LateConcat
from ssnas_core.datasets.splits import LabelledPart, labelled_part
from ssnas_core.errors import InputError
from ssnas_core.features import FeatureStore
from ssnas_core.files import (
    atomic_path,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
    write_text,
)
from ssnas_core.genotype import Genotype, SearchResult
from ssnas_core.objectives import Objective, OnDevice, Source, Supervised, modality_of
from ssnas_core.preparation import Prepared, load_dataset, prepare, save_dataset
from ssnas_core.recipes import Recipe, RunConfig
from ssnas_core.runs import RunFolder, pick_device
from ssnas_core.search.bilevel import bilevel
from ssnas_core.search.random import random_search
from ssnas_core.spaces.fusion import FusionConfig, FusionNetwork, FusionSpace
from ssnas_core.training import fit, predict, restore, seeded

METHODS = ("text only", "image only", "late concat", "random", "found", "found, pretrained")
"""What a run compares, weakest claim first."""


class Run:
    """The stages of one run; each is skipped where its result is already there.

    Args:
        config: the run.
        out: its run folder.
        store: folder for prepared data, shared by runs; `out/store` by default.
        device: "cpu", "cuda", or "auto".
        progress: show progress bars on standard error.

    Raises:
        InputError: `out` holds another run, or no GPU for "cuda".
    """

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        *,
        store: Path | None = None,
        device: str = "auto",
        progress: bool = False,
    ) -> None:
        self.config = config
        self.folder = RunFolder(out, config.plain())
        self.store = Path(store) if store is not None else Path(out) / "store"
        self.device = pick_device(device)
        self.progress = progress
        self._prepared: Prepared | None = None

    @property
    def recipe(self) -> Recipe:
        """The run's sizes and schedules."""
        return self.config.recipe

    @property
    def prepared(self) -> Prepared:
        """Features of the data; computed at the first use, ever."""
        if self._prepared is None:
            note, records = self.folder / "prepared.json", self.folder / "dataset.json"
            name = read_json(note)["folder"] if note.exists() else None
            if name is None or not (self.store / name).is_dir():
                with self.folder.stage("prepare"):
                    made = prepare(
                        self.config.data,
                        self.store,
                        self.recipe.prepare,
                        device=self.device,
                        progress=self.progress,
                    )
                if name is None:
                    name = made.folder.name
                    save_dataset(made.dataset, records)
                    write_json(note, {"folder": name})
                elif name != made.folder.name:
                    raise InputError(
                        f"{self.config.data} is no longer the data that {self.folder.path} began "
                        "with; restore it, or give another --out."
                    )
            home = self.store / name
            store = FeatureStore.open(home / "features")
            self._prepared = Prepared(home, load_dataset(records), store, self.recipe.prepare)
        return self._prepared

    @property
    def space(self) -> FusionSpace:
        """The fusion space over the stored features."""
        return FusionSpace(self.prepared.store.channels, self.recipe.fusion)

    def part(self, ratio: float) -> LabelledPart:
        """The samples whose labels may be used at `ratio`.

        Raises:
            InputError: nothing would be left, or a supervised search has
                already used the labels of another ratio.
        """
        if self.config.objective == "supervised" and ratio != self.config.label_ratio[0]:
            raise InputError(
                f"this run's search used the labels of r = {self.config.label_ratio[0]:g}, so "
                f"it cannot be scored at r = {ratio:g}; search anew for that ratio."
            )
        return labelled_part(self.prepared.dataset, ratio, self.config.seed)

    def labels(self) -> Tensor:
        """(N, K) 0/1 labels of the whole data set."""
        return torch.from_numpy(self.prepared.dataset.labels())

    def search(self) -> Genotype:
        """Find the architecture; writes genotype.json, history.jsonl and the supernet."""
        file = self.folder / "genotype.json"
        if file.exists():
            genotype = Genotype.load(file)
            self.space.validate(genotype)
            return genotype
        prepared, config = self.prepared, self.config
        objective: Objective
        if config.objective == "contrastive":
            objective = self.recipe.contrastive
            train, dev = prepared.indices("train"), prepared.indices("dev")
        else:
            objective = Supervised(labels=self.labels())
            part = self.part(config.label_ratio[0])
            train, dev = torch.from_numpy(part.train), torch.from_numpy(part.dev)
        shared: dict[str, Any] = {
            "train": train,
            "dev": dev,
            "seed": config.seed,
            "device": self.device,
            "checkpoint": self.folder / "checkpoint" / "search.pt",
            "progress": "search" if self.progress else None,
        }
        source = OnDevice(prepared.store, self.device)
        result: SearchResult
        with self.folder.stage("search"):
            if config.strategy == "bilevel":
                recipe = self.recipe.search
                result = bilevel(self.space, source, objective, config=recipe, **shared)
            else:
                recipe = self.recipe.random
                result = random_search(self.space, source, objective, config=recipe, **shared)
        lines = "".join(json.dumps(entry) + "\n" for entry in result.history)
        write_text(self.folder / "history.jsonl", lines)
        if result.state:
            save_tensors(self.folder / "checkpoint" / "supernet.safetensors", result.state)
        self._draw(result.genotype)
        result.genotype.save(file)  # last: it says that the search is done
        return result.genotype

    def pretrain(self) -> dict[str, Tensor]:
        """Contrastive pretraining of the found network on all of train, without labels."""
        file = self.folder / "checkpoint" / "pretrained.safetensors"
        genotype, seed = self.search(), self.config.seed
        if file.exists():
            trained = read_json(self.folder / "pretrain.json")["genotype"]
            _same_genotype(trained, genotype, file)
            return load_tensors(file)
        with self.folder.stage("pretrain"), seeded(seed, 10):
            network = self._network("found", genotype, self.recipe.fusion)
            if self.config.inherit:
                supernet = load_tensors(self.folder / "checkpoint" / "supernet.safetensors")
                network = self.space.inherit(genotype, supernet)
            encoder = self._encoder(network)
            head = self.recipe.contrastive.head(self.space.width)
            model = nn.Sequential(encoder, head).to(self.device)
            checkpoint = self.folder / "checkpoint" / "pretrain.pt"
            history = fit(
                model,
                self._source(),
                self.recipe.contrastive,
                self.prepared.indices("train"),
                self.recipe.pretrain,
                seed=seed,
                checkpoint=checkpoint,
                progress="pretrain" if self.progress else None,
            )
            note = {"genotype": str(genotype), "history": history}
            write_json(self.folder / "pretrain.json", note)
            state = {name: value.cpu() for name, value in encoder.state_dict().items()}
            save_tensors(file, state)
            checkpoint.unlink(missing_ok=True)
        return state

    def train(self, method: str, ratio: float) -> Path:
        """Fine-tune one method on the labelled part, and choose its threshold there.

        Returns:
            The folder of the cell: model.safetensors, and train.json with the
            threshold chosen on the labelled dev part.
        """
        cell = self._cell(method, ratio)
        part = self.part(ratio)
        genotype = self._genotype_of(method)
        if (cell / "train.json").exists():
            _same_genotype(read_json(cell / "train.json")["genotype"], genotype, cell)
            return cell
        recipe, seed = self.recipe, self.config.seed
        pretrained = self.pretrain() if method == "found, pretrained" else None
        labels = self.labels()
        objective = Supervised(labels=labels)
        source = self._source()
        with self.folder.stage("train"), seeded(seed, 20, METHODS.index(method)):
            model = self._model(method, genotype, objective)
            if pretrained is not None:
                model[0].load_state_dict(pretrained)
            model.to(self.device)
            checkpoint = self.folder / "checkpoint" / f"{cell.name}.pt"
            history = fit(
                model,
                source,
                objective,
                torch.from_numpy(part.train),
                recipe.finetune,
                seed=seed,
                checkpoint=checkpoint,
                progress=f"{method}, r = {ratio:g}" if self.progress else None,
            )
            dev = torch.from_numpy(part.dev)
            probs = predict(model, source, dev).sigmoid().numpy()
            dev_labels = labels[dev].numpy()
            threshold = metrics.choose_threshold(probs, dev_labels)
            save_tensors(cell / "model.safetensors", model.state_dict())
            write_json(
                cell / "train.json",
                {
                    "method": method,
                    "label_ratio": ratio,
                    "seed": seed,
                    "genotype": None if genotype is None else str(genotype),
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "labelled": {"train": len(part.train), "dev": len(part.dev)},
                    "threshold": threshold,
                    "dev": metrics.scores(probs, dev_labels, threshold),
                    "history": history,
                },
            )
            checkpoint.unlink(missing_ok=True)
        return cell

    def evaluate(self, method: str, ratio: float) -> dict[str, Any]:
        """Scores of one trained cell on the test part.

        This is the one place that reads test labels. Each reading is recorded
        in test_reads.jsonl, and its result is kept: asked again, it is not
        read again.
        """
        cell = self.train(method, ratio)
        file = cell / "test.json"
        if file.exists():
            return read_json(file)
        trained = read_json(cell / "train.json")
        prepared, labels = self.prepared, self.labels()
        with self.folder.stage("evaluate"):
            genotype = self._genotype_of(method)
            model = self._model(method, genotype, Supervised(labels=labels))
            weights = load_tensors(cell / "model.safetensors")
            restore({"model": weights}, {"model": model}, str(cell))
            test = prepared.indices("test")
            self.folder.append("test_reads.jsonl", {"cell": cell.name, "samples": len(test)})
            probs = predict(model.to(self.device), self._source(), test).sigmoid().numpy()
            found = metrics.scores(probs, labels[test].numpy(), trained["threshold"])
        keep = ("method", "label_ratio", "seed", "genotype", "parameters", "labelled")
        result = {**{name: trained[name] for name in keep}, **found}
        write_json(file, result)
        return result

    def run(self) -> dict[str, Any]:
        """Every stage, for every method and label ratio; the same again gives the same result.

        Returns:
            `genotype` (readable), `scores` (one entry per method and ratio),
            `seconds` per stage, `peak_anonymous_mb`. Also in metrics.json.
        """
        file = self.folder / "metrics.json"
        if file.exists():
            return read_json(file)
        for ratio in self.config.label_ratio:
            self.part(ratio)  # nothing is computed for a ratio that leaves no labels
        genotype = self.search()
        cells = [
            self.evaluate(method, ratio) for ratio in self.config.label_ratio for method in METHODS
        ]
        result = {"genotype": str(genotype), "scores": cells, **self.folder.cost()}
        result["data"] = self.prepared.counts()
        write_json(file, result)
        return result

    def _cell(self, method: str, ratio: float) -> Path:
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}.")
        kind, r = method.replace(", ", "-").replace(" ", "-"), str(float(ratio))
        return self.folder / "cells" / f"{kind}_r{r.removesuffix('.0')}"

    def _genotype_of(self, method: str) -> Genotype | None:
        if method.startswith("found"):
            return self.search()
        if method == "random":
            with seeded(self.config.seed, 30) as generator:
                return self.space.sample(generator)
        return None

    def _network(
        self, method: str, genotype: Genotype | None, config: FusionConfig
    ) -> FusionNetwork | LateConcat:
        """A method's network on stored features, with fresh weights and its `width`."""
        if genotype is not None:
            return FusionSpace(self.prepared.store.channels, config).build(genotype)
        store = self.prepared.store
        kept = {
            name: channels
            for name, channels in store.channels.items()
            if method == "late concat" or modality_of(name) == method.split()[0]
        }
        return LateConcat(kept, config, store.positions)

    def _encoder(self, network: nn.Module) -> nn.Module:
        """The network alone on stored features, or behind the backbones that it trains along."""
        if self.config.backbones == "frozen":
            return network
        return nn.Sequential(self.prepared.taps(), network)

    def _model(self, method: str, genotype: Genotype | None, head: Objective) -> nn.Sequential:
        config = replace(self.recipe.fusion, dropout=self.recipe.finetune_dropout)
        network = self._network(method, genotype, config)
        return nn.Sequential(self._encoder(network), head.head(network.width))

    def _source(self) -> Source:
        live = self.config.backbones == "trained"
        return OnDevice(self.prepared.live() if live else self.prepared.store, self.device)

    def _draw(self, genotype: Genotype) -> None:
        from ssnas_core.plots import draw_genotype

        figure = draw_genotype(genotype, self.space.features)
        with atomic_path(self.folder / "genotype.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)


def _same_genotype(trained: str | None, genotype: Genotype | None, what: Path) -> None:
    """Refuse weights of another architecture than the run's present one."""
    if trained != (None if genotype is None else str(genotype)):
        raise InputError(
            f"{what} was trained as {trained}, the run's genotype is now {genotype}; "
            "delete it, or restore genotype.json."
        )
