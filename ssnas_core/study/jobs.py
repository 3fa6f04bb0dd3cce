"""The parts of a study: its cells, and the runs that they are in as independent jobs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.table import TableOptions
from ssnas_core.features.inputs import content_key
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.methods import Method
from ssnas_core.runs.reading import FACTS, cell_folder, read_tested, read_trained, search_history
from ssnas_core.runs.recipes import RECIPES, Recipe, RunConfig, Tuned
from ssnas_core.show.tables import primary_score
from ssnas_core.study.methods import StudyMethod, methods_in
from ssnas_core.training.loop import steps_of

LABEL_RATIOS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Methods, label ratios and seeds of a study.

    Args:
        data: what `open_dataset` reads, or a dataset.
        methods: names of `STUDY_METHODS`, of sets of them (`METHOD_SETS`, "baselines"), or of
            methods of a run that need no search, as "late concat"; or a `StudyMethod`.
        label_ratio: the ratios r of labels; every label that a method uses is in its r.
        seeds: how many, from 0 on; a seed has the same labelled parts for all methods, and
            those of a smaller ratio are within those of a larger one.
        decisive: methods of these names have `decisive_seeds` seeds.
        decisive_seeds: as many, where more than `seeds`.
        recipe: sizes and schedules of all runs.
        table: what the columns are, where the data is a table.
    """

    data: Path | Dataset
    methods: tuple[str | StudyMethod, ...] = ("core", "ablation", "baselines")
    label_ratio: tuple[float, ...] = LABEL_RATIOS
    seeds: int = 5
    decisive: tuple[str | StudyMethod, ...] = ()
    decisive_seeds: int = 10
    recipe: Recipe = field(default_factory=lambda: RECIPES["two-core"])
    table: TableOptions = field(default_factory=TableOptions)

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.decisive_seeds < 1:
            raise InputError(
                f"a study needs seeds >= 1, got {self.seeds} and {self.decisive_seeds}."
            )
        RunConfig(data=self.data, label_ratio=self.label_ratio, recipe=self.recipe)  # checks them

    def tuned_for(self, method: StudyMethod) -> Tuned:
        """Return the settings of a method's bilevel search that differ from the recipe."""
        by_name = method.tuned and isinstance(method.objective, str)
        return self.recipe.tuned.get(method.objective, Tuned()) if by_name else Tuned()


@dataclass(frozen=True)
class Cell:
    """One method at one label ratio, in a job's run.

    Args:
        name: of the method in the study.
        method: of the run.
        ratio: r.
    """

    name: str
    method: Method
    ratio: float


@dataclass(frozen=True)
class Job:
    """A run, and the cells to score in it; whoever does the job, and how often, it is the same.

    Args:
        folder: the run's folder.
        config: the run.
        cells: in order.
    """

    folder: Path
    config: RunConfig
    cells: tuple[Cell, ...]

    def scored(self, cell: Cell) -> bool:
        """Whether a cell is scored."""
        return (cell_folder(self.folder, str(cell.method), cell.ratio) / "test.json").exists()

    def missing(self) -> tuple[Cell, ...]:
        """The cells that are not scored yet."""
        return tuple(cell for cell in self.cells if not self.scored(cell))


def jobs_of(study: StudyConfig, out: Path, modalities: Iterable[str], samples: int) -> list[Job]:
    """Return the runs of a study with their cells, those of the first seeds first.

    Args:
        study: the study.
        out: its folder; runs are in `out/runs`.
        modalities: of its data.
        samples: in its train part, for searches of as many steps as on all of them.
    """
    modalities = tuple(modalities)
    decisive = methods_in(study.decisive, modalities)
    methods = {**methods_in(study.methods, modalities), **decisive}
    cells: dict[Path, list[Cell]] = {}
    configs: dict[Path, RunConfig] = {}
    most = max(study.seeds, study.decisive_seeds if decisive else 0)
    for seed in range(most):
        for name, method in methods.items():
            if seed >= (most if name in decisive else study.seeds):
                continue
            for ratio in study.label_ratio:
                config = _run_of(method, study, seed, ratio, samples)
                folder = Path(out) / "runs" / _folder_name(config)
                configs[folder] = config
                cells.setdefault(folder, []).append(Cell(name, method.cell, ratio))
    return [Job(folder, configs[folder], tuple(part)) for folder, part in cells.items()]


