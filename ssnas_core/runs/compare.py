"""Several runs as one table: in what their settings differ, and means over what does not."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_fields, read_name
from ssnas_core.common.typed import typed
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.reading import (
    NO_SCORES,
    attempt,
    check_config,
    features_of,
    read_cells,
    search_history,
    stage_of,
)
from ssnas_core.show.curves import plot_scores
from ssnas_core.show.tables import (
    align,
    grouped,
    methods_of,
    primary_score,
    score_name,
    with_interval,
)
from ssnas_core.training.metrics import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Not what tells settings apart: a cell has its own ratio; threads change rounding only.
_NO_SETTING = {"format", "seed", "label_ratio", "threads", "threads_changed_to"}
_AXES = ("space", "objective", "strategy")


def compare_runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the trained cells of several runs, and in what the runs' configurations differ.

    Args:
        folders: run folders at any stage.

    Returns:
        A row per cell (run x method x label ratio), as those of a study: `method`,
        `label_ratio`, `seed`, `score`, all other scores, `labelled`, `parameters`, `genotype`;
        beside them `run`, `stage`, `space`, `objective`, `strategy`; `on` ("test", or "dev"
        where test was not read); `setting`, a letter that all runs share which differ in
        nothing but the seed ("" if there is one setting); `differs`, the settings in which it
        differs from any other, as "strategy.epochs=7"; `repeats`, the earlier run that has the
        same cell with the same seed, which does not count again. A folder without trained
        cells, or that is no run, is one row that says so in `problem`.

    Raises:
        InputError: none of the folders is a run.
    """
    runs, strangers = [], []
    for folder in dict.fromkeys(Path(folder) for folder in folders):
        try:
            runs.append(_opened(folder))
        except InputError as error:
            strangers.append({"run": str(folder), "problem": str(error)})
    if not runs:
        reason = " ".join(row["problem"] for row in strangers) or "got none."
        raise InputError(f"expected at least one run folder to compare; {reason}")
    settings = _settings([run for run in runs if run.cells])
    primary = primary_score([cell for run in runs for cell in run.cells])
    counted: dict[tuple[Any, ...], str] = {}
    rows = []
    for run in runs:
        letter, differs = settings.get(run.key, ("", ""))
        about = {
            "run": run.path,
            "stage": run.stage,
            **{axis: run.settings[axis] for axis in _AXES},
            "setting": letter,
            "differs": differs,
        }
        for cell in run.cells:
            same = (run.key, *(cell[name] for name in ("method", "label_ratio", "on", "seed")))
            first = counted.setdefault(same, run.path)
            known = {name: value for name, value in cell.items() if name not in NO_SCORES}
            known["score"] = cell.get(primary)
            known["labelled"] = cell["labelled"]["train"] + cell["labelled"]["dev"]
            repeats = first if first != run.path else None
            rows.append({**about, **known, "repeats": repeats, "problem": None})
        problems = run.broken or ([] if run.cells else [f"no trained method yet ({run.stage})."])
        rows += [{**about, "problem": problem} for problem in problems]
    return rows + strangers


def comparison_table(rows: Sequence[Mapping[str, Any]], metric: str = "score") -> str:
    """Return the rows of `compare_runs` as a text: means and 95 % intervals over the seeds.

    Args:
        rows: of `compare_runs`.
        metric: the score; by default accuracy where all have it, else weighted F1.

    Returns:
        A line per method, label ratio and setting, those of one method and ratio
        together; then what the settings are, and what is missing or left out.
    """
    scored = _counted(rows, metric)
    if not scored:
        return "\n".join(["no trained method to compare", *_remarks(rows)])
    columns = [*_AXES, "on", *(["setting"] if any(row["setting"] for row in scored) else [])]
    methods = methods_of(scored)
    cells = grouped(scored, "label_ratio", "method", *columns)
    order = sorted(cells, key=lambda c: (c[0], methods.index(c[1]), c[6:], c[5]))
    body = []
    for ratio, method, *about in order:
        scores = [row[metric] for row in cells[ratio, method, *about]]
        line = [
            method,
            f"{ratio:g}",
            *about,
            str(len(scores)),
            with_interval(mean_interval(scores)),
        ]
        body.append(line)
    head = ["method", "r", *columns, "seeds", f"{score_name(scored, metric)} [95 % interval]"]
    left = (0, *range(2, 2 + len(columns)), len(head) - 1)
    return "\n".join([*align([head, *body], left), *_remarks(rows)])


def plot_comparison(rows: Sequence[Mapping[str, Any]], metric: str = "score") -> Figure:
    """Draw the rows of `compare_runs` as curves over the label ratio, see `plot_scores`.

    Settings have their letters, which are explained below; scores on dev are a setting
    of their own.

    Raises:
        InputError: no run has a trained method.
    """
    scored = _counted(rows, metric)
    if not scored:
        raise InputError("expected runs with a trained method, got none; train them first.")
    notes = dict.fromkeys(f"{r['setting']}: {r['differs']}" for r in scored if r["setting"])
    return plot_scores(scored, metric=metric, notes=list(notes))


