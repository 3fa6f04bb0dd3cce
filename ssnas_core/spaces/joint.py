"""Backbones and their fusion in one space: convolutional cells below, fusion cells above.

Of each picture, a modality of which the pixels are stored, a normal and a reduction cell are
chosen (`spaces.cells`). The outputs of the last cells of each size become features of its
modality, the largest image_1, behind the pixels image_0; with the stored features of the other
modalities they are what fusion cells may take (`spaces.fusion`). A genotype has the nodes of
all of these in this order; those of a picture's cells begin with its name, as

    image normal_2 = sep_conv_3x3+skip_connect(image c_k-2, image c_k-1),

and image_1 = pool(image normal) is a feature that the stack of cells gives. One search so
decides both, by one loss: which cells serve the fusion, and which fusion serves these cells.

A map is brought to L positions by adaptive max pool, as those of frozen backbones are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import by_modality
from ssnas_core.common.pooling import pooled_map
from ssnas_core.spaces.cells.blocks import Relax
from ssnas_core.spaces.cells.space import CellsConfig, CellsSpace
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node

POOL = "pool"
"""Operator of a node that stands for a feature that cells give."""


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """Convolutional cells over pixels, and fusion cells over what they give and other features.

    Args:
        cells: the stack of each picture; its drop path is this in training, too.
        fusion: of what the stacks give and the features of the other modalities.
    """

    lacks: ClassVar[tuple[str, ...]] = ("extensions",)  # methods that its space has not

    cells: CellsConfig = field(default_factory=lambda: CellsConfig(cells=3, channels=8))
    fusion: FusionConfig = field(default_factory=FusionConfig)

    def __post_init__(self) -> None:
        if self.fusion.relaxation != "pairs":
            raise InputError(
                "JointConfig.fusion weighs its choices by one function, as relaxation 'pairs' "
                f"does, got {self.fusion.relaxation!r}; set it."
            )

    def trained_with(self, dropout: float) -> Self:
        """Return the configuration of the same architectures with another dropout of the fusion."""
        return replace(self, fusion=self.fusion.trained_with(dropout))

    def open(
        self, channels: Mapping[str, int], positions: Mapping[str, int] | None = None
    ) -> JointSpace:
        """Return the space over features of so many `channels` and `positions`, by name."""
        return JointSpace(channels, positions or {}, self)


class JointSpace:
    """The architectures of backbones and fusion over a set of features.

    Args:
        channels: channels of each feature by name, in order of modality and depth.
        positions: positions P of each feature; a picture has more than L.
        config: sizes.

    Raises:
        InputError: no modality is a picture, or one that is has several features or a size
            that cells cannot halve; or as `FusionSpace`.
    """

    name = "joint"

    def __init__(
        self,
        channels: Mapping[str, int],
        positions: Mapping[str, int],
        config: JointConfig | None = None,
    ) -> None:
        self.config = config or JointConfig()
        length = self.config.fusion.length
        self.cells: dict[str, CellsSpace] = {}  # of each picture, by modality
        self.features = tuple(channels)
        read: dict[str, int] = {}  # channels of what the fusion reads
        for modality, names in by_modality(channels).items():
            if max(positions.get(name, 1) for name in names) <= length:
                read |= {name: channels[name] for name in names}
                continue
            pixels = {name: channels[name] for name in names}
            self.cells[modality] = space = CellsSpace(pixels, positions, self.config.cells)
            read |= {_feature(modality, d): c for d, (_, c) in enumerate(space.maps(), 1)}
        if not self.cells:
            raise InputError(
                f"the joint space needs the pixels of a picture, at more than {length} positions, "
                f"got {dict(positions)}; take the image backbone pixels (--prepare.image pixels), "
                "or the fusion space."
            )
        places = {name: positions.get(name, length) for name in read}
        self.fusion = FusionSpace(read, self.config.fusion, positions=places)
        self._spaces = [*self.cells.items(), ("", self.fusion)]

    # As variables (`ChoiceSpace`).

    @property
    def variables(self) -> dict[str, tuple[str, ...]]:
        """The values of each choice: those of each picture's cells, then of the fusion."""
        return _joined((modality, space.variables) for modality, space in self._spaces)

    def decode(self, choice: Mapping[str, int]) -> Genotype | None:
        """Return the genotype of a value for each of the `variables`; None where it makes none."""
        parts = [space.decode(_part(choice, modality)) for modality, space in self._spaces]
        return None if parts[-1] is None else self._genotype(parts)

    def encode(self, genotype: Genotype) -> dict[str, int]:
        """Return the choice that decodes to `genotype`."""
        parts = self.split(genotype)
        return _joined((name, space.encode(parts[name])) for name, space in self._spaces)

    def sample(self, generator: torch.Generator) -> Genotype:
        """Return a genotype of which each part is drawn as its space draws."""
        return self._genotype([space.sample(generator) for _, space in self._spaces])

    def validate(self, genotype: Genotype) -> None:
        """Raise unless `genotype` is in this space.

        Raises:
            InputError: it has other nodes, or a part is not of its space.
        """
        self.split(genotype)

    def split(self, genotype: Genotype) -> dict[str, Genotype]:
        """Return the cells of each picture, by modality, and the fusion, as "".

        Raises:
            InputError: as `validate`.
        """
        if genotype.space != self.name:
            raise InputError(
                f"{genotype!s:.300} is not a genotype of this space: expected {self.name}, got "
                f"{genotype.space}."
            )
        parts = {}
        for modality, space in self._spaces:
            of = (node for node in genotype.nodes if node.operator != POOL)
            nodes = [node for node in of if _owner(node.name) == modality]
            if not nodes:
                raise InputError(
                    f"{genotype!s:.300} is not a genotype of this space: expected "
                    f"{f'cells of {modality}' if modality else 'what the fusion does'}; use the "
                    "space that it was found in."
                )
            parts[modality] = Genotype(space.name, tuple(_renamed(one, modality) for one in nodes))
            space.validate(parts[modality])
        if (same := self._genotype(parts.values())) != genotype:
            raise InputError(
                f"{genotype!s:.300} is not a genotype of this space: expected its nodes "
                f"{', '.join(node.name for node in same.nodes)[:400]}, in this order."
            )
        return parts

    def join(self, parts: Mapping[str, Genotype]) -> Genotype:
        """Return the genotype of which `split` gives these parts.

        Raises:
            InputError: a part is missing, or not of its space.
        """
        names = [modality for modality, _ in self._spaces]
        if parts.keys() != {*names}:
            raise InputError(f"expected the parts {names}, got {[*parts]}.")
        for modality, space in self._spaces:
            space.validate(parts[modality])
        return self._genotype([parts[name] for name in names])

    def build(self, genotype: Genotype) -> _JointNetwork:
        """Return the network of `genotype` with fresh weights (torch's global seed).

        Cells of a picture of which the fusion reads nothing are left out.
        """
        parts = self.split(genotype)
        fusion = self.fusion.build(parts[""])
        read = by_modality(fusion.features)
        cells = {name: space for name, space in self.cells.items() if name in read}
        pictures = {name: space.build(parts[name]) for name, space in cells.items()}
        return _JointNetwork(pictures, fusion)

    # Relaxed (`GradientSpace`).

    def supernet(self) -> JointSupernet:
        """Return all choices at once: fresh weights and small random logits (torch's seed)."""
        pictures = {name: space.supernet() for name, space in self.cells.items()}
        return JointSupernet(pictures, self.fusion.supernet())

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Return the meaning of each entry of each logit vector, for tables and plots."""
        return _joined((modality, space.labels()) for modality, space in self._spaces)

    def derive(self, logits: Mapping[str, Tensor]) -> Genotype:
        """Return the genotype that the logits stand for, each part as its space derives it."""
        parts = [space.derive(_part(logits, modality)) for modality, space in self._spaces]
        return self._genotype(parts)

    def one_hot(self, genotype: Genotype, scale: float = 200.0) -> dict[str, Tensor]:
        """Return logits whose relaxation is `genotype`: `scale` on each choice, 0 elsewhere."""
        parts = self.split(genotype)
        return _joined((name, space.one_hot(parts[name], scale)) for name, space in self._spaces)

    def inherit(self, genotype: Genotype, state: Mapping[str, Tensor]) -> _JointNetwork:
        """Return the network of `genotype` with the weights of a supernet's state dict.

        Raises:
            InputError: `genotype` is not what the state's own logits derive.
        """
        parts = self.split(genotype)

        def weights(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

        network = self.build(genotype)
        for name in network.pictures:
            inherited = self.cells[name].inherit(parts[name], weights(f"pictures.{name}."))
            network.pictures[name] = inherited
        network.fusion = self.fusion.inherit(parts[""], weights("fusion."))
        return network

    def _genotype(self, parts: Iterable[Genotype | None]) -> Genotype:
        nodes: list[Node] = []
        for (modality, space), part in zip(self._spaces, parts, strict=True):
            assert part is not None
            nodes += [_named(node, modality, self.features) for node in part.nodes]
            if isinstance(space, CellsSpace):
                for depth, (kind, _) in enumerate(space.maps(), 1):
                    nodes.append(Node(_feature(modality, depth), POOL, (f"{modality} {kind}",)))
        return Genotype(self.name, tuple(nodes))


class _JointNetwork(nn.Module):
    """Backbones of pictures, and a fusion network over what they give.

    Args:
        pictures: modality -> its stack of cells.
        fusion: reads image_1, image_2, ... of a picture `image`, and other features.
    """

    def __init__(self, pictures: Mapping[str, Any], fusion: Any) -> None:
        super().__init__()
        self.pictures = nn.ModuleDict(pictures)
        self.fusion = fusion
        self.width: int = fusion.width

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return embeddings (N, width) of features by name, (N, P, C) each, of pixels P = H W."""
        read, pictures = dict(features), cast(dict[str, Any], self.pictures)
        for modality, stack in pictures.items():
            for depth, value in enumerate(stack.maps_of(features), 1):
                pooled = pooled_map(value, self.fusion.stems.length)  # (N, C, L)
                read[_feature(modality, depth)] = pooled.mT
        return self.fusion(read)


