"""The methods that a run compares, and the network of each that nobody searched.

A method is a network and whether it is pretrained. Its name is what people read and
type: "found, pretrained", "late concat", "text only". A network is the found one, a random
one of the space, or a baseline; some baselines read one modality, which then stands first
in the name.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import modality_of
from ssnas_core.runs import BASELINES
from ssnas_core.spaces.fusion.space import FusionConfig

_SEARCHED = ("found", "random")
_OF_ONE_MODALITY = ("only", "transfer", "maxout")


@dataclass(frozen=True)
class Method:
    """One method of a run; `str` gives its name.

    Args:
        network: "found", "random", or a baseline, as "late concat" or "text only".
        pretrained: whether the network is pretrained without labels before it is fine-tuned.
    """

    network: str
    pretrained: bool = False

    def __str__(self) -> str:
        return f"{self.network}, pretrained" if self.pretrained else self.network

    @property
    def searched(self) -> bool:
        """Whether a search found its network."""
        return self.network == "found"

    @property
    def has_genotype(self) -> bool:
        """Whether its network is an architecture of the run's space."""
        return self.network in _SEARCHED

    @property
    def number(self) -> int:
        """A number of its own, from its name alone: a part of its seed."""
        return zlib.crc32(str(self).encode())

    @classmethod
    def parse(cls, name: str | Method, modalities: Iterable[str] | None = None) -> Method:
        """Return the method of that name; unchecked where the modalities are not known.

        Raises:
            InputError: there is none for a data set of these modalities.
        """
        if isinstance(name, Method):
            return name
        network, comma, rest = name.partition(", pretrained")
        if modalities is None:
            return cls(network, bool(comma))
        modalities = tuple(modalities)
        known = {method.network for method in all_methods(modalities)}
        if rest or (network not in known and ":" not in network):
            names = "; ".join(map(str, all_methods(modalities)))
            raise InputError(
                f"unknown method {name!r}; expected one of {names}, or a network of your own as "
                "package.module:Name."
            )
        if network not in known:
            BASELINES.find(network)
        return cls(network, bool(comma))


def methods_of(modalities: Iterable[str]) -> tuple[Method, ...]:
    """Return the methods that a run compares, weakest claim first.

    Of one modality there is nothing to concatenate.
    """
    alone = [Method(f"{modality} only") for modality in modalities][::-1]
    late = (Method("late concat"),) if len(alone) > 1 else ()
    return (*alone, *late, Method("random"), Method("found"), Method("found", True))


def all_methods(modalities: Iterable[str]) -> tuple[Method, ...]:
    """Return every method by name: those that a run compares, then those only done when asked."""
    modalities = tuple(modalities)
    more = [
        *(Method("random", True), Method("late concat", True), Method("gmu"), Method("centralnet")),
        *(Method(f"{name} {kind}") for name in modalities for kind in ("transfer", "maxout")),
    ]
    return (*methods_of(modalities), *more)


def baseline_of(
    network: str,
    channels: Mapping[str, int],
    positions: Mapping[str, int],
    config: FusionConfig,
) -> nn.Module:
    """Return a network without architecture, with fresh weights (torch's global seed).

    Args:
        network: as in `Method`, or "package.module:Name" of a class with the arguments
            (channels, config, positions) and a `width`.
        channels, positions: of each stored feature, by name.
        config: sizes.
    """
    modality, _, kind = network.rpartition(" ")
    if kind in _OF_ONE_MODALITY:
        alone = {name: width for name, width in channels.items() if modality_of(name) == modality}
        return BASELINES.find(kind)(alone, config, positions)
    return BASELINES.find(network)(channels, config, positions)
