"""Run folders: tied to one configuration, whole after a kill, and honest about their cost."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.runs import folder as runs
from ssnas_core.runs.folder import FORMAT, PeakMemory, RunFolder, pick_device

CONFIG = {"data": "/movies", "seed": 0, "ratios": (0.1, 1.0), "recipe": {"fit": {"epochs": 3}}}
MISSING = not Path("/proc/self/status").exists()


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run", CONFIG)


# --- one folder, one configuration


def test_new_folder_says_its_configuration_version_and_threads(folder):
    told = json.loads((folder / "config.json").read_text())
    threads = torch.get_num_threads()
    assert told == {
        "format": FORMAT,
        **CONFIG,
        "ratios": [0.1, 1.0],
        "threads": threads,
        "processes": 1,
    }
    assert RunFolder.config_of(folder.path) == told


def test_same_configuration_opens_the_folder_again_and_changes_nothing(folder):
    before = (folder / "config.json").read_bytes()
    assert RunFolder(folder.path, CONFIG).path == folder.path
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"a run with seed=0, not 1; give the same options .* or another --out\.$"),
        ({"ratios": (0.1,)}, r"ratios=\[0\.1, 1\.0\], not \[0\.1\]"),
        ({"more": "x" * 100}, r'more=null, not "x{56}\.\.\.;'),
        ({"recipe": {"fit": {"epochs": 4}}}, r"a run with recipe\.fit\.epochs=3, not 4;"),
        ({"recipe": {"fit": {}}}, r"recipe\.fit\.epochs=3, not null;"),
        ({"recipe": {"fit": {"epochs": 3}, "b": 1}}, r"recipe\.b=null, not 1;"),
    ],
)
def test_folder_of_another_configuration_is_refused_by_what_differs(folder, change, message):
    with pytest.raises(InputError, match=message):
        RunFolder(folder.path, {**CONFIG, **change})


@pytest.mark.parametrize("text", ['{"format": 99}', '{"seed": 0}', "[]", "null", '"run"'])
def test_folder_of_another_version_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    for use in (lambda: RunFolder(folder.path, CONFIG), lambda: RunFolder.config_of(folder.path)):
        with pytest.raises(InputError, match="of format 4, got .*; make the run anew"):
            use()


def test_broken_configuration_is_refused(folder):
    (folder / "config.json").write_text('{"format": 1')
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        RunFolder(folder.path, CONFIG)


def test_what_is_no_run_folder_is_neither_filled_nor_opened(tmp_path):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter").write_text("one")
    file = tmp_path / "file"
    file.write_text("")
    for path in (foreign, file):
        with pytest.raises(InputError, match=r"exists and is not a run folder; give --out a new"):
            RunFolder(path, CONFIG)
        with pytest.raises(InputError, match=r"is not a run folder \(no config\.json\)"):
            RunFolder.config_of(path)
    assert [entry.name for entry in foreign.iterdir()] == ["chapter"]


def test_folder_that_is_empty_but_for_what_a_kill_left_is_taken(tmp_path):
    (tmp_path / ".config.json.x3f").write_text("{")
    assert RunFolder(tmp_path, CONFIG).config_of(tmp_path)["seed"] == 0


def test_change_of_threads_is_told_and_recorded(folder, monkeypatch, caplog):
    began = torch.get_num_threads()
    RunFolder(folder.path, CONFIG)
    assert not caplog.records
    monkeypatch.setattr(torch, "get_num_threads", lambda: began + 1)
    with caplog.at_level(logging.WARNING, "ssnas_core.runs.folder"):
        RunFolder(folder.path, CONFIG)
    assert f"began with {began} threads and goes on with {began + 1}" in caplog.text
    told = RunFolder.config_of(folder.path)
    assert (told["threads"], told["threads_changed_to"]) == (began, began + 1)


def test_change_of_processes_is_told_and_recorded(folder, monkeypatch, caplog):
    monkeypatch.setattr(runs, "world_size", lambda: 2)
    with caplog.at_level(logging.WARNING, "ssnas_core.runs.folder"):
        RunFolder(folder.path, CONFIG)
        RunFolder(folder.path, CONFIG)
    assert caplog.text.count("began with 1 processes and goes on with 2: chance inside") == 1
    told = RunFolder.config_of(folder.path)
    assert (told["processes"], told["processes_changed_to"]) == (1, 2)


# --- logs


def test_log_holds_its_entries_in_order(folder):
    assert folder.lines("log.jsonl") == []
    entries = [{"a": 1}, {"b": "über\n"}, {"c": None}]
    for entry in entries:
        folder.append("log.jsonl", entry)
    assert folder.lines("log.jsonl") == entries
    assert len((folder / "log.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("kept", range(1, 8))
def test_line_cut_short_by_a_kill_costs_no_other_line(folder, kept):
    folder.append("log.jsonl", {"a": 1})
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"b": 2}'[:kept])
    assert folder.lines("log.jsonl") == [{"a": 1}]
    folder.append("log.jsonl", {"c": 3})
    assert folder.lines("log.jsonl") == [{"a": 1}, {"c": 3}]


# --- cost


def test_stage_is_timed_even_when_it_fails(folder):
    with folder.stage("search"):
        time.sleep(0.05)
    with pytest.raises(KeyboardInterrupt), folder.stage("train"):
        raise KeyboardInterrupt
    search, train = folder.lines("timings.jsonl")
    assert (search["stage"], train["stage"]) == ("search", "train")
    assert 0.05 <= search["seconds"] < 5
    assert 0 <= train["seconds"] < 5
    assert MISSING or search["peak_anonymous_mb"] > 10


@pytest.mark.skipif(sys.platform == "win32", reason="other processes' times are not told")
def test_processor_time_of_a_stage_has_that_of_workers_that_ended(folder):
    program = "import time\nwhile time.process_time() < 0.4: pass"
    with folder.stage("search"):
        subprocess.run([sys.executable, "-c", program], check=True)
    (search,) = folder.timings()
    assert 0.3 < search.cpu_seconds < 5


def test_cost_sums_seconds_by_stage_and_takes_the_largest_peak(folder):
    assert folder.cost() == {"seconds": {}, "peak_anonymous_mb": 0.0}
    told = [("prepare", 1.5, 100.0), ("search", 2, 300.5), ("prepare", 0.25, None)]
    for stage, seconds, peak in told:
        entry = {"stage": stage, "seconds": seconds, "peak_anonymous_mb": peak}
        folder.append("timings.jsonl", entry)
    cost = folder.cost()
    assert cost == {"seconds": {"prepare": 1.75, "search": 2}, "peak_anonymous_mb": 300.5}


@pytest.mark.thorough
@pytest.mark.skipif(MISSING, reason="no /proc/self/status")
def test_peak_memory_sees_an_allocation_that_is_gone_at_the_end():
    program = """
