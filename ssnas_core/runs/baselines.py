"""Networks that nobody searched, on the stored features that a searched one reads.

Each maps features (N, P, C_in) by name to embeddings (N, `width`), and the objective
puts its head on these, the same for all. `LateConcat`, `Transfer` and
`MaxoutNetwork` do not let modalities meet before the head; `GMU` and `CentralNet`
are fixed ways to let them. Deviations from the papers of these two: both are on
frozen backbones with a linear classifier behind them. So the GMU's classifier is
not one of maxout layers, and CentralNet has no losses of its unimodal networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import MaxoutLayers
from ssnas_core.common.modalities import by_modality, drop_modality
from ssnas_core.spaces.fusion.networks import FusionNetwork, Stem
from ssnas_core.spaces.fusion.space import FusionConfig


class LateConcat(FusionNetwork):
    """Every feature through a stem of its own, then concatenated (late fusion).

    It is the member of the fusion space that has no cell and keeps all features, so that a
    comparison with a searched network is about fusion alone. With the features of one
    modality it is the "text only" or "image only" baseline.

    Args:
        channels: channels of the features to use, by name.
        config: sizes of the stems (`channels`, `dropout`), and `modality_dropout`.
        positions: positions of each feature in the store, by name.
    """

    def __init__(
        self, channels: Mapping[str, int], config: FusionConfig, positions: Mapping[str, int]
    ) -> None:
        length = max(positions[name] for name in channels)  # pixels have more than other maps
        plain = replace(config, released=(), length=length)  # none of the layers of cells
        super().__init__(channels, (), range(len(channels)), plain, {}, positions)


class Transfer(nn.Module):
    """The deepest feature of one modality, and nothing between it and the classifier.

    With VGG-19 as backbone it is "VGG transfer" of the GMU paper (arXiv:1702.01992).
    The feature is averaged over positions and standardised by a batch norm without
    weights of its own, which a linear classifier has already.

    Args:
        channels: channels of one modality's features by name, shallow first.
        config: its `dropout` acts on the standardised feature.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        config: FusionConfig,
        positions: Mapping[str, int] | None = None,  # whatever they are: their mean is taken
    ) -> None:
        super().__init__()
        name = list(channels)[-1]
        self.width = channels[name]
        self.stems = nn.ModuleDict({name: nn.BatchNorm1d(self.width, affine=False)})
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (N, width) of features (N, P, C_in) by name."""
        ((name, norm),) = self.stems.items()
        return self.dropout(norm(features[name].mean(1)))


class MaxoutNetwork(nn.Module):
    """Two maxout layers on one modality: the text baseline of GMU and BM-NAS.

    They are trained here with the labels, in the sizes of BM-NAS (64 and 128, five
    pieces). What they read is as for `GMU`.

    Args:
        channels: channels of one modality's features by name, shallow first.
        config: its `dropout` acts on what the layers give.
        positions: positions of each feature in the store, by name.
    """

    def __init__(
        self, channels: Mapping[str, int], config: FusionConfig, positions: Mapping[str, int]
    ) -> None:
        super().__init__()
        (name,) = _inputs_of(channels, positions)
        self.width = 128
        self.stems = nn.ModuleDict({name: MaxoutLayers((channels[name], 64, self.width), pieces=5)})
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (N, 128) of features (N, P, C_in) by name."""
        ((name, layers),) = self.stems.items()
        *_, last = layers(features[name].mean(1)).values()
        return self.dropout(last.squeeze(2))


