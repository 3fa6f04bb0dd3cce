"""Image backbones: a small conv net, the pixels, VGG-19, any model of torchvision or timm.

VGG-19's taps are BM-NAS's (arXiv:2104.09379, released code): `features` after
layers 20, 26, 33 and 36. Deviation from that code: it feeds BGR images with the
Caffe mean subtracted to weights that expect RGB, normalised by ImageNet's
statistics; here every pre-trained network gets what it was trained on.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ssnas_core.backbones.base import ImageBackbone, foreign, measuring
from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import load_states, load_tensors

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
    """Return (H, W) as whole numbers; raise `InputError` unless both are usable."""
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

    def __init__(
        self, size: tuple[int, int] = (96, 64), widths: tuple[int, ...] = (32, 64, 128, 256)
    ) -> None:
        super().__init__()
        self.size = check_size(size)
        self.name = f"small {self.size} {tuple(widths)}"
        self.channels = {str(depth): width for depth, width in enumerate(widths)}
        self.options = {"size": self.size, "widths": widths}
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


class Pixels(ImageBackbone):
    """The image itself, at tap "0": all its pixels are stored, for networks that begin with them.

    A grey image has three equal channels.

    Args:
        size: (H, W).
    """

    whole = True

    def __init__(self, size: tuple[int, int] = (32, 32)) -> None:
        super().__init__()
        self.size = check_size(size)
        self.name = f"pixels {self.size}"
        self.channels = {"0": 3}
        self.options = {"size": self.size}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [0, 1] -> tap "0", the same."""
        check_images(images)
        return {"0": images}


class _TappedNet(ImageBackbone):
    """A published network that ends at its last tap, behind the normalisation it expects.

    Args:
        trunk: images -> tap -> feature map.
        name: a description with the weights.
        size: (H, W) of the images it is meant for.
        colours: mean and standard deviation of R, G and B in [0, 1].
        options: as `Backbone.options`, without the size.
        own_colours: whether the colours are part of the state, as another model has others.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        name: str,
        size: tuple[int, int],
        *,
        colours: tuple[Sequence[float], Sequence[float]] = (IMAGENET_MEAN, IMAGENET_STD),
        own_colours: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = {"size": size, **options}
        self.size = size
        self.name = f"{name} {size}"
        self.trunk = trunk.to(memory_format=torch.channels_last)  # up to a third faster on CPUs
        for buffer, values in zip(("mean", "std"), colours, strict=True):
            self.register_buffer(buffer, torch.tensor(values).view(3, 1, 1), persistent=own_colours)
        with sized(name.split()[0], size), measuring(trunk):
            maps = self.trunk(torch.zeros(1, 3, *size))
        self.channels = {tap: value.shape[1] for tap, value in maps.items()}

    @classmethod
    def rebuilt(cls, folder: Path | None, **options: Any) -> Self:
        return cls(weights=None, **options)  # type: ignore[call-arg]  # of each subclass

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [0, 1] -> tap -> (N, C, H', W')."""
        check_images(images)
        images = images.contiguous(memory_format=torch.channels_last)
        with sized(self.name.split()[0], (images.shape[2], images.shape[3])):
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


