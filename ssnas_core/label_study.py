"""The label-ratio study: methods x label ratios x seeds, as cells of runs (`ssnas study`).

A cell is one method scored on test at one label ratio with one seed. It lives in
a run's folder, and its files there are its result: whoever is killed, what is done
is not done again, and what is not done is done by the same command. Cells that
share a search, or that need none, share a run; runs are independent jobs.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssnas_core._cells import cell_folder
from ssnas_core._look import save
from ssnas_core._study_costs import cell_row
from ssnas_core._study_figures import plot_study
from ssnas_core._study_methods import (
    ACROSS,
    METHOD_SETS,
    PAIRS,
    STUDY_METHODS,
    StudyMethod,
    study_method,
)
from ssnas_core._study_report import study_report
from ssnas_core._study_rows import checked, score_name, study_csv
from ssnas_core.errors import InputError
from ssnas_core.files import write_text
from ssnas_core.methods import check_method, further_methods_of, methods_of
from ssnas_core.recipes import RECIPES, Recipe, RunConfig
from ssnas_core.studies import Run

_LOG = logging.getLogger(__name__)

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
    """

    data: Path
    methods: tuple[str, ...] = ("core", "ablation", "baselines")
    label_ratio: tuple[float, ...] = LABEL_RATIOS
    seeds: int = 5
    decisive: tuple[str, ...] = ()
    decisive_seeds: int = 10
    recipe: Recipe = field(default_factory=lambda: RECIPES["two-core"])

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.decisive_seeds < 1:
            raise InputError(
                f"a study needs seeds >= 1, got {self.seeds} and {self.decisive_seeds}."
            )
        RunConfig(data=self.data, label_ratio=self.label_ratio, recipe=self.recipe)  # checks them


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
        name for name in own if not name.startswith(("found", "random")) and "pretr" not in name
    )
    sets = {**METHOD_SETS, "baselines": baselines}
    found: list[str] = []
    for name in names:
        if name not in sets and name not in STUDY_METHODS:
            unsearched = [one for one in own if not one.startswith("found")]
            try:
                check_method(name if not name.startswith("found") else "", modalities)
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
    for seed in range(max(study.seeds, study.decisive_seeds if decisive else 0)):
        for name in dict.fromkeys((*names, *decisive)):
            if seed >= (study.decisive_seeds if name in decisive else study.seeds):
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
    """The run that a method's cell is in, and the name of its folder."""
    if not method.searches:  # the search is not made: one run for all
        method = dataclasses.replace(StudyMethod(), backbones=method.backbones)
    recipe = study.recipe
    changes = dict(method.changes)
    if method.same_steps:
        batch = min(recipe.search.batch_size, samples)
        changes["search.min_steps"] = recipe.search.epochs * (samples // batch)
    for name, value in changes.items():
        recipe = _changed(recipe, name.split("."), value)
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
    told += [f"{name.split('.')[-1]}-{value}" for name, value in method.changes.items()]
    told += ["same-steps"] if method.same_steps else []
    told += [f"r{ratio:g}"] if method.uses_labels else []
    return config, re.sub(r"[^\w.-]", "-", "_".join([*told, f"seed-{seed}"]))


def _changed(recipe: Any, path: Sequence[str], value: Any) -> Any:
    """The recipe with one setting, by the names that lead to it, changed."""
    name, *more = path
    value = _changed(getattr(recipe, name), more, value) if more else value
    return dataclasses.replace(recipe, **{name: value})


def do(job: Job, store: Path, device: str = "cpu", threads: int = 1) -> list[str]:
    """Score the cells of a job that are not scored; what could not be, in words.

    One cell's bad input does not keep the others from being done.
    """
    problems = []
    with _threads(threads):
        run = Run(job.config, job.folder, store=store, device=device)
        for cell in job.missing():
            try:
                run.evaluate(cell.method, cell.ratio)
            except InputError as error:
                problems.append(f"{cell.name}, r = {cell.ratio:g}, {job.folder.name}: {error}")
    return problems


def run_study(
    study: StudyConfig,
    out: Path,
    *,
    store: Path | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    progress: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Score every cell that is not scored, then read them all.

    Args:
        study: the study.
        out: its folder; the same call again goes on with it.
        store: folder of prepared data, `out/store` by default.
        workers: processes on this machine, by Dask; 0 works in this process.
        scheduler: address of a Dask scheduler instead, whose workers see `out` and `store`.
        device: where each works.
        threads: of each.
        progress: show a progress bar on standard error.

    Returns:
        A row per scored cell, as `study_rows` gives them; and what could not be scored, in words.

    Raises:
        InputError: an unknown method, or data that cannot be read.
    """
    from tqdm.auto import tqdm

    out = Path(out).resolve()
    store = Path(store).resolve() if store is not None else out / "store"
    config = RunConfig(data=study.data, recipe=study.recipe, label_ratio=(1.0,))
    with _threads(threads * max(workers, 1)):
        first = Run(config, out / "runs" / "prepared", store=store, device=device)
        first.progress = progress
        prepared = first.prepared
    counts = {split: len(prepared.indices(split)) for split in ("train", "dev")}
    jobs = jobs_of(study, out, prepared.dataset.kinds, counts["train"])
    waiting = [job for job in jobs if job.missing()]
    cells = sum(len(job.missing()) for job in waiting)
    _LOG.info("%d cells to score, in %d runs", cells, len(waiting))
    bar = tqdm(total=cells, unit="cell", disable=not progress, leave=False)
    problems: list[str] = []
    with bar, _threads(threads):
        if workers or scheduler:
            done = _on_dask(waiting, (store, device, threads), workers, scheduler)
        else:
            done = ((job, do(job, store, device, threads)) for job in waiting)
        for job, wrong in done:
            problems += wrong
            bar.update(len(job.cells))
    return study_rows(jobs, counts), problems


def study_rows(jobs: Iterable[Job], counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """The scored cells of some jobs with what they cost, in the jobs' order.

    Args:
        jobs: of a study.
        counts: samples in "train" and "dev", labelled or not.

    Returns:
        A row per cell: `method`, `label_ratio`, `seed`; `score` on test (accuracy, or
        weighted F1) and `dev_score` on the labelled dev part; all test scores;
        `labelled`, how many labels were used; `parameters`; CPU seconds and steps of
        search, pretraining and training (what is shared with other cells counts whole);
        `peak_anonymous_mb`, the largest of those stages; `genotype`.
    """
    rows = []
    for job in jobs:
        missing = job.missing()
        for cell in job.cells:
            if cell not in missing:
                rows.append(cell_row(cell.name, cell.method, cell.ratio, job, counts))
    return rows


def write_study(rows: Sequence[Mapping[str, Any]], csv: Path) -> tuple[Path, Path, Path]:
    """Write a study's table to `csv`, and its report and figure beside it, as .md and .png.

    Raises:
        InputError: no cell is scored, or a place that cannot be written.
    """
    if not rows:
        raise InputError("no cell of the study is scored; see what was said of its runs.")
    table = checked(rows)
    csv = Path(csv)
    report, figure = csv.with_suffix(".md"), csv.with_suffix(".png")
    present = {row["method"] for row in table}
    pairs = [pair for pair in PAIRS if present.issuperset(pair)]
    ranked = [name for name in methods_in(("core", "ablation"), ()) if name in present]
    title = f"Label-ratio study: {score_name(table)} on test"
    write_text(csv, study_csv(table))
    done = {(row["method"], row["label_ratio"]) for row in table}
    across = [one for one in ACROSS if done.issuperset({one[:2], one[2:]})]
    told = study_report(table, title=title, pairs=pairs, across=across, ranked=ranked or None)
    write_text(report, told)
    shown = [name for name in methods_in(("core",), ()) if name in present]
    save(plot_study(table, shown or None), figure)
    return csv, report, figure


def _on_dask(
    jobs: Sequence[Job], arguments: tuple[Path, str, int], workers: int, scheduler: str | None
) -> Iterator[tuple[Job, list[str]]]:
    """Jobs as they are done, on Dask; a lost worker's is given to another."""
    from dask import config as dask_config

    settings = {
        "distributed.scheduler.allowed-failures": 1000,  # a killed worker is no fault of its job
        "logging": {"distributed": "error"},
    }
    with dask_config.set(settings), ExitStack() as stack:
        from distributed import Client, LocalCluster, as_completed  # sets up its logging

        cluster: Any = scheduler
        if scheduler is None:
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    memory_limit=None,
                    dashboard_address=None,  # pyright: ignore[reportArgumentType]
                    silence_logs=logging.ERROR,
                )
            )
        try:
            client = stack.enter_context(Client(cluster))
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot reach a Dask scheduler at {scheduler} ({error}); start it, or give its "
                "address as tcp://HOST:PORT."
            ) from error
        futures = {
            client.submit(do, job, *arguments, key=f"{job.folder.name}", priority=-place): job
            for place, job in enumerate(jobs)
        }
        for future in as_completed(futures):
            job = futures[future]
            try:
                yield job, future.result()
            except InputError as error:
                yield job, [f"{job.folder.name}: {error}"]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many of torch's threads during the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
