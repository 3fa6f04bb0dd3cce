"""What a preparation left on disk, read back: backbones, decoded images, arrays."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssnas_core._checked import load_states, map_array, plain_name
from ssnas_core._typed import typed
from ssnas_core.backbones import Backbone, backbone_from_config
from ssnas_core.errors import InputError
from ssnas_core.files import atomic_path, read_fields, read_json, told_where


def stored_columns(folder: Path) -> dict[str, Any]:
    """The decoded images and the arrays of the preparation in `folder`, mapped, by modality.

    Raises:
        InputError: they are missing or broken, or named by a path.
    """
    note = folder / "inputs.json"
    files = typed(dict[str, str], read_fields(note, "files")["files"], f"{note}: files")
    return {
        name: map_array(folder / "inputs" / plain_name(file, str(note)))
        for name, file in files.items()
    }


def lend_files(source: Path, target: Path) -> None:
    """Give the folder `target` the files of `source` that it lacks, as links where these work.

    No file of either is ever written in place, so none sees what becomes of the other.

    Raises:
        InputError: no space, or a folder that cannot be written.
    """
    with told_where(target):
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.iterdir()) if source.is_dir() else ():  # texts alone leave none
            lent = target / file.name
            if file.name.startswith(".") or lent.exists():
                continue
            with suppress(OSError):  # as on file systems without links
                os.link(file, lent)
            if not lent.exists():
                with atomic_path(lent) as temporary:
                    shutil.copyfile(file, temporary)


def saved_backbone(folder: Path, modality: str) -> Backbone:
    """The backbone that made a modality's features.

    Raises:
        InputError: its files are missing or broken, or not of each other.
    """
    told, weights = (folder / f"{modality}.{ending}" for ending in ("json", "pt"))
    state = load_states(weights, "backbone")
    try:
        backbone = backbone_from_config(read_json(told), folder / f"{modality}-files", state)
    except InputError as error:
        raise InputError(f"{told}: {error}") from error
    _give(weights, state, backbone)
    return backbone


def load_backbone(file: Path, backbone: Backbone) -> None:
    """Give `backbone` the state dict in `file`.

    Raises:
        InputError: it is missing or broken, or of another backbone.
    """
    _give(file, load_states(file, "backbone"), backbone)


def _give(file: Path, state: Any, backbone: Backbone) -> None:
    try:
        backbone.load_state_dict(state)
    except Exception as error:  # torch raises many kinds for what does not fit, with long advice
        raise InputError(
            f"{file} is not a usable backbone ({type(error).__name__}); delete it."
        ) from error
