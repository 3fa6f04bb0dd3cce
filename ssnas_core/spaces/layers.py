"""The layer space: which depths of each modality meet, layer after layer (MFAS, arXiv:1903.06496).

Fusion layer l takes one feature of each modality and the layer before it,
h_l = act(W_l [x_A; x_B; h_(l-1)] + b_l), with act in {ReLU, sigmoid} (sec. 3.1,
eq. 1). A genotype has 1 to `layers` of them; the network's output is the last.
Every choice of features and activations is an architecture of its own, so no two
genotypes stand for the same network.

Features are averaged over their positions. Deviations from MFAS:

- Features are brought to mean 0 and variance 1 by a batch norm without weights
  (`normalise`), where MFAS takes the numbers as they are: with ours it then
  hardly learns.
- There may be more than two modalities; each layer takes one feature of each.
- A random genotype is uniform over the space, so most have all layers, where
  MFAS's random search draws the number of layers first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import by_modality, drop_modality
from ssnas_core.common.typed import check_fields
from ssnas_core.spaces.base import check_dropouts
from ssnas_core.spaces.genotype import Genotype, Node

_ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid}

_Layer = tuple[int, ...]  # which feature of each modality, then which activation


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """Fusion layers: which depths meet (MFAS).

    Defaults: layers and width of MFAS's search; its code has a dropout of 0.5 and does not
    normalise.
    """

    lacks: ClassVar[tuple[str, ...]] = ("supernet",)  # methods that its space has not

    layers: int = 4  # at most
    channels: int = 16  # C, width of each layer
    dropout: float = 0.0  # after each layer, in all training
    modality_dropout: float = 0.0  # probability that a sample loses one modality in training
    normalise: bool = True  # features, before the layers

    def __post_init__(self) -> None:
        check_fields(self, layers=1, channels=1)
        check_dropouts(self)

    def open(
        self, channels: Mapping[str, int], positions: Mapping[str, int] | None = None
    ) -> LayerSpace:
        """Return the space over features of so many `channels`, by name, at any positions."""
        return LayerSpace(channels, self)


class LayerSpace:
    """The architectures of fusion layers over a set of named features.

    Args:
        channels: channels of each feature by name, in order of modality and depth,
            e.g. `{"image_0": 32, ..., "text_0": 300}`.
        config: number of layers, and sizes.

    Raises:
        InputError: features of one modality alone, or a modality named "layer" or
            "activation", as other things are here.
    """

    name = "layers"

    def __init__(self, channels: Mapping[str, int], config: LayersConfig | None = None) -> None:
        self.channels = dict(channels)
        self.config = config or LayersConfig()
        self.features = tuple(self.channels)
        self._by_modality = by_modality(self.features)
        # the values of a token
        self._parts = (*map(tuple, self._by_modality.values()), tuple(_ACTIVATIONS))
        if len(self._by_modality) < 2 or self._by_modality.keys() & {"layer", "activation"}:
            raise InputError(
                "the layer space needs features of at least two modalities, none of them named "
                f"layer or activation, got {str(list(self.features))[:200]}; use the fusion space."
            )

    @property
    def levels(self) -> int:
        """Layers that a genotype has at most."""
        return self.config.layers

    @property
    def token_sizes(self) -> tuple[int, ...]:
        """How many values each number of a layer's token has."""
        return tuple(map(len, self._parts))

    @property
    def variables(self) -> dict[str, tuple[str, ...]]:
        """The values of each choice: the number of layers, and each one's features and activation.

        The variables of layers beyond the chosen number decide nothing.
        """
        numbers = tuple(str(1 + level) for level in range(self.levels))
        values: dict[str, tuple[str, ...]] = {"layers": numbers}
        for level in range(self.levels):
            values |= zip(self._variables_of(level), self._parts, strict=True)
        return values

    def decode(self, choice: Mapping[str, int]) -> Genotype:
        """Return the genotype of a value (its number, from 0) for each of the `variables`."""
        return self._genotype(
            [
                tuple(choice[name] for name in self._variables_of(level))
                for level in range(1 + choice["layers"])
            ]
        )

    def encode(self, genotype: Genotype) -> dict[str, int]:
        """Return a choice that decodes to `genotype`; 0 where a variable decides nothing."""
        layers = self.tokens(genotype)
        choice = {**dict.fromkeys(self.variables, 0), "layers": len(layers) - 1}
        for level, layer in enumerate(layers):
            choice |= zip(self._variables_of(level), layer, strict=True)
        return choice

    def _variables_of(self, level: int) -> tuple[str, ...]:
        return tuple(f"layer_{level} {what}" for what in (*self._by_modality, "activation"))

    def sample(self, generator: torch.Generator) -> Genotype:
        """Return a genotype drawn uniformly from the space."""
        options = list(self._options())
        sizes = torch.tensor([float(len(options)) ** (1 + level) for level in range(self.levels)])
        count = 1 + int(torch.multinomial(sizes / sizes.sum(), 1, generator=generator))
        drawn = torch.randint(len(options), (count,), generator=generator)
        return self._genotype([options[place] for place in drawn.tolist()])

    def genotypes(self) -> Iterator[Genotype]:
        """Yield every genotype of the space, those of fewer layers first."""
        for count in range(1, self.levels + 1):
            for layers in itertools.product(self._options(), repeat=count):
                yield self._genotype(layers)

    def first(self, count: int) -> LayerSpace:
        """Return the space of the genotypes of at most `count` layers."""
        return LayerSpace(self.channels, replace(self.config, layers=count))

    def extensions(self, prefix: Genotype | None) -> list[Genotype]:
        """Return every genotype that is `prefix` and one layer more; of one layer for None."""
        before = [] if prefix is None else self.tokens(prefix)
        if len(before) == self.levels:
            return []
        return [self._genotype([*before, layer]) for layer in self._options()]

    def tokens(self, genotype: Genotype) -> list[tuple[int, ...]]:
        """Return, per layer, the feature of each modality and the activation as numbers.

        Raises:
            InputError: as `validate`.
        """
        wrong = f"{genotype!s:.300} is not a genotype of this space"
        if genotype.space != self.name:
            raise InputError(f"{wrong}: expected {self.name}, got {genotype.space}.")
        if len(genotype.nodes) > self.levels:
            raise InputError(
                f"{wrong}: expected 1 to {self.levels} layers, got {len(genotype.nodes)}."
            )
        layers = []
        for level, node in enumerate(genotype.nodes):
            parts, count = self._parts, len(self._by_modality)
            before = (f"layer_{level - 1}",) if level else ()
            chosen = (*node.inputs[:count], node.operator)
            fits = len(chosen) == len(parts) and all(map(tuple.__contains__, parts, chosen))
            if node.name != f"layer_{level}" or not fits or node.inputs[count:] != before:
                inputs = ["|".join(names) for names in parts[:-1]]
                raise InputError(
                    f"{wrong}: expected layer_{level} = {'|'.join(_ACTIVATIONS)}"
                    f"({', '.join((*inputs, *before))[:300]}); got {node.name} = {node!s:.200}."
                )
            layers.append(tuple(map(tuple.index, parts, chosen)))
        return layers

    def validate(self, genotype: Genotype) -> None:
        """Raise unless `genotype` is in this space.

        Raises:
            InputError: another space, too many layers, or unknown features,
                activations or names.
        """
        self.tokens(genotype)

    def build(self, genotype: Genotype) -> _LayersNetwork:
        """Return the network of `genotype` with fresh weights (torch's global seed)."""
        self.validate(genotype)
        return _LayersNetwork(self.channels, genotype.nodes, self.config)

    def _options(self) -> Iterator[_Layer]:
        return itertools.product(*map(range, self.token_sizes))

    def _genotype(self, layers: Sequence[_Layer]) -> Genotype:
        nodes = []
        for level, layer in enumerate(layers):
            *inputs, operator = map(tuple.__getitem__, self._parts, layer)
            before = [f"layer_{level - 1}"] if level else []
            nodes.append(Node(f"layer_{level}", operator, (*inputs, *before)))
        return Genotype(self.name, tuple(nodes))


