"""Records as a JSON file, so that a run does not need the raw data again."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.errors import InputError
from ssnas_core.files import read_json, write_json


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write the records to `path`: texts, and the paths of images, but no pixels and arrays."""
    records = [
        {
            "id": record.id,
            "inputs": {
                name: str(value) if isinstance(value, str | Path) else None
                for name, value in record.inputs.items()
            },
            "labels": record.labels,
            "split": record.split,
        }
        for record in dataset.records
    ]
    names = ("name", "kinds", "classes", "skipped", "single_label")
    told = {name: getattr(dataset, name) for name in names}
    write_json(path, {**told, "records": records})


def load_dataset(path: Path, columns: Mapping[str, Sequence[Any]] | None = None) -> Dataset:
    """What `save_dataset` wrote.

    Args:
        path: the file.
        columns: modality -> its rows, of what the file does not hold.

    Raises:
        InputError: the file is missing, or is none of these.
    """
    told = read_json(path, limit=256 * 2**20)  # all texts of the data are in it
    try:
        records = []
        for row, entry in enumerate(told["records"]):
            inputs = {
                name: (columns or {})[name][row] if value is None else value
                for name, value in entry["inputs"].items()
            }
            for name, value in entry["inputs"].items():
                if value is not None and told["kinds"][name] == "image":
                    inputs[name] = Path(value)
                elif value is not None and not (
                    told["kinds"][name] == "text" and isinstance(value, str)
                ):
                    raise TypeError(f"{name} of record {row} is no {told['kinds'][name]}")
            labels = _texts(entry["labels"])
            (id,) = _texts([entry["id"]])
            records.append(Record(id, inputs, labels, entry["split"]))
        return Dataset(
            _texts([told["name"]])[0],
            told["kinds"],
            _texts(told["classes"]),
            tuple(records),
            dict(zip(told["skipped"], _texts([*told["skipped"].values()]), strict=True)),
            bool(told["single_label"]),
        )
    except (InputError, LookupError, TypeError, AttributeError, ValueError) as error:
        reason = repr(str(error) or type(error).__name__)
        raise InputError(
            f"{path} does not hold records ({reason[:200]}); restore it, or make the run anew."
        ) from error


def _texts(values: Any) -> tuple[str, ...]:
    """A list of texts, as a tuple; TypeError if it is something else."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"expected a list of texts, got {reprlib.repr(values)}")
    return tuple(values)
