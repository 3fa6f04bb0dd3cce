"""What a study consists of: its cells, and the runs that they are in as independent jobs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from ssnas_core.common.errors import InputError
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.methods import check_method, further_methods_of, kind_of, methods_of
from ssnas_core.runs.reading import FACTS, cell_folder, read_tested, read_trained, search_history
from ssnas_core.runs.recipes import RECIPES, Recipe, RunConfig
from ssnas_core.search.bilevel import steps_of as steps_of_epoch
from ssnas_core.study.methods import (
    METHOD_SETS,
    STUDY_METHODS,
    TUNED,
    StudyMethod,
    Tuned,
    study_method,
)
from ssnas_core.training.loop import steps_of

# One cell of a study as a row: its scores, and what it cost, from its run's files.


def cell_row(
    name: str, method: str, ratio: float, job: Job, counts: Mapping[str, int]
) -> dict[str, Any]:
    """What `study_rows` says of one cell."""
    cell = cell_folder(job.folder, method, ratio)
    trained, tested = read_trained(cell / "train.json"), read_tested(cell / "test.json")
    scores = {key: value for key, value in tested.items() if key not in FACTS}
    primary = "accuracy" if "accuracy" in scores else "weighted_f1"
    folder, labelled = RunFolder.opened(job.folder), trained["labelled"]
    kind, pretraining = kind_of(method), method.endswith(", pretrained")
    stages = {
        "search": kind_of(method) == "found",
        "pretrain": pretraining,
        "train": True,
    }
    seconds, peaks = dict.fromkeys(stages, 0.0), [0.0]
    of = {"search": None, "pretrain": kind, "train": cell.name}
    for told in folder.timings():
        if stages.get(told.stage) and told.of == of[told.stage]:
            seconds[told.stage] += told.cpu_seconds or 0.0
            peaks.append(told.peak_anonymous_mb or 0.0)
    recipe = job.config.recipe
    steps = {
        "search": _search_steps(folder, job.config, labelled, counts) if stages["search"] else 0,
        "pretrain": steps_of(counts["train"], recipe.pretrain) if pretraining else 0,
        "train": steps_of(labelled["train"], recipe.finetune),
    }
    return {
        "method": name,
        "label_ratio": ratio,
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
    folder: RunFolder, config: RunConfig, labelled: Mapping[str, int], counts: Mapping[str, int]
) -> int:
    """Steps of weights and of logits in a run's search; of all trials."""
    samples = labelled if config.objective == "supervised" else counts
    history = search_history(folder, config.strategy)
    if config.strategy == "bilevel":
        recipe = config.recipe.search
        by_epoch = recipe.alternate == "epoch"
        return (len(history) - 1) * sum(
            steps_of_epoch(samples["train"], samples["dev"], recipe.batch_size, by_epoch)
        )
    trained = sum("repeats" not in trial for trial in history if "dev_loss" in trial)
    return trained * steps_of(samples["train"], getattr(config.recipe, config.strategy).train)


LABEL_RATIOS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What a study compares.

    Args:
        data: what `open_dataset` reads.
        methods: names of `STUDY_METHODS`, of sets of them (`METHOD_SETS`, "baselines"), or of
            methods of a run that need no search, as "late concat".
        label_ratio: the ratios r of labels; every label that a method uses is in its r.
        seeds: how many, from 0 on; a seed has the same labelled parts for all methods, and
            those of a smaller ratio are within those of a larger one.
        decisive: methods of these names have `decisive_seeds` seeds.
        decisive_seeds: as many, where more than `seeds`.
        recipe: sizes and schedules of all runs.
        tuned: settings of the bilevel search, by its objective; those of `TUNED` for the recipe
            if None.
    """

    data: Path
    methods: tuple[str, ...] = ("core", "ablation", "baselines")
    label_ratio: tuple[float, ...] = LABEL_RATIOS
    seeds: int = 5
    decisive: tuple[str, ...] = ()
    decisive_seeds: int = 10
    recipe: Recipe = field(default_factory=lambda: RECIPES["two-core"])
    tuned: Mapping[str, Tuned] | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.decisive_seeds < 1:
            raise InputError(
                f"a study needs seeds >= 1, got {self.seeds} and {self.decisive_seeds}."
            )
        RunConfig(data=self.data, label_ratio=self.label_ratio, recipe=self.recipe)  # checks them

    def tuned_for(self, method: StudyMethod) -> Tuned:
        """The settings of a method's bilevel search that differ from the recipe."""
        known = self.tuned
        if known is None:
            name = next((name for name, one in RECIPES.items() if one == self.recipe), "")
            known = TUNED.get(name, {})
        return (method.tuned and known.get(method.objective)) or Tuned()


