"""One record type for every source: named raw inputs, labels, a split.

Nothing here knows of a file format; a reader such as `mmimdb` fills it in.
"""

from __future__ import annotations

import hashlib
import logging
import reprlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import path_of, path_text, read_json, write_json
from ssnas_core.common.modalities import is_modality
from ssnas_core.common.typed import typed

_LOG = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
KINDS = ("image", "text", "array")
TASKS = ("classification", "grounding", "matching", "answering")

MAX_IMAGE_BYTES = 50 * 10**6
"""A larger image is not decoded."""

MAX_CLASSES = 1000
"""More classes are taken for a column, or folders, of something else."""


class StoredImage(Protocol):
    """An image that lies somewhere else than in a file of its own, as in an HDF5 file.

    It is small and can be pickled; `load` raises OSError or ValueError where it cannot read.
    """

    def load(self) -> np.ndarray | bytes:
        """The pixels, uint8 (3, H, W) RGB, or the content of an image file."""
        ...


@dataclass(frozen=True)
class Record:
    """One sample.

    Args:
        id: unique name of the sample in its dataset.
        inputs: modality name -> raw value. An image is the path of its file, uint8
            (3, H, W) RGB, or a `StoredImage`; a text is a str; an array is float32
            (C,) or (P, C), P positions of C channels.
        labels: names of the classes it belongs to; None where nobody has labelled it.
        split: `"train"`, `"dev"` or `"test"`.
        soft: class -> how right it is, in (0, 1]; other classes are wrong. None where the labels
            are right and say all.
    """

    id: str
    inputs: Mapping[str, Any]
    labels: tuple[str, ...] | None
    split: str
    soft: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Dataset:
    """Records of one source, in a fixed order: row i of every array is `records[i]`.

    Args:
        name: what to call the source in reports.
        kinds: modality -> `"image"`, `"text"` or `"array"`; its order is that of the
            modalities. A name is an identifier, not "cell" or "late", and no
            attribute of `torch.nn.ModuleDict`, as "keys" or "type".
        classes: names of the K classes, in the order of the label columns.
        records: the N usable samples. Those of train and dev may be unlabelled: they serve
            backbones, searches and pretraining without labels.
        skipped: id -> reason, of the samples left out.
        single_label: each sample has exactly one label, and is scored by accuracy;
            else any number of labels, scored by F1 at a threshold.
        task: what the labels are (`training.tasks`): "classification", classes of samples. Or,
            of data of one label a sample, "grounding": the region that is meant, where class k
            is row k of the data's regions, an array (P, C) of K = P rows; or "matching": the
            picture, which several records share, each with another text about it. Or "answering":
            the commonest answer, or no label where that is no class; `Record.soft` has the others.

    Raises:
        InputError: an id occurs twice, or a record has an unknown split or
            class, soft targets outside (0, 1], other modalities than `kinds`, an array of
            another shape than the others or with NaN, or another number of labels than one
            where `single_label`, or one of test has no labels; or data without what their
            task needs.
    """

    name: str
    kinds: Mapping[str, str]
    classes: tuple[str, ...]
    records: tuple[Record, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    single_label: bool = False
    task: str = "classification"

    def __post_init__(self) -> None:
        self._check_task()
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
        known = set(self.classes)
        for record in self.records:
            problem = None
            if record.id in ids:
                problem = "an id that no other record has"
            elif record.split not in SPLITS:
                problem = f"a split among {', '.join(SPLITS)}, got {record.split!r}"
            elif record.inputs.keys() != self.kinds.keys():
                problem = f"inputs {list(self.kinds)}, got {list(record.inputs)}"
            elif record.labels is None:
                problem = "labels, as all of test do" if record.split == "test" else None
            elif not known.issuperset(record.labels):
                unknown = sorted(set(record.labels) - known)
                problem = f"labels among the {len(self.classes)} classes, got {unknown}"
            elif self.single_label and len(record.labels) != 1:
                problem = f"exactly one label, got {list(record.labels)}"
            if problem is None and record.soft is not None:
                problem = _soft_problem(record, known, self.task)
            if problem is None:
                for name in arrays:
                    problem = problem or _array_problem(name, record.inputs[name], shapes[name])
            if problem is not None:
                raise InputError(
                    f"{self.name}: record {record.id!r} needs {problem}; mend or drop the record."
                )
            ids.add(record.id)

    def _check_task(self) -> None:
        """Raise `InputError` where the data lack what their task needs."""
        kinds, classes = list(self.kinds.values()), len(self.classes)
        inputs = self.records[0].inputs if self.records else {}
        rows = [len(x) for x in inputs.values() if isinstance(x, np.ndarray) and x.ndim == 2]
        needed = {
            "classification": "",
            "grounding": "" if rows == [classes] else f"one array of {classes} regions",
            "matching": "" if kinds.count("text") == 1 and len(kinds) > 1 else "pictures, one text",
            "answering": "any number of labels a sample" if self.single_label else "",
        }
        one_label = self.task in ("grounding", "matching")
        if self.task not in TASKS or one_label and not self.single_label:
            problem = (
                f"a task among {', '.join(TASKS)}, grounding and matching of one label a sample"
            )
        else:
            problem = needed[self.task]
        if problem:
            raise InputError(
                f"{self.name}: expected {problem}, got {self.task!r} of {self.kinds} with arrays "
                f"of {rows} rows; give another task."
            )

    def __len__(self) -> int:
        return len(self.records)

    def labels(self) -> np.ndarray:
        """Return the label matrix, (N, K) uint8 of 0 and 1; rows of 0 for the unlabelled."""
        return label_matrix(self.records, self.classes)

    def soft(self) -> np.ndarray:
        """Return how right each class is of each record, (N, K) float32 in [0, 1]."""
        matrix = self.labels().astype(np.float32)
        column = {name: k for k, name in enumerate(self.classes)}
        for row, record in zip(matrix, self.records, strict=True):
            if record.soft is not None:
                row[:] = 0
                row[[column[name] for name in record.soft]] = [*record.soft.values()]
        return matrix

    def labelled(self) -> np.ndarray:
        """Return which records are labelled, (N,) bool."""
        return np.array([record.labels is not None for record in self.records], dtype=bool)

    def targets(self) -> np.ndarray:
        """Return what is learnt: (N, K) uint8; if `single_label` classes, (N,) int64.

        An unlabelled record has class -1, which no loss takes, or no label. Where records have
        soft targets, or the task is to answer, it is `soft`.
        """
        if self.task == "answering" or any(one.soft is not None for one in self.records):
            return self.soft()
        labels = self.labels()
        if not self.single_label:
            return labels
        return np.where(self.labelled(), labels.argmax(1), -1)

    def indices(self, split: str) -> np.ndarray:
        """Return the rows of one split, labelled or not, ascending int64.

        Raises:
            InputError: `split` is not one of train, dev, test.
        """
        if split not in SPLITS:
            raise InputError(f"expected a split among {', '.join(SPLITS)}, got {split!r}.")
        return np.flatnonzero([record.split == split for record in self.records]).astype(np.int64)

    def column(self, modality: str) -> list[Any]:
        """Return the N raw inputs of one modality.

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
        """Return the dataset less the records in `bad` (id -> reason), which join `skipped`.

        Raises:
            InputError: an id is not in the dataset, or a split that had records
                would have none left.
        """
        unknown = sorted(bad.keys() - {record.id for record in self.records})
        if unknown:
            raise InputError(
                f"{self.name} has no record {unknown[0]!r} to leave out; name ids it has."
            )
        usable = tuple(record for record in self.records if record.id not in bad)
        filled = {record.split for record in usable}
        for record in self.records:
            if record.split not in filled:
                raise InputError(
                    f"{self.name}: expected usable records in split {record.split!r}, but all "
                    f"are bad (e.g. {record.id}: {bad[record.id]}); restore the data."
                )
        skipped = {**self.skipped, **bad}
        form = (self.single_label, self.task)
        return Dataset(self.name, self.kinds, self.classes, usable, skipped, *form)

    def fingerprint(self) -> str:
        """Return a hash (BLAKE2b, 32 hex digits) of what can be learnt from without labels.

        Covers modalities, ids, splits, texts, arrays and the *content* of images
        (read here, one at a time, once); labels, paths and skipped records do not count.
        `label_fingerprint` covers the labels.

        Raises:
            InputError: an image file cannot be read.
        """
        return self._fingerprint

    def label_fingerprint(self) -> str:
        """Return a hash (BLAKE2b, 16 hex digits) of the classes and of every record's labels."""
        labels = [
            (one.id, one.labels, *([] if one.soft is None else [sorted(one.soft.items())]))
            for one in self.records
        ]
        content = repr((self.classes, self.single_label, self.task, labels))
        encoded = content.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(encoded, digest_size=8).hexdigest()

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


def label_matrix(records: Sequence[Record], classes: Sequence[str]) -> np.ndarray:
    """Return the labels of N records as (N, K) uint8 of 0 and 1."""
    column = {name: k for k, name in enumerate(classes)}
    matrix = np.zeros((len(records), len(classes)), dtype=np.uint8)
    for row, record in zip(matrix, records, strict=True):
        row[[column[label] for label in record.labels or ()]] = 1
    return matrix


def _digest(value: Any) -> bytes:
    """Return the hash of an image's file, or of the content of an image or array."""
    try:
        if isinstance(value, Path):
            if value.exists() and not value.is_file():  # a pipe or device could be read for ever
                raise OSError("no ordinary file")
            with open(value, "rb") as file:
                return hashlib.file_digest(file, hashlib.blake2b).digest()
        content = value if isinstance(value, np.ndarray) else value.load()
        if isinstance(content, bytes):
            return hashlib.blake2b(content).digest()
    except ValueError:  # damaged, as a file's content may be: decoding it refuses and counts it
        return b"damaged"
    except OSError as error:
        reason = str(error.strerror or error)[:100]
        raise InputError(
            f"cannot read image {str(value)[:300]} ({reason}); restore it or read the dataset "
            "again."
        ) from error
    form = f"{content.dtype.str} {content.shape}".encode()
    return hashlib.blake2b(form + np.ascontiguousarray(content).tobytes()).digest()


def _soft_problem(record: Record, classes: Collection[str], task: str) -> str | None:
    """Return what a record's soft targets need to be, or None if they are that."""
    soft = record.soft or {}
    if record.labels is None or task not in ("grounding", "answering"):
        return f"no soft targets, as it has {'no labels' if record.labels is None else 'classes'}"
    if not all(name in classes for name in soft) or not all(
        0 < value <= 1 for value in soft.values()
    ):
        return f"soft targets in (0, 1] of classes, got {reprlib.repr(dict(soft))}"
    return None


def _array_problem(modality: str, value: Any, shape: tuple[int, ...]) -> str | None:
    """Return what a record's array needs to be, or None if it is that."""
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim not in (1, 2):
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value)
        return f"a float32 array (C,) or (P, C) as {modality!r}, got {got}"
    if value.shape != shape or value.size == 0:
        return f"{modality!r} of the first record's shape {shape}, got {value.shape}"
    return None if np.isfinite(value).all() else f"finite numbers in {modality!r}, got NaN or inf"