@dataclass(frozen=True)
class _Opened:
    """One run as it is compared.

    Args:
        path: its folder.
        stage: how far it is, in words.
        cells: its trained cells, with their scores.
        broken: what of it cannot be read.
        settings: all that decides its results but the seed and the data, by dotted name.
        data: where its data was read, and hashes of what was read, labels among them.
    """

    path: str
    stage: str
    cells: list[dict[str, Any]]
    broken: list[str]
    settings: dict[str, Any]
    data: tuple[str, str]

    @property
    def key(self) -> str:
        """Equal for all runs of one setting."""
        return json.dumps([self.settings, self.data[1]], sort_keys=True)


def _opened(path: Path) -> _Opened:
    folder = RunFolder.opened(path)
    config = RunFolder.config_of(path)
    check_config(config, path)
    broken: list[str] = []
    features = attempt(broken, features_of, folder) or {}
    cells, unread = read_cells(folder, features)
    broken += unread
    history = [] if cells else attempt(broken, search_history, folder)
    stage = "broken" if history is None else stage_of(folder, config, history, cells)
    note = folder / "prepared.json"
    prepared = attempt(broken, _content_of, note) if note.exists() else None
    parts = {axis: config[axis]["name"] for axis in _AXES}
    settings = {**parts, **_flat({n: v for n, v in config.items() if n not in _NO_SETTING})}
    if settings.get("recipe.parts") == [config["space"]]:  # sizes of all networks: said once
        del settings["recipe.parts"]
    settings.pop("data", None)
    data = str(config.get("data"))
    return _Opened(str(path), stage, cells, broken, settings, (data, prepared or data))


def _content_of(note: Path) -> str:
    """Return what names the features and the labels of a run, from its prepared.json."""
    labels = typed(str, read_fields(note, "labels")["labels"], f"{note}: labels")
    return f"{read_name(note, 'folder')}, labels {labels[:40]}"


def _settings(runs: Sequence[_Opened]) -> dict[str, tuple[str, str]]:
    """Return by key of a run the letter of its setting, and in what it differs from others."""
    if len({run.key for run in runs}) < 2:
        return {}
    names = dict.fromkeys(name for run in runs for name in run.settings)
    differing = [name for name in names if _differs(name, runs)]
    by_source: dict[str, set[str]] = {}  # what was prepared alike from one path
    for run in runs:
        prepare = {n: v for n, v in run.settings.items() if n.startswith("recipe.prepare.")}
        source = json.dumps([run.data[0], prepare], sort_keys=True)
        by_source.setdefault(source, set()).add(run.data[1])
    changed = any(len(contents) > 1 for contents in by_source.values())
    other = all(len({run.data[place] for run in runs}) > 1 for place in (0, 1))
    settings: dict[str, tuple[str, str]] = {}
    for run in runs:
        values = {name: run.settings[name] for name in differing if name in run.settings}
        if changed or other:
            values["data"] = f"{run.data[0]} ({run.data[1]})" if changed else run.data[0]
        text = ", ".join(f"{name}={_text(value)}" for name, value in values.items())
        settings.setdefault(run.key, (_letter(len(settings)), text))
    return settings


def _differs(name: str, runs: Iterable[_Opened]) -> bool:
    """Whether runs differ in a setting; one of a part, among runs that have the same part."""
    values: dict[Any, set[str]] = {}
    for run in runs:
        axis = name.partition(".")[0]
        part = run.settings.get(axis) if axis != name else None
        if name in run.settings:
            values.setdefault(part, set()).add(json.dumps(run.settings[name]))
    return any(len(one) > 1 for one in values.values())


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _letter(number: int) -> str:
    """Return A, B, ..., Z, AA, AB, ..."""
    letters = string.ascii_uppercase
    before = _letter(number // len(letters) - 1) if number >= len(letters) else ""
    return before + letters[number % len(letters)]


def _counted(rows: Iterable[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Return the rows that have the score, each seed of a setting once."""
    return [row for row in rows if row.get(metric) is not None and not row["repeats"]]


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the settings are, which runs are not finished, and which rows were left out."""
    settings = grouped((row for row in rows if row.get("setting")), "setting", "differs")
    lines = [
        f"setting {letter}: {differs}; {' '.join(dict.fromkeys(row['run'] for row in part))}"
        for (letter, differs), part in settings.items()
    ]
    repeated = grouped((row for row in rows if row.get("repeats")), "run", "repeats")
    lines += [
        f"{run}: {len(part)} cells repeat {first} (same setting and seed), not counted"
        for (run, first), part in repeated.items()
    ]
    for run, part in grouped(rows, "run").items():
        stages = {row["stage"]: None for row in part if not row["problem"]}
        remarks = [f"not finished ({stage})." for stage in stages if stage != "finished"]
        remarks += [row["problem"] for row in part if row["problem"]]
        lines += [f"{run}: {'; '.join(remarks)}"] if remarks else []
    if any(row.get("on") == "dev" for row in rows):
        lines.append("dev: the labelled dev part, on which the threshold was chosen")
    return ["", *lines] if lines else []


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and before.count(".") < 20:  # settings are three deep
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat
