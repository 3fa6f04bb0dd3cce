"""A data set of one's own as arrays: in memory, or in a .npz file."""

from __future__ import annotations

import io
import math
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.common.files import file_size
from ssnas_core.datasets.cells import plain_text
from ssnas_core.datasets.records import MAX_CLASSES, SPLITS, Dataset, Record
from ssnas_core.datasets.splits import stratified_split

_LOOKED_AT = 64  # images whose levels are looked at; of a memory map not all are read


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
            0 and 1: any number of K classes. -1, "" and a row of NaN are no label: such
            samples serve backbones, search and pretraining in train and dev.
        split: N names, each "train", "dev", "test" or "unlabelled" (train without its
            labels); without, a stratified 70/10/20 split by `seed`, the unlabelled in train.
        ids: N unique names; without, "0" to "N-1".
        classes: names of the classes: of class 0, 1, ... where labels are numbers,
            of the columns where they are (N, K). Without, the labels themselves,
            sorted, or the columns' numbers.
        name: what to call the dataset in reports.
        seed: of the split, where none is given.

    Raises:
        InputError: fewer than two modalities, unequal lengths, NaN or inf, images of 0
            and 1 alone, a shape or type that is none of these, labels or a split that are none.
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
        known = _known(plain)
        named = None if ids is None else list(ids)  # by place, whatever an index of theirs says
        lengths = {modality: len(values) for modality, (_, values) in read.items()}
        beside = {"labels": plain, "split": split, "ids": named}
        lengths |= {what: len(rows) for what, rows in beside.items() if rows is not None}
        if len(set(lengths.values())) != 1:
            raise InputError(
                f"{name}: expected as many rows everywhere, got "
                f"{', '.join(f'{n} of {what}' for what, n in lengths.items())}; "
                "give one row per sample."
            )
        matrix, names = _labels(plain, known, classes)
        if split is None:
            parts = iter(stratified_split(matrix[known], seed))
            drawn = [next(parts) if one else "train" for one in known]
        else:
            known = known & [str(part) != "unlabelled" for part in split]
            drawn = ["train" if str(part) == "unlabelled" else str(part) for part in split]
        counts = dict.fromkeys(SPLITS, 0) | Counter(drawn)
        if len(counts) > len(SPLITS) or 0 in counts.values():
            shown = ", ".join(f"{part[:40]!r}: {n}" for part, n in [*counts.items()][:6])
            raise InputError(
                f"{name}: expected every split to be one of {', '.join(SPLITS)}, and none to be "
                f"empty, got {shown}."
            )
        records = tuple(
            Record(
                str(row if named is None else named[row]),
                {modality: values[row] for modality, (_, values) in read.items()},
                tuple(names[k] for k in np.flatnonzero(matrix[row])) if known[row] else None,
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
    """Return values as an array of numbers or strings.

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
    """Return kind and rows of a modality."""
    texts = _texts(name, values)
    if texts is not None:
        return "text", texts
    array = _plain(repr(name), values)
    if array.dtype == np.uint8 and array.ndim >= 3:
        if array[:: -(-len(array) // _LOOKED_AT)].max() == 1:
            raise InputError(
                f"{name!r}: expected images of levels from 0 to 255, got none above 1, as of "
                "numbers in [0, 1] whose fraction was cut off; multiply by 255 before .astype."
            )
        return "image", _images(name, _frozen(array))
    if array.ndim not in (2, 3) or array.dtype.kind == "U":
        raise InputError(
            f"{name!r}: expected numbers (N, C) or (N, P, C), images uint8 (N, 3, H, W), "
            f"(N, H, W, 3) or (N, H, W), or N strings, got {array.dtype} {array.shape}; "
            "reshape or convert them."
        )
    with np.errstate(over="ignore"):  # becomes inf, which is refused
        rows = _frozen(array) if array.dtype == np.float32 else array.astype(np.float32)
    bad = [row for row, value in enumerate(rows) if not np.isfinite(value).all()]
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise InputError(
            f"{name!r}: expected finite numbers, got NaN or inf in {len(bad)} of {len(rows)} "
            f"rows ({shown}); mend or drop them."
        )
    return "array", rows


def _texts(name: str, values: Any) -> list[str] | None:
    """Return the values if they are strings, None if none is."""
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
    return [plain_text(str(text)) for text in texts]  # numpy's strings are a class of their own


def _frozen(array: np.ndarray) -> np.ndarray:
    """Return the array, copied if somebody could change it behind the dataset's back."""
    if not array.flags.writeable:
        return array
    copied = array.copy()
    copied.setflags(write=False)
    return copied


def _images(name: str, array: np.ndarray) -> np.ndarray:
    """Return uint8 images as (N, 3, H, W)."""
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


def _known(plain: np.ndarray) -> np.ndarray:
    """Return which samples have a label, (N,) bool."""
    if plain.ndim == 2 and plain.dtype.kind == "f":
        return np.asarray(~np.isnan(plain).all(axis=1))
    missing = "" if plain.dtype.kind == "U" else -1
    known = np.ones(len(plain), dtype=bool)
    return np.asarray(plain != missing) if plain.ndim == 1 else known


def _labels(
    plain: np.ndarray, known: np.ndarray, classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the label matrix (N, K) uint8, 0 where none is known, and the K classes' names."""
    if not known.any():
        raise InputError(f"labels: expected some, got none of {len(plain)}; label some samples.")
    matrix, names = _labels_of(plain[known], classes)
    whole = np.zeros((len(plain), len(names)), dtype=np.uint8)
    whole[known] = matrix
    return whole, names


def _labels_of(
    plain: np.ndarray, classes: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the label matrix (N, K) uint8 of labelled samples and the names of the K classes."""
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
    unique, place = np.unique(values, return_inverse=True)
    if named is None:
        named = tuple(str(value) for value in unique.tolist())
    elif plain.dtype.kind == "U":
        unknown = sorted(set(unique.tolist()) - set(named))
        if unknown:
            raise InputError(f"labels: expected names among classes, got {unknown[0]!r}.")
        place = np.array([named.index(value) for value in unique.tolist()])[place]
    else:
        if unique[0] < 0 or unique[-1] >= len(named):
            raise InputError(
                f"labels: expected numbers from 0 to {len(named) - 1}, of {len(named)} classes, "
                f"got {unique[0]} to {unique[-1]}."
            )
        place = values
    if len(named) < 2:
        raise InputError(f"labels: expected at least two classes, got {list(named)}.")
    return np.eye(len(named), dtype=np.uint8)[place], named


# The same from a .npz file, which may come from anywhere.

MAX_NPZ_BYTES = 20 * 10**9
"""Arrays that unpack to more in all are refused: they are held in memory."""

MAX_NPZ_RATIO = 100
"""So are those that unpack to more than so many times the size of their file."""

MIN_NPZ_BYTES = 64 * 10**6
"""So much may be unpacked whatever the ratio."""

MAX_NPZ_ROWS = 600_000
"""More rows, of all arrays together, are refused unless the file has 50 bytes for each."""

_NAME = 100  # characters of a class or an id
_BESIDE = ("labels", "classes", "split", "ids")
_EXPECTED = (
    "expected arrays as np.savez writes them: labels, two or more modalities by name, perhaps "
    "classes, split and ids"
)


def read_npz(path: Path, *, seed: int = 0) -> Dataset:
    """Read the arrays of a .npz file as a dataset, as `ArrayDataset` takes them.

        np.savez("owls.npz", audio=audio, image=images, labels=labels, split=split)

    Every array is a modality of its own name but these:

    - `labels`: (N,) whole numbers or strings, exactly one class each; or (N, K) of 0 and 1
    - `classes`, optional: (K,) strings, their names
    - `split`, optional: (N,) of "train", "dev" and "test"; without, a stratified 70/10/20
    - `ids`, optional: (N,) unique numbers or strings

    Texts are arrays of strings (`np.array(texts)`), not of objects: nothing is unpickled.

    Args:
        path: the file.
        seed: of the split, where the file has none.

    Raises:
        InputError: no whole .npz file, other types, too large for what it is, no labels,
            or what `ArrayDataset` refuses.
    """
    path = Path(path)
    size = file_size(path)
    try:
        arrays = _unpacked(path, size)
        given: dict[str, Any] = {name: arrays.pop(name, None) for name in _BESIDE}
        _check_beside(given)
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for a broken file
        reason = one_line(str(error) or type(error).__name__)
        raise InputError(f"cannot read {path} ({reason}); {_EXPECTED}.") from error
    try:
        return ArrayDataset(arrays, **given, name=path.stem, seed=seed)
    except InputError as error:
        raise InputError(f"{path}: {one_line(error, 600)}") from error


def _unpacked(path: Path, size: int) -> dict[str, Any]:
    """Return the arrays by name, texts as lists; ValueError for what is none of these."""
    most = min(MAX_NPZ_BYTES, max(MIN_NPZ_BYTES, MAX_NPZ_RATIO * size))
    rows = max(MAX_NPZ_ROWS, size // 50)
    arrays: dict[str, Any] = {}
    with _Opening(path) as file, zipfile.ZipFile(file) as archive:
        file.most = most
        members = archive.infolist()
        if sum(member.file_size for member in members) > most:
            raise ValueError(f"it unpacks to more than {most:,} bytes")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or not name.isidentifier() or len(name) > _NAME:
                raise ValueError(f"{member.filename[:40]!r} is not NAME.npy")
            if name in arrays:
                raise ValueError(f"two arrays {name!r}")
            with archive.open(member) as stream:
                arrays[name] = _array(name, stream, member.file_size, rows)
            rows -= len(arrays[name])
    return arrays


class _Opening(io.FileIO):
    """A file of which at most `most` bytes are read at once: at first a zip's directory."""

    most = 1 << 20  # an entry takes about 60

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.most if size is None or size < 0 else min(size, self.most)
        return super().read(wanted) or b""


def _array(name: str, stream: Any, size: int, rows: int) -> Any:
    """Return the .npy array, of at most `rows` rows, in a stream of `size` bytes.

    Raises:
        ValueError: it is none of numbers or strings, or has another size than it declares.
    """
    if np.lib.format.read_magic(stream) != (1, 0):  # later ones allow headers of any size
        raise ValueError(f"{name!r} is of another .npy version than 1.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python 2, and of sizes that overflow
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in "biufU" or min(shape, default=0) < 1 or dtype.itemsize < 1:
        raise ValueError(f"{name!r} is {dtype} {shape}, no numbers or strings")
    if shape[0] > rows:
        raise ValueError(f"{name!r} has {shape[0]:,} rows, too many for this file")
    declared = math.prod(shape) * dtype.itemsize
    if declared != size - stream.tell():
        raise ValueError(f"{name!r} declares {declared:,} bytes, got {size - stream.tell():,}")
    content = stream.read(declared + 1)  # to its end, where the checksum is compared
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if by_column else "C")
    if dtype.kind != "U":
        return array
    texts = array.tolist()
    "".join(texts if array.ndim == 1 else ()).encode()  # UnicodeEncodeError: cannot be written
    return texts


def _check_beside(given: Mapping[str, Any]) -> None:
    """Raise ValueError where labels, classes, split or ids are none."""
    labels = given["labels"]
    if labels is None:
        raise ValueError("it has no labels")
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        count = labels.shape[1]
    else:
        count = len(np.unique(np.asarray(labels)))
    if count > MAX_CLASSES:
        raise ValueError(f"labels of {count:,} classes, more than {MAX_CLASSES:,}")
    for name, values in given.items():
        if values is None or (name in ("labels", "ids") and isinstance(values, np.ndarray)):
            continue
        texts = values if isinstance(values, list) else [None]
        if not all(isinstance(text, str) and len(text) <= _NAME for text in texts):
            raise ValueError(f"{name} are no strings (N,) of at most {_NAME} characters")
