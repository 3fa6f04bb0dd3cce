"""A step of the supernet of cells, against the way of DARTS's released code.

    python tests/benchmarks/cells_step.py

Both compute the same loss with the same weights, and the same gradients of all weights and
logits, which is checked first in double precision. The released way, written as a plain loop: a
module for each operation of each edge, all eight computed, "none" and every pool with its norm
among them, weighted and added; a dilated convolution of stride 2 as such.

Forward and backward. Sizes: DARTS's search on CIFAR-10 (8 cells of 16 channels, 32 x 32 pixels),
and the recipe digits. Medians over --repeats steps, taken in turns.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from ssnas_core.common.files import write_text
from ssnas_core.show.tables import as_table
from ssnas_core.spaces.cells.blocks import (
    INPUTS,
    KINDS,
    OPERATIONS,
    CellsSupernet,
    Place,
    _Inputs,
    _Stack,
    operation,
)

NODES = 4
FEATURE = "image_0"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    repeats: int = 7
    batches: tuple[int, int] = (16, 64)
    """Of images of 32 x 32 pixels, and of 8 x 8."""
    tables: Path | None = None
    """Where to write cells_step.md; it is only printed if not given."""


class Nothing(nn.Module):
    """The operation "none"."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


def released(name: str, channels: int, stride: int) -> nn.Module:
    """An operation of an edge as the released code makes it."""
    if name == "none":
        return Nothing(stride)
    if "pool" in name:
        pool = operation(name, channels, stride, affine=False)
        return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))
    if name.startswith("dil_conv") and stride == 2:
        size = int(name[-1])
        return nn.Sequential(
            nn.Identity(),  # in ours the pixels are taken here
            nn.ReLU(),
            nn.Conv2d(
                channels, channels, size, stride, size - 1, dilation=2, groups=channels, bias=False
            ),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
        )
    return operation(name, channels, stride, affine=False)


class Edge(nn.ModuleDict):
    """All operations of an edge, weighted and added."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__({name: released(name, channels, stride) for name in OPERATIONS})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        parts: Any = zip(weights, self.values(), strict=True)
        return sum(weight * one(x) for weight, one in parts)


class ReleasedCell(nn.Module):
    """A cell of the supernet as the released code computes it."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.inputs = _Inputs(place, affine=False)
        self.nodes = nn.ModuleList(
            nn.ModuleList(Edge(place.channels, place.stride(state)) for state in range(node))
            for node in range(INPUTS, INPUTS + NODES)
        )

    def forward(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        states, row = self.inputs(first, second), 0
        edges: Any
        for edges in self.nodes:
            new = sum(edge(state, weights[row + n]) for n, (edge, state) in
                      enumerate(zip(edges, states, strict=True)))  # fmt: skip
            row += len(edges)
            states.append(new)
        return torch.cat(states[INPUTS:], 1)


class Released(_Stack):
    """The whole supernet."""

    def __init__(self, inputs: int, **sizes: int) -> None:
        super().__init__(
            FEATURE, inputs, concat=dict.fromkeys(KINDS, NODES),
            make=lambda _, place: ReleasedCell(place), **sizes,
        )  # fmt: skip
        edges = sum(range(INPUTS, INPUTS + NODES))
        self.logits = nn.ParameterDict(
            {kind: nn.Parameter(torch.zeros(edges, len(OPERATIONS))) for kind in KINDS}
        )

    def weights(self) -> Any:
        return {kind: logits.softmax(-1) for kind, logits in self.logits.items()}


def step(model: nn.Module, pixels: Tensor) -> float:
    """Forward and backward of a loss that asks for every number of the embedding."""
    model.zero_grad(set_to_none=True)
    embedding = model({FEATURE: pixels})
    loss = (
        (embedding * torch.linspace(-1, 1, embedding.shape[1], dtype=pixels.dtype)).square().mean()
    )
    loss.backward()
    return float(loss.detach())


def both(sizes: dict[str, int], dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Ours and the released one, with the same weights and logits."""
    torch.manual_seed(0)
    ours = CellsSupernet(FEATURE, 3, NODES, **sizes).to(dtype)
    for logits in ours.logits.values():
        nn.init.normal_(logits)
    theirs = Released(3, **sizes).to(dtype)
    theirs.load_state_dict(
        {name: value for name, value in ours.state_dict().items() if ".pools." not in name},
        strict=False,
    )
    return ours, theirs


def check(sizes: dict[str, int], side: int) -> float:
    """The largest difference of loss and gradients, over their own size."""
    ours, theirs = both(sizes, torch.float64)
    pixels = torch.randn(4, side * side, 3, dtype=torch.float64)
    losses = step(ours, pixels), step(theirs, pixels)
    worst = abs(losses[0] - losses[1]) / abs(losses[0])
    known = dict(theirs.named_parameters())
    assert known.keys() == dict(ours.named_parameters()).keys()
    for name, weight in ours.named_parameters():
        one, other = weight.grad, known[name].grad
        assert one is not None and other is not None
        worst = max(worst, float((one - other).abs().max() / one.abs().max().clamp(min=1e-12)))
    return worst


def timed(model: nn.Module, pixels: Tensor) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    step(model, pixels)
    return time.perf_counter() - start


def main(options: Options) -> None:
    """Check, measure, and print the table."""
    torch.set_num_threads(1)
    rows = []
    for (cells, channels, side), batch in zip(
        ((8, 16, 32), (3, 8, 8)), options.batches, strict=True
    ):
        sizes = {"cells": cells, "channels": channels, "stem": 3}
        worst = check(sizes, 8)
        assert worst < 1e-8, worst
        models = both(sizes, torch.float32)
        pixels = torch.randn(batch, side * side, 3)
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(options.repeats + 1):
            for place, model in enumerate(models):
                took = timed(model, pixels)
                if turn:  # the first warms up
                    seconds[place].append(took)
        ours, theirs = map(statistics.median, seconds)
        size = f"{cells} cells, {channels} channels, {side} x {side} pixels, batch {batch}"
        rows.append([size, f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.2f}", f"{worst:.0e}"])
    head = ["supernet", "ours, s", "released way, s", "ratio", "largest difference"]
    text = (
        "Forward and backward of the supernet of cells of four nodes, one thread, medians of "
        f"{options.repeats} steps taken in turns; largest difference: of loss and gradients in "
        "double precision, over their own size.\n\n" + "\n".join(as_table(head, rows)) + "\n"
    )
    print(text)
    if options.tables is not None:
        write_text(options.tables / "cells_step.md", text)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
