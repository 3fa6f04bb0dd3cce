"""Whole runs: labels stay where they belong, stages resume bit for bit, every axis is real."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import load_tensors, read_json, write_text
from ssnas_core.datasets.splits import labelled_part
from ssnas_core.features import train_backbones
from ssnas_core.models.classifier import MultimodalClassifier, classifier_of
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.hybrid import Hybrid, HybridConfig
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.runs import data as run_data
from ssnas_core.runs import run as runs
from ssnas_core.runs.baselines import LateConcat
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.methods import Method, methods_of
from ssnas_core.runs.recipes import RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.search.bilevel import BilevelConfig
from ssnas_core.search.random import RandomConfig
from ssnas_core.spaces.genotype import Genotype
from ssnas_core.training import tasks
from ssnas_core.training.loop import TrainConfig, predict
from ssnas_core.training.metrics import choose_threshold
from ssnas_core.training.metrics import multi_label_scores as scored
from ssnas_core.training.shuffling import shuffled_scores

pytestmark = pytest.mark.usefixtures("one_thread")

RATIOS = (0.25, 1.0)
METHODS = tuple(map(str, methods_of(("image", "text"))))
STAGES = ("prepare", "search", "pretrain", "train", "evaluate")
# What two runs that did the same may still differ in.
COST = ("seconds", "peak_anonymous_mb")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Found genotypes are not drawn, which would take half of a tiny search: empty files do."""
    monkeypatch.setattr(runs, "draw_genotype", lambda *_: None)
    monkeypatch.setattr(runs, "save_figure", lambda _, path: write_text(path, ""))


@pytest.fixture
def start(tiny_data, tiny_store, tiny_recipe, tmp_path) -> Callable[..., Run]:
    """A run in its own folder on the shared store; `recipe` holds changes to the tiny one."""

    def make(name: str = "run", *, store: Path | None = None, recipe: Any = None, **changes) -> Run:
        config = {"data": tiny_data, "label_ratio": RATIOS, **changes}
        full = dataclasses.replace(tiny_recipe, **(recipe or {}))
        run = RunConfig(recipe=full, **config)
        return Run(run, tmp_path / name, store=store or tiny_store, device="cpu")

    return make


@pytest.fixture
def results(tree):
    """All that a run leaves but what it cost, how often test was read, and where it stood."""

    def read(run: Run) -> dict[str, Any]:
        found = tree(run.folder.path, "*.json", "history.jsonl", "cells/**/*",
                     "checkpoint/*.safetensors")  # fmt: skip
        found.pop("store.json", None)  # where the features are, if elsewhere
        if "metrics.json" in found:
            told = json.loads(found["metrics.json"])
            found["metrics.json"] = {key: told[key] for key in told if key not in COST}
        return found

    return read


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if first[name] != second[name]]


def cells(run: Run) -> list[str]:
    return [entry["cell"] for entry in run.folder.lines("test_reads.jsonl")]


# --- what a run gives


def test_run_scores_all_methods_at_all_ratios(finished):
    result = finished.run()
    labelled = {0.25: {"train": 9, "dev": 3}, 1.0: {"train": 36, "dev": 12}}
    keys = [(row["method"], row["label_ratio"], row["seed"]) for row in result["scores"]]
    assert keys == [(method, ratio, 0) for ratio in RATIOS for method in METHODS]
    wanted = {
        "weighted_f1", "micro_f1", "macro_f1", "samples_f1", "weighted_f1_at_0.3",
        "weighted_f1_at_0.5", "weighted_ap", "threshold",
    }  # fmt: skip
    for row in result["scores"]:
        assert wanted < row.keys()
        assert all(0 <= row[name] <= 1 for name in wanted)
        assert row["labelled"] == labelled[row["label_ratio"]]
        found = row["genotype"] == result["genotype"]
        assert found == row["method"].startswith("found")
        assert (row["genotype"] is None) == (row["method"] in METHODS[:3])
    assert result["genotype"] == str(Genotype.load(finished.folder / "genotype.json"))
    assert set(result["seconds"]) == set(STAGES)
    assert result["peak_anonymous_mb"] > 0
    counts = {"train": 36, "dev": 12, "test": 12}
    known = {split: {"texts": n, "unknown": 0, "words": 1.0} for split, n in counts.items()}
    rest = {"texts": {"text": known}, "unlabelled": 0, "skipped": 0, "skipped_records": {}}
    assert result["data"] == {"name": "mmimdb", **counts, **rest}
    assert result == read_json(finished.folder / "metrics.json")


def trained(
    run: Run, method: str, ratio: float, genotypes: dict[str, Genotype]
) -> tuple[dict[str, Any], torch.nn.Module]:
    """A cell's train.json, and its model built from the genotype named there, as it was saved."""
    cell = run.train(method, ratio)
    told = read_json(cell / "train.json")
    if told["genotype"] is None:
        words = {"text only": ["text"], "image only": ["image"]}.get(method, ["image", "text"])
        store = run.prepared.store
        used = {name: c for name, c in store.channels.items() if name.split("_")[0] in words}
        network = LateConcat(used, run.config.sizes, store.positions)
    else:
        network = run.space.build(genotypes[told["genotype"]])
    model = torch.nn.Sequential(network, torch.nn.Linear(network.width, 23))
    model.load_state_dict(load_tensors(cell / "model.safetensors"))
    return told, model


