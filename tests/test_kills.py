"""Runs that are killed, stopped, or find the disk full go on to the same bits; a few of each.

`tests/benchmarks/kills.py` does it by the hundred, for all of a run's time.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ssnas_core
from ssnas_core.cli import main as cli
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import atomic_path, remove_parts, write_text
from ssnas_core.common.locks import alone_in
from ssnas_core.features.prepare import prepare
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.training import checkpoints as _checkpoints
from ssnas_core.training.checkpoints import load_checkpoint, save_checkpoint

BENCHMARKS = Path(__file__).parent / "benchmarks"

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it finds files as Linux can"),
]

# Writes of each stage: what is called, on which file, after which share of such calls, and when.
PLACES = (
    ("unpacking", "write", "#.jpeg", 0.5, "half"),
    ("decoding", "write", "image-48x32.npy", 0.9, "half"),
    ("image backbone", "write", "image-training.pt", 0.8, "half"),
    ("text backbone", "replace", "text-training.pt", 0.5, "after"),
    ("extraction", "mmap.__setitem__", "image_0.npy", 0.7, "before"),
    ("end of preparation", "replace", "inputs.json", 1, "before"),
    ("search", "replace", "search.pt", 0.5, "after"),
    ("search", "write", "supernet.safetensors", 1, "half"),
    ("pretraining", "replace", "pretrain.pt", 0.5, "after"),
    ("fine-tuning", "replace", "found_r1.pt", 0.5, "after"),
    ("fine-tuning", "replace", "model.safetensors", 0, "before"),
    ("evaluation", "unlink", "found-pretrained_r1.pt", 1, "before"),
    ("end", "replace", "metrics.json", 1, "before"),
)

SESSIONS = f"""
import json, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import _killing
from pathlib import Path

home, places = Path(sys.argv[1]), json.loads(sys.argv[2])
archive = _killing.write_archive(home / "movies.tar.gz")
_killing.become_small(2)

def session(name, *fault):
    command = _killing.arguments(archive, home / "run")
    return _killing.forked(command, _killing.Fault(*fault), home / name, sync=False)

