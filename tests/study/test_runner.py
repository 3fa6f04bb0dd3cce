"""The label-ratio study: which cells share what, and that kills lose and repeat nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from ssnas_core.cli.main import main
from ssnas_core.common import workers
from ssnas_core.common.errors import InputError
from ssnas_core.datasets.open import open_dataset
from ssnas_core.datasets.splits import labelled_part
from ssnas_core.runs import run as runs
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.methods import Method, all_methods
from ssnas_core.runs.recipes import RECIPES, Tuned
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.study import runner
from ssnas_core.study.jobs import LABEL_RATIOS, StudyConfig, jobs_of
from ssnas_core.study.methods import (
    METHOD_SETS,
    PAIRS,
    STUDY_METHODS,
    StudyMethod,
    methods_in,
    study_method,
)
from ssnas_core.study.runner import run_study, write_study
from ssnas_core.study.table import read_study
from ssnas_core.training import tasks

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("image", "text")
# What the same study may differ in when it is done twice.
COSTS = ("search_seconds", "pretrain_seconds", "train_seconds", "peak_anonymous_mb")
SMALL = ("SSNAS", "SSNAS, not pretrained", "BM-NAS", "late concat")


def small(data: Path, recipe: Any, **changes: Any) -> StudyConfig:
    tuned = changes.pop("tuned", {"supervised": Tuned(same_steps=True)})
    chosen = {"methods": SMALL, "label_ratio": (0.25, 1.0), "seeds": 1, **changes}
    return StudyConfig(data=data, recipe=dataclasses.replace(recipe, tuned=tuned), **chosen)


def counted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What has to be the same each time."""
    kept = [{name: row[name] for name in row if name not in COSTS} for row in rows]
    return sorted(kept, key=lambda row: (row["method"], row["label_ratio"], row["seed"]))


@pytest.fixture(scope="module")
def finished(tiny_data, tiny_recipe, tiny_store, tmp_path_factory, one_thread):
    """The folder of a small study that was done in this process, and its rows."""
    out = tmp_path_factory.mktemp("study") / "out"
    rows, problems = run_study(small(tiny_data, tiny_recipe), out, store=tiny_store, workers=0)
    assert problems == []
    return out, rows


@pytest.fixture(scope="module")
def undisturbed(finished):
    return finished[1]


@pytest.fixture
def again(finished, tmp_path):
    """A copy of the finished study's folder, to go on in."""
    return shutil.copytree(finished[0], tmp_path / "again")


# --- which cells there are


def test_every_method_of_a_set_and_of_the_decisive_pairs_is_known():
    known = {*STUDY_METHODS, *map(str, all_methods(KINDS))}
    assert {name for names in METHOD_SETS.values() for name in names} <= known
    assert {name for pair in PAIRS for name in pair} <= known


def test_methods_of_the_study_are_points_on_the_axes():
    """Each differs from every other in what is searched, how, by what, or in what is trained."""
    told = [json.dumps(dataclasses.asdict(method)) for method in STUDY_METHODS.values()]
    assert len(set(told)) == len(told)
    ours, theirs = study_method("SSNAS"), study_method("BM-NAS")
    assert (ours.space, ours.objective, ours.strategy) == ("fusion", "contrastive", "bilevel")
    assert (theirs.space, theirs.objective, theirs.strategy) == ("fusion", "supervised", "bilevel")
    mfas = study_method("MFAS")
    assert (mfas.space, mfas.objective, mfas.strategy) == ("layers", "supervised", "surrogate")


def test_sets_stand_for_their_methods_each_once():
    found = methods_in(("baselines", "late concat", "core", "SSNAS"), KINDS)
    assert len(set(found)) == len(found)
    assert set(METHOD_SETS["core"]) < set(found) and found["SSNAS"] == STUDY_METHODS["SSNAS"]
    assert {"image only", "text only", "late concat"} < set(found)
    assert not [name for name in methods_in(("baselines",), KINDS) if "pretrained" in name]


@pytest.mark.parametrize("name", ["SSNA", "found", "sound only"])
def test_unknown_method_is_told_with_what_there_is(name):
    told = rf"unknown method '{name}' of a study .*; expected a set \(core, .*one of SSNAS; "
    with pytest.raises(InputError, match=told):
        methods_in((name,), KINDS)


