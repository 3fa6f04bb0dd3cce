"""A data set of one's own that is in memory: arrays, tensors and lists of texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import SPLITS, Dataset, Record
from ssnas_core.datasets.splits import stratified_split


class ArrayDataset(Dataset):
    """Two or more modalities given as arrays, as a `Dataset`.

    What a modality is follows from its values:

    - uint8 (N, 3, H, W), (N, H, W, 3) or (N, H, W): images, of which the last are
      grey; where both of the first could be meant, (N, 3, H, W) is;
    - other numbers (N, C) or (N, P, C): arrays, kept as float32;
    - N strings: texts.

    What is given is copied unless it cannot be written to, as a read-only memory map.

        ArrayDataset({"audio": audio, "image": images}, labels, split=split)

    Args:
        inputs: modality -> values: an array, a tensor, or a sequence.
        labels: (N,) whole numbers or strings: exactly one class each; or (N, K) of
            0 and 1: any number of K classes.
        split: N names, each "train", "dev" or "test"; without, a stratified
            70/10/20 split by `seed`.
        ids: N unique names; without, "0" to "N-1".
        classes: names of the classes: of class 0, 1, ... where labels are numbers,
            of the columns where they are (N, K). Without, the labels themselves,
            sorted, or the columns' numbers.
        name: what to call the dataset in reports.
        seed: of the split, where none is given.

    Raises:
        InputError: fewer than two modalities, unequal lengths, NaN or inf, a shape
            or type that is none of these, labels or a split that are none.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        labels: Any,
        *,
        split: Sequence[str] | None = None,
        ids: Sequence[Any] | None = None,
        classes: Sequence[str] | None = None,
        name: str = "arrays",
        seed: int = 0,
    ) -> None:
        if len(inputs) < 2:
            raise InputError(
                f"{name}: expected at least two modalities, got {list(inputs)}; add one."
            )
        read = {modality: _modality(modality, values) for modality, values in inputs.items()}
        plain = _plain("labels", labels)
        named = None if ids is None else list(ids)  # by place, whatever an index of theirs says
        lengths = {modality: len(values) for modality, (_, values) in read.items()}
        lengths["labels"] = len(plain)
        lengths |= {"split": len(split)} if split is not None else {}
        lengths |= {"ids": len(named)} if named is not None else {}
        if len(set(lengths.values())) != 1:
            raise InputError(
                f"{name}: expected as many rows everywhere, got "
                f"{', '.join(f'{n} of {what}' for what, n in lengths.items())}; "
                "give one row per sample."
            )
        matrix, names = _labels(plain, classes)
        drawn = stratified_split(matrix, seed) if split is None else [str(part) for part in split]
        counts = {part: drawn.count(part) for part in (*SPLITS, *dict.fromkeys(drawn))}
        for part in counts:
            if part not in SPLITS or part not in drawn:
                raise InputError(
                    f"{name}: expected every split to be one of {', '.join(SPLITS)}, and none "
                    f"to be empty, got {counts}."
                )
        records = tuple(
            Record(
                str(row if named is None else named[row]),
                {modality: values[row] for modality, (_, values) in read.items()},
                tuple(names[k] for k in np.flatnonzero(matrix[row])),
                drawn[row],
            )
            for row in range(len(plain))
        )
        super().__init__(
            name,
            {modality: kind for modality, (kind, _) in read.items()},
            names,
            records,
            single_label=plain.ndim == 1,
        )


def _plain(what: str, values: Any) -> np.ndarray:
    """Values as an array of numbers or strings.

    Raises:
        InputError: they are objects, or rows of unequal length.
    """
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
            values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        array = values if isinstance(values, np.ndarray) else np.asarray(values)
        if array.dtype.kind == "O" and array.ndim == 1 and all(isinstance(v, str) for v in array):
            array = array.astype(str)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{what}: expected rows of one shape, got others ({error}).") from error
    if array.dtype.kind not in "biufU" or array.ndim == 0 or array.size == 0:
        raise InputError(
            f"{what}: expected numbers or strings, at least one per sample, got "
            f"{array.dtype} {array.shape}; convert them."
        )
    return array


