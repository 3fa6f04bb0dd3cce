"""A run's search: the point on the three axes that its configuration names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ssnas_core.common.distributed import on_rank_zero
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import save_tensors, write_text
from ssnas_core.common.random import seeded
from ssnas_core.datasets.splits import LabelledPart, labelled_part
from ssnas_core.objectives.base import Objective
from ssnas_core.objectives.hybrid import Hybrid
from ssnas_core.runs.data import RunData
from ssnas_core.runs.methods import baseline_of, further_methods_of, kind_of, methods_of
from ssnas_core.search.bilevel import bilevel
from ssnas_core.search.evolution import evolution
from ssnas_core.search.random import random_search
from ssnas_core.search.surrogate import surrogate
from ssnas_core.search.tpe import tpe
from ssnas_core.show.curves import draw_genotype
from ssnas_core.show.style import save as save_figure
from ssnas_core.spaces.genotype import Genotype, SearchResult
from ssnas_core.training.logs import csv_log, tensorboard_log


class RunSearch(RunData):
    """The first stage of a run: its architecture, and the labelled part that it may use."""

    def part(self, ratio: float) -> LabelledPart:
        """The samples whose labels may be used at `ratio`.

        Raises:
            InputError: nothing would be left, or the search or the backbones
                have already used the labels of another ratio.
        """
        if self.config.uses_labels and ratio != self.config.label_ratio[0]:
            used = "backbones" if self.config.objective == "contrastive" else "search"
            raise InputError(
                f"this run's {used} used the labels of r = {self.config.label_ratio[0]:g}, so "
                f"it cannot be scored at r = {ratio:g}; make a run of its own for that ratio."
            )
        return labelled_part(self.prepared.dataset, ratio, self.config.seed)

    def search(self) -> Genotype:
        """Find the architecture; writes genotype.json, history.jsonl and the supernet."""
        file = self.folder / "genotype.json"
        if on_rank_zero(file.exists):
            genotype = Genotype.load(file)
            self.space.validate(genotype)
            return genotype
        prepared, config = self.prepared, self.config
        train, dev = prepared.indices("train"), prepared.indices("dev")
        objective: Objective = self.recipe.contrastive
        if config.objective != "contrastive":
            objective = self.supervised()
            part = self.part(config.label_ratio[0])
            labelled = [torch.from_numpy(rows) for rows in (part.train, part.dev)]
            if config.objective == "supervised":
                train, dev = labelled
            else:
                objective = Hybrid(
                    supervised=objective,
                    labelled=torch.cat(labelled),
                    contrastive=self.recipe.contrastive,
                    weight=self.recipe.hybrid_weight,
                )
        shared: dict[str, Any] = {
            "train": train,
            "dev": dev,
            "seed": config.seed,
            "device": self.device,
            "checkpoint": self.folder / "checkpoint" / "search.pt",
            "on_epoch": self._logger("search"),
            "progress": "search" if self.progress else None,
            "precision": config.precision,
        }
        source = self.views()
        with self.folder.working():
            with self.folder.stage("search"):
                result = self._strategy()(self.space, source, objective, **shared)
            on_rank_zero(lambda: self._keep_search(result))
        return result.genotype

    def _keep_search(self, result: SearchResult) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in result.history)
        write_text(self.folder / "history.jsonl", lines)
        if result.state:
            save_tensors(self.folder / "checkpoint" / "supernet.safetensors", result.state)
        drawing = draw_genotype(result.genotype, self.space.features)
        save_figure(drawing, self.folder / "genotype.png")
        result.genotype.save(self.folder / "genotype.json")  # last: the search is done

    def genotype_of(self, method: str) -> Genotype | None:
        """The architecture of a method; None for those without one."""
        if kind_of(method) == "found":
            return self.search()
        if kind_of(method) == "random":
            with seeded(self.config.seed, 30) as generator:
                return self.space.sample(generator)
        return None

    def _network(self, method: str, genotype: Genotype | None, dropout: float | None = None) -> Any:
        """A method's network with fresh weights (torch's global seed)."""
        if genotype is not None:
            return self._space(dropout).build(genotype)
        store, config = self.prepared.store, self.recipe.fusion
        config = config if dropout is None else replace(config, dropout=dropout)
        return baseline_of(method, store.channels, store.positions, config)

    def _number(self, method: str) -> int:
        """Of all methods, this one's: a part of its seed."""
        kinds = self.prepared.dataset.kinds
        return (*methods_of(kinds), *further_methods_of(kinds)).index(method)

    def _strategy(self) -> Callable[..., SearchResult]:
        recipe = self.recipe
        match self.config.strategy:
            case "bilevel":
                return partial(bilevel, config=recipe.search)
            case "random":
                return partial(random_search, config=recipe.random)
            case "evolution":
                return partial(evolution, config=recipe.evolution)
            case "tpe":
                return partial(tpe, config=recipe.tpe)
            case "surrogate":
                return partial(surrogate, config=recipe.surrogate)

    def _logger(self, name: str) -> Callable[[list[dict[str, Any]]], None] | None:
        """What is told the history after each epoch of a stage."""
        if self.log is None:
            return None
        labels, folder = self.space.labels(), self.folder / "logs"
        if self.log == "csv":
            return csv_log(folder / f"{name}.csv", labels)
        return tensorboard_log(folder / name, labels)
