"""From raw data to stored features, without a label: decode, fit, train backbones, extract.

One folder per preparation, named by a hash of what decides it. Each part is
computed once; the folder then serves every run on the same data, and the raw
archive is not needed again.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core.backbones import Backbone, TextBackbone, image_backbone, text_backbone
from ssnas_core.datasets.mmimdb import read_mmimdb
from ssnas_core.datasets.records import SPLITS, Dataset, Record
from ssnas_core.errors import InputError
from ssnas_core.features import (
    FeatureStore,
    LiveInputs,
    RawInputs,
    Taps,
    extract_features,
    prepare_inputs,
)
from ssnas_core.files import atomic_path, read_json, write_json
from ssnas_core.inputs import content_key
from ssnas_core.objectives import Contrastive, OnDevice
from ssnas_core.training import TrainConfig, fit, seeded


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Which backbones, how they are trained without labels, and what is stored.

    Args:
        image, text: backbones by name, see `ssnas_core.backbones`.
        pretrained: load published weights where a backbone has any; without,
            they are random.
        views: V, stored augmented views per sample beside the clean one.
        length: L, positions of a pooled feature map.
        image_training, text_training: SimCLR on the train part for the backbones
            that come without weights ("small", "maxout").
        contrastive: the loss of that training.
        seed: of initial weights, training and views.
        strict: refuse the data at the first bad record instead of skipping it.
    """

    image: str = "small"
    text: str = "maxout"
    pretrained: bool = True
    views: int = 8
    length: int = 4
    image_training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=20, batch_size=128, learning_rate=1e-3)
    )
    text_training: TrainConfig = field(
        default_factory=lambda: TrainConfig(epochs=20, batch_size=128, learning_rate=1e-3)
    )
    contrastive: Contrastive = field(default_factory=Contrastive)
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.views < 2:
            raise InputError(
                f"contrastive learning needs at least 2 stored views, got {self.views}."
            )
        if self.length < 1 or math.isqrt(self.length) ** 2 != self.length:
            raise InputError(
                f"length must be a square number (1, 4, 9, 16, ...), got {self.length}."
            )


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: its records, and the features of every sample and view.

    Args:
        folder: where it is.
        dataset: the usable records, in the order of the store's rows.
        store: the features.
        config: how it was made.
    """

    folder: Path
    dataset: Dataset
    store: FeatureStore
    config: PrepareConfig

    def indices(self, split: str) -> Tensor:
        """Rows of a split, (n,) int64."""
        return torch.from_numpy(self.dataset.indices(split))

    def backbones(self) -> dict[str, Backbone]:
        """The backbones that made the features, by modality."""
        backbones = _fresh_backbones(self.dataset, self.config)
        for modality, backbone in backbones.items():
            _load_backbone(self.folder / f"{modality}.pt", backbone)
        return backbones

    def taps(self) -> Taps:
        """The backbones as a module to be trained along, for inputs from `live`."""
        return Taps(self.backbones(), self.config.length)

    def live(self) -> LiveInputs:
        """Decoded images and vectorised texts, augmented when drawn."""
        note = read_json(self.folder / "inputs.json")
        columns: dict[str, Any] = {
            name: np.load(self.folder / "inputs" / note["images"][name], mmap_mode="r")
            if kind == "image"
            else self.dataset.column(name)
            for name, kind in self.dataset.kinds.items()
        }
        inputs = RawInputs(columns, dict(self.dataset.kinds), note["fingerprint"])
        return LiveInputs(
            inputs,
            self.backbones(),
            self.folder / "inputs",
            views=self.config.views,
            seed=self.config.seed,
        )

    def counts(self) -> dict[str, Any]:
        """Name of the data, records per split, and the records left out with the reasons."""
        return {
            "name": self.dataset.name,
            **{split: len(self.dataset.indices(split)) for split in SPLITS},
            "skipped": len(self.dataset.skipped),
            "skipped_records": dict(self.dataset.skipped),
        }

    def describe(self) -> dict[str, Any]:
        """What was prepared, in plain values."""
        return {
            "folder": str(self.folder),
            **self.counts(),
            "features": {
                name: [self.store.positions[name], channels]
                for name, channels in self.store.channels.items()
            },
            "views": self.store.views,
            "megabytes": round(self.store.bytes / 1e6, 1),
        }


class _LastTap(nn.Module):
    """A backbone's deepest tap, averaged over positions: what SimCLR's head is put on."""

    def __init__(self, modality: str, backbone: Backbone) -> None:
        super().__init__()
        self.modality = modality
        self.backbone = backbone

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        *_, last = self.backbone(inputs[self.modality]).values()
        return last.flatten(2).mean(2)


def prepare(
    data: Path,
    folder: Path,
    config: PrepareConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Prepared:
    """Compute what is missing of a preparation, and open it.

    Args:
        data: raw archive or folder.
        folder: parent of all preparations; this one's is named by a hash of
            the data (not its labels) and of `config`.
        config: backbones, views and training.
        device: where backbones run.
        progress: show progress bars on standard error.

    Raises:
        InputError: data that cannot be read, no space, weights that cannot be had.
    """
    config = config or PrepareConfig()
    folder = Path(folder)
    raw = folder / f"raw-{content_key(str(Path(data).resolve()))}"  # of one archive alone
    dataset = read_mmimdb(Path(data), unpack_to=raw, strict=config.strict, progress=progress)
    home = folder / f"prepared-{content_key(dataset.fingerprint(), dataclasses.asdict(config))}"
    home.mkdir(parents=True, exist_ok=True)
    backbones = _fresh_backbones(dataset, config)
    dataset, inputs = prepare_inputs(
        dataset, backbones, home / "inputs", strict=config.strict, progress=progress
    )
    for modality, backbone in backbones.items():
        _ready(modality, backbone, dataset, inputs, home, config, device, progress)
    store = extract_features(
        inputs,
        {name: backbone.to(device) for name, backbone in backbones.items()},
        home / "features",
        views=config.views,
        length=config.length,
        seed=config.seed,
        progress=progress,
    )
    images = {name: inputs.columns[name] for name, k in inputs.kinds.items() if k == "image"}
    note = {
        "images": {name: _on_disk(array, home / "inputs", name) for name, array in images.items()},
        "fingerprint": inputs.fingerprint,
    }
    write_json(home / "inputs.json", note)
    return Prepared(home, dataset, store, config)


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write the records (without images) to `path`, so that the raw data is not needed again."""
    records = [
        {
            "id": record.id,
            "inputs": {name: str(value) for name, value in record.inputs.items()},
            "labels": record.labels,
            "split": record.split,
        }
        for record in dataset.records
    ]
    told = {name: getattr(dataset, name) for name in ("name", "kinds", "classes", "skipped")}
    write_json(path, {**told, "records": records})


