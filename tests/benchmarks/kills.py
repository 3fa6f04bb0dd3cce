"""What is lost when a run is killed, stopped, or finds the disk full: nothing.

    python tests/benchmarks/kills.py --out runs/kills

makes one small whole run of 60 generated movies (unpacking, decoding, two SimCLR backbones,
extraction in four chunks, search, pretraining, fine-tuning and scoring of twelve cells) as the
reference. The same command is then brought to a bad end again and again, until it comes to a
good one, and every genotype, weight, feature and score is compared bit by bit:

- moments: SIGKILL to the process group, at a moment uniform over the duration of a whole run;
- writes: SIGKILL before, in the middle of, or after one drawn call that writes; drawn evenly
  over the kinds of files, so that short stages and checkpoints are hit as often as long ones;
- interrupts, terminations: SIGINT and SIGTERM at uniform moments; one line says how to go on;
- full, readonly: from a drawn write on, every write fails with ENOSPC or EROFS;
- tmpfs: killed at a drawn write, then given again on a file system of 4 to 400 kB of free space;
- remount: the same where it is read-only by then; both need root, and Linux.

Writes kills.json (what ended where) into --out and prints a table. What SIGKILL cannot show is
a lost page cache: that files are synced before they are renamed is a matter of reading the code.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

sys.path.insert(0, str(Path(__file__).parent))
import _killing
from _killing import Fault

Mode = Literal[
    "moments", "writes", "interrupts", "terminations", "full", "readonly", "tmpfs", "remount"
]
GOES_ON = r"ssnas: stopped(; the same command goes on from here)?\.\n"
FULL = r"ssnas: [^\n]*(No space left on device|free disk space)[^\n]*\n"
ROOM = 100_000_000
READ_ONLY = r"ssnas: [^\n]*Read-only file system[^\n]*\n"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How many bad ends of each mode, and where to."""

    out: Path
    modes: tuple[Mode, ...] = (
        "moments", "writes", "interrupts", "terminations", "full", "readonly", "tmpfs", "remount",
    )  # fmt: skip
    kills: int = 50
    seed: int = 0
    threads: int = 1
    epochs: int = 20
    """Of each stage, where moments are drawn; a tenth of them where writes are."""
    sync: bool = True
    """Let fsync wait for the disk, where writes are drawn."""


@dataclass
class Tally:
    """What came of one mode.

    Args:
        ends: stage -> bad ends in it.
        runs: runs that came to a good end at last.
        identical: of them, those with all the reference's bits.
        wrong: what was not as it should be, one line each.
    """

    ends: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    identical: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """The command, its reference, and where it is run."""

    options: Options
    epochs: int
    home: Path
    reference: dict[str, str]
    seconds: float  # of a whole run, in a process of its own
    loading: float  # of them, until the command begins
    points: list[tuple[str, str, int]]
    rng: random.Random

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.home / "disk" / "run"

    @property
    def command(self) -> list[str]:
        """What `ssnas` is given."""
        return _killing.arguments(self.home / "movies.tar.gz", self.out)

    def forked(self, fault: Fault) -> tuple[int, str]:
        """Exit status and standard error of a session with this fault."""
        told = self.home / "told"
        status = _killing.forked(self.command, fault, told, sync=self.options.sync)
        return status, told.read_text()

    def spawned(self, number: int, seconds: float, begun: bool) -> tuple[int, str]:
        """The same of a process of its own that gets a signal after `seconds`."""
        told = self.home / "told"
        script = [sys.executable, _killing.__file__, str(self.epochs), *self.command]
        with told.open("w") as errors:
            process = subprocess.Popen(
                script, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
            assert process.stdout is not None
            if begun:
                start = time.perf_counter()
                process.stdout.readline()
                self.loading = time.perf_counter() - start
            try:
                process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, number)
                process.communicate()
        return process.returncode, told.read_text()

    def fault(self, error: int = 0) -> Fault:
        """A write drawn evenly over the kinds of files, then over their writes."""
        kinds: dict[str, list[tuple[str, str, int]]] = {}
        for point in self.points:
            kinds.setdefault(re.sub(r".+(?=_r[\d.]+)", "cell", point[1]), []).append(point)
        kind, name, count = self.rng.choice(kinds[self.rng.choice(sorted(kinds))])
        when = self.rng.choice(("before", "half", "after"))
        return Fault((kind, name, self.rng.randint(1, count)), when, error)


