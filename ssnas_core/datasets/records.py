"""One record type for every source: named raw inputs, labels, a split.

Nothing here knows of a file format; a reader such as `mmimdb` fills it in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ssnas_core.errors import InputError
from ssnas_core.modalities import is_modality

SPLITS = ("train", "dev", "test")
KINDS = ("image", "text", "array")


class StoredImage(Protocol):
    """An image that lies somewhere else than in a file of its own, as in an HDF5 file.

    It is small and can be pickled; `load` reads the pixels, uint8 (3, H, W) RGB,
    and raises OSError or ValueError where it cannot.
    """

    def load(self) -> np.ndarray:
        """The pixels, uint8 (3, H, W) RGB."""
        ...


@dataclass(frozen=True)
class Record:
    """One sample.

    Args:
        id: unique name of the sample in its dataset.
        inputs: modality name -> raw value. An image is the path of its file, uint8
            (3, H, W) RGB, or a `StoredImage`; a text is a str; an array is float32
            (C,) or (P, C), P positions of C channels.
        labels: names of the classes it belongs to.
        split: `"train"`, `"dev"` or `"test"`.
    """

    id: str
    inputs: Mapping[str, Any]
    labels: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class Dataset:
    """Records of one source, in a fixed order: row i of every array is `records[i]`.

    Args:
        name: what to call the source in reports.
        kinds: modality -> `"image"`, `"text"` or `"array"`; its order is that of the
            modalities. A name is an identifier, not "cell" or "late", and no
            attribute of `torch.nn.ModuleDict`, as "keys" or "type".
        classes: names of the K classes, in the order of the label columns.
        records: the N usable samples.
        skipped: id -> reason, of the samples left out.
        single_label: each sample has exactly one label, and is scored by accuracy;
            else any number of labels, scored by F1 at a threshold.

    Raises:
        InputError: an id occurs twice, or a record has an unknown split or
            class, other modalities than `kinds`, an array of another shape than
            the others or with NaN, or another number of labels than one where
            `single_label`.
    """

    name: str
    kinds: Mapping[str, str]
    classes: tuple[str, ...]
    records: tuple[Record, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    single_label: bool = False

    def __post_init__(self) -> None:
        for modality, kind in self.kinds.items():
            if kind not in KINDS or not is_modality(modality):
                raise InputError(
                    f"{self.name}: expected modalities named by identifiers that are free, of a "
                    f"kind among {', '.join(KINDS)}, got {modality!r}: {kind!r}; rename it."
                )
        arrays = [name for name, kind in self.kinds.items() if kind == "array"]
        first = self.records[0].inputs if self.records else {}
        shapes = {name: np.shape(first[name]) for name in arrays if name in first}
        ids: set[str] = set()
        for record in self.records:
            problem = None
            if record.id in ids:
                problem = "an id that no other record has"
            elif record.split not in SPLITS:
                problem = f"a split among {', '.join(SPLITS)}, got {record.split!r}"
            elif record.inputs.keys() != self.kinds.keys():
                problem = f"inputs {list(self.kinds)}, got {list(record.inputs)}"
            elif not set(record.labels) <= set(self.classes):
                unknown = sorted(set(record.labels) - set(self.classes))
                problem = f"labels among the {len(self.classes)} classes, got {unknown}"
            elif self.single_label and len(record.labels) != 1:
                problem = f"exactly one label, got {list(record.labels)}"
            else:
                for name in arrays:
                    problem = problem or _array_problem(name, record.inputs[name], shapes[name])
            if problem is not None:
                raise InputError(
                    f"{self.name}: record {record.id!r} needs {problem}; mend or drop the record."
                )
            ids.add(record.id)

    def __len__(self) -> int:
        return len(self.records)

    def labels(self) -> np.ndarray:
        """The label matrix, (N, K) uint8 of 0 and 1."""
        column = {name: k for k, name in enumerate(self.classes)}
        matrix = np.zeros((len(self.records), len(self.classes)), dtype=np.uint8)
        for row, record in zip(matrix, self.records, strict=True):
            row[[column[label] for label in record.labels]] = 1
        return matrix

    def targets(self) -> np.ndarray:
        """What `Supervised` learns: (N, K) uint8; for `single_label` class numbers, (N,) int64."""
        labels = self.labels()
        return labels.argmax(1).astype(np.int64) if self.single_label else labels

    def indices(self, split: str) -> np.ndarray:
        """Rows of one split, ascending int64.

        Raises:
            InputError: `split` is not one of train, dev, test.
        """
        if split not in SPLITS:
            raise InputError(f"expected a split among {', '.join(SPLITS)}, got {split!r}.")
        return np.flatnonzero([record.split == split for record in self.records]).astype(np.int64)

    def column(self, modality: str) -> list[Any]:
        """The N raw inputs of one modality.

        Raises:
            InputError: the dataset has no such modality.
        """
        if modality not in self.kinds:
            known = ", ".join(self.kinds)
            raise InputError(
                f"{self.name} has the modalities {known}, not {modality!r}; name one of those."
            )
        return [record.inputs[modality] for record in self.records]

    def without(self, bad: Mapping[str, str]) -> Dataset:
        """The dataset less the records in `bad` (id -> reason), which join `skipped`.

        Raises:
            InputError: an id is not in the dataset, or a split that had records
                would have none left.
        """
        unknown = sorted(bad.keys() - {record.id for record in self.records})
        if unknown:
            raise InputError(
                f"{self.name} has no record {unknown[0]!r} to leave out; name ids it has."
            )
        kept = tuple(record for record in self.records if record.id not in bad)
        filled = {record.split for record in kept}
        for record in self.records:
            if record.split not in filled:
                raise InputError(
                    f"{self.name}: expected usable records in split {record.split!r}, but all "
                    f"are bad (e.g. {record.id}: {bad[record.id]}); restore the data."
                )
        skipped = {**self.skipped, **bad}
        return Dataset(self.name, self.kinds, self.classes, kept, skipped, self.single_label)

    def fingerprint(self) -> str:
        """Hash (BLAKE2b, 32 hex digits) of what can be learnt from without labels.

        Covers modalities, ids, splits, texts, arrays and the *content* of images
        (read here, one at a time, once); labels, paths and skipped records do not count.

        Raises:
            InputError: an image file cannot be read.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)

        def add(part: bytes) -> None:
            digest.update(len(part).to_bytes(8, "little"))  # framed: ab|c differs from a|bc
            digest.update(part)

        for modality, kind in self.kinds.items():
            add(f"{modality}:{kind}".encode())
        for record in self.records:
            add(record.id.encode())
            add(record.split.encode())
            for modality, kind in self.kinds.items():
                value = record.inputs[modality]
                add(value.encode() if kind == "text" else _digest(value))
        return digest.hexdigest()


