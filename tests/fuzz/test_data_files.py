"""Other people's data, hostile or broken, is used or refused in one line; nothing else happens.

A few cases of every reader, or (thorough) every case once and faults drawn by hypothesis.
`tests/benchmarks/fuzz.py` tries many more. Cases that take seconds wait for it.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import data_targets
from data_targets import CASES, REFUSED, SLOW
from targets import Target, judge

from ssnas_core.cli.main import main
from ssnas_core.common.errors import InputError
from ssnas_core.training.loop import keep_freed_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are forked and watched")


QUICK = {
    "archive": ("whole", "html", "names", "types", "sparse of terabytes", "mangled tar"),
    "cifar": ("another batch", "program"),
    "folder": ("whole", "odd record", "raw JSON", "special files"),
    "hdf5": ("whole", "links", "external storage", "virtual", "a trillion rows", "numbers"),
    "image": ("modes", "EXIF", "JPEG of 65,500 squared", "PNG of no size", "EPS"),
    "images": ("whole", "names", "special files", "empty class"),
    "mirror": ("whole", "no content", "HTML", "cut chunk", "moved to a file"),
    "mnist": ("whole", "missing", "head", "labels"),
    "npz": ("whole", "headers", "pickle", "encrypted", "overlapping"),
    "rows": ("whole", "whole stream of Arrow", "odd", "labels", "bomb of a dictionary"),
    "saved": ("whole", "field", "image"),
    "table": ("whole", "cells", "encodings"),
    "vectors": ("whole", "head", "line"),
}  # of each reader and each danger: broken, too large, leads elsewhere, runs something
EVERY = [
    pytest.param(n, c, marks=() if c in QUICK[n] else pytest.mark.thorough)
    for n in CASES
    for c in CASES[n]
]


@pytest.mark.parametrize(("name", "case"), EVERY)
def test_every_case_is_used_or_refused_in_one_line(name, case):
    if (name, case) in SLOW:
        pytest.skip("takes seconds: tests/benchmarks/fuzz.py")
    verdict = judge(CASES[name][case], random.Random(0))
    assert verdict.outcome != "finding", verdict.detail
    assert verdict.outcome == "refused" or (name, case) not in REFUSED
    assert verdict.outcome == "accepted" or case != "whole"


VARIED = {
    "archive": ("names", "types", "pax", "odd sizes", "mangled tar", "mangled header"),
    "folder": ("odd split", "odd record", "raw JSON", "marker", "special files", "mangled"),
    "hdf5": ("links", "types", "numbers", "ids", "names of genres", "split", "mangled"),
    "image": ("modes", "EXIF", "mangled"),
    "images": ("names", "special files", "mangled"),
    "mnist": ("head", "head, not gzipped", "labels", "mangled", "mangled gzip"),
    "npz": ("headers", "values", "names", "mangled", "mangled header"),
    "rows": ("odd", "labels", "images", "features", "mangled Parquet", "mangled stream of Arrow"),
    "saved": ("field", "image", "mangled"),
    "table": ("cells", "columns", "encodings", "mangled"),
    "vectors": ("head", "line", "special", "mangled"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", VARIED)
def test_one_thing_wrong_anywhere_is_used_or_refused(name):
    @settings(
        max_examples=14, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(VARIED[name]), st.integers(0, 2**32))
    def check(case, seed):
        verdict = judge(CASES[name][case], random.Random(seed))
        assert verdict.outcome != "finding", verdict.detail

    check()


COMMANDS = (("archive", "chained pax"), ("folder", "marker of 100 MB"), ("hdf5", "virtual"))


@pytest.mark.parametrize(("name", "case"), COMMANDS)
def test_command_tells_bad_data_in_one_line(tmp_path, name, case, capsys):
    (tmp_path / "input").mkdir()
    (tmp_path / "outside").mkdir()
    path = data_targets.CASES[name][case].make(tmp_path / "input", random.Random(0))
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "--data", str(path), "--store", str(tmp_path / "out"), "--quiet"])
    said = capsys.readouterr()
    assert stopped.value.code == 2 and said.out == ""
    assert said.err.startswith("ssnas: ") and said.err.count("\n") == 1 and path.name in said.err


WRONG = {
    "another exception": (lambda path: 1 / 0, "ZeroDivisionError"),
    "a refusal of two lines": (lambda path: refuse(f"{path}\nis bad"), "one printable line"),
    "a refusal that names nothing": (lambda path: refuse("bad"), "names no file"),
    "much memory": (lambda path: len(b"\1" * (600 * 10**6)), "bytes more"),
    "work without end": (lambda path: any(iter(int, 1)), "no end after"),
    "a file elsewhere": (
        lambda path: (path.parents[1] / "outside/canary.txt").read_text(),
        "opened",
    ),
    "a write elsewhere": (lambda path: (path.parents[1] / "x").touch(), "os.utime .*x'"),
    "a program": (lambda path: subprocess.run(["true"]), "subprocess.Popen"),
    "a crash": (lambda path: os.abort(), "died of SIGABRT"),
}


def refuse(message):
    raise InputError(message)


@pytest.mark.parametrize("what", WRONG)
def test_judge_finds(what, monkeypatch):
    monkeypatch.setattr("targets.SECONDS", 1)
    read, message = WRONG[what]
    verdict = judge(Target(CASES["table"]["whole"].make, read), random.Random(0))
    assert verdict.outcome == "finding"
    assert re.search(message, verdict.detail)


def test_judge_finds_memory_that_training_had_left_free():
    keep_freed_memory()
    held = [torch.ones(2**22) for _ in range(60)]  # 16 MB each, so in the heap
    del held
    read, message = WRONG["much memory"]
    verdict = judge(Target(CASES["table"]["whole"].make, read), random.Random(0))
    assert re.search(message, verdict.detail)
