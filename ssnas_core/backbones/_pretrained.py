"""Loading transformers models: all their weights or an error, and none of their code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core._checked import file_size
from ssnas_core.errors import InputError, one_line
from ssnas_core.files import read_json


@contextmanager
def loading(source: str | Path, remedy: str) -> Iterator[None]:
    """No progress bars, which are the caller's to ask for; failures are told as what to do."""
    from transformers.utils import logging as transformers_logging

    showing = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        if Path(source).is_dir():
            _check_documents(Path(source))
        yield
    except InputError:
        raise
    except BaseException as error:  # transformers and what it loads with raise many kinds
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # Ctrl-C; a panic is what its tokenizers answer some broken files with
        reason = one_line((str(error).strip().splitlines() or [type(error).__name__])[0], 400)
        raise InputError(
            f"expected a transformers model folder or name, got {str(source)!r}: {reason} {remedy}"
        ) from error
    finally:
        if showing:
            transformers_logging.enable_progress_bar()


def _check_documents(folder: Path) -> None:
    """Read what transformers would read with no bounds: the largest tokenizers take 40 MB."""
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json":
            read_json(file, limit=64 * 2**20)
        elif not file.is_dir():
            file_size(file)


def _part(model: Any, kind: str) -> Any:
    """The encoder of `kind` within a model, without its pooler.

    The pooler is never used here, and its weights would never see a gradient.
    """
    if kind == "text":
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        expected = "input_ids"
    else:
        model = getattr(model, "vision_model", model)  # of CLIP and its kin
        expected = "pixel_values"
    takes = getattr(model, "main_input_name", expected)
    if takes != expected or (kind == "text" and not hasattr(model.config, "num_hidden_layers")):
        raise InputError(
            f"expected an encoder of {kind}s, got {type(model).__name__}; "
            "give a model to the modality that it reads."
        )
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and next(pooler.parameters(), None) is not None:
        model.pooler = None
    return model


def from_weights(source: str | Path, kind: str) -> tuple[Any, Any]:
    """The encoder with its published weights, all of them, in float32; and the whole config."""
    from transformers import AutoModel

    whole, told = AutoModel.from_pretrained(
        source, trust_remote_code=False, output_loading_info=True
    )
    config = whole.config
    named = {id(weight): name for name, weight in whole.named_parameters()}
    model = _part(whole, kind)
    used = {named[id(weight)] for weight in model.parameters() if id(weight) in named}
    lacking = sorted(used & set(told["missing_keys"]))
    if lacking:
        raise InputError(
            f"expected all weights of {str(source)!r}, got none for {len(lacking)} of "
            f"{len(used)} (first: {lacking[0]}); fetch the model again."
        )
    return model.float(), config


def from_config(config: Any, kind: str) -> Any:
    """The encoder with random weights, from torch's global seed."""
    from transformers import AutoModel

    return _part(AutoModel.from_config(config, trust_remote_code=False), kind).float()


def saved_config(folder: Path | None) -> Any:
    """The configuration that `save_config` wrote; no network is asked."""
    from transformers import AutoConfig

    if folder is None:
        raise InputError(
            "expected the folder with the files of a transformers backbone, got none; "
            "pass the folder that save_files wrote."
        )
    return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)


def even_depths(layers: int, taps: int) -> tuple[int, ...]:
    """`taps` of `layers` layers (from 1), at even distances, the last included."""
    taps = min(taps, layers)
    return tuple(-(-layers * (tap + 1) // taps) for tap in range(taps))


def save_config(config: Any, folder: Path) -> None:
    """Write an encoder's configuration into `folder`."""
    config._name_or_path = ""  # where it lay on this machine is nobody's business
    Path(folder).mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))


def colour_map(source: str | Path, side: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """What a model's own image processor does to colours, and the size (H, W) it gives.

    It rescales, normalises and perhaps swaps channels: an affine map, (3, 3) and
    (3,), of RGB in [0, 1], read off four images of one colour each. So any
    processor's rule holds, whatever its options are called.
    """
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    colours = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    images = [Image.new("RGB", (side, side), colour) for colour in colours]
    pixels = torch.stack(
        [torch.as_tensor(processor(one, return_tensors="pt")["pixel_values"])[0] for one in images]
    )
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise InputError(
            f"expected an image processor that gives (3, H, W), got {tuple(pixels.shape[1:])} "
            f"from {str(source)!r}; choose another model."
        )
    height, width = pixels.shape[2:]
    black, *pure = pixels[:, :, height // 2, width // 2].float()
    return torch.stack([one - black for one in pure], 1), black, (int(height), int(width))
