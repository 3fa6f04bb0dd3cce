"""Seconds of a search step at the published sizes, beside the oracle and the matrix products.

`make bench` runs it. For both relaxations, weights and architecture, float32 and
bfloat16: the median time of our step and of the same function written edge by edge
(`_step_oracles`), taken in turns in one process; and the share of our step that its
matrix products would take at the rate measured beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _step_oracles import Oracle
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssnas_core.common.files import write_json, write_text
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.training.loop import keep_freed_memory

MAPS = {f"image_{tap}": 512 for tap in range(4)}
VECTORS = {"text_0": 64, "text_1": 128}
CLASSES = 23
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class OneBatch:
    """A source whose views are in memory already, so that only the step is timed."""

    def __init__(self, samples: int, length: int, device: str) -> None:
        self.views = [
            {
                **{n: torch.randn(samples, length, c, device=device) for n, c in MAPS.items()},
                **{n: torch.randn(samples, 1, c, device=device) for n, c in VECTORS.items()},
            }
            for _ in range(2)
        ]

    def augmented(self, indices: Tensor, generator: Any, count: int = 2) -> list[dict]:
        """The same views each time."""
        return self.views[:count]


def taken(step: Callable[[], object], device: str) -> float:
    """Seconds of one step."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matrix_step(dtype: torch.dtype, device: str, size: int = 2048) -> Callable[[], Tensor]:
    """A large product of 2 * size^3 operations."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b


def check_equal(space: FusionSpace, samples: int, device: str) -> None:
    """The supernet and its oracle agree in value and gradients, in double precision."""
    torch.manual_seed(1)
    net = space.supernet().to(device).double()
    drawn = OneBatch(samples, space.config.length, device).views[0]
    features = {name: value.double() for name, value in drawn.items()}
    found = []
    for model in (net, Oracle(net, space)):
        embedding = model(features)
        probe = torch.linspace(-1, 1, embedding.numel(), device=device, dtype=torch.float64)
        probe = probe.view_as(embedding)
        slopes = torch.autograd.grad((probe * embedding).mean(), list(net.parameters()))
        found.append([embedding, *slopes])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def measure(
    relaxation: str, samples: int, level: str, precision: str, objective: str, args: Any
) -> dict[str, Any]:
    """Times of one kind of step, ours and the oracle's in turns."""
    torch.manual_seed(0)
    config = FusionConfig(length=16, relaxation=relaxation)  # type: ignore[arg-type]
    space = FusionSpace({**MAPS, **VECTORS}, config)
    net = space.supernet().to(args.device)
    goal: Any = Contrastive()
    if objective == "supervised":
        goal = Supervised(labels=torch.randint(0, 2, (samples, CLASSES)))
    head = goal.head(net.width).to(args.device)
    logits = list(net.logits.values())
    held = {id(value) for value in logits}
    weights = [p for p in [*net.parameters(), *head.parameters()] if id(p) not in held]
    for parameter in weights:
        parameter.requires_grad_(level == "weights")
    for parameter in logits:
        parameter.requires_grad_(level == "architecture")
    learnt = weights if level == "weights" else logits
    source, rows = OneBatch(samples, config.length, args.device), torch.arange(samples)
    generator = torch.Generator()
    half = precision == "bfloat16"

    def step_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        whole = nn.Sequential(model, head).train()

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            context = (
                torch.autocast(args.device, torch.bfloat16) if half else contextlib.nullcontext()
            )
            with context:
                loss = goal.loss(whole, source, rows, generator)
            loss.backward()
            optimizer.step()

        return step

    rate = 1e-6  # so small that hundreds of steps stay at the same point
    ours = step_of(net, torch.optim.Adam(learnt, lr=rate, fused=True))
    oracle = step_of(Oracle(net, space), torch.optim.Adam(learnt, lr=rate))
    product = matrix_step(TYPES[precision], args.device)
    with FlopCounterMode(display=False) as counter:
        ours()
    for warm in (ours, oracle, product):
        for _ in range(3):
            warm()
    times: dict[str, list[float]] = {"ours": [], "oracle": [], "product": []}
    for _ in range(args.repeats):
        for name, step in (("ours", ours), ("oracle", oracle), ("product", product)):
            times[name].append(taken(step, args.device))
    medians = {name: statistics.median(values) for name, values in times.items()}
    speed = 2 * 2048**3 / medians["product"]
    return {
        "relaxation": relaxation,
        "objective": objective,
        "batch": samples,
        "level": level,
        "precision": precision,
        "ms": round(1e3 * medians["ours"], 2),
        "oracle_ms": round(1e3 * medians["oracle"], 2),
        "times_faster": round(medians["oracle"] / medians["ours"], 2),
        "gflop": round(counter.get_total_flops() / 1e9, 3),
        "matrix_gflops": round(speed / 1e9),
        "share_of_matrix_rate": round(counter.get_total_flops() / medians["ours"] / speed, 3),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    heads = {
        "precision": "precision",
        "ms": "ms",
        "oracle_ms": "oracle, ms",
        "times_faster": "times",
        "share_of_matrix_rate": "share of rate",
    }
    lines = ["| step | " + " | ".join(heads.values()) + " |", "|---" * (1 + len(heads)) + "|"]
    for row in rows:
        step = f"{row['relaxation']}, {row['objective']}, batch {row['batch']}: {row['level']}"
        lines.append(f"| {step} | " + " | ".join(str(row[name]) for name in heads) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure; print the table, and write it beside its rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 64, 96])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    for relaxation in ("pairs", "released"):
        config = FusionConfig(length=16, dropout=0.0, relaxation=relaxation)
        check_equal(FusionSpace({**MAPS, **VECTORS}, config), 8, args.device)
    kinds = [
        (relaxation, samples, level, precision, objective)
        for objective in ("supervised", "contrastive")
        for relaxation in ("pairs", "released")
        for precision in TYPES
        for samples in (args.batches if objective == "supervised" else args.batches[-1:])
        for level in ("weights", "architecture")
    ]
    rows = [measure(*kind, args) for kind in kinds]
    where = f"{args.threads} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    text = (
        f"{platform.machine()}, {where} of {os.cpu_count()} cores, torch {torch.__version__}; "
        f"medians of {args.repeats} steps; a product of 2048 x 2048 matrices: "
        + ", ".join(f"{rate} GFLOP/s in {name}" for name, rate in rates(rows).items())
        + f". Load of the machine: {os.getloadavg()[0]:.1f}.\n\n{table(rows)}\n"
    )
    print(text)
    write_json(args.out, {"threads": args.threads, "device": args.device, "rows": rows})
    write_text(args.out.with_suffix(".md"), text)


def rates(rows: list[dict[str, Any]]) -> dict[str, int]:
    """The median rate of the matrix product, by precision."""
    return {
        name: round(statistics.median(r["matrix_gflops"] for r in rows if r["precision"] == name))
        for name in TYPES
    }


if __name__ == "__main__":
    main()
