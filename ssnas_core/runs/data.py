"""The data of a run: its features, its labelled parts, and its space over them."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core.common.distributed import on_rank_zero
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import path_of, path_text, read_fields, read_name, write_json
from ssnas_core.datasets.open import open_dataset, source_stamp
from ssnas_core.datasets.records import Dataset, changes, load_dataset, save_dataset
from ssnas_core.datasets.splits import LabelledPart, labelled_part
from ssnas_core.features.live import LiveFeatures
from ssnas_core.features.prepare import Prepared, prepare, stored_columns, unpacked_in
from ssnas_core.features.store import FeatureStore
from ssnas_core.objectives.base import Objective, OnDevice, Source
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.recipes import RunConfig, is_in_memory
from ssnas_core.training.tasks import Task, task_of

_LOG = logging.getLogger(__name__)


def changed_since(data: Any, run: Path, changed: str) -> str:
    """Return the message for data that are not those that a run began with."""
    return (
        f"{data} is no longer the data that {run} began with: {changed or 'its images'}; restore "
        "it, or begin another run in another folder."
    )


class RunData:
    """Features and labels of a run, prepared at the first use, ever.

    Args:
        config: the run.
        folder: its folder.
        store: folder of prepared data; by default where this run has had it, at first
            `folder/store`.
        device: where networks work.
        progress: show progress bars on standard error.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        *,
        store: Path | None,
        device: torch.device,
        progress: bool,
    ) -> None:
        self.config, self.folder, self.device, self.progress = config, folder, device, progress
        if store is None and (folder / "store.json").exists():
            noted = read_fields(folder / "store.json", "store")["store"]
            store = path_of(noted, f"{folder / 'store.json'}: store")
        self.store = Path(store) if store is not None else folder / "store"
        self._prepared: Prepared | None = None
        self._task: Task | None = None

    @property
    def prepared(self) -> Prepared:
        """The records, and the features of every sample and view."""
        if self._prepared is None:
            home = self.store / on_rank_zero(self._prepare)
            features = FeatureStore.open(home / "features")
            records = self.folder / "dataset.json"
            dataset = load_dataset(records, stored_columns(home))
            if len(features) != len(dataset):
                raise InputError(
                    f"{records} has {len(dataset)} records, the features in {home} are of "
                    f"{len(features)}; restore it, or make the run anew."
                )
            self._prepared = Prepared(home, dataset, features, self.config.recipe.prepare)
            on_rank_zero(self._note_store)
        return self._prepared

    def _prepare(self) -> str:
        """Compute and note what is missing; return the prepared folder's name in the store."""
        if self._noted() is not None:
            self._check_source()
        self.folder.once(self._at_hand, self._compute)
        return str(self._noted())

    def _check_source(self) -> None:
        """Refuse data that were changed since the run began; those that are gone are not needed."""
        data, file = self.config.data, self.folder / "prepared.json"
        if isinstance(data, Dataset) or is_in_memory(data):
            return
        stamp = source_stamp(data) if data.exists() else None
        note = read_fields(file, "source")
        if stamp in (None, note["source"]):
            return
        _LOG.info("%s was written since %s began; looking for changes", data, self.folder.path)
        now = open_dataset(
            data,
            table=self.config.table,
            unpack_to=unpacked_in(self.store, data),
            progress=self.progress,
        )
        changed = changes(self.folder / "dataset.json", now)
        if changed:
            raise InputError(changed_since(data, self.folder.path, changed))
        with suppress(InputError), self.folder.working():  # read-only: it is only looked at
            write_json(file, {**note, "source": stamp})

    def _noted(self) -> str | None:
        """The name of the prepared folder that the run has had, if any."""
        note = self.folder / "prepared.json"
        return read_name(note, "folder") if note.exists() else None

    def _at_hand(self) -> bool:
        name = self._noted()
        return name is not None and (self.store / name).is_dir()

    def _compute(self) -> None:
        data, name = self.config.data, self._noted()
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
        learning: dict[str, Any] = {}
        if self.config.backbones == "supervised":  # from the labels of the run's only ratio
            learning = {"label_ratio": self.config.label_ratio[0], "label_seed": self.config.seed}
        with self.folder.released_by(InputError), self.folder.stage("prepare"):
            made = prepare(
                data,
                self.store,
                self.config.recipe.prepare,
                table=self.config.table,
                **learning,
                device=self.device,
                progress=self.progress,
            )
        if name is None:
            save_dataset(made.dataset, self.folder / "dataset.json")
            note = {
                "folder": made.folder.name,
                "labels": made.dataset.label_fingerprint(),
                "source": None if isinstance(data, Dataset) else source_stamp(data),
                "channels": made.store.channels,
                "positions": made.store.positions,
            }
            write_json(self.folder / "prepared.json", note)
        elif name != made.folder.name:
            changed = changes(self.folder / "dataset.json", made.dataset)
            raise InputError(changed_since(data, self.folder.path, changed))

    def _note_store(self) -> None:
        """Leave a note of a store outside of the run folder, for commands that do not name it."""
        note, place = self.folder / "store.json", {"store": path_text(self.store.resolve())}
        inside = self.store.resolve() == (self.folder / "store").resolve()
        if not inside and (not note.exists() or read_fields(note, "store") != place):
            with suppress(InputError):  # read-only: it is only looked at
                write_json(note, place)

    @property
    def task(self) -> Task:
        """What the data set asks of a network, over the labels of all of it."""
        if self._task is None:
            self._task = task_of(self.prepared.dataset)
        return self._task

    def space(self, dropout: float | None = None) -> Any:
        """Return the space over the stored features, with another dropout than the search's."""
        config = self.config.space
        if dropout is not None and hasattr(config, "trained_with"):
            config = config.trained_with(dropout)
        store = self.prepared.store
        return config.open(store.channels, store.positions)

    def part(self, ratio: float) -> LabelledPart:
        """Return the samples whose labels may be used at `ratio`.

        Raises:
            InputError: nothing would be left, or the search or the backbones
                have already used the labels of another ratio.
        """
        if self.config.uses_labels and ratio != self.config.label_ratio[0]:
            used = "backbones" if self.config.backbones == "supervised" else "search"
            raise InputError(
                f"this run's {used} used the labels of r = {self.config.label_ratio[0]:g}, so "
                f"it cannot be scored at r = {ratio:g}; make a run of its own for that ratio."
            )
        return labelled_part(self.prepared.dataset, ratio, self.config.seed)

    def supervised(self) -> Any:
        """Return head and loss of the task, over the labels of the whole data set."""
        return self.task.learning

    def objective(self) -> tuple[Objective, Tensor, Tensor]:
        """Return the search's objective, and the samples (n,) of its two levels, train and dev."""
        config = self.config.objective
        train, dev = self.prepared.indices("train"), self.prepared.indices("dev")
        if not getattr(config, "uses_labels", False):
            return config, train, dev
        part = self.part(self.config.label_ratio[0])
        labelled = torch.from_numpy(part.train), torch.from_numpy(part.dev)
        if getattr(config, "labelled_only", False):
            train, dev = labelled
        return config.open(self.task.learning, torch.cat(labelled)), train, dev

    def source(self) -> Source:
        """Return what an encoder reads: stored features, or inputs of backbones trained along."""
        live = self.config.backbones == "trained"
        return OnDevice(self.prepared.live() if live else self.prepared.store, self.device)

    def views(self) -> Source:
        """Return features for a search: stored views, or views made anew each time."""
        if self.config.views == "stored":
            return OnDevice(self.prepared.store, self.device)
        live = OnDevice(self.prepared.live(fresh_texts=True), self.device)
        return LiveFeatures(live, self.prepared.taps().to(self.device))

    def encoder(self, network: nn.Module) -> nn.Module:
        """Return the network, behind the backbones where these are trained along."""
        if self.config.backbones == "trained":
            return nn.Sequential(self.prepared.taps(), network)
        return network