def _run_of(
    method: StudyMethod, study: StudyConfig, seed: int, ratio: float, samples: int
) -> RunConfig:
    """Return the run that a method's cell is in.

    A search by trials with labels trains each with as many steps as on all samples: on few of
    them it would tell hardly trained networks apart.
    """
    tuned = study.tuned_for(method)
    changes = {**tuned.changes, **method.changes}
    recipe = dataclasses.replace(study.recipe, tuned={})
    for name in [name for name in changes if name.startswith("recipe.")]:  # the axes are of it
        recipe = _changed(recipe, name.split(".")[1:], changes.pop(name))
    config = RunConfig(
        data=study.data,
        seed=seed,
        # A run without labels serves all ratios; which is not for its configuration to say.
        label_ratio=(1.0,),
        space=method.space,
        objective=method.objective,
        strategy=method.strategy,
        backbones=method.backbones,
        recipe=recipe,
        table=study.table,
    )
    for name, value in changes.items():
        config = _changed(config, name.split("."), value)
    by_trials = "supernet" not in getattr(config.strategy, "needs", ())
    labelled_only = getattr(config.objective, "labelled_only", False)
    lengthen = getattr(config.strategy, "as_long_as", None)
    if lengthen is not None and (
        study.tuned_for(method).same_steps or (by_trials and labelled_only)
    ):
        config = dataclasses.replace(config, strategy=lengthen(samples))
    if config.uses_labels:
        config = dataclasses.replace(config, label_ratio=(ratio,))
    return config


def _folder_name(config: RunConfig) -> str:
    """Return a name that says what a run searches, and that no other setting of the axes has."""
    plain, axes = config.plain(), ("space", "objective", "strategy")
    ratio = [f"r{config.label_ratio[0]:g}"] if config.uses_labels else []
    task = getattr(config.pretraining, "task", "simclr")  # another loss is the objective itself
    tasks = [] if task == "simclr" else [task]
    key = content_key([plain[axis] for axis in axes], config.recipe.pretrain_dropout, *tasks)[:8]
    names = [plain[axis]["name"] for axis in axes]
    words = [*names, config.backbones, *ratio, f"seed-{config.seed}", key]
    return re.sub(r"[^\w.-]", "-", "_".join(words))


def _changed(part: Any, path: Sequence[str], value: Any) -> Any:
    """Return a configuration with one setting, by the names that lead to it, changed."""
    name, *more = path
    value = _changed(getattr(part, name), more, value) if more else value
    return dataclasses.replace(part, **{name: value})


def cell_row(cell: Cell, job: Job, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return what `study_rows` says of one scored cell.

    Args:
        cell: in the job's run.
        job: the run.
        counts: samples in "train" and "dev", labelled or not.
    """
    files = cell_folder(job.folder, str(cell.method), cell.ratio)
    trained, tested = read_trained(files / "train.json"), read_tested(files / "test.json")
    scores = {key: value for key, value in tested.items() if key not in FACTS}
    primary = primary_score([scores])
    folder, labelled = RunFolder.opened(job.folder), trained["labelled"]
    of: dict[str, str | None] = {"train": files.name}
    if cell.method.searched:
        of["search"] = None
    if cell.method.pretrained:
        of["pretrain"] = cell.method.network
    seconds, peaks = {"search": 0.0, "pretrain": 0.0, "train": 0.0}, [0.0]
    for timing in folder.timings():
        if timing.stage in of and timing.of == of[timing.stage]:
            seconds[timing.stage] += timing.cpu_seconds or 0.0
            peaks.append(timing.peak_anonymous_mb or 0.0)
    recipe = job.config.recipe
    steps = {
        "search": _search_steps(job, folder, labelled, counts) if "search" in of else 0,
        "pretrain": steps_of(counts["train"], recipe.pretrain) if "pretrain" in of else 0,
        "train": steps_of(labelled["train"], recipe.finetune),
    }
    return {
        "method": cell.name,
        "label_ratio": cell.ratio,
        "seed": trained["seed"],
        "score": scores[primary],
        "dev_score": trained["dev"][primary],
        **scores,
        "labelled": labelled["train"] + labelled["dev"],
        "parameters": trained["parameters"],
        **{f"{stage}_seconds": round(value, 2) for stage, value in seconds.items()},
        **{f"{stage}_steps": value for stage, value in steps.items()},
        "peak_anonymous_mb": max(peaks),
        "genotype": trained["genotype"],
    }


def _search_steps(
    job: Job, folder: RunFolder, labelled: Mapping[str, int], counts: Mapping[str, int]
) -> int:
    """Return steps of weights and of logits in a run's search; 0 where its strategy counts none."""
    count = getattr(job.config.strategy, "steps", None)
    alone = getattr(job.config.objective, "labelled_only", False)
    samples = labelled if alone else counts
    return count(search_history(folder), samples["train"], samples["dev"]) if count else 0