class BadRecordError(Exception):
    """A record that cannot be used, and why."""


def check_bytes(what: str, size: int | None, most: int) -> None:
    """Raise `BadRecordError` unless a file (None: there is none) has 1 to `most` bytes."""
    if size is None:
        raise BadRecordError(f"{what} missing")
    if size == 0:
        raise BadRecordError(f"{what} empty (0 bytes)")
    if size > most:
        raise BadRecordError(f"{what} larger than {most // 10**6} MB")


@dataclass
class Skips:
    """The records of `source` that cannot be used: left out, or refused at the first.

    Attributes:
        source: where they are, for messages.
        strict: whether the first one is an error.
        reasons: id -> reason.
    """

    source: str
    strict: bool
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, reason: str, where: str = "") -> None:
        """Leave a record out; if `strict`, raise InputError with its place instead."""
        if self.strict:
            raise InputError(
                f"{self.source}{where}: record {name[:64]!r}: {reason}; mend it, "
                "or read with strict off to leave it out."
            )
        key = name[:64]
        self.reasons[f"{key}{where}" if key in self.reasons else key] = reason

    def check(self, records: Sequence[Record]) -> None:
        """Warn once of all that was left out; raise InputError where a split has no record."""
        total = len(records) + len(self.reasons)
        if self.reasons:
            common = Counter(self.reasons.values()).most_common(5)
            shown = ", ".join(f"{count} x {reason}" for reason, count in common)
            _LOG.warning(
                "%s: left out %d of %d records: %s", self.source, len(self.reasons), total, shown
            )
        for split in SPLITS:
            if all(record.split != split for record in records):
                example = next((f", e.g. {k!r}: {why}" for k, why in self.reasons.items()), "")
                raise InputError(
                    f"{self.source}: expected usable records in split {split!r}, got none "
                    f"({len(self.reasons)} of all {total} unusable{example}); restore the data."
                )


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write the records to `path` as JSON, so that a run does not need the raw data again.

    Texts and the paths of images are written, but no pixels and arrays.
    """
    names = ("name", "kinds", "classes", "skipped", "single_label", "task")
    records = [_plain(record) for record in dataset.records]
    write_json(path, {**{name: getattr(dataset, name) for name in names}, "records": records})


def _plain(record: Record) -> dict[str, Any]:
    """Return a record as JSON values; None for pixels and arrays."""
    inputs = {
        name: path_text(v) if isinstance(v, Path) else v if isinstance(v, str) else None
        for name, v in record.inputs.items()
    }
    labels = None if record.labels is None else list(record.labels)
    soft = {} if record.soft is None else {"soft": dict(record.soft)}
    return {"id": record.id, "inputs": inputs, "labels": labels, "split": record.split, **soft}


def changes(path: Path, now: Dataset) -> str:
    """Return in what a dataset differs from the one that `save_dataset` wrote; "" in nothing.

    Images and arrays are not compared, nor records that were left out.

    Args:
        path: that file.
        now: the dataset as it is read now.

    Raises:
        InputError: the file is missing, or is none of these.
    """
    saved = read_json(path, limit=_MAX_BYTES)
    try:
        texts = [name for name, kind in saved["kinds"].items() if kind == "text"]
        before = {one["id"]: _facts(one, texts) for one in saved["records"]}
        skipped, classes = set(saved["skipped"]), tuple(saved["classes"])
        single = saved["single_label"]
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path} does not hold records; restore it.") from error
    after = {one.id: _facts(_plain(one), texts) for one in now.records if one.id not in skipped}
    common = [name for name in before if name in after]
    said = []
    for what in ("labels", "split", "texts"):
        different = [name for name in common if before[name][what] != after[name][what]]
        if different:
            old, new = (side[different[0]][what] for side in (before, after))
            example = f"{different[0]}: {reprlib.repr(old)} -> {reprlib.repr(new)}"
            said.append(f"other {what} in {len(different)} of {len(before)} records ({example})")
    gone = [name for name in before if name not in after]
    come = [name for name in after if name not in before]
    said += [f"{len(gone)} records gone (as {gone[0]})"] if gone else []
    said += [f"{len(come)} new records (as {come[0]})"] if come else []
    if not said and (classes, single) != (now.classes, now.single_label):
        said.append(f"classes {reprlib.repr(classes)} -> {reprlib.repr(now.classes)}")
    return "; ".join(said)


def _facts(entry: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return labels, split and texts of a record as `save_dataset` writes it."""
    return {
        "labels": [entry["labels"], entry["soft"]] if "soft" in entry else entry["labels"],
        "split": entry["split"],
        "texts": [entry["inputs"][name] for name in texts],
    }