@dataclass(frozen=True)
class Cell:
    """One method at one label ratio, in a job's run.

    Args:
        name: of the method in the study.
        method: of the method in the run.
        ratio: r.
    """

    name: str
    method: str
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

    def missing(self) -> tuple[Cell, ...]:
        """The cells that are not scored yet."""
        return tuple(
            cell
            for cell in self.cells
            if not (cell_folder(self.folder, cell.method, cell.ratio) / "test.json").exists()
        )


def methods_in(names: Iterable[str], modalities: Iterable[str]) -> tuple[str, ...]:
    """The methods that `names` stand for, each once.

    Raises:
        InputError: a name of neither a method nor a set of methods.
    """
    modalities = tuple(modalities)
    own = (*methods_of(modalities), *further_methods_of(modalities))
    baselines = tuple(
        name
        for name in own
        if kind_of(name) not in ("found", "random") and not name.endswith(", pretrained")
    )
    sets = {**METHOD_SETS, "baselines": baselines}
    found: list[str] = []
    for name in names:
        if name not in sets and name not in STUDY_METHODS:
            unsearched = [one for one in own if kind_of(one) != "found"]
            try:
                check_method(name if kind_of(name) != "found" else "", modalities)
            except InputError:
                raise InputError(
                    f"unknown method {name!r} of a study; expected a set "
                    f"({', '.join(sets)}) or one of {'; '.join((*STUDY_METHODS, *unsearched))}."
                ) from None
        found += sets.get(name, (name,))
    return tuple(dict.fromkeys(found))


def jobs_of(study: StudyConfig, out: Path, modalities: Iterable[str], samples: int) -> list[Job]:
    """The runs of a study with their cells, those of the first seeds first.

    Args:
        study: the study.
        out: its folder; runs are in `out/runs`.
        modalities: of its data.
        samples: in its train part, for searches of as many steps as on all of them.
    """
    names = methods_in(study.methods, modalities)
    decisive = methods_in(study.decisive, modalities)
    cells: dict[Path, list[Cell]] = {}
    configs: dict[Path, RunConfig] = {}
    most = max(study.seeds, study.decisive_seeds if decisive else 0)
    for seed in range(most):
        for name in dict.fromkeys((*names, *decisive)):
            if seed >= (most if name in decisive else study.seeds):
                continue
            method = study_method(name)
            for ratio in study.label_ratio:
                config, run = _run_of(method, study, seed, ratio, samples)
                folder = Path(out) / "runs" / run
                configs[folder] = config
                cells.setdefault(folder, []).append(Cell(name, method.cell, ratio))
    return [Job(folder, configs[folder], tuple(found)) for folder, found in cells.items()]


def _run_of(
    method: StudyMethod, study: StudyConfig, seed: int, ratio: float, samples: int
) -> tuple[RunConfig, str]:
    """The run that a method's cell is in, and the name of its folder.

    A search by trials with labels trains each with as many steps as on all samples: on few of
    them it would tell hardly trained networks apart.
    """
    if not method.searches:  # the search is not made: one run for all
        method = StudyMethod(backbones=method.backbones)
    recipe = study.recipe
    tuned = study.tuned_for(method)
    changes = {**tuned.changes, **method.changes}
    for name, value in changes.items():
        recipe = _changed(recipe, name.split("."), value)
    by_trials = method.strategy != "bilevel"
    same_steps = tuned.same_steps or (by_trials and method.objective == "supervised")
    if same_steps:
        path = (method.strategy, "train") if by_trials else ("search",)
        schedule: Any = reduce(getattr, path, recipe)
        steps = schedule.epochs * (samples // min(schedule.batch_size, samples))
        recipe = _changed(recipe, (*path, "min_steps"), steps)
    config = RunConfig(
        data=study.data,
        seed=seed,
        # A run without labels serves all ratios; which is not for its configuration to say.
        label_ratio=(ratio if method.uses_labels else 1.0,),
        space=method.space,
        objective=method.objective,
        strategy=method.strategy,
        backbones=method.backbones,
        recipe=recipe,
    )
    told = [method.space, method.objective, method.strategy, method.backbones]
    told += [f"{name.split('.')[-1]}-{value}" for name, value in changes.items()]
    told += ["same-steps"] if same_steps else []
    told += [f"r{ratio:g}"] if method.uses_labels else []
    return config, re.sub(r"[^\w.-]", "-", "_".join([*told, f"seed-{seed}"]))


def _changed(recipe: Any, path: Sequence[str], value: Any) -> Any:
    """The recipe with one setting, by the names that lead to it, changed."""
    name, *more = path
    value = _changed(getattr(recipe, name), more, value) if more else value
    return dataclasses.replace(recipe, **{name: value})
