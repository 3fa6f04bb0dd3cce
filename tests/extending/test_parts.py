"""One's own part goes through Run, a study, a saved model and the command line: one file each.

The package `own` stands beside this file, as somebody else would write it: nothing of
`ssnas_core` is edited, patched or registered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ssnas_core import (
    FusionConfig,
    MultimodalClassifier,
    Run,
    RunConfig,
    StudyConfig,
    classifier_of,
    run_study,
)
from ssnas_core.cli.main import main
from ssnas_core.common.errors import InputError
from ssnas_core.common.parts import Parts
from ssnas_core.runs.recipes import RECIPES
from ssnas_core.spaces import SPACES

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent
POSTER = np.zeros((3, 32, 24), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def importable(tiny_recipe):
    """The package `own` can be imported, and the recipe "two-core" is a tiny one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(HERE))
        patched.setitem(RECIPES, "two-core", tiny_recipe)
        yield


def objects(kind):
    """The part of that kind as `RunConfig` takes it in Python."""
    import own.operator
    from own.backbone import Stripes
    from own.objective import Decorrelation
    from own.space import OneFeatureConfig
    from own.strategy import Untrained

    recipe = RECIPES["two-core"]
    return {
        "space": {"space": OneFeatureConfig(width=6)},
        "objective": {"objective": Decorrelation(out=3)},
        "strategy": {"strategy": Untrained(trials=2)},
        "operator": {
            "space": dataclasses.replace(
                recipe.space("fusion"), operators=(f"{own.operator.__name__}:Hadamard",)
            ),
        },
        "backbone": {
            "recipe": dataclasses.replace(
                recipe, prepare=dataclasses.replace(recipe.prepare, image=Stripes())
            )
        },
        "baseline": {},
    }[kind]


OPTIONS = {
    "space": ("--space", "own.space:OneFeatureConfig", "--space.width", 6),
    "objective": ("--objective", "own.objective:Decorrelation", "--objective.out", 3),
    "strategy": ("--strategy", "own.strategy:Untrained", "--strategy.trials", 2),
    "operator": ("--space.operators", "own.operator:Hadamard"),
    "backbone": ("--prepare.image", "own.backbone:Stripes"),
    "baseline": (),
}
METHOD = dict.fromkeys(OPTIONS, "found") | {
    "objective": "found, pretrained",
    "baseline": "own.baseline:Mean",
}


def call(*arguments):
    """What the command prints, as JSON."""
    out, err = io.StringIO(), io.StringIO()
    quiet = (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err))
    with quiet[0], quiet[1], pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in (*arguments, "--json", "--quiet")])
    assert not stop.value.code, err.getvalue()
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def evaluated(tiny_data, tiny_store, tmp_path_factory):
    """What makes a run with one's own part of a kind, once: the run, its store and its scores."""

    @functools.cache
    def make(kind):
        folder = tmp_path_factory.mktemp(kind)
        store = folder / "store" if kind == "backbone" else tiny_store
        config = RunConfig(data=tiny_data, label_ratio=(0.25,), **objects(kind))
        run = Run(config, folder / "run", store=store, device="cpu")
        return run, store, run.evaluate(METHOD[kind], 0.25)

    return make


@pytest.mark.parametrize("kind", OPTIONS)
def test_own_part_goes_through_run_and_model(kind, evaluated, tmp_path):
    run, _, scores = evaluated(kind)
    assert 0 <= scores["weighted_f1"] <= 1
    # the folder names the part, and opens again
    again = RunConfig.from_plain(json.loads((run.folder / "config.json").read_text()))
    assert again.plain() == run.config.plain()
    assert Run(again, run.folder.path, device="cpu").evaluate(METHOD[kind], 0.25) == scores
    # a saved model gives what the run's model gives
    model = classifier_of(run, METHOD[kind], 0.25)
    model.save_pretrained(tmp_path / "model")
    sample = {"image": POSTER, "text": "ship robot queen"}
    loaded = MultimodalClassifier.from_pretrained(tmp_path / "model")
    assert loaded.predict(sample) == model.predict(sample)


@pytest.mark.parametrize("kind", OPTIONS)
def test_command_gives_the_scores_of_own_part_from_options_alone(
    kind, evaluated, tiny_data, tmp_path
):
    _, store, scores = evaluated(kind)
    out = tmp_path / "by command"
    options = ("--data", tiny_data, "--out", out, "--store", store, "--device", "cpu")
    call("search", *options, "--label-ratio", 0.25, *OPTIONS[kind])
    told = call("evaluate", "--run", out, "--method", METHOD[kind], "--label-ratio", 0.25,
                "--device", "cpu")  # fmt: skip
    named = {name: told[name] for name in scores}
    assert named == scores or kind == "backbone"  # whose weights the command draws itself
    call("save", "--run", out, "--method", METHOD[kind], "--out", tmp_path / "saved")
    raw = ("--plot", "ship robot queen", "--poster", tiny_data / "dataset" / "m00.jpeg")
    assert call("predict", "--model", tmp_path / "saved", *raw)["probabilities"]


