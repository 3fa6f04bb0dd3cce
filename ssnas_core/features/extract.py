"""Filling a feature store: every sample and view through the frozen backbones, once.

Feature maps are stored as the search sees them first: adaptive max pool to
sqrt(L) x sqrt(L) positions (BM-NAS, arXiv:2104.09379, released code). Pooling
has no parameters, so only the rounding to half precision is lost. Backbones that are
`whole` are not pooled.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import ArrayBackbone, Backbone, TextBackbone
from ssnas_core.common.bars import progress_bar
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import disk_errors, read_fields, reserve, write_json
from ssnas_core.common.pooling import largest, pooled_map
from ssnas_core.common.typed import typed
from ssnas_core.features.augment import (
    DEFAULT_AUGMENT,
    JointAugment,
    apply_array,
    apply_image,
    apply_text,
    image_draws,
    seed_draws,
)
from ssnas_core.features.inputs import RawInputs, check_kinds, content_key, draws_generator
from ssnas_core.features.store import STORE_VERSION, FeatureStore, progress_path

log = logging.getLogger(__name__)

CHUNK = 128  # samples between two marks of progress
BATCH = 32  # samples in one forward pass; another size may differ in the last bit


def store_key(
    inputs: RawInputs,
    backbones: Mapping[str, Backbone],
    *,
    views: int,
    length: int,
    seed: int,
    augment: JointAugment = DEFAULT_AUGMENT,
) -> str:
    """16 hex digits that name what features are made from: data, backbones, augmentation."""
    content = {
        "version": STORE_VERSION,
        "data": inputs.fingerprint,
        "shapes": {name: list(np.shape(column)) for name, column in inputs.columns.items()},
        "backbones": {name: backbones[name].fingerprint() for name in inputs.kinds},
        "augment": {kind: repr(getattr(augment, kind)) for kind in inputs.kinds.values()},
    }
    return content_key(content, views, length, seed)


def pooled(value: Tensor, length: int, *, whole: bool = False) -> Tensor:
    """A tap as (n, P, C) float32, P in {1, L}: maps (n, C, H, W) and rows (n, C, T) max pooled.

    If `whole`, P is all its positions, of a map row by row.
    """
    value = value.float()
    if whole:
        value = value.flatten(2)
    elif value.ndim == 4:
        value = pooled_map(value, length)
    elif value.shape[2] not in (1, length):
        value = largest(value, length, 1)
    return value.transpose(1, 2)


class Taps(nn.Module):
    """Backbones to train along: their inputs by modality -> what a store would hold, live.

    Args:
        backbones: modality -> backbone.
        length: L, positions of a pooled feature map.
    """

    def __init__(self, backbones: Mapping[str, Backbone], length: int) -> None:
        super().__init__()
        self.backbones = nn.ModuleDict(backbones)
        self.length = length
        self.channels = {
            f"{modality}_{tap}": width
            for modality, backbone in backbones.items()
            for tap, width in backbone.channels.items()
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features "<modality>_<tap>" -> (n, P, C) float32."""
        backbones: dict[str, Any] = dict(self.backbones.items())
        return {
            f"{modality}_{tap}": pooled(value, self.length, whole=backbone.whole)
            for modality, backbone in backbones.items()
            for tap, value in backbone(inputs[modality]).items()
        }


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, `model` is in eval mode and nothing has gradients; then every module is as before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass(kw_only=True)
class _Extractor:
    """Features of any rows, in all their views; chance is a table over the whole dataset."""

    inputs: RawInputs
    backbones: Mapping[str, Backbone]
    views: int
    length: int
    seed: int
    augment: JointAugment

    def __post_init__(self) -> None:
        held = (value for net in self.backbones.values() for value in net.parameters())
        self.ahead = int(any(not value.is_cpu for value in held))  # parts begun before one is kept
        # drawn once for all rows, so a view depends on neither batch nor chunk nor resumption
        self.draws: dict[str, list[Tensor]] = {}
        for place, (modality, kind) in enumerate(self.inputs.kinds.items()):
            draw = image_draws if kind == "image" else seed_draws
            generators = (draws_generator(self.seed, place, view) for view in range(self.views))
            self.draws[modality] = [draw(len(self.inputs), one) for one in generators]

    def __call__(self, rows: slice) -> dict[str, Tensor]:
        """Features "<modality>_<tap>" -> (n, 1 + V, P, C) float16 of the rows.

        They are on the backbones' device; a GPU may still be at work on them.
        """
        features: dict[str, list[Tensor]] = {}
        limit = torch.finfo(torch.float16).max
        for modality, kind in self.inputs.kinds.items():
            backbone = self.backbones[modality]
            weight = next(backbone.parameters(), torch.zeros(0))
            raw: Any
            if kind == "image":
                raw = self.inputs.images(modality, rows, weight.device)
            else:
                raw = self.inputs.columns[modality][rows]
            for view in range(1 + self.views):
                seen: Any = raw
                first = self.augment.text.first_of(view - 1) if kind == "text" else view - 1
                draws = self.draws[modality][first][rows] if view else None
                if draws is not None and kind == "image":
                    seen = apply_image(raw, self.augment.image, draws)
                elif draws is not None and kind == "text":
                    seen = apply_text(raw, self.augment.text, draws, view - 1)
                if isinstance(backbone, TextBackbone | ArrayBackbone):
                    seen = backbone.vectorize(seen).to(weight.device)
                if draws is not None and kind == "array":
                    seen = apply_array(seen, self.augment.array, draws)
                for tap, value in backbone(seen).items():
                    stored = pooled(value, self.length, whole=backbone.whole)
                    stored = stored.clamp(-limit, limit).half()
                    features.setdefault(f"{modality}_{tap}", []).append(stored)
        return {name: torch.stack(views, 1) for name, views in features.items()}

    def over(self, parts: Iterable[slice]) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """The features of each part, on the CPU; a GPU begins the next before one is fetched."""
        waiting: list[tuple[slice, dict[str, Tensor]]] = []
        for part in parts:
            waiting.append((part, self(part)))
            if len(waiting) > self.ahead:
                first, features = waiting.pop(0)
                yield first, self._fetched(features)
        for part, features in waiting:
            yield part, self._fetched(features)

    def _fetched(self, features: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Features as arrays on the CPU, none of them NaN (which pooling and clamping keep)."""
        arrays = {name: value.cpu().numpy() for name, value in features.items()}
        for name, array in arrays.items():
            if np.isnan(array).any():
                modality, _, tap = name.rpartition("_")
                raise InputError(
                    f"expected finite features, got NaN from {modality} "
                    f"({self.backbones[modality].name}), tap {tap}; check the backbone's weights."
                )
        return arrays


def extract_features(
    inputs: RawInputs,
    backbones: Mapping[str, Backbone],
    folder: Path,
    *,
    views: int = 4,
    length: int = 4,
    seed: int = 0,
    augment: JointAugment = DEFAULT_AUGMENT,
    progress: bool = False,
) -> FeatureStore:
    """Run frozen backbones over all samples and views, once, into a store on disk.

    Killed at any moment, it continues at the last finished chunk, to the same
    bits on the same number of threads. A finished store of the same key is
    opened as it is.

    Args:
        inputs: decoded images and texts, see `prepare_inputs`.
        backbones: modality -> backbone, fitted, on the device to use.
        folder: of this store alone.
        views: V >= 0, augmented views per sample beside the clean one.
        length: L, positions of a pooled feature map, a square number.
        seed: of the augmentation.
        augment: how views are made.
        progress: whether to show a bar.

    Raises:
        InputError: backbones of other modalities, no sample, unusable sizes, too little disk space,
            features that are not finite, or another store in `folder`.
    """
    folder = Path(folder)
    check_kinds(inputs.kinds, backbones)
    if len(inputs) == 0:
        raise InputError("expected samples to extract features of, got none.")
    if views < 0 or length < 1 or math.isqrt(length) ** 2 != length:
        raise InputError(
            f"expected views >= 0 and a square length (1, 4, 9, ...), got {views} and {length}."
        )
    options: Any = {"views": views, "length": length, "seed": seed, "augment": augment}
    key = store_key(inputs, backbones, **options)
    if (folder / "store.json").exists():
        store = FeatureStore.open(folder)
        _check_key(store.key, key, folder)
        return store

    extract = _Extractor(inputs=inputs, backbones=backbones, **options)
    with evaluating(nn.ModuleDict(backbones)):
        example = extract(slice(0, 1))
        note = {
            "version": STORE_VERSION,
            "key": key,
            "rows": len(inputs),
            "views": views,
            "length": length,
            "seed": seed,
            "channels": {name: value.shape[3] for name, value in example.items()},
            "positions": {name: value.shape[2] for name, value in example.items()},
            "backbones": {name: backbones[name].name for name in inputs.kinds},
        }
        done = _finished_chunks(folder, key)
        arrays = _allocate(folder, {n: v.shape[1:] for n, v in example.items()}, len(inputs), done)
        _fill(extract, arrays, folder, key, done, progress)
    write_json(folder / "store.json", note)
    progress_path(folder).unlink()
    return FeatureStore.open(folder)


def _check_key(stored: str, key: str, folder: Path) -> None:
    if stored != key:
        raise InputError(
            f"expected features of key {key} in {folder}, got {stored} (other data, backbones, "
            "augmentation, views, length or seed); choose another folder or delete this one."
        )


def _finished_chunks(folder: Path, key: str) -> int:
    path = progress_path(folder)
    if not path.exists():
        return 0
    state = read_fields(path, "key", "chunks")
    _check_key(state["key"], key, folder)
    return typed(int, state["chunks"], f"{path}: chunks")


def _allocate(
    folder: Path, shapes: Mapping[str, torch.Size], rows: int, done: int
) -> dict[str, np.memmap]:
    """Create the arrays, or open them where chunks are done already."""
    size = 2 * rows * sum(math.prod(shape) for shape in shapes.values())
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    missing = size * max(0, rows - done * CHUNK) / rows
    free = shutil.disk_usage(folder).free
    log.info("feature store %s: %.1f MB for %d samples", folder, size / 1e6, rows)
    if missing > free:
        raise InputError(
            f"expected {missing / 1e6:,.0f} MB of free disk space for {folder}, got "
            f"{free / 1e6:,.0f} MB; free some, choose another folder, or take fewer views."
        )
    arrays = {}
    for name, shape in shapes.items():
        path = folder / f"{name}.npy"
        if done:
            arrays[name] = np.load(path, mmap_mode="r+")
        else:
            arrays[name] = np.lib.format.open_memmap(path, "w+", np.float16, (rows, *shape))
            with disk_errors(path):
                reserve(path)
    return arrays


def _fill(
    extract: _Extractor,
    arrays: Mapping[str, np.memmap],
    folder: Path,
    key: str,
    done: int,
    progress: bool,
) -> None:
    """Compute the chunks that are not done, marking each once it is on disk."""
    rows = len(extract.inputs)
    first = done * CHUNK
    started, announced = time.monotonic(), False
    label = "features" if progress else None
    with progress_bar(label, rows, "sample", initial=first, unit_scale=True) as bar:
        for chunk in range(done, -(-rows // CHUNK)):
            end = min((chunk + 1) * CHUNK, rows)
            starts = range(chunk * CHUNK, end, BATCH)
            for part, features in extract.over([slice(s, min(s + BATCH, end)) for s in starts]):
                for name, value in features.items():
                    arrays[name][part] = value
                bar.update(part.stop - part.start)
                if not announced:
                    seconds = (time.monotonic() - started) * (rows - first) / (part.stop - first)
                    log.info("feature extraction takes about %.1f minutes", seconds / 60)
                    announced = True
            for array in arrays.values():
                array.flush()
            write_json(progress_path(folder), {"key": key, "chunks": chunk + 1})
