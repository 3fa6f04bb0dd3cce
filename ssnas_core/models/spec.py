"""What a saved classifier is, in plain values: all but its backbones and its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import is_modality, modality_of
from ssnas_core.spaces.fusion.networks import FusionConfig
from ssnas_core.spaces.fusion.space import FusionSpace
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.spaces.layers import LayersConfig, LayerSpace


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """All that decides a classifier but its backbones and its weights.

    Args:
        kinds: modality -> "image", "text" or "array", of the data set.
        shapes: shape of each array modality's values: (C,) or (P, C).
        classes: names of the K classes.
        single_label: softmax over the classes; else a sigmoid for each.
        threshold: a label is predicted where its probability is larger; None
            where `single_label`.
        length: positions that feature maps are pooled to.
        channels, positions: of every feature "<modality>_<tap>", in the order of the
            features that the genotype was found over.
        fusion: sizes of the fusion network.
        genotype: the fusion network; None where features are only concatenated.
        features: the features that are read; of a genotype they are its own.
        layers: sizes instead of `fusion`'s, of a genotype of the layer space.

    Raises:
        InputError: fields that contradict each other.
    """

    kinds: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    classes: tuple[str, ...]
    single_label: bool
    threshold: float | None
    length: int
    channels: Mapping[str, int]
    positions: Mapping[str, int]
    fusion: FusionConfig
    genotype: Genotype | None
    features: tuple[str, ...]
    layers: LayersConfig | None = None

    def __post_init__(self) -> None:
        arrays = {name for name, kind in self.kinds.items() if kind == "array"}
        bad = [name for name in self.kinds if not is_modality(name)]
        sizes = [*self.channels.values(), *self.positions.values(), self.length]
        modalities = {modality_of(name) for name in self.channels}
        reads = self.features if self.genotype is None else self.genotype.features
        steps = self.fusion.steps + (self.fusion.steps > 1)  # several are concatenated by a node
        least = most = steps * self.fusion.cells
        if self.layers is not None:
            least, most = 1, self.layers.layers
        count = most if self.genotype is None else len(self.genotype.nodes)
        space = None if self.genotype is None else self.genotype.space
        layered = self.layers is not None
        for wrong, told in (
            (bad, f"modalities named by identifiers that are free, got {bad}"),
            (set(self.kinds.values()) - {"image", "text", "array"}, f"kinds, got {self.kinds}"),
            (arrays != self.shapes.keys(), f"a shape of each array, got {[*self.shapes]}"),
            (len({*self.classes}) < max(len(self.classes), 1), "classes of distinct names"),
            (
                self.single_label != (self.threshold is None)
                or not 0 <= (self.threshold or 0) <= 1,
                f"a threshold in [0, 1] for several labels only, got {self.threshold}",
            ),
            (min(sizes) < 1 or math.isqrt(self.length) ** 2 != self.length, "sizes >= 1"),
            (self.channels.keys() != self.positions.keys(), "positions of the same features"),
            (modalities != self.kinds.keys(), f"features of each modality, got {modalities}"),
            (not self.features or set(self.features) - self.channels.keys(), "features it has"),
            (set(reads) != set(self.features), f"the genotype's features, got {self.features}"),
            (layered != (space == "layers"), f"sizes of its own space, got a genotype of {space}"),
            (not least <= count <= most, f"a genotype of {most} nodes, got {count}"),
        ):
            if wrong:
                raise InputError(f"a classifier needs {told}; mend its description.")

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that are read, in the order of `kinds`."""
        reads = {modality_of(name) for name in self.features}
        return tuple(name for name in self.kinds if name in reads)

    @property
    def space(self) -> FusionSpace | LayerSpace:
        """The space of the genotype."""
        if self.layers is not None:
            return LayerSpace(self.channels, self.layers)
        return FusionSpace(self.channels, self.fusion)

    @property
    def modality_dropout(self) -> float:
        """The probability with which a sample lost a modality in training."""
        return (self.layers or self.fusion).modality_dropout

    @property
    def width(self) -> int:
        """D, numbers in an embedding: what the head sees."""
        if self.layers is not None:
            return self.layers.channels
        if self.genotype is not None:
            return self.fusion.cells * self.fusion.length * self.fusion.channels
        return self.fusion.channels * sum(self.positions[name] for name in self.features)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of those weights that follow from this alone, by their names."""
        means = {
            f"missing.{name}": (self.positions[name], channels)
            for name, channels in self.channels.items()
            if modality_of(name) in self.modalities
        }
        return {"head.weight": (len(self.classes), self.width), **means}
