"""Records as a JSON file, so that a run does not need the raw data again."""

from __future__ import annotations

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
    told = read_json(path)
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
            records.append(Record(entry["id"], inputs, tuple(entry["labels"]), entry["split"]))
        return Dataset(
            told["name"],
            told["kinds"],
            tuple(told["classes"]),
            tuple(records),
            told["skipped"],
            told["single_label"],
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} does not hold records ({error!r}); restore it, or make the run anew."
        ) from error
