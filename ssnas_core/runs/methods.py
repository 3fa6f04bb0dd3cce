"""What a run compares: its methods by name, the network of each, and how all are scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssnas_core.common.errors import InputError
from ssnas_core.common.modalities import modality_of
from ssnas_core.runs.baselines import GMU, CentralNet, LateConcat, MaxoutNetwork, Transfer
from ssnas_core.spaces.fusion.networks import FusionConfig

Baseline = LateConcat | Transfer | MaxoutNetwork | GMU | CentralNet


def methods_of(modalities: Iterable[str]) -> tuple[str, ...]:
    """The methods for a data set of these modalities, weakest claim first."""
    alone = [f"{modality} only" for modality in modalities][::-1]
    return (*alone, "late concat", "random", "found", "found, pretrained")


def further_methods_of(modalities: Iterable[str]) -> tuple[str, ...]:
    """Methods that a run does not compare unless asked for them by name."""
    alone = [f"{modality} {kind}" for modality in modalities for kind in ("transfer", "maxout")]
    return ("random, pretrained", "late concat, pretrained", "gmu", "centralnet", *alone)


def kind_of(method: str) -> str:
    """What a method trains, pretrained or not: the part of its name before the comma."""
    return method.partition(",")[0]


def check_method(method: str, modalities: Iterable[str]) -> None:
    """Raise `InputError` where `method` is none that there is for these modalities."""
    modalities = tuple(modalities)
    known = (*methods_of(modalities), *further_methods_of(modalities))
    if method not in known:
        raise InputError(f"unknown method {method!r}; expected one of {'; '.join(known)}.")


def baseline_of(
    method: str,
    channels: Mapping[str, int],
    positions: Mapping[str, int],
    config: FusionConfig,
) -> Baseline:
    """The network of a method without architecture, with fresh weights (torch's global seed).

    Args:
        method: one of `methods_of` or `further_methods_of`.
        channels, positions: of each stored feature, by name.
        config: sizes.
    """
    if method == "gmu":
        return GMU(channels, config, positions)
    if method == "centralnet":
        return CentralNet(channels, config, positions)
    if method.startswith("late concat"):
        return LateConcat(channels, config, positions)
    modality, _, kind = method.rpartition(" ")
    alone = {name: width for name, width in channels.items() if modality_of(name) == modality}
    if kind == "transfer":
        return Transfer(alone, config)
    if kind == "maxout":
        return MaxoutNetwork(alone, config, positions)
    return LateConcat(alone, config, positions)
