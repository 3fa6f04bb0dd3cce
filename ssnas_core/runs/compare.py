"""Several runs as one table: what differs between them, and means over what does not."""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_name
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.reading import check_config, features_of, read_cells, search_history, stage_of
from ssnas_core.runs.recipes import RunConfig
from ssnas_core.show.curves import plot_scores
from ssnas_core.show.tables import align, heading, primary_score
from ssnas_core.training.metrics import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Not what tells settings apart: a cell has its own ratio; threads change rounding only.
_NO_SETTING = {"format", "seed", "label_ratio", "threads", "threads_changed_to"}
_AXES = ("space", "objective", "strategy")
_ABOUT = ("run", "stage", "seed", *_AXES, "setting", "differs")
_CELL = ("method", "label_ratio", "on", "parameters")
_ASIDE = {*_ABOUT, *_CELL, "genotype", "labelled", "repeats", "problem"}  # no scores
_ABSENT = "(absent)"


def compare_runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """The trained cells of several runs, and in what the runs' configurations differ.

    Args:
        folders: run folders at any stage.

    Returns:
        A row per cell (run x method x label ratio): `run`, `stage`, `seed`,
        `space`, `objective`, `strategy`; `setting`, a letter that all runs share which differ
        in nothing but the seed ("" if there is one setting); `differs`, its values
        of all settings in which it differs from any other, by dotted name; the
        cell's `method`, `label_ratio`, `on` ("test", or "dev" where test was not
        read) and scores; `repeats`, the earlier run that has the same cell with the
        same seed, which does not count again. A folder without trained cells, or
        that is no run, is one row that says so in `problem`.

    Raises:
        InputError: none of the folders is a run.
    """
    runs, rows = [], []
    for folder in dict.fromkeys(Path(folder) for folder in folders):
        try:
            runs.append(_Opened(folder))
        except InputError as error:
            rows.append({"run": str(folder), "problem": str(error)})
    if not runs:
        told = " ".join(row["problem"] for row in rows) or "got none."
        raise InputError(f"expected at least one run folder to compare; {told}")
    settings = _settings([run for run in runs if run.cells])
    counted: dict[tuple[Any, ...], str] = {}
    found = []
    for run in runs:
        letter, differs = settings.get(run.key, ("", {}))
        about = {
            "run": str(run.path),
            "stage": run.stage,
            **{name: run.config.get(name) for name in ("seed", *_AXES)},
            "setting": letter,
            "differs": differs,
        }
        for cell in run.cells:
            same = (run.key, cell["method"], cell["label_ratio"], cell["on"], cell["seed"])
            first = counted.setdefault(same, str(run.path))
            repeats = None if first == str(run.path) else first
            known = {name: value for name, value in cell.items() if name != "history"}
            found.append({**about, **known, "repeats": repeats, "problem": None})
        problems = run.broken or ([] if run.cells else [f"no trained method yet ({run.stage})."])
        found += [{**about, "problem": problem} for problem in problems]
    return found + rows


def comparison_table(rows: Sequence[Mapping[str, Any]], metric: str | None = None) -> str:
    """What `compare_runs` returned as a text: means and 95 % intervals over the seeds.

    Args:
        rows: of `compare_runs`.
        metric: the score; by default accuracy where all have it, else weighted F1.

    Returns:
        A line per method, label ratio and setting, those of one method and ratio
        together; then what the settings are, and what is missing or left out.
    """
    scored = _counted(rows)
    metric = metric or primary_score(scored)
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in scored:
        if metric in row:
            key = (row["label_ratio"], row["method"], row["setting"], row["on"])
            groups.setdefault(key, []).append(row)
    methods = list(dict.fromkeys(row["method"] for row in scored))
    ordered = sorted(groups, key=lambda key: (key[0], methods.index(key[1]), key[2], key[3]))
    several = any(row["setting"] for row in scored)
    body = []
    for key in ordered:
        ratio, method, setting, on = key
        group = groups[key]
        mean, low, high = mean_interval([row[metric] for row in group])
        interval = f"{low:.3f} .. {high:.3f}" if len(group) > 1 else "-"
        line = [method, f"{ratio:g}", *(group[0][axis] for axis in _AXES), on]
        line += [setting] if several else []
        body.append([*line, str(len(group)), f"{mean:.3f}", interval])
    head = ["method", "r", *_AXES, "on", *(["setting"] if several else [])]
    head += ["seeds", heading(metric), "95 % interval"]
    lines = align([head, *body], left=(0, 2, 3, 4, 5, 6) if several else (0, 2, 3, 4, 5))
    if not body:
        lines = ["no trained method to compare"]
    return "\n".join([*lines, *_remarks(rows)])


def comparison_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """What `compare_runs` returned as CSV, one line per row; what a row has not is empty."""
    scores = dict.fromkeys(name for row in rows for name in row if name not in _ASIDE)
    columns = [*_ABOUT, *_CELL, *scores, "repeats", "problem"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "differs": _told(row.get("differs", {}))})
    return buffer.getvalue()


