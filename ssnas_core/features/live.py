"""Raw inputs in augmented views made on the fly, for training the backbones along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Generator, Tensor

from ssnas_core.augment import (
    DEFAULT_AUGMENT,
    JointAugment,
    apply_text,
    augment_images,
    text_draws,
)
from ssnas_core.backbones.base import Backbone, TextBackbone
from ssnas_core.errors import InputError
from ssnas_core.features.store import draw_views
from ssnas_core.files import atomic_path
from ssnas_core.inputs import RawInputs, check_kinds, content_key, draws_generator, read_memmap


class LiveInputs:
    """Raw inputs with the interface of a FeatureStore, for training backbones along.

    Images are augmented when asked for, always anew; texts are vectorised once,
    clean and in `views` augmented forms, into a memory-mapped file.

    Args:
        inputs: decoded images and texts.
        backbones: modality -> backbone; its `vectorize` is used, fitted already.
        folder: where the vectorised texts go: <modality>-<key>.npy.
        views: V, augmented forms of each text, >= 1.
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
        views: int = 4,
        augment: JointAugment = DEFAULT_AUGMENT,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        check_kinds(inputs.kinds, backbones)
        if views < 1:
            raise InputError(f"live inputs need views >= 1 of each text, got {views}.")
        self.inputs = inputs
        self.views = views
        self.augment = augment
        self.texts: dict[str, Tensor] = {}  # (N, 1 + V, ...)
        for place, (modality, kind) in enumerate(inputs.kinds.items()):
            backbone = backbones[modality]
            if kind == "text":
                assert isinstance(backbone, TextBackbone)
                column = inputs.columns[modality]
                told = [inputs.fingerprint, backbone.fingerprint(), views, repr(augment.text), seed]
                path = Path(folder) / f"{modality}-{content_key(place, *told)}.npy"
                if not path.exists():
                    self._write(path, column, backbone, draws_generator(seed, place), progress)
                self.texts[modality] = read_memmap(path)

    def _write(
        self,
        path: Path,
        texts: Sequence[str],
        backbone: TextBackbone,
        generator: Generator,
        progress: bool,
    ) -> None:
        from tqdm.auto import tqdm

        example = backbone.vectorize(texts[:1]).numpy()
        shape = (len(texts), 1 + self.views, *example.shape[1:])
        with atomic_path(path) as temporary:
            rows = np.lib.format.open_memmap(temporary, "w+", example.dtype, shape)
            for view in tqdm(range(1 + self.views), desc="vectorising", disable=not progress):
                draws = text_draws(len(texts), generator)
                seen = apply_text(texts, self.augment.text, draws) if view else texts
                for first in range(0, len(texts), 4096):
                    part = slice(first, first + 4096)
                    rows[part, view] = backbone.vectorize(seen[part]).numpy()
            rows.flush()

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def bytes(self) -> int:
        """Size of all that is mapped: decoded images and vectorised texts."""
        kinds = self.inputs.kinds.items()
        images = sum(self.inputs.columns[name].nbytes for name, kind in kinds if kind == "image")
        return images + sum(text.nbytes for text in self.texts.values())

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """The inputs of rows `indices` (n,) without augmentation, by modality."""
        return {
            name: self.texts[name][indices, 0]
            if kind == "text"
            else self.inputs.images(name, indices)
            for name, kind in self.inputs.kinds.items()
        }

    def augmented(
        self, indices: Tensor, generator: Generator, count: int = 2
    ) -> list[dict[str, Tensor]]:
        """`count` jointly augmented views of rows `indices` (n,), each by modality.

        Chance comes from `generator` alone. A sample's `count` text views are
        different stored ones as far as there are `count` of them.
        """
        chosen = draw_views(len(indices), self.views, count, generator)
        clean = self.clean(indices)
        return [
            {
                name: augment_images(clean[name], self.augment.image, generator)
                if kind == "image"
                else self.texts[name][indices, chosen[:, turn]]
                for name, kind in self.inputs.kinds.items()
            }
            for turn in range(count)
        ]
