"""Readers of a run folder at any stage, which run and write nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import path_of, read_json
from ssnas_core.common.modalities import modality_of
from ssnas_core.common.typed import plain, typed
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.methods import methods_of
from ssnas_core.show.tables import primary_score
from ssnas_core.training.checkpoints import load_checkpoint

T = TypeVar("T")

# What a trained cell's files and a run's result hold, read back with every field checked.


@dataclass(frozen=True, kw_only=True)
class _CellFacts:
    """What a cell is: in both of its files."""

    method: str
    label_ratio: float
    seed: int
    genotype: str | None
    parameters: int
    labelled: Mapping[str, int]

    def __post_init__(self) -> None:
        shown = self.method.isprintable() and len(self.method) <= 120 and "$" not in self.method
        if not shown or not 0 < self.label_ratio <= 1 or not {"train", "dev"} <= {*self.labelled}:
            raise InputError(
                "expected a method, a label_ratio in (0, 1] and labelled train and dev samples, "
                f"got {self.method[:40]!a} and {self.label_ratio}"
            )


NO_SCORES = ("dev", "shuffled", "history")
"""What `read_cells` has of a cell beside its facts and its scores."""

FACTS = tuple(one.name for one in fields(_CellFacts))
"""Names of what a cell's files hold beside its scores."""


@dataclass(frozen=True, kw_only=True)
class _TrainedCell(_CellFacts):
    """The train.json of a cell."""

    threshold: float | None = None
    dev: Mapping[str, float | None]
    shuffled: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class _RunResult:
    """The metrics.json of a run; in `scores` each cell's facts and scores."""

    genotype: str
    scores: tuple[Mapping[str, Any], ...]
    seconds: Mapping[str, float]
    peak_anonymous_mb: float
    data: Mapping[str, Any] = field(default_factory=dict)


def cell_folder(run: Path, method: str, ratio: float) -> Path:
    """Where a run folder has the files of a method at a label ratio."""
    return Path(run) / "cells" / f"{slug(method)}_r{str(float(ratio)).removesuffix('.0')}"


def slug(method: str) -> str:
    """Return a method's name as a file has it."""
    return re.sub(r"[^\w.]+", "-", method)


def read_trained(file: Path, primary: str | None = None) -> dict[str, Any]:
    """The train.json of a cell: its facts, `threshold`, the scores `dev`, and `history`.

    And `shuffled`: by modality, what is left of the main score on dev once that is shuffled.

    Args:
        file: the file.
        primary: a score that must be among them.

    Raises:
        InputError: it is missing or broken.
    """
    where = f"{file} is not of a trained cell"
    cell = plain(_read(_TrainedCell, read_json(file), where))
    _check_scores(cell["dev"], f"{where}: dev", primary)
    _check_scores(cell["shuffled"], f"{where}: shuffled", None)
    if losses(cell["history"]) != cell["history"]:
        raise InputError(f"{where}: its history has an epoch without a loss; delete it.")
    return cell


def read_tested(file: Path, primary: str | None = None) -> dict[str, Any]:
    """The test.json of a cell: its facts and its scores, in one; `primary` is among them.

    Raises:
        InputError: it is missing or broken.
    """
    return _row(read_json(file), f"{file} is not of a tested cell", primary)


def read_result(file: Path) -> dict[str, Any]:
    """The metrics.json of a run.

    Raises:
        InputError: it is missing or broken.
    """
    document = read_json(file)
    where = f"{file} is not of a finished run"
    result = _read(_RunResult, document, where)
    rows = [_row(row, where) for row in result.scores]
    if len({frozenset(row) for row in rows}) != 1:
        raise InputError(f"{where}: expected the same scores of each cell; delete it.")
    return document


def losses(history: Any) -> list[dict[str, Any]]:
    """Those entries of a history that have an epoch and a loss that can be drawn."""
    entries = history if isinstance(history, list) else []
    return [
        entry
        for entry in entries
        if isinstance(entry, dict) and _drawable(entry.get("epoch"), entry.get("loss"))
    ]


def _drawable(*values: Any) -> bool:
    """Whether all are numbers that axes can show: not NaN, and not beyond 1e30."""
    return all(type(value) in (int, float) and abs(value) <= 1e30 for value in values)


def _read(hint: Any, document: Any, where: str) -> Any:
    """`typed`, of what a run computes again where it is deleted."""
    try:
        return typed(hint, document, where)
    except InputError as error:
        raise InputError(f"{str(error).removesuffix('; restore the file.')}; delete it.") from error