told = {{"whole": session("whole", None)}}
assert told["whole"] == 0, (home / "whole").read_text()
told["reference"] = _killing.contents(home / "run")
(home / "run").rename(home / "first")
counts = {{(kind, file): n for kind, file, n in json.loads((home / "whole.json").read_text())}}
told["ends"] = [
    (
        session("told", (kind, file, max(1, int(share * counts[kind, file]))), when, error),
        _killing.stage_of(home / "run"),
        (home / "told").read_text(),
    )
    for kind, file, share, when, error in places
]
told["last"] = session("last", None)
told["found"] = _killing.contents(home / "run")
told["litter"] = _killing.litter(home / "run")
(home / "told.json").write_text(json.dumps(told))
"""


def sessions(home: Path, places: list[tuple[Any, ...]]) -> dict[str, Any]:
    """What came of a whole run, and of one whose sessions meet these faults one by one."""
    root = Path(ssnas_core.__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", SESSIONS, str(home), json.dumps(places)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads((home / "told.json").read_text())


def check_same(told: dict[str, Any]) -> None:
    assert told["whole"] == told["last"] == 0
    names = {**told["reference"], **told["found"]}
    assert [n for n in names if told["reference"].get(n) != told["found"].get(n)] == []
    assert {"genotype.json", "metrics.json", "checkpoint/pretrained.safetensors"} <= names.keys()
    assert told["litter"] == []


@pytest.mark.thorough
def test_run_killed_in_the_midst_of_a_write_of_every_stage_ends_with_the_same_bits(tmp_path):
    told = sessions(tmp_path, [(*place, 0) for _, *place in PLACES])
    assert [end[0] for end in told["ends"]] == [-9] * len(PLACES)
    assert [end[1] for end in told["ends"]] == [stage for stage, *_ in PLACES]
    check_same(told)


@pytest.mark.thorough
def test_run_without_room_or_on_a_read_only_disk_says_so_and_goes_on_to_the_same_bits(tmp_path):
    numbers = [errno.ENOSPC, errno.EROFS] * len(PLACES)
    told = sessions(tmp_path, [(*p, n) for (_, *p), n in zip(PLACES, numbers, strict=False)])
    for (status, _, said), number in zip(told["ends"], numbers, strict=False):
        assert status == 2
        assert re.fullmatch(rf"ssnas: [^\n]*{os.strerror(number)}[^\n]*\n", said), said
    check_same(told)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_with_one_line_and_its_own_status(monkeypatch, capsys, number, status):
    before = signal.getsignal(signal.SIGTERM)

    def signalled(_):
        assert signal.getsignal(number) != signal.SIG_DFL  # else it would end the tests
        signal.raise_signal(number)

    monkeypatch.setattr(cli, "run_command", signalled)
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--data", "x", "--out", "y"])
    signal.signal(signal.SIGTERM, before)
    assert stop.value.code == status
    assert capsys.readouterr().err == "ssnas: stopped; the same command goes on from here.\n"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, type("Terminated", (KeyboardInterrupt,), {})])
def test_ctrl_c_at_any_write_of_a_checkpoint_is_one_and_leaves_the_last_one(
    tmp_path, monkeypatch, kind
):
    path, left = tmp_path / "a.pt", [10**9]

    class Interrupted(io.FileIO):
        def write(self, data):
            left[0] -= 1
            if left[0] == 0:
                raise kind
            return super().write(data)

    monkeypatch.setattr(_checkpoints, "open", Interrupted, raising=False)
    save_checkpoint(path, {"model": torch.nn.Linear(9, 9)}, [{"epoch": 0}])
    writes = 10**9 - left[0]
    assert writes > 10
    for number in range(1, writes + 1):
        left[0] = number
        with pytest.raises(kind):
            save_checkpoint(path, {"model": torch.nn.Linear(9, 9)}, [{"epoch": 1}])
        saved = load_checkpoint(path)
        assert saved is not None and saved["history"] == [{"epoch": 0}]
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_what_killed_processes_left_half_written_is_cleared_by_the_next_that_is_alone(tmp_path):
    write_text(tmp_path / "whole", "")
    left = [tmp_path / ".a.json.x1_y2z3w.part", tmp_path / "sub" / ".b.part"]
    kept = [
        tmp_path / "whole",
        tmp_path / "c.part",
        tmp_path / ".hidden",
        tmp_path / "store" / "prepared-1" / ".lock",  # another may be at work there
        tmp_path / "store" / "prepared-1" / ".d.json.x1y2z3w4.part",
    ]
    for path in left + kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    with alone_in(tmp_path, "working on", wait=False):
        assert not any(path.exists() for path in left)
        left[0].write_text("mine, half written")
        with alone_in(tmp_path, "working on", wait=False):
            assert left[0].exists()
    assert all(path.exists() for path in kept)


def test_a_temporary_file_is_one_that_would_be_cleared(tmp_path):
    with atomic_path(tmp_path / "a.json") as temporary:
        remove_parts(tmp_path)
        assert not temporary.exists()
        temporary.write_text("again")


def test_training_of_a_backbone_outlives_a_disk_that_has_no_room_for_the_backbone(
    tiny_data, tiny_recipe, tmp_path, monkeypatch
):
    """Its last checkpoint is there until its weights are."""
    config, save = tiny_recipe.prepare, torch.save

    def full(state, file):
        if file.name.rsplit("/", 1)[1].startswith(".image.pt."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(InputError, match=r"cannot write /\S+/image\.pt: No space left"):
            prepare(tiny_data, tmp_path, config)
    (home,) = tmp_path.glob("prepared-*")
    checkpoint = load_checkpoint(home / "image-training.pt")
    assert checkpoint is not None
    assert len(checkpoint["history"]) == config.image_training.epochs
    losses = []
    loss = Contrastive.loss
    monkeypatch.setattr(Contrastive, "loss", lambda *args: losses.append(args) or loss(*args))
    prepare(tiny_data, tmp_path, config)
    assert len(losses) == config.text_training.epochs  # the image backbone is not trained again
    assert list(home.glob("*-training.pt")) == []