class JointSupernet(_JointNetwork):
    """All backbones and fusions at once; `logits` are those of its parts, by their names.

    Args:
        pictures: modality -> its stack of all cells, or of one, which then has no logits.
        fusion: a supernet.
    """

    @property
    def _parts(self) -> list[tuple[str, Any]]:
        """The parts that are relaxed, by the names of their logits."""
        parts = [*self.pictures.items(), ("", self.fusion)]
        return [(name, part) for name, part in parts if hasattr(part, "logits")]

    @property
    def logits(self) -> dict[str, nn.Parameter]:
        """The logits of each picture's cells and of the fusion."""
        return _joined((name, dict(part.logits.items())) for name, part in self._parts)

    @property
    def relax(self) -> Relax:
        """What turns the scores of a choice's options into weights, in all parts."""
        return self.fusion.relax

    @relax.setter
    def relax(self, relax: Relax) -> None:
        for _, part in self._parts:
            part.relax = relax


def _feature(modality: str, depth: int) -> str:
    return f"{modality}_{depth}"


def _joined(parts: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what each part has by name; a picture's names begin with its modality."""
    named = (
        ((f"{modality} {name}" if modality else name), value)
        for modality, values in parts
        for name, value in values.items()
    )
    return dict(named)


def _owner(name: str) -> str:
    """Return the picture whose cells have this name, as "image" of "image normal"; "" if none."""
    return name.partition(" ")[0] if " " in name else ""


def _part(values: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """Return the values of one part, by the names that they have in its space."""
    own = (name for name in values if _owner(name) == modality)
    return {name.removeprefix(f"{modality} "): values[name] for name in own}


def _named(node: Node, modality: str, features: Iterable[str]) -> Node:
    """Return a node of a picture's cells with the names that it has in a joint genotype."""
    if not modality:
        return node
    read = (name if name in features else f"{modality} {name}" for name in node.inputs)
    return Node(f"{modality} {node.name}", node.operator, tuple(read))


def _renamed(node: Node, modality: str) -> Node:
    """Return a node of a joint genotype with the names that it has in the space of its part."""
    prefix = f"{modality} "
    read = tuple(name.removeprefix(prefix) for name in node.inputs)
    return Node(node.name.removeprefix(prefix), node.operator, read)
