"""Two at once: one waits or is refused, and a kill leaves no lock. Full and read-only disks."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ssnas_core.cli import main as cli
from ssnas_core.common import files
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import reserve, save_tensors, write_text
from ssnas_core.common.locks import alone_in
from ssnas_core.features.prepare import prepare
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.recipes import RECIPES, RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.training.checkpoints import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

HOLDER = """
import sys
from ssnas_core.common.locks import alone_in
with alone_in(sys.argv[1], sys.argv[2], wait=False):
    print("held", flush=True)
    sys.stdin.read()
"""

Holding = Callable[..., subprocess.Popen]


@pytest.fixture
def holding() -> Iterator[Holding]:
    """Start a process that holds a folder's lock until its standard input is closed."""
    started = []

    def start(folder: Path, doing: str = "preparing") -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, str(folder), doing]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


# --- the lock


def test_second_process_is_refused_and_told_whose_turn_it_is(holding, tmp_path):
    pid = holding(tmp_path).pid
    message = rf"^another process \(pid {pid}\) is working on {re.escape(str(tmp_path))}; wait for"
    with (
        pytest.raises(InputError, match=message + r" it, or give another --out\.$"),
        alone_in(tmp_path, "working on", wait=False),
    ):
        raise AssertionError("two at once")


def test_second_process_waits_with_one_line_until_the_first_is_done(holding, tmp_path, caplog):
    process = holding(tmp_path)
    assert process.stdin is not None
    released = []

    def release() -> None:
        released.append(True)
        process.stdin.close()

    threading.Timer(1.3, release).start()
    with caplog.at_level(logging.INFO), alone_in(tmp_path, "preparing", wait=True):
        assert released
    message = f"waiting for another process (pid {process.pid}) that is preparing {tmp_path}"
    assert [record.getMessage() for record in caplog.records] == [message]


def test_short_wait_is_silent(holding, tmp_path, caplog):
    process = holding(tmp_path)
    assert process.stdin is not None
    threading.Timer(0.1, process.stdin.close).start()
    with caplog.at_level(logging.INFO), alone_in(tmp_path, "preparing", wait=True):
        assert caplog.records == []


def test_killed_holder_leaves_no_lock(holding, tmp_path):
    holding(tmp_path).kill()
    with alone_in(tmp_path, "preparing", wait=False):
        assert (tmp_path / ".lock-holder").read_text().startswith(f"pid {os.getpid()} on ")
    assert not (tmp_path / ".lock-holder").exists()


def test_lock_is_taken_again_inside_itself_and_freed_at_the_end(holding, tmp_path):
    other = tmp_path / "x" / ".."
    (tmp_path / "x").mkdir()
    with alone_in(tmp_path, "a", wait=False):
        with alone_in(other, "b", wait=False), alone_in(tmp_path, "c", wait=True):
            pass
        program = HOLDER.replace("sys.stdin.read()", "")
        second = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), "d"], capture_output=True, text=True
        )
        assert f"another process (pid {os.getpid()}) is d" in second.stderr
    holding(tmp_path)


def test_half_written_file_of_the_holder_outlives_a_second_process_that_is_refused(
    holding, tmp_path
):
    holder, half = holding(tmp_path), tmp_path / ".metrics.json.x1y2z3w4.part"
    half.write_text("half")
    with pytest.raises(InputError), alone_in(tmp_path, "working on", wait=False):
        pass
    assert half.exists()
    holder.kill()
    with alone_in(tmp_path, "working on", wait=False):
        assert not half.exists()


def test_lock_is_freed_by_an_error(holding, tmp_path):
    with pytest.raises(KeyboardInterrupt), alone_in(tmp_path, "a", wait=False):
        raise KeyboardInterrupt
    holding(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_gets_a_warning_and_no_lock(
    tmp_path, monkeypatch, caplog, number
):
    import fcntl

    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    done = []
    with caplog.at_level(logging.WARNING), alone_in(tmp_path, "preparing", wait=True):
        done.append(True)
    assert done
    assert caplog.messages == [f"no locks on this file system; take care to be alone in {tmp_path}"]
    assert list(tmp_path.glob(".lock-holder")) == []  # nothing that could go stale
    monkeypatch.undo()
    with alone_in(tmp_path, "preparing", wait=False):
        pass


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises((InputError, OSError), match=r"file"),
        alone_in(tmp_path / "file" / "run", "working on", wait=False),
    ):
        raise AssertionError