class _Listed(nn.Module):
    """A network that returns a list of maps; the last `taps` of them, as (N, C, H', W')."""

    def __init__(self, net: nn.Module, taps: int, arrange: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net
        self.taps = taps
        self.arrange = arrange

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {
            str(tap): self.arrange(value)
            for tap, value in enumerate(self.net(images)[-self.taps :])
        }


def _as_is(value: Tensor) -> Tensor:
    return value


def _channels_first(value: Tensor) -> Tensor:
    return value.permute(0, 3, 1, 2)


def _tokens_to_map(value: Tensor) -> Tensor:
    """(N, 1 + S * S, C) with the class token -> (N, C, S, S)."""
    side = round((value.shape[1] - 1) ** 0.5)
    return value[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def sized(name: str, size: tuple[int, int]) -> AbstractContextManager[None]:
    """Turn every failure of a network on images of this size into an `InputError`."""
    return foreign(
        f"{name} cannot take images of size {size}", "choose another size, often (224, 224)"
    )


def _torchvision_model(model_name: str, weights: str | None, **options: Any) -> nn.Module:
    """Return the whole classifier; raise `InputError` for every failure."""
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
    except Exception as error:  # URLError, a bad hash, a file that is no checkpoint
        if weights is None:
            raise InputError(
                f"torchvision cannot build {model_name} ({type(error).__name__}: "
                f"{one_line(error)}); use another model."
            ) from error
        url = models.get_model_weights(model_name)["DEFAULT"].url
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise InputError(
            f"expected to download {url}, got: {one_line(error)}; put that file into {folder}, "
            "or pass weights=None for random weights."
        ) from error


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


class VGG19(_TappedNet):
    """VGG-19 with BM-NAS's four taps, 512 channels each; it ends at the last tap.

    Args:
        weights: None for random ones (from torch's seed), or "DEFAULT" (ImageNet).
        size: (H, W) of the images, each >= 32.

    Raises:
        InputError: the weights cannot be downloaded.
    """

    def __init__(self, weights: str | None = None, size: tuple[int, int] = (256, 160)) -> None:
        size = check_size(size)
        if min(size) < 32:
            raise InputError(f"vgg19 halves images five times, so needs sides >= 32, got {size}.")
        layers = _torchvision_model("vgg19", weights).get_submodule("features")
        ends = [0, *(tap + 1 for tap in VGG19_TAPS)]
        assert isinstance(layers, nn.Sequential)
        slices = _Slices(layers[a:b] for a, b in zip(ends, ends[1:], strict=False))
        super().__init__(slices, f"vgg19 {weights}", size)


class TorchvisionNet(_TappedNet):
    """Any torchvision classification model, tapped at the end of its last stages.

    Taps are the last layers of the last `taps` spatial resolutions (fewer if the
    network has fewer). For a vision transformer they are encoder blocks at even
    distances, the last included; its tokens are the positions.

    Args:
        model_name: as torchvision.models.list_models names it.
        weights: None for random ones (from torch's seed), or "DEFAULT".
        taps: how many feature maps, >= 1.
        size: (H, W) of the images.
        pretrained: without `weights`, the shape that a network with weights has: for
            those that a state dict brings.

    Raises:
        InputError: unknown model, no weights to be had, or a size it cannot take.
    """

    argument = "MODEL"

    def __init__(
        self,
        model_name: str,
        weights: str | None = None,
        taps: int = 4,
        size: tuple[int, int] = (224, 224),
        pretrained: bool = False,
    ) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor
        from torchvision.models.swin_transformer import SwinTransformer
        from torchvision.models.vision_transformer import VisionTransformer

        size = check_size(size)
        if taps < 1:
            raise InputError(f"taps must be >= 1, got {taps}.")
        options = {
            "model_name": model_name, "taps": taps, "pretrained": pretrained or weights is not None
        }  # fmt: skip
        shape: dict[str, Any] = {}  # what loading weights changes beside weights
        if pretrained and model_name in ("googlenet", "inception_v3"):
            shape = {"transform_input": True}  # they then normalise differently
        elif pretrained and model_name.startswith("vit_"):
            shape = {"image_size": size[0]}  # the largest then take larger images
        model = _torchvision_model(model_name, weights, **shape)
        arrange = _as_is
        with sized(model_name, size):
            if isinstance(model, VisionTransformer):
                model(torch.zeros(1, 3, *size))  # it insists on its own size
                layers = model.encoder.layers.named_children()
                blocks = [f"encoder.layers.{name}" for name, _ in layers]
                taps = min(taps, len(blocks))
                stages = [blocks[len(blocks) * (tap + 1) // taps - 1] for tap in range(taps)]
                arrange = _tokens_to_map
            else:
                last = isinstance(model, SwinTransformer)
                stages = _stages(model, size, channels_last=last)[-taps:]
                arrange = _channels_first if last else _as_is
            nodes = {stage: str(depth) for depth, stage in enumerate(stages)}
            traced = create_feature_extractor(model, return_nodes=nodes)
        name = f"torchvision:{model_name} {weights} {tuple(stages)}"
        super().__init__(_Extracted(traced, arrange), name, size, **options)


class TimmNet(_TappedNet):
    """Any timm model that has `features_only`, tapped at the end of its last stages.

    Args:
        model: a name of timm's, as resnet18.a1_in1k, or NAME@FILE with a checkpoint of
            that model, a state dict in .safetensors or as torch.save writes it.
        weights: None for random ones (from torch's seed), or "DEFAULT": those of the
            file, or the published ones.
        taps: how many feature maps, >= 1, the last ones.
        size: (H, W) of the images; None for the model's own.

    Raises:
        InputError: timm is not installed, an unknown model, no weights to be had, or a
            size it cannot take.
    """

    argument = "NAME"

    def __init__(
        self,
        model: str,
        weights: str | None = None,
        taps: int = 4,
        size: tuple[int, int] | None = None,
    ) -> None:
        if weights not in (None, "DEFAULT") or taps < 1:
            raise InputError(
                f"weights must be None or 'DEFAULT' and taps >= 1, got {weights!r} and {taps}."
            )
        name, _, file = model.partition("@")
        overlay = {}
        with foreign(
            f"expected a timm model with features_only and weights {weights}, got {name!r}",
            "see timm.list_models(), or give a checkpoint as timm:NAME@FILE",
        ):
            if weights is not None and file:
                overlay = {"pretrained_cfg_overlay": {"state_dict": _timm_state(name, Path(file))}}
            net = _timm(name).create_model(
                name, pretrained=weights is not None, features_only=True, **overlay
            )
            about = net.pretrained_cfg
            about.pop("state_dict", None)  # a second copy of all weights
            size = check_size(tuple(about["input_size"][1:]) if size is None else size)
            colours = (about["mean"], about["std"])
            name_of_all = about["architecture"] if ":" in name else name
        last = str(getattr(net, "output_fmt", "")).endswith("NHWC")
        super().__init__(
            _Listed(net, taps, _channels_first if last else _as_is),
            f"timm:{name} {Path(file).name if file else weights} {taps}",
            size,
            colours=colours,
            own_colours=True,
            model=name_of_all,
            taps=taps,
        )

    @classmethod
    def rebuilt(cls, folder: Path | None, **options: Any) -> Self:
        if ":" in str(options.get("model")):  # as hf-hub:..., which asks the network
            raise InputError(f"expected the name of a timm model, got {options['model']!r:.60}.")
        return super().rebuilt(folder, **options)


def _timm(name: str) -> Any:
    """Return the module timm, which only these backbones need."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise InputError(
            f"expected timm for the backbone 'timm:{name}', got none installed; "
            "pip install 'ssnas[timm]'."
        ) from error


def _timm_state(name: str, file: Path) -> dict[str, Any]:
    """Return the weights of the timm model `name` that `file` has.

    Raises:
        InputError: it is missing, broken, or lacks weights of that model.
    """
    state: Any = load_tensors(file) if file.suffix == ".safetensors" else load_states(file)
    for key in ("state_dict", "model"):  # as training scripts wrap it
        state = state.get(key, state) if isinstance(state, dict) else {}
    needed = _timm(name).create_model(name, num_classes=0).state_dict()
    lacking = [key for key in needed if not isinstance(state.get(key), Tensor)]
    if lacking:
        raise InputError(
            f"expected all weights of timm's {name} in {file}, got none for {len(lacking)} of "
            f"{len(needed)} (first: {lacking[0]}); give a checkpoint of that model."
        )
    return state
