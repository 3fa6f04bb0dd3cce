"""Whole runs: search, pretrain, fine-tune and score, as resumable stages in a run folder.

The methods of a run differ only in what is trained; the labelled part, the
training recipe, the threshold policy and the features are shared. Each trained
cell (method x label ratio x seed) leaves its own files, which are its result.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

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
)
from ssnas_core.common.random import seeded
from ssnas_core.objectives.base import Objective
from ssnas_core.runs.methods import check_method
from ssnas_core.runs.reading import FACTS, cell_folder, read_result, read_tested, read_trained
from ssnas_core.runs.search import RunSearch
from ssnas_core.spaces.fusion.space import FusionSpace
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.training.checkpoints import restore
from ssnas_core.training.loop import fit, predict


class Run(RunSearch):
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

    def pretrain(self, method: str = "found") -> dict[str, Tensor]:
        """Contrastive pretraining of a method's network on all of train, without labels.

        Args:
            method: "found", "random" or "late concat".
        """
        name = "" if method == "found" else f"-{method.replace(' ', '-')}"
        file = self.folder / "checkpoint" / f"pretrained{name}.safetensors"
        note = self.folder / f"pretrain{name}.json"
        checkpoint = self.folder / "checkpoint" / f"pretrain{name}.pt"
        genotype, seed = self.genotype_of(method), self.config.seed
        if on_rank_zero(file.exists):
            trained = read_fields(note, "genotype")["genotype"]
            _same_genotype(trained, genotype, file)
            _drop(checkpoint)
            return load_tensors(file)
        with self.folder.stage("pretrain", of=method), seeded(seed, 10):
            network = self._network(method, genotype, self.recipe.pretrain_dropout)
            if self.config.inherit and method == "found":
                assert genotype is not None and isinstance(self.space, FusionSpace)
                supernet = load_tensors(self.folder / "checkpoint" / "supernet.safetensors")
                network = self.space.inherit(genotype, supernet)
            encoder = self.encoder(network)
            head = self.recipe.contrastive.head(network.width)
            model = nn.Sequential(encoder, head).to(self.device)
            history = fit(
                model,
                self.source() if self.config.backbones == "trained" else self.views(),
                self.recipe.contrastive,
                self.prepared.indices("train"),
                self.recipe.pretrain,
                seed=seed,
                checkpoint=checkpoint,
                on_epoch=self._logger(f"pretrain{name}"),
                progress=f"pretrain {method}" if self.progress else None,
                precision=self.config.precision,
            )
            state = {name: value.cpu() for name, value in encoder.state_dict().items()}

            def keep() -> None:
                told = None if genotype is None else str(genotype)
                write_json(note, {"genotype": told, "history": history})
                save_tensors(file, state)
                _drop(checkpoint)

            on_rank_zero(keep)
        return state

    def train(self, method: str, ratio: float) -> Path:
        """Fine-tune one method on the labelled part, and choose its threshold there.

        Returns:
            The folder of the cell: model.safetensors, and train.json with the
            threshold chosen on the labelled dev part.
        """
        cell = self._cell(method, ratio)
        checkpoint = self.folder / "checkpoint" / f"{cell.name}.pt"
        part = self.part(ratio)
        genotype = self.genotype_of(method)
        if self.is_trained(method, ratio):
            trained = read_trained(cell / "train.json", self.scoring.primary)
            _same_genotype(trained["genotype"], genotype, cell)
            _drop(checkpoint)
            return cell
        recipe, seed = self.recipe, self.config.seed
        kind, pretraining, _ = method.partition(", pretrained")
        pretrained = self.pretrain(kind) if pretraining else None
        objective, scoring = self.supervised(), self.scoring
        labels = self.prepared.dataset.labels()
        source = self.source()
        with self.folder.stage("train", of=cell.name), seeded(seed, 20, self._number(method)):
            model = self._model(method, genotype, objective)
            if pretrained is not None:
                model[0].load_state_dict(pretrained)
            model.to(self.device)
            history = fit(
                model,
                source,
                objective,
                torch.from_numpy(part.train),
                recipe.finetune,
                seed=seed,
                checkpoint=checkpoint,
                on_epoch=self._logger(cell.name),
                progress=f"{method}, r = {ratio:g}" if self.progress else None,
                precision=self.config.precision,
            )

            def keep() -> None:
                dev = torch.from_numpy(part.dev)
                probs = scoring.probabilities(predict(model, source, dev))
                threshold = scoring.threshold(probs, labels[part.dev])
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
                        "dev": scoring.scores(probs, labels[part.dev], threshold),
                        "history": history,
                    },
                )
                _drop(checkpoint)

            on_rank_zero(keep)
        return cell

    def is_trained(self, method: str, ratio: float) -> bool:
        """Whether `train` has nothing left to do."""
        return on_rank_zero((self._cell(method, ratio) / "train.json").exists)

    def evaluate(self, method: str, ratio: float) -> dict[str, Any]:
        """Scores of one trained cell on the test part.

        This is the one place that reads test labels. Each reading is recorded
        in test_reads.jsonl, and its result is kept: asked again, it is not
        read again.
        """
        cell = self.train(method, ratio)
        return on_rank_zero(lambda: self._tested(method, cell))

    def _tested(self, method: str, cell: Path) -> dict[str, Any]:
        file = cell / "test.json"
        if file.exists():
            return read_tested(file, self.scoring.primary)
        trained = read_trained(cell / "train.json", self.scoring.primary)
        prepared, scoring = self.prepared, self.scoring
        with self.folder.stage("evaluate", of=cell.name):
            model = self._trained(method, cell)
            test = prepared.indices("test")
            self.folder.append("test_reads.jsonl", {"cell": cell.name, "samples": len(test)})
            logits = predict(model.to(self.device), self.source(), test)
            labels = prepared.dataset.labels()[test.numpy()]
            found = scoring.scores(scoring.probabilities(logits), labels, trained["threshold"])
            result = {**{name: trained[name] for name in FACTS}, **found}
            write_json(file, result)
        return result

    def run(self) -> dict[str, Any]:
        """Every stage, for every method and label ratio; the same again gives the same result.

        Returns:
            `genotype` (readable), `scores` (one entry per method and ratio),
            `seconds` per stage, `peak_anonymous_mb`. Also in metrics.json.
        """
        file = self.folder / "metrics.json"
        if on_rank_zero(file.exists):
            return read_result(file)
        with self.folder.working():
            with self.folder.released_by(InputError):
                for ratio in self.config.label_ratio:
                    self.part(ratio)  # nothing is computed for a ratio that leaves no labels
            genotype = self.search()
            cells = [
                self.evaluate(method, ratio)
                for ratio in self.config.label_ratio
                for method in self.methods
            ]

            def finish() -> dict[str, Any]:
                result = {"genotype": str(genotype), "scores": cells, **self.folder.cost()}
                result["data"] = self.prepared.counts()
                write_json(file, result)
                return result

            return on_rank_zero(finish)

    def _cell(self, method: str, ratio: float) -> Path:
        check_method(method, self.prepared.dataset.kinds)
        return cell_folder(self.folder.path, method, ratio)

    def _model(self, method: str, genotype: Genotype | None, head: Objective) -> nn.Sequential:
        network = self._network(method, genotype, self.recipe.finetune_dropout)
        return nn.Sequential(self.encoder(network), head.head(network.width))

    def _trained(self, method: str, cell: Path) -> nn.Sequential:
        """Encoder and classifier of a trained cell, with its weights."""
        genotype, head = self.genotype_of(method), self.supervised()
        weights = load_tensors(cell / "model.safetensors")
        try:  # what config.json asks for has memory taken for it below
            check_shapes(lambda: self._model(method, genotype, head), weights)
        except InputError as error:
            raise InputError(f"{cell} is of another configuration ({error}); delete it.") from error
        model = self._model(method, genotype, head)
        restore({"model": weights}, {"model": model}, str(cell))
        return model


def _same_genotype(trained: str | None, genotype: Genotype | None, what: Path) -> None:
    """Refuse weights of another architecture than the run's present one."""
    if trained != (None if genotype is None else str(genotype)):
        raise InputError(
            f"{what} was trained as {trained}, the run's genotype is now {genotype}; "
            "delete it, or restore genotype.json."
        )


def _drop(checkpoint: Path) -> None:
    """Delete what a finished stage kept for itself; a kill may have come before that."""
    if rank() == 0:
        with suppress(OSError):  # read-only: the run is only looked at
            checkpoint.unlink(missing_ok=True)