def jobs(**changes: Any):
    study = small(Path("data"), changes.pop("recipe", RECIPES["classroom"]), **changes)
    return jobs_of(study, Path("out"), KINDS, 1000)


def test_label_free_cells_share_one_search_and_each_ratio_with_labels_has_its_own():
    found = jobs(seeds=2)
    by_objective = Counter((job.config.name_of("objective"), job.config.seed) for job in found)
    assert by_objective == {(o, s): n for s in (0, 1) for o, n in (("contrastive", 1),
                                                                   ("supervised", 2))}  # fmt: skip
    assert len({job.folder for job in found}) == len(found)
    for job in found:
        if job.config.uses_labels:
            assert {cell.ratio for cell in job.cells} == set(job.config.label_ratio)
    cells = Counter((c.name, c.ratio, j.config.seed) for j in found for c in j.cells)
    assert cells == {(m, r, s): 1 for m in SMALL for r in (0.25, 1.0) for s in (0, 1)}


def test_every_setting_that_differs_has_a_folder_of_its_own():
    names = tuple(STUDY_METHODS)
    found = jobs(methods=names, label_ratio=(0.1,))
    configs = [json.dumps(job.config.plain(), sort_keys=True) for job in found]
    assert len(set(configs)) == len(configs) == len({job.folder for job in found})


def test_a_contrastive_objective_pretrains_too_and_any_other_leaves_that_to_the_recipe():
    cell, task = Method("found", pretrained=True), {"recipe.contrastive.task": "comm"}
    methods = (
        StudyMethod(name="plain", cell=cell),
        StudyMethod(name="swapped", cell=cell, objective="swapped"),
        StudyMethod(name="labels", cell=cell, objective="supervised"),
        StudyMethod(name="labels, comm", cell=cell, objective="supervised", changes=task),
        StudyMethod(name="random", cell=Method("random", pretrained=True), objective="comm"),
    )
    found = jobs(methods=methods, label_ratio=(0.1,), seeds=1)
    assert len({job.folder for job in found}) == len(found) == 5
    tasks = [job.config.pretraining.task for job in found]
    assert tasks == ["simclr", "swapped", "simclr", "comm", "comm"]


