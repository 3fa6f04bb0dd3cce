"""Logs of training while it goes on: CSV files and TensorBoard.

A log is a function of the whole history so far; `fit` and the searches call it
after each epoch or trial (`on_epoch=`). So a run that was interrupted leaves the
same log as one that was not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import write_text

Labels = Mapping[str, Sequence[str]]
"""The options that the entries of each logit vector stand for, by its name (`space.labels()`)."""


def csv_log(path: Path, labels: Labels | None = None) -> Callable[[list[dict[str, Any]]], None]:
    """A log that writes the CSV file `path`: a line per epoch or trial.

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
    step is the epoch or trial. The first call of a process replaces the event files
    in the folder by the whole history; later ones add to it.

    Args:
        folder: for event files; older ones in it are replaced.
        labels: of the logits.

    Raises:
        InputError: the package `tensorboard` is not installed.
    """
    try:
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
            if writer is not None:
                writer.close()
            for old in Path(folder).glob("events.out.tfevents.*"):
                old.unlink()
            writer, written = SummaryWriter(str(folder), purge_step=0), 0  # also where it is open
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

    columns = {name: one for name, one in entry.items() if isinstance(one, int | float | str)}
    for name, vector in entry.get("logits", {}).items():
        weights = softmax(np.asarray(vector, dtype=float), axis=-1).ravel().tolist()
        texts: Sequence[object] = labels.get(name, ())
        if len(texts) != len(weights):  # no labels, or those of another space
            texts = range(len(weights))
        for text, weight in zip(texts, weights, strict=True):
            columns[f"{name}/{text}".replace(" ", "_")] = weight
    return columns
