"""A saved model's folder: whole or absent when written, every field checked when read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ssnas_core.backbones.base import Backbone
from ssnas_core.backbones.factory import backbone_from_config
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import load_tensors, path_text, read_json
from ssnas_core.common.typed import brief, same_names, typed
from ssnas_core.models.card import ModelFacts
from ssnas_core.models.spec import ClassifierSpec

FORMAT = 1
"""Version of the folder; raised whenever an old reader would misread a new one."""

KIND = "ssnas multimodal classifier"
CONFIG, WEIGHTS, CARD, BACKBONES = "config.json", "model.safetensors", "README.md", "backbones"


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, renamed onto it only if the block succeeds.

    Raises:
        InputError: `path` holds anything but a saved model, or nothing; or no file could
            name it.
    """
    path_text(path.resolve())
    _refuse_foreign(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    made, old = work / "new", work / "old"
    try:
        made.mkdir()
        yield made
        _refuse_foreign(path)
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(made, path)
        except BaseException:  # also Ctrl-C: what is in `work` is deleted below
            if old.exists():
                os.rename(old, path)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _refuse_foreign(path: Path) -> None:
    if not path.is_dir():
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} is not a folder; name a new one.")
        return
    names = {entry.name for entry in path.iterdir()}
    foreign = sorted(names - {CONFIG, WEIGHTS, CARD, BACKBONES})
    if names and (foreign or not _is_model(path)):
        raise InputError(
            f"{path} exists and is not a saved model of ssnas alone "
            f"(it holds {', '.join(foreign or sorted(names))[:60]}); name a new folder."
        )


def _is_model(path: Path) -> bool:
    try:
        config = read_json(path / CONFIG)
    except InputError:
        return False
    return isinstance(config, dict) and config.get("kind") == KIND


def read_model(
    folder: Path,
) -> tuple[ClassifierSpec, dict[str, Backbone], ModelFacts | None, dict[str, Tensor]]:
    """Return what a saved model's folder holds, with backbones whose weights are not loaded yet.

    Raises:
        InputError: no model, one of another version, missing or broken files, fields
            missing, unknown or of another type, or parts of modules that were not imported.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise InputError(f"{folder} is not a saved model (no {CONFIG}); see save_pretrained.")
    config = read_json(file)
    if not isinstance(config, dict) or config.get("kind") != KIND:
        raise InputError(f"{file} is not of a saved model of ssnas; name another folder.")
    if config.get("format") != FORMAT:
        raise InputError(
            f"{file}: expected a model of format {FORMAT}, got {brief(config.get('format'))}; "
            "read it with the version of ssnas that wrote it, or save the model anew."
        )
    fields = {"kind", "format", "spec", "backbones", "facts"}
    same_names(config, fields, fields, str(file))
    spec = ClassifierSpec.from_plain(config["spec"], f"{file}: spec")
    configs = typed(Mapping[str, Mapping[str, Any]], config["backbones"], f"{file}: backbones")
    facts = typed(ModelFacts | None, config["facts"], f"{file}: facts")
    if set(configs) != set(spec.modalities):  # their names become those of folders
        raise InputError(
            f"{file}: expected backbones of {', '.join(spec.modalities)}, "
            f"got {', '.join(configs)[:80]}; restore the file."
        )
    weights = load_tensors(folder / WEIGHTS)
    backbones: dict[str, Backbone] = {}
    try:
        for name in spec.modalities:
            prefix = f"{BACKBONES}.{name}."
            state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            files = folder / BACKBONES / name
            backbones[name] = backbone_from_config(configs[name], files, state)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return spec, backbones, facts, weights