def load_dataset(path: Path) -> Dataset:
    """What `save_dataset` wrote.

    Raises:
        InputError: the file is missing, or is none of these.
    """
    told = read_json(path)
    try:
        records = tuple(
            Record(
                entry["id"],
                {
                    name: Path(value) if told["kinds"][name] == "image" else value
                    for name, value in entry["inputs"].items()
                },
                tuple(entry["labels"]),
                entry["split"],
            )
            for entry in told["records"]
        )
        return Dataset(
            told["name"], told["kinds"], tuple(told["classes"]), records, told["skipped"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} does not hold records ({error!r}); delete it.") from error


def _fresh_backbones(dataset: Dataset, config: PrepareConfig) -> dict[str, Backbone]:
    backbones: dict[str, Backbone] = {}
    for place, (modality, kind) in enumerate(dataset.kinds.items()):
        with seeded(config.seed, 40, place):
            if kind == "text":
                backbones[modality] = text_backbone(config.text)
            else:
                trained = config.pretrained and config.image != "small"
                weights = "DEFAULT" if trained else None
                backbones[modality] = image_backbone(config.image, weights=weights)
    return backbones


def _ready(
    modality: str,
    backbone: Backbone,
    dataset: Dataset,
    inputs: RawInputs,
    home: Path,
    config: PrepareConfig,
    device: torch.device | str,
    progress: bool,
) -> None:
    """Fit a backbone, and train it by SimCLR if it came without weights; once, kept in `home`."""
    file = home / f"{modality}.pt"
    if file.exists():
        _load_backbone(file, backbone)
        return
    train = torch.from_numpy(dataset.indices("train"))
    is_text = isinstance(backbone, TextBackbone)
    if isinstance(backbone, TextBackbone):
        texts = inputs.columns[modality]
        backbone.fit([texts[row] for row in train.tolist()])
    if (config.text if is_text else config.image) in ("small", "maxout"):
        kind = dataset.kinds[modality]
        column = {modality: inputs.columns[modality]}
        alone = RawInputs(column, {modality: kind}, inputs.fingerprint)
        live = LiveInputs(
            alone, {modality: backbone}, home / "inputs", views=config.views, seed=config.seed
        )
        checkpoint = home / f"{modality}-training.pt"
        with seeded(config.seed, 41):
            *_, width = backbone.channels.values()
            head = config.contrastive.head(width)
            model = nn.Sequential(_LastTap(modality, backbone), head).to(device)
        history = fit(
            model,
            OnDevice(live, device),
            config.contrastive,
            train,
            config.text_training if is_text else config.image_training,
            seed=config.seed,
            checkpoint=checkpoint,
            progress=f"SimCLR of the {modality} backbone" if progress else None,
        )
        write_json(home / f"{modality}-training.json", history)
        checkpoint.unlink(missing_ok=True)
    with atomic_path(file) as temporary:
        torch.save({name: value.cpu() for name, value in backbone.state_dict().items()}, temporary)


def _load_backbone(file: Path, backbone: Backbone) -> None:
    try:
        backbone.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a broken file, with long advice
        raise InputError(
            f"{file} is not a usable backbone ({type(error).__name__}); delete {file.parent} "
            "to prepare anew."
        ) from error


def _on_disk(array: np.ndarray, folder: Path, modality: str) -> str:
    """Name of the file in `folder` that holds the decoded images."""
    if isinstance(array, np.memmap) and array.filename is not None:
        return Path(array.filename).name
    with atomic_path(folder / f"{modality}.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, array)
    return f"{modality}.npy"
