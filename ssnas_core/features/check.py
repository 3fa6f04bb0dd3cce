"""`ssnas check`: what would be read of a data set, and what its preparation would cost.

Nothing is written but an archive's files, which are unpacked as for every other command.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssnas_core.backbones.base import ArrayBackbone, Backbone, ImageBackbone, TextBackbone
from ssnas_core.common.errors import InputError
from ssnas_core.common.typed import plain
from ssnas_core.datasets import facts
from ssnas_core.datasets.open import open_dataset
from ssnas_core.datasets.records import Dataset
from ssnas_core.datasets.table import TableOptions
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.coverage import coverage, unknown_texts
from ssnas_core.features.extract import Taps, evaluating
from ssnas_core.features.images import decode_image, describe_image
from ssnas_core.features.prepare import fresh_backbones

MOST_IMAGES = 1000
"""Of more images as many are looked at, evenly spread over the data."""

_TRIED = 16  # samples on which a backbone is timed
_TURNS = 3  # of which the quickest counts: another program may have the machine
_PASSES = 3.0  # a step of training, in forward passes


def check_data(
    data: Path | str | Dataset,
    config: PrepareConfig | None = None,
    *,
    table: TableOptions | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Return what `prepare` would read of a data set, as JSON values.

    Args:
        data: what `open_dataset` reads, or a dataset.
        config: the preparation whose cost is estimated, and whose text backbone is asked
            which words it would know.
        table: what the columns are, where the data is a table.
        progress: show progress bars on standard error.

    Returns:
        `name`; `samples`, labelled and unlabelled by split; `labels`, in words; `classes`,
        records by split; `modalities`, of each what it looks like; `skipped`, counts by
        reason; `examples`, id -> reason of the first ten left out; `prepare`, estimated
        `seconds` on this machine's CPU and `megabytes` on disk, or the `problem` of a
        backbone; `notes`, what the reader guessed and what looks like a mistake.

    Raises:
        InputError: the data cannot be read.
    """
    config = config or PrepareConfig()
    with _Heard("ssnas_core.datasets") as heard:
        dataset = open_dataset(data, table=table, progress=progress)
    columns = {name: dataset.column(name) for name in dataset.kinds}
    notes = [*heard.lines, *facts.doubts(dataset)]
    look = {"image": _images, "text": _texts, "array": _arrays}
    modalities = {
        name: {"kind": kind, **look[kind](columns[name])} for name, kind in dataset.kinds.items()
    }
    try:
        backbones = _fitted(dataset, columns, config)
        cost: dict[str, Any] = _cost(dataset, columns, backbones, config)
        known = coverage(dataset, backbones)
        notes += unknown_texts(known)
        for name, parts in known.items():
            modalities[name]["known"] = plain(parts)
    except InputError as error:  # as weights that are not here: the data can be told of
        cost = {"problem": str(error)}
    return {
        "name": dataset.name,
        "samples": facts.sample_counts(dataset),
        "labels": facts.labels_in_words(dataset),
        "classes": facts.class_counts(dataset),
        "modalities": modalities,
        "skipped": facts.skipped_counts(dataset),
        "examples": dict(list(dataset.skipped.items())[:10]),
        "prepare": cost,
        "notes": notes,
    }


