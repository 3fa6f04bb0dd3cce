"""One run as figures and text, or one genotype.

Nothing is trained and no test label is read: what is shown is what the run
folder holds, at whatever stage it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.reading import (
    NO_SCORES,
    attempt,
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
from ssnas_core.show.tables import align, primary_score, scores_text
from ssnas_core.spaces.genotype import Genotype

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_run(
    folder: Path, *, out: Path | None = None, formats: Sequence[str] = ("png", "svg")
) -> dict[str, Any]:
    """Draw and describe a run at any stage: what it searched, found and scored.

    Args:
        folder: a run folder.
        out: folder for the figures; `figures` in the run folder by default.
        formats: of the figures: "png", "svg", "pdf". The same run gives the same bytes.

    Returns:
        `run`, `stage`; `genotype` (readable, or None); `scores`, an entry per
        trained cell with `on`: "test" where that was read, else "dev" (the labelled
        dev part, on which the threshold was chosen); `shuffled`, an entry per trained
        cell with its main score there, `dev`, and what is left of it once a modality is
        shuffled among the samples; `labelled` by label ratio;
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
    features = attempt(notes, features_of, run) or {}
    if genotype is not None:
        figures["genotype"] = draw_genotype(genotype, tuple(features))
    history = attempt(notes, search_history, run) or []
    for log in ("history.jsonl", "timings.jsonl"):
        if broken := attempt(notes, run.broken_lines, log):
            notes.append(f"{run / log}: {broken} broken lines are left out")
    labels = attempt(notes, logit_labels, run, history) or {}
    if any(not labels.get(name) for name in (history[0].get("logits", {}) if history else {})):
        notes.append("names of logits are not noted in this run; architecture weights have none")
    if any({"train_loss", "dev_loss"} & entry.keys() or entry.get("logits") for entry in history):
        figures["search"] = plot_history(history, labels, unit="nats")
    cells, broken_cells = read_cells(run, features)
    notes += broken_cells
    pretraining = attempt(notes, pretraining_history, run) or []
    losses = _losses(history, pretraining, cells)
    if losses:
        figures["losses"] = plot_losses(losses, [cell["method"] for cell in cells], unit="nats")
    scores = [{name: v for name, v in cell.items() if name not in NO_SCORES} for cell in cells]
    if scores:
        figures["scores"] = plot_scores(scores)
    result = {
        "run": str(run.path),
        "stage": stage_of(run, config, history, cells),
        "genotype": None if genotype is None else str(genotype),
        "scores": scores,
        "shuffled": _shuffled(cells, primary_score(cells)),
        "labelled": {f"{cell['label_ratio']:g}": cell["labelled"] for cell in cells},
        **run.cost(),
        "figures": _written(figures, Path(out) if out is not None else run / "figures", formats),
        "notes": notes,
    }
    return {**result, "text": _text(result, config, genotype)}


def show_genotype(
    file: Path, *, out: Path | None = None, formats: Sequence[str] = ("png", "svg")
) -> dict[str, Any]:
    """Draw and describe one genotype file.

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
    (drawn,) = _written({file.stem: draw_genotype(genotype)}, home, formats).values()
    lines = [str(genotype), "", *_nodes(genotype), "", f"drawn: {' '.join(drawn)}"]
    figures = {"genotype": drawn}
    return {"genotype": str(genotype), "figures": figures, "text": "\n".join(lines)}


def _written(
    figures: Mapping[str, Figure], home: Path, formats: Sequence[str]
) -> dict[str, list[str]]:
    """Write figures to `home`, and return the files by name of the figure."""
    return {
        name: [str(save(figure, home / f"{name}.{kind}")) for kind in formats]
        for name, figure in figures.items()
    }


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


def _text(result: Mapping[str, Any], config: Mapping[str, Any], genotype: Genotype | None) -> str:
    settings = [f"{name} {config[name]['name']}" for name in ("space", "objective", "strategy")]
    task = str(config["objective"].get("task", ""))
    settings += [f"task {task}"] if task.isidentifier() else []
    settings += [f"{name} {config[name]}" for name in ("backbones", "seed") if name in config]
    lines = [f"{result['run']}: {result['stage']}", f"data {config.get('data')}"]
    lines.append(", ".join(settings))
    lines += ["", "found:", *_nodes(genotype)] if genotype is not None else []
    if result["scores"]:
        lines += ["", scores_text(result["scores"])]
        if any(row["on"] == "dev" for row in result["scores"]):
            lines.append("dev: the labelled dev part, on which the threshold was chosen")
    if result["shuffled"]:
        lines += ["", "on the labelled dev part, and there with a modality of other samples:"]
        lines += _shuffled_lines(result["shuffled"])
    lines.append("")
    for ratio, counts in result["labelled"].items():
        lines.append(f"labelled at r = {ratio}: {counts['train']} train, {counts['dev']} dev")
    if result["seconds"]:
        stages = ", ".join(f"{name} {value:.1f}" for name, value in result["seconds"].items())
        lines.append(f"seconds: {stages}")
        lines.append(f"peak anonymous memory: {result['peak_anonymous_mb']:.0f} MB")
    lines += [f"drawn: {' '.join(paths)}" for paths in result["figures"].values()]
    lines += [f"note: {note}" for note in result["notes"]]
    return "\n".join(lines).rstrip()


def _shuffled(cells: Iterable[Mapping[str, Any]], primary: str) -> list[dict[str, Any]]:
    """Return the main score of each cell on dev, and what is left of it by modality."""
    names = ("method", "label_ratio", "shuffled")
    return [
        {**{name: cell[name] for name in names}, "dev": cell["dev"][primary]}
        for cell in cells
        if cell["shuffled"] and cell["dev"].get(primary) is not None
    ]


def _shuffled_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of what `_shuffled` returns."""
    modalities = list(rows[0]["shuffled"])
    body = [
        [row["method"], f"{row['label_ratio']:g}"]
        + [f"{score:.3f}" for score in (row["dev"], *map(row["shuffled"].get, modalities))]
        for row in rows
        if row["shuffled"].keys() == rows[0]["shuffled"].keys()
    ]
    return align([["method", "r", "dev", *(f"other {name}" for name in modalities)], *body])


def _nodes(genotype: Genotype) -> list[str]:
    return [f"{node.name} = {node}" for node in genotype.nodes]
