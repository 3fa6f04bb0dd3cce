"""Blocks of the encoder-decoder space, and how boxes relate (MMnas, arXiv:2004.12070, sec. 3).

A block is LN(x + Dropout(op(x))). Of the operations, SA, RSA and GA are multi-head attention.
In SA, x gives queries, keys and values. In GA, x gives the queries, and the encoder's output
gives keys and values. RSA is SA whose scores know where the regions are: with the relation
r_ij of two boxes

    e_ij = ReLU(W r_ij + b), one layer for the whole network,
    score_ij = q_i . k_j / sqrt(d) + log max(ReLU(w_h . e_ij + b_h), 1e-6) in head h,

so a head gives region i little of region j unless their relation says otherwise. FFN is two
linear layers with four times the width between them.

Deviations from the released code: features go through a batch norm first, as our backbones'
scales differ; `nn.LayerNorm` in place of a norm by the unbiased deviation;
the relations are made on the device from the boxes, not for each sample in the loader; and the
heads of all RSA blocks come out of one product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import drop_modality
from ssnas_core.spaces.base import SHADOW

ENCODER = ("SA", "FFN")
DECODER = ("SA", "RSA", "GA", "FFN")
"""The operations that a block of either side may have."""

RELATED = 64  # numbers that a relation is turned into
NEAR = 1e-3  # least distance of two centres, in widths or heights of the first box
LEAST = 1e-6  # least weight of a relation, before its logarithm

Relax = Callable[[Tensor], Tensor]


def softmax(logits: Tensor) -> Tensor:
    """Return the weights of options (..., O)."""
    return logits.softmax(-1)


def relations(boxes: Tensor) -> Tensor:
    """Return how box j stands to box i, for all pairs.

    Four numbers: log(|dx| / w_i), log(|dy| / h_i), log(w_i / w_j) and log(h_i / h_j), of the
    centres' distances and of widths and heights. Left is not told from right.

    Args:
        boxes: (..., R, 4), x1, y1, x2, y2 in pixels; both corner pixels belong to the box.

    Returns:
        (..., R, R, 4).
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    size, centre = high - low + 1, (low + high) / 2  # (..., R, 2)
    apart = (centre[..., :, None, :] - centre[..., None, :, :]).abs() / size[..., :, None, :]
    larger = size[..., :, None, :] / size[..., None, :, :]
    return torch.cat([apart.clamp(min=NEAR), larger], -1).log()


