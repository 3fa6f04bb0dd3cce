"""Looking at runs: one run as figures and text, several as one table, a study as a report.

Nothing is trained and no test label is read: what is shown is what the run
folders hold, at whatever stage they are, or a study's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssnas_core.common.errors import InputError
from ssnas_core.runs.compare import plot_comparison
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.reading import (
    check_config,
    features_of,
    logit_labels,
    pretraining_history,
    read_cells,
    search_history,
    stage_of,
)
from ssnas_core.show.curves import draw_genotype, plot_history, plot_losses, plot_scores
from ssnas_core.show.style import save
from ssnas_core.show.tables import align, heading, primary_score
from ssnas_core.spaces.genotype import Genotype

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = ("micro_f1", "macro_f1", "samples_f1", "weighted_ap", "threshold")


def show_run(
    folder: Path, *, out: Path | None = None, formats: Sequence[str] = ("png", "svg")
) -> dict[str, Any]:
    """What a run found and scored, at any stage: figures and a text.

    Args:
        folder: a run folder.
        out: folder for the figures; `figures` in the run folder by default.
        formats: of the figures: "png", "svg", "pdf". The same run gives the same bytes.

    Returns:
        `run`, `stage`; `genotype` (readable, or None); `scores`, an entry per
        trained cell with `on`: "test" where that was read, else "dev" (the labelled
        dev part, on which the threshold was chosen); `labelled` by label ratio;
        `seconds` per stage, `peak_anonymous_mb`; `figures`, the written files by
        name: those of "genotype", "search", "losses" and "scores" that there is
        something to draw for; `notes`, what could not be shown; and `text`.

    Raises:
        InputError: no run folder, or a broken genotype; what else is broken is in `notes`.
    """
    run = RunFolder.opened(folder)
    config = RunFolder.config_of(run.path)
    check_config(config, run.path)
    figures: dict[str, Figure] = {}
    notes: list[str] = []
    genotype = None
    if (run / "genotype.json").exists():
        genotype = Genotype.load(run / "genotype.json")
    features: dict[str, int] = {}
    with _noted(notes):
        features = features_of(run)
    if genotype is not None:
        figures["genotype"] = draw_genotype(genotype, tuple(features))
    history: list[dict[str, Any]] = []
    with _noted(notes):
        history = search_history(run, config["strategy"])
    for log in ("history.jsonl", "timings.jsonl"):
        with _noted(notes):
            broken = run.broken_lines(log)
            if broken:
                notes.append(f"{run / log}: {broken} broken lines are left out")
    labels = logit_labels(features, config, history)
    if any(not labels.get(name) for name in (history[0].get("logits", {}) if history else {})):
        notes.append("names of features are not noted in this run; architecture weights have none")
    if any({"train_loss", "dev_loss"} & entry.keys() or entry.get("logits") for entry in history):
        figures["search"] = plot_history(history, labels, unit="nats")
    cells, broken_cells = read_cells(run, features)
    notes += broken_cells
    pretraining: list[dict[str, Any]] = []
    with _noted(notes):
        pretraining = pretraining_history(run)
    losses = _losses(history, pretraining, cells)
    if losses:
        figures["losses"] = plot_losses(losses, [cell["method"] for cell in cells], unit="nats")
    scores = [{name: v for name, v in cell.items() if name != "history"} for cell in cells]
    if scores:
        figures["scores"] = _plot_scores(scores)
    home = Path(out) if out is not None else run / "figures"
    written = {
        name: [str(save(figure, home / f"{name}.{kind}")) for kind in formats]
        for name, figure in figures.items()
    }
    told = {
        "run": str(run.path),
        "stage": stage_of(run, config, history, cells),
        "genotype": None if genotype is None else str(genotype),
        "scores": scores,
        "labelled": {f"{cell['label_ratio']:g}": cell["labelled"] for cell in cells},
        **run.cost(),
        "figures": written,
        "notes": notes,
    }
    return {**told, "text": _text(told, config, genotype)}


def show_genotype(
    file: Path, *, out: Path | None = None, formats: Sequence[str] = ("png", "svg")
) -> dict[str, Any]:
    """One genotype file: its drawing and a text.

    Args:
        file: what `Genotype.save` wrote.
        out: folder for the drawing; beside the file by default.
        formats: as in `show_run`.

    Returns:
        `genotype` (readable), `figures` with those of "genotype", and `text`.

    Raises:
        InputError: the file is missing or holds no genotype.
    """
    file = Path(file)
    genotype = Genotype.load(file)
    home = Path(out) if out is not None else file.parent
    figure = draw_genotype(genotype)
    drawn = [str(save(figure, home / f"{file.stem}.{kind}")) for kind in formats]
    lines = [str(genotype), "", *_nodes(genotype), "", f"drawn: {' '.join(drawn)}"]
    told = {"genotype": str(genotype), "figures": {"genotype": drawn}}
    return {**told, "text": "\n".join(lines)}


def draw_comparison(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write `plot_comparison(rows)` to `path`, a .png, .svg or .pdf.

    Raises:
        InputError: another name, or no run has a trained method.
    """
    return save(plot_comparison(rows), path)


