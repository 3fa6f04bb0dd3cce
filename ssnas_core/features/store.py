"""The feature store: features of every sample, clean and in V augmented views.

Searching over features that never change costs a gather instead of a backbone.
A store is a folder: one `<modality>_<tap>.npy` per tap, float16 (N, 1 + V, P, C),
view 0 clean, and `store.json`, written last. P is L for feature maps (H * W for the pixels
of an image), the number of tokens (1 for vectors) for texts. `extract_features` fills it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import plain_name, read_json
from ssnas_core.common.typed import typed
from ssnas_core.features.inputs import moved, read_memmap

STORE_VERSION = 1


def progress_path(folder: Path) -> Path:
    """The file that says how far an unfinished extraction is."""
    return Path(folder) / "progress.json"


@dataclass(frozen=True, kw_only=True)
class _Note:
    """The fields of `store.json` that are read again."""

    key: str
    rows: int
    views: int
    channels: Mapping[str, int]
    positions: Mapping[str, int]


class FeatureStore:
    """Stored features of a dataset's records, mapped from disk; open with `FeatureStore.open`.

    Attributes:
        channels: "<modality>_<tap>" -> C, by modality, then depth.
        positions: "<modality>_<tap>" -> P.
        views: V, augmented views per sample.
        key: what the features were made from, see `store_key`.
        folder: where they are.
    """

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        where = f"{self.folder / 'store.json'}"
        note = typed(_Note, {name: values.get(name) for name in _Note.__annotations__}, where)
        self.key = note.key
        self.views = note.views
        self.channels = dict(note.channels)
        self.positions = dict(note.positions)
        self._rows = note.rows
        self._device = torch.device("cpu")  # of what is drawn
        self._cold = True  # whether the last rows had to come from disk
        self._arrays: dict[str, Tensor] = {}
        for name, channels in self.channels.items():
            shape = (self._rows, 1 + self.views, self.positions.get(name), channels)
            try:
                array = read_memmap(self.folder / f"{plain_name(name, where)}.npy")
            except InputError as error:
                raise InputError(f"{error} Delete {self.folder} and extract again.") from error
            if array.shape != shape or array.dtype != torch.float16:
                raise InputError(
                    f"expected float16 {shape} in {self.folder / name}.npy, got {array.dtype} "
                    f"{tuple(array.shape)}; delete {self.folder} and extract again."
                )
            self._arrays[name] = array.flatten(0, 1)  # (N * (1 + V), P, C)

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Map the finished store in `folder`.

        Raises:
            InputError: no store, an unfinished one, or one of another version.
        """
        path = Path(folder) / "store.json"
        if not path.exists():
            state = "an unfinished store" if progress_path(folder).exists() else "none"
            raise InputError(
                f"expected a feature store in {folder}, got {state}; "
                "run the extraction (it resumes where it stopped)."
            )
        values = read_json(path)
        version = values.get("version") if isinstance(values, dict) else None
        if version != STORE_VERSION:
            raise InputError(
                f"expected a feature store of version {STORE_VERSION} in {folder}, "
                f"got version {version}; extract again into another folder."
            )
        return cls(folder, values)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore.open, (self.folder,)  # a worker maps the files itself

    def __len__(self) -> int:
        """N, the number of samples."""
        return self._rows

    @property
    def bytes(self) -> int:
        """Size of all features on disk."""
        return sum(array.nbytes for array in self._arrays.values())

    def to(self, device: torch.device | str) -> FeatureStore:
        """This store giving tensors on `device`: itself for the CPU.

        On an accelerator all features live in its memory where they take at most
        half of what is free there, so that drawing copies nothing; else the rows
        that are drawn travel in half precision and, on CUDA, without being waited for.
        """
        device = torch.device(device)
        if device.type == "cpu":
            return self
        return self._placed(device, resident=self.bytes <= _free_memory(device) / 2)

    def _placed(self, device: torch.device, *, resident: bool) -> FeatureStore:
        placed = copy.copy(self)
        placed._device = device
        if resident:
            placed._arrays = {name: array.to(device) for name, array in self._arrays.items()}
        return placed

    def _ask_for(self, rows: Tensor) -> None:
        """Let the system read these rows from disk: all at once, and nothing around them."""
        if not hasattr(os, "posix_fadvise"):
            return
        for name, array in self._arrays.items():
            with open(self.folder / f"{name}.npy", "rb") as file:
                start = os.fstat(file.fileno()).st_size - array.nbytes
                size = array[0].nbytes
                for row in rows.tolist():
                    os.posix_fadvise(
                        file.fileno(), start + row * size, size, os.POSIX_FADV_WILLNEED
                    )

    def _gather(self, rows: Tensor) -> dict[str, Tensor]:
        before = _blocks_read()
        if self._cold:
            self._ask_for(rows)
        gathered: dict[str, Tensor] = {}
        for name, array in self._arrays.items():
            value = array.index_select(0, rows.to(array.device))
            value = value if value.device.type != "cpu" else moved(value, self._device)
            gathered[name] = value.float()
        self._cold = _blocks_read() > before
        return gathered

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """Features of samples `indices` (n,) int64 without augmentation, (n, P, C) each."""
        return self._gather(indices * (1 + self.views))

    def augmented(
        self, indices: Tensor, generator: Generator, count: int = 2, *, part: slice = slice(None)
    ) -> list[dict[str, Tensor]]:
        """`count` stored views of each of the samples `indices` (n,) int64.

        A sample's views are different ones where V >= `count`; with fewer, the
        clean one joins them (`draw_views`). One view has the same number in all
        modalities: it is the pair that was augmented together. Views are drawn for
        all the samples; those in `part` are read.

        Returns:
            `count` dicts of features, (n, P, C) float32 each.

        Raises:
            InputError: the store has no augmented views.
        """
        if self.views < 1:
            raise InputError(
                f"expected augmented views in {self.folder}, got a store with views=0; "
                "extract with views >= 2."
            )
        chosen = draw_views(len(indices), self.views, count, generator)[part]
        rows = (indices[part, None] * (1 + self.views) + chosen).T.flatten()
        parts = {name: value.chunk(count) for name, value in self._gather(rows).items()}
        return [{name: part[turn] for name, part in parts.items()} for turn in range(count)]


def _blocks_read() -> int:
    """Blocks that this process has read from disk; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on a CUDA device; 0 on others, which do not tell."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def draw_views(samples: int, views: int, count: int, generator: Generator) -> Tensor:
    """Stored views to use, (samples, count) int64; 0 is the clean one.

    Where views >= count: of 1..views, without repetition in a row, uniform over
    the ordered choices. With fewer the clean one joins, so that a row repeats as
    little as it can: 0..views in random order, again and again in new orders.
    With one stored view a pair is that view and the clean one.
    """
    if views >= count:
        return torch.rand(samples, views, generator=generator).argsort(1)[:, :count] + 1
    rounds = -(-count // (views + 1))
    orders = torch.rand(samples, rounds, views + 1, generator=generator).argsort(2)
    return orders.flatten(1)[:, :count]
