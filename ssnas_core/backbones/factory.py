"""Backbones: one network per modality, giving named feature maps, shallow to deep.

Every backbone is a `Backbone`: `channels` maps each tap ("0", "1", ..., by depth)
to its width; `forward` returns a dict with the same keys. What a backbone is
given differs by kind: images (N, 3, H, W) in [0, 1], or what its `vectorize`
makes of texts or arrays. All it knows, fitted vocabulary included, is in its state
dict; `config` and `save_files` tell the rest, for `backbone_from_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssnas_core.backbones.arrays import IdentityArray, MaxoutArray
from ssnas_core.backbones.base import (
    CONFIG_VERSION,
    ArrayBackbone,
    Backbone,
    ImageBackbone,
    TextBackbone,
)
from ssnas_core.backbones.image import (
    SmallConvNet,
    rebuilt_torchvision,
    torchvision_backbone,
    vgg19,
)
from ssnas_core.backbones.text import MaxoutMLP, Word2VecMLP
from ssnas_core.backbones.transformers import TransformerImage, TransformerText
from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import check_shapes
from ssnas_core.common.typed import brief


def image_backbone(
    spec: str, *, weights: str | None = None, size: tuple[int, int] | None = None
) -> ImageBackbone:
    """An image backbone by name: small, vgg19, torchvision:MODEL or transformers:NAME_OR_FOLDER.

    Args:
        spec: the name; MODEL is any torchvision classification model.
        weights: None for random ones (from torch's seed), "DEFAULT" for pre-trained.
        size: (H, W) of the images; None for the backbone's own default.

    Raises:
        InputError: an unknown name, or weights that cannot be had.
    """
    kind, _, model = spec.partition(":")
    sized: dict[str, Any] = {} if size is None else {"size": size}
    if spec == "small":
        if weights is not None:
            raise InputError(f"'small' has no pre-trained weights, got {weights!r}; pass None.")
        return SmallConvNet(**sized)
    if spec == "vgg19":
        return vgg19(weights, **sized)
    if kind == "torchvision" and model:
        return torchvision_backbone(model, weights, **sized)
    if kind == "transformers" and model:
        return TransformerImage(model, weights, **sized)
    raise InputError(
        f"expected an image backbone 'small', 'vgg19', 'torchvision:MODEL' (as "
        f"torchvision:resnet18) or 'transformers:NAME_OR_FOLDER', got {spec!r}; use one of these."
    )


def text_backbone(spec: str) -> TextBackbone:
    """A text backbone by name: "maxout", "word2vec:FILE" or "transformers:NAME_OR_FOLDER".

    Raises:
        InputError: an unknown name, or a file or transformer that is not at hand.
    """
    kind, _, model = spec.partition(":")
    if spec == "maxout":
        return MaxoutMLP()
    if kind == "word2vec" and model:
        return Word2VecMLP(model)
    if kind == "transformers" and model:
        return TransformerText(model)
    raise InputError(
        f"expected a text backbone 'maxout', 'word2vec:FILE' or 'transformers:NAME_OR_FOLDER', "
        f"got {spec!r}; use one of these."
    )


def array_backbone(spec: str, shape: Sequence[int]) -> ArrayBackbone:
    """An array backbone by name: "identity", or "maxout" for vectors.

    Args:
        spec: the name.
        shape: of one row, (C,) or (P, C).

    Raises:
        InputError: an unknown name, or a shape it cannot take.
    """
    if spec == "identity":
        return IdentityArray(shape)
    if spec == "maxout":
        return MaxoutArray(shape)
    raise InputError(
        f"expected an array backbone 'identity' or 'maxout', got {spec!r}; use one of these."
    )


_Build = Callable[[dict[str, Any], Path | None], Backbone]
_BUILDS: dict[str, _Build] = {
    "small": lambda told, folder: SmallConvNet(**told),
    "vgg19": lambda told, folder: vgg19(None, **told),
    "torchvision": lambda told, folder: rebuilt_torchvision(**told),
    "transformers-image": lambda told, folder: TransformerImage.rebuilt(folder, **told),
    "maxout": lambda told, folder: MaxoutMLP(**told),
    "word2vec": lambda told, folder: Word2VecMLP(None, **told),
    "transformers-text": lambda told, folder: TransformerText.rebuilt(folder, **told),
    "array-identity": lambda told, folder: IdentityArray(**told),
    "array-maxout": lambda told, folder: MaxoutArray(**told),
}


def backbone_from_config(
    config: Mapping[str, Any],
    folder: Path | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Backbone:
    """Build again what `Backbone.config` told of, offline; its state dict then fits.

    Weights are random and nothing is fitted until the state dict is loaded. Draws
    nothing from torch's global generator.

    Args:
        config: what `config()` gave.
        folder: what `save_files` wrote into; needed by transformers backbones.
        state: the state dict that it will be given; a config that asks for other
            shapes is then refused before memory is taken for them.

    Raises:
        InputError: an unknown kind, another version, options that do not fit, or
            files that are missing.
    """
    told = dict(config) if isinstance(config, Mapping) else {}
    kind, version, name = (told.pop(key, None) for key in ("kind", "version", "name"))
    if not isinstance(kind, str) or kind not in _BUILDS or not isinstance(name, str):
        raise InputError(
            f"expected the config of a backbone, its kind one of {', '.join(_BUILDS)}, got kind "
            f"{brief(kind)} and name {brief(name)}; pass what Backbone.config() gave."
        )
    if version != CONFIG_VERSION:
        raise InputError(
            f"expected a backbone config of version {CONFIG_VERSION}, got {brief(version)}; "
            "use the ssnas that wrote it, or make the backbone anew."
        )
    try:
        build = partial(_BUILDS[kind], told, None if folder is None else Path(folder))
        with torch.random.fork_rng(devices=[]):
            if state is not None:
                check_shapes(build, state)
            backbone = build()
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise InputError(
            f"expected options of a {kind!r} backbone, got {brief(told)}: {one_line(error)}; "
            "pass what Backbone.config() gave."
        ) from error
    backbone.name = name
    return backbone