class _LayersNetwork(nn.Module):
    """The network of one genotype; it reads only the features that the genotype uses."""

    def __init__(
        self, channels: Mapping[str, int], nodes: Sequence[Node], config: LayersConfig
    ) -> None:
        super().__init__()
        used = {name for node in nodes for name in node.inputs}
        self.features = [name for name in channels if name in used]
        self.width = config.channels
        self.modality_dropout = config.modality_dropout
        self._nodes = tuple(nodes)
        self._sizes = [
            tuple(channels.get(name, config.channels) for name in node.inputs) for node in nodes
        ]
        self.layers = nn.ModuleList(nn.Linear(sum(sizes), self.width) for sizes in self._sizes)
        self.dropout = nn.Dropout(config.dropout)
        norm = partial(nn.BatchNorm1d, affine=False) if config.normalise else nn.Identity
        self.norms = nn.ModuleDict({name: norm(channels[name]) for name in self.features})

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return embeddings (N, C), the last layer, of features (N, P, C_in) by name."""
        if self.training:
            features = drop_modality(features, self.features, self.modality_dropout)
        states = {
            name: norm(features[name].mean(1)) for name, norm in self.norms.items()
        }  # (N, C_in)
        for node, layer in zip(self._nodes, self.layers, strict=True):
            joined = torch.cat([states[name] for name in node.inputs], 1)
            states[node.name] = self.dropout(_ACTIVATIONS[node.operator](layer(joined)))
        return states[self._nodes[-1].name]

    def sharing(self) -> dict[str, str]:
        """Return the key under which networks share each weight: layer, input sizes, activation."""
        keys = {}
        for level, (node, sizes) in enumerate(zip(self._nodes, self._sizes, strict=True)):
            for what in ("weight", "bias"):
                layer = f"{node.name} {'+'.join(map(str, sizes))} {node.operator}"
                keys[f"layers.{level}.{what}"] = f"{layer} {what}"
        return keys
