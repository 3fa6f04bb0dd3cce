"""Which layers of BM-NAS's released networks decide whether a search on few labels reads the text.

    python tests/benchmarks/bmnas_norms.py --out runs/bmnas-norms

Searches the generated sample (recipe classroom, with its settings tuned for the objective) with
the formulas alone, with each of `FusionConfig.released` alone, and with all. With labels there is
a search for each seed and label ratio, without labels one for each seed. What is found is
fine-tuned on each ratio without pretraining. Its weighted F1 is that of the *whole* dev part, at
the threshold chosen on the labelled one, as it is and with every text given to another movie. Test
is not read.

Writes one JSON per cell into --out, and book/tables/NAME.md. It resumes where it was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from ssnas_core.common.files import read_json, write_json, write_text
from ssnas_core.common.modalities import modality_of
from ssnas_core.datasets.sample.corpus import sample_archive
from ssnas_core.features.prepare import prepare
from ssnas_core.objectives.base import Source
from ssnas_core.runs.methods import Method
from ssnas_core.runs.reading import read_trained
from ssnas_core.runs.recipes import RECIPES
from ssnas_core.runs.run import Run
from ssnas_core.spaces.fusion.networks import RELEASED
from ssnas_core.study.jobs import Job, StudyConfig, jobs_of
from ssnas_core.study.methods import StudyMethod
from ssnas_core.study.significance import permutation_test
from ssnas_core.training.metrics import mean_interval

VARIANTS: dict[str, dict[str, Any]] = {
    "formulas": {},
    **{name: {"space.released": (name,)} for name in RELEASED},
    "all but residual": {"space.released": tuple(one for one in RELEASED if one != "residual")},
    "all": {"space.released": RELEASED},
}
"""Settings that differ from the recipe's, by name; the others are compared with the first."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which data, where to, how much."""

    out: Path
    data: Path | None = None
    """The generated sample by default."""
    store: Path | None = None
    recipe: str = "classroom"
    objectives: tuple[Literal["supervised", "contrastive"], ...] = ("supervised", "contrastive")
    variants: tuple[str, ...] = tuple(VARIANTS)
    label_ratio: tuple[float, ...] = (0.05, 0.1)
    seeds: int = 8
    workers: int = 1
    """Processes, each of one thread."""
    name: str = "bmnas_norms"
    """Of the table."""


class Shuffled:
    """A source that gives each sample another one's inputs of one modality."""

    def __init__(self, source: Source, rows: Tensor, modality: str) -> None:
        self.source, self.modality = source, modality
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        self.other = dict(zip(rows[order].tolist(), rows[order.roll(1)].tolist(), strict=True))

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        """The inputs of the samples, those of the modality exchanged."""
        others = self.source.clean(torch.tensor([self.other[row] for row in indices.tolist()]))
        return {
            name: others[name] if modality_of(name) == self.modality else value
            for name, value in self.source.clean(indices).items()
        }


def work(given: tuple[Job, Path]) -> None:
    """Search, fine-tune and score what a job's cells ask for; once."""
    job, store = given
    torch.set_num_threads(1)
    run = Run(job.config, job.folder, store=store, device="cpu")
    dev = run.prepared.indices("dev")
    for cell in job.cells:
        file = job.folder / f"dev-{cell.ratio:g}.json"
        if file.exists():
            continue
        folder = run.train(cell.method, cell.ratio)
        told, model = read_trained(folder / "train.json"), run.trained(cell.method, folder)
        scores = {}
        for name in ("clean", *run.prepared.dataset.kinds):
            source: Any = run.data.source()
            source = source if name == "clean" else Shuffled(source, dev, name)
            probs = run.task.predict(model, source, dev)
            scores[name] = run.task.scores(probs, dev, told["threshold"])[run.task.primary]
        write_json(file, {"genotype": told["genotype"], "scores": scores})


def interval(values: Sequence[float], signed: bool = False) -> str:
    """Mean and 95 % interval, as a cell of the table."""
    return "{0:{3}} [{1:{3}}, {2:{3}}]".format(*mean_interval(values), "+.3f" if signed else ".3f")


def table(options: Options, cells: dict[tuple[str, str, float], list[dict[str, Any]]]) -> str:
    """The Markdown of all cells: (objective, variant, ratio) -> what each seed found."""
    name = "the generated sample" if options.data is None else options.data.name.split(".")[0]
    lines = [
        f"Recipe {options.recipe}, {name}, {options.seeds} seeds: in how many the found network "
        "reads the text, weighted F1 on the whole dev part (threshold from the labelled one), that "
        "with every text exchanged, and the paired difference to the formulas alone; mean "
        "[95 % interval], p by exchange of signs.",
    ]
    for objective in options.objectives:
        lines += [
            *("", f"The search is {objective}:", ""),
            "| variant | r | reads text | dev | texts exchanged | difference | p |",
            "|---" * 7 + "|",
        ]
        for variant in options.variants:
            for ratio in options.label_ratio:
                found = cells[objective, variant, ratio]
                first = cells[objective, options.variants[0], ratio]
                reads = sum("text_" in cell["genotype"] for cell in found)
                clean, text = (
                    [cell["scores"][kind] for cell in found] for kind in ("clean", "text")
                )
                base = [cell["scores"]["clean"] for cell in first]
                gains = [a - b for a, b in zip(clean, base, strict=True)]
                compared = (
                    f"{interval(gains, True)} | {permutation_test(clean, base):.2f}"
                    if variant != options.variants[0]
                    else " | "
                )
                lines.append(
                    f"| {variant} | {ratio:g} | {reads} of {len(found)} | {interval(clean)} | "
                    f"{interval(text)} | {compared} |"
                )
    return "\n".join(lines) + "\n"


def main(options: Options) -> None:
    """Run what is missing, then write and print the table."""
    data, recipe = options.data or sample_archive(), RECIPES[options.recipe]
    store = options.store or options.out / "store"
    prepared = prepare(data, store, recipe.prepare, progress=True)
    methods = {
        f"{objective}: {variant}": StudyMethod(
            cell=Method("found"),
            objective=objective,
            tuned=True,
            changes=VARIANTS[variant],
            name=f"{objective}: {variant}",
        )
        for objective in options.objectives
        for variant in options.variants
    }
    study = StudyConfig(
        data=data,
        methods=tuple(methods.values()),
        label_ratio=options.label_ratio,
        seeds=options.seeds,
        recipe=recipe,
    )
    samples = len(prepared.indices("train"))
    jobs = jobs_of(study, options.out, prepared.dataset.kinds, samples)
    start = time.perf_counter()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for number, _ in enumerate(pool.map(work, ((job, store) for job in jobs)), 1):
            print(f"{number} of {len(jobs)} after {time.perf_counter() - start:.0f} s", flush=True)
    cells: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for job in jobs:  # those of the first seeds come first
        for cell in job.cells:
            objective, variant = cell.name.split(": ")
            told = read_json(job.folder / f"dev-{cell.ratio:g}.json")
            cells.setdefault((objective, variant, cell.ratio), []).append(told)
    text = table(options, cells)
    write_text(Path(__file__).parents[2] / "book" / "tables" / f"{options.name}.md", text)
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
