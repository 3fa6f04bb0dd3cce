"""Embeddings of a run's data set, as a file for other tools."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import atomic_path
from ssnas_core.models.classifier import classifier_of, features_of
from ssnas_core.runs.run import Run


def export_embeddings(
    run: Run, method: str, ratio: float | None, path: Path | str
) -> tuple[int, int]:
    """Write the embeddings of a run's data set, all splits, for other tools.

    Made from what the run stored, without its raw data. Rows are in the order of
    the run's records. Of a network that embeds each region by itself they are (N, P, D).

    Args:
        run, method, ratio: as for `classifier_of`.
        path: of a .npz with `ids` (N,), `embeddings` (N, D) float32, `labels` (N, K)
            uint8, `split` (N,) and `classes` (K,), or of a .csv with the columns id,
            split, labels (joined by "|"), d0, d1, ... It appears whole or not at all.

    Returns:
        N and D.

    Raises:
        InputError: another ending, or for a .csv a class name with "|" in it.
    """
    path, dataset = Path(path), run.prepared.dataset
    if path.suffix not in (".npz", ".csv"):
        raise InputError(f"embeddings go to a .npz or a .csv file, got {path.name!r}; name one.")
    if path.suffix == ".csv" and any("|" in name for name in dataset.classes):
        raise InputError('a .csv joins labels by "|", which a class name holds; write a .npz.')
    model = classifier_of(run, method, ratio)
    if path.suffix == ".csv" and getattr(model.network, "apart", False):
        raise InputError("a .csv has a line for each sample, not for each region; write a .npz.")
    width = model.head.in_features
    batches = features_of(model, run, torch.arange(len(dataset)))
    parts = (model.network(features).float().cpu().numpy() for features in batches)
    with torch.no_grad(), atomic_path(path) as temporary:
        if path.suffix == ".csv":
            records = iter(dataset.records)
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["id", "split", "labels", *(f"d{d}" for d in range(width))])
                for part in parts:
                    for row, record in zip(part.tolist(), records, strict=False):
                        numbers = (f"{value:.9g}" for value in row)
                        labels = "|".join(record.labels or ())
                        writer.writerow([record.id, record.split, labels, *numbers])
        else:
            with open(temporary, "wb") as file:
                np.savez(
                    file,
                    ids=np.array([record.id for record in dataset.records], dtype=str),
                    embeddings=np.concatenate(list(parts)),
                    labels=dataset.labels(),
                    labelled=dataset.labelled(),
                    split=np.array([record.split for record in dataset.records], dtype=str),
                    classes=np.array(dataset.classes, dtype=str),
                )
    return len(dataset), width
