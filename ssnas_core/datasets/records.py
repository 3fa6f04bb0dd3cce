"""One record type for every source: named raw inputs, labels, a split.

Nothing here knows of a file format; a reader such as `mmimdb` fills it in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ssnas_core.errors import InputError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Record:
    """One sample.

    Args:
        id: unique name of the sample in its dataset.
        inputs: modality name -> raw value: the path of an image file, or a str.
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
        kinds: modality -> `"image"` or `"text"`; its order is that of the modalities.
        classes: names of the K classes, in the order of the label columns.
        records: the N usable samples.
        skipped: id -> reason, of the samples left out.

    Raises:
        InputError: an id occurs twice, or a record has an unknown split or
            class, or other modalities than `kinds`.
    """

    name: str
    kinds: Mapping[str, str]
    classes: tuple[str, ...]
    records: tuple[Record, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
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
        return replace(self, records=kept, skipped={**self.skipped, **bad})

    def fingerprint(self) -> str:
        """Hash (BLAKE2b, 32 hex digits) of what can be learnt from without labels.

        Covers modalities, ids, splits, texts and the *content* of image files
        (read here, in chunks, once); labels, paths and skipped records do not count.

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
                add(_file_digest(value) if kind == "image" else value.encode())
        return digest.hexdigest()


def _file_digest(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, hashlib.blake2b).digest()
    except OSError as error:
        raise InputError(
            f"cannot read image {path} ({error.strerror}); restore it or read the dataset again."
        ) from error
