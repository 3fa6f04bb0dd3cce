"""BM-NAS's relaxation and deriving as its released code has them, to measure what they cost.

They differ from the paper, and from the relaxation of `networks`:

- every edge chooses between Identity and Zero by a softmax of its own (alpha, beta);
- a cell's, and a step's, two inputs are one and the same mixture, so an operator is
  relaxed as f(z, z), and which input is the query is never learnt;
- there are four operators, without Zero;
- earlier cells weigh in the relaxation and are never derived: a cell takes the two
  features with the largest weights, one of which no earlier cell uses.

Not mimicked: all but the relaxation (architecture parameters outside of the state dict, the
schedule, the genotype of the epoch with the best dev score instead of the last one's, the
best test epoch), and layers: stems, operators, norms and the derived network are those of this
package, so that only the relaxation differs. `FusionConfig.released` has the code's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.errors import InputError
from ssnas_core.spaces.fusion.choices import Cell, Step, predecessors, states
from ssnas_core.spaces.fusion.mixing import mix
from ssnas_core.spaces.fusion.networks import (
    CellOutput,
    Embedding,
    FusionStems,
    Sizes,
    primitive,
)
from ssnas_core.spaces.operators import PRIMITIVES

OPERATORS = PRIMITIVES[1:]
"""The released code's operators, in the order of a gamma vector."""


class ReleasedSupernet(nn.Module):
    """The relaxed network of the released code; logits are parameters, named as `FusionSupernet`'s.

    Logits: `alpha_<cell>` (E, 2) and `beta_<cell>_<step>` (states, 2), whose columns
    are Identity and Zero; `gamma_<cell>_<step>` (4,).
    """

    def __init__(self, channels: Mapping[str, int], config: Sizes) -> None:
        super().__init__()
        self.config = config
        self.stems = FusionStems(channels, config)
        self.cells = nn.ModuleList(_Cell(config) for _ in range(config.cells))
        self.embedding = Embedding(config)
        self.width = config.cells * config.length * config.channels
        sizes: dict[str, tuple[int, ...]] = {}
        for cell in range(config.cells):
            sizes[f"alpha_{cell}"] = (cell + len(channels), 2)
            for step in range(config.steps):
                sizes[f"beta_{cell}_{step}"] = (2 + step, 2)
                sizes[f"gamma_{cell}_{step}"] = (len(OPERATORS),)
        self.logits = nn.ParameterDict(
            {name: nn.Parameter(1e-3 * torch.randn(size)) for name, size in sizes.items()}
        )

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return embeddings (N, cells * L * C) of features by name, (N, P, C_in) each."""
        states = self.stems.columns(features)
        outputs: list[Tensor] = []
        for index, cell in enumerate(self.cells):
            edges = _identity(self.logits[f"alpha_{index}"])
            (z,) = mix(edges[None], [*outputs, *states], self.config.length)
            betas = [_identity(self.logits[f"beta_{index}_{s}"]) for s in range(self.config.steps)]
            gammas = [self.logits[f"gamma_{index}_{s}"] for s in range(self.config.steps)]
            outputs.append(cell(z, betas, gammas))
        return self.embedding(outputs)


class _Cell(nn.Module):
    """LayerNorm(steps + z), all on one mixture z of the predecessors."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_Step(config) for _ in range(config.steps))
        self.output = CellOutput(config)

    def forward(self, z: Tensor, betas: Sequence[Tensor], gammas: Sequence[Tensor]) -> Tensor:
        results: list[Tensor] = []
        for step, beta, gamma in zip(self.steps, betas, gammas, strict=True):
            # z stands in both first states, so their weights add up
            weights = torch.cat((beta[:2].sum(0, keepdim=True), beta[2:]))
            (met,) = mix(weights[None], [z, *results], z.shape[1])
            results.append(step(met, gamma))
        return self.output(results, z)


class _Step(nn.Module):
    """The four operators of (z, z), weighted by gamma."""

    def __init__(self, config: Sizes) -> None:
        super().__init__()
        self.LinearGLU = primitive("LinearGLU", config)
        self.ConcatFC = primitive("ConcatFC", config)
        self.Attention = primitive("Attention", config)

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        linears = (self.LinearGLU.linear, self.ConcatFC.linear)
        # W [z; z] = (W1 + W2) z: half the products; both halves still learn
        first, second = torch.cat([linear.weight for linear in linears]).chunk(2, 1)
        hidden = F.linear(z, first + second, torch.cat([linear.bias for linear in linears]))
        gates, dense = hidden.split((2 * z.shape[-1], z.shape[-1]), -1)
        results = [2 * z, self.Attention(z, z)]
        results += [self.LinearGLU.finish(gates), self.ConcatFC.finish(dense)]
        return mix(gamma.softmax(0)[None], results, z.shape[1])[0]


def _identity(logits: Tensor) -> Tensor:
    """Return the weights of Identity, against Zero on the same edge: (E, 2) -> (E,)."""
    return logits.softmax(1)[:, 0]


def check_released(config: Sizes, operators: Mapping[str, object], features: Sequence[str]) -> None:
    """Raise `InputError` where the released relaxation does not know the space."""
    if operators or config.output == "chosen" or len(features) < 2 * config.cells:
        raise InputError(
            "the released relaxation has its four operators, keeps all cells, and may use two "
            f"features up in each: got operators {list(operators)}, output {config.output!r}, and "
            f"{len(features)} features for {config.cells} cells; use "
            "FusionConfig(relaxation='pairs')."
        )


def derive_released(logits: Mapping[str, Tensor], config: Sizes, features: int) -> list[Cell]:
    """Return the cells that the released code derives from `logits`, of that many features."""
    cells: list[Cell] = []
    used: set[int] = set()
    for index in range(config.cells):
        edges = _identity(logits[f"alpha_{index}"].detach().cpu())[index:].tolist()
        pairs = itertools.combinations(range(features), 2)
        free = [pair for pair in pairs if not used.issuperset(pair)]
        first, second = max(free, key=lambda pair: edges[pair[0]] * edges[pair[1]])
        used |= {first, second}
        steps: list[Step] = []
        for step in range(config.steps):
            weights = _identity(logits[f"beta_{index}_{step}"].detach().cpu()).tolist()
            query, value = sorted(range(len(weights)), key=lambda s: -weights[s])[:2]
            operator = OPERATORS[int(logits[f"gamma_{index}_{step}"].detach().argmax())]
            steps.append((operator, (query, value)))
        cells.append(((index + first, index + second), tuple(steps)))
    return cells


def released_labels(config: Sizes, features: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the meaning of each entry of each logit matrix, row by row."""
    names: dict[str, tuple[str, ...]] = {}

    def edges(of: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{name} {kind}" for name in of for kind in ("Identity", "Zero"))

    for cell in range(config.cells):
        names[f"alpha_{cell}"] = edges(predecessors(cell, features))
        for step in range(config.steps):
            names[f"beta_{cell}_{step}"] = edges(states(step))
            names[f"gamma_{cell}_{step}"] = OPERATORS
    return names
