"""From raw data to stored features: decode, fit, train backbones, extract.

No label is read unless backbones are to learn from a labelled part. One folder
per preparation, named by a hash of what decides it. Each part is computed once;
the folder then serves every run on the same data, and the raw archive is not
needed again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssnas_core.backbones.base import ArrayBackbone, Backbone, TextBackbone
from ssnas_core.backbones.factory import backbone_from_config, is_own, open_backbone
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import (
    atomic_path,
    disk_errors,
    load_states,
    map_array,
    path_text,
    plain_name,
    read_fields,
    read_json,
    write_json,
)
from ssnas_core.common.locks import alone_in
from ssnas_core.common.random import seeded
from ssnas_core.common.typed import plain, typed
from ssnas_core.datasets.facts import doubts, labels_in_words
from ssnas_core.datasets.open import open_dataset
from ssnas_core.datasets.records import SPLITS, Dataset
from ssnas_core.datasets.table import TableOptions
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.coverage import Known, coverage, unknown_texts
from ssnas_core.features.extract import Taps, extract_features
from ssnas_core.features.images import DECODED_VERSION
from ssnas_core.features.inputs import RawInputs, content_key, prepare_inputs
from ssnas_core.features.live import LiveInputs
from ssnas_core.features.store import FeatureStore
from ssnas_core.features.train_backbones import Labels, train_backbone

_LOG = logging.getLogger(__name__)
_REMEDY = (
    "; for languages without spaces between words take the text backbone 'characters' "
    "(--prepare.text characters)"
)


def stored_columns(folder: Path) -> dict[str, Any]:
    """Return the decoded images and the arrays of the preparation in `folder`, by modality.

    Raises:
        InputError: they are missing or broken, or named by a path.
    """
    note = folder / "inputs.json"
    files = typed(dict[str, str], read_fields(note, "files")["files"], f"{note}: files")
    return {
        name: map_array(folder / "inputs" / plain_name(file, str(note)))
        for name, file in files.items()
    }


def lend_files(source: Path, target: Path) -> None:
    """Give the folder `target` the files of `source` that it lacks, as links where these work.

    No file of either is ever written in place, so none sees what becomes of the other.

    Raises:
        InputError: no space, or a folder that cannot be written.
    """
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.iterdir()) if source.is_dir() else ():  # texts alone leave none
            lent = target / file.name
            if file.name.startswith(".") or lent.exists():
                continue
            with suppress(OSError):  # as on file systems without links
                os.link(file, lent)
            if not lent.exists():
                with atomic_path(lent) as temporary:
                    shutil.copyfile(file, temporary)


def saved_backbone(folder: Path, modality: str) -> Backbone:
    """Return the backbone that made a modality's features.

    Raises:
        InputError: its files are missing or broken, or not of each other.
    """
    config, weights = (folder / f"{modality}.{ending}" for ending in ("json", "pt"))
    state = load_states(weights, "backbone")
    try:
        backbone = backbone_from_config(read_json(config), folder / f"{modality}-files", state)
    except InputError as error:
        raise InputError(f"{config}: {error}") from error
    try:
        backbone.load_state_dict(state)
    except Exception as error:  # torch raises many kinds for what does not fit, with long advice
        raise InputError(
            f"{weights} is not a usable backbone ({type(error).__name__}); delete it."
        ) from error
    return backbone


def unpacked_in(folder: Path, archive: Path) -> Path:
    """Return where a store has the files of an archive: a folder of this archive alone."""
    return folder / f"raw-{content_key(str(Path(archive).resolve()))}"


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
        return {modality: saved_backbone(self.folder, modality) for modality in self.dataset.kinds}

    def taps(self) -> Taps:
        """The backbones as a module to be trained along, for inputs from `live`."""
        return Taps(self.backbones(), self.config.length)

    def live(self, *, fresh_texts: bool = False) -> LiveInputs:
        """Decoded images, texts and arrays, augmented when drawn.

        A text's views are those vectorised once, unless `fresh_texts` are asked for.
        """
        columns = stored_columns(self.folder)
        for name in self.dataset.kinds.keys() - columns.keys():
            columns[name] = self.dataset.column(name)
        fingerprint = read_fields(self.folder / "inputs.json", "fingerprint")["fingerprint"]
        inputs = RawInputs(columns, dict(self.dataset.kinds), fingerprint)
        return LiveInputs(
            inputs,
            self.backbones(),
            self.folder / "inputs",
            views=None if fresh_texts else self.config.views,
            augment=self.config.augment,
            seed=self.config.seed,
        )

    def known(self) -> dict[str, Mapping[str, Known]]:
        """What the text backbones know of the texts: modality -> split -> `Known`."""
        file = self.folder / "known.json"
        if not file.exists():
            texts = [name for name, kind in self.dataset.kinds.items() if kind == "text"]
            backbones = {name: saved_backbone(self.folder, name) for name in texts}
            write_json(file, plain(coverage(self.dataset, backbones)))
        return typed(dict[str, Mapping[str, Known]], read_json(file), str(file))

    def counts(self) -> dict[str, Any]:
        """Name of the data, records per split, unlabelled ones, and those left out, and why.

        `texts` has, by modality and split, how many texts have no known word (`unknown`) and
        the share of the words that is known (`words`).
        """
        return {
            "name": self.dataset.name,
            **{split: len(self.dataset.indices(split)) for split in SPLITS},
            "texts": plain(self.known()),
            "unlabelled": int((~self.dataset.labelled()).sum()),
            "skipped": len(self.dataset.skipped),
            "skipped_records": dict(self.dataset.skipped),
        }

    def describe(self) -> dict[str, Any]:
        """Return what was prepared, in plain values."""
        return {
            "folder": str(self.folder),
            "labels": labels_in_words(self.dataset),
            **self.counts(),
            "features": {
                name: [self.store.positions[name], channels]
                for name, channels in self.store.channels.items()
            },
            "views": self.store.views,
            "megabytes": round(self.store.bytes / 1e6, 1),
        }


def prepare(
    data: Path | Dataset,
    folder: Path,
    config: PrepareConfig | None = None,
    *,
    table: TableOptions | None = None,
    label_ratio: float | None = None,
    label_seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Prepared:
    """Compute what is missing of a preparation, and open it.

    Args:
        data: what `open_dataset` reads, or a dataset.
        folder: parent of all preparations; this one's is named by a hash of
            the data (not its labels) and of `config`; and of the labels learnt from.
        config: backbones, views and training.
        table: what the columns are, where the data is a table.
        label_ratio: train the backbones that learn with the labels of that part of
            train, `labelled_part(dataset, label_ratio, label_seed)`, in twice the steps;
            by default, or where none learns, without a label.
        label_seed: which part.
        device: where backbones run.
        progress: show progress bars on standard error.

    Raises:
        InputError: data that cannot be read, no space, weights that cannot be had,
            or a label ratio that leaves fewer than two labelled rows of train.
    """
    config = config or PrepareConfig()
    folder = Path(folder)
    path_text(folder.resolve())  # what no file could name is refused before any work
    raw = None if isinstance(data, Dataset) else unpacked_in(folder, data)
    dataset = open_dataset(
        data, table=table, unpack_to=raw, strict=config.strict, progress=progress
    )
    backbones = fresh_backbones(dataset, config)  # first: a mistaken name is told at once
    used = config.of_kinds(dataset.kinds.values())
    content: list[Any] = [_stamp(part) for part in (used.image, used.text)]
    content += [one.fingerprint() for one in backbones.values() if is_own(one)]
    if "image" in dataset.kinds.values():
        content.append(DECODED_VERSION)  # what backbones learnt from other pixels is not used
    key = content_key(dataset.fingerprint(), used.plain(), content)
    home = unlabelled = folder / f"prepared-{key}"
    labels = None

    def decoded() -> tuple[Dataset, RawInputs]:
        return prepare_inputs(
            dataset, backbones, home / "inputs", strict=config.strict, progress=progress
        )

    if label_ratio is not None and any(backbone.learns for backbone in backbones.values()):
        with alone_in(unlabelled, "preparing", wait=True):
            labels = Labels.of(decoded()[0], label_ratio, label_seed)
        home = folder / f"prepared-{content_key(key, labels.key())}"
    with alone_in(home, "preparing", wait=True):
        if home != unlabelled:
            lend_files(unlabelled / "inputs", home / "inputs")  # its decoded images are the same
        usable, inputs = decoded()
        for modality, fresh in backbones.items():
            if (home / f"{modality}.pt").exists():
                backbones[modality] = saved_backbone(home, modality)
            else:
                _train(modality, fresh, usable, inputs, home, config, labels, device, progress)
                _save(fresh, home, modality)
            (home / f"{modality}-training.pt").unlink(missing_ok=True)  # the checkpoint
        store = extract_features(
            inputs,
            {name: backbone.to(device) for name, backbone in backbones.items()},
            home / "features",
            views=config.views,
            length=config.length,
            seed=config.seed,
            augment=config.augment,
            progress=progress,
        )
        rows = {name: inputs.columns[name] for name, kind in inputs.kinds.items() if kind != "text"}
        note = {
            "files": {name: Path(array.filename).name for name, array in rows.items()},
            "fingerprint": inputs.fingerprint,
        }
        write_json(home / "inputs.json", note)
        prepared = Prepared(home, usable, store, config)
        for line in doubts(dataset):
            _LOG.warning("%s: %s", dataset.name, line)
        for line in unknown_texts(prepared.known()):
            remedy = "" if config.text == "characters" else _REMEDY
            _LOG.warning("%s: %s%s", dataset.name, line, remedy)
    return prepared


def _stamp(part: Any) -> list[list[Any]]:
    """Return name, size and time of the files that a backbone's name leads to."""
    name = part.removeprefix("segments:") if isinstance(part, str) else ""
    kind, _, name = name.partition(":")
    path = Path((name.partition("@")[2] if kind == "timm" else name) or "no file")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def fresh_backbones(dataset: Dataset, config: PrepareConfig) -> dict[str, Backbone]:
    """Return the backbones of a dataset's modalities as they are before they see any data."""
    backbones: dict[str, Backbone] = {}
    for place, (modality, kind) in enumerate(dataset.kinds.items()):
        part = getattr(config, kind)
        asked: dict[str, Any] = {"weights": "DEFAULT" if config.pretrained else None}
        if kind == "image":
            asked["size"] = config.image_size
        elif kind == "text":
            asked["positions"] = config.length
        elif kind == "array":
            asked["positions"] = config.length
            asked["shape"] = shape = dataset.records[0].inputs[modality].shape
            part = "identity" if part == "maxout" and len(shape) > 1 else part
        with seeded(config.seed, 40, place):
            backbones[modality] = open_backbone(kind, part, **asked)
    return backbones


def _train(
    modality: str,
    backbone: Backbone,
    dataset: Dataset,
    inputs: RawInputs,
    home: Path,
    config: PrepareConfig,
    labels: Labels | None,
    device: torch.device | str,
    progress: bool,
) -> None:
    """Fit a backbone, and train it if it came without weights."""
    train = torch.from_numpy(dataset.indices("train"))
    column = inputs.columns[modality]
    if isinstance(backbone, TextBackbone):
        backbone.fit([column[row] for row in train.tolist()])
    elif isinstance(backbone, ArrayBackbone):
        backbone.fit(column[train.numpy()])
    if backbone.learns:
        history = train_backbone(
            modality,
            backbone,
            inputs,
            home / "inputs",
            config,
            train,
            labels,
            device=device,
            checkpoint=home / f"{modality}-training.pt",
            progress=progress,
        )
        write_json(home / f"{modality}-training.json", history)


def _save(backbone: Backbone, home: Path, modality: str) -> None:
    """Write a backbone's files, config and, last, weights."""
    files = home / f"{modality}-files"
    with disk_errors(files):
        files.mkdir(exist_ok=True)
        backbone.save_files(files)
    write_json(home / f"{modality}.json", backbone.config())
    state = {name: value.cpu() for name, value in backbone.state_dict().items()}
    file = home / f"{modality}.pt"
    with atomic_path(file) as temporary, open(temporary, "wb") as opened:  # its errors have numbers
        torch.save(state, opened)