# --- two whole commands

TWO = """
import json, os, sys, logging
from pathlib import Path
from ssnas_core.common import locks
from ssnas_core.common.errors import InputError
from ssnas_core.runs.recipes import RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.features.prepare import prepare
from ssnas_core.datasets import mmimdb
from ssnas_core.features import extract
import matplotlib.backends.backend_agg, networkx, torch, torch._dynamo
import sklearn.decomposition, sklearn.feature_extraction.text
torch.set_num_threads(1)

archive, run, folder = map(json.loads, sys.argv[1:])
work = {"extract": 0, "unpack": 0}

def counted(owner, name, key):
    old = getattr(owner, name)
    def call(*args, **options):
        work[key] += 1
        return old(*args, **options)
    setattr(owner, name, call)

counted(extract._Extractor, "__call__", "extract")
counted(mmimdb, "_unpack", "unpack")

def both(name, do):
    ready, go = os.pipe()
    children = []
    for number in range(2):
        children.append(os.fork())
        if children[-1] == 0:
            os.close(go)
            os.read(ready, 1)  # ends when the parent closes its end: both start at once
            refusal = ""
            try:
                do()
            except InputError as error:
                refusal = str(error)
            outcome = {"pid": os.getpid(), "refusal": refusal, **work}
            Path(folder, f"{name}-{number}.json").write_text(json.dumps(outcome))
            os._exit(0)
    os.close(go)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0

archive, run = RunConfig.from_plain(archive), RunConfig.from_plain(run)
store = Path(folder, "store")
both("prepare", lambda: prepare(archive.data, store, archive.recipe.prepare))
locks._PATIENCE = 0.1  # less than a run takes
both("run", lambda: Run(run, Path(folder, "run"), store=store, device="cpu").run())

def patient():
    one = Run(run, Path(folder, "shared"), store=Path(folder, "shared store"), device="cpu")
    one.folder.wait = True
    one.search()
    one.run()

both("patient", patient)
"""


@pytest.fixture(scope="module")
def twice(movies, tiny_data, tiny_recipe, tmp_path_factory) -> Path:
    """A folder where two processes prepared `store` at once, then two made `run` at once, and
    two that wait for each other made `shared`."""
    folder = tmp_path_factory.mktemp("twice")
    archive = movies.archive(folder / "mmimdb.tar.gz")
    configs = [
        RunConfig(data=data, recipe=tiny_recipe, label_ratio=(1.0,)).plain()
        for data in (archive, tiny_data)
    ]
    arguments = [json.dumps(value) for value in (*configs, str(folder))]
    subprocess.run([sys.executable, "-c", TWO, *arguments], check=True)
    return folder


def outcomes(folder: Path, name: str) -> list[dict]:
    """The outcomes of the two processes."""
    return [json.loads((folder / f"{name}-{number}.json").read_text()) for number in (0, 1)]


@pytest.mark.thorough
def test_two_processes_that_prepare_the_same_archive_do_it_once(twice, tiny_store, tree):
    both = outcomes(twice, "prepare")
    assert [one["refusal"] for one in both] == ["", ""]
    assert sorted(one["unpack"] for one in both) == [0, 1]
    lazy, busy = sorted(one["extract"] for one in both)
    assert lazy == 0 < busy
    (folder,) = tiny_store.glob("prepared-*")
    made = tree(twice / "store" / folder.name)
    wanted = tree(folder)
    assert {name: made[name] for name in made if not name.startswith("inputs/text")} == {
        name: wanted[name] for name in wanted if not name.startswith("inputs/text")
    }
    assert "features/store.json" in wanted and "text.pt" in wanted


@pytest.mark.thorough
def test_of_two_runs_in_one_folder_one_is_refused_and_the_other_unharmed(twice, finished, tree):
    refused, done = sorted(outcomes(twice, "run"), key=lambda one: not one["refusal"])
    assert done["refusal"] == ""
    assert refused["refusal"] == (
        f"another process (pid {done['pid']}) is working on {twice / 'run'}; wait for it, "
        "or give another --out."
    )
    names = ("*.png", "genotype.json", "history.jsonl", "test_reads.jsonl", "cells/**/*")
    assert tree(twice / "run", *names) == tree(finished.folder.path, *names)