def test_search_has_the_settings_that_were_tuned_for_its_objective():
    fusion, bilevel = RECIPES["classroom"].space("fusion"), RECIPES["classroom"].strategy("bilevel")
    changes = {"strategy.weight_decay": 0.25, "space.dropout": 0.75}
    labels = Tuned(changes=changes, same_steps=True)
    tuned = {"supervised": labels, "contrastive": Tuned(changes={"space.dropout": 0.25})}
    names = (*SMALL, "BM-NAS, untuned", "random", "SSNAS, Gumbel")
    found = {}
    for job in jobs(methods=names, tuned=tuned, label_ratio=(0.25,)):
        found |= {cell.name: job.config for cell in job.cells}
    dropouts = {name: one.space.dropout for name, one in found.items()}
    untuned = dict.fromkeys(("BM-NAS, untuned", "random", "late concat"), fusion.dropout)
    ours = dict.fromkeys(("SSNAS", "SSNAS, not pretrained", "SSNAS, Gumbel"), 0.25)
    assert dropouts == {**untuned, **ours, "BM-NAS": 0.75}
    assert found["BM-NAS"].strategy.weight_decay == 0.25
    assert found["SSNAS"].strategy.weight_decay == bilevel.weight_decay
    # as many steps as on all of the 1000 samples
    steps = {name: one.strategy.min_steps for name, one in found.items()}
    assert steps.pop("BM-NAS") == bilevel.epochs * (1000 // bilevel.batch_size)
    assert set(steps.values()) == {0}


def test_trials_with_labels_take_as_many_steps_as_on_all_samples():
    train = RECIPES["classroom"].strategy("surrogate").train
    both = jobs(methods=("MFAS", "MFAS without labels"), label_ratio=(0.25,))
    found = {job.config.name_of("objective"): job.config.strategy.train for job in both}
    assert found["supervised"].min_steps == train.epochs * (1000 // train.batch_size) > 0
    assert found["contrastive"] == train


def test_tuned_settings_are_those_of_the_recipe_whatever_else_of_it_changes():
    method = study_method("BM-NAS")
    for recipe in RECIPES.values():
        made = jobs(methods=("core",), recipe=recipe, tuned=recipe.tuned)
        assert made and not any(job.config.recipe.tuned for job in made)  # of other objectives
        changed = dataclasses.replace(recipe, finetune_dropout=0.25)
        study = StudyConfig(data=Path("data"), recipe=changed)
        assert study.tuned_for(method) == recipe.tuned.get("supervised", Tuned())
    assert RECIPES["classroom"].tuned["supervised"].same_steps


@pytest.mark.parametrize("recipe", ["two-core", "classroom", "av-mnist", "published-encoders"])
def test_ssnas_may_find_its_rivals_and_bm_nas_has_its_own_space(recipe):
    channels, positions = {"image_0": 3, "text_0": 4}, {"image_0": 4, "text_0": 1}
    late = Genotype("fusion", (Node("output", "Concat", tuple(channels)),))
    spaces = {}
    chosen = RECIPES[recipe]
    for job in jobs(methods=("core",), recipe=chosen, tuned=chosen.tuned):
        for cell in job.cells:
            spaces[cell.name] = job.config.space.open(channels, positions)
    for name in ("SSNAS", "random, pretrained"):
        spaces[name].validate(late)
    with pytest.raises(InputError):
        spaces["BM-NAS"].validate(late)


def test_only_the_samples_bm_nas_lets_both_inputs_of_a_cell_pass():
    both = set()
    for name, recipe in RECIPES.items():
        found = jobs(methods=("BM-NAS",), recipe=recipe, tuned=recipe.tuned)
        both |= {name for job in found if job.config.space.released != ("residual",)}
    assert both == {"classroom"}


def test_decisive_methods_have_more_seeds():
    found = jobs(decisive=("SSNAS", "late concat"), decisive_seeds=3)
    seeds = {name: set() for name in SMALL}
    for job in found:
        for cell in job.cells:
            seeds[cell.name].add(job.config.seed)
    assert seeds["SSNAS"] == seeds["late concat"] == {0, 1, 2}
    assert seeds["BM-NAS"] == seeds["SSNAS, not pretrained"] == {0}
    found = jobs(decisive=("SSNAS",), decisive_seeds=1, seeds=2)  # never fewer than the others
    assert {j.config.seed for j in found if any(c.name == "SSNAS" for c in j.cells)} == {0, 1}


def test_seed_has_the_same_nested_labels_whatever_the_method(undisturbed, tiny_data, tiny_store,
                                                             tiny_recipe, tmp_path):  # fmt: skip
    counts = {(row["label_ratio"], row["labelled"]) for row in undisturbed}
    assert counts == {(0.25, 12), (1.0, 48)}
    config = dataclasses.replace(jobs()[0].config, data=tiny_data, recipe=tiny_recipe)
    dataset = runs.Run(config, tmp_path, store=tiny_store, device="cpu").prepared.dataset
    parts = [set(labelled_part(dataset, r, 0).train) for r in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)]
    assert all(small < large for small, large in zip(parts, parts[1:], strict=False))


# --- what it gives


def test_rows_have_scores_costs_and_what_was_found(undisturbed):
    assert [row["method"] for row in undisturbed].count("SSNAS") == 2
    for row in undisturbed:
        assert row["score"] == row["weighted_f1"] and 0 <= row["score"] <= 1
        searched, pretrained = row["method"] != "late concat", row["method"] == "SSNAS"
        assert (row["search_steps"] > 0) == (row["search_seconds"] > 0) == searched
        assert (row["pretrain_steps"] > 0) == (row["pretrain_seconds"] > 0) == pretrained
        assert (row["genotype"] is None) == (not searched)
        assert row["train_steps"] > 0 and row["parameters"] > 0 and row["peak_anonymous_mb"] > 0
    # 36 movies in batches of 12 for 2 epochs, at both levels; with labels as many steps
    assert {row["search_steps"] for row in undisturbed if row["search_steps"]} == {12}
    by_ratio = {row["label_ratio"]: row["train_steps"] for row in undisturbed}
    assert by_ratio == {0.25: 2, 1.0: 6}


def test_finished_study_is_only_read_and_its_test_labels_once_for_each_cell(
    undisturbed, again, tiny_data, tiny_recipe, tiny_store, monkeypatch
):
    monkeypatch.setattr(runs, "fit", None)
    monkeypatch.setattr(tasks, "predict", None)
    rows, problems = run_study(small(tiny_data, tiny_recipe), again, store=tiny_store, workers=0)
    assert (rows, problems) == (undisturbed, [])
    reads = [
        entry["cell"]
        for folder in (again / "runs").iterdir()
        for entry in RunFolder.opened(folder).lines("test_reads.jsonl")
    ]
    assert len(reads) == len(undisturbed)


def test_backbone_and_fusion_are_searched_on_pixels_of_their_own(tiny_data, tiny_recipe, tiny_store,
                                                                 tmp_path):  # fmt: skip
    study = small(tiny_data, tiny_recipe, methods=("joint", "late concat"), label_ratio=(1.0,))
    for _ in range(2):  # again: what is there is of the same study
        rows, problems = run_study(study, tmp_path, store=tiny_store, workers=0)
    assert problems == [] and {row["method"] for row in rows} == {
        *METHOD_SETS["joint"], "late concat",
    }  # fmt: skip
    of = {row["method"]: row["genotype"] for row in rows}
    assert of["late concat"] is None
    assert all("pool(image normal)" in of[name] for name in METHOD_SETS["joint"])
    read = {job.config.recipe.prepare.image for job in jobs_of(study, tmp_path, KINDS, 36)}
    assert read == {"pixels", "small"}


def test_more_ratios_go_on_with_what_is_there(undisturbed, tiny_data, tiny_recipe, tiny_store,
                                              tmp_path):  # fmt: skip
    two = ("SSNAS", "late concat")
    for ratios in ((1.0,), (0.25, 1.0)):
        study = small(tiny_data, tiny_recipe, methods=two, label_ratio=ratios)
        rows, _ = run_study(study, tmp_path, store=tiny_store, workers=0)
    assert counted(rows) == counted([row for row in undisturbed if row["method"] in two])
    assert set(trainings(tmp_path).values()) == {1}


def test_cell_that_cannot_be_scored_keeps_none_from_it(undisturbed, tiny_data, tiny_recipe,
                                                      tiny_store, tmp_path):  # fmt: skip
    two = ("SSNAS", "late concat")
    study = small(tiny_data, tiny_recipe, methods=two, label_ratio=(0.001, 0.25))
    rows, problems = run_study(study, tmp_path, store=tiny_store, workers=0)
    wanted = [r for r in undisturbed if r["method"] in two and r["label_ratio"] == 0.25]
    assert counted(rows) == counted(wanted)
    assert len(problems) == len(two)
    assert all("r = 0.001" in problem and "label" in problem for problem in problems)


def test_folder_of_another_study_is_refused(tiny_data, tiny_recipe, tiny_store, tmp_path):
    study = small(tiny_data, tiny_recipe, methods=("late concat",), label_ratio=(1.0,))
    run_study(study, tmp_path, store=tiny_store, workers=0)
    (file,) = tmp_path.glob("runs/*/config.json")
    before = file.read_bytes()
    finetune = dataclasses.replace(tiny_recipe.finetune, learning_rate=0.5)
    other = dataclasses.replace(tiny_recipe, finetune=finetune)
    told = r"holds a run with recipe\.finetune\.learning_rate=.*, not 0\.5; "
    with pytest.raises(InputError, match=told):
        run_study(dataclasses.replace(study, recipe=other), tmp_path, store=tiny_store, workers=0)
    assert file.read_bytes() == before
    rows, _ = run_study(study, tmp_path, store=tiny_store, workers=0)
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plot": ["something else"]}, "other texts in 1 of 60 records"),
        ({"genres": ["Short", "Film-Noir"]}, r"other labels in 1 of 60 records \(m00: .*Short"),
    ],
)
def test_cells_of_what_the_data_were_before_are_not_taken(
    change, message, tiny_data, tiny_recipe, tmp_path
):
    data, out, store = (tmp_path / name for name in ("data", "out", "store"))
    shutil.copytree(tiny_data, data)
    study = small(data, tiny_recipe, methods=("late concat",), label_ratio=(1.0,))
    run_study(study, out, store=store, workers=0)
    movie = min(data.rglob("dataset/*.json"))
    movie.write_text(json.dumps({**json.loads(movie.read_text()), **change}))
    told = rf"{data} is no longer the data that .* began with: {message}"
    with pytest.raises(InputError, match=told):
        run_study(study, out, store=store, workers=0)


