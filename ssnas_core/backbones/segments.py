"""A text as several positions: pieces of it, one after the other, each read by one backbone.

Fusion operators that compare positions (attention) have nothing to compare in a text that is
one vector. `segments:NAME` cuts each text into as many pieces as a feature map has positions
(`PrepareConfig.length`), and lets the backbone NAME read each by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from ssnas_core.backbones.base import TextBackbone
from ssnas_core.common.errors import InputError
from ssnas_core.common.words import words_of


class Segments(TextBackbone):
    """Another text backbone on each of `positions` pieces of a text; a piece is a position.

    Pieces are of nearly equal numbers of words, or of letters where a script puts no spaces
    between words. Of a text with fewer words than pieces the last pieces are empty.

    Args:
        part: a text backbone, or its name.
        positions: how many pieces, >= 2; in a preparation `PrepareConfig.length`.
    """

    argument = "BACKBONE"

    def __init__(self, part: str | TextBackbone, positions: int = 4) -> None:
        from ssnas_core.backbones.factory import text_backbone

        super().__init__()
        if positions < 2:
            raise InputError(f"segments need positions >= 2, got {positions}.")
        self.part = text_backbone(part) if isinstance(part, str) else part
        self.positions = positions
        self.learns = self.part.learns
        self.channels = self.part.channels
        self.name = f"segments {positions} of {self.part.name}"

    def config(self) -> dict[str, Any]:
        """Return JSON values from which `backbone_from_config` builds it again; no weights."""
        return {**super().config(), "part": self.part.config(), "positions": self.positions}

    @classmethod
    def rebuilt(cls, folder: Path | None, *, part: Mapping[str, Any], positions: int) -> Self:
        """Return a new one with random weights around the backbone that `part` describes."""
        from ssnas_core.backbones.factory import backbone_from_config

        inner: Any = backbone_from_config(part, folder)
        return cls(inner, positions)

    def save_files(self, folder: Path) -> None:
        """Write what the backbone of the pieces writes."""
        self.part.save_files(folder)

    def fit(self, texts: Sequence[str]) -> Segments:
        """Let the backbone learn from the whole train texts; return self."""
        self.part.fit(texts)
        return self

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """Texts as (N, positions, ...), on the CPU."""
        pieces = [piece for text in texts for piece in cut(text, self.positions)]
        return self.part.vectorize(pieces).unflatten(0, (len(texts), self.positions))

    def known(self, texts: Sequence[str]) -> np.ndarray:
        """Share of each text's words that the backbone knows, (N,)."""
        return self.part.known(texts)

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, positions, ...) -> tap -> (N, C, positions): the mean of a piece's positions."""
        taps = self.part(vectorized.flatten(0, 1))
        return {
            tap: value.float().mean(2).unflatten(0, vectorized.shape[:2]).transpose(1, 2)
            for tap, value in taps.items()
        }


def cut(text: str, count: int) -> list[str]:
    """Return `count` pieces of a text, of nearly equal numbers of words or letters."""
    words, sign = words_of(text)
    ends = [-(-len(words) * k // count) for k in range(count + 1)]
    if len(words) < count:
        ends = [min(k, len(words)) for k in range(count + 1)]
    return [sign.join(words[start:end]) for start, end in zip(ends, ends[1:], strict=False)]