@pytest.mark.thorough
def test_of_two_runs_that_wait_each_stage_is_done_once(twice, finished):
    assert [one["refusal"] for one in outcomes(twice, "patient")] == ["", ""]
    lazy, busy = sorted(one["extract"] for one in outcomes(twice, "patient"))
    assert lazy == 0 < busy
    shared, alone = RunFolder.opened(twice / "shared"), finished.folder
    names = [[(one.stage, one.of) for one in folder.timings()] for folder in (shared, alone)]
    assert sorted(map(str, names[0])) == sorted(map(str, names[1]))
    reads = [folder.lines("test_reads.jsonl") for folder in (shared, alone)]
    assert reads[0] == reads[1]


@pytest.fixture(scope="module")
def finished(tiny_data, tiny_store, tiny_recipe, tmp_path_factory, one_thread) -> Run:
    config = RunConfig(data=tiny_data, recipe=tiny_recipe, label_ratio=(1.0,))
    run = Run(config, tmp_path_factory.mktemp("locks") / "run", store=tiny_store, device="cpu")
    run.run()
    return run


def test_finished_run_is_read_whoever_holds_it_and_what_is_new_is_refused(
    finished, tiny_store, holding, monkeypatch
):
    holding(finished.folder.path, "working on")
    again = Run(finished.config, finished.folder.path, store=tiny_store, device="cpu")
    assert again.run() == finished.run()
    assert again.pretrain().keys() and again.train("found", 1.0).is_dir()
    assert RunFolder.opened(finished.folder.path).cost()["seconds"]
    with pytest.raises(InputError, match=r"another process \(pid \d+\) is working on"):
        again.train("found", 0.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    config = (finished.folder / "config.json").read_bytes()
    RunFolder(finished.folder.path, finished.config.plain())  # only looked at
    assert (finished.folder / "config.json").read_bytes() == config


def test_refused_run_leaves_one_that_has_only_begun_as_it_is(finished, holding, tmp_path, tree):
    begun = Run(finished.config, tmp_path / "run", store=tmp_path / "store", device="cpu")
    before = tree(tmp_path)
    holding(begun.folder.path, "working on")
    for work in (begun.run, begun.search, lambda: begun.prepared):
        with pytest.raises(InputError, match=r"another process \(pid \d+\) is working on"):
            work()
    assert tree(tmp_path) == before and "run/config.json" in before


# --- full and read-only disks


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.thorough)]
)
def test_run_that_cannot_write_says_so_each_time_and_goes_on_to_the_same_bytes(
    finished, tiny_store, tmp_path, tree, monkeypatch, number
):
    """Session k cannot write from its k-th write on, until one comes to its end."""
    left = [0]

    def failing(work: Callable) -> Callable:
        def call(*args, **options):
            left[0] -= 1
            if left[0] <= 0:
                named = [f"{folder}/.temporary" for folder in options.values()]  # if it is mkstemp
                raise OSError(number, os.strerror(number), *named[:1])
            return work(*args, **options)

        return call

    if number == errno.EROFS:  # nothing can be made
        monkeypatch.setattr(tempfile, "mkstemp", failing(tempfile.mkstemp))
        store = tiny_store
    else:  # the error comes while writing, with no name
        monkeypatch.setattr(files.os, "fsync", failing(files.os.fsync))
        store = tmp_path / "store"
    config, failures = finished.config, 0
    while failures < 60:
        left[0] = failures + 1
        try:
            Run(config, tmp_path / "run", store=store, device="cpu").run()
        except InputError as error:
            reason = re.escape(os.strerror(number))
            assert re.match(rf"cannot write /\S+: {reason}; make ", str(error)), error
        else:
            if left[0] > 0:  # every write was done
                break
        failures += 1
    assert 8 < failures < 60
    names = ("*.png", "genotype.json", "history.jsonl", "cells/**/*", "checkpoint/*.safetensors")
    assert tree(tmp_path / "run", *names) == tree(finished.folder.path, *names)
    assert list(tmp_path.glob("**/.*.json.*")) == []