def test_few_labelled_rows_among_many_give_what_that_ratio_of_all_gives(
    tiny_data, tiny_recipe, tiny_store, tmp_path
):
    whole = open_dataset(tiny_data)
    part = labelled_part(whole, 0.25, 0)
    known = {*part.train.tolist(), *part.dev.tolist(), *whole.indices("test").tolist()}
    records = tuple(
        one if row in known else dataclasses.replace(one, labels=None)
        for row, one in enumerate(whole.records)
    )
    few = dataclasses.replace(whole, records=records)
    rows = []
    for data, ratio in ((whole, 0.25), (few, 1.0)):
        study = small(data, tiny_recipe, label_ratio=(ratio,), tuned={})
        done, problems = run_study(study, tmp_path / f"{ratio}", store=tiny_store, workers=0)
        assert problems == [] and len(done) == len(SMALL)
        rows.append([{**row, "label_ratio": None} for row in counted(done)])
    assert rows[0] == rows[1]
    assert {row["labelled"] for row in rows[0]} == {12}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": -1}, "needs workers >= 0 and threads >= 1, got -1 and 1"),
        ({"threads": 0}, "needs workers >= 0 and threads >= 1, got 1 and 0"),
        ({"methods": ()}, "needs methods, got none; name some"),
    ],
)
def test_study_that_makes_no_sense_is_refused_before_anything_is_read(given, message, tmp_path):
    study = StudyConfig(data=tmp_path / "none", methods=given.pop("methods", SMALL))
    with pytest.raises(InputError, match=message):
        run_study(study, tmp_path / "out", **given)


