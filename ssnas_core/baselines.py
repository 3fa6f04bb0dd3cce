"""Networks that nobody searched: every feature of one or both modalities, concatenated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ssnas_core.modalities import drop_modality
from ssnas_core.spaces.fusion import FusionConfig, Stem


class LateConcat(nn.Module):
    """Every feature through a stem of its own, then concatenated (late fusion).

    The stems are the fusion space's, so that a comparison with a searched
    network is about fusion alone; unlike the stems there, nothing is repeated
    for vector features. With the features of one modality it is the "text
    only" or "image only" baseline.

    Args:
        channels: channels of the features to use, by name.
        config: sizes of the stems (`channels`, `dropout`), and `modality_dropout`.
        positions: positions of each feature in the store, by name.
    """

    def __init__(
        self, channels: Mapping[str, int], config: FusionConfig, positions: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.stems = nn.ModuleDict(
            {name: Stem(width, config.channels, config.dropout) for name, width in channels.items()}
        )
        self.modality_dropout = config.modality_dropout
        self.width = config.channels * sum(positions[name] for name in channels)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (N, width) of features (N, P, C_in) by name."""
        if self.training:
            features = drop_modality(features, list(self.stems), self.modality_dropout)
        return torch.cat([stem(features[name]).flatten(1) for name, stem in self.stems.items()], 1)
