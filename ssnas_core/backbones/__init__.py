"""Backbones: one network per modality, giving named feature maps, shallow to deep.

Every backbone is a `Backbone`: `channels` maps each tap ("0", "1", ..., by depth)
to its width; `forward` returns a dict with the same keys. What a backbone is
given differs by kind: images (N, 3, H, W) in [0, 1], or what its `vectorize`
makes of texts. All it knows, fitted vocabulary included, is in its state dict.
"""

from __future__ import annotations

from typing import Any

from ssnas_core.backbones.base import Backbone, ImageBackbone, TextBackbone
from ssnas_core.backbones.image import SmallConvNet, torchvision_backbone, vgg19
from ssnas_core.backbones.text import MaxoutMLP, TransformerText
from ssnas_core.errors import InputError

__all__ = [
    "Backbone",
    "ImageBackbone",
    "MaxoutMLP",
    "SmallConvNet",
    "TextBackbone",
    "TransformerText",
    "image_backbone",
    "text_backbone",
    "torchvision_backbone",
    "vgg19",
]


def image_backbone(
    spec: str, *, weights: str | None = None, size: tuple[int, int] | None = None
) -> ImageBackbone:
    """An image backbone by name: "small", "vgg19" or "torchvision:MODEL".

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
    raise InputError(
        f"expected an image backbone 'small', 'vgg19' or 'torchvision:MODEL' "
        f"(as torchvision:resnet18), got {spec!r}; use one of these."
    )


def text_backbone(spec: str) -> TextBackbone:
    """A text backbone by name: "maxout" or "transformers:NAME_OR_FOLDER".

    Raises:
        InputError: an unknown name, or a transformer that is not at hand.
    """
    kind, _, model = spec.partition(":")
    if spec == "maxout":
        return MaxoutMLP()
    if kind == "transformers" and model:
        return TransformerText(model)
    raise InputError(
        f"expected a text backbone 'maxout' or 'transformers:NAME_OR_FOLDER', got {spec!r}; "
        "use one of these."
    )