def test_own_parts_together_are_a_method_of_a_study(tiny_data, tiny_store, tmp_path):
    from own.study import MINE

    study = StudyConfig(
        data=tiny_data, methods=(MINE, "own.baseline:Mean", "late concat"), label_ratio=(0.25,),
        seeds=1, recipe=RECIPES["two-core"],
    )  # fmt: skip
    rows, problems = run_study(study, tmp_path / "python", store=tiny_store, workers=0)
    assert problems == [] and [row["method"] for row in rows] == [
        "mine", "own.baseline:Mean", "late concat",
    ]  # fmt: skip
    told = call(
        "study", "--data", tiny_data, "--out", tmp_path / "command", "--store", tiny_store,
        "--methods", "own.study:MINE", "--label-ratio", 0.25, "--seeds", 1, "--workers", 0,
    )  # fmt: skip
    assert [(row["method"], row["score"]) for row in told["rows"]] == [("mine", rows[0]["score"])]


def test_own_data_set_is_named_by_the_command_and_given_in_python(tmp_path):
    from own.dataset import shared

    config = RunConfig(data=shared(), label_ratio=(0.5,), recipe=RECIPES["two-core"])
    run = Run(config, tmp_path / "python", store=tmp_path / "store", device="cpu")
    scores = run.evaluate("found", 0.5)
    out = tmp_path / "command"
    call("search", "--data", "own.dataset:shared", "--out", out, "--label-ratio", 0.5,
         "--device", "cpu", "--store", tmp_path / "store")  # fmt: skip
    assert len(list((tmp_path / "store").glob("prepared-*"))) == 1  # the same data
    told = call("evaluate", "--run", out, "--method", "found", "--label-ratio", 0.5,
                "--device", "cpu")  # fmt: skip
    assert {name: told[name] for name in scores} == scores


def test_arrays_in_a_file_are_a_data_set(tmp_path):
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 3
    sound = (classes[:, None] + rng.normal(size=(60, 4))).astype(np.float32)
    words = np.array([("sea sun", "ice fog", "red sky")[c] for c in classes])
    np.savez(tmp_path / "data.npz", sound=sound, words=words, labels=classes)
    out = tmp_path / "run"
    call("search", "--data", tmp_path / "data.npz", "--out", out, "--label-ratio", 0.5,
         "--device", "cpu")  # fmt: skip
    told = call("evaluate", "--run", out, "--method", "late concat", "--label-ratio", 0.5,
                "--device", "cpu")  # fmt: skip
    assert 0 <= told["accuracy"] <= 1


def test_file_that_names_a_part_imports_nothing(evaluated, tmp_path, monkeypatch):
    run, _, _ = evaluated("space")
    classifier_of(run, "found", 0.25).save_pretrained(tmp_path / "model")
    config = json.loads((run.folder / "config.json").read_text())
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        monkeypatch.delitem(sys.modules, name)  # as in a process that has just begun
    with pytest.raises(InputError, match=r"import own\.space first"):
        RunConfig.from_plain(config)
    with pytest.raises(InputError, match=r"import own\.space first"):
        MultimodalClassifier.from_pretrained(tmp_path / "model")
    assert "own" not in sys.modules
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stderr(io.StringIO()):
        main(["show", str(run.folder.path), "--parts", "no_such_module", "--quiet"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--space", "no_module:Config", "cannot import the space 'no_module:Config'"),
        (
            "--space",
            "own.space",
            "unknown space 'own.space'; expected fusion, layers, encdec, cells, joint, or one",
        ),
        ("--strategy", "own.space:OneFeatureConfig", "a part with a method search"),
        ("--objective", "os.path:join", "a part with a method loss"),
        ("--space.operators", "own.operator:Sum", "cannot import the operator"),
    ],
)
def test_name_that_leads_to_no_part_is_refused(option, value, message, tiny_data, tmp_path):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main(["run", "--data", str(tiny_data), "--out", str(tmp_path / "run"), option, value])
    assert stop.value.code == 2 and message in err.getvalue(), err.getvalue()
    assert err.getvalue().count("\n") == 1 and not (tmp_path / "run").exists()


def test_list_names_every_part_and_ones_own():
    told = call("list", "--parts", "own.space", "own.operator")
    names = {kind: {row["name"] for row in rows} for kind, rows in told.items()}
    spaces = {"fusion", "layers", "encdec", "cells", "joint"}
    assert {*spaces, "own.space:OneFeatureConfig"} == names["space"]
    assert "own.operator:Hadamard" in names["operator"]
    assert {"bilevel", "gates", "random", "evolution", "tpe", "surrogate"} == names["strategy"]
    without = {"contrastive", "swapped", "comm", "clip", "matching", "memory-bank"}
    assert {*without, "supervised", "hybrid"} == names["objective"]
    assert "SSNAS" in names["method"] and set(RECIPES) == names["recipe"]
    assert all(row["about"] and row["source"] for rows in told.values() for row in rows)


def test_entry_point_gives_a_part_a_short_name(tmp_path, monkeypatch):
    from own.space import OneFeatureConfig

    metadata = tmp_path / "own-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    points = "[ssnas.space]\none-feature = own.space:OneFeatureConfig\n"
    (metadata / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    installed = Parts("space", SPACES.table).brought  # read anew, as in a new process
    monkeypatch.setitem(vars(SPACES), "brought", installed)
    config = RunConfig(data=Path("x"), space="one-feature")
    plain = config.plain()
    assert plain["space"] == {"name": "one-feature", "width": 8}
    assert RunConfig.from_plain(plain).space == config.space == OneFeatureConfig()


def test_part_defined_inside_a_function_is_refused(tmp_path):
    """No file could name it."""

    class Local(FusionConfig):
        pass

    with pytest.raises(InputError, match="Local is not importable"):
        RunConfig(data=tmp_path, space=Local()).plain()
