"""How a backbone that comes without weights learns: without labels, or from a part of them.

Without, by SimCLR on all train rows. From labels, by a linear classifier on its
deepest tap, on the labelled train rows alone, in twice the steps: SimCLR draws two
views of a sample in a step, so both see as many full batches of them, and what
labels gain or lose is not a matter of training for longer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import Backbone
from ssnas_core.common.random import seeded
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.splits import labelled_part
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.inputs import RawInputs, content_key
from ssnas_core.features.live import LiveInputs
from ssnas_core.objectives.base import OnDevice
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.training.loop import TrainConfig, fit


@dataclass(frozen=True)
class Labels:
    """The labels that backbones may learn from.

    Args:
        rows: labelled rows of train, (n,) int64.
        objective: it holds the labels of these rows, and no other's.
    """

    rows: Tensor
    objective: Supervised

    @classmethod
    def of(cls, dataset: Dataset, ratio: float, seed: int) -> Labels:
        """Those of the train part of `labelled_part(dataset, ratio, seed)`.

        Raises:
            InputError: as `labelled_part`.
        """
        rows = torch.from_numpy(labelled_part(dataset, ratio, seed).train)
        known = torch.from_numpy(dataset.targets())
        known = known if known.ndim == 1 else known.float()
        # NaN, or a class that is none: no loss can be made of what may not be read
        labels = torch.full_like(known, -1 if known.ndim == 1 else torch.nan)
        labels[rows] = known[rows]
        return cls(rows, Supervised(labels=labels, classes=len(dataset.classes)))

    def key(self) -> str:
        """16 hex digits that name the rows and their labels."""
        return content_key(self.rows.tolist(), self.objective.labels[self.rows].tolist())


class _LastTap(nn.Module):
    """A backbone's deepest tap, averaged over positions: what the head is put on."""

    def __init__(self, modality: str, backbone: Backbone) -> None:
        super().__init__()
        self.modality = modality
        self.backbone = backbone

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        *_, last = self.backbone(inputs[self.modality]).values()
        return last.flatten(2).mean(2)


def train_backbone(
    modality: str,
    backbone: Backbone,
    inputs: RawInputs,
    folder: Path,
    config: PrepareConfig,
    train: Tensor,
    labels: Labels | None = None,
    *,
    device: torch.device | str,
    checkpoint: Path,
    progress: bool,
) -> list[dict[str, Any]]:
    """Train a fitted backbone in place; returns the history that `fit` gives.

    Args:
        modality: the backbone's.
        backbone: with fresh weights; left on `device`.
        inputs: of all modalities.
        folder: for vectorised texts.
        config: schedule, views and seed.
        train: rows of the train part.
        labels: those to learn from; without, no label is read.
        device: where it is trained.
        checkpoint: to go on from after a kill.
        progress: show a progress bar on standard error.
    """
    kind = inputs.kinds[modality]
    alone = RawInputs({modality: inputs.columns[modality]}, {modality: kind}, inputs.fingerprint)
    live = LiveInputs(
        alone,
        {modality: backbone},
        folder,
        views=config.views,
        augment=config.augment,
        seed=config.seed,
    )
    training: TrainConfig = getattr(config, f"{kind}_training")
    objective, rows, label = config.contrastive, train, "SimCLR of"
    if labels is not None:
        objective, rows, label = labels.objective, labels.rows, "labels for"
        steps = 2 * training.epochs * (len(train) // min(training.batch_size, len(train)))
        training = dataclasses.replace(training, min_steps=max(training.min_steps, steps))
    with seeded(config.seed, 41):
        *_, width = backbone.channels.values()
        model = nn.Sequential(_LastTap(modality, backbone), objective.head(width)).to(device)
    return fit(
        model,
        OnDevice(live, device),
        objective,
        rows,
        training,
        seed=config.seed,
        checkpoint=checkpoint,
        progress=f"{label} the {modality} backbone" if progress else None,
    )
