"""`ssnas --devices 2`: one result and one line for a mistake, nothing hangs, killed runs go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ssnas_core.cli.commands import SearchCommand
from ssnas_core.cli.launching import launched
from ssnas_core.cli.main import main
from ssnas_core.common.errors import InputError

PROGRAM = Path(__file__).parent / "_launched.py"
RUNS = ("genotype.*", "history.jsonl", "dataset.json", "config.json", "checkpoint/*", "cells/*/*")


class Launched:
    """A command in two processes, and what became of it."""

    def __init__(self, folder: Path, *options: object, by: tuple[str, ...] = (), **faults: str):
        folder.mkdir()
        self.pids = folder
        ours = ("OMP_NUM_THREADS", "PIDS", "DIE_AFTER", "FAIL_IN")
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        environment |= {"OMP_NUM_THREADS": "1", "PIDS": str(folder), **faults}
        self.process = subprocess.Popen(
            [sys.executable, *by, PROGRAM, *(str(option) for option in options)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, seconds: float = 60) -> tuple[int, str, str]:
        """Exit status, output and errors, once every process of it is gone."""
        try:
            out, err = self.process.communicate(timeout=seconds)
            assert len(list(self.pids.iterdir())) == 2
            deadline = time.monotonic() + 10
            while self._living() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert self._living() == []
        except BaseException:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        return self.process.returncode, out, err

    def _living(self) -> list[str]:
        return [path.name for path in self.pids.iterdir() if Path("/proc", path.name).exists()]


@pytest.fixture(scope="module")
def data(tiny_data, tiny_store) -> tuple[object, ...]:
    return ("--data", tiny_data, "--store", tiny_store, "--device", "cpu", "--label-ratio", "1")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a whole run in two processes, and what it printed."""
    folder = tmp_path_factory.mktemp("launched")
    command = ("run", *data, "--out", folder / "run", "--devices", 2, "--json", "--quiet")
    code, out, err = Launched(folder / "pids", *command).end()
    assert (code, err) == (0, "")
    return folder / "run", out


@pytest.mark.thorough
def test_two_processes_print_one_result_and_leave_one_run_folder(finished, capsys):
    run, out = finished
    assert out.count("\n") == 1
    result = json.loads(out)
    assert result == json.loads((run / "metrics.json").read_text())
    assert len(result["scores"]) == 6
    told = json.loads((run / "config.json").read_text())
    assert (told["processes"], told["threads"], told["precision"]) == (2, 1, "float32")
    assert len((run / "test_reads.jsonl").read_text().splitlines()) == 6  # each cell once
    stages = [json.loads(line)["stage"] for line in (run / "timings.jsonl").open()]
    assert stages.count("search") == 1 and stages.count("train") == 6
    with pytest.raises(SystemExit) as stop:
        main(["show", str(run), "--json"])
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out)["genotype"] == result["genotype"]


@pytest.mark.thorough
def test_run_killed_and_gone_on_with_by_torchrun_ends_as_one_that_was_not(
    finished, data, tree, tmp_path
):
    undisturbed, _ = finished
    command = ("run", *data, "--out", tmp_path / "run", "--quiet")
    killed = Launched(tmp_path / "a", *command, "--devices", 2, DIE_AFTER="search.pt")
    code, out, _ = killed.end()
    assert (code, out) == (-signal.SIGKILL, "")
    assert (tmp_path / "run" / "checkpoint" / "search.pt").exists()
    assert not (tmp_path / "run" / "genotype.json").exists()
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    code, out, err = Launched(tmp_path / "b", *command, by=torchrun).end()
    assert code == 0 and "found, pretrained" in out, err
    found, wanted = tree(tmp_path / "run", *RUNS), tree(undisturbed, *RUNS)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.thorough
def test_failure_of_the_first_process_alone_is_one_line(movies, tmp_path):
    spoilt = {name: b"" if name.endswith("jpeg") else kept for name, kept in movies.files.items()}
    data = movies.folder(tmp_path / "mmimdb", spoilt)
    command = ("search", "--data", data, "--out", tmp_path / "run", "--devices", 2, "--quiet")
    code, out, err = Launched(tmp_path / "pids", *command, "--device", "cpu").end()
    assert (code, out) == (2, "")
    assert err.startswith("ssnas: ") and err.count("\n") == 1, err


@pytest.mark.thorough
def test_failure_of_another_process_alone_is_told_by_it_and_ends_all(data, tmp_path):
    command = ("search", *data, "--out", tmp_path / "run", "--devices", 2, "--quiet")
    code, out, err = Launched(tmp_path / "pids", *command, FAIL_IN="1").end()
    assert code and not out
    lines = err.splitlines()
    assert lines[0] == "ssnas: this process alone cannot read its share."
    assert all(line.startswith("ssnas: another process ended") for line in lines[1:]), err


@pytest.mark.thorough
def test_ctrl_c_is_told_once_and_ends_all(data, tmp_path):
    command = ("search", *data, "--out", tmp_path / "run", "--devices", 2, "--quiet")
    running = Launched(tmp_path / "pids", *command, "--strategy.epochs", 10000)
    deadline = time.monotonic() + 50
    while not (tmp_path / "run" / "checkpoint" / "search.pt").exists():
        assert running.process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(running.process.pid, signal.SIGINT)
    code, out, err = running.end()
    assert (code, out) == (130, "")
    assert err == "ssnas: stopped; the same command goes on from here.\n"


def command(device: str = "cpu", **options: Any) -> SearchCommand:
    return SearchCommand(data=Path("data"), out=Path("out"), device=device, **options)


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # importing it would fail
    plain = command()
    assert launched(plain, by_shell=False) is plain


@pytest.mark.parametrize("options", ({"devices": 0}, {"num_nodes": 0}, {"devices": -1}))
def test_no_processes_are_refused(options):
    with pytest.raises(InputError, match="--devices and --num-nodes must be >= 1, got"):
        launched(command(**options), by_shell=True)


def test_processes_cannot_be_started_from_inside_another_program(tmp_path, capsys):
    options = ["--data", tmp_path, "--out", tmp_path / "run", "--devices", "2"]
    with pytest.raises(SystemExit) as stop:
        main(["run", *(str(option) for option in options)])
    assert stop.value.code == 2
    assert "ssnas: several processes begin with a command in a shell; in Python, launch them" in (
        capsys.readouterr().err
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_gpus_that_are_not_there_are_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # else it would be set for good
    with pytest.raises(InputError, match=r"cannot work in 2 x 1 processes on cuda \(") as caught:
        launched(command("cuda", devices=2), by_shell=True)
    assert "\n" not in str(caught.value)


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "ssnas_core", "show"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("ssnas: ") and "ssnas show --help" in done.stderr