def prepared(options: Options, epochs: int) -> Bench:
    """The reference run, and the bench that compares with it."""
    home = options.out / f"epochs-{epochs}"
    shutil.rmtree(home, ignore_errors=True)
    (home / "disk").mkdir(parents=True)
    _killing.write_archive(home / "movies.tar.gz")
    _killing.become_small(epochs)
    bench = Bench(options, epochs, home, {}, 0.0, 0.0, [], random.Random(options.seed))
    status, told = bench.forked(Fault(None))
    assert status == 0 and not told, told
    bench.points = [tuple(point) for point in json.loads((home / "told.json").read_text())]
    bench.reference = _killing.contents(bench.out)
    shutil.rmtree(bench.out)
    start = time.perf_counter()
    status, told = bench.spawned(signal.SIGKILL, 600, True)
    assert status == 0, told
    bench.seconds = time.perf_counter() - start
    check(bench, tally := Tally())
    assert tally.identical == 1, tally.wrong
    shutil.rmtree(bench.out)
    return bench


def check(bench: Bench, tally: Tally) -> None:
    """Compare a run that is done with the reference."""
    found = _killing.contents(bench.out)
    names = [n for n in {**bench.reference, **found} if bench.reference.get(n) != found.get(n)]
    tally.runs += 1
    tally.identical += not names
    tally.wrong += [f"differs: {name}" for name in names]
    tally.wrong += [f"left behind: {name}" for name in _killing.litter(bench.out)]


Session = Callable[[], tuple[int, str]]


def campaign(bench: Bench, session: Session, expected: int, said: str) -> Tally:
    """Sessions that shall end with `expected` and say `said`, in runs until there were enough."""
    tally = Tally()
    while sum(tally.ends.values()) < bench.options.kills:
        shutil.rmtree(bench.out, ignore_errors=True)
        status, ends = -1, 0
        while status and ends < 100:
            status, told = session()
            if status:
                ends += 1
                tally.ends[_killing.stage_of(bench.out)] += 1
            if status not in (0, expected) or (status and not re.fullmatch(said, told)):
                tally.wrong.append(f"ended with {status}: {told[-500:]!r}")
        check(bench, tally)
    return tally


def at_moments(bench: Bench, number: int, expected: int, said: str, begun: bool) -> Tally:
    """Signals at moments uniform over the duration of a whole run."""

    whole = bench.seconds - (bench.loading if begun else 0.0)

    def session() -> tuple[int, str]:
        status, told = bench.spawned(number, bench.rng.uniform(0, whole), begun)
        if number != signal.SIGKILL and status == -number and is_done(bench.out):
            status = 0  # Python was on its way out, and asked nobody any more
        return status, told

    return campaign(bench, session, expected, said)


def is_done(out: Path) -> bool:
    """Whether a run has come to its end."""
    return (out / "metrics.json").exists()


def on_disk(bench: Bench, said: str) -> Tally:
    """Killed somewhere; then given again on a disk that is by now read-only, or nearly full."""
    disk = bench.home / "disk"

    def session() -> tuple[int, str]:
        status, told = bench.forked(bench.fault())
        if status == 0:
            return status, told
        stat = os.statvfs(disk)
        used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        room = int(10 ** bench.rng.uniform(3.6, 5.6))
        mount(disk, "remount,ro" if said == READ_ONLY else f"remount,size={used + room}")
        try:
            return bench.forked(Fault(None))
        finally:
            mount(disk, f"remount,rw,size={ROOM}")

    with_disk(bench)
    return campaign(bench, session, 2, said)