_MAX_BYTES = 256 * 2**20  # of a file of records: all texts of the data are in it


def load_dataset(path: Path, columns: Mapping[str, Sequence[Any]] | None = None) -> Dataset:
    """Return the dataset that `save_dataset` wrote.

    Args:
        path: the file.
        columns: modality -> its rows, of what the file does not hold.

    Raises:
        InputError: the file is missing, or is none of these.
    """
    content = read_json(path, limit=_MAX_BYTES)
    try:
        kinds, records = content["kinds"], []
        for row, entry in enumerate(content["records"]):
            inputs: dict[str, Any] = {}
            for name, value in entry["inputs"].items():
                if value is None:
                    inputs[name] = (columns or {})[name][row]
                elif kinds[name] == "image":
                    inputs[name] = path_of(value, name)
                elif kinds[name] == "text" and isinstance(value, str):
                    inputs[name] = value
                else:
                    raise TypeError(f"{name} of record {row} is no {kinds[name]}")
            (id,) = _texts([entry["id"]])
            labels = entry["labels"] if entry["labels"] is None else _texts(entry["labels"])
            soft = typed(Mapping[str, float] | None, entry.get("soft"), f"soft of record {row}")
            records.append(Record(id, inputs, labels, entry["split"], soft))
        return Dataset(
            _texts([content["name"]])[0],
            kinds,
            _texts(content["classes"]),
            tuple(records),
            dict(zip(content["skipped"], _texts([*content["skipped"].values()]), strict=True)),
            bool(content["single_label"]),
            _texts([content["task"]])[0],
        )
    except (InputError, LookupError, TypeError, AttributeError, ValueError) as error:
        reason = repr(str(error) or type(error).__name__)
        raise InputError(
            f"{path} does not hold records ({reason[:200]}); restore it, or make the run anew."
        ) from error


def _texts(values: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple; TypeError if it is something else."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"expected a list of texts, got {reprlib.repr(values)}")
    return tuple(values)
