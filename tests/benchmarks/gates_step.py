"""A step of the encoder-decoder supernet by gates, against the way of MMnas's released code.

    python tests/benchmarks/gates_step.py

Both take the same step: same weights, same path, same loss, which is checked first. The released
way, written as a plain loop: a module for each operation of each block, attention as two products
and a softmax, the relations' numbers made in the loader, sample by sample, and turned into scores
by each RSA block for itself; every weight has a gradient, by a term of zero times all weights, so
that Adam moves all of them; and in a step of the logits all operations keep their graphs, which
are then cut off.

Published sizes: 12 and 18 blocks, H = 256, 14 words and 100 regions. Medians over --repeats
steps, taken in turns.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.files import write_text
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.search.context import SearchContext
from ssnas_core.search.gates import Gates, GatesConfig, one_path
from ssnas_core.show.tables import as_table
from ssnas_core.spaces.encdec.blocks import LEAST, NEAR, present, relations
from ssnas_core.spaces.encdec.space import EncDecConfig, EncDecSpace

ANSWERS = 3129
WORDS, REGIONS = 14, 100
CHANNELS = {"regions_0": 4, "regions_1": 2048, "question_0": 300}
POSITIONS = {"regions_0": REGIONS, "regions_1": REGIONS, "question_0": WORDS}
HIDDEN = -1e9


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    batches: tuple[int, ...] = (16, 64)
    repeats: int = 5
    device: str = "cpu"
    tables: Path = Path(__file__).parents[2] / "book" / "tables"


class Fixed:
    """A source of the same features for any rows."""

    def __init__(self, samples: int, device: str) -> None:
        made = torch.Generator().manual_seed(0)
        self.features = {
            name: torch.randn(samples, POSITIONS[name], width, generator=made).to(device)
            for name, width in CHANNELS.items()
        }
        low = 400 * torch.rand(samples, REGIONS, 2, generator=made)
        size = 20 + 100 * torch.rand(samples, REGIONS, 2, generator=made)
        self.features["regions_0"] = torch.cat([low, low + size], -1).to(device)

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """Features of any rows."""
        return self.features


def loaded(boxes: np.ndarray) -> np.ndarray:
    """The relations (N, R, R, 4) as a loader makes them: of one sample after the other."""
    made = []
    for one in boxes:
        size, centre = one[:, 2:] - one[:, :2] + 1, (one[:, :2] + one[:, 2:]) / 2
        apart = np.abs(centre[:, None] - centre[None]) / size[:, None]
        larger = size[:, None] / size[None]
        made.append(np.log(np.concatenate([np.maximum(apart, NEAR), larger], -1)))
    return np.stack(made).astype(np.float32)


class Released(nn.Module):
    """The released way through the supernet `net`, whose weights it shares."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self.path: dict[str, Tensor] = {}  # one-hot (blocks, O)
        self.full = False  # whether all operations are computed
        self.relation = torch.zeros(0)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (N, 2 H), as the supernet's."""
        net = self.net
        there = [present(features[name]) for name in net.features]
        guide, x = (
            stem(features[name], here)
            for (name, stem), here in zip(net.stems.items(), there, strict=True)
        )
        related = F.relu(net.relate(self.relation))  # (N, R, R, 64)
        hidden = [~here[:, None, None, :] for here in there]
        for place, block in enumerate(net.encoder):
            guide = self._block("encoder", place, block, guide, guide, hidden[:1] * 2, related)
        for place, block in enumerate(net.decoder):
            x = self._block("decoder", place, block, x, guide, hidden, related)
        flat = [
            flatten(side, here)
            for flatten, side, here in zip(net.flatten.values(), (guide, x), there, strict=True)
        ]
        return net.norm(flat[0] + flat[1])

    def _block(
        self,
        side: str,
        place: int,
        block: Any,
        x: Tensor,
        guide: Tensor,
        hidden: list[Tensor],
        related: Tensor,
    ) -> Tensor:
        gates, total = self.path[side][place], torch.zeros(())
        active = int(gates.argmax())
        for number, (name, one) in enumerate(block.operations.items()):
            if not self.full and number != active:
                continue
            if name == "FFN":
                change = one(x)
            else:
                answers, mask = (guide, hidden[0]) if name == "GA" else (x, hidden[1])
                scores = self._scores(place, related) if name == "RSA" else None
                change = _attended(one, x, answers, mask, scores)
            output = block.norms[name](x + block.dropout(change))
            if not self.full:
                return output
            output = output if number == active else output.detach()
            total = total.to(output.device) + gates[number] * output
        return total

    def _scores(self, place: int, related: Tensor) -> Tensor:
        weigh, turn = self.net.weigh, self.net.related.index(place)
        heads = len(weigh.bias) // len(self.net.related)
        own = slice(turn * heads, (turn + 1) * heads)
        weights = F.relu(F.linear(related, weigh.weight[own], weigh.bias[own]))
        return weights.clamp(min=LEAST).log().permute(0, 3, 1, 2)


def _attended(
    one: Any, asks: Tensor, answers: Tensor, mask: Tensor, scores: Tensor | None
) -> Tensor:
    split = [
        layer(rows).unflatten(-1, (one.heads, -1)).transpose(1, 2)
        for layer, rows in ((one.query, asks), (one.key, answers), (one.value, answers))
    ]
    products = split[0] @ split[1].transpose(2, 3) / math.sqrt(split[0].shape[-1])
    products = products if scores is None else products + scores
    shares = products.masked_fill(mask, HIDDEN).softmax(-1)
    mixed = F.dropout(shares, one.dropout, one.training) @ split[2]
    return one.out(mixed.transpose(1, 2).flatten(2))