class _Heard(logging.Handler):
    """Inside, what a logger warns of is kept in `lines` and not shown."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._logger = logging.getLogger(name)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> _Heard:
        self._before = self._logger.propagate
        self._logger.addHandler(self)
        self._logger.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._before


def _spread(values: Sequence[float]) -> list[float]:
    """Return the least, the median and the largest."""
    return [float(round(one, 4)) for one in (min(values), np.median(values), max(values))]


def _images(column: Sequence[Any]) -> dict[str, Any]:
    places = np.unique(np.linspace(0, len(column) - 1, MOST_IMAGES).astype(int))
    seen = [describe_image(column[place]) for place in places]
    good = [one for one in seen if one.problem is None]
    result: dict[str, Any] = {"looked at": len(seen)}
    if good:
        result["width"] = _spread([one.width for one in good])
        result["height"] = _spread([one.height for one in good])
        result["modes"] = dict(Counter(one.mode for one in good).most_common())
        result["formats"] = dict(Counter(one.format for one in good).most_common())
    result["problems"] = dict(Counter(one.problem for one in seen if one.problem).most_common(10))
    return result


def _texts(column: Sequence[str]) -> dict[str, Any]:
    return {
        "words": _spread([len(text.split()) for text in column]),
        "characters": _spread([len(text) for text in column]),
    }


def _arrays(column: Sequence[np.ndarray]) -> dict[str, Any]:
    rows = np.stack(column)
    return {"shape": list(rows.shape[1:]), "range": _spread(rows.reshape(-1).tolist())}


def _fitted(
    dataset: Dataset, columns: Mapping[str, Any], config: PrepareConfig
) -> dict[str, Backbone]:
    """Return untrained backbones that have seen the train part where they need to."""
    backbones, train = fresh_backbones(dataset, config), dataset.indices("train").tolist()
    for modality, backbone in backbones.items():
        part = [columns[modality][row] for row in train]
        if isinstance(backbone, TextBackbone):
            backbone.fit(part)
        elif isinstance(backbone, ArrayBackbone):
            backbone.fit(np.stack(part))
    return backbones


def _cost(
    dataset: Dataset,
    columns: Mapping[str, Any],
    backbones: Mapping[str, Backbone],
    config: PrepareConfig,
) -> dict[str, Any]:
    """Return estimated seconds and megabytes, from a few samples of train."""
    rows = dataset.indices("train")[:_TRIED].tolist()
    count, train = len(dataset), len(dataset.indices("train"))
    seconds, numbers = 0.0, 0.0
    for modality, backbone in backbones.items():
        values = [columns[modality][row] for row in rows]
        batch, reading = _timed(lambda b=backbone, v=values: _batch(b, v))
        taps = Taps({modality: backbone}, config.length)
        with evaluating(taps):
            made, passing = _timed(lambda t=taps, m=modality, b=batch: t({m: b}))
        passes = count * (1 + config.views)
        if backbone.learns:
            training = getattr(config, f"{backbone.modality_kind}_training")
            passes += 2 * _PASSES * train * training.epochs  # two views of each sample
        seconds += (count * reading + passes * passing) / len(rows)
        numbers += 2.0 * count * (1 + config.views) * sum(v[0].numel() for v in made.values())
        if isinstance(backbone, ImageBackbone):
            numbers += 3.0 * count * backbone.size[0] * backbone.size[1]
    return {"seconds": round(seconds), "megabytes": round(numbers / 1e6, 1)}


def _batch(backbone: Backbone, values: Sequence[Any]) -> Tensor:
    """Return raw values as a backbone takes them; images that cannot be read are left out."""
    if not isinstance(backbone, ImageBackbone):
        made: Any = backbone
        return made.vectorize(np.stack(values) if isinstance(values[0], np.ndarray) else values)
    images = []
    for value in values:
        try:
            images.append(decode_image(value, backbone.size))
        except Exception:  # noqa: S112  counted among the problems
            continue
    if not images:
        raise InputError("no image of the first samples can be decoded; see their problems.")
    return torch.from_numpy(np.stack(images)).float().div_(255)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `work` gives, and its seconds."""
    seconds: list[float] = []
    made = None
    for _ in range(_TURNS):
        start = time.perf_counter()
        made = work()
        seconds.append(time.perf_counter() - start)
    return made, min(seconds)


def check_text(found: Mapping[str, Any]) -> str:
    """Return what `check_data` found, to be read."""
    lines = [f"{found['name']}: {found['labels']}", "", _table(found["samples"], "samples")]
    for name, of in found["modalities"].items():
        rest = {key: value for key, value in of.items() if key not in ("kind", "known")}
        said = ", ".join(f"{key} {_shown(value)}" for key, value in rest.items() if value)
        lines += ["", f"{name} ({of['kind']}): {said}"]
        for split, known in of.get("known", {}).items():
            lines.append(
                f"  {split}: {known['words']:.0%} of the words known, {known['unknown']} of "
                f"{known['texts']} texts without a known word"
            )
    if found["classes"]:
        lines += ["", _table(found["classes"], "classes")]
    if found["skipped"]:
        lines += ["", "left out:", *(f"  {n} x {why}" for why, n in found["skipped"].items())]
        lines += [f"  e.g. {name}: {why}" for name, why in found["examples"].items()]
    cost = found["prepare"]
    lines += ["", cost.get("problem") or _cost_text(cost)]
    lines += [f"note: {note}" for note in found["notes"]]
    return "\n".join(lines)


def _cost_text(cost: Mapping[str, Any]) -> str:
    minutes = cost["seconds"] / 60
    about = f"{cost['seconds']} seconds" if minutes < 2 else f"{minutes:.0f} minutes"
    return f"ssnas prepare: about {about} here, {cost['megabytes']:g} MB on disk"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{number} x {name}" for name, number in value.items())
    if isinstance(value, list):
        return " to ".join(f"{one:g}" for one in dict.fromkeys(value))
    return str(value)


def _table(rows: Mapping[str, Mapping[str, int]], title: str) -> str:
    """Return rows of counts under the names of their columns; of many the first thirty."""
    columns = list(next(iter(rows.values())))
    width = max(len(title), *(len(name) for name in rows))
    lines = [f"{title:<{width}}" + "".join(f"{column:>12}" for column in columns)]
    for name, of in list(rows.items())[:30]:
        lines.append(f"{name:<{width}}" + "".join(f"{of[column]:>12}" for column in columns))
    return "\n".join([*lines, *([f"... and {len(rows) - 30} more"] if len(rows) > 30 else [])])