@pytest.mark.parametrize("name", ["study.md", "study.png"])
def test_table_is_not_written_where_its_report_or_figure_goes(name, undisturbed, tmp_path):
    with pytest.raises(InputError, match=r"expected a table named unlike .* as study\.csv"):
        write_study(undisturbed, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_table_report_and_figure_are_written_and_the_table_is_read_back(undisturbed, tmp_path):
    table, report, figure = write_study(undisturbed, tmp_path / "study.csv")
    assert counted(read_study(table)) == counted(
        [{k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()} for r in undisturbed]
    )
    text = report.read_text()
    assert "weighted F1" in text and all(method in text for method in SMALL)
    assert figure.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no cell of the study is scored"):
        write_study([], tmp_path / "none.csv")


# --- Dask, and kills


@pytest.mark.thorough
def test_workers_give_what_one_process_gives(undisturbed, tiny_data, tiny_recipe, tiny_store,
                                             tmp_path):  # fmt: skip
    study = small(tiny_data, tiny_recipe)
    rows, problems = run_study(study, tmp_path, store=tiny_store, workers=2)
    assert problems == []
    assert counted(rows) == counted(undisturbed)


def test_unreachable_scheduler_is_told(tiny_data, tiny_recipe, tiny_store, tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    from dask import config

    with (
        config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(InputError, match=r"cannot reach a Dask scheduler at tcp://127.0.0.1:9 "),
    ):
        run_study(small(tiny_data, tiny_recipe), tmp_path, store=tiny_store,
                  scheduler="tcp://127.0.0.1:9")  # fmt: skip


def test_studies_that_share_a_scheduler_do_their_own_jobs(tiny_data, tiny_recipe, tiny_store,
                                                          tmp_path):  # fmt: skip
    from distributed import LocalCluster

    study = small(tiny_data, tiny_recipe, methods=("late concat",), label_ratio=(1.0,))
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=":0",
                     protocol="tcp://", host="127.0.0.1") as cluster,
        ThreadPoolExecutor() as pool,
    ):  # fmt: skip
        found = [
            pool.submit(run_study, study, tmp_path / name, store=tiny_store,
                        scheduler=cluster.scheduler_address)
            for name in ("one", "other")
        ]  # fmt: skip
        deadline = time.monotonic() + 5
        while len(cluster.scheduler.tasks) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        cluster.scale(1)  # now that both have handed in their jobs
        rows = [one.result(60)[0] for one in found]
    assert [len(own) for own in rows] == [1, 1]


