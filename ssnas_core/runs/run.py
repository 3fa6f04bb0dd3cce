"""Whole runs: search, pretrain, fine-tune and score, as resumable stages in a run folder.

The methods of a run differ only in what is trained; the labelled part, the
training recipe, the threshold policy and the features are shared. Each trained
cell (method x label ratio x seed) leaves its own files, which are its result.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssnas_core.common.distributed import on_rank_zero, rank
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import (
    check_shapes,
    load_tensors,
    read_fields,
    save_tensors,
    write_json,
    write_text,
)
from ssnas_core.common.random import seeded
from ssnas_core.datasets.open import form_of
from ssnas_core.datasets.splits import LabelledPart
from ssnas_core.features.prepare import Prepared
from ssnas_core.runs.data import RunData
from ssnas_core.runs.folder import RunFolder, pick_device
from ssnas_core.runs.methods import Method, baseline_of, methods_of
from ssnas_core.runs.reading import FACTS, cell_folder, read_result, read_tested, read_trained, slug
from ssnas_core.runs.recipes import Recipe, RunConfig, is_in_memory
from ssnas_core.search.context import SearchContext
from ssnas_core.show.curves import draw_genotype
from ssnas_core.show.style import save as save_figure
from ssnas_core.spaces.base import features_of, labels_of, validate
from ssnas_core.spaces.genotype import Genotype, SearchResult
from ssnas_core.training.checkpoints import restore
from ssnas_core.training.logs import csv_log, tensorboard_log
from ssnas_core.training.loop import fit, join
from ssnas_core.training.shuffling import shuffled_scores
from ssnas_core.training.tasks import Task


class Run:
    """The stages of one run; each is skipped where its result is already there.

    Where torch.distributed has a process group, all its processes are to make the
    same run and call the same methods: they search and train together, on folders
    that all of them see. The first one alone prepares, scores and writes.

    Args:
        config: the run.
        out: its run folder.
        store: folder for prepared data, shared by runs; by default where this run
            has had it, at first `out/store`.
        device: "cpu", "cuda", or "auto".
        log: where epochs are logged while they run: "csv" or "tensorboard" files in
            `out/logs`, or not at all.
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
        log: Literal["csv", "tensorboard"] | None = None,
        progress: bool = False,
    ) -> None:
        self.config, self.log, self.progress = config, log, progress
        self.device = pick_device(device)
        begun = (Path(out) / "config.json").exists()  # it may need its data no more
        if isinstance(config.data, Path) and not is_in_memory(config.data) and not begun:
            form_of(config.data)  # a mistaken path is refused before the folder is taken
        self.folder = RunFolder(out, config.plain())
        self.data = RunData(config, self.folder, store=store, device=self.device, progress=progress)

    @property
    def recipe(self) -> Recipe:
        """Sizes and schedules."""
        return self.config.recipe

    @property
    def prepared(self) -> Prepared:
        """Features of the data; computed at the first use, ever."""
        return self.data.prepared

    @property
    def space(self) -> Any:
        """The space over the stored features that is searched."""
        return self.data.space()

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that the run compares, weakest claim first."""
        return tuple(map(str, methods_of(self.prepared.dataset.kinds)))

    @property
    def task(self) -> Task:
        """What the data set asks of a network: a head, a loss and a metric."""
        return self.data.task

    def part(self, ratio: float) -> LabelledPart:
        """Return the samples whose labels may be used at `ratio`, as `RunData.part`."""
        return self.data.part(ratio)

    def search(self) -> Genotype:
        """Find the architecture; writes genotype.json, history.jsonl and the supernet."""
        file = self.folder / "genotype.json"
        self.folder.once(file.exists, self._search)
        genotype = Genotype.load(file)
        validate(self.space, genotype)
        return genotype

    def _search(self) -> None:
        config, space = self.config, self.space
        lacking = [n for n in getattr(config.strategy, "needs", ()) if not hasattr(space, n)]
        if lacking:
            raise InputError(
                f"the strategy {config.name_of('strategy')!r} needs {lacking[0]}() of a space, "
                f"which {config.name_of('space')!r} lacks; give another --strategy or --space."
            )
        objective, train, dev = self.data.objective()
        context = SearchContext(
            train=train,
            dev=dev,
            device=self.device,
            **self._fitting("search", "search"),
        )
        source = self.data.views()
        on_rank_zero(lambda: write_json(self.folder / "labels.json", labels_of(space)))
        with self.folder.stage("search"):
            result = config.strategy.search(space, source, objective, context)
        on_rank_zero(lambda: self._keep_search(space, result))

    def _keep_search(self, space: Any, result: SearchResult) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in result.history)
        write_text(self.folder / "history.jsonl", lines)
        if result.state:
            save_tensors(self.folder / "checkpoint" / "supernet.safetensors", result.state)
        drawing = draw_genotype(result.genotype, features_of(space, result.genotype))
        save_figure(drawing, self.folder / "genotype.png")
        result.genotype.save(self.folder / "genotype.json")  # last: the search is done

    def genotype_of(self, method: str | Method) -> Genotype | None:
        """Return the architecture of a method; None for those without one."""
        method = self._method(method)
        if method.searched:
            return self.search()
        if method.has_genotype:
            with seeded(self.config.seed, 30) as generator:
                return self.space.sample(generator)
        return None

    def pretrain(self, method: str | Method = "found") -> dict[str, Tensor]:
        """Contrastive pretraining of a method's network on all of train, without labels.

        Args:
            method: its network is pretrained: "found", "random", "late concat", ...
        """
        network = self._method(method).network
        name = "" if network == "found" else f"-{slug(network)}"
        file = self.folder / "checkpoint" / f"pretrained{name}.safetensors"
        genotype = self.genotype_of(network)
        self.folder.once(file.exists, lambda: self._pretrain(network, genotype, name, file))
        note = self.folder / f"pretrain{name}.json"
        _same_genotype(read_fields(note, "genotype")["genotype"], genotype, file)
        _drop(self._checkpoint(f"pretrain{name}"))
        return load_tensors(file)

    def _pretrain(self, network: str, genotype: Genotype | None, name: str, file: Path) -> None:
        with self.folder.stage("pretrain", of=network), seeded(self.config.seed, 10):
            embedder = self._network(network, genotype, self.recipe.pretrain_dropout)
            if self.config.inherit and network == "found":
                supernet = load_tensors(self.folder / "checkpoint" / "supernet.safetensors")
                space = self.data.space(self.recipe.pretrain_dropout)
                embedder = space.inherit(genotype, supernet)
            encoder = self.data.encoder(embedder)
            objective = self.config.pretraining
            model = join(encoder, embedder, objective).to(self.device)
            trained_along = self.config.backbones == "trained"
            source = self.data.source() if trained_along else self.data.views()
            rows = self.prepared.indices("train")
            fitting = self._fitting(f"pretrain{name}", f"pretrain {network}")
            history = fit(model, source, objective, rows, self.recipe.pretrain, **fitting)

            def keep() -> None:
                note = {"genotype": _text_of(genotype), "history": history}
                write_json(self.folder / f"pretrain{name}.json", note)
                save_tensors(file, encoder.state_dict())

            on_rank_zero(keep)

    def train(self, method: str | Method, ratio: float) -> Path:
        """Fine-tune one method on the labelled part, and choose its threshold there.

        Returns:
            The folder of the cell: model.safetensors, and train.json with the
            threshold chosen on the labelled dev part, the scores there, and what is
            left of the main one once a modality is shuffled (`shuffled`).
        """
        method = self._method(method)
        cell = cell_folder(self.folder.path, str(method), ratio)
        part = self.part(ratio)
        genotype = self.genotype_of(method)
        trained = (cell / "train.json").exists
        self.folder.once(trained, lambda: self._train(method, genotype, part, cell))
        facts = read_trained(cell / "train.json", self.task.primary)
        _same_genotype(facts["genotype"], genotype, cell)
        _drop(self._checkpoint(cell.name))
        return cell

    def _train(
        self, method: Method, genotype: Genotype | None, part: LabelledPart, cell: Path
    ) -> None:
        seed, task = self.config.seed, self.task
        pretrained = self.pretrain(method) if method.pretrained else None
        source = self.data.source()
        with self.folder.stage("train", of=cell.name), seeded(seed, 20, method.number):
            model = self._model(method, genotype)
            if pretrained is not None:
                model[0].load_state_dict(pretrained)
            model.to(self.device)
            rows = torch.from_numpy(part.train)
            fitting = self._fitting(cell.name, f"{method}, r = {part.ratio:g}")
            history = fit(model, source, task.learning, rows, self.recipe.finetune, **fitting)

            def keep() -> None:
                dev = torch.from_numpy(part.dev)
                predicted = task.predict(model, source, dev)
                threshold = task.threshold(predicted, dev)
                save_tensors(cell / "model.safetensors", model.state_dict())
                write_json(
                    cell / "train.json",
                    {
                        "method": str(method),
                        "label_ratio": part.ratio,
                        "seed": seed,
                        "genotype": _text_of(genotype),
                        "parameters": sum(p.numel() for p in model.parameters()),
                        "labelled": {"train": len(part.train), "dev": len(part.dev)},
                        "threshold": threshold,
                        "dev": task.scores(predicted, dev, threshold),
                        "shuffled": shuffled_scores(task, model, source, dev, threshold),
                        "history": history,
                    },
                )

            on_rank_zero(keep)

    def is_trained(self, method: str | Method, ratio: float) -> bool:
        """Return whether `train` has nothing left to do."""
        cell = cell_folder(self.folder.path, str(self._method(method)), ratio)
        return on_rank_zero((cell / "train.json").exists)

    def evaluate(self, method: str | Method, ratio: float) -> dict[str, Any]:
        """Return the scores of one trained cell on the test part.

        This is the one place that reads test labels. Each reading is recorded
        in test_reads.jsonl, and its result is kept: asked again, it is not
        read again.
        """
        method = self._method(method)
        cell = self.train(method, ratio)

        def test() -> dict[str, Any]:
            self.folder.once((cell / "test.json").exists, lambda: self._test(method, cell))
            return read_tested(cell / "test.json", self.task.primary)

        return on_rank_zero(test)

    def _test(self, method: Method, cell: Path) -> None:
        task = self.task
        trained = read_trained(cell / "train.json", task.primary)
        with self.folder.stage("evaluate", of=cell.name):
            model = self.trained(method, cell)
            test = self.prepared.indices("test")
            self.folder.append("test_reads.jsonl", {"cell": cell.name, "samples": len(test)})
            predicted = task.predict(model.to(self.device), self.data.source(), test)
            scores = task.scores(predicted, test, trained["threshold"])
            write_json(cell / "test.json", {**{name: trained[name] for name in FACTS}, **scores})

    def run(self) -> dict[str, Any]:
        """Every stage, for every method and label ratio; the same again gives the same result.

        Returns:
            `genotype` (readable), `scores` (one entry per method and ratio),
            `seconds` per stage, `peak_anonymous_mb`. Also in metrics.json.
        """
        file = self.folder / "metrics.json"
        self.folder.once(file.exists, lambda: self._run(file))
        return on_rank_zero(lambda: read_result(file))

    def _run(self, file: Path) -> None:
        with self.folder.released_by(InputError):
            for ratio in self.config.label_ratio:
                self.part(ratio)  # nothing is computed for a ratio that leaves no labels
        genotype = self.search()
        cells = [
            self.evaluate(method, ratio)
            for ratio in self.config.label_ratio
            for method in self.methods
        ]

        def finish() -> None:
            result = {"genotype": str(genotype), "scores": cells, **self.folder.cost()}
            result["data"] = self.prepared.counts()
            write_json(file, result)

        on_rank_zero(finish)

    def trained(self, method: str | Method, cell: Path) -> nn.Sequential:
        """Return encoder and classifier of the trained cell in a folder, with its weights.

        Raises:
            InputError: the weights are broken, or of another configuration.
        """
        method = self._method(method)
        genotype = self.genotype_of(method)
        weights = load_tensors(cell / "model.safetensors")
        try:  # memory for what config.json asks for is taken below
            check_shapes(lambda: self._model(method, genotype), weights)
        except InputError as error:
            raise InputError(f"{cell} is of another configuration ({error}); delete it.") from error
        model = self._model(method, genotype)
        restore({"model": weights}, {"model": model}, str(cell))
        return model

    def _method(self, method: str | Method) -> Method:
        return Method.parse(method, self.prepared.dataset.kinds)

    def _network(self, network: str, genotype: Genotype | None, dropout: float | None) -> Any:
        """Return a method's network with fresh weights (torch's global seed)."""
        if genotype is not None:
            return self.data.space(dropout).build(genotype)
        store, sizes = self.prepared.store, self.config.sizes
        sizes = sizes if dropout is None else sizes.trained_with(dropout)
        return baseline_of(network, store.channels, store.positions, sizes)

    def _model(self, method: Method, genotype: Genotype | None) -> nn.Sequential:
        network = self._network(method.network, genotype, self.recipe.finetune_dropout)
        return join(self.data.encoder(network), network, self.task.learning)

    def _checkpoint(self, stage: str) -> Path:
        return self.folder / "checkpoint" / f"{stage}.pt"

    def _fitting(self, stage: str, label: str) -> dict[str, Any]:
        """Return what `fit` is given beside data and schedule, in a stage of that name."""
        return {
            "seed": self.config.seed,
            "checkpoint": self._checkpoint(stage),
            "on_epoch": self._logger(stage),
            "progress": label if self.progress else None,
            "precision": self.config.precision,
        }

    def _logger(self, name: str) -> Callable[[list[dict[str, Any]]], None] | None:
        """Return what is called with the history after each epoch of a stage."""
        if self.log is None:
            return None
        labels, folder = labels_of(self.space), self.folder / "logs"
        if self.log == "csv":
            return csv_log(folder / f"{name}.csv", labels)
        return tensorboard_log(folder / name, labels)


def _text_of(genotype: Genotype | None) -> str | None:
    return None if genotype is None else str(genotype)


def _same_genotype(trained: str | None, genotype: Genotype | None, what: Path) -> None:
    """Refuse weights of another architecture than the run's present one."""
    if trained != _text_of(genotype):
        raise InputError(
            f"{what} was trained as {trained}, the run's genotype is now {genotype}; "
            "delete it, or restore genotype.json."
        )


def _drop(checkpoint: Path) -> None:
    """Delete what a finished stage kept for itself; a kill may have come before that."""
    if rank() == 0:
        with suppress(OSError):  # read-only: the run is only looked at
            checkpoint.unlink(missing_ok=True)
