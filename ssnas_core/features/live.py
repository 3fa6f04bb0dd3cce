"""Views made on the fly: of raw inputs, to train backbones along, and of frozen features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from ssnas_core.backbones.base import Backbone, TextBackbone
from ssnas_core.common.bars import progress_bar
from ssnas_core.common.files import atomic_path, reserve
from ssnas_core.features.augment import (
    DEFAULT_AUGMENT,
    JointAugment,
    apply_array,
    apply_image,
    apply_text,
    image_draws,
    seed_draws,
)
from ssnas_core.features.extract import Taps, evaluating
from ssnas_core.features.inputs import (
    RawInputs,
    check_kinds,
    content_key,
    draws_generator,
    read_memmap,
)
from ssnas_core.features.store import draw_views
from ssnas_core.objectives.base import OnDevice, Source


class LiveInputs:
    """Raw inputs with the interface of a FeatureStore, for training backbones along.

    Images and arrays are augmented when asked for, always anew; texts are
    vectorised once, clean and in `views` augmented forms, into a memory-mapped
    file. With `views=None` only the clean ones are: their views are anew too.

    Args:
        inputs: decoded images and texts.
        backbones: modality -> backbone; its `vectorize` is used, fitted already.
        folder: where the vectorised texts go: <modality>-<key>.npy.
        views: V >= 1, augmented forms of each text; None to vectorise when drawn.
        augment: how views are made.
        seed: of the stored text views.
        progress: whether to show a bar.
    """

    def __init__(
        self,
        inputs: RawInputs,
        backbones: Mapping[str, Backbone],
        folder: Path,
        *,
        views: int | None = 4,
        augment: JointAugment = DEFAULT_AUGMENT,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        check_kinds(inputs.kinds, backbones)
        self.inputs = inputs
        self.views = views
        self.augment = augment
        self.texts: dict[str, Tensor] = {}  # (N, 1 + V, ...)
        self._vectorizers: dict[str, Any] = {}  # of what is vectorised when drawn
        for place, (modality, kind) in enumerate(inputs.kinds.items()):
            backbone = backbones[modality]
            if kind == "array" or (kind == "text" and views is None):
                self._vectorizers[modality] = backbone
            if kind == "text":
                assert isinstance(backbone, TextBackbone)
                content = [place, inputs.fingerprint, backbone.fingerprint(), views]
                key = content_key(*content, repr(augment.text), seed)
                path = Path(folder) / f"{modality}-{key}.npy"
                if not path.exists():
                    column, generator = inputs.columns[modality], draws_generator(seed, place)
                    self._write(path, column, backbone, generator, progress)
                self.texts[modality] = read_memmap(path)

    def _write(
        self,
        path: Path,
        texts: Sequence[str],
        backbone: TextBackbone,
        generator: Generator,
        progress: bool,
    ) -> None:
        how = self.augment.text
        example = backbone.vectorize(texts[:1]).numpy()
        shape = (len(texts), 1 + (self.views or 0), *example.shape[1:])
        with atomic_path(path) as temporary:
            rows = np.lib.format.open_memmap(temporary, "w+", example.dtype, shape)
            reserve(temporary)
            label, total = "vectorising" if progress else None, shape[0] * shape[1]
            with progress_bar(label, total, "text", unit_scale=True) as bar:
                draws = [seed_draws(len(texts), generator) for _ in range(shape[1])]
                for view in range(shape[1]):
                    seen = texts
                    if view:
                        seen = apply_text(texts, how, draws[1 + how.first_of(view - 1)], view - 1)
                    for first in range(0, len(texts), 4096):
                        part = slice(first, first + 4096)
                        rows[part, view] = backbone.vectorize(seen[part]).numpy()
                        bar.update(len(seen[part]))
            rows.flush()

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def bytes(self) -> int:
        """Size of all that is mapped: decoded images, arrays and vectorised texts."""
        kinds = self.inputs.kinds.items()
        rows = sum(self.inputs.columns[name].nbytes for name, kind in kinds if kind != "text")
        return rows + sum(text.nbytes for text in self.texts.values())

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """The inputs of rows `indices` (n,) without augmentation, by modality."""
        inputs: dict[str, Tensor] = {}
        for name, kind in self.inputs.kinds.items():
            if kind == "text":
                inputs[name] = self.texts[name][indices, 0]
            elif kind == "image":
                inputs[name] = self.inputs.images(name, indices)
            else:
                rows = self.inputs.columns[name][indices.numpy()]
                inputs[name] = self._vectorizers[name].vectorize(rows)
        return inputs

    def augmented(
        self, indices: Tensor, generator: Generator, count: int = 2, *, part: slice = slice(None)
    ) -> list[dict[str, Tensor]]:
        """`count` jointly augmented views of rows `indices` (n,), each by modality.

        Chance comes from `generator` alone. A sample's `count` text views are
        different stored ones as far as there are `count` of them. Views are drawn
        for all the rows; those in `part` are made.
        """
        chosen = torch.zeros(len(indices), count, dtype=torch.int64)
        if self.views is not None:
            chosen = draw_views(len(indices), self.views, count, generator)
        total, indices, chosen = len(indices), indices[part], chosen[part]
        clean = self.clean(indices)

        kept: dict[tuple[str, int], Tensor] = {}

        def draw(name: str, kind: str, turn: int) -> Tensor:
            draws = (image_draws if kind == "image" else seed_draws)(total, generator)[part]
            first = self.augment.text.first_of(turn) if kind == "text" else turn
            return kept.setdefault((name, first), draws)

        return [
            {
                name: self._view(name, kind, clean[name], indices, chosen[:, turn], turn, draw)
                for name, kind in self.inputs.kinds.items()
            }
            for turn in range(count)
        ]

    def _view(
        self,
        modality: str,
        kind: str,
        clean: Tensor,
        indices: Tensor,
        views: Tensor,
        turn: int,
        draw: Callable[[str, str, int], Tensor],
    ) -> Tensor:
        if kind == "text" and self.views is not None:
            return self.texts[modality][indices, views]
        if kind == "text":
            column = [self.inputs.columns[modality][row] for row in indices.tolist()]
            draws = draw(modality, kind, turn)
            texts = apply_text(column, self.augment.text, draws, turn)
            return self._vectorizers[modality].vectorize(texts)
        if kind == "image":
            return apply_image(clean, self.augment.image, draw(modality, kind, turn))
        return apply_array(clean, self.augment.array, draw(modality, kind, turn))


class LiveFeatures(OnDevice):
    """The features of a store, computed when drawn: every view is a fresh one.

    The source for searching and pretraining without stored views, at the price
    of the backbones' forward passes. Features are float32; a store rounds them
    to half precision.

    Args:
        live: inputs and their views, as `LiveInputs`; with its `views=None` texts
            are fresh ones too.
        taps: the backbones, on the device to use; run in eval mode and without
            gradients, and left in the mode that they were in.
    """

    def __init__(self, live: Source, taps: Taps) -> None:
        held = itertools.chain(taps.parameters(), taps.buffers())
        super().__init__(live, next(held, torch.zeros(0)).device)
        self.taps = taps

    @property
    def channels(self) -> dict[str, int]:
        """ "<modality>_<tap>" -> C, as of a `FeatureStore`."""
        return self.taps.channels

    def _move(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with evaluating(self.taps):
            return self.taps(super()._move(inputs))