class Steps:
    """Steps of both kinds, ours and as released, of one supernet on one batch."""

    def __init__(self, samples: int, device: str) -> None:
        source = Fixed(samples, device)
        space = EncDecSpace(CHANNELS, POSITIONS, EncDecConfig(boxes="regions_0", dropout=0.0))
        labels = torch.arange(samples) % ANSWERS
        self.objective = Supervised(labels=labels, classes=ANSWERS, augment=False)
        self.rows = torch.arange(samples)
        context = SearchContext(train=self.rows, dev=self.rows, device=device)
        self.gates = Gates(space, source, self.objective, context, GatesConfig())
        self.source, net = source, self.gates.supernet
        self.released = Released(net)
        self.released_model = nn.Sequential(self.released, self.gates.model[1])
        self.adam = torch.optim.Adam(self.gates.weights, lr=1e-5, betas=(0.9, 0.98), eps=1e-9)
        self.arch = torch.optim.Adam(self.gates.logits, lr=1e-5, betas=(0.0, 0.999))
        boxes = source.features["regions_0"].cpu().numpy()
        self.load = lambda: torch.from_numpy(loaded(boxes)).to(device)
        self.released.relation = self.load()
        self.relate = lambda: relations(source.features["regions_0"])

    def ours(self, kind: str) -> Callable[[], Tensor]:
        """A step by the library."""
        chance = torch.Generator().manual_seed(0)
        if kind == "weights":
            return lambda: self.gates.step_weights(self.rows, 1e-5, chance)
        return lambda: self.gates.step_logits(self.rows, chance)

    def theirs(self, kind: str) -> Callable[[], Tensor]:
        """A step as released."""
        chance, gates = torch.Generator().manual_seed(0), self.gates

        def step() -> Tensor:
            gates._learn(weights=kind == "weights")
            self.released.full = kind == "logits"
            drawn = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=chance)))
            paths = {name: one_path(logits, drawn) for name, logits in gates.named.items()}
            leaves = {name: path.requires_grad_(kind == "logits") for name, path in paths.items()}
            self.released.path = leaves
            chosen = self.adam if kind == "weights" else self.arch
            chosen.zero_grad()
            loss = self.objective.loss(self.released_model, self.source, self.rows, chance)  # type: ignore[arg-type]
            told = loss.detach()
            if kind == "weights":
                loss = loss + 0 * sum(weight.sum() for weight in gates.weights)
            loss.backward()
            if kind == "weights":
                nn.utils.clip_grad_norm_(gates.weights, 1.0)
            else:
                for name, leaf in leaves.items():
                    slope, p = leaf.grad, gates.named[name].detach().softmax(-1)
                    assert slope is not None
                    gates.named[name].grad = p * (slope - (slope * p).sum(-1, keepdim=True))
            chosen.step()
            return told

        return step

    def check(self) -> None:
        """Raise unless both ways have the same loss and, for the logits, the same gradient."""
        for kind in ("weights", "logits"):
            torch.manual_seed(0)
            seen = []
            for step in (self.ours(kind), self.theirs(kind)):
                state = {n: v.detach().clone() for n, v in self.gates.model.state_dict().items()}
                loss = step()
                slopes = [g.grad for g in self.gates.logits if g.grad is not None]
                seen.append((loss, [one.clone() for one in slopes] if kind == "logits" else []))
                self.gates.model.load_state_dict(state)
            torch.testing.assert_close(seen[0], seen[1], rtol=2e-3, atol=1e-5)


def seconds(
    ways: Mapping[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, float]:
    """Medians over steps that are taken in turns; the first of each does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + repeats):
        for name, step in ways.items():
            start = time.perf_counter()
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def main(options: Options) -> None:
    """Measure, print and write the table."""
    rows = []
    for samples in options.batches:
        steps = Steps(samples, options.device)
        if samples == options.batches[0]:
            steps.check()
        for kind in ("weights", "logits"):
            ways = {"ours": steps.ours(kind), "theirs": steps.theirs(kind)}
            took = seconds(ways, options.repeats, options.device)
            ratio = took["theirs"] / took["ours"]
            rows.append([
                f"{kind}, batch {samples}", f"{took['ours']:.2f}", f"{took['theirs']:.2f}",
                f"{ratio:.2f}",
            ])  # fmt: skip
            print(rows[-1], flush=True)
        made = seconds(
            {"ours": steps.relate, "theirs": steps.load}, options.repeats, options.device
        )
        rows.append([
            f"relations alone, batch {samples}", f"{made['ours']:.3f}", f"{made['theirs']:.3f}",
            f"{made['theirs'] / made['ours']:.2f}",
        ])  # fmt: skip
    about = (
        f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}; seconds, "
        f"medians of {options.repeats} steps in turns. A loader moves "
        f"{REGIONS**2 * 16 / 1e3:.0f} kB of relations a sample, ours {REGIONS * 16 / 1e3:.1f} kB "
        "of boxes. By `python tests/benchmarks/gates_step.py`."
    )
    lines = ["# A step by gates, against the released way", "", about, ""]
    lines += as_table(["step", "ours", "as released", "times"], rows)
    write_text(options.tables / "gates_step.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
