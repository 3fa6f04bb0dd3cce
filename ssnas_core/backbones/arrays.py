"""Array backbones: features that exist already, as they are or through two maxout layers.

For any modality given as numbers: a row is a vector (C,) or vectors at P positions
(P, C), in any units, the same for all samples. All backbones but that of regions standardise
(see `ArrayBackbone`), so a row of zeros after `vectorize` is the mean row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssnas_core.backbones.base import ArrayBackbone, MaxoutLayers
from ssnas_core.common.errors import InputError


class IdentityArray(ArrayBackbone):
    """The standardised array itself, at tap "0"; nothing to train.

    Args:
        shape: of one row, (C,) or (P, C).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.name = f"array identity {self.shape}"
        self.channels = {"0": self.shape[-1]}
        self.options = {"shape": self.shape}

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, C) -> tap "0" (N, C, 1); (N, P, C) -> tap "0" (N, C, P)."""
        one = len(self.shape) == 1
        return {"0": vectorized.unsqueeze(2) if one else vectorized.transpose(1, 2)}


class RegionArray(ArrayBackbone):
    """Regions of an image, as a detector finds them: boxes at tap "0", what is in them at tap "1".

    Both as they are, in the detector's units. A row of zeros is no region, and stays one: the
    images of a data set have as many rows, and some of them fewer regions.

    Args:
        shape: of one image, (R, C + 4); the last four columns are x1, y1, x2, y2 in pixels.
        positions: how many regions a store keeps apart; in a preparation `PrepareConfig.length`.

    Raises:
        InputError: rows that are no regions, or more or fewer of them than `positions`.
    """

    def __init__(self, shape: Sequence[int], positions: int | None = None) -> None:
        super().__init__(shape)
        if len(self.shape) != 2 or self.shape[1] < 5:
            raise InputError(
                f"'regions' takes arrays (R, C + 4), a box at the end of each row, got rows of "
                f"shape {self.shape}; use 'identity'."
            )
        if positions not in (None, self.shape[0]):
            raise InputError(
                f"expected as many regions as a store keeps positions, got {self.shape[0]} and "
                f"{positions}; set PrepareConfig.length (--prepare.length) to {self.shape[0]}, or "
                "fill up the arrays with rows of zeros to a square number."
            )
        self.name = f"array regions {self.shape}"
        self.channels = {"0": 4, "1": self.shape[1] - 4}
        self.options = {"shape": self.shape}

    def fit(self, rows: Any) -> RegionArray:
        """Return self: there is nothing to learn."""
        return self

    def vectorize(self, rows: Any) -> Tensor:
        """Rows (N, R, C + 4) as float32 on the CPU, as they are."""
        return torch.from_numpy(np.array(self._rows(rows)))

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, R, C + 4) -> tap "0" (N, 4, R), tap "1" (N, C, R)."""
        what, boxes = vectorized.transpose(1, 2).split([self.channels["1"], 4], 1)
        return {"0": boxes, "1": what}


class MaxoutArray(ArrayBackbone):
    """Standardised vector (tap "0"), then two maxout layers (taps "1" and "2").

    The layers are those GMU and BM-NAS put on MM-IMDB's word2vec features.

    Args:
        shape: of one row, (C,).
        hidden: width of tap "1".
        outputs: width of tap "2".
        pieces: linear maps per maxout unit.

    Raises:
        InputError: rows that are no vectors.
    """

    learns = True

    def __init__(
        self, shape: Sequence[int], hidden: int = 64, outputs: int = 128, pieces: int = 5
    ) -> None:
        super().__init__(shape)
        if len(self.shape) != 1:
            raise InputError(
                f"'maxout' takes vectors (C,), got rows of shape {self.shape}; "
                "use 'identity', or average the positions first."
            )
        widths = (*self.shape, hidden, outputs)
        self.name = f"array maxout {'-'.join(map(str, widths))} pieces {pieces}"
        self.channels = {str(tap): width for tap, width in enumerate(widths)}
        self.layers = MaxoutLayers(widths, pieces)
        self.options = {
            "shape": self.shape, "hidden": hidden, "outputs": outputs, "pieces": pieces
        }  # fmt: skip

    def forward(self, vectorized: Tensor) -> dict[str, Tensor]:
        """(N, C) -> tap -> (N, channels[tap], 1)."""
        return self.layers(vectorized)
