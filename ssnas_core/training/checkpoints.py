"""Checkpoints, from which a training or a search goes on.

They are of whole epochs. Where epochs are short, not every one is saved: fine-tuning on few
labels has hundreds of epochs of one step, and spent half of its time in saving them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ssnas_core.common.distributed import on_rank_zero, world_size
from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import atomic_path, load_states, parse_json

EVERY = 5.0
"""Seconds between two saves of a checkpoint, at least."""

OnEpoch = Callable[[list[dict[str, Any]]], None]
"""Called with the whole history so far; what it does cannot change the result."""


def save_checkpoint(
    path: Path, parts: Mapping[str, Any], history: list[dict[str, Any]], **more: Any
) -> None:
    """Write the state dicts of `parts` and the history to `path`, atomically."""
    states = {name: part.state_dict() for name, part in parts.items()}
    # A file that Python opened: its errors have the system's numbers, torch's own have not.
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save({**states, **more, "history": json.dumps(history)}, file)


def load_checkpoint(path: Path | None) -> dict[str, Any] | None:
    """The content of a checkpoint, its history as a list; None where there is no file.

    Raises:
        InputError: the file is not a checkpoint (nothing in it is executed).
    """
    if path is None or not Path(path).exists():
        return None
    saved = load_states(path)
    try:
        history = parse_json(saved["history"].encode())
        if not isinstance(history, list) or not all(isinstance(one, dict) for one in history):
            raise TypeError
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        kind = type(error).__name__
        raise InputError(f"{path} is not a usable checkpoint ({kind}); delete it.") from error
    return {**saved, "history": history}


def resume(
    path: Path | None, parts: Mapping[str, Any], settings: str, on_epoch: OnEpoch | None
) -> list[dict[str, Any]] | None:
    """Go on from the checkpoint `path`: load its states into `parts`.

    Args:
        path: a file that `keep_epoch` wrote.
        parts: the modules and optimizers that were saved, by name.
        settings: all that decides the run beside its parts, by `settings_of`.
        on_epoch: called with the history, which a log may know nothing of.

    Returns:
        The history, or None where there is no file.

    Raises:
        InputError: not a checkpoint, or one of another run or model.
    """
    saved = load_checkpoint(path)
    if saved is None:
        return None
    same_run(saved.get("settings"), settings, str(path))
    restore(saved, parts, str(path))
    keep_epoch(None, parts, saved["history"], settings, on_epoch)
    return saved["history"]


def same_run(stored: Any, settings: str, source: str) -> None:
    """Refuse a checkpoint of another seed, configuration or number of samples.

    Raises:
        InputError: the `stored` settings are not these `settings`.
    """
    if stored != settings:
        readable = isinstance(stored, str) and stored.isprintable()
        raise InputError(
            f"{source} is a checkpoint of another run: expected {settings}, got "
            f"{stored[:600] if readable else 'one that does not say'}; "
            "delete it or use another folder."
        )


def restore(saved: Mapping[str, Any], parts: Mapping[str, Any], source: str) -> None:
    """Load the saved state dicts into `parts`.

    Raises:
        InputError: they belong to something of another shape.
    """
    try:
        for name, part in parts.items():
            _load(part, saved[name])
    except Exception as error:  # modules and optimizers refuse a state in many ways
        reason = one_line((str(error) or type(error).__name__).splitlines()[0])
        raise InputError(
            f"{source} is a checkpoint of another model ({reason}); "
            "delete it or use another run folder."
        ) from error


def _load(part: Any, state: Any) -> None:
    """Load a state dict; an optimizer also refuses one that would fail at its next step."""
    if not isinstance(part, torch.optim.Optimizer):
        part.load_state_dict(state)
        return
    options = part.state_dict()["param_groups"]
    part.load_state_dict(state)
    for group, given in zip(part.param_groups, options, strict=True):
        group.update({name: value for name, value in given.items() if name != "params"})
    for weight, moments in part.state.items():  # Adam's, and AdamW's
        shapes = {"step": torch.Size(), "exp_avg": weight.shape, "exp_avg_sq": weight.shape}
        floats = all(value.is_floating_point() for value in moments.values())
        if {name: value.shape for name, value in moments.items()} != shapes or not floats:
            raise ValueError("an optimizer's state of other shapes")


def settings_of(*parts: Any, precision: str) -> str:
    """All that decides a run beside its model, as a text for its checkpoints."""
    more = [] if precision == "float32" else [precision]
    if world_size() > 1:
        more.append(f"{world_size()} processes")
    return repr((*parts, *more))


def keep_epoch(
    checkpoint: Path | None,
    parts: Mapping[str, Any],
    history: list[dict[str, Any]],
    settings: str,
    on_epoch: OnEpoch | None,
) -> None:
    """Save an epoch where that is due, then report it to `on_epoch`, in the first process."""

    def keep() -> None:
        if checkpoint is not None and _is_due(checkpoint):
            save_checkpoint(checkpoint, parts, history, settings=settings)
        if on_epoch is not None:
            on_epoch(list(history))

    on_rank_zero(keep)


def _is_due(checkpoint: Path) -> bool:
    try:
        age = time.time() - checkpoint.stat().st_mtime
    except FileNotFoundError:
        return True
    return not 0 <= age < EVERY
