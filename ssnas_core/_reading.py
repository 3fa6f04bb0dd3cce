"""What a run folder holds at any stage, read without running or writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssnas_core.errors import InputError
from ssnas_core.files import read_json
from ssnas_core.methods import methods_of
from ssnas_core.modalities import modality_of
from ssnas_core.runs import RunFolder
from ssnas_core.spaces.fusion import FusionConfig, FusionSpace
from ssnas_core.training import load_checkpoint

# Of a cell's files: what it is, beside its scores.
_FACTS = ("method", "label_ratio", "seed", "genotype", "parameters", "labelled")


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a configuration without what every run's has; other fields may come and go.

    Raises:
        InputError: it is no run's.
    """
    try:
        known = all(isinstance(config[name], str) for name in ("objective", "strategy"))
        FusionConfig(**config["recipe"]["fusion"])
        int(config["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}/config.json is not of a run ({error!r}); restore it.") from error
    if not known:
        raise InputError(f"{path}/config.json is not of a run; restore it.")


def read_cells(folder: RunFolder) -> list[dict[str, Any]]:
    """The trained cells of a run, by label ratio and method, weakest claim first.

    Returns:
        Of each its facts, `on` ("test" where that was read, else "dev"), its
        scores there, and `history`.

    Raises:
        InputError: a file of a cell is broken.
    """
    cells = []
    for file in sorted((folder / "cells").glob("*/train.json")):
        trained, test = read_json(file), file.with_name("test.json")
        try:
            facts = {name: trained[name] for name in _FACTS}
            found = read_json(test) if test.exists() else trained["dev"]
            scores = {name: value for name, value in found.items() if name not in _FACTS}
            on = "test" if test.exists() else "dev"
            cells.append({**facts, "on": on, **scores, "history": list(trained["history"])})
            order = (float(facts["label_ratio"]), str(facts["method"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is not of a trained cell ({error!r}); delete it.") from error
        cells[-1]["_order"] = order
    known = _method_order(folder, cells)
    cells.sort(key=lambda cell: (cell["_order"][0], known.index(cell["method"])))
    return [{name: value for name, value in c.items() if name != "_order"} for c in cells]


def search_history(folder: RunFolder, strategy: str) -> list[dict[str, Any]]:
    """Epochs or trials of the search; of one that goes on, those up to its last checkpoint.

    Raises:
        InputError: the checkpoint is broken.
    """
    if (folder / "history.jsonl").exists():
        return folder.lines("history.jsonl")
    checkpoint = folder / "checkpoint" / "search.pt"
    if not checkpoint.exists():
        return []
    if strategy == "random":
        saved = read_json(checkpoint)
        return list(saved.get("trials", [])) if isinstance(saved, dict) else []
    saved = load_checkpoint(checkpoint)
    return list(saved["history"]) if saved else []


def pretraining_history(folder: RunFolder) -> list[dict[str, Any]]:
    """Epochs of pretraining, none where it is not done."""
    file = folder / "pretrain.json"
    note = read_json(file) if file.exists() else {}
    history = note.get("history", []) if isinstance(note, dict) else []
    return history if isinstance(history, list) else []


def features_of(folder: RunFolder) -> dict[str, int]:
    """Channels of the stored features by name; none where they are not noted."""
    file = folder / "prepared.json"
    note = read_json(file) if file.exists() else {}
    return dict(note.get("channels", {})) if isinstance(note, dict) else {}


def logit_labels(
    folder: RunFolder, config: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """What each entry of each logit vector stands for, of those that are known."""
    channels = features_of(folder)
    logits = history[0].get("logits", {}) if history else {}
    if len(channels) < 2 or not logits:
        return {}
    space = FusionSpace(channels, FusionConfig(**config["recipe"]["fusion"]))
    return {
        name: texts
        for name, texts in space.labels().items()
        if name in logits and len(texts) == _size(logits[name])
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
    if history and config["strategy"] == "random":
        return f"searching: {len(history)} of {config['recipe']['random']['trials']} trials"
    if history:
        epochs = config["recipe"]["search"]["epochs"]
        return f"searching: {history[-1]['epoch']} of {epochs} epochs"
    return "prepared" if (folder / "prepared.json").exists() else "begun"


def _method_order(folder: RunFolder, cells: Sequence[Mapping[str, Any]]) -> list[str]:
    modalities = dict.fromkeys(modality_of(name) for name in features_of(folder))
    names = sorted(cell["method"] for cell in cells)
    if not modalities:  # not noted in runs of an older version
        modalities = dict.fromkeys(n.removesuffix(" only") for n in names if n.endswith(" only"))
    return list(dict.fromkeys((*methods_of(modalities), *names)))


def _size(value: Any) -> int:
    return sum(_size(part) for part in value) if isinstance(value, list) else 1