class GMU(nn.Module):
    """Gated multimodal unit on one vector of each modality (arXiv:1702.01992).

    h_m = tanh(W_m x_m), and what reaches the classifier is a sum of these, each number
    weighed by a gate that sees all modalities (`_gated`). As in the paper, x_m is the
    modality's input itself where that is a vector (its first feature: of a text, the
    mean word vector or its like); else its deepest feature, averaged over positions. A
    batch norm standardises it. The unit has `channels * length` numbers, as one cell
    of the fusion space gives.

    Args:
        channels: channels of each feature, by name, shallow first within a modality.
        config: sizes, `dropout` of what the unit gives, and `modality_dropout`.
        positions: positions of each feature in the store, by name.
    """

    def __init__(
        self, channels: Mapping[str, int], config: FusionConfig, positions: Mapping[str, int]
    ) -> None:
        super().__init__()
        names = _inputs_of(channels, positions)
        self.width = config.channels * config.length
        self.stems = nn.ModuleDict({name: nn.BatchNorm1d(channels[name]) for name in names})
        self.hidden = nn.ModuleDict(
            {name: nn.Linear(channels[name], self.width, bias=False) for name in names}
        )
        gates = 1 if len(names) == 2 else len(names)
        inputs = sum(channels[name] for name in names)
        self.gates = nn.Linear(inputs, gates * self.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.modality_dropout = config.modality_dropout

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (N, width) of features (N, P, C_in) by name."""
        if self.training:
            features = drop_modality(features, list(self.stems), self.modality_dropout)
        inputs = {name: norm(features[name].mean(1)) for name, norm in self.stems.items()}
        hidden = [layer(inputs[name]).tanh() for name, layer in self.hidden.items()]
        scores = self.gates(torch.cat(list(inputs.values()), 1))
        return self.dropout(_gated(torch.stack(hidden), scores))


class CentralNet(nn.Module):
    """A network beside the unimodal ones that takes in their features at each depth.

    After CentralNet (arXiv:1808.07275): at each depth the central state becomes
    a layer of the sum of itself and of every modality's feature there, each with a
    learned scalar. The features come to C channels by stems, and only there numbers
    are dropped: in every layer too, at fine-tuning's rate little would get through.
    The deepest features meet at the last depth; a modality with fewer of them comes in
    later. Scalars start as equal shares; where they meet, vectors are at every position.

    Args:
        channels: channels of each feature, by name, shallow first within a modality.
        config: `channels` and `dropout` of the stems, and `modality_dropout`.
        positions: positions of each feature in the store, by name.
    """

    def __init__(
        self, channels: Mapping[str, int], config: FusionConfig, positions: Mapping[str, int]
    ) -> None:
        super().__init__()
        size = config.channels
        self.depths = _by_depth(channels)
        self.stems = nn.ModuleDict(
            {name: Stem(width, size, config.dropout) for name, width in channels.items()}
        )
        self.layers = nn.ModuleList(Stem(size, size, dropout=0.0) for _ in self.depths)
        terms = [len(names) + (depth > 0) for depth, names in enumerate(self.depths)]
        self.shares = nn.ParameterList(torch.full((count,), 1 / count) for count in terms)
        self.modality_dropout = config.modality_dropout
        self.width = size * max(positions[name] for name in channels)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (N, width) of features (N, P, C_in) by name."""
        if self.training:
            features = drop_modality(features, list(self.stems), self.modality_dropout)
        states: list[Tensor] = []  # the central one, from the second depth on
        for names, shares, layer in zip(self.depths, self.shares, self.layers, strict=True):
            states += [self.stems[name](features[name]) for name in names]
            weighed = [share * state for share, state in zip(shares, states, strict=True)]
            states = [layer(sum(weighed[1:], weighed[0]))]
        return states[0].flatten(1)


def _gated(hidden: Tensor, scores: Tensor) -> Tensor:
    """Return a gated multimodal unit's sum of its hidden values.

    Two modalities share one gate z, as z h_0 + (1 - z) h_1; of another number each
    has its own, sum_m z_m h_m (the paper's figures 2b and 2a).

    Args:
        hidden: (M, N, D), in [-1, 1].
        scores: (N, D) for M = 2, else (N, M * D): the gates before their sigmoid.
    """
    gates = scores.sigmoid()
    if len(hidden) == 2:
        return gates * hidden[0] + (1 - gates) * hidden[1]
    return (gates.unflatten(1, (len(hidden), -1)).transpose(0, 1) * hidden).sum(0)


def _inputs_of(names: Iterable[str], positions: Mapping[str, int]) -> list[str]:
    """A vector for each modality: its first feature where that is one, else the deepest."""
    groups = by_modality(names).values()
    return [taps[0] if positions[taps[0]] == 1 else taps[-1] for taps in groups]


def _by_depth(names: Iterable[str]) -> list[list[str]]:
    """The features at each depth, the deepest of every modality in the last."""
    groups = by_modality(names).values()
    most = max(map(len, groups))
    depths: list[list[str]] = [[] for _ in range(most)]
    for taps in groups:
        for depth, name in enumerate(taps, start=most - len(taps)):
            depths[depth].append(name)
    return depths
