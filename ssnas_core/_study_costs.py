"""One cell of a study as a row: its scores, and what it cost, from its run's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssnas_core._cells import FACTS, cell_folder, read_tested, read_trained
from ssnas_core._reading import search_history
from ssnas_core.methods import kind_of
from ssnas_core.recipes import RunConfig
from ssnas_core.runs import RunFolder
from ssnas_core.search._turns import steps_of as steps_of_epoch
from ssnas_core.training import steps_of

if TYPE_CHECKING:
    from ssnas_core._study_jobs import Job


def cell_row(
    name: str, method: str, ratio: float, job: Job, counts: Mapping[str, int]
) -> dict[str, Any]:
    """What `study_rows` says of one cell."""
    cell = cell_folder(job.folder, method, ratio)
    trained, tested = read_trained(cell / "train.json"), read_tested(cell / "test.json")
    scores = {key: value for key, value in tested.items() if key not in FACTS}
    primary = "accuracy" if "accuracy" in scores else "weighted_f1"
    folder, labelled = RunFolder.opened(job.folder), trained["labelled"]
    kind, pretraining = kind_of(method), method.endswith(", pretrained")
    stages = {
        "search": kind_of(method) == "found",
        "pretrain": pretraining,
        "train": True,
    }
    seconds, peaks = dict.fromkeys(stages, 0.0), [0.0]
    of = {"search": None, "pretrain": kind, "train": cell.name}
    for told in folder.timings():
        if stages.get(told.stage) and told.of == of[told.stage]:
            seconds[told.stage] += told.cpu_seconds or 0.0
            peaks.append(told.peak_anonymous_mb or 0.0)
    recipe = job.config.recipe
    steps = {
        "search": _search_steps(folder, job.config, labelled, counts) if stages["search"] else 0,
        "pretrain": steps_of(counts["train"], recipe.pretrain) if pretraining else 0,
        "train": steps_of(labelled["train"], recipe.finetune),
    }
    return {
        "method": name,
        "label_ratio": ratio,
        "seed": trained["seed"],
        "score": scores[primary],
        "dev_score": trained["dev"][primary],
        **scores,
        "labelled": labelled["train"] + labelled["dev"],
        "parameters": trained["parameters"],
        **{f"{stage}_seconds": round(value, 2) for stage, value in seconds.items()},
        **{f"{stage}_steps": value for stage, value in steps.items()},
        "peak_anonymous_mb": max(peaks),
        "genotype": trained["genotype"],
    }


def _search_steps(
    folder: RunFolder, config: RunConfig, labelled: Mapping[str, int], counts: Mapping[str, int]
) -> int:
    """Steps of weights and of logits in a run's search; of all trials."""
    samples = labelled if config.objective == "supervised" else counts
    history = search_history(folder, config.strategy)
    if config.strategy == "bilevel":
        recipe = config.recipe.search
        by_epoch = recipe.alternate == "epoch"
        return (len(history) - 1) * sum(
            steps_of_epoch(samples["train"], samples["dev"], recipe.batch_size, by_epoch)
        )
    trained = sum("repeats" not in trial for trial in history if "dev_loss" in trial)
    return trained * steps_of(samples["train"], getattr(config.recipe, config.strategy).train)