def test_scores_are_those_of_the_saved_weights_at_the_threshold_of_the_labelled_dev_part(finished):
    """Each number again, from the files: weights -> dev part -> threshold -> test."""
    dataset, store = finished.prepared.dataset, finished.prepared.store
    labels, test = dataset.labels(), dataset.indices("test")
    named = {str(genotype): genotype for genotype in finished.space.genotypes()}
    for row in finished.run()["scores"]:
        told, model = trained(finished, row["method"], row["label_ratio"], named)
        dev = labelled_part(dataset, row["label_ratio"], 0).dev
        on_dev, on_test = (
            predict(model, store, torch.from_numpy(rows)).sigmoid().numpy() for rows in (dev, test)
        )
        threshold = choose_threshold(on_dev, labels[dev])
        assert told["threshold"] == threshold
        assert told["dev"] == scored(on_dev, labels[dev], threshold)
        wanted = scored(on_test, labels[test], threshold)
        assert {name: row[name] for name in wanted} == wanted
        assert row["parameters"] == sum(p.numel() for p in model.parameters())


def test_baselines_read_what_their_names_say(finished):
    text, image = ["text_0", "text_1", "text_2"], ["image_0", "image_1", "image_2", "image_3"]
    for method, wanted in zip(METHODS, (text, image, image + text), strict=False):
        weights = load_tensors(finished.train(method, 1.0) / "model.safetensors")
        read = {name.split(".")[2] for name in weights if name.startswith("0.stems.")}
        assert read == set(wanted)


def test_fine_tuning_has_a_dropout_of_its_own(start, monkeypatch):
    seen = {}

    def spied(model, *args, progress=None, fit=runs.fit, **options):
        rates = {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)}
        seen["pretrain" if "pretrain" in str(options["checkpoint"]) else "finetune"] = rates
        return fit(model, *args, **options)

    monkeypatch.setattr(runs, "fit", spied)
    run = start(recipe={"finetune_dropout": 0.375})
    run.pretrain()
    run.train("found", 1.0)
    assert seen == {"pretrain": {0.1}, "finetune": {0.375}}


def test_run_folder_holds_what_the_design_names(finished):
    names = {path.name for path in finished.folder.path.iterdir()}
    wanted = {"config.json", "genotype.json", "genotype.png", "history.jsonl", "metrics.json"}
    assert wanted | {"checkpoint", "cells"} <= names
    assert (finished.folder / "genotype.png").read_bytes().startswith(b"\x89PNG")
    history = finished.folder.lines("history.jsonl")
    assert [entry["epoch"] for entry in history] == [0, 1, 2]
    for entry in history[1:]:
        assert {"train_loss", "arch_loss", "logits", "genotype", "effective_rank"} < entry.keys()
    assert history[-1]["genotype"] == finished.run()["genotype"]
    left = {path.name for path in (finished.folder / "checkpoint").iterdir()}
    assert left - {"search.pt"} == {"supernet.safetensors", "pretrained.safetensors"}


def test_same_seed_in_another_folder_gives_the_same_bytes_and_another_seed_does_not(
    finished, start, results
):
    again = start("again")
    again.run()
    assert differing(results(finished), results(again)) == []
    other = start("other", seed=1)
    other.search()
    assert other.folder.lines("history.jsonl")[0] != finished.folder.lines("history.jsonl")[0]
    assert list(other.part(0.25).train) != list(finished.part(0.25).train)


# --- the same command again


@pytest.fixture
def idle(monkeypatch):
    """From here on nothing may be prepared, searched, trained or predicted."""

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(run_data, "prepare", refuse)
    for owner, name in (
        (BilevelConfig, "search"),
        (RandomConfig, "search"),
        (runs, "fit"),
        (tasks, "predict"),
    ):
        monkeypatch.setattr(owner, name, refuse)


def reopened(run: Run) -> Run:
    return Run(run.config, run.folder.path, store=run.data.store, device="cpu")


def test_same_command_again_gives_the_same_result_and_computes_nothing(
    finished, idle, tree, tmp_path
):
    before = tree(finished.folder.path)
    assert reopened(finished).run() == finished.run()
    without = Run(finished.config, finished.folder.path, store=tmp_path / "gone", device="cpu")
    assert without.run() == finished.run()
    assert tree(finished.folder.path) == before


def test_lost_summary_is_made_again_from_the_cells_without_reading_test_labels(
    finished, start, idle, monkeypatch
):
    told = finished.run()
    kept = (finished.folder / "metrics.json").read_bytes()
    try:
        (finished.folder / "metrics.json").unlink()
        again = reopened(finished)
        assert again.run() == told
        assert len(cells(again)) == 12
    finally:
        (finished.folder / "metrics.json").write_bytes(kept)


def test_second_run_on_a_store_does_not_prepare_again(finished, start, monkeypatch):
    monkeypatch.setattr(train_backbones, "fit", None)
    second = start("second", seed=3)
    assert second.prepared.folder == finished.prepared.folder
    assert second.prepared.store.key == finished.prepared.store.key


