"""Raw inputs of one sample, checked: what may be given to a classifier, and what it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.cells import plain_text
from ssnas_core.features.images import decode_image, image_problem
from ssnas_core.models.spec import ClassifierSpec


def checked_rows(inputs: Any, spec: ClassifierSpec) -> list[Mapping[str, Any]]:
    """One sample, or several, as a list of mappings that give something to read.

    Raises:
        InputError: no mappings, an unknown modality, or nothing that is read.
    """
    several = not isinstance(inputs, Mapping | str | bytes) and isinstance(inputs, Iterable)
    rows: list[Any] = list(inputs) if several else [inputs]
    known = ", ".join(spec.kinds)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(
                f"expected a mapping from {known} to values, got {type(row).__name__} as input "
                f"{number}; as {{{spec.modalities[0]!r}: ...}}."
            )
        unknown = [str(name) for name in row if name not in spec.kinds]
        if unknown:
            raise InputError(
                f"input {number} has the unknown modality {unknown[0]!r}; the model knows {known}."
            )
        if all(row.get(name) is None for name in spec.modalities):
            raise InputError(
                f"input {number} gives nothing that the model reads; give at least one of "
                f"{', '.join(spec.modalities)}."
            )
    return rows


def without_unknown(
    rows: Sequence[Mapping[str, Any]], spec: ClassifierSpec, backbones: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what is read of each sample: no text of which its backbone knows no word.

    Args:
        rows: as `checked_rows` returns them.
        spec: of the classifier.
        backbones: modality -> backbone.

    Raises:
        InputError: a text that is no str, or nothing left that says anything.
    """
    kept = [{n: row[n] for n in spec.modalities if row.get(n) is not None} for row in rows]
    for modality in (name for name in spec.modalities if spec.kinds[name] == "text"):
        having = [row for row in kept if modality in row]
        texts = [row[modality] for row in having]
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise InputError(
                f"{modality} must be a str, got {type(wrong).__name__}; give its text."
            )
        texts = [plain_text(text) for text in texts]
        for row, text, share in zip(having, texts, backbones[modality].known(texts), strict=True):
            row[modality] = text
            if not share:
                del row[modality]
    for number, (row, given) in enumerate(zip(kept, rows, strict=True)):
        if not row:
            texts = [name for name in spec.modalities if given.get(name) is not None]
            others = [f", or {name}" for name in spec.modalities if name not in texts]
            raise InputError(
                f"input {number} gives nothing that the model knows: no word of "
                f"{' and '.join(texts)} is one of those it learnt; give another "
                f"{' and '.join(texts)}{''.join(others)}."
            )
    return kept


def as_tensor(modality: str, values: Sequence[Any], spec: ClassifierSpec, backbone: Any) -> Tensor:
    """Return raw values as a modality's backbone takes them, on the CPU.

    Images go the way they went into the feature store: decoded to the backbone's
    size, in [0, 1].

    Raises:
        InputError: a value of another kind, that cannot be decoded, of another shape, or
            not finite.
    """
    kind = spec.kinds[modality]
    if kind == "image":
        images = [_image(modality, value, backbone.size) for value in values]
        return torch.from_numpy(np.stack(images)).float().div_(255)
    if kind == "array":
        shape = tuple(spec.shapes[modality])
        return backbone.vectorize(np.stack([_array(modality, value, shape) for value in values]))
    return backbone.vectorize(list(values))


def _image(modality: str, value: Any, size: tuple[int, int]) -> np.ndarray:
    try:
        return decode_image(Path(value) if isinstance(value, str) else value, size)
    except Exception as error:  # PIL answers broken files with many kinds; all mean the same here
        raise InputError(
            f"{modality} is no usable image ({image_problem(error)}); give the "
            "path of an image file (in Python also a PIL image, or uint8 (3, H, W) RGB)."
        ) from error


def _array(modality: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    given = getattr(value, "shape", shape)
    array = np.zeros(0)
    if given == shape:  # else a mapped file is not read
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                array = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"{modality} must be numbers of shape {shape} ({error}).") from error
        given = array.shape
    if given != shape or not np.isfinite(array).all():
        got = f"shape {given}" if given != shape else "NaN or infinite ones"
        raise InputError(f"{modality} must be finite numbers of shape {shape}, got {got}.")
    return array
