"""Features by modality: which of them belong together, and modality dropout.

A feature is named "<modality>_<depth>", as "image_2". Modality dropout takes one
modality away from some samples while training, so that a network does not rest
on one alone (ModDrop, arXiv:1501.00102). Deviation from it: a lost feature is
not zero but its batch mean, which says nothing of the sample and is no outlier
for the norms behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ssnas_core.common.distributed import batch_mean
from ssnas_core.common.errors import InputError


def is_modality(name: str) -> bool:
    """Whether a modality may have this name, which becomes that of features and of modules."""
    taken = name in ("cell", "late") or hasattr(nn.ModuleDict(), name)
    return name.isidentifier() and not taken


def modality_of(name: str) -> str:
    """`"image"` for the feature `"image_2"`; a name without a depth is its own modality."""
    stem, _, depth = name.rpartition("_")
    return stem if stem and depth.isdigit() else name


def by_modality(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the features of each modality, in their order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(modality_of(name), []).append(name)
    return groups


def deepest(channels: Mapping[str, int], taps: int | None) -> dict[str, int]:
    """Of each modality the last `taps` features, which are in order of depth; all if None."""
    groups = by_modality(channels).values()
    chosen = {name for group in groups for name in group[-(taps or len(group)) :]}
    return {name: width for name, width in channels.items() if name in chosen}


def swap_modality(features: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    """Give each row the features of `modality` of the row before it, the first those of the last.

    Args:
        features: (N, ...) each, by name; N >= 2.
        modality: the one that is exchanged.
    """
    return {
        name: value.roll(1, 0) if modality_of(name) == modality else value
        for name, value in features.items()
    }


def only_modality(features: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    """Replace the features of all modalities but one by their batch means, as `drop_modality`.

    Args:
        features: (N, ...) float each, by name.
        modality: the one that is left.

    Raises:
        InputError: a modality that would be replaced has numbers of tokens, and no mean.
    """
    result = {}
    for name, value in features.items():
        if modality_of(name) != modality:
            if not value.is_floating_point():
                raise InputError(
                    f"a masked modality is replaced by its batch mean, which {name} of "
                    f"{value.dtype} has not; keep the backbones frozen, or use another task."
                )
            value = batch_mean(value).expand_as(value)
        result[name] = value
    return result


def drop_modality(
    features: Mapping[str, Tensor], names: Sequence[str], probability: float
) -> Mapping[str, Tensor]:
    """Take from each row one modality, drawn uniformly, with some probability.

    All features of the lost modality become the batch mean of each number. A
    row never loses all modalities; where `names` are of one, nothing is lost.

    Args:
        features: (N, ...) each, by name.
        names: those that the network reads.
        probability: in [0, 1]; at 0 no random number is drawn.

    Returns:
        `features` themselves where nothing can be lost, else those in `names`.
        Chance is torch's global generator of the CPU.
    """
    modalities = list(dict.fromkeys(modality_of(name) for name in names))
    if probability == 0 or len(modalities) < 2:
        return features
    rows = len(features[names[0]])
    lost = torch.randint(len(modalities), (rows,))
    lost[torch.rand(rows) >= probability] = -1
    result = {}
    for name in names:
        value = features[name]
        gone = (lost == modalities.index(modality_of(name))).to(value.device)
        gone = gone.view(-1, *[1] * (value.ndim - 1))
        result[name] = torch.where(gone, batch_mean(value), value)
    return result