def _row(document: Any, where: str, primary: str | None = None) -> dict[str, Any]:
    """A cell's facts and scores, from one object."""
    given = _read(Mapping[str, Any], document, where)
    facts = _read(_CellFacts, {name: given[name] for name in FACTS if name in given}, where)
    rest = {name: value for name, value in given.items() if name not in FACTS}
    scores = _read(Mapping[str, float | None], rest, where)
    _check_scores(scores, where, primary)
    return {**plain(facts), **scores}


def _check_scores(scores: Mapping[str, float | None], where: str, primary: str | None) -> None:
    if primary is not None and scores.get(primary) is None:
        raise InputError(f"{where}: expected {primary} among the scores; delete it.")
    wrong = [name for name in scores if not name.isprintable() or len(name) > 60 or "$" in name]
    if wrong or len(scores) > 60 or not all(_drawable(v) for v in scores.values() if v is not None):
        raise InputError(f"{where}: expected scores by name; delete it.")


# More than any run has: a broken folder may ask a figure for anything.
_MAX_CELLS, _MAX_EPOCHS, _MAX_FEATURES, _MAX_LOGITS = 1000, 10_000, 200, 100


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a configuration that lacks what every run's has.

    Raises:
        InputError: it is no run's.
    """
    where = f"{path}/config.json is not of a run"
    typed(int, config.get("seed"), f"{where}: seed")
    parts = [
        typed(Mapping[str, Any], config.get(axis), f"{where}: {axis}")
        for axis in ("space", "objective", "strategy")
    ]
    texts = [typed(str, part.get("name"), f"{where}: name") for part in parts]
    path_of(config.get("data"), f"{where}: data")
    if not all(text.isprintable() and len(text) < 5000 for text in texts):
        raise InputError(f"{where}: expected texts of one line; restore it.")
    for count in ("epochs", "trials", "min_steps"):
        typed(int | None, parts[2].get(count), f"{where}: strategy.{count}")


def read_cells(
    folder: RunFolder, features: Iterable[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The trained cells of a run, by label ratio and method, weakest claim first.

    Returns:
        Of each its facts, `on` ("test" where that was read, else "dev"), its
        scores there, and what train.json has of `NO_SCORES`; and what is wrong with
        those that cannot be read.
    """
    cells: list[dict[str, Any]] = []
    broken = []
    files = sorted((folder / "cells").glob("*/train.json"))
    if len(files) > _MAX_CELLS:
        broken.append(f"{len(files):,} cells: those after the first {_MAX_CELLS} are left out")
    for file in files[:_MAX_CELLS]:
        test = file.with_name("test.json")
        try:
            trained = read_trained(file)
            on, scores = ("test", read_tested(test)) if test.exists() else ("dev", trained["dev"])
        except InputError as error:
            broken.append(str(error))
            continue
        facts, rest = ({name: trained[name] for name in names} for names in (FACTS, NO_SCORES))
        cells.append({**facts, "on": on, **scores, **rest})
    primary = primary_score(cells)
    lacking = [cell for cell in cells if cell.get(primary) is None]
    broken += [
        f"{folder.path}: {cell['method']} at r = {cell['label_ratio']:g} has no {primary}"
        for cell in lacking
    ]
    cells = [cell for cell in cells if cell.get(primary) is not None]
    known = _method_order(features, cells)
    cells.sort(key=lambda cell: (cell["label_ratio"], known.index(cell["method"])))
    return cells, broken


def search_history(folder: RunFolder) -> list[dict[str, Any]]:
    """Return epochs or trials of the search; of one that goes on, up to its last checkpoint.

    Entries that cannot be drawn are left out.

    Raises:
        InputError: the checkpoint is broken.
    """
    checkpoint = folder / "checkpoint" / "search.pt"
    if (folder / "history.jsonl").exists():
        entries = folder.lines("history.jsonl")
    else:
        entries = (load_checkpoint(checkpoint) or {"history": []})["history"]
    entries = entries[:_MAX_EPOCHS]  # objects, as both readers have it
    counted = "trial" if entries and "epoch" not in entries[0] else "epoch"
    drawn = [entry for entry in entries if _is_entry(entry, counted)]
    return [entry for entry in drawn if _form(entry) == _form(drawn[0])]


