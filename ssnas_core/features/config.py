"""The configuration of a preparation: backbones, views and training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ssnas_core.backbones import BACKBONES
from ssnas_core.backbones.own import object_name
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import path_text
from ssnas_core.common.typed import plain, typed
from ssnas_core.features.augment import DEFAULT_AUGMENT, JointAugment
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.training.loop import TrainConfig

KINDS = ("image", "text", "array")
_SIMCLR = TrainConfig(epochs=20, batch_size=128, learning_rate=1e-3)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Which backbones, how they are trained without labels, and what is stored.

    Args:
        image: small, vgg19, torchvision:MODEL, timm:NAME, transformers:NAME_OR_FOLDER, pixels
            (the image itself), cells:GENOTYPE.json (what a run found) or package.module:Name; in
            Python a module too (`ssnas_core.backbones.own`).
        text: maxout, characters (languages without spaces between words), words (one by one, as
            positions), word2vec:FILE,
            transformers:NAME_OR_FOLDER, segments:BACKBONE (one of these on each of `length`
            pieces of a text, as positions) or package.module:Name.
        array: maxout (for vectors), identity, regions (boxes and what is in them) or
            package.module:Name.
        image_size: (H, W) that images are decoded to; None for the backbone's own.
        pretrained: load published weights where a backbone has any; without,
            they are random.
        views: V >= 1, stored augmented views per sample beside the clean one.
        augment: how views are made, those of the backbones' training too.
        length: L, positions of a pooled feature map.
        image_training, text_training, array_training: SimCLR on the train part for
            the backbones that come without weights (`Backbone.learns`).
        contrastive: the loss of that training.
        seed: of initial weights, training and views.
        strict: refuse the data at the first bad record instead of skipping it.
    """

    image: str | nn.Module = "small"
    text: str | nn.Module = "maxout"
    array: str | nn.Module = "maxout"
    image_size: tuple[int, int] | None = None
    pretrained: bool = True
    views: int = 8
    augment: JointAugment = DEFAULT_AUGMENT
    length: int = 4
    image_training: TrainConfig = _SIMCLR
    text_training: TrainConfig = _SIMCLR
    array_training: TrainConfig = _SIMCLR
    contrastive: Contrastive = field(default_factory=Contrastive)
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.views < 1:
            raise InputError(
                f"contrastive learning needs views >= 1 beside the clean one, got {self.views}."
            )
        if self.length < 1 or math.isqrt(self.length) ** 2 != self.length:
            raise InputError(
                f"length must be a square number (1, 4, 9, 16, ...), got {self.length}."
            )

    def of_kinds(self, kinds: Collection[str]) -> PrepareConfig:
        """Return the same where it decides features of data of these kinds, defaults elsewhere."""
        unused = [kind for kind in KINDS if kind not in kinds]
        names = [name for kind in unused for name in (kind, f"{kind}_training")]
        names += ["image_size"] if "image" in unused else []
        default = PrepareConfig()
        views = {kind: getattr(default.augment, kind) for kind in unused}
        augment = dataclasses.replace(self.augment, **views)
        rest = {name: getattr(default, name) for name in names}
        return dataclasses.replace(self, augment=augment, **rest)

    def plain(self) -> dict[str, Any]:
        """Return JSON values; a backbone that is an object as its class and a hash of it.

        Raises:
            InputError: the class of such an object is not importable.
        """
        parts = {kind: getattr(self, kind) for kind in KINDS}
        names = {
            kind: object_name(part) if isinstance(part, nn.Module) else path_text(part)
            for kind, part in parts.items()
        }
        return {**plain(dataclasses.replace(self, **dict.fromkeys(KINDS, ""))), **names}

    @classmethod
    def from_plain(cls, values: Any, where: str) -> PrepareConfig:
        """Return the configuration that `plain` returned, from a file.

        A backbone that was an object stays a name, by which its stored features are known.

        Raises:
            InputError: fields that do not fit, or a backbone of a module that was not
                imported; the message begins with `where`.
        """
        values = dict(typed(Mapping[str, Any], values, where))
        given = [kind for kind in KINDS if kind in values]
        names: Any = {kind: typed(str, values.pop(kind), f"{where}.{kind}") for kind in given}
        for kind, name in names.items():
            known = name.partition(":")[0].partition("#")[0]
            if ":" in name and not {known, f"{known}-{kind}"} & {*BACKBONES.names()}:
                try:
                    BACKBONES.find(name.partition("#")[0], from_file=True)
                except InputError as error:
                    raise InputError(f"{where}.{kind}: {error}") from error
        return dataclasses.replace(typed(cls, values, where), **names)
