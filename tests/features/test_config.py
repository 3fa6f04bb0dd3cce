"""Facts about the configuration of a preparation, and about backbones of one's own in it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.arrays import ArrayDataset
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.prepare import _stamp, prepare
from ssnas_core.training.loop import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")


class Mixed(nn.Module):
    """Rows of 6 numbers and a projection, which is trained."""

    learns = True

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"rows": rows, "mixed": self.linear(rows).relu()}


@pytest.fixture
def dataset() -> ArrayDataset:
    rows = np.random.default_rng(0).normal(5, 2, (40, 6)).astype(np.float32)
    split = ["train"] * 20 + ["dev"] * 10 + ["test"] * 10
    return ArrayDataset({"a": rows, "b": rows[::-1].copy()}, np.arange(40) % 2, split=split)


def config_of(array: nn.Module | str) -> PrepareConfig:
    training = TrainConfig(epochs=1, batch_size=10)
    return PrepareConfig(array=array, views=1, array_training=training)


def round_trip(config: PrepareConfig) -> PrepareConfig:
    return PrepareConfig.from_plain(json.loads(json.dumps(config.plain())), "recipe.prepare")


def test_configuration_survives_json():
    config = PrepareConfig(image="vgg19", image_size=(64, 32), text="word2vec:v.bin", seed=3)
    assert round_trip(config) == config
    named = replace(config, image=f"{__name__}:Mixed")
    assert round_trip(named) == named


def test_own_backbone_is_trained_stored_and_comes_back(dataset, tmp_path):
    module = Mixed()
    before = module.linear.weight.clone()
    made = prepare(dataset, tmp_path, config_of(module))
    assert torch.equal(module.linear.weight, before)  # a copy of it was trained
    assert made.store.channels == {"a_0": 6, "a_1": 4, "b_0": 6, "b_1": 4}
    backbones = made.backbones()
    assert not torch.equal(backbones["a"].state_dict()["module.linear.weight"], before)
    rows = torch.arange(40)
    with torch.inference_mode():
        live = made.taps().eval()(made.live().clean(rows))
    for name, value in made.store.clean(rows).items():
        torch.testing.assert_close(live[name], value, rtol=1e-3, atol=1e-3)
    assert prepare(dataset, tmp_path, config_of(module)).folder == made.folder
    with torch.no_grad():
        module.linear.weight.zero_()
    assert prepare(dataset, tmp_path, config_of(module)).folder != made.folder


def test_named_backbone_of_ones_own_is_made_from_the_seed(dataset, tmp_path):
    config = config_of(f"{__name__}:Mixed")
    folders = {prepare(dataset, tmp_path, config).folder for _ in range(2)}
    folders.add(prepare(dataset, tmp_path, replace(config, seed=1)).folder)
    assert len(folders) == 2


def test_object_from_a_file_is_a_name_that_says_what_to_do(dataset, tmp_path):
    config = round_trip(config_of(Mixed()))
    assert isinstance(config.array, str) and round_trip(config) == config
    with pytest.raises(InputError, match="was an object, .* give the object again"):
        prepare(dataset, tmp_path, config)


@pytest.mark.parametrize("name", ["brought:Net", "brought.net:Net#0123456789abcdef"])
def test_a_file_never_causes_an_import(name):
    values = {**PrepareConfig().plain(), "image": name}
    with pytest.raises(InputError, match=r"^recipe\.prepare\.image: .*import brought.* first"):
        PrepareConfig.from_plain(values, "recipe.prepare")


@pytest.mark.parametrize("values", [None, [], {"image": 3}, {"image": None}, {"imago": "small"}])
def test_file_of_another_form_is_refused(values):
    with pytest.raises(InputError, match="^recipe.prepare"):
        PrepareConfig.from_plain(values, "recipe.prepare")


@pytest.mark.parametrize("name", ["timm:resnet18@{}", "word2vec:{}", "transformers:{}"])
def test_files_that_a_name_leads_to_are_part_of_a_preparation(name, tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"12345")
    (((found, size, _),)) = _stamp(name.format(file))
    assert (found, size) == ("weights.bin", 5)
    assert _stamp("timm:resnet18") == _stamp("small") == _stamp(Mixed()) == []