@contextlib.contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 1000, 100_000, 399_000])
def test_writers_of_torch_and_safetensors_tell_a_write_that_the_system_cuts_short(tmp_path, size):
    small, large = torch.nn.Linear(1, 1), torch.nn.Linear(1000, 100)
    checkpoint, weights, text = (tmp_path / name for name in ("a.pt", "b.safetensors", "c"))
    save_checkpoint(checkpoint, {"model": small}, [])
    save_tensors(weights, small.state_dict())
    before = weights.read_bytes()
    for path, write in (
        (checkpoint, lambda: save_checkpoint(checkpoint, {"model": large}, [])),
        (weights, lambda: save_tensors(weights, large.state_dict())),
        (text, lambda: write_text(text, "x" * 400_000)),
    ):
        with (
            files_at_most(size),
            pytest.raises(InputError, match=rf"cannot write {path}: File too large; make room"),
        ):
            write()
    saved = load_checkpoint(checkpoint)
    assert saved is not None and saved["model"]["weight"].shape == (1, 1)
    assert weights.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.safetensors"]


def test_mapped_file_gets_its_room_when_it_is_made(tmp_path):
    path = tmp_path / "features.npy"
    np.lib.format.open_memmap(path, "w+", np.float16, (1000, 512))
    assert path.stat().st_blocks * 512 < path.stat().st_size
    reserve(path)
    assert path.stat().st_blocks * 512 >= path.stat().st_size
    assert np.load(path).shape == (1000, 512) and not np.load(path).any()


@pytest.mark.parametrize(("call", "file"), [(1, r"inputs/text-\w+"), (2, "features/image_0")])
def test_preparation_without_room_for_a_mapped_file_says_so_and_goes_on(
    tiny_data, tiny_recipe, tmp_path, monkeypatch, call, file
):
    left, claim = [call], os.posix_fallocate

    def full(*args):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        claim(*args)

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(InputError, match=rf"cannot write /.*/{file}\.npy: No space left"):
            prepare(tiny_data, tmp_path, tiny_recipe.prepare)
    assert len(prepare(tiny_data, tmp_path, tiny_recipe.prepare).store) == 60


def test_full_log_hides_neither_an_error_nor_itself(tmp_path):
    folder = RunFolder(tmp_path, {"seed": 0})
    folder.append("timings.jsonl", {"stage": "x" * 300})
    with (
        files_at_most(300),
        pytest.raises(ZeroDivisionError),
        folder.stage("search"),
    ):
        raise ZeroDivisionError
    with (
        files_at_most(300),
        pytest.raises(InputError, match=r"timings\.jsonl: File too large"),
        folder.stage("search"),
    ):
        pass
    assert len(folder.lines("timings.jsonl")) == 1


def test_what_cannot_be_read_elsewhere_is_not_taken_for_a_write(tmp_path):
    with (
        pytest.raises(PermissionError),
        files.disk_errors(tmp_path / "a" / "weights"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "b" / "data"))


# --- Ctrl-C


STAGES = [
    pytest.param(stage, marks=() if stage == "search" else pytest.mark.thorough)
    for stage in ("prepare", "search", "pretrain", "train", "evaluate")
]


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_in_any_stage_says_how_to_go_on(
    tiny_data, tiny_store, tiny_recipe, finished, tmp_path, monkeypatch, capsys, stage
):
    enter = RunFolder.stage

    @contextlib.contextmanager
    def interrupted(self, name, of=None):
        with enter(self, name, of):
            if name == stage:
                os.kill(os.getpid(), signal.SIGINT)
            yield

    recipe = dataclasses.replace(tiny_recipe)
    monkeypatch.setitem(RECIPES, "two-core", recipe)
    command = ["run", "--data", str(tiny_data), "--out", str(tmp_path / "run"), "--quiet"]
    command += ["--store", str(tiny_store), "--label-ratio", "1.0", "--device", "cpu"]
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "stage", interrupted)
        with pytest.raises(SystemExit) as stop:
            cli.main(command)
    assert stop.value.code == 130
    said = capsys.readouterr()
    assert said.err == "ssnas: stopped; the same command goes on from here.\n" and said.out == ""
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 0
    assert (tmp_path / "run" / "genotype.json").read_bytes() == (
        finished.folder / "genotype.json"
    ).read_bytes()
