"""The label-ratio study: methods x label ratios x seeds, as cells of runs (`ssnas study`).

A cell is one method scored on test at one label ratio with one seed. It lives in
a run's folder, and its files there are its result: whoever is killed, what is done
is not done again, and what is not done is done by the same command. Cells that
share a search, or that need none, share a run; runs are independent jobs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ssnas_core._look import save
from ssnas_core._study_costs import cell_row
from ssnas_core._study_figures import plot_study
from ssnas_core._study_jobs import Job, StudyConfig, jobs_of, methods_in
from ssnas_core._study_methods import ACROSS, METHOD_SETS, PAIRS, STUDY_METHODS, study_method
from ssnas_core._study_report import study_report
from ssnas_core._study_rows import checked, score_name, study_csv
from ssnas_core.errors import InputError
from ssnas_core.files import write_text
from ssnas_core.preparation import prepare
from ssnas_core.runs import pick_device
from ssnas_core.studies import Run

__all__ = [
    "METHOD_SETS",
    "STUDY_METHODS",
    "StudyConfig",
    "run_study",
    "study_method",
    "study_rows",
    "write_study",
]

_LOG = logging.getLogger(__name__)


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
    with _threads(threads * max(workers, 1)):
        prepared = prepare(
            study.data, store, study.recipe.prepare, device=pick_device(device), progress=progress
        )
    counts = {split: len(prepared.indices(split)) for split in ("train", "dev")}
    jobs = jobs_of(study, out, prepared.dataset.kinds, counts["train"])
    missing = {job.folder: len(job.missing()) for job in jobs}
    waiting = [job for job in jobs if missing[job.folder]]
    cells = sum(missing.values())
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
            bar.update(missing[job.folder])
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
    from distributed import Client, LocalCluster, wait  # before settings: it adds its own

    # a killed worker is no fault of its job
    settings = {"distributed.scheduler.allowed-failures": 1000}
    with dask_config.set(settings), _quiet("distributed", "tornado"), ExitStack() as stack:
        own = None
        if scheduler is None:
            own = LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                memory_limit=None,
                dashboard_address=":0",  # any free port
                silence_logs=logging.ERROR,
            )
            stack.enter_context(own)
        try:
            client = stack.enter_context(Client(own or scheduler))
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot reach a Dask scheduler at {scheduler} ({error}); start it, or give its "
                "address as tcp://HOST:PORT."
            ) from error
        waiting = {
            client.submit(do, job, *arguments, key=f"{job.folder.name}", priority=-place): job
            for place, job in enumerate(jobs)
        }
        while waiting:
            if own is not None:
                own.scale(workers)  # those that were killed, even while they started, too
            try:
                ended: Any = wait(list(waiting), timeout=5, return_when="FIRST_COMPLETED")
            except TimeoutError:
                continue
            for future in ended.done:
                job = waiting.pop(future)
                try:
                    yield job, future.result()
                except InputError as error:
                    yield job, [f"{job.folder.name}: {error}"]


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Nothing but what is critical in the logs of libraries: a lost worker is no news here."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


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
