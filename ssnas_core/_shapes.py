"""Whether a module would fit a state dict, found out before any memory is taken for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssnas_core.errors import InputError


def check_shapes(build: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> None:
    """Build the module on torch's "meta" device, where tensors have shapes only, and compare.

    A description of a few bytes may ask for any number of weights; those in `state`
    are there already. Draws no random number.

    Args:
        build: makes the module.
        state: what it is to be given by `load_state_dict`.

    Raises:
        InputError: a tensor of another shape, or far more tensors than `state` has.
            Names that are missing are for `load_state_dict` to tell.
    """
    most, made = 4 * len(state) + 1000, 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise InputError(f"expected about {len(state)} tensors, got a module of more")

    hook = nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            # backbones inside come with weights, which are not needed here
            warnings.filterwarnings("ignore", "for .* to a meta parameter", UserWarning)
            module = build()
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise
        return  # it computes with its numbers, which only a real one can
    finally:
        hook.remove()
    grown = {  # whose first dimension is that of `state`
        f"{place}.{name}".lstrip(".")
        for place, part in module.named_modules()
        for name in getattr(part, "_grown", ())
    }
    for name, value in module.state_dict().items():
        start = 1 if name in grown else 0
        found = state[name].shape if name in state else value.shape
        if len(found) != value.ndim or found[start:] != value.shape[start:]:
            raise InputError(
                f"size mismatch for {name}: expected {tuple(value.shape)}, got {tuple(found)}"
            )
