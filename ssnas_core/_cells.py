"""What a trained cell's files and a run's result hold, read back with every field checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssnas_core._typed import typed
from ssnas_core.errors import InputError
from ssnas_core.files import read_json

FACTS = ("method", "label_ratio", "seed", "genotype", "parameters", "labelled")
"""Of a cell's files: what it is, beside its scores."""


@dataclass(frozen=True, kw_only=True)
class _Facts:
    method: str
    label_ratio: float
    seed: int
    genotype: str | None
    parameters: int
    labelled: Mapping[str, int]


def cell_folder(run: Path, method: str, ratio: float) -> Path:
    """Where a run folder has the files of a method at a label ratio."""
    kind, r = method.replace(", ", "-").replace(" ", "-"), str(float(ratio))
    return Path(run) / "cells" / f"{kind}_r{r.removesuffix('.0')}"


def read_trained(file: Path, primary: str | None = None) -> dict[str, Any]:
    """The train.json of a cell: its facts, `threshold`, the scores `dev`, and `history`.

    Args:
        file: the file.
        primary: a score that must be among them.

    Raises:
        InputError: it is missing or broken.
    """
    told = _facts(file)
    where = f"{file} is not of a trained cell"
    told["threshold"] = typed(float | None, told.get("threshold"), f"{where}: threshold")
    told["dev"] = _scores(told.get("dev"), f"{where}: dev", primary)
    history = told.get("history")
    told["history"] = losses(history)
    if not isinstance(history, list) or len(told["history"]) != len(history):
        raise InputError(f"{where}: its history has an epoch without a loss; delete it.")
    return told


def read_tested(file: Path, primary: str | None = None) -> dict[str, Any]:
    """The test.json of a cell: its facts and its scores, in one; `primary` is among them.

    Raises:
        InputError: it is missing or broken.
    """
    told = _facts(file)
    scores = {name: value for name, value in told.items() if name not in FACTS}
    return {**told, **_scores(scores, f"{file} is not of a tested cell", primary)}


def read_result(file: Path) -> dict[str, Any]:
    """The metrics.json of a run.

    Raises:
        InputError: it is missing or broken.
    """
    told = read_json(file)
    where = f"{file} is not of a finished run"
    if not isinstance(told, dict) or not isinstance(told.get("scores"), list):
        raise InputError(f"{where}: expected an object with scores; delete it.")
    typed(str, told.get("genotype"), f"{where}: genotype")
    typed(Mapping[str, float], told.get("seconds"), f"{where}: seconds")
    typed(float, told.get("peak_anonymous_mb"), f"{where}: peak_anonymous_mb")
    for row in told["scores"]:
        _checked(row, where)
        _scores({name: value for name, value in row.items() if name not in FACTS}, where)
    if not told["scores"] or len({frozenset(row) for row in told["scores"]}) > 1:
        raise InputError(f"{where}: expected the same scores of each cell; delete it.")
    return told


def losses(history: Any) -> list[dict[str, Any]]:
    """Those entries of a history that have an epoch and a loss that can be drawn."""
    entries = history if isinstance(history, list) else []
    return [
        entry
        for entry in entries
        if isinstance(entry, dict) and drawable(entry.get("epoch"), entry.get("loss"))
    ]


def drawable(*values: Any) -> bool:
    """Whether all are numbers that axes can show: not NaN, and not beyond 1e30."""
    return all(type(value) in (int, float) and abs(value) <= 1e30 for value in values)


def _facts(file: Path) -> dict[str, Any]:
    told = read_json(file)
    _checked(told, f"{file} is not of a trained cell")
    return told


def _checked(told: Any, where: str) -> None:
    if not isinstance(told, dict):
        raise InputError(f"{where}: expected an object; delete it.")
    lacking = [name for name in FACTS if name not in told]
    if lacking:
        raise InputError(f"{where}: it lacks {lacking[0]}; delete it.")
    try:
        facts = typed(_Facts, {name: told[name] for name in FACTS}, f"{where}: it")
    except InputError as error:
        raise InputError(f"{str(error).removesuffix('; restore the file.')}; delete it.") from error
    shown = facts.method.isprintable() and len(facts.method) <= 120 and "$" not in facts.method
    if not shown or not 0 < facts.label_ratio <= 1 or not {"train", "dev"} <= {*facts.labelled}:
        raise InputError(
            f"{where}: expected a method, a label_ratio in (0, 1] and labelled train and dev "
            f"samples, got {facts.method[:40]!a} and {facts.label_ratio}; delete it."
        )


def _scores(told: Any, where: str, primary: str | None = None) -> dict[str, float | None]:
    found = typed(Mapping[str, float | None], told, where)
    if primary is not None and found.get(primary) is None:
        raise InputError(f"{where}: expected {primary} among the scores; delete it.")
    wrong = [name for name in found if not name.isprintable() or len(name) > 60 or "$" in name]
    if wrong or len(found) > 60 or not all(drawable(v) for v in found.values() if v is not None):
        raise InputError(f"{where}: expected scores by name; delete it.")
    return dict(found)
