"""A saved model's folder: whole or absent, and read back with every field checked."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from ssnas_core._model_spec import ClassifierSpec
from ssnas_core.backbones import Backbone, backbone_from_config
from ssnas_core.cards import ModelFacts
from ssnas_core.errors import InputError
from ssnas_core.files import load_tensors, read_json

FORMAT = 1
"""Version of the folder; raised whenever an old reader would misread a new one."""

KIND = "ssnas multimodal classifier"
CONFIG, WEIGHTS, CARD, BACKBONES = "config.json", "model.safetensors", "README.md", "backbones"


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, renamed onto it only if the block succeeds.

    Raises:
        InputError: `path` holds anything but a saved model, or nothing.
    """
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
        told = read_json(path / CONFIG)
    except InputError:
        return False
    return isinstance(told, dict) and told.get("kind") == KIND


def read_model(
    folder: Path,
) -> tuple[ClassifierSpec, dict[str, Backbone], ModelFacts | None, dict[str, Tensor]]:
    """What a saved model's folder holds, with backbones whose weights are not loaded yet.

    Raises:
        InputError: no model, one of another version, missing or broken files, fields
            missing, unknown or of another type, or weights of other shapes.
    """
    file = folder / CONFIG
    fields = {
        "spec": ClassifierSpec,
        "backbones": Mapping[str, Mapping[str, Any]],
        "facts": ModelFacts | None,
    }
    told = _config(folder)
    _same_names(told, set(fields), set(fields), str(file))
    parts = {name: typed(hint, told[name], f"{file}: {name}") for name, hint in fields.items()}
    spec: ClassifierSpec = parts["spec"]
    configs = parts["backbones"]
    if set(configs) != set(spec.modalities):  # their names become those of folders
        raise InputError(
            f"{file}: expected backbones of {', '.join(spec.modalities)}, "
            f"got {', '.join(configs)[:80]}; restore the file."
        )
    weights = load_tensors(folder / WEIGHTS)
    for name, shape in spec.weight_shapes().items():  # before memory is taken for them
        found = tuple(weights[name].shape) if name in weights else "none"
        if found != shape:
            raise unfit(folder, f"expected {name} of {shape}, got {found}")
    try:
        backbones = {
            name: backbone_from_config(configs[name], folder / BACKBONES / name)
            for name in spec.modalities
        }
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return spec, backbones, parts["facts"], weights


def unfit(folder: Path, reason: str) -> InputError:
    """The error of weights that are not those of the config beside them."""
    return InputError(f"{folder / WEIGHTS} does not fit {CONFIG} ({reason}); restore the files.")


def _config(folder: Path) -> dict[str, Any]:
    """The fields of config.json, once it is known to be a model's of this version."""
    file = folder / CONFIG
    if not file.is_file():
        raise InputError(f"{folder} is not a saved model (no {CONFIG}); see save_pretrained.")
    told = read_json(file)
    if not isinstance(told, dict) or told.get("kind") != KIND:
        raise InputError(f"{file} is not of a saved model of ssnas; name another folder.")
    if told.get("format") != FORMAT:
        raise InputError(
            f"{file}: expected a model of format {FORMAT}, got {str(told.get('format'))[:20]}; "
            "read it with the version of ssnas that wrote it, or save the model anew."
        )
    return {name: value for name, value in told.items() if name not in ("kind", "format")}


def plain(value: Any) -> Any:
    """`value` as JSON values: dataclasses as objects, tuples as lists; `typed` reads it back."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def typed(hint: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as what the type `hint` says.

    Knows bool, int, float (finite), str, Any, `X | None`, `tuple[X, ...]`,
    `Mapping[str, X]` and dataclasses of these. A dataclass's field may be absent
    where it has a default: it was added later.

    Raises:
        InputError: it is something else; the message begins with `where`.
    """
    options, origin = get_args(hint), get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        (inner,) = (option for option in options if option is not type(None))
        return None if value is None else typed(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(typed(options[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {name: typed(options[1], item, f"{where}.{name}") for name, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        fields = dataclasses.fields(hint)
        missing = dataclasses.MISSING
        needed = {
            one.name for one in fields if one.default is missing and one.default_factory is missing
        }
        _same_names(value, needed, {one.name for one in fields}, where)
        hints = get_type_hints(hint)
        given = {name: typed(hints[name], item, f"{where}.{name}") for name, item in value.items()}
        try:
            return hint(**given)  # type: ignore[operator]  # a class, not an instance
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        name = str(hint) if origin else getattr(hint, "__name__", hint)
        raise InputError(f"{where}: expected {name}, got {str(value)[:40]!r}; restore the file.")
    return value


def _same_names(given: Mapping[str, Any], needed: set[str], known: set[str], where: str) -> None:
    lacking, unknown = sorted(needed - given.keys()), sorted(given.keys() - known)
    if lacking or unknown:
        told = f"lacks {', '.join(lacking)}" if lacking else f"has unknown {', '.join(unknown)}"
        raise InputError(f"{where}: {told[:80]}; restore the file.")
