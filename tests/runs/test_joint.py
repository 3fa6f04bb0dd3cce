"""Facts about runs that search backbone and fusion together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ssnas_core.cli.main import main
from ssnas_core.common.errors import InputError
from ssnas_core.models.classifier import MultimodalClassifier, classifier_of
from ssnas_core.runs.recipes import RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.spaces.cells.space import CellsConfig
from ssnas_core.spaces.genotype import Genotype

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    """The movies' pixels, and few cells over them."""
    prepare = replace(tiny_recipe.prepare, image="pixels", image_size=(8, 8))
    parts = (*tiny_recipe.parts, CellsConfig(cells=3, nodes=2, channels=2, stem=1))
    return replace(tiny_recipe, prepare=prepare, parts=parts)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def command(*options: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*options, "--quiet"])
    assert stop.value.code == 0


@pytest.mark.parametrize("strategy", ["bilevel", "gates", "random", "evolution", "tpe"])
def test_every_strategy_but_the_growing_one_searches_both(
    strategy, recipe, tiny_data, store, tmp_path
):
    config = RunConfig(data=tiny_data, recipe=recipe, space="joint", strategy=strategy)
    run = Run(config, tmp_path / "run", store=store, device="cpu")
    genotype = run.search()
    assert [*run.space.split(genotype)] == ["image", ""]
    assert (tmp_path / "run" / "genotype.png").exists()


def test_a_growing_strategy_and_other_lengths_are_refused(recipe, tiny_data):
    with pytest.raises(InputError, match="no extensions for the strategy 'surrogate'"):
        RunConfig(data=tiny_data, recipe=recipe, space="joint", strategy="surrogate")
    space = recipe.space("joint")
    with pytest.raises(InputError, match="FusionConfig.length = 4"):
        RunConfig(
            data=tiny_data,
            recipe=recipe,
            space=replace(space, fusion=replace(space.fusion, length=9)),
        )
    small = replace(recipe, prepare=replace(recipe.prepare, image="small"))
    with pytest.raises(InputError, match="what the backbone small makes of it"):
        RunConfig(data=tiny_data, recipe=small, space="joint")


def test_a_whole_run_inherits_is_saved_and_predicts(recipe, tiny_data, store, tmp_path):
    config = RunConfig(
        data=tiny_data, recipe=recipe, space="joint", inherit=True, label_ratio=(1.0,)
    )
    run = Run(config, tmp_path / "run", store=store, device="cpu")
    result = run.run()
    assert {row["method"] for row in result["scores"]} >= {"found, pretrained", "late concat"}
    again = RunConfig.from_plain(json.loads((tmp_path / "run" / "config.json").read_text()))
    assert again.space == recipe.space("joint")
    model = classifier_of(run, "found, pretrained", 1.0)
    model.save_pretrained(tmp_path / "model")
    loaded = MultimodalClassifier.from_pretrained(tmp_path / "model")
    inputs = run.prepared.dataset.records[0].inputs
    row = {"image": run.prepared.live().inputs.columns["image"][0], "text": inputs["text"]}
    assert loaded.predict(row) == model.predict(row)


def test_the_command_line_has_the_sizes_of_both(tiny_data, tmp_path):
    out = tmp_path / "run"
    text = """
        --space joint --strategy gates --strategy.epochs 1 --prepare.image pixels
        --prepare.image-size 8 8 --prepare.views 1
        --space.cells.channels 2 --space.cells.nodes 1 --space.fusion.channels 4
        --pretrain.epochs 1 --finetune.epochs 1 --finetune.min-steps 1 --label-ratio 1
    """
    options = text.split()
    command("run", "--data", str(tiny_data), "--out", str(out), *options)
    found = Genotype.load(out / "genotype.json")
    assert found.space == "joint" and "image normal_2" in {node.name for node in found.nodes}
    assert json.loads((out / "config.json").read_text())["space"]["fusion"]["channels"] == 4


def test_cells_that_a_run_found_are_the_backbone_of_another(recipe, tiny_data, tmp_path):
    posters = tmp_path / "posters"
    small = ["--space.cells", "3", "--space.channels", "2", "--strategy.trials", "1"]
    options = [
        *("--recipe", "digits", "--space", "cells", "--strategy", "random", *small),
        *("--strategy.train.epochs", "1", "--pretrain.epochs", "1", "--finetune.epochs", "1"),
        *("--finetune.min-steps", "1", "--label-ratio", "1"),
    ]
    data = f"posters:{tiny_data}"
    command("run", "--data", data, "--out", str(posters), *options)
    prepare = replace(
        recipe.prepare, image=f"cells:{posters / 'genotype.json'}", image_size=(16, 16)
    )
    config = RunConfig(data=tiny_data, recipe=replace(recipe, prepare=prepare), label_ratio=(1.0,))
    run = Run(config, tmp_path / "run", device="cpu")
    assert 0 <= run.evaluate("found, pretrained", 1.0)["weighted_f1"] <= 1
    assert run.prepared.store.channels["image_2"] == 4 * 8  # C doubles where a cell reduces
