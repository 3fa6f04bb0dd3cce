"""The label-ratio study: methods x label ratios x seeds, as cells of runs (`ssnas study`).

A cell is one method scored on test at one label ratio with one seed. It lives in
a run's folder, and its files there are its result: whoever is killed, what is done
is not done again, and what is not done is done by the same command. Cells that
share a search, or that need none, share a run; runs are independent jobs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_fields, read_name, write_text
from ssnas_core.common.workers import become_worker, dask_client
from ssnas_core.datasets.records import changes
from ssnas_core.features.prepare import Prepared, prepare
from ssnas_core.runs.data import changed_since
from ssnas_core.runs.folder import RunFolder, pick_device
from ssnas_core.runs.run import Run
from ssnas_core.show.curves import plot_scores
from ssnas_core.show.style import save
from ssnas_core.show.tables import score_name
from ssnas_core.study.jobs import Job, StudyConfig, cell_row, jobs_of
from ssnas_core.study.methods import ACROSS, PAIRS, methods_in
from ssnas_core.study.report import study_report
from ssnas_core.study.table import checked, study_csv

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


def _do_as_worker(job: Job, store: Path, device: str, threads: int) -> list[str]:
    """`do`, in a process that may be killed."""
    become_worker()
    return do(job, store, device, threads)


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
        InputError: an unknown method, data that cannot be read, or a folder of another study.
    """
    from tqdm.auto import tqdm

    if workers < 0 or threads < 1:
        raise InputError(
            f"a study needs workers >= 0 and threads >= 1, got {workers} and {threads}."
        )
    if not (*study.methods, *study.decisive):
        raise InputError("a study needs methods, got none; name some, or sets of them, as core.")
    out = Path(out).resolve()
    store = Path(store).resolve() if store is not None else out / "store"
    with _threads(threads * max(workers, 1)):
        prepared = prepare(
            study.data, store, study.recipe.prepare, device=pick_device(device), progress=progress
        )
    counts = {split: len(prepared.indices(split)) for split in ("train", "dev")}
    jobs = jobs_of(study, out, prepared.dataset.kinds, counts["train"])
    for job in jobs:
        _check_run(job, prepared)
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


def _check_run(job: Job, prepared: Prepared) -> None:
    """Raise `InputError` where the folder holds another run, whose cells are not the study's.

    Args:
        job: of the study.
        prepared: its data now; backbones that learn from labels, or of other settings, have
            features of their own.
    """
    if not (job.folder / "config.json").exists():
        return
    saved, wanted = RunFolder.config_of(job.folder), json.loads(json.dumps(job.config.plain()))
    if any(saved.get(name) != value for name, value in wanted.items()):
        RunFolder(job.folder, wanted)  # raises: it says what differs
    note = job.folder / "prepared.json"
    if not note.exists():
        return
    config = job.config
    own = config.backbones == "supervised" or config.recipe.prepare != prepared.config
    labels = prepared.dataset.label_fingerprint()
    same = own or read_name(note, "folder") == prepared.folder.name
    if not same or read_fields(note, "labels")["labels"] != labels:
        changed = changes(job.folder / "dataset.json", prepared.dataset)
        raise InputError(changed_since(job.config.data, job.folder, changed))


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
    return [cell_row(cell, job, counts) for job in jobs for cell in job.cells if job.scored(cell)]


def study_files(csv: Path) -> tuple[Path, Path, Path]:
    """Where a study's table goes, and its report and figure beside it.

    Raises:
        InputError: the table has the name of one of the others.
    """
    csv = Path(csv)
    if csv.suffix in (".md", ".png"):
        raise InputError(
            f"expected a table named unlike its report (.md) and figure (.png), got {csv.name!r}; "
            f"as {csv.stem}.csv."
        )
    return csv, csv.with_suffix(".md"), csv.with_suffix(".png")


def write_study(rows: Sequence[Mapping[str, Any]], csv: Path) -> tuple[Path, Path, Path]:
    """Write a study's table to `csv`, and its report and figure beside it, as .md and .png.

    Raises:
        InputError: no cell is scored, as `study_files`, or a place that cannot be written.
    """
    if not rows:
        raise InputError("no cell of the study is scored; see what was said of its runs.")
    table = checked(rows)
    csv, report, figure = study_files(csv)
    present = {row["method"] for row in table}
    pairs = [pair for pair in PAIRS if present.issuperset(pair)]
    ranked = [name for name in methods_in(("core", "ablation"), ()) if name in present]
    title = f"Label-ratio study: {score_name(table)} on test"
    write_text(csv, study_csv(table))
    done = {(row["method"], row["label_ratio"]) for row in table}
    across = [one for one in ACROSS if done.issuperset({one[:2], one[2:]})]
    text = study_report(table, title=title, pairs=pairs, across=across, ranked=ranked or None)
    write_text(report, text)
    shown = [name for name in methods_in(("core",), ()) if name in present]
    save(plot_scores(table, shown or None), figure)
    return csv, report, figure


def _on_dask(
    jobs: Sequence[Job], arguments: tuple[Path, str, int], workers: int, scheduler: str | None
) -> Iterator[tuple[Job, list[str]]]:
    """Jobs as they are done, on Dask; a lost worker's is given to another."""
    from distributed import KilledWorker, wait

    with dask_client(workers, scheduler) as (client, refill):
        waiting = {
            # the key is the job's wherever it is done: on a scheduler that others use too, the
            # folder's name alone may be another study's
            client.submit(_do_as_worker, job, *arguments, key=str(job.folder), priority=-place): job
            for place, job in enumerate(jobs)
        }
        while waiting:
            refill()
            try:
                ended: Any = wait(list(waiting), timeout=5, return_when="FIRST_COMPLETED")
            except TimeoutError:
                continue
            except CancelledError as error:
                raise InputError(
                    f"lost the Dask scheduler {scheduler or 'of this command'}; what is scored is "
                    "kept, give the same command again."
                ) from error
            for future in ended.done:
                job = waiting.pop(future)
                try:
                    yield job, future.result()
                except InputError as error:
                    yield job, [f"{job.folder.name}: {error}"]
                except KilledWorker:
                    reason = "lost with every worker that began it; see that memory suffices"
                    yield job, [f"{job.folder.name}: {reason}, and give the same command again."]


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
