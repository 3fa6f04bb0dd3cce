"""Logs of training while it goes on: CSV files and TensorBoard.

A log is a function of the whole history so far, as `fit`, `bilevel` and
`random_search` call it (`on_epoch=`) after each epoch or trial. So it needs no
memory of its own, and a run that was interrupted leaves the same log as one
that was not.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import write_text

Labels = Mapping[str, Sequence[str]]
"""What the entries of each logit vector stand for, by its name (`FusionSpace.labels()`)."""


def csv_log(path: Path, labels: Labels | None = None) -> Callable[[list[dict[str, Any]]], None]:
    """A log that keeps the CSV file `path`: a line per epoch or trial.

    Columns are the entries' numbers and texts, and the softmax of every
    architecture weight, as `alpha_0/image_2` with labels, else `alpha_0/2`. What an
    entry lacks is empty. The file is written whole each time, atomically.

    Args:
        path: the file; an older one is replaced.
        labels: of the logits.
    """

    def log(history: list[dict[str, Any]]) -> None:
        rows = [_columns(entry, labels or {}) for entry in history]
        buffer = io.StringIO()
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(Path(path), buffer.getvalue())

    return log


def tensorboard_log(
    folder: Path, labels: Labels | None = None
) -> Callable[[list[dict[str, Any]]], None]:
    """A log for TensorBoard in `folder` (`tensorboard --logdir`); one folder per history.

    Numbers are scalars under the names of `csv_log`'s columns, texts are texts; the
    step is the epoch or trial. What the folder holds already is not written
    again; where it holds another history, that is replaced from the first
    difference on.

    Args:
        folder: for event files.
        labels: of the logits.

    Raises:
        InputError: the package `tensorboard` is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            f"TensorBoard logs need the package tensorboard ({error}); "
            "pip install 'ssnas[logs]', or log to CSV."
        ) from error
    writer: Any = None
    written = 0  # entries of the history that are in the folder

    def log(history: list[dict[str, Any]]) -> None:
        nonlocal writer, written
        if writer is None or len(history) < written:
            recorded = _recorded(EventAccumulator, folder)
            written = 0
            while written < len(history) and _is_recorded(history[written], recorded, labels or {}):
                written += 1
            # Events of this step and later ones, of a run that got further, shall not be read.
            purge = _step(history[written - 1]) + 1 if written else 0
            writer = SummaryWriter(str(folder), purge_step=purge if recorded else None)
        for entry in history[written:]:
            for name, value in _columns(entry, labels or {}).items():
                if isinstance(value, str):
                    writer.add_text(name, value, _step(entry))
                elif name not in _STEPS:
                    writer.add_scalar(name, value, _step(entry))
        written = len(history)
        writer.flush()

    return log


_STEPS = ("epoch", "trial")


def _step(entry: Mapping[str, Any]) -> int:
    return int(next(entry[name] for name in _STEPS if name in entry))


def _columns(entry: Mapping[str, Any], labels: Labels) -> dict[str, float | int | str]:
    """An entry's numbers and texts by name, and the softmax of its logits."""
    from scipy.special import softmax

    columns: dict[str, float | int | str] = {}
    for name, value in entry.items():
        if isinstance(value, int | float | str):
            columns[name] = value
    for name, vector in entry.get("logits", {}).items():
        weights = softmax(np.asarray(vector, dtype=float), axis=-1).ravel().tolist()
        texts = labels.get(name, ())
        if len(texts) != len(weights):
            texts = [str(number) for number in range(len(weights))]
        for text, weight in zip(texts, weights, strict=True):
            columns[f"{name}/{text}".replace(" ", "_")] = weight
    return columns


def _recorded(reader: Any, folder: Path) -> dict[tuple[str, int], float]:
    """The scalars in the event files of `folder`, by name and step."""
    if not Path(folder).is_dir():
        return {}
    events = reader(str(folder), {"scalars": 0}).Reload()  # 0: all of them
    tags = events.Tags()["scalars"]
    return {(tag, event.step): event.value for tag in tags for event in events.Scalars(tag)}


def _is_recorded(
    entry: Mapping[str, Any], recorded: Mapping[tuple[str, int], float], labels: Labels
) -> bool:
    """Whether all numbers of `entry` are `recorded`; event files hold them in single precision."""
    step = _step(entry)
    numbers = {
        name: float(np.float32(value))
        for name, value in _columns(entry, labels).items()
        if not isinstance(value, str) and name not in _STEPS
    }
    return bool(numbers) and all(
        math.isclose(recorded.get((name, step), math.nan), value, rel_tol=1e-6)
        for name, value in numbers.items()
    )
