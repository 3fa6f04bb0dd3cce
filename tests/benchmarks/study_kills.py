"""A small study whose workers, and whose command, are killed at random: the same table each time.

    python tests/benchmarks/study_kills.py --out runs/study-kills

One study is left alone; then each of `--runs` others has workers killed (SIGKILL) at random
moments, and now and then the whole command, which is started again. Compared is every column
of the table but what things cost; counted is every training that was ended twice.

Writes book/tables/NAME.md.
"""

from __future__ import annotations

import csv
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

from ssnas_core.common.files import write_text
from ssnas_core.datasets.sample.corpus import sample_archive
from ssnas_core.runs.folder import RunFolder

METHODS = ("SSNAS", "SSNAS, not pretrained", "BM-NAS", "random, pretrained", "late concat")
COSTS = {"search_seconds", "pretrain_seconds", "train_seconds", "peak_anonymous_mb"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where to, how often."""

    out: Path
    runs: int = 10
    workers: int = 2
    pause: float = 8.0
    """Mean seconds between two kills."""
    commands: float = 0.2
    """Share of kills that hit the command itself."""
    seed: int = 0
    """Of the moments and victims."""
    name: str = "study_kills"
    """Of the table."""


def command(options: Options, out: Path) -> list[str]:
    """The study as a command in a shell."""
    return [
        *(sys.executable, "-m", "ssnas_core", "study", "--data", str(sample_archive())),
        *("--out", str(out), "--store", str(options.out / "store"), "--recipe", "classroom"),
        *("--methods", *METHODS, "--label-ratio", "0.1", "1", "--seeds", "1"),
        *("--workers", str(options.workers), "--quiet"),
    ]


def table(out: Path) -> list[tuple[tuple[str, str], ...]]:
    """The study's rows without what they cost."""
    with (out / "study.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [tuple((k, v) for k, v in row.items() if k not in COSTS) for row in rows]


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The workers that a command has now."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [c for c in children if any("spawn_main" in part for part in c.cmdline())]
    except psutil.Error:
        return []


def disturbed(options: Options, out: Path, draw: random.Random) -> Counter[str]:
    """Do one study with kills; how many hit what."""
    killed: Counter[str] = Counter()
    while True:
        process = subprocess.Popen(command(options, out), stdout=subprocess.DEVNULL)
        while process.poll() is None:
            wait = time.monotonic() + draw.expovariate(1 / options.pause)
            while process.poll() is None and time.monotonic() < wait:
                time.sleep(0.02)
            victims = workers(process)
            if process.poll() is not None or not victims:
                continue
            if draw.random() < options.commands:
                process.kill()
                process.wait()
                psutil.wait_procs(victims, timeout=30)
                killed["command"] += 1
            else:
                draw.choice(victims).kill()
                killed["worker"] += 1
        if process.returncode == 0:
            return killed
        if process.returncode != -9:
            raise SystemExit(f"the study ended with status {process.returncode}")


def twice(out: Path) -> int:
    """Cells whose training was ended more than once."""
    ended = Counter(
        (folder.name, told["of"])
        for folder in (out / "runs").iterdir()
        for told in RunFolder.opened(folder).lines("timings.jsonl")
        if told["stage"] == "train"
    )
    return sum(count > 1 for count in ended.values())


def main(options: Options) -> None:
    """Do all studies, then write and print the table."""
    alone = options.out / "alone"
    subprocess.run(command(options, alone), check=True, stdout=subprocess.DEVNULL)
    wanted, draw = table(alone), random.Random(options.seed)
    lines = [
        f"{len(wanted)} cells in each study; {options.workers} workers; a kill (SIGKILL) each "
        f"{options.pause:g} s on average, drawn by seed {options.seed}.",
        "",
        "| study | workers killed | commands killed | same table | trainings ended twice |",
        "|---|---|---|---|---|",
    ]
    same = 0
    for number in range(options.runs):
        out = options.out / f"run-{number}"
        shutil.rmtree(out, ignore_errors=True)
        killed = disturbed(options, out, draw)
        equal = table(out) == wanted
        same += equal
        lines.append(
            f"| {number} | {killed['worker']} | {killed['command']} | "
            f"{'yes' if equal else 'NO'} | {twice(out)} |"
        )
        print(lines[-1], flush=True)
    lines += ["", f"{same} of {options.runs} tables are as the undisturbed one."]
    folder = Path(__file__).parents[2] / "book" / "tables"
    write_text(folder / f"{options.name}.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
