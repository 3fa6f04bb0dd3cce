"""BM-NAS's evaluation network of a found genotype (arXiv:2104.09379), as its released code has it.

Written from what the paper and the code are known to hold, in their layout (N, C, L), with a
classifier behind it. Nothing here is taken from this package but the genotype: it is what
`FusionConfig(released=RELEASED)` must compute with the same weights (`copy_weights`).

One step a cell: several are joined otherwise in the code than here (see book/decisions.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssnas_core.spaces.genotype import Genotype


class Reshape(nn.Module):
    """A pooled feature (N, C_in, P), P in {1, L}, as (N, C, L)."""

    def __init__(self, inputs: int, channels: int, length: int, dropout: float) -> None:
        super().__init__()
        self.length = length
        self.conv = nn.Conv1d(inputs, channels, 1, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, feature: Tensor) -> Tensor:
        repeated = feature.expand(-1, -1, self.length)
        return self.dropout(self.norm(self.conv(repeated)).relu())


class Step(nn.Module):
    """One of the four operators on x and y, (N, C, L) each."""

    def __init__(self, operator: str, channels: int, length: int, dropout: float) -> None:
        super().__init__()
        self.operator, self.dropout = operator, nn.Dropout(dropout)
        if operator in ("ConcatFC", "LinearGLU"):
            width = channels * (1 + (operator == "LinearGLU"))
            self.conv = nn.Conv1d(2 * channels, width, 1)
            self.norm = nn.BatchNorm1d(width)
        if operator == "Attention":
            self.norm = nn.LayerNorm([channels, length])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.operator == "Sum":
            return x + y
        if self.operator == "Attention":
            scores = torch.einsum("ncl,ncm->nlm", x, y) / math.sqrt(x.shape[1])
            read = torch.einsum("nlm,ncm->ncl", scores.softmax(2), y)
            return self.norm(self.dropout(read))
        product = self.norm(self.conv(torch.cat((x, y), 1)))
        if self.operator == "ConcatFC":
            return self.dropout(product.relu())
        value, gate = product.chunk(2, 1)
        return self.dropout(value * gate.sigmoid())


class BMNAS(nn.Module):
    """Logits (N, K) of features (N, C_in, P) by name.

    Args:
        channels: C_in of each feature, by name.
        genotype: of cells with one step; x is the first of a cell's inputs in the order of
            earlier cells and then features, whatever the operator asks.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        genotype: Genotype,
        *,
        size: int,
        length: int,
        classes: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.length = size, length
        self.nodes, count = genotype.nodes, len(genotype.nodes)
        self.order = [*(node.name for node in genotype.nodes), *channels]
        self.reshape = nn.ModuleDict(
            {
                name: Reshape(width, size, length, dropout)
                for name, width in channels.items()
                if name in genotype.features
            }
        )
        self.steps = nn.ModuleList(
            Step(node.operator, size, length, dropout) for node in self.nodes
        )
        self.norms = nn.ModuleList(nn.LayerNorm([size, length]) for _ in self.nodes)
        self.norm = nn.LayerNorm([count * size, length])
        self.classifier = nn.Linear(count * size * length, classes)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        states = {name: layer(features[name]) for name, layer in self.reshape.items()}
        for node, step, norm in zip(self.nodes, self.steps, self.norms, strict=True):
            passing = min(node.inputs, key=self.order.index)
            states[node.name] = norm(step(*(states[i] for i in node.inputs)) + states[passing])
        outputs = torch.cat([states[node.name] for node in self.nodes], 1)  # (N, cells * C, L)
        return self.classifier(self.norm(outputs).relu().flatten(1))


def copy_weights(theirs: BMNAS, network: nn.Module, head: nn.Linear) -> None:
    """Give `theirs` the weights of a derived network (`FusionSpace.build`) and its classifier."""
    ours = network.state_dict()
    state: dict[str, Tensor] = {}
    for name in theirs.reshape:
        state[f"reshape.{name}.conv.weight"] = ours[f"stems.{name}.linear.weight"][..., None]
        state |= _renamed(ours, f"stems.{name}.norm.", f"reshape.{name}.norm.")
    for index, step in enumerate(theirs.steps):
        cell = f"cells.{index}."
        if step.operator in ("ConcatFC", "LinearGLU"):
            linear = f"{cell}steps.0.operator.linear."
            state[f"steps.{index}.conv.weight"] = ours[f"{linear}weight"][..., None]
            state[f"steps.{index}.conv.bias"] = ours[f"{linear}bias"]
            state |= _renamed(ours, f"{cell}steps.0.operator.norm.each.", f"steps.{index}.norm.")
        if step.operator == "Attention":
            state |= _renamed(
                ours, f"{cell}steps.0.operator.norm.", f"steps.{index}.norm.", turned=True
            )
        state |= _renamed(ours, f"{cell}output.norm.", f"norms.{index}.", turned=True)
    embedding = _renamed(ours, "embedding.norm.", "norm.", turned=True)  # (cells, C, L)
    state |= {name: value.flatten(0, 1) for name, value in embedding.items()}
    shape = (-1, len(theirs.nodes), theirs.length, theirs.size)
    columns = head.weight.view(shape).transpose(2, 3)  # (K, cells, L, C) -> (K, cells, C, L)
    state |= {"classifier.weight": columns.flatten(1), "classifier.bias": head.bias}
    theirs.load_state_dict(state)


def _renamed(
    state: Mapping[str, Tensor], prefix: str, to: str, turned: bool = False
) -> dict[str, Tensor]:
    """The entries under one prefix under another, with their last two axes exchanged."""
    names = [name for name in state if name.startswith(prefix)]
    values = (state[name].transpose(-1, -2) if turned else state[name] for name in names)
    return dict(zip((to + name.removeprefix(prefix) for name in names), values, strict=True))
