"""Image backbones: a small conv net for two CPU cores, VGG-19, any torchvision classifier.

VGG-19's taps are BM-NAS's (arXiv:2104.09379, released code): `features` after
layers 20, 26, 33 and 36. Deviation from that code: it feeds BGR images with the
Caffe mean subtracted to weights that expect RGB, normalised by ImageNet's
statistics; here every pre-trained network gets what it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import ImageBackbone
from ssnas_core.common.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VGG19_TAPS = (20, 26, 33, 36)
_MOST_PIXELS = 2**22  # VGG-19 takes a gigabyte for one image of this size


def check_images(images: Tensor) -> None:
    """Raise `InputError` unless `images` are float (N, 3, H, W)."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise InputError(
            f"an image backbone needs float images (N, 3, H, W) in [0, 1], got {images.dtype} "
            f"{tuple(images.shape)}; convert uint8 by images.float() / 255."
        )


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) as whole numbers; `InputError` unless both are >= 1 and of a usable size."""
    if len(size) != 2 or min(size) < 1 or size[0] * size[1] > _MOST_PIXELS:
        raise InputError(
            f"an image size must be (H, W), both >= 1, got {str(size)[:40]}; as (96, 64), "
            f"and at most {_MOST_PIXELS:,} pixels."
        )
    return (int(size[0]), int(size[1]))


class _Block(nn.Sequential):
    """3x3 convolution of stride 2, batch norm, ReLU; twice (then stride 1) if `deep`."""

    def __init__(self, inputs: int, outputs: int, deep: bool) -> None:
        layers: list[nn.Module] = []
        for count, stride in ((inputs, 2), (outputs, 1))[: 1 + deep]:
            layers.append(nn.Conv2d(count, outputs, 3, stride, padding=1, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class SmallConvNet(ImageBackbone):
    """A conv net small enough to be trained by self-supervision on two CPU cores.

    Each block halves height and width; there is a tap after each. The last two
    blocks have two convolutions. Weights are random, from torch's global seed.

    Args:
        size: (H, W) of the images it is meant for; others work too.
        widths: channels of the blocks, shallow first.
    """

    learns = True
    _kind = "small"

    def __init__(
        self, size: tuple[int, int] = (96, 64), widths: tuple[int, ...] = (32, 64, 128, 256)
    ) -> None:
        super().__init__()
        self.size = check_size(size)
        self.name = f"small {self.size} {tuple(widths)}"
        self.channels = {str(depth): width for depth, width in enumerate(widths)}
        self._options = {"size": self.size, "widths": widths}
        self.blocks = nn.ModuleList(
            _Block(inputs, outputs, deep=depth >= len(widths) - 2)
            for depth, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False))
        )
        self.to(memory_format=torch.channels_last)  # one CPU thread: equal to the default

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [0, 1] -> tap -> (N, C, ~H / 2^(tap+1), ~W / 2^(tap+1))."""
        check_images(images)
        state = (images * 4 - 2).contiguous(memory_format=torch.channels_last)  # about unit scale
        taps = {}
        for tap, block in zip(self.channels, self.blocks, strict=True):
            state = taps[tap] = block(state)
        return taps


class _TappedNet(ImageBackbone):
    """A pre-trained network cut at its last tap, with ImageNet's normalisation in front.

    Args:
        trunk: images -> tap -> feature map or tokens.
        name: what it is.
        size: (H, W) it is meant for.
        kind, options: what `backbone_from_config` needs beside name and size.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        name: str,
        size: tuple[int, int],
        kind: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._kind = kind
        self._options = {"size": size, **options}
        self.size = size
        self.name = f"{name} {size}"
        self.trunk = trunk.to(memory_format=torch.channels_last)  # up to a third faster on CPUs
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        training = trunk.training
        trunk.eval()
        with torch.inference_mode():
            maps = self.trunk(torch.zeros(1, 3, *size))
        trunk.train(training)
        self.channels = {tap: value.shape[1] for tap, value in maps.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [0, 1] -> tap -> (N, C, H', W')."""
        check_images(images)
        images = images.contiguous(memory_format=torch.channels_last)
        return self.trunk((images - self.mean) / self.std)


class _Slices(nn.ModuleList):
    """A sequential network in consecutive slices; the output of each is a tap."""

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        taps = {}
        for depth, part in enumerate(self):
            state = taps[str(depth)] = part(state)
        return taps