import time
import numpy as np
from ssnas_core.runs.folder import PeakMemory
with PeakMemory() as before:
    time.sleep(0.03)
with PeakMemory() as memory:
    block = np.ones(200 * 10**6, dtype=np.uint8)
    patience = time.monotonic() + 5  # on a busy machine the watcher may have to wait
    while memory.peak_mb < before.peak_mb + 190 and time.monotonic() < patience:
        time.sleep(0.02)
    del block
    time.sleep(0.03)
print(memory.peak_mb - before.peak_mb)
"""  # a process of its own: one that has freed much may take the block from what it kept
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert 190 < float(told.stdout) < 260, told.stderr


@pytest.mark.skipif(MISSING, reason="no /proc/self/status")
def test_peak_memory_leaves_out_pages_of_a_mapped_file(tmp_path):
    np.ones(100 * 10**6, dtype=np.uint8).tofile(tmp_path / "features")
    with PeakMemory() as before:
        time.sleep(0.03)
    with PeakMemory() as memory:
        mapped = np.memmap(tmp_path / "features", np.uint8, "r")
        assert int(mapped[:: 2**12].sum(dtype=np.int64)) > 0  # touches every page
        time.sleep(0.1)
    assert before.peak_mb is not None and memory.peak_mb is not None
    assert memory.peak_mb - before.peak_mb < 50


# --- devices


def test_devices_are_torchs_and_auto_takes_a_gpu_where_there_is_one():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu cpu"])
def test_device_that_is_not_there_is_refused_in_one_line(name):
    with pytest.raises(InputError, match=f"cannot use device '{name}' .*; use cpu or auto") as told:
        pick_device(name)
    assert "\n" not in str(told.value)
