"""Many hostile inputs for every reader: how many were tried, taken, refused; what was found.

    python tests/benchmarks/fuzz.py --seconds 600 --out runs/fuzz.json

Targets are drawn in turn; input number n of a target is made from the seed and n alone, so
that a finding can be made again: `--targets NAME --first n --inputs 1`. What a reader may do
is told in tests/fuzz/targets.py. Linux only: children are forked, and watched.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
import data_targets
import run_targets
from targets import Target, Verdict, judge

from ssnas_core.common.files import write_json

TARGETS: dict[str, Target] = data_targets.TARGETS | run_targets.TARGETS


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, of what, and where to."""

    seconds: float = 60.0
    """Stop after so long."""
    inputs: int | None = None
    """Of each target at most."""
    first: int = 0
    """Number of the first input."""
    seed: int = 0
    targets: tuple[str, ...] = ()
    """Names; all where none is given."""
    out: Path | None = None
    """A JSON file for the counts and findings."""


@dataclass
class Count:
    """What came of a target's inputs."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)

    def add(self, number: int, verdict: Verdict) -> None:
        self.tried += 1
        self.megabytes = max(self.megabytes, verdict.megabytes)
        self.seconds = max(self.seconds, verdict.seconds)
        if verdict.outcome == "finding":
            self.findings.append(f"input {number}: {verdict.detail}")
        else:
            setattr(self, verdict.outcome, getattr(self, verdict.outcome) + 1)


def main(options: Options) -> None:
    """Try inputs, then print a row for each target, and all findings."""
    names = options.targets or tuple(sorted(TARGETS))
    counts = {name: Count() for name in names}
    end = time.monotonic() + options.seconds
    number = options.first
    while time.monotonic() < end and number - options.first < (options.inputs or sys.maxsize):
        for name in names:
            if time.monotonic() < end:
                rng = random.Random(f"{options.seed} {name} {number}")
                counts[name].add(number, judge(TARGETS[name], rng))
        number += 1
    print("| target | tried | accepted | refused | findings | most MB | most s |")
    print("|---|---|---|---|---|---|---|")
    for name, one in counts.items():
        print(
            f"| {name} | {one.tried} | {one.accepted} | {one.refused} | {len(one.findings)} | "
            f"{one.megabytes:.0f} | {one.seconds:.1f} |"
        )
    for name, one in counts.items():
        for found in one.findings:
            print(f"{name}: {found}")
    if options.out is not None:
        write_json(options.out, {name: asdict(one) for name, one in counts.items()})
    sys.exit(any(one.findings for one in counts.values()))


if __name__ == "__main__":
    main(tyro.cli(Options))
