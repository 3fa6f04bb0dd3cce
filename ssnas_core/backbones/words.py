"""A text word by word: a vector for each, which says what the word is and where it stands.

Questions hang on single words and on their order, which no mean over a text keeps. Nothing is
learned or downloaded: a word's vector is drawn at random, by the word itself, so that any two are
nearly orthogonal, and the network behind learns what they mean (as of hashed features, or of an
embedding that stays as it was initialised). The place is added as Transformers code it
(arXiv:1706.03762, sec. 3.5).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssnas_core.backbones.base import TextBackbone
from ssnas_core.common.errors import InputError

_WORD = re.compile(r"\w+")


class Words(TextBackbone):
    """The first `positions` words of a text, a position each; those after its last word are 0.

    Words are lower case, without the signs between them.

    Args:
        channels: C, even, of tap "0".
        positions: how many words; in a preparation `PrepareConfig.length`.

    Raises:
        InputError: no positions, or channels that are odd or none.
    """

    def __init__(self, channels: int = 128, positions: int = 16) -> None:
        super().__init__()
        if positions < 1 or channels < 2 or channels % 2:
            raise InputError(
                f"words need positions >= 1 and even channels >= 2, got {positions} and {channels}."
            )
        self.positions = positions
        self.channels = {"0": channels}
        self.name = f"words {channels} at {positions}"
        self.options = {"channels": channels, "positions": positions}
        rates = 10_000.0 ** -(np.arange(0, channels, 2) / channels)
        angles = np.arange(positions)[:, None] * rates  # (P, C / 2)
        self._places = np.concatenate([np.sin(angles), np.cos(angles)], 1)
        self._vectors: dict[str, np.ndarray] = {}

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """Texts as (N, P, C) float32, on the CPU."""
        rows = np.zeros((len(texts), *self._places.shape), np.float32)
        for row, text in enumerate(texts):
            words = _WORD.findall(text.lower())[: self.positions]
            for place, word in enumerate(words):
                rows[row, place] = self._vector(word) + self._places[place]
        return torch.from_numpy(rows)

    def _vector(self, word: str) -> np.ndarray:
        if word not in self._vectors:
            drawn = np.random.default_rng(zlib.crc32(word.encode("utf-8", "surrogateescape")))
            self._vectors[word] = drawn.standard_normal(self._places.shape[1])
        return self._vectors[word]

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, P, C) -> tap "0" (N, C, P)."""
        return {"0": vectorized.transpose(1, 2)}