def with_disk(bench: Bench) -> None:
    """A file system of its own for the runs, seen by this process alone."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x20000):  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "cannot have mounts of its own; skip this mode")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    mount(bench.home / "disk", f"size={ROOM}", "-t", "tmpfs", "ssnas-kills")


def mount(path: Path, options: str, *more: str) -> None:
    subprocess.run(["mount", "-o", options, *more, str(path)], check=True)


def run(mode: Mode, benches: dict[int, Bench], options: Options) -> Tally:
    """One mode's bad ends."""
    is_timed = mode in ("moments", "interrupts", "terminations")
    epochs = options.epochs if is_timed else max(2, options.epochs // 10)
    if epochs not in benches:
        benches[epochs] = prepared(options, epochs)
    bench = benches[epochs]
    bench.rng = random.Random(f"{options.seed} {mode}")
    _killing.become_small(epochs)
    if mode == "writes":
        return campaign(bench, lambda: bench.forked(bench.fault()), -signal.SIGKILL, "")
    if mode in ("full", "readonly"):
        error, said = (errno.ENOSPC, FULL) if mode == "full" else (errno.EROFS, READ_ONLY)
        return campaign(bench, lambda: bench.forked(bench.fault(error)), 2, said)
    if mode in ("tmpfs", "remount"):
        return on_disk(bench, FULL if mode == "tmpfs" else READ_ONLY)
    number, expected, said = {
        "moments": (signal.SIGKILL, -signal.SIGKILL, ""),
        "interrupts": (signal.SIGINT, 130, GOES_ON),
        "terminations": (signal.SIGTERM, 143, GOES_ON),
    }[mode]
    return at_moments(bench, number, expected, said, begun=mode != "moments")


def table(tallies: dict[str, Tally]) -> str:
    """Bad ends by stage and mode, and what came of them, as Markdown."""
    stages = list(_killing.STAGES)
    lines = ["| stage | " + " | ".join(tallies) + " |", "|---" * (1 + len(tallies)) + "|"]
    for stage in stages:
        counts = [str(tally.ends[stage] or "") for tally in tallies.values()]
        lines.append(f"| {stage} | " + " | ".join(counts) + " |")
    sums: dict[str, Callable[[Tally], Any]] = {
        "bad ends": lambda tally: sum(tally.ends.values()),
        "whole runs": lambda tally: tally.runs,
        "identical": lambda tally: tally.identical,
        "wrong": lambda tally: len(tally.wrong),
    }
    for name, count in sums.items():
        cells = [f"**{count(tally)}**" for tally in tallies.values()]
        lines.append(f"| **{name}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(options: Options) -> int:
    """Every mode, told as it goes; 1 if anything was not as it should be."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before torch is imported
    options.out.mkdir(parents=True, exist_ok=True)
    benches: dict[int, Bench] = {}
    tallies: dict[str, Tally] = {}
    for mode in options.modes:
        start = time.perf_counter()
        tally = tallies[mode] = run(mode, benches, options)
        seconds = time.perf_counter() - start
        print(
            f"{mode}: {sum(tally.ends.values())} bad ends in {tally.runs} runs, "
            f"{tally.identical} identical, {len(tally.wrong)} wrong, {seconds:.0f} s",
            flush=True,
        )
        for line in tally.wrong[:10]:
            print(f"  {line}", flush=True)
    told = {"kills": options.kills, "seed": options.seed, "threads": options.threads}
    told["modes"] = {mode: vars(tally) for mode, tally in tallies.items()}  # type: ignore[assignment]
    (options.out / "kills.json").write_text(json.dumps(told, indent=2) + "\n")
    print(table(tallies))
    return 1 if any(tally.wrong for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