def test_run_whose_store_was_deleted_prepares_again_and_goes_on(
    finished, start, tmp_path, results, caplog
):
    run = start("run", store=tmp_path / "store", label_ratio=(0.25,))
    run.search()
    records = (run.folder / "dataset.json").read_bytes()
    (home,) = (tmp_path / "store").glob("prepared-*")
    home.rename(tmp_path / "elsewhere")
    moved = reopened(run)
    moved.train("found", 0.25)
    assert re.search(r"features of .*run are not in .*store; preparing them there", caplog.text)
    assert (run.folder / "dataset.json").read_bytes() == records
    cell = "cells/found_r0.25/model.safetensors"
    assert results(moved)[cell] == results(finished)[cell]


def test_run_whose_data_changed_meanwhile_is_refused(movies, start, tmp_path):
    data = movies.folder(tmp_path / "data")
    run = start("run", data=data, store=tmp_path / "store")
    run.search()
    (home,) = (tmp_path / "store").glob("prepared-*")
    home.rename(tmp_path / "elsewhere")
    (data / movies.poster(0)).write_bytes(movies.files[movies.poster(1)])
    with pytest.raises(InputError, match=r"data is no longer the data that .*run began with"):
        reopened(run).train("found", 1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prepared.json", "with folder, got none with folder; restore it"),
        (
            "cells/found_r0.25/train.json",
            r"is not of a trained cell: expected an object, got .*; delete it",
        ),
    ],
)
def test_files_of_a_run_edited_by_hand_are_refused(start, name, message):
    run = start(label_ratio=(0.25,))
    run.train("found", 0.25)
    (run.folder / name).write_text("[]")
    with pytest.raises(InputError, match=message):
        reopened(run).train("found", 0.25)


def test_run_on_data_that_was_in_memory_needs_its_store(finished, tiny_recipe, tmp_path):
    data, store = finished.prepared.dataset, tmp_path / "store"
    run = Run(RunConfig(data=data, recipe=tiny_recipe), tmp_path / "run", store=store)
    run.prepared  # noqa: B018
    told = RunConfig.from_plain(RunFolder.config_of(run.folder.path))
    assert Run(told, run.folder.path, store=store).prepared.dataset.classes == data.classes
    with pytest.raises(InputError, match=r"was in memory; give the --store that it was made with"):
        Run(told, run.folder.path, store=tmp_path / "other").prepared  # noqa: B018


# --- killed and resumed


def die_inside(stage: str, number: int, die: Callable[[], Any], patch: Any = setattr) -> None:
    """Call `die` at the `number`-th piece of work inside a stage of a run."""
    from contextlib import contextmanager

    from ssnas_core.features import extract
    from ssnas_core.objectives.contrastive import Contrastive
    from ssnas_core.objectives.supervised import Supervised
    from ssnas_core.runs.folder import RunFolder
    from ssnas_core.training.metrics import Scoring

    inside: list[str] = []
    left = [number]
    enter = RunFolder.stage

    @contextmanager
    def watched(self, name, of=None):
        with enter(self, name, of):
            inside.append(name)
            yield

    def counted(work):
        def call(*args, **options):
            if inside[-1:] == [stage]:
                left[0] -= 1
                if left[0] == 0:
                    die()
            return work(*args, **options)

        return call

    patch(RunFolder, "stage", watched)
    for owner, name in (
        (extract._Extractor, "__call__"),
        (Contrastive, "loss"),
        (Supervised, "loss"),
        (Scoring, "scores"),
    ):
        patch(owner, name, counted(getattr(owner, name)))


# in the midst of: extraction, the second epoch of search, of pretraining and of the first
# cell, and the second cell's test scores
PLACES = {"prepare": 6, "search": 9, "pretrain": 5, "train": 5, "evaluate": 2}


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "stage",
    [
        "search",
        *(
            pytest.param(stage, marks=pytest.mark.thorough)
            for stage in ("prepare", "pretrain", "train", "evaluate")
        ),
    ],
)
def test_run_interrupted_in_any_stage_resumes_to_the_same_bytes(
    finished, start, results, tmp_path, monkeypatch, stage
):
    store = tmp_path / "store" if stage == "prepare" else None
    with monkeypatch.context() as patched:
        die_inside(stage, PLACES[stage], interrupt, patched.setattr)
        with pytest.raises(KeyboardInterrupt):
            start(store=store).run()
    run = start(store=store)
    assert run.folder.lines("timings.jsonl")[-1]["stage"] == stage
    run.run()
    assert differing(results(finished), results(run)) == []
    again = 1 if stage == "evaluate" else 0  # a reading whose result was lost counts too
    assert len(cells(run)) == 12 + again and len(set(cells(run))) == 12


LABELS_DECIDE = {"objective": "supervised", "strategy": "random"}


@pytest.mark.parametrize(
    ("moments", "after", "axes"),
    [
        (range(2, 40, 7), True, {}),
        pytest.param(range(1, 40), False, {}, marks=pytest.mark.thorough),
        pytest.param(range(1, 40), True, {}, marks=pytest.mark.thorough),
        pytest.param(range(1, 40), False, LABELS_DECIDE, marks=pytest.mark.thorough),
    ],
)
def test_run_killed_at_any_write_resumes_to_the_same_bytes(
    start, results, kill_at_write, moments, after, axes
):
    """Each session is killed at a later one of its writes, until one comes to its end."""
    axes = {"label_ratio": (1.0,), **axes}
    whole = start("whole", **axes)
    whole.run()
    kills = 0
    for moment in moments:
        kill_at_write(moment, after)
        try:
            run = start("killed", **axes)
            run.run()
        except KeyboardInterrupt:
            kills += 1
        else:
            break
    assert 2 <= kills < len(moments)
    assert differing(results(whole), results(run)) == []
    assert set(cells(run)) == set(cells(whole))