def grid_boxes(positions: int) -> Tensor:
    """Return the boxes (P, 4) of a square grid of positions, row by row, a cell being a pixel.

    Where P is no square number, they are a row.
    """
    side = math.isqrt(positions)
    side = side if side**2 == positions else positions
    places = torch.arange(positions)
    corner = torch.stack([places % side, places // side], 1).float()
    return torch.cat([corner, corner], 1)


def present(rows: Tensor) -> Tensor:
    """Return which positions (N, P) of features (N, P, C) hold data; a row of zeros is padding.

    In a sample of nothing but zeros all positions count as data.
    """
    there = (rows != 0).any(-1)
    return there | ~there.any(-1, keepdim=True)


class Attention(nn.Module):
    """Multi-head attention of H channels, in heads of `head` channels; no biases."""

    def __init__(self, channels: int, head: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = channels // head, dropout
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)

    def forward(self, asks: Tensor, answers: Tensor, scores: Tensor) -> Tensor:
        """Return what `answers` (N, Q, H) give to each of `asks` (N, P, H), (N, P, H).

        Args:
            asks, answers: as said.
            scores: (N or 1, heads or 1, P or 1, Q), added to the products; -inf hides.
        """

        def split(x: Tensor) -> Tensor:  # (N, P, H) -> (N, heads, P, head)
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = self.query(asks), self.key(answers), self.value(answers)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(
            split(query), split(key), split(value), attn_mask=scores, dropout_p=dropout
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class _FeedForward(nn.Sequential):
    """Two linear layers with 4 H channels between them."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(channels, 4 * channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * channels, channels),
        )


class Block(nn.Module):
    """One block of the chain: one operation, or several that are mixed."""

    def __init__(self, operations: Sequence[str], channels: int, head: int, dropout: float) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(
            {
                name: _FeedForward(channels, dropout)
                if name == "FFN"
                else Attention(channels, head, dropout)
                for name in operations
            }
        )
        self.norms = nn.ModuleDict({name: nn.LayerNorm(channels) for name in operations})
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        scores: Mapping[str, Tensor],
        guide: Tensor,
        weights: Mapping[str, tuple[Tensor, float]] | None,
    ) -> Tensor:
        """Return the block's output (N, P, H) of x (N, P, H).

        Args:
            x: what is transformed.
            scores: of each operation of attention, as `Attention` takes them.
            guide: (N, Q, H), what the encoder returned.
            weights: of the operations that are mixed, as a tensor and as a number; None where
                there is one operation.
        """

        def output(name: str) -> Tensor:
            operation = self.operations[name]
            if name == "FFN":
                change = operation(x)
            else:
                change = operation(x, guide if name == "GA" else x, scores[name])
            return self.norms[name](x + self.dropout(change))

        if weights is None:
            return output(next(iter(self.operations)))
        parts = []
        for name, (weight, value) in weights.items():
            with nullcontext() if value > SHADOW else torch.no_grad():
                made = output(name)
            parts.append(weight * made)  # a product of matrices would round it under autocast
        return torch.stack(parts).sum(0)


class _Stem(nn.Module):
    """A feature brought to mean 0 and variance 1, channel by channel, and then to H channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.out = nn.Linear(channels, width)

    def forward(self, feature: Tensor, there: Tensor) -> Tensor:
        """Return (N, P, H) of a feature (N, P, C) that is at the positions `there` (N, P)."""
        if self.training:  # padding does not count in the statistics
            normed = torch.zeros_like(feature)
            normed[there] = self.norm(feature[there])
        else:
            normed = self.norm(feature.mT).mT * there[..., None]
        return self.out(normed)


class _Flatten(nn.Module):
    """One vector of a sample's positions: their mean by learned weights (MCAN's AttFlat)."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.scores = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(channels, 1),
        )
        self.out = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """Return (N, 2 H) of x (N, P, H) and which positions there are (N, P)."""
        scores = self.scores(x).masked_fill(~there[..., None], -torch.inf)  # (N, P, 1)
        return self.out((scores.softmax(1) * x).sum(1))


class EncDecNetwork(nn.Module):
    """A chain of blocks over each of two modalities; the second is guided by the first.

    With several operations in its blocks it is the supernet: `logits.encoder` (blocks, 2) and
    `logits.decoder` (blocks, O) are then parameters, and `relax` turns them into weights; a
    strategy may set another. An operation of weight 0 is not computed.

    The embedding of a sample is LN(AttFlat(encoded) + AttFlat(decoded)). Where `apart` is set, each
    region has one of its own: what the sample's would be, had it that region alone (MMnas's head
    of visual grounding).

    Args:
        channels: of the two features by name: the encoded one, and the decoded one.
        encoder, decoder: the operations of each block.
        width: H, channels of every block.
        head: channels of an attention's head; they divide H.
        grid: boxes (P, 4) of the decoded positions of all samples.
        boxes: name of the feature (N, P, 4) with those of each sample; None where they are `grid`.
        dropout, modality_dropout: as `EncDecConfig` has them.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        encoder: Sequence[Sequence[str]],
        decoder: Sequence[Sequence[str]],
        *,
        width: int,
        head: int,
        grid: Tensor,
        boxes: str | None,
        dropout: float,
        modality_dropout: float,
    ) -> None:
        super().__init__()
        self.features, self.boxes = list(channels), boxes
        self.register_buffer("grid", grid, persistent=False)
        self.width, self.modality_dropout = 2 * width, modality_dropout
        self.apart = False  # whether each decoded position has an embedding of its own
        self.stems = nn.ModuleDict({name: _Stem(c, width) for name, c in channels.items()})
        self.encoder = nn.ModuleList(Block(ops, width, head, dropout) for ops in encoder)
        self.decoder = nn.ModuleList(Block(ops, width, head, dropout) for ops in decoder)
        self.related = [place for place, ops in enumerate(decoder) if "RSA" in ops]
        if self.related:
            self.relate = nn.Linear(4, RELATED)
            self.weigh = nn.Linear(RELATED, len(self.related) * (width // head))
        self.flatten = nn.ModuleDict({name: _Flatten(width, dropout) for name in channels})
        self.norm = nn.LayerNorm(2 * width)
        self.relax: Relax = softmax
        self.logits = nn.ParameterDict()
        for side, blocks in (("encoder", encoder), ("decoder", decoder)):
            if len(blocks[0]) > 1:
                noise = 1e-3 * torch.randn(len(blocks), len(blocks[0]))
                self.logits[side] = nn.Parameter(noise)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return embeddings (N, 2 H) of features (N, P, C_in) by name; (N, P, 2 H) if `apart`.

        Those of positions that hold no data are 0.
        """
        if self.training:
            read = [*self.features, *([] if self.boxes is None else [self.boxes])]
            features = drop_modality(features, read, self.modality_dropout)
        there = [present(features[name]) for name in self.features]  # (N, Q), (N, P)
        boxes = self.get_buffer("grid") if self.boxes is None else features[self.boxes]
        positions = there[1].shape[1]
        if self.related and boxes.shape[-2] != positions:
            raise InputError(
                f"expected {self.features[1]} at {boxes.shape[-2]} positions, got {positions}; "
                "open the space with the positions of the features."
            )
        related = self._related(boxes)
        guide, x = (
            stem(features[name], here)
            for (name, stem), here in zip(self.stems.items(), there, strict=True)
        )
        hidden = [_hidden(one) for one in there]  # (N, 1, 1, Q), (N, 1, 1, P)
        for block, weights in zip(self.encoder, self._weights("encoder"), strict=True):
            guide = block(guide, {"SA": hidden[0]}, guide, weights)
        for place, (block, weights) in enumerate(
            zip(self.decoder, self._weights("decoder"), strict=True)
        ):
            scores = {"SA": hidden[1], "GA": hidden[0]}
            if place in related:
                scores["RSA"] = hidden[1] + related[place]
            x = block(x, scores, guide, weights)
        flatten: Any = self.flatten.values()  # a ModuleDict's are not typed
        encoded, decoded = flatten
        of_text = encoded(guide, there[0])  # (N, 2 H)
        if self.apart:  # the mean over one position is what is there
            each = self.norm(of_text[:, None] + decoded.out(x))  # (N, P, 2 H)
            return each.masked_fill(~there[1][..., None], 0.0)
        return self.norm(of_text + decoded(x, there[1]))

    def _weights(self, side: str) -> Sequence[Mapping[str, tuple[Tensor, float]] | None]:
        """Return each block's weights of the operations that have any; None where there is one."""
        blocks: Sequence[Any] = getattr(self, side)
        if side not in self.logits:
            return [None] * len(blocks)
        weights = self.relax(self.logits[side])  # (blocks, O)
        return [
            {
                name: (weight, value)
                for name, weight, value in zip(block.operations, row, values, strict=True)
                if value != 0
            }
            for block, row, values in zip(blocks, weights, weights.tolist(), strict=True)
        ]

    def _related(self, boxes: Tensor) -> dict[int, Tensor]:
        """Return what RSA adds to the scores of each block that may have it.

        Args:
            boxes: (P, 4), or (N, P, 4) where each sample has its own.

        Returns:
            (heads, P, P), or (N, heads, P, P), by number of the block.
        """
        if not self.related:
            return {}
        weights = F.relu(self.weigh(F.relu(self.relate(relations(boxes)))))
        scores = weights.clamp(min=LEAST).log().movedim(-1, -3)  # (..., blocks x heads, P, P)
        return dict(zip(self.related, scores.chunk(len(self.related), -3), strict=True))


def _hidden(there: Tensor) -> Tensor:
    """Return the scores that hide padding: 0 where a position is, -inf where none is."""
    scores = torch.zeros(there.shape, device=there.device).masked_fill(~there, -torch.inf)
    return scores[:, None, None, :]
