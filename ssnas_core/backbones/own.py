"""Backbones of one's own: any module that returns named maps, behind the usual interface.

A module is given as an object, as an entry point "ssnas.backbone", or as
"package.module:Name": a class, or a function that says that it returns one (`-> nn.Module`),
either without required arguments. It may be a `Backbone` already. Any other module returns
for a batch of N samples a dict of maps, shallow to deep, or a list of them. A map is
(N, C, H, W), (N, P, C) or (N, C); by depth they become the taps "0", "1", ...

- Of images it is given float (N, 3, H, W) in [0, 1]. `size`, where it has that attribute,
  is (H, W); a class or function that takes `size` is given the one asked for.
- Of texts it has `vectorize(texts)`, which returns a tensor (N, ...), and takes such
  tensors; also `fit(train_texts)`, if it learns from texts without labels. Where it cannot
  vectorize before it is fitted, it has `channels`, the width of each map.
- Of arrays it is given float (N, C) or (N, P, C), standardised by the train rows. A class
  or function that takes `shape` is given (C,) or (P, C).

With the attribute `learns = True` it is trained by self-supervision before it is used. What
it knows is in its state dict: other weights are another preparation, other code is not.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from ssnas_core.backbones import BACKBONES
from ssnas_core.backbones.base import (
    ArrayBackbone,
    Backbone,
    ImageBackbone,
    TextBackbone,
    content_hash,
    measuring,
)
from ssnas_core.backbones.image import check_images, check_size
from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.typed import typed

PLACES = {"image": ("size",), "text": (), "array": ("shape",)}  # arguments that tell of the data


def named_maps(output: Any) -> dict[str, Tensor]:
    """Return what a module gives, a dict or list of maps, as tap -> (N, C, ...).

    Raises:
        InputError: something else.
    """
    maps = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(maps, list | tuple) or not maps:
        raise InputError(f"expected a dict or list of maps, got {type(output).__name__}.")
    return {str(depth): _channels_second(value) for depth, value in enumerate(maps)}


def _channels_second(value: Any) -> Tensor:
    """(N, C, H, W) as it is; (N, P, C) -> (N, C, P); (N, C) -> (N, C, 1)."""
    if not isinstance(value, Tensor) or value.ndim not in (2, 3, 4):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"expected maps (N, C, H, W), (N, P, C) or (N, C), got {shape}.")
    if value.ndim == 4:
        return value
    return value.mT if value.ndim == 3 else value.unsqueeze(2)


class _Wrapped(Backbone):
    """A module of one's own as a backbone.

    Args:
        module: see above.
        name: by which `BACKBONES` finds its class, or what made it.
        channels: of the taps; None to measure them on an example, in eval mode.
        place: the size or shape, which the config keeps.
    """

    def _hold(
        self,
        module: nn.Module,
        name: str,
        channels: Mapping[str, int] | None,
        example: Tensor | None,
        **place: Sequence[int],
    ) -> None:
        self.module = module
        self.made_by = name
        self.name = " ".join([name, *map(str, place.values())])
        self.learns = bool(getattr(module, "learns", False))
        if channels is None:
            try:
                with measuring(module):
                    maps = named_maps(module(example))
            except Exception as error:  # of any code
                raise InputError(
                    f"expected a backbone of {self.modality_kind}s that returns maps, got from "
                    f"{name}: {type(error).__name__}: {one_line(error)}; see "
                    "ssnas_core.backbones.own for the inputs and outputs that it needs."
                ) from error
            channels = {tap: value.shape[1] for tap, value in maps.items()}
        self.channels = dict(channels)
        self.options = {"modality": self.modality_kind, "channels": self.channels, **place}

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """The module's maps as tap -> (N, C, ...)."""
        return named_maps(self.module(inputs))


class _WrappedImage(_Wrapped, ImageBackbone):
    """A module of images; its size is the one asked for, its own, or 224 x 224."""

    def __init__(
        self,
        module: nn.Module,
        name: str,
        channels: Mapping[str, int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.size = check_size(size or getattr(module, "size", (224, 224)))
        example = None if channels else torch.zeros(1, 3, *self.size)
        self._hold(module, name, channels, example, size=self.size)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        check_images(inputs)
        return super().forward(inputs)


class _WrappedText(_Wrapped, TextBackbone):
    """A module of texts, with a `vectorize` of its own and perhaps a `fit`."""

    def __init__(
        self, module: nn.Module, name: str, channels: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        if not callable(getattr(module, "vectorize", None)):
            raise InputError(
                f"expected a text backbone with vectorize(texts), got {name}; give it that "
                "method, from a list of N texts to a tensor (N, ...)."
            )
        if channels is None and hasattr(module, "channels"):
            widths: Any = module.channels
            widths = widths.values() if isinstance(widths, Mapping) else widths
            channels = {str(depth): int(width) for depth, width in enumerate(widths)}
        self.module = module
        self._hold(module, name, channels, None if channels else self.vectorize(["a text"]))

    def fit(self, texts: Sequence[str]) -> _WrappedText:
        if hasattr(self.module, "fit"):
            self.module.fit(texts)  # type: ignore[operator]  # checked above
        return self

    def vectorize(self, texts: Sequence[str]) -> Tensor:
        return self.module.vectorize(texts).cpu()  # type: ignore[operator]


class _WrappedArray(_Wrapped, ArrayBackbone):
    """A module of arrays, which gets them standardised."""

    def __init__(
        self,
        module: nn.Module,
        name: str,
        channels: Mapping[str, int] | None = None,
        shape: Sequence[int] = (),
    ) -> None:
        super().__init__(shape)
        example = None if channels else torch.zeros(1, *self.shape)
        self._hold(module, name, channels, example, shape=self.shape)


_WRAPPED: dict[str, Any] = {"image": _WrappedImage, "text": _WrappedText, "array": _WrappedArray}


def object_name(module: nn.Module) -> str:
    """Return the name of a module that is an object: of its class, and of what is in it.

    Raises:
        InputError: its class is not importable.
    """
    values = [dict(getattr(module, "options", {})), getattr(module, "size", None)]
    return f"{BACKBONES.name_of(module)}#{content_hash(values, module)[:16]}"


def builder(name: str, *, from_file: bool = False) -> Any:
    """Return the class of modules, or the function that makes one, of that name.

    Raises:
        InputError: there is none, or it does not say that it makes a module.
    """
    part = BACKBONES.find(name, from_file=from_file)
    try:
        made = get_type_hints(part).get("return") if inspect.isfunction(part) else part
    except (NameError, TypeError):  # annotations that only a type checker can read
        made = None
    if not isinstance(made, type) or not issubclass(made, nn.Module):
        raise InputError(
            f"expected a class of torch modules, or a function that says it returns one "
            f"(-> nn.Module), got {name!r}; name one of these."
        )
    return part


def own_backbone(kind: str, part: nn.Module | str, asked: Mapping[str, Any]) -> Backbone:
    """Return the backbone that a module is, or makes; `part` itself is not changed.

    Args:
        kind: of the modality: "image", "text" or "array".
        part: the module, or the name of what makes it.
        asked: what it is given, where it takes that: `size`, (H, W) of the images; `shape` of
            one array, (C,) or (P, C); `weights`, "DEFAULT".

    Raises:
        InputError: it has not what its kind needs, or could not be built again.
    """
    passed: dict[str, Any] = {}
    if isinstance(part, nn.Module):
        name, function = BACKBONES.name_of(part), False
        made: Any = copy.deepcopy(part).cpu()
    else:
        build = builder(part)
        name, function = part, inspect.isfunction(build)
        takes = inspect.signature(build).parameters
        passed = {key: value for key, value in asked.items() if key in takes}
        try:
            made = build(**passed)
        except TypeError as error:
            raise InputError(
                f"expected a backbone {name!r} without required arguments, got: {error}; "
                "give them defaults."
            ) from error
    if not isinstance(made, Backbone):
        place = {key: asked[key] for key in PLACES[kind] if key in asked}
        return _WRAPPED[kind](made, name, None, **place)
    if made.modality_kind != kind or not all(tap.isdigit() for tap in made.channels):
        raise InputError(
            f"expected a backbone of {kind}s with taps 0, 1, ..., got {name}, of "
            f"{made.modality_kind}s with taps {', '.join(made.channels)}."
        )
    if function:
        made.made_by = name
        made.options = {key: passed[key] for key in PLACES[kind] if key in passed}
    return made


def rebuilt(part: Any, name: str, options: Mapping[str, Any]) -> Backbone:
    """Return again what `own_backbone` made of `part`, unless its class is a `Backbone`.

    The options come from a file, which may name any module that is imported: nothing but
    size and shape is passed on.

    Args:
        part: the result of `builder`.
        name: by which it was found.
        options: those of the config.
    """
    hints = {"size": tuple[int, int], "shape": tuple[int, ...]}
    given = {key: typed(hints[key], options[key], key) for key in hints if key in options}
    takes = inspect.signature(part).parameters
    made = part(**{key: value for key, value in given.items() if key in takes})
    if isinstance(made, Backbone):
        made.made_by, made.options = name, given
        return made
    channels = typed(Mapping[str, int], options.get("channels"), "channels")
    return _WRAPPED[options["modality"]](made, name, channels, **given)