@pytest.mark.thorough
def test_lost_scheduler_is_told(tiny_data, tiny_recipe, tiny_store, tmp_path):
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0", protocol="tcp://",
                     host="127.0.0.1") as cluster,
        ThreadPoolExecutor() as pool,
    ):  # fmt: skip
        address = cluster.scheduler_address
        found = pool.submit(run_study, small(tiny_data, tiny_recipe), tmp_path, store=tiny_store,
                            scheduler=address)  # fmt: skip
        while not cluster.scheduler.tasks and not found.done():
            time.sleep(0.02)
        cluster.close()
        with pytest.raises(InputError, match=rf"lost the Dask scheduler {address}; what is scored"):
            found.result(60)


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The Dask workers that a process has started."""
    return [
        child
        for child in process.children(recursive=True)
        if any("spawn_main" in part for part in child.cmdline())
    ]


def scored(out: Path) -> int:
    return len(list(out.glob("runs/*/cells/*/test.json")))


def trainings(out: Path) -> Counter[str]:
    """How often each cell's training was ended, in all runs of a study."""
    return Counter(
        f"{folder.name}/{told.of}"
        for folder in (out / "runs").iterdir()
        for told in RunFolder.opened(folder).timings()
        if told.stage == "train"
    )


@pytest.mark.thorough
def test_killed_worker_loses_and_repeats_nothing(undisturbed, tiny_data, tiny_recipe, tiny_store,
                                                 tmp_path):  # fmt: skip
    killed: list[int] = []
    done = threading.Event()

    def reap() -> None:
        while not done.wait(0.01) and len(killed) < 2:
            if scored(tmp_path) > 2 * len(killed):
                for worker in workers_of(psutil.Process()):
                    worker.send_signal(signal.SIGKILL)
                    killed.append(worker.pid)
                time.sleep(0.5)

    watcher = threading.Thread(target=reap)
    watcher.start()
    try:
        study = small(tiny_data, tiny_recipe)
        rows, problems = run_study(study, tmp_path, store=tiny_store, workers=1)
    finally:
        done.set()
        watcher.join()
    assert killed and problems == []
    assert counted(rows) == counted(undisturbed)
    assert set(trainings(tmp_path).values()) == {1}


@pytest.mark.thorough
def test_job_that_loses_all_its_workers_is_told_and_the_others_are_done(
    undisturbed, tiny_data, tiny_recipe, tiny_store, tmp_path, monkeypatch
):
    monkeypatch.setattr(workers, "_MOST_LOST", 0)
    done = threading.Event()

    def reap() -> None:
        while not done.wait(0.01):
            if scored(tmp_path):  # the first of a job's several cells: it is still at work
                for worker in workers_of(psutil.Process()):
                    worker.send_signal(signal.SIGKILL)
                return

    watcher = threading.Thread(target=reap)
    watcher.start()
    study = small(tiny_data, tiny_recipe)
    try:
        rows, problems = run_study(study, tmp_path, store=tiny_store, workers=1)
    finally:
        done.set()
        watcher.join()
    assert problems and all("lost with every worker" in problem for problem in problems)
    assert 0 < len(rows) < len(undisturbed)
    rows, problems = run_study(study, tmp_path, store=tiny_store, workers=0)
    assert problems == [] and counted(rows) == counted(undisturbed)


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import pickle
from ssnas_core.study.runner import run_study

if __name__ == "__main__":
    study, out, store = pickle.load(open(sys.argv[1], "rb"))
    run_study(study, out, store=store, workers=2)