@contextmanager
def _noted(notes: list[str]) -> Iterator[None]:
    """What is broken becomes a note, and the rest is shown without it."""
    try:
        yield
    except InputError as error:
        notes.append(str(error))


def _losses(
    history: Iterable[Mapping[str, Any]],
    pretraining: list[dict[str, Any]],
    cells: Iterable[Mapping[str, Any]],
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Histories of losses by stage and curve."""
    entries = list(history)
    stages: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for key, name in (("train_loss", "search: weights"), ("arch_loss", "search: architecture")):
        curve = [{"epoch": e["epoch"], "loss": e[key]} for e in entries if key in e]
        if curve:
            stages.setdefault("search", {})[name] = curve
    if pretraining:
        stages["pretraining"] = {"found, pretrained": pretraining}
    for cell in cells:
        title = f"fine-tuning, r = {cell['label_ratio']:g}"
        if cell["history"]:
            stages.setdefault(title, {})[cell["method"]] = cell["history"]
    return stages


def _plot_scores(scores: Sequence[Mapping[str, Any]]) -> Figure:
    """All cells; where some are scored on dev only, these are curves of their own."""
    parts = {str(row["on"]) for row in scores}
    if len(parts) == 1:
        return plot_scores(scores, primary_score(scores), part=parts.pop())
    rows = [{**row, "setting": f"on {row['on']}"} for row in scores]
    return plot_scores(rows, primary_score(scores))


def _text(told: Mapping[str, Any], config: Mapping[str, Any], genotype: Genotype | None) -> str:
    chosen = ("space", "objective", "strategy", "backbones", "seed")
    settings = ", ".join(f"{name} {config[name]}" for name in chosen if name in config)
    lines = [f"{told['run']}: {told['stage']}", f"data {config.get('data')}", settings]
    lines += ["", "found:", *_nodes(genotype)] if genotype is not None else []
    scores = told["scores"]
    if scores:
        names = [primary_score(scores), *(n for n in _SHOWN if all(n in row for row in scores))]
        names = [name for name in names if all(row[name] is not None for row in scores)]
        head = ["method", "r", "on", *(heading(name) for name in names)]
        body = [
            [row["method"], f"{row['label_ratio']:g}", row["on"]]
            + [f"{row[name]:.3f}" for name in names]
            for row in scores
        ]
        lines += ["", *align([head, *body], left=(0, 2))]
        if any(row["on"] == "dev" for row in scores):
            lines.append("dev: the labelled dev part, on which the threshold was chosen")
    lines.append("")
    for ratio, counts in told["labelled"].items():
        lines.append(f"labelled at r = {ratio}: {counts['train']} train, {counts['dev']} dev")
    if told["seconds"]:
        stages = ", ".join(f"{name} {value:.1f}" for name, value in told["seconds"].items())
        lines.append(f"seconds: {stages}")
        lines.append(f"peak anonymous memory: {told['peak_anonymous_mb']:.0f} MB")
    lines += [f"drawn: {' '.join(paths)}" for paths in told["figures"].values()]
    lines += [f"note: {note}" for note in told["notes"]]
    return "\n".join(lines).rstrip()


def _nodes(genotype: Genotype) -> list[str]:
    return [f"{node.name} = {node}" for node in genotype.nodes]
