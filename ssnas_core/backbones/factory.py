"""Backbones: one network per modality, giving named feature maps, shallow to deep.

Every backbone is a `Backbone`: `channels` maps each tap ("0", "1", ..., by depth)
to its width; `forward` returns a dict with the same keys. Its input differs by kind:
images (N, 3, H, W) in [0, 1], or texts or arrays after its `vectorize`. All that it
knows, a fitted vocabulary included, is in its state dict; `config` and `save_files`
hold the rest, for `backbone_from_config`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core.backbones import BACKBONES
from ssnas_core.backbones.base import (
    CONFIG_VERSION,
    ArrayBackbone,
    Backbone,
    ImageBackbone,
    TextBackbone,
)
from ssnas_core.backbones.own import builder, own_backbone, rebuilt
from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import check_shapes
from ssnas_core.common.typed import brief


def image_backbone(
    part: str | nn.Module, *, weights: str | None = None, size: tuple[int, int] | None = None
) -> ImageBackbone:
    """Return an image backbone: by name, or of a module of one's own.

    Args:
        part: small, vgg19, torchvision:MODEL (any classification model), timm:NAME,
            timm:NAME@FILE, transformers:NAME_OR_FOLDER, pixels, or one's own, see
            `ssnas_core.backbones.own`.
        weights: None for random ones (from torch's seed), "DEFAULT" for pre-trained.
        size: (H, W) of the images; None for the backbone's own default.

    Raises:
        InputError: an unknown name, or weights that cannot be had.
    """
    backbone = open_backbone("image", part, weights=weights, size=size)
    if weights is not None and isinstance(part, str) and backbone.learns:
        raise InputError(f"{part!r} has no pre-trained weights, got {weights!r}; pass None.")
    return backbone


def text_backbone(part: str | nn.Module) -> TextBackbone:
    """Return a text backbone: by name, or of a module of one's own.

    Args:
        part: maxout, characters (for languages without spaces between words), words (one by one,
            as positions), word2vec:FILE,
            transformers:NAME_OR_FOLDER, segments:BACKBONE (any of these on each of four pieces
            of a text, as positions), or one's own, see `ssnas_core.backbones.own`.

    Raises:
        InputError: an unknown name, or a file or transformer that is not at hand.
    """
    return open_backbone("text", part)


def array_backbone(part: str | nn.Module, shape: Sequence[int]) -> ArrayBackbone:
    """Return an array backbone: by name, or of a module of one's own.

    Args:
        part: identity, maxout for vectors, or regions; or one's own, see
            `ssnas_core.backbones.own`.
        shape: of one row, (C,) or (P, C).

    Raises:
        InputError: an unknown name, or a shape it cannot take.
    """
    return open_backbone("array", part, shape=shape)


def open_backbone(kind: str, part: str | nn.Module, **asked: Any) -> Any:
    """Return a backbone of that kind; it is given what it takes of `asked` (None: nothing).

    Args:
        kind: "image", "text" or "array".
        part: a name or a module.
        asked: `weights`, `size`, `shape`, `positions`.

    Raises:
        InputError: as the functions above.
    """
    asked = {key: value for key, value in asked.items() if value is not None}
    if isinstance(part, str):
        name, _, argument = part.partition(":")
        name = next((one for one in (f"{name}-{kind}", name) if one in BACKBONES.table), None)
        if name is not None:
            made = BACKBONES.find(name)
            if made.modality_kind != kind or bool(made.argument) != bool(argument):
                raise _unknown(kind, part)
            takes = inspect.signature(made).parameters
            given = {key: value for key, value in asked.items() if key in takes}
            return made(*[argument] if argument else [], **given)
        if "#" in part:
            raise InputError(
                f"the backbone {part!r} was an object, and its weights are in no file that its "
                "name leads to; give the object again, as PrepareConfig does."
            )
        if not re.fullmatch(r"[\w.]+:\w+", part) and part not in BACKBONES.brought:
            raise _unknown(kind, part)
    backbone = own_backbone(kind, part, asked)
    if type(backbone).save_files is Backbone.save_files:  # else it needs files that it has not yet
        try:
            config = backbone.config()
            check_shapes(_build_of(config, None)[1], backbone.state_dict())
        except Exception as error:  # of any class
            raise InputError(
                f"a backbone {backbone.made_by or type(backbone).__name__} could not be built "
                f"again from a file ({one_line(error)}); give it defaults for its arguments, or "
                f"derive it from {kind.title()}Backbone and set `options` to them."
            ) from error
    return backbone


def is_own(backbone: Backbone) -> bool:
    """Return whether a backbone is none of the library's."""
    return backbone.made_by is not None or BACKBONES.name_of(backbone) not in BACKBONES.table


def _unknown(kind: str, name: str) -> InputError:
    forms = []
    for known in BACKBONES.table:
        made = BACKBONES.find(known)
        if made.modality_kind == kind:
            stem = known.removesuffix(f"-{kind}")
            forms.append(f"'{stem}:{made.argument}'" if made.argument else f"'{stem}'")
    return InputError(
        f"expected {'a' if kind == 'text' else 'an'} {kind} backbone {', '.join(forms)}, or one "
        f"of your own as 'package.module:Name', got {brief(name)!r}; use one of these."
    )


def backbone_from_config(
    config: Mapping[str, Any],
    folder: Path | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Backbone:
    """Build again, offline, the backbone whose `config` this is; its state dict then fits.

    Weights are random and nothing is fitted until the state dict is loaded. Draws
    nothing from torch's global generator.

    Args:
        config: as `config()` returned it.
        folder: the one that `save_files` wrote into; needed by transformers backbones.
        state: the state dict that it will be given; a config that asks for other
            shapes is then refused before memory is taken for them.

    Raises:
        InputError: an unknown kind, another version, options that do not fit, files
            that are missing, or a class of one's own that is not imported.
    """
    kind, build = _build_of(config, folder)
    try:
        with torch.random.fork_rng(devices=[]):
            if state is not None:
                check_shapes(build, state)
            return build()
    except InputError:
        raise
    except Exception as error:  # of any class, given values of any kind
        raise InputError(
            f"expected options of a {kind!r} backbone, got {brief(config)}: {one_line(error)}; "
            "pass a config that Backbone.config() returned."
        ) from error


def _build_of(config: Mapping[str, Any], folder: Path | None) -> tuple[str, Callable[[], Backbone]]:
    """Return the kind of a config, and what builds its backbone."""
    options = dict(config) if isinstance(config, Mapping) else {}
    kind, version, name = (options.pop(key, None) for key in ("kind", "version", "name"))
    if not isinstance(kind, str) or not isinstance(name, str):
        raise InputError(
            f"expected the config of a backbone, got kind {brief(kind)} and name {brief(name)}; "
            "pass one that Backbone.config() returned."
        )
    if version != CONFIG_VERSION:
        raise InputError(
            f"expected a backbone config of version {CONFIG_VERSION}, got {brief(version)}; "
            "use the ssnas that wrote it, or make the backbone anew."
        )
    part = builder(kind, from_file=True)

    def build() -> Backbone:
        if isinstance(part, type) and issubclass(part, Backbone):
            backbone = part.rebuilt(None if folder is None else Path(folder), **options)
        else:
            backbone = rebuilt(part, kind, options)
        backbone.name = name
        return backbone

    return kind, build