"""


@pytest.mark.thorough
def test_killed_command_goes_on_where_it_was(undisturbed, tiny_data, tiny_recipe, tiny_store,
                                             tmp_path):  # fmt: skip
    import pickle

    study, out = small(tiny_data, tiny_recipe), tmp_path / "study"
    (tmp_path / "study.pickle").write_bytes(pickle.dumps((study, out, tiny_store)))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(tmp_path)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "study.pickle"], env=environment, cwd=tmp_path
    )
    while scored(out) < 2 and process.poll() is None:
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []  # workers do not outlive their command
    before = scored(out)
    assert 2 <= before < len(undisturbed)
    rows, problems = run_study(study, out, store=tiny_store, workers=0)
    assert problems == [] and counted(rows) == counted(undisturbed)
    assert max(trainings(out).values()) == 1


# --- the command


def test_command_writes_the_table_and_prints_the_report(tiny_data, tiny_recipe, tiny_store,
                                                        tmp_path, monkeypatch, capsys):  # fmt: skip
    monkeypatch.setitem(RECIPES, "two-core", tiny_recipe)
    table = tmp_path / "tables" / "study_tiny.csv"
    options = ["study", "--data", tiny_data, "--out", tmp_path / "out", "--store", tiny_store]
    options += ["--methods", "SSNAS", "late concat", "--label-ratio", "0.25", "1", "--seeds", "2"]
    options += ["--workers", "0", "--csv", table, "--quiet"]
    with pytest.raises(SystemExit) as stop:
        main([str(option) for option in options])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert "SSNAS" in told and f"written: {table} " in told
    assert len(read_study(table)) == 8
    assert table.with_suffix(".md").exists() and table.with_suffix(".png").exists()
    assert LABEL_RATIOS == (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def test_command_takes_other_backbones_than_the_recipe(tiny_data, tmp_path, monkeypatch):
    asked = []

    def only_asked(study, *_, **__):
        asked.append(study)
        raise InputError("asked")

    monkeypatch.setattr(runner, "run_study", only_asked)
    options = ["study", "--data", tiny_data, "--out", tmp_path, "--recipe", "classroom"]
    options += ["--prepare.text", "transformers:encoder", "--prepare.views", "2"]
    with pytest.raises(SystemExit):
        main([str(option) for option in options])
    recipe = RECIPES["classroom"]
    prepare = dataclasses.replace(recipe.prepare, text="transformers:encoder", views=2)
    assert asked[0].recipe == dataclasses.replace(recipe, prepare=prepare)


COMMAND = """
import pickle
import signal
import sys
from ssnas_core.cli.main import main
from ssnas_core.runs.recipes import RECIPES

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    RECIPES["two-core"] = pickle.load(open(sys.argv[1], "rb"))
    main(sys.argv[2:])
"""


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_says_one_line_and_no_worker_more(number, tiny_data, tiny_recipe,
                                                              tiny_store, tmp_path):  # fmt: skip
    import pickle

    (tmp_path / "recipe.pickle").write_bytes(pickle.dumps(tiny_recipe))
    script, out, said = tmp_path / "script.py", tmp_path / "study", tmp_path / "stderr"
    script.write_text(COMMAND)
    options = ["study", "--data", tiny_data, "--out", out, "--store", tiny_store, "--workers", "1"]
    options += ["--methods", *SMALL, "--label-ratio", "0.25", "1", "--seeds", "9", "--quiet"]
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, script, tmp_path / "recipe.pickle", *options],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=stderr, start_new_session=True,
        )  # fmt: skip
    while scored(out) < 1 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does, or a cluster
    assert process.wait(60) == 128 + number
    assert said.read_text() == "ssnas: stopped; the same command goes on from here.\n"


def command_study(*options: object) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["study", *map(str, options), "--workers", "0", "--quiet"])
    assert stop.value.code == 2


def test_command_tells_why_no_cell_could_be_scored(tiny_data, tiny_recipe, tiny_store, tmp_path,
                                                   monkeypatch, capsys):  # fmt: skip
    monkeypatch.setitem(RECIPES, "two-core", tiny_recipe)
    command_study("--data", tiny_data, "--out", tmp_path, "--store", tiny_store, "--seeds", 1,
                  "--methods", "late concat", "random", "--label-ratio", 0.001)  # fmt: skip
    told = capsys.readouterr().err
    assert "no cell of the study is scored: late concat, r = 0.001, " in told
    assert "(and 1 more)" in told


def test_command_refuses_a_table_named_as_its_report_before_any_work(tmp_path, capsys):
    command_study("--data", tmp_path / "none", "--out", tmp_path / "out",
                  "--csv", tmp_path / "study.md")  # fmt: skip
    assert "expected a table named unlike" in capsys.readouterr().err