KILLED = f"""
import json, os, signal, sys
from pathlib import Path
from typing import Any, Callable
from ssnas_core.runs.recipes import RunConfig
from ssnas_core.runs.run import Run
import matplotlib.backends.backend_agg, networkx, torch._dynamo  # once for all
import sklearn.decomposition, sklearn.feature_extraction.text

{inspect.getsource(die_inside)}

config, out, *places = sys.argv[1:]
for place in places:
    child = os.fork()
    if child == 0:
        stage, number = place.split("=")
        die_inside(stage, int(number), lambda: os.kill(os.getpid(), signal.SIGKILL))
        Run(RunConfig.from_plain(json.loads(config)), Path(out), device="cpu").run()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_run_killed_by_the_system_in_every_stage_resumes_to_the_same_bytes(
    finished, start, results, tmp_path
):
    out = tmp_path / "run"
    places = [f"{stage}={number}" for stage, number in PLACES.items()]
    command = [sys.executable, "-c", KILLED, json.dumps(finished.config.plain()), str(out)]
    root = Path(runs.__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    told = subprocess.run(
        [*command, *places], env=environment, capture_output=True, text=True, timeout=590
    )
    assert told.stdout.split() == [str(-signal.SIGKILL)] * len(places), told.stderr
    assert not (out / "metrics.json").exists()
    run = start("run", store=out / "store")
    run.run()
    assert differing(results(finished), results(run)) == []


# --- labels


def test_contrastive_search_is_the_same_for_permuted_labels(
    movies, finished, start, results, tmp_path, idle, monkeypatch
):
    monkeypatch.undo()  # the search may run, on features that are there
    monkeypatch.setattr("ssnas_core.features.train_backbones.fit", None)
    run = start("permuted", data=movies.folder(tmp_path / "data", movies.permuted()))
    run.search()
    run.pretrain()
    same, other = results(run), results(finished)
    assert (run.prepared.dataset.labels() != finished.prepared.dataset.labels()).any(1).mean() > 0.5
    for name in ("genotype.json", "history.jsonl", "checkpoint/supernet.safetensors",
                 "checkpoint/pretrained.safetensors"):  # fmt: skip
        assert same[name] == other[name], name


def relabelled(movies, path: Path, numbers: set[int]) -> Path:
    """The movies with the genres of `numbers` turned into their complement."""

    def complement(number: int, genres: list[str]) -> list[str]:
        return [g for g in movies.genres if g not in genres] if number in numbers else genres

    return movies.folder(path, movies.with_genres(complement))


def test_test_labels_change_nothing_but_the_scores(movies, finished, start, results, tmp_path):
    data = relabelled(movies, tmp_path / "data", set(range(48, 60)))
    run = start("run", data=data)
    run.run()
    changed = differing(results(finished), results(run))
    # these name the data and its labels
    read = {"config.json", "dataset.json", "prepared.json", "metrics.json"}
    tests = {f"cells/{cell}/test.json" for cell in cells(run)}
    assert len(tests) == 12
    assert read <= set(changed) <= read | tests
    assert len(set(changed) & tests) > 6


def test_test_labels_are_read_once_for_each_cell_and_each_reading_is_recorded(start):
    run = start(label_ratio=(0.25,))
    for method in METHODS:
        run.train(method, 0.25)
    assert cells(run) == []
    result = run.run()
    wanted = [f"{name}_r0.25" for name in (
        "text-only", "image-only", "late-concat", "random", "found", "found-pretrained",
    )]  # fmt: skip
    assert cells(run) == wanted
    assert run.folder.lines("test_reads.jsonl")[0] == {"cell": "text-only_r0.25", "samples": 12}
    assert [run.evaluate(method, 0.25) for method in METHODS] == result["scores"]
    assert cells(run) == wanted
    run.evaluate("found", 0.5)
    assert cells(run) == [*wanted, "found_r0.5"]


@pytest.fixture
def same_part(finished, monkeypatch):
    """The labelled parts of the movies as they are: stratification knows all labels."""
    dataset = finished.prepared.dataset
    for module in (run_data, train_backbones):
        monkeypatch.setattr(
            module, "labelled_part", lambda _, ratio, seed: labelled_part(dataset, ratio, seed)
        )
    part = labelled_part(dataset, 0.25, 0)
    return set(part.train.tolist()), set(part.dev.tolist())


METHODS_TRAINED = ("text only", "late concat", "found", "found, pretrained")


LABELLED = (
    {"objective": "contrastive"},
    {"objective": "supervised"},
    {"objective": "hybrid"},
    {"backbones": "supervised"},
)


@pytest.mark.parametrize(
    "axes",
    [
        pytest.param(axes, marks=pytest.mark.thorough) if "hybrid" in axes.values() else axes
        for axes in LABELLED
    ],
    ids=lambda axes: " ".join(*axes.items()),
)
def test_labels_outside_the_labelled_part_change_nothing(
    movies, start, results, tmp_path, same_part, axes
):
    train, dev = same_part
    outside = set(range(60)) - train - dev
    assert len(outside) == 48 and outside & set(range(36, 48))

    def begun(name: str, **data: Path) -> Run:
        # backbones that learn from labels: each run is to train its own
        store = tmp_path / f"store of {name}" if "backbones" in axes else None
        return start(name, store=store, label_ratio=(0.25,), **axes, **data)

    whole = begun("whole")
    other = begun("other", data=relabelled(movies, tmp_path / "data", outside))
    for run in (whole, other):
        for method in METHODS_TRAINED:
            run.train(method, 0.25)
    changed = differing(results(whole), results(other))
    assert set(changed) == {"config.json", "dataset.json", "prepared.json"}


@pytest.mark.parametrize("split", ["train", "dev"])
def test_labels_inside_the_labelled_part_matter(movies, start, results, tmp_path, same_part, split):
    """The control: what changes nothing outside does change things inside."""
    train, dev = same_part
    inside = train if split == "train" else dev
    axes = {"label_ratio": (0.25,), "objective": "supervised"}
    whole, other = (
        start("whole", **axes),
        start("other", data=relabelled(movies, tmp_path / "data", inside), **axes),
    )
    for run in (whole, other):
        run.train("text only", 0.25)
        run.search()
    changed = set(differing(results(whole), results(other)))
    assert {"cells/text-only_r0.25/train.json", "history.jsonl"} <= changed
    assert ("cells/text-only_r0.25/model.safetensors" in changed) == (split == "train")
    first, second = (
        read_json(run.folder / "cells/text-only_r0.25/train.json") for run in (whole, other)
    )
    assert first["threshold"] != second["threshold"]


# --- the axes


AXES = [
    {"objective": objective, "strategy": strategy}
    for objective in ("contrastive", "supervised", "hybrid")
    for strategy in ("bilevel", "random")
]


@pytest.mark.parametrize("axes", AXES, ids=lambda axes: "-".join(axes.values()))
def test_every_objective_goes_with_every_strategy(start, axes, monkeypatch):
    seen: dict[str, set[int]] = {"Contrastive": set(), "Supervised": set(), "Hybrid": set()}
    for objective in (Contrastive, Supervised, Hybrid):
        loss = objective.loss

        def spied(self, model, source, indices, generator, loss=loss):
            seen[type(self).__name__] |= set(indices.tolist())
            return loss(self, model, source, indices, generator)

        monkeypatch.setattr(objective, "loss", spied)
    run = start(label_ratio=(0.25,), **axes)
    genotype = run.search()
    run.space.validate(genotype)
    history = run.folder.lines("history.jsonl")
    supernet = run.folder / "checkpoint" / "supernet.safetensors"
    if axes["strategy"] == "bilevel":
        assert history[-1]["genotype"] == str(genotype) and supernet.exists()
    else:
        best = min(history, key=lambda trial: trial["dev_loss"])
        assert best["genotype"] == str(genotype)
        assert len(history) == 2 and not supernet.exists()
    part = run.part(0.25)
    labelled = set(part.train.tolist()) | set(part.dev.tolist())
    used = {"supervised": labelled}.get(axes["objective"], set(range(48)))
    name = axes["objective"].capitalize()
    assert seen == {**dict.fromkeys(seen, set()), name: used}
    assert 0 <= run.evaluate("found, pretrained", 0.25)["weighted_f1"] <= 1


@pytest.mark.parametrize("task", ["swapped", "comm", "clip"])
@pytest.mark.parametrize("strategy", ["bilevel", "random"])
def test_task_of_the_objective_is_that_of_the_search_and_of_pretraining(
    start, tiny_recipe, monkeypatch, task, strategy
):
    seen, loss = [], Contrastive.loss
    monkeypatch.setattr(
        Contrastive, "loss", lambda self, *args: (seen.append(self.task), loss(self, *args))[1]
    )
    contrast = dataclasses.replace(tiny_recipe.contrastive, task=task)
    run = start(objective=task, strategy=strategy)
    assert run.config.objective == contrast
    written = json.loads(json.dumps(run.config.plain()))
    assert RunConfig.from_plain(written).objective == contrast
    run.search()
    assert set(seen) == {task}
    last = run.folder.lines("history.jsonl")[-1]
    assert {"match", "match_without_image", "match_without_text"} < last.keys()
    run.pretrain()
    assert set(seen) == {task}


@pytest.mark.parametrize("output", ["beside", pytest.param("chosen", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("strategy", ["bilevel", "gates", "random", "evolution", "tpe"])
def test_what_reaches_the_classifier_can_be_a_choice_of_every_strategy(
    start, tiny_recipe, output, strategy, tmp_path
):
    space = dataclasses.replace(tiny_recipe.space("fusion"), output=output)
    run = start(space=space, strategy=strategy, objective="matching")
    genotype = run.search()
    assert genotype.nodes[-1].name == "output"
    assert any("matched" in entry for entry in run.folder.lines("history.jsonl"))
    assert 0 <= run.evaluate("found, pretrained", 1.0)["weighted_f1"] <= 1
    model = classifier_of(run, "found, pretrained", 1.0)
    model.save_pretrained(tmp_path / "model")
    again = MultimodalClassifier.from_pretrained(tmp_path / "model")
    assert again.spec == model.spec and again.spec.genotype == genotype


def test_surrogate_that_grows_by_cells_is_refused_where_features_may_reach_the_classifier(
    tiny_data, tiny_recipe
):
    space = dataclasses.replace(tiny_recipe.space("fusion"), output="chosen")
    with pytest.raises(InputError, match="has no extensions for the strategy 'surrogate'"):
        RunConfig(data=tiny_data, space=space, strategy="surrogate", recipe=tiny_recipe)


def test_trained_cell_says_what_is_left_once_a_modality_is_shuffled(finished):
    cell = finished.folder / "cells"
    told = {m: read_json(cell / f"{m}_r1" / "train.json") for m in ("text-only", "late-concat")}
    for facts in told.values():
        assert facts["shuffled"].keys() == {"image", "text"}
    alone = told["text-only"]
    assert alone["shuffled"]["image"] == alone["dev"]["weighted_f1"]
    part = finished.part(1.0)
    model = finished.trained("late concat", cell / "late-concat_r1")
    rows, source = torch.from_numpy(part.dev), finished.data.source()
    threshold = told["late-concat"]["threshold"]
    again = shuffled_scores(finished.task, model, source, rows, threshold)
    assert again == told["late-concat"]["shuffled"]


def test_hybrid_search_is_weighted_as_its_configuration_says(start, tiny_recipe):
    found = {}
    for weight in (0.0, 0.5):
        objective = HybridConfig(weight=weight, contrastive=tiny_recipe.contrastive)
        run = start(f"{weight}", label_ratio=(0.25,), objective=objective)
        run.search()
        found[weight] = run.folder.lines("history.jsonl")[-1]["arch_loss"]
    contrastive = start("contrastive", label_ratio=(0.25,))
    contrastive.search()
    assert found[0.0] == contrastive.folder.lines("history.jsonl")[-1]["arch_loss"] != found[0.5]


def test_live_views_are_made_anew_by_the_frozen_backbones(start, finished, monkeypatch):
    from ssnas_core.features.store import FeatureStore

    run = start(views="live")
    run.prepared  # noqa: B018  # the store is there, but its views are not used
    monkeypatch.setattr(FeatureStore, "augmented", None)
    genotype = run.search()
    run.space.validate(genotype)
    run.pretrain()
    first, stored = (one.folder.lines("history.jsonl") for one in (run, finished))
    assert first[0] == stored[0]  # the same start
    assert first[1]["train_loss"] != stored[1]["train_loss"]
    monkeypatch.undo()
    assert 0 <= run.evaluate("found, pretrained", 0.25)["weighted_f1"] <= 1


@pytest.mark.parametrize("log", ["csv", pytest.param("tensorboard", marks=pytest.mark.thorough)])
def test_epochs_are_logged_where_asked_and_change_nothing(finished, start, results, log):
    run = start(label_ratio=(0.25,))
    run.log = log
    run.search()
    run.train("found, pretrained", 0.25)
    logs = run.folder / "logs"
    ending = ".csv" if log == "csv" else ""
    names = {f"{stage}{ending}" for stage in ("search", "pretrain", "found-pretrained_r0.25")}
    assert {path.name for path in logs.iterdir()} == names
    if log == "csv":
        rows = (logs / "search.csv").read_text().splitlines()
        assert len(rows) == 1 + 3 and "image_0" in rows[0] and "arch_loss" in rows[0]
    cell = "cells/found-pretrained_r0.25/model.safetensors"
    assert results(run)[cell] == results(finished)[cell]


def test_scoring_backbones_that_were_trained_along_warns_of_nothing(start):
    run = start(backbones="trained", label_ratio=(0.25,))
    run.train("text only", 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.evaluate("text only", 0.25)


@pytest.mark.parametrize("seed", [0, 3])
def test_backbones_learn_from_the_labels_of_the_run_where_they_learn_from_any(
    start, tmp_path, monkeypatch, seed
):
    class StoppedError(Exception):
        pass

    def stop(*_, **options):
        told.append({name: options[name] for name in options if name.startswith("label")})
        raise StoppedError

    told = []
    monkeypatch.setattr(run_data, "prepare", stop)
    for backbones in ("frozen", "trained", "supervised"):
        run = start(backbones, backbones=backbones, label_ratio=(0.25,), seed=seed)
        with pytest.raises(StoppedError):
            run.search()
    assert told == [{}, {}, {"label_ratio": 0.25, "label_seed": seed}]


@pytest.mark.parametrize("axes", LABELLED[1:], ids=lambda axes: " ".join(*axes.items()))
def test_run_that_used_labels_has_used_those_of_one_ratio_only(start, axes):
    run = start(label_ratio=(0.25,), **axes)
    used = "backbones" if "backbones" in axes else "search"
    for use in (
        lambda: run.part(0.5),
        lambda: run.train("text only", 1.0),
        lambda: run.evaluate("found", 0.1),
    ):
        with pytest.raises(InputError, match=rf"{used} used the labels of r = 0\.25, so "):
            use()


STILL = TrainConfig(epochs=1, batch_size=12, learning_rate=1e-12)
"""A training that hardly moves a weight shows where it started."""


def distances(first: dict[str, Any], second: dict[str, Any]) -> list[float]:
    """Largest difference in each matrix of `first` from its namesake in `second`."""
    return [
        float((value - second[name]).abs().max()) for name, value in first.items() if value.ndim > 1
    ]


def test_pretraining_starts_from_the_supernets_weights_where_they_are_inherited(start):
    moved = {}
    for inherit in (True, False):
        run = start(f"{inherit}", inherit=inherit, recipe={"pretrain": STILL})
        pretrained = run.pretrain()
        supernet = load_tensors(run.folder / "checkpoint" / "supernet.safetensors")
        network = run.space.inherit(run.search(), supernet)
        moved[inherit] = distances(network.state_dict(), pretrained)
    assert len(moved[True]) == len(moved[False]) > 2
    assert max(moved[True]) < 1e-6
    assert min(moved[False]) > 1e-3


@pytest.mark.parametrize("inherit", [True, False])
def test_pretraining_has_the_dropout_of_its_own(start, inherit, monkeypatch):
    pretrained = []

    def only_looked_at(model, *_, **__):
        pretrained.append(model[0])
        return []

    run = start(inherit=inherit, recipe={"pretrain_dropout": 0.375})
    run.search()
    monkeypatch.setattr(runs, "fit", only_looked_at)
    run.pretrain()
    dropouts = {m.p for m in pretrained[0].modules() if isinstance(getattr(m, "p", None), float)}
    assert dropouts == {0.375}


@pytest.mark.parametrize(
    "backbones", ["frozen", pytest.param("trained", marks=pytest.mark.thorough)]
)
def test_fine_tuning_starts_from_the_pretrained_weights_where_the_method_says_so(start, backbones):
    run = start(backbones=backbones, recipe={"finetune": STILL})
    pretrained = run.pretrain()
    moved = {}
    for method in ("found", "found, pretrained"):
        weights = load_tensors(run.train(method, 1.0) / "model.safetensors")
        encoder = {name[2:]: value for name, value in weights.items() if name.startswith("0.")}
        assert encoder.keys() == pretrained.keys()
        moved[method] = distances(encoder, pretrained)
    assert max(moved["found, pretrained"]) < 1e-6
    assert max(moved["found"]) > 1e-3


def test_backbones_trained_along_change_in_the_run_and_not_in_the_store(
    finished, start, tree, monkeypatch
):
    stored = tree(finished.prepared.folder)
    run = start(backbones="trained", label_ratio=(0.25,))
    result = run.evaluate("found, pretrained", 0.25)
    assert 0 <= result["weighted_f1"] <= 1
    assert run.search() == finished.search()  # the search has stored features
    pretrained = run.pretrain()
    cell = load_tensors(run.folder / "cells" / "found-pretrained_r0.25" / "model.safetensors")
    modalities = {feature.rpartition("_")[0] for feature in run.search().features}
    for modality, backbone in finished.prepared.backbones().items():
        moved = [
            not torch.equal(value, pretrained[f"0.backbones.{modality}.{name}"])
            and not torch.equal(
                pretrained[f"0.backbones.{modality}.{name}"],
                cell[f"0.0.backbones.{modality}.{name}"],
            )
            for name, value in backbone.named_parameters()
        ]
        assert any(moved) == (modality in modalities)
    found = tree(finished.prepared.folder)
    assert [name for name in stored if found[name] != stored[name]] == []
    monkeypatch.setattr(runs, "fit", None)
    assert reopened(run).evaluate("found, pretrained", 0.25) == result


# --- what goes wrong


def test_ratio_that_leaves_no_labels_is_refused_before_the_search(start):
    run = start(label_ratio=(1.0, 0.01))
    with pytest.raises(InputError, match=r"ratio 0\.01 leaves none of the 36 train samples"):
        run.run()
    assert not (run.folder / "genotype.json").exists()
    assert not (run.folder / "checkpoint").exists()


def test_modality_whose_name_begins_as_a_methods_has_no_architecture(start):
    run = start()
    for name in ("found_footage only", "random_noise only"):
        assert run.genotype_of(Method(name)) is None
    assert not (run.folder / "genotype.json").exists()  # nothing was searched for it


def test_unknown_method_is_refused(start):
    with pytest.raises(InputError, match="unknown method 'best'; expected one of text only; ima"):
        start().train("best", 1.0)


def test_nearly_equal_ratios_are_two_cells(start):
    run = start(label_ratio=(0.5, 0.50000001))
    first, second = (run.train("text only", ratio) for ratio in run.config.label_ratio)
    assert first != second
    assert read_json(second / "train.json")["label_ratio"] == 0.50000001


def another(run: Run) -> Genotype:
    """A genotype of the run's space that takes weights of the same shapes as the run's own."""
    found = run.search()
    for genotype in run.space.genotypes():
        if genotype != found and set(genotype.features) == set(found.features):
            theirs, own = (run.space.build(g).state_dict() for g in (genotype, found))
            if {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in own.items()}:
                return genotype
    raise AssertionError("none")


@pytest.mark.parametrize("twin", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_weights_of_another_genotype_are_refused(start, twin):
    run = start()
    run.train("found, pretrained", 0.25)
    found = run.search()
    first = next(genotype for genotype in run.space.genotypes() if genotype != found)
    (another(run) if twin else first).save(run.folder / "genotype.json")
    edited = reopened(run)
    for ratio, name in ((0.25, "found-pretrained_r0.25"), (1.0, "pretrained.safetensors")):
        with pytest.raises(InputError, match=f"{name} was trained as .*, the run's genotype is no"):
            edited.train("found, pretrained", ratio)
    found.save(run.folder / "genotype.json")
    reopened(run).train("found, pretrained", 1.0)


def test_genotype_of_another_space_is_refused(finished, start):
    run = start()
    run.search()
    document = json.loads((run.folder / "genotype.json").read_text())
    document["nodes"][0]["inputs"] = ["image_7", "text_0"]
    (run.folder / "genotype.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"it uses \['image_7'\]; the features are image_0, "):
        reopened(run).train("found", 1.0)


@pytest.mark.parametrize(
    ("stage", "epochs", "batch", "message"),
    [
        ("pretrain", 2, 12, "(loss became|weights became) .*lower the learning rate"),
        pytest.param(
            "finetune",
            2,
            12,
            "(loss became|weights became) .*lower the learning rate",
            marks=pytest.mark.thorough,
        ),
        ("finetune", 1, 36, "model's outputs are NaN or infinite; lower the learning rate"),
    ],
)
def test_training_that_diverges_is_refused_and_leaves_no_result(
    start, stage, epochs, batch, message
):
    far = TrainConfig(epochs=epochs, batch_size=batch, learning_rate=1e30)
    run = start(recipe={stage: far})
    with pytest.raises(InputError, match=message):
        run.train("found, pretrained", 1.0)
    assert not (run.folder / "cells").exists()
    assert (run.folder / "checkpoint" / "pretrained.safetensors").exists() == (stage != "pretrain")


def test_loss_of_nan_in_the_search_is_refused_and_leaves_no_genotype(start, monkeypatch):
    loss = Contrastive.loss
    monkeypatch.setattr(Contrastive, "loss", lambda *args: loss(*args) * float("nan"))
    run = start()
    with pytest.raises(InputError, match="the loss became nan in epoch 1; lower the learning"):
        run.search()
    assert not (run.folder / "genotype.json").exists()
    monkeypatch.undo()
    assert reopened(run).search()


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 torn",
        pytest.param(b"", marks=pytest.mark.thorough),
        pytest.param(b'{"history": []}', marks=pytest.mark.thorough),
    ],
)
def test_broken_checkpoint_of_the_search_is_refused_and_can_be_deleted(
    finished, start, monkeypatch, content
):
    with monkeypatch.context() as patched:
        die_inside("search", 9, interrupt, patched.setattr)
        with pytest.raises(KeyboardInterrupt):
            start().search()
    file = start().folder / "checkpoint" / "search.pt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"search\.pt is not a usable checkpoint .*; delete it"):
        start().search()
    file.unlink()
    assert start().search() == finished.search()


def test_broken_weights_of_a_cell_are_refused(start):
    run = start()
    cell = run.train("text only", 1.0)
    file = cell / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"cannot read tensors from .*model\.safetensors"):
        run.evaluate("text only", 1.0)
    assert cells(run) == []


def test_run_folder_says_how_many_threads_computed_it(finished):
    assert RunFolder.config_of(finished.folder.path)["threads"] == torch.get_num_threads() == 1


def test_bfloat16_is_of_every_stage_that_trains(start, monkeypatch):
    given = []
    search, fit = BilevelConfig.search, runs.fit

    def searched(self, space, source, objective, context):
        given.append(context.precision)
        return search(self, space, source, objective, context)

    def fitted(*args, precision, **options):
        given.append(precision)
        return fit(*args, precision=precision, **options)

    monkeypatch.setattr(BilevelConfig, "search", searched)
    monkeypatch.setattr(runs, "fit", fitted)
    run = start(label_ratio=(0.25,), precision="bfloat16")
    assert 0 <= run.evaluate("found, pretrained", 0.25)["weighted_f1"] <= 1
    assert given == ["bfloat16"] * 3  # search, pretraining, fine-tuning


def test_labels_are_a_matrix_of_all_movies(finished, movies):
    labels = finished.prepared.dataset.labels()
    assert labels.shape == (60, 23)
    names = np.array(finished.prepared.dataset.classes)
    for row in (0, 40, 59):
        wanted = json.loads(movies.files[movies.json(row)])["genres"]
        assert set(names[labels[row].astype(bool)]) == set(wanted)


def test_run_remembers_a_store_elsewhere(start, tiny_store):
    run = start(label_ratio=(0.25,))
    run.search()
    again = Run(run.config, run.folder.path, device="cpu")
    assert again.data.store == tiny_store.resolve()
    assert 0 <= again.evaluate("text only", 0.25)["weighted_f1"] <= 1


def test_mended_configuration_may_begin_where_a_mistaken_one_found_nothing(start, tiny_recipe):
    wrong = dataclasses.replace(tiny_recipe.prepare, text="word2vec:gone.bin")
    with pytest.raises(InputError, match="gone"):
        start(recipe={"prepare": wrong}).run()
    with pytest.raises(InputError, match="leaves none of the 36 train samples"):
        start(label_ratio=(0.01,)).run()
    start(label_ratio=(0.25,)).search()
    with pytest.raises(InputError, match="holds a run with label_ratio"):
        start(label_ratio=(0.01,))
