"""The encoder-decoder space: a chain of blocks for either modality (MMnas, arXiv:2004.12070).

The encoder is a chain of blocks of {SA, FFN} over the positions of one modality, as the pieces
of a text. The decoder is a chain of {SA, RSA, GA, FFN} over those of the other, as the regions
of an image, and each GA asks what the encoder returned (sec. 3.1 and 3.2). An architecture is
one operation for each block, so 12 and 18 blocks make 2^12 4^18 of them, and no two compute the
same. The embedding is LN(AttFlat(encoded) + AttFlat(decoded)).

Each modality enters by its deepest feature, through a batch norm and one linear layer. Its
positions are those of the stored features: words or pieces of a text, regions of an image or
cells of a grid over it. Without boxes RSA takes the decoded positions for a square grid, which
those of a text are not. Where the decoded modality has one position, nothing is related, and
there is no RSA.

Deviations: text enters by frozen features, not by an LSTM that is trained along; AttFlat's
hidden layer has H channels, where the released code has 512 for an H of 256 and of 512 alike.
For the blocks see `blocks`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_json
from ssnas_core.common.modalities import by_modality, deepest, modality_of
from ssnas_core.common.typed import brief, check_fields
from ssnas_core.spaces.base import check_dropouts
from ssnas_core.spaces.encdec.blocks import DECODER, ENCODER, EncDecNetwork, grid_boxes
from ssnas_core.spaces.genotype import MAX_PARTS, Genotype, Node

STACKS: dict[str, tuple[str, str]] = {
    "MMnas VQA": (
        "SA SA SA SA FFN FFN FFN FFN SA FFN FFN FFN",
        "GA GA FFN FFN GA FFN RSA GA FFN GA RSA FFN RSA SA FFN RSA GA FFN",
    ),
    "MMnas ITM": (
        "SA SA FFN FFN FFN SA FFN SA FFN FFN FFN FFN",
        "SA GA GA RSA SA GA RSA GA GA GA GA FFN GA GA RSA SA GA RSA",
    ),
    "MMnas VGD": (
        "SA FFN FFN SA FFN FFN FFN FFN FFN FFN FFN SA",
        "GA GA GA GA GA GA FFN GA RSA RSA GA FFN RSA GA GA RSA GA RSA",
    ),
    "MCAN": ("SA FFN", "SA GA FFN"),
    "MMnas prior": ("SA FFN", "RSA GA FFN"),
}
"""Architectures by name, encoder and decoder: those that MMnas's authors found for three tasks, of
12 and 18 blocks; and two made by hand, whose layer of 2 and 3 blocks repeats: MCAN's
(arXiv:1906.10770), and the one that the released search starts from."""

_EPOCH = re.compile(r"epoch(0|[1-9][0-9]{0,8})")
_RELEASED = {
    "self_att_64": "SA",
    "rel_self_att_64": "RSA",
    "guided_att_64": "GA",
    "feed_forward": "FFN",
}


@dataclass(frozen=True, kw_only=True)
class EncDecConfig:
    """Encoder and decoder: which operation is in each block (MMnas).

    Defaults: MMnas's search.

    Args:
        encoder, decoder: blocks of either.
        channels: H, width of every block.
        head: channels of an attention's head; they divide H.
        encoded: the modality that is encoded; the last by default, as text comes after image.
        boxes: the feature, of 4 channels, that holds the boxes of the decoded positions, x1, y1,
            x2, y2 in pixels; without one they are the cells of a square grid.
        dropout: after each operation, on the weights of attention, and inside FFN.
        modality_dropout: probability that a sample loses one modality in training.
    """

    lacks: ClassVar[tuple[str, ...]] = ("extensions",)  # methods that its space has not

    encoder: int = 12
    decoder: int = 18
    channels: int = 256
    head: int = 64
    encoded: str | None = None
    boxes: str | None = None
    dropout: float = 0.1
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, encoder=1, decoder=1, channels=1, head=1)
        check_dropouts(self)
        if self.channels % self.head:
            raise InputError(
                f"EncDecConfig.head must divide its channels, got {self.head} of "
                f"{self.channels}; as {self.channels}."
            )
        if 2 * self.encoder + 3 * self.decoder > MAX_PARTS:
            raise InputError(
                f"EncDecConfig: expected at most {MAX_PARTS} parts, two for each block of the "
                f"encoder and three for each of the decoder, got {self.encoder} and "
                f"{self.decoder} blocks; take fewer."
            )

    def trained_with(self, dropout: float) -> Self:
        """Return the configuration of the same architectures with another dropout."""
        return replace(self, dropout=dropout)

    def open(
        self, channels: Mapping[str, int], positions: Mapping[str, int] | None = None
    ) -> EncDecSpace:
        """Return the space over features of so many `channels` at so many `positions`, by name."""
        return EncDecSpace(channels, positions or dict.fromkeys(channels, 1), self)


class EncDecSpace:
    """The architectures of encoder and decoder over two modalities.

    Args:
        channels: channels of each feature by name, in order of modality and depth.
        positions: positions P of each feature.
        config: depth and sizes.

    Raises:
        InputError: features of one modality, or of more than two, or the encoded modality is
            none of them.
    """

    name = "encdec"

    def __init__(
        self,
        channels: Mapping[str, int],
        positions: Mapping[str, int],
        config: EncDecConfig | None = None,
    ) -> None:
        self.config = config or EncDecConfig()
        modalities, encoded = list(by_modality(channels)), self.config.encoded
        odd = set(modalities) & {"encoder", "decoder"}
        if len(modalities) != 2 or odd or encoded not in (None, *modalities):
            raise InputError(
                "expected features of two modalities, none named encoder or decoder, one of them "
                f"to encode{'' if encoded is None else f' ({encoded})'}, got "
                f"{', '.join(modalities)[:200] or 'none'}; use the fusion space, or name one of "
                "two as --space.encoded."
            )
        encoded = modalities[-1] if encoded is None else encoded
        last = deepest(channels, 1)
        first = next(name for name in last if name in by_modality(channels)[encoded])
        second = next(name for name in last if name != first)
        self.channels = {first: channels[first], second: channels[second]}
        boxes = self.config.boxes
        if boxes is not None and (
            modality_of(boxes) != modality_of(second) or channels.get(boxes) != 4
        ):
            raise InputError(
                f"expected a feature of 4 channels of {modality_of(second)} as --space.boxes, got "
                f"{boxes!r} of {channels.get(boxes)}; name one of {', '.join(channels)[:200]}."
            )
        self.features = (first, second, *([] if boxes is None else [boxes]))
        self._grid = grid_boxes(positions[second])
        self.pools = (ENCODER, DECODER if positions[second] > 1 else ("SA", "GA", "FFN"))

    @property
    def variables(self) -> dict[str, tuple[str, ...]]:
        """The operations of each block."""
        return {
            f"{side}_{place}": pool for side, pool, count in self._sides() for place in range(count)
        }

    def _sides(self) -> tuple[tuple[str, tuple[str, ...], int], ...]:
        counts = (self.config.encoder, self.config.decoder)
        return tuple(zip(("encoder", "decoder"), self.pools, counts, strict=True))

    def genotype(self, encoder: Sequence[str], decoder: Sequence[str]) -> Genotype:
        """Return the genotype of these operations, block by block.

        Raises:
            InputError: another number of blocks, or an operation that its side has not.
        """
        guide, chain = f"encoder_{len(encoder) - 1}", []
        for side, feature, operations in zip(
            ("encoder", "decoder"), self.channels, (encoder, decoder), strict=True
        ):
            before = feature
            for place, operation in enumerate(operations):
                name = f"{side}_{place}"
                inputs = (before, guide) if operation == "GA" else (before,)
                chain.append(Node(name, operation, inputs))
                before = name
        genotype = Genotype(self.name, tuple(chain))
        self.validate(genotype)
        return genotype

    def named(self, name: str) -> Genotype:
        """Return an architecture of `STACKS`, repeated to this space's depth.

        Raises:
            InputError: there is none of that name, or the depth is no multiple of its own.
        """
        if name not in STACKS:
            raise InputError(f"expected one of {', '.join(STACKS)}, got {name[:80]!r}.")
        stacks = [text.split() for text in STACKS[name]]
        counts = [count for _, _, count in self._sides()]
        if any(count % len(stack) for stack, count in zip(stacks, counts, strict=True)):
            raise InputError(
                f"{name} has layers of {len(stacks[0])} and {len(stacks[1])} blocks, so the space "
                f"needs a multiple of each, got {counts[0]} and {counts[1]}; give EncDecConfig "
                "other depths."
            )
        return self.genotype(
            *(stack * (count // len(stack)) for stack, count in zip(stacks, counts, strict=True))
        )

    def sample(self, generator: torch.Generator) -> Genotype:
        """Return a genotype drawn uniformly from the space."""
        choice = {
            name: int(torch.randint(len(pool), (), generator=generator))
            for name, pool in self.variables.items()
        }
        return self.decode(choice)

    def genotypes(self) -> Iterator[Genotype]:
        """Yield every genotype of the space."""
        for choice in itertools.product(*(range(len(pool)) for pool in self.variables.values())):
            yield self.decode(dict(zip(self.variables, choice, strict=True)))

    def decode(self, choice: Mapping[str, int]) -> Genotype:
        """Return the genotype of a value (its number, from 0) for each of the `variables`."""
        return self.genotype(
            *(
                [pool[choice[f"{side}_{place}"]] for place in range(count)]
                for side, pool, count in self._sides()
            )
        )

    def encode(self, genotype: Genotype) -> dict[str, int]:
        """Return the choice that decodes to `genotype`."""
        self.validate(genotype)
        values = self.variables
        return {node.name: values[node.name].index(node.operator) for node in genotype.nodes}

    def validate(self, genotype: Genotype) -> None:
        """Raise unless `genotype` is in this space.

        Raises:
            InputError: another space, another number of blocks, or other operations or names.
        """
        wrong = f"{genotype!s:.300} is not a genotype of this space"
        if genotype.space != self.name:
            raise InputError(f"{wrong}: expected {self.name}, got {genotype.space}.")
        values = self.variables
        names = [node.name for node in genotype.nodes]
        if names != list(values):
            counts = [sum(name.startswith(side) for name in names) for side, _, _ in self._sides()]
            raise InputError(
                f"{wrong}: expected {self.config.encoder} blocks of the encoder and then "
                f"{self.config.decoder} of the decoder, got {counts[0]} and {counts[1]}."
            )
        before, guide = "", f"encoder_{self.config.encoder - 1}"
        for node in genotype.nodes:
            if node.name in ("encoder_0", "decoder_0"):
                before = self.features[node.name == "decoder_0"]
            inputs = (before, guide) if node.operator == "GA" else (before,)
            if node.operator not in values[node.name] or node.inputs != inputs:
                raise InputError(
                    f"{wrong}: expected {node.name} = {'|'.join(values[node.name])} of {before}, "
                    f"GA of {guide} too, got {node!s:.200}."
                )
            before = node.name

    def build(self, genotype: Genotype) -> EncDecNetwork:
        """Return the network of `genotype` with fresh weights (torch's global seed)."""
        self.validate(genotype)
        operations = [[node.operator] for node in genotype.nodes]
        return self._network(operations[: self.config.encoder], operations[self.config.encoder :])

    def supernet(self) -> EncDecNetwork:
        """Return the network that mixes all operations of each block, by its logits."""
        return self._network(*([pool] * count for _, pool, count in self._sides()))

    def _network(
        self, encoder: Sequence[Sequence[str]], decoder: Sequence[Sequence[str]]
    ) -> EncDecNetwork:
        return EncDecNetwork(
            self.channels,
            encoder,
            decoder,
            width=self.config.channels,
            head=self.config.head,
            grid=self._grid,
            boxes=self.config.boxes,
            dropout=self.config.dropout,
            modality_dropout=self.config.modality_dropout,
        )

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Return the meaning of each entry of each logit vector, for tables and plots."""
        return {side: pool for side, pool, _ in self._sides()}

    def derive(self, logits: Mapping[str, Tensor]) -> Genotype:
        """Return the most probable genotype under `logits`, (blocks, O) for each side."""
        return self.genotype(
            *([pool[best] for best in logits[side].argmax(-1)] for side, pool, _ in self._sides())
        )

    def one_hot(self, genotype: Genotype, scale: float = 200.0) -> dict[str, Tensor]:
        """Return logits whose relaxation is `genotype`: `scale` on each choice, 0 elsewhere."""
        choice, logits = self.encode(genotype), {}
        for side, pool, count in self._sides():
            logits[side] = torch.zeros(count, len(pool))
            for place in range(count):
                logits[side][place, choice[f"{side}_{place}"]] = scale
        return logits

    def inherit(self, genotype: Genotype, state: Mapping[str, Tensor]) -> EncDecNetwork:
        """Return the network of `genotype` with the weights of a supernet's state dict."""
        network = self.build(genotype)
        own = {name: state[name] for name in network.state_dict() if not name.startswith("weigh.")}
        if network.related:  # of all blocks' heads those of the blocks that have RSA
            for name in ("weigh.weight", "weigh.bias"):
                heads = state[name].unflatten(0, (self.config.decoder, -1))
                own[name] = heads[network.related].flatten(0, 1)
        network.load_state_dict(own)
        return network


def read_arch(path: Path, epoch: int | None = None) -> tuple[list[str], list[str]]:
    """Return the operations of encoder and decoder in a file of MMnas's released search.

    It is JSON, `{"epoch0": {"enc": [["self_att_64"], ...], "dec": [...]}}`, with one name a block,
    and an entry for each epoch.

    Args:
        path: the file.
        epoch: which one; the last by default.

    Raises:
        InputError: it is no such file, or a block has an operation that is not of this space.
    """
    document, path = read_json(Path(path)), Path(path)
    keys = document if isinstance(document, dict) else {}
    epochs = {int(key[5:]): key for key in keys if _EPOCH.fullmatch(key)}
    if not epochs or (epoch is not None and epoch not in epochs):
        raise InputError(
            f"{path}: expected an object with epoch0 or later epochs"
            f"{f', among them {epoch}' if epoch is not None else ''}, got "
            f"{brief(document)!s:.100}; give a file of MMnas's search."
        )
    entry = document[epochs[max(epochs) if epoch is None else epoch]]
    return _operations(path, entry, "enc", ENCODER), _operations(path, entry, "dec", DECODER)


def _operations(path: Path, entry: Any, side: str, pool: Sequence[str]) -> list[str]:
    blocks: Any = entry.get(side) if isinstance(entry, dict) else None
    known = {name: own for name, own in _RELEASED.items() if own in pool}
    for block in blocks if isinstance(blocks, list) and blocks else [blocks]:
        if not (isinstance(block, list) and len(block) == 1 and str(block[0]) in known):
            raise InputError(
                f"{path}: expected one of {', '.join(known)} in each block of {side}, got "
                f"{brief(block)!s:.100}; other operations are not in this space."
            )
    return [known[str(name)] for (name,) in blocks]