def plot_comparison(rows: Sequence[Mapping[str, Any]], metric: str | None = None) -> Figure:
    """What `compare_runs` returned as curves over the label ratio.

    A method has one colour, a setting one dash; scores on dev are a setting of their own.

    Args:
        rows: of `compare_runs`.
        metric: as in `comparison_table`.

    Raises:
        InputError: no run has a trained method.
    """
    scored = _counted(rows)
    metric = metric or primary_score(scored)
    scored = [row for row in scored if metric in row]
    if not scored:
        raise InputError(f"none of the runs has a {heading(metric)} to draw; train them first.")
    parts = {row["on"] for row in scored}
    drawn = []
    for row in scored:
        told = _told(row["differs"])
        if len(told) > 90:  # in full in the table
            told = f"setting {row['setting']}"
        on = f"on {row['on']}" if len(parts) > 1 else ""
        drawn.append({**row, "setting": ", ".join(filter(None, (told, on)))})
    return plot_scores(drawn, metric, part=parts.pop() if len(parts) == 1 else "")


class _Opened:
    """One run's configuration, cells and stage."""

    def __init__(self, path: Path) -> None:
        folder = RunFolder.opened(path)
        self.path = path
        self.config = RunFolder.config_of(path)
        check_config(self.config, path)
        with suppress(InputError):  # what an older version did not tell is no difference
            self.config |= RunConfig.from_plain(self.config).plain()
        self.broken: list[str] = []
        try:
            features = features_of(folder)
        except InputError as error:
            features, self.broken = {}, [str(error)]
        self.cells, broken = read_cells(folder, features)
        self.broken += broken
        try:
            history = [] if self.cells else search_history(folder, str(self.config["strategy"]))
            self.stage = stage_of(folder, self.config, history, self.cells)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a run configuration ({error!r}).") from error
        except InputError as error:  # of the search's checkpoint
            self.stage, self.broken = "broken", [*self.broken, str(error)]
        data, note = None, folder / "prepared.json"
        try:
            data = read_name(note, "folder") if note.exists() else None
        except InputError as error:
            self.broken.append(str(error))
        self.values = _flat({k: v for k, v in self.config.items() if k not in _NO_SETTING})
        self.data = self.values.pop("data", None)
        self.content = data or self.data  # the prepared folder's name is a hash of what is in it
        self.key = json.dumps([self.values, self.content], sort_keys=True)


def _settings(runs: Sequence[_Opened]) -> dict[str, tuple[str, dict[str, Any]]]:
    """By key of a run: its setting's letter, and its values of what differs between settings."""
    names = dict.fromkeys(name for run in runs for name in run.values)
    differing = [n for n in names if len({json.dumps(r.values.get(n, _ABSENT)) for r in runs}) > 1]
    contents: dict[tuple[Any, ...], set[Any]] = {}  # what was prepared alike from one path
    for run in runs:
        alike = {n: v for n, v in run.values.items() if n.startswith("recipe.prepare.")}
        run_data = (run.data, json.dumps(alike, sort_keys=True))
        contents.setdefault(run_data, set()).add(run.content)
    changed = any(len(found) > 1 for found in contents.values())
    other = len({run.content for run in runs}) > 1 and len({run.data for run in runs}) > 1
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for run in runs:
        if run.key in found:
            continue
        differs = {name: run.values.get(name, _ABSENT) for name in differing}
        if changed or other:
            differs["data"] = f"{run.data} ({run.content})" if changed else run.data
        found[run.key] = (_letter(len(found)), differs)
    if len(found) == 1:
        return {key: ("", {}) for key in found}
    return found


def _letter(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    letters = string.ascii_uppercase
    before = _letter(number // len(letters) - 1) if number >= len(letters) else ""
    return before + letters[number % len(letters)]


def _counted(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of trained cells, each seed of a setting once."""
    return [row for row in rows if row.get("method") is not None and not row.get("repeats")]


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the settings are, which runs are not finished, and which rows were left out."""
    settings: dict[str, tuple[dict[str, Any], dict[str, None]]] = {}
    unfinished: dict[str, str] = {}
    repeated: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.get("setting"):
            settings.setdefault(row["setting"], (row["differs"], {}))[1][str(row["run"])] = None
        if row.get("problem"):
            told = unfinished.get(row["run"])
            unfinished[row["run"]] = f"{told}; {row['problem']}" if told else row["problem"]
        elif row["stage"] != "finished":
            unfinished[row["run"]] = f"not finished ({row['stage']})."
        if row.get("repeats"):
            pair = (row["run"], row["repeats"])
            repeated[pair] = repeated.get(pair, 0) + 1
    lines = []
    for letter, (differs, runs) in sorted(settings.items(), key=lambda s: (len(s[0]), s[0])):
        lines.append(f"setting {letter}: {_told(differs)}; {' '.join(runs)}")
    for (run, first), count in repeated.items():
        lines.append(f"{run}: {count} cells repeat {first} (same setting and seed), not counted")
    lines += [f"{run}: {problem}" for run, problem in unfinished.items()]
    if any(row.get("on") == "dev" for row in rows):
        lines.append("dev: the labelled dev part, on which the threshold was chosen")
    return ["", *lines] if lines else []


def _told(differs: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value if isinstance(value, str) and value.isprintable() else json.dumps(value)}"
        for name, value in differs.items()
    )


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and before.count(".") < 20:  # settings are three deep
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat
