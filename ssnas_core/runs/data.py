"""What a run works on: its configuration, folder, features and labels."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ssnas_core.common.distributed import on_rank_zero
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_fields, read_name, write_json
from ssnas_core.common.typed import typed
from ssnas_core.datasets.open import form_of
from ssnas_core.datasets.records import load_dataset, save_dataset
from ssnas_core.features.live import LiveFeatures
from ssnas_core.features.prepare import Prepared, prepare, stored_columns
from ssnas_core.features.store import FeatureStore
from ssnas_core.objectives.base import OnDevice, Source
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.runs.folder import RunFolder, pick_device
from ssnas_core.runs.methods import methods_of
from ssnas_core.runs.recipes import Recipe, RunConfig, is_in_memory
from ssnas_core.spaces.fusion.space import FusionSpace
from ssnas_core.spaces.layers import LayerSpace
from ssnas_core.training.metrics import Scoring

_LOG = logging.getLogger(__name__)


class RunData:
    """A run's configuration, folder, features and labels; `studies.Run` adds the stages."""

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        *,
        store: Path | None = None,
        device: str = "auto",
        log: Literal["csv", "tensorboard"] | None = None,
        progress: bool = False,
    ) -> None:
        self.config = config
        self.log = log
        self.device = pick_device(device)
        data = config.data
        begun = (Path(out) / "config.json").exists()  # it may need its data no more
        if isinstance(data, Path) and not is_in_memory(data) and not begun:
            form_of(data)  # a mistaken path is told before the folder is taken
        self.folder = RunFolder(out, config.plain(), _complete)
        if store is None and (self.folder / "store.json").exists():
            named = read_fields(self.folder / "store.json", "store")["store"]
            store = Path(typed(str, named, f"{self.folder / 'store.json'}: store"))
        self.store = Path(store) if store is not None else Path(out) / "store"
        self.progress = progress
        self._prepared: Prepared | None = None

    @property
    def recipe(self) -> Recipe:
        """The run's sizes and schedules."""
        return self.config.recipe

    @property
    def prepared(self) -> Prepared:
        """Features of the data; computed at the first use, ever."""
        if self._prepared is None:
            name = on_rank_zero(self._prepare)
            home = self.store / name
            store = FeatureStore.open(home / "features")
            records = self.folder / "dataset.json"
            dataset = load_dataset(records, stored_columns(home))
            if len(store) != len(dataset):
                raise InputError(
                    f"{records} has {len(dataset)} records, the features in {home} are of "
                    f"{len(store)}; restore it, or make the run anew."
                )
            self._prepared = Prepared(home, dataset, store, self.recipe.prepare)
            on_rank_zero(self._remember_store)
        return self._prepared

    def _prepare(self) -> str:
        """Compute and note what is missing; the name of the prepared folder in the store."""
        data = self.config.data
        note = self.folder / "prepared.json"
        name = read_name(note, "folder") if note.exists() else None
        if name is None or not (self.store / name).is_dir():
            if is_in_memory(data):
                raise InputError(
                    f"the features of {self.folder.path} are not in {self.store}, and its data "
                    "was in memory; give the --store that it was made with, or Run the data."
                )
            if name is not None:
                _LOG.warning(
                    "the features of %s are not in %s; preparing them there anew, from %s",
                    self.folder.path,
                    self.store,
                    data,
                )
            with self.folder.working():
                with self.folder.released_by(InputError), self.folder.stage("prepare"):
                    made = prepare(
                        data,
                        self.store,
                        self.recipe.prepare,
                        **self._labels_of_backbones(),
                        device=self.device,
                        progress=self.progress,
                    )
                if name is None:
                    name = made.folder.name
                    save_dataset(made.dataset, self.folder / "dataset.json")
                    features = {
                        "channels": made.store.channels,
                        "positions": made.store.positions,
                    }
                    write_json(note, {"folder": name, **features})
                elif name != made.folder.name:
                    raise InputError(
                        f"{data} is no longer the data that {self.folder.path} began "
                        "with; restore it, or give another --out."
                    )
        return name

    def _labels_of_backbones(self) -> dict[str, Any]:
        """Which labels the backbones learn from: none, or those of the run's only ratio."""
        if self.config.backbones != "supervised":
            return {}
        return {"label_ratio": self.config.label_ratio[0], "label_seed": self.config.seed}

    def _remember_store(self) -> None:
        """Leave a note of a store outside of the run folder, for commands that do not name it."""
        note, told = self.folder / "store.json", {"store": str(self.store.resolve())}
        own = self.store.resolve() == (self.folder / "store").resolve()
        if not own and (not note.exists() or read_fields(note, "store") != told):
            with suppress(InputError):  # read-only: it is only looked at
                write_json(note, told)

    @property
    def space(self) -> FusionSpace | LayerSpace:
        """The space over the stored features that is searched."""
        return self._space()

    def _space(self, dropout: float | None = None) -> FusionSpace | LayerSpace:
        """The space; of fusion networks with another dropout than the search's."""
        channels, recipe = self.prepared.store.channels, self.recipe
        if self.config.space == "layers":
            return LayerSpace(channels, recipe.layers)
        other = {} if dropout is None else {"dropout": dropout}
        return FusionSpace(channels, replace(recipe.fusion, **other))

    @property
    def methods(self) -> tuple[str, ...]:
        """What the run compares, weakest claim first."""
        return methods_of(self.prepared.dataset.kinds)

    @property
    def scoring(self) -> Scoring:
        """How the data set is scored."""
        return Scoring(self.prepared.dataset.single_label)

    def supervised(self) -> Supervised:
        """The objective that holds the labels of the whole data set."""
        dataset = self.prepared.dataset
        targets = torch.from_numpy(dataset.targets())
        return Supervised(labels=targets, classes=len(dataset.classes))

    def encoder(self, network: nn.Module) -> nn.Module:
        """The network alone on stored features, or behind the backbones that it trains along."""
        if self.config.backbones == "trained":
            return nn.Sequential(self.prepared.taps(), network)
        return network

    def views(self) -> Source:
        """Features for contrastive learning, in stored views or in views made anew each time."""
        prepared = self.prepared
        if self.config.views == "stored":
            return OnDevice(prepared.store, self.device)
        live = OnDevice(prepared.live(fresh_texts=True), self.device)
        return LiveFeatures(live, prepared.taps().to(self.device))

    def source(self) -> Source:
        """What an `encoder` reads: stored features, or live inputs of backbones trained along."""
        live = self.config.backbones == "trained"
        return OnDevice(self.prepared.live() if live else self.prepared.store, self.device)


def _complete(told: dict[str, Any]) -> dict[str, Any]:
    """The configuration in a folder, with the settings that were added since it was made."""
    return RunConfig.from_plain(told).plain()
