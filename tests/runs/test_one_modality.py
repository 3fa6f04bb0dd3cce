"""A run of one modality goes all the way: digits, their pixels, and convolutional cells."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.digits import digits
from ssnas_core.datasets.records import Dataset
from ssnas_core.models.classifier import MultimodalClassifier, classifier_of
from ssnas_core.runs.methods import methods_of
from ssnas_core.runs.recipes import RECIPES, RunConfig
from ssnas_core.runs.run import Run
from ssnas_core.search.bilevel import BilevelConfig
from ssnas_core.search.evolution import EvolutionConfig
from ssnas_core.search.random import RandomConfig
from ssnas_core.search.tpe import TPEConfig
from ssnas_core.spaces.cells.space import CellsConfig
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.training.loop import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

BRIEF = TrainConfig(epochs=1, batch_size=32)
SIZES = CellsConfig(cells=3, nodes=2, channels=2)
STRATEGIES = {
    "tpe": TPEConfig(trials=2, startup=1, train=BRIEF),
    "random": RandomConfig(trials=2, train=BRIEF),
    "evolution": EvolutionConfig(trials=3, population=2, sample=2, train=BRIEF),
    "bilevel": BilevelConfig(epochs=1, batch_size=32),
    "gumbel, second order": BilevelConfig(epochs=1, batch_size=32, sampling="gumbel", order=2),
    "perturbation": BilevelConfig(epochs=1, batch_size=32, select="perturbation"),
}


@pytest.fixture(scope="module")
def few() -> Dataset:
    """A hundred of the digits."""
    return replace(digits(), records=digits().records[:100])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def configured(data, **options) -> RunConfig:
    recipe = replace(
        RECIPES["digits"],
        prepare=replace(RECIPES["digits"].prepare, views=2),
        parts=(SIZES, FusionConfig(channels=4)),
        pretrain=BRIEF,
        finetune=BRIEF,
    )
    return RunConfig(data=data, recipe=recipe, label_ratio=(1.0,), **{"space": SIZES, **options})


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_searches_cells(name, few, store, tmp_path):
    config = configured(few, strategy=STRATEGIES[name])
    run = Run(config, tmp_path / "run", store=store, device="cpu")
    genotype = run.search()
    assert genotype.space == "cells" and genotype.features == ("image_0",)
    assert (tmp_path / "run" / "genotype.png").exists()


def test_a_whole_run_scores_every_method_and_its_model_reads_images(few, store, tmp_path):
    config = configured(few, strategy=STRATEGIES["tpe"])
    run = Run(config, tmp_path / "run", store=store, device="cpu")
    result = run.run()
    methods = [row["method"] for row in result["scores"]]
    assert methods == ["image only", "random", "found", "found, pretrained"]
    assert all(0 <= row["accuracy"] <= 1 for row in result["scores"])
    assert run.prepared.store.positions == {"image_0": 64}
    again = RunConfig.from_plain(json.loads((tmp_path / "run" / "config.json").read_text()))
    assert again.space == SIZES
    for method in ("found", "image only"):
        model = classifier_of(run, method, 1.0)
        model.save_pretrained(tmp_path / method)
        loaded = MultimodalClassifier.from_pretrained(tmp_path / method)
        image = few.records[0].inputs["image"]
        predicted = loaded.predict({"image": image})
        assert predicted == model.predict({"image": image}) and len(predicted) == 10
        features = run.prepared.store.clean(torch.tensor([0]))
        probabilities = model.probabilities(features)[0]
        np.testing.assert_allclose(
            [predicted[str(k)] for k in range(10)], probabilities.detach(), atol=1e-3
        )


@pytest.mark.parametrize("method", ["gmu", "centralnet", "late concat", "image transfer"])
def test_other_baselines_read_pixels_too(method, few, store, tmp_path):
    run = Run(configured(few), tmp_path / "run", store=store, device="cpu")
    assert 0 <= run.evaluate(method, 1.0)["accuracy"] <= 1


def test_pretraining_inherits_the_supernet_s_weights(few, store, tmp_path):
    config = configured(few, strategy=STRATEGIES["bilevel"], inherit=True)
    run = Run(config, tmp_path / "run", store=store, device="cpu")
    assert 0 <= run.evaluate("found, pretrained", 1.0)["accuracy"] <= 1


def test_one_modality_is_not_concatenated_with_itself():
    assert [str(method) for method in methods_of(["image"])] == [
        "image only", "random", "found", "found, pretrained",
    ]  # fmt: skip
    assert "late concat" in map(str, methods_of(["image", "text"]))


def test_cells_over_a_backbone_that_is_trained_are_refused_before_any_work(few):
    with pytest.raises(InputError, match="pixels of an image, got what the backbone small makes"):
        RunConfig(data=few, space="cells")


def test_the_fusion_space_says_that_pixels_alone_are_nothing_to_fuse(few, store, tmp_path):
    run = Run(configured(few, space="fusion"), tmp_path / "run", store=store, device="cpu")
    with pytest.raises(InputError, match=r"at least two features, got \['image_0'\]; .* cells"):
        run.search()