def _digest(value: Any) -> bytes:
    """Hash of an image's file, or of the content of an image or array."""
    try:
        if isinstance(value, Path):
            if value.exists() and not value.is_file():  # a pipe or device could be read for ever
                raise OSError("no ordinary file")
            with open(value, "rb") as file:
                return hashlib.file_digest(file, hashlib.blake2b).digest()
        content = value if isinstance(value, np.ndarray) else value.load()
    except ValueError:  # damaged, as a file's content may be: decoding it tells and counts it
        return b"damaged"
    except OSError as error:
        reason = str(error.strerror or error)[:100]
        raise InputError(
            f"cannot read image {str(value)[:300]} ({reason}); restore it or read the dataset "
            "again."
        ) from error
    told = f"{content.dtype.str} {content.shape}".encode()
    return hashlib.blake2b(told + np.ascontiguousarray(content).tobytes()).digest()


def _array_problem(modality: str, value: Any, shape: tuple[int, ...]) -> str | None:
    """What a record's array lacks, or None."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim not in (1, 2):
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value)
        return f"a float32 array (C,) or (P, C) as {modality!r}, got {got}"
    if value.shape != shape or value.size == 0:
        return f"{modality!r} of the first record's shape {shape}, got {value.shape}"
    return None if np.isfinite(value).all() else f"finite numbers in {modality!r}, got NaN or inf"