def _is_entry(entry: Any, counted: str) -> bool:
    """Whether an entry's number, losses and logits can all be drawn."""
    if not isinstance(entry, dict) or counted not in entry:
        return False
    names = (counted, "train_loss", "arch_loss", "dev_loss")
    logits = entry.get("logits", {})
    return (
        all(_drawable(entry[name]) for name in names if name in entry)
        and isinstance(logits, dict)
        and len(logits) <= _MAX_LOGITS
        and all(name.isidentifier() and len(name) < 60 for name in logits)
        and all(_shape(vector) is not None for vector in logits.values())
    )


def _form(entry: Mapping[str, Any]) -> Any:
    """Return the shapes of an entry's logits, which are alike in one history."""
    return {name: _shape(vector) for name, vector in entry.get("logits", {}).items()}


def _shape(logits: Any) -> tuple[int, int] | None:
    """(S, E) of a matrix of numbers, (1, E) of a vector; None of anything else, or a larger one."""
    is_matrix = isinstance(logits, list) and all(isinstance(row, list) for row in logits)
    rows = logits if is_matrix else [logits]
    widths = {len(row) if isinstance(row, list) and _drawable(*row) else 0 for row in rows}
    width = widths.pop() if len(widths) == 1 else 0
    fits = 0 < width <= _MAX_LOGITS and len(rows) * width <= 10 * _MAX_LOGITS
    return (len(rows), width) if fits else None


def pretraining_history(folder: RunFolder) -> list[dict[str, Any]]:
    """Epochs of pretraining, none where it is not done."""
    file = folder / "pretrain.json"
    note = read_json(file) if file.exists() else {}
    return losses(note.get("history"))[:_MAX_EPOCHS] if isinstance(note, dict) else []


def features_of(folder: RunFolder) -> dict[str, int]:
    """Channels of the stored features by name; none where they are not noted."""
    file = folder / "prepared.json"
    note = read_json(file) if file.exists() else {}
    document = note.get("channels", {}) if isinstance(note, dict) else {}
    channels = typed(Mapping[str, int], document, f"{file}: channels")
    if len(channels) > _MAX_FEATURES or not all(name.isidentifier() for name in channels):
        raise InputError(f"{file}: expected channels of features by name; restore it.")
    return dict(channels)


def logit_labels(
    folder: RunFolder, history: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """Return what each entry of each logit vector stands for, of those that are known."""
    file = folder / "labels.json"
    logits = history[0].get("logits", {}) if history else {}
    if not logits or not file.exists():
        return {}
    noted = typed(Mapping[str, tuple[str, ...]], read_json(file), str(file))
    return {
        name: texts
        for name, texts in noted.items()
        if name in logits
        and len(texts) == np.size(logits[name])
        and all(text.isprintable() and len(text) < 60 and "$" not in text for text in texts)
    }


def stage_of(
    folder: RunFolder,
    config: Mapping[str, Any],
    history: Sequence[Any],
    cells: Sequence[Mapping[str, Any]],
) -> str:
    """How far the run is, in words."""
    if (folder / "metrics.json").exists():
        return "finished"
    if cells:
        tested = sum(cell["on"] == "test" for cell in cells)
        return f"{len(cells)} cells fine-tuned, {tested} of them scored on test"
    if (folder / "pretrain.json").exists():
        return "pretrained"
    if (folder / "genotype.json").exists():
        return "searched"
    if history:
        strategy, last = config["strategy"], history[-1]
        counted = "epochs" if "epoch" in last else "trials"
        done = last["epoch"] if "epoch" in last else len(history)
        total = f" of {strategy[counted]}" if counted in strategy else ""
        if strategy.get("min_steps"):
            total = total.replace(" of ", " of at least ")
        return f"searching: {done}{total} {counted if total or done > 1 else counted[:-1]}"
    return "prepared" if (folder / "prepared.json").exists() else "begun"


def _method_order(features: Iterable[str], cells: Sequence[Mapping[str, Any]]) -> list[str]:
    modalities = dict.fromkeys(modality_of(name) for name in features)
    names = sorted(cell["method"] for cell in cells)
    return list(dict.fromkeys((*map(str, methods_of(modalities)), *names)))


def attempt(notes: list[str], read: Callable[..., T], *arguments: Any) -> T | None:
    """Return what `read` returns, or None with its message in `notes` where something is broken.

    So the rest is shown without it.
    """
    try:
        return read(*arguments)
    except InputError as error:
        notes.append(str(error))
        return None
