"""Maxout layers (Goodfellow et al., arXiv:1302.4389), as GMU and BM-NAS put on text vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Maxout(nn.Module):
    """max over `pieces` linear maps, per output (Goodfellow et al., arXiv:1302.4389)."""

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(inputs, outputs * pieces)

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return self.linear(vectors).unflatten(1, (-1, self.pieces)).amax(2)


class MaxoutLayers(nn.ModuleList):
    """A vector and what maxout layers, each after batch norm, make of it: one tap each.

    Args:
        widths: of the vector (tap "0") and of each layer.
        pieces: linear maps per maxout unit.
    """

    def __init__(self, widths: Sequence[int], pieces: int) -> None:
        super().__init__(
            nn.Sequential(nn.BatchNorm1d(before), Maxout(before, after, pieces))
            for before, after in zip(widths, widths[1:], strict=False)
        )

    def forward(self, vectors: Tensor) -> dict[str, Tensor]:
        """(N, widths[0]) -> tap -> (N, C, 1)."""
        taps = {"0": vectors}
        for tap, layer in enumerate(self, start=1):
            taps[str(tap)] = vectors = layer(vectors)
        return {tap: value.unsqueeze(2) for tap, value in taps.items()}