def _modality(name: str, values: Any) -> tuple[str, Sequence[Any] | np.ndarray]:
    """Kind and rows of a modality."""
    texts = _texts(name, values)
    if texts is not None:
        return "text", texts
    array = _plain(repr(name), values)
    if array.dtype == np.uint8 and array.ndim >= 3:
        return "image", _images(name, _kept(array))
    if array.ndim not in (2, 3) or array.dtype.kind == "U":
        raise InputError(
            f"{name!r}: expected numbers (N, C) or (N, P, C), images uint8 (N, 3, H, W), "
            f"(N, H, W, 3) or (N, H, W), or N strings, got {array.dtype} {array.shape}; "
            "reshape or convert them."
        )
    with np.errstate(over="ignore"):  # becomes inf, which is refused
        rows = _kept(array) if array.dtype == np.float32 else array.astype(np.float32)
    bad = [row for row, value in enumerate(rows) if not np.isfinite(value).all()]
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise InputError(
            f"{name!r}: expected finite numbers, got NaN or inf in {len(bad)} of {len(rows)} "
            f"rows ({shown}); mend or drop them."
        )
    return "array", rows


def _texts(name: str, values: Any) -> list[str] | None:
    """The values if they are strings, None if none is."""
    if isinstance(values, str | bytes | Mapping | torch.Tensor):
        return None
    if isinstance(values, np.ndarray) and (values.dtype.kind not in "OU" or values.ndim != 1):
        return None
    try:
        texts = list(values)
    except TypeError:
        return None
    strange = [row for row, text in enumerate(texts) if not isinstance(text, str)]
    if len(strange) == len(texts):
        return None
    if strange:
        raise InputError(
            f"{name!r}: expected a string per sample, got {type(texts[strange[0]]).__name__} in "
            f"row {strange[0]}; convert it."
        )
    for row, text in enumerate(texts):
        if re.search("[\ud800-\udfff]", text):
            raise InputError(f"{name!r}: row {row} is not valid Unicode; mend it.")
    return [str(text) for text in texts]  # numpy's strings are a class of their own


def _kept(array: np.ndarray) -> np.ndarray:
    """The array, so that nobody changes it behind the dataset's back."""
    if not array.flags.writeable:
        return array
    copied = array.copy()
    copied.setflags(write=False)
    return copied


def _images(name: str, array: np.ndarray) -> np.ndarray:
    """uint8 images as (N, 3, H, W)."""
    if array.ndim == 3:
        return np.broadcast_to(array[:, None], (len(array), 3, *array.shape[1:]))
    if array.ndim == 4 and array.shape[1] == 3:
        return array
    if array.ndim == 4 and array.shape[3] == 3:
        return array.transpose(0, 3, 1, 2)
    raise InputError(
        f"{name!r}: expected images uint8 (N, 3, H, W), (N, H, W, 3) or (N, H, W), got "
        f"{array.shape}; reorder the axes."
    )


def _labels(plain: np.ndarray, classes: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Label matrix (N, K) uint8, and the names of the K classes."""
    named = None if classes is None else tuple(str(name) for name in classes)
    if named is not None and len(set(named)) != len(named):
        raise InputError(f"expected classes of different names, got {list(named)}.")
    if plain.ndim == 2:
        if plain.dtype.kind == "U" or not np.isin(plain, (0, 1)).all():
            raise InputError(
                "labels (N, K): expected 0 and 1, a column per class, got other values; "
                "give one label per sample as (N,)."
            )
        if named is None:
            named = tuple(str(k) for k in range(plain.shape[1]))
        if len(named) != plain.shape[1]:
            raise InputError(f"expected {plain.shape[1]} classes as labels, got {len(named)}.")
        return plain.astype(np.uint8), named
    if plain.ndim != 1 or plain.dtype.kind == "f":
        raise InputError(
            "labels: expected (N,) whole numbers or strings, or (N, K) of 0 and 1, got "
            f"{plain.dtype} {plain.shape}; convert them."
        )
    values = plain.astype(np.int64) if plain.dtype.kind == "b" else plain
    found, place = np.unique(values, return_inverse=True)
    if named is None:
        named = tuple(str(value) for value in found.tolist())
    elif plain.dtype.kind == "U":
        unknown = sorted(set(found.tolist()) - set(named))
        if unknown:
            raise InputError(f"labels: expected names among classes, got {unknown[0]!r}.")
        place = np.array([named.index(value) for value in found.tolist()])[place]
    else:
        if found[0] < 0 or found[-1] >= len(named):
            raise InputError(
                f"labels: expected numbers from 0 to {len(named) - 1}, of {len(named)} classes, "
                f"got {found[0]} to {found[-1]}."
            )
        place = values
    if len(named) < 2:
        raise InputError(f"labels: expected at least two classes, got {list(named)}.")
    matrix = np.zeros((len(plain), len(named)), dtype=np.uint8)
    matrix[np.arange(len(plain)), place] = 1
    return matrix, named