class _Extracted(nn.Module):
    """A traced network whose outputs are brought to (N, C, H', W')."""

    def __init__(self, traced: nn.Module, arrange: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.traced = traced
        self.arrange = arrange

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {tap: self.arrange(value) for tap, value in self.traced(images).items()}


def _as_is(value: Tensor) -> Tensor:
    return value


def _channels_first(value: Tensor) -> Tensor:
    return value.permute(0, 3, 1, 2)


def _tokens_to_map(value: Tensor) -> Tensor:
    """(N, 1 + S * S, C) with the class token -> (N, C, S, S)."""
    side = round((value.shape[1] - 1) ** 0.5)
    return value[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def _torchvision_model(model_name: str, weights: str | None, **options: Any) -> nn.Module:
    """The classifier itself, with every failure told as what to do about it."""
    from torchvision import models

    known = models.list_models(module=models)
    if model_name not in known:
        raise InputError(
            f"expected a torchvision classification model, got {model_name!r}; "
            f"use one of: {', '.join(known)}."
        )
    if weights not in (None, "DEFAULT"):
        raise InputError(f"weights must be None or 'DEFAULT', got {weights!r}; pass one of these.")
    try:
        return models.get_model(model_name, weights=weights, **options)
    except (OSError, RuntimeError) as error:  # URLError is an OSError, a bad hash a RuntimeError
        if weights is None:
            raise
        url = models.get_model_weights(model_name)["DEFAULT"].url
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise InputError(
            f"expected to download {url}, got: {error}; put that file into {folder}, "
            "or pass weights=None for random weights."
        ) from error


def vgg19(weights: str | None = None, size: tuple[int, int] = (256, 160)) -> ImageBackbone:
    """VGG-19 with BM-NAS's four taps, 512 channels each; it ends at the last tap.

    Args:
        weights: None for random ones (from torch's seed), or "DEFAULT" (ImageNet).
        size: (H, W) of the images, each >= 32.

    Raises:
        InputError: the weights cannot be downloaded.
    """
    size = check_size(size)
    if min(size) < 32:
        raise InputError(f"vgg19 halves images five times, so needs sides >= 32, got {size}.")
    layers = _torchvision_model("vgg19", weights).get_submodule("features")
    ends = [0, *(tap + 1 for tap in VGG19_TAPS)]
    assert isinstance(layers, nn.Sequential)
    slices = _Slices(layers[a:b] for a, b in zip(ends, ends[1:], strict=False))
    return _TappedNet(slices, f"vgg19 {weights}", size, "vgg19")


def _stages(model: nn.Module, size: tuple[int, int], channels_last: bool) -> list[str]:
    """The last module of each spatial resolution, shallow first.

    Looks at the network's children and at the parts of those that are plain
    sequences, so at stages and blocks but not inside a block, and ignores what
    comes after the feature maps: pooling, heads.
    """
    seen: list[tuple[tuple[int, int], str]] = []
    hooks = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                height, width = output.shape[1:3] if channels_last else output.shape[2:]
                seen.append(((int(height), int(width)), name))

        return hook

    heads = {"classifier", "head", "heads", "fc", "avgpool", "dropout", "permute"}
    for name, child in model.named_children():
        if name in heads:
            continue
        hooks.append(child.register_forward_hook(watch(name)))
        if isinstance(child, nn.Sequential | nn.ModuleList):
            for inner, block in child.named_children():
                hooks.append(block.register_forward_hook(watch(f"{name}.{inner}")))
    try:
        model.eval()
        with torch.inference_mode():
            model(torch.zeros(1, 3, *size))
    finally:
        for hook in hooks:
            hook.remove()
    return list(dict(seen).values())  # of each resolution, the last to finish


def torchvision_backbone(
    model_name: str,
    weights: str | None = None,
    taps: int = 4,
    size: tuple[int, int] = (224, 224),
) -> ImageBackbone:
    """Any torchvision classification model, tapped at the end of its last stages.

    Taps are the last layers of the last `taps` spatial resolutions (fewer if the
    network has fewer). For a vision transformer they are encoder blocks at even
    distances, the last included; its tokens are the positions.

    Args:
        model_name: as torchvision.models.list_models names it.
        weights: None for random ones (from torch's seed), or "DEFAULT".
        taps: how many feature maps, >= 1.
        size: (H, W) of the images.

    Raises:
        InputError: unknown model, no weights to be had, or a size it cannot take.
    """
    return _tapped_torchvision(model_name, weights, taps, size, pretrained=weights is not None)


def rebuilt_torchvision(
    model_name: str, taps: int, size: tuple[int, int], pretrained: bool
) -> ImageBackbone:
    """`torchvision_backbone` without weights, shaped as with those it was `pretrained` with.

    Loading weights changes more than weights in some of torchvision's models:
    GoogLeNet and Inception v3 then normalise differently, the largest vision
    transformers take larger images.
    """
    options: dict[str, Any] = {}
    if pretrained and model_name in ("googlenet", "inception_v3"):
        options = {"transform_input": True}
    if model_name.startswith("vit_"):
        options = {"image_size": size[0]}
    return _tapped_torchvision(model_name, None, taps, size, pretrained=pretrained, **options)


def _tapped_torchvision(
    model_name: str,
    weights: str | None,
    taps: int,
    size: tuple[int, int],
    *,
    pretrained: bool,
    **options: Any,
) -> ImageBackbone:
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.models.swin_transformer import SwinTransformer
    from torchvision.models.vision_transformer import VisionTransformer

    size = check_size(size)
    if taps < 1:
        raise InputError(f"taps must be >= 1, got {taps}.")
    told = {"model_name": model_name, "taps": taps, "pretrained": pretrained}
    model = _torchvision_model(model_name, weights, **options)
    arrange = _as_is
    try:
        if isinstance(model, VisionTransformer):
            model(torch.zeros(1, 3, *size))  # it insists on its own size
            blocks = [f"encoder.layers.{name}" for name, _ in model.encoder.layers.named_children()]
            taps = min(taps, len(blocks))
            stages = [blocks[len(blocks) * (tap + 1) // taps - 1] for tap in range(taps)]
            arrange = _tokens_to_map
        else:
            last = isinstance(model, SwinTransformer)
            stages = _stages(model, size, channels_last=last)[-taps:]
            arrange = _channels_first if last else _as_is
    except (RuntimeError, AssertionError, ValueError) as error:
        raise InputError(
            f"{model_name} cannot take images of size {size}: {error}; "
            "choose another size, often (224, 224)."
        ) from error
    nodes = {stage: str(depth) for depth, stage in enumerate(stages)}
    traced = create_feature_extractor(model, return_nodes=nodes)
    name = f"torchvision:{model_name} {weights} {tuple(stages)}"
    return _TappedNet(_Extracted(traced, arrange), name, size, "torchvision", **told)
