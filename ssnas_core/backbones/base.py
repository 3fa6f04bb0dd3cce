"""What every backbone promises, whatever its modality."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A network whose forward returns named features, one per tap, shallow first.

    Attributes:
        modality_kind: "image" or "text".
        name: what it is, with its options; part of the fingerprint.
        channels: tap -> number of channels, in depth order; taps are "0", "1", ...
    """

    modality_kind: str
    name: str
    channels: dict[str, int]

    def fingerprint(self) -> str:
        """Hex hash of the name, the taps and all weights and fitted state."""
        digest = hashlib.sha256(json.dumps([self.name, self.channels]).encode())
        for key, value in sorted(self.state_dict().items()):
            value = value.detach().cpu().contiguous()
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


class ImageBackbone(Backbone):
    """A backbone of images; forward: (N, 3, H, W) in [0, 1] -> tap -> (N, C, H', W')."""

    modality_kind = "image"
    size: tuple[int, int]  # (H, W) that images are to be decoded to


class TextBackbone(Backbone):
    """A backbone of texts; forward: what `vectorize` gives -> tap -> (N, C, T)."""

    modality_kind = "text"

    def fit(self, texts: Sequence[str]) -> Any:
        """Learn what `vectorize` needs, from train texts and without labels; returns self."""
        return self

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        """Texts as a tensor (N, ...), float32 vectors or padded int64 tokens, on the CPU."""
        raise NotImplementedError
