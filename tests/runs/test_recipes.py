"""Recipes and run configurations: they survive a round trip, and bad values are refused."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_json, write_json
from ssnas_core.datasets.records import Dataset, Record, load_dataset, save_dataset
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.prepare import prepare
from ssnas_core.models.folder import whole_folder
from ssnas_core.runs.folder import RunFolder
from ssnas_core.runs.recipes import RECIPES, Recipe, RunConfig
from ssnas_core.spaces.fusion.space import FusionConfig

VARIANTS = {
    "defaults": {},
    "other axes": {"objective": "supervised", "strategy": "random", "label_ratio": (0.3,)},
    "labels in backbones": {
        "backbones": "supervised",
        "label_ratio": (0.2,),
        "space": "layers",
        "strategy": "surrogate",
    },
    "backbones": {"backbones": "trained", "inherit": True, "seed": 7, "label_ratio": (1, 0.05)},
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_run_configuration_survives_a_json_round_trip(recipe, variant, tmp_path):
    config = RunConfig(data=tmp_path, recipe=RECIPES[recipe], **VARIANTS[variant])
    again = RunConfig.from_plain(json.loads(json.dumps(config.plain())))
    assert again.plain() == config.plain()
    axes = ("space", "objective", "strategy", "sizes", "seed", "label_ratio", "views", "backbones")
    assert all(getattr(again, name) == getattr(config, name) for name in axes)
    assert dataclasses.replace(again.recipe, parts=config.recipe.parts) == config.recipe
    assert isinstance(again.data, Path) and isinstance(again.label_ratio, tuple)


OTHER = {
    "chosen": "cells",
    "step": "epoch",
    "pairs": "released",
    "softmax": "gumbel",
    "argmax": "perturbation",
    "never": "eigenvalue",
    "simclr": "comm",
    "words": "sentences",
}


def test_no_setting_is_lost_on_the_way(tmp_path):
    """Each setting of a run, changed alone, is told apart by `plain` and comes back."""

    def variants(value):
        for field in dataclasses.fields(value):
            old = getattr(value, field.name)
            if dataclasses.is_dataclass(old):
                changed = variants(old)
            elif isinstance(old, bool):
                changed = [not old]
            elif isinstance(old, str):
                changed = [OTHER.get(old, old + "x")]
            elif isinstance(old, tuple):
                changed = [old[::-1]] if old != old[::-1] else []
            elif old is None:
                changed = [
                    {"image_size": (48, 32), "taps": 1, "budget": 10**6}.get(field.name, 0.2)
                ]
            elif field.name == "length":
                changed = [25] if isinstance(value, PrepareConfig) else []  # one for both
            elif isinstance(old, dict):
                changed = [{}]
            else:
                changed = [old * 2 or type(old)(0.5) or 1] if not 0 < old < 1 else [old / 2]
            yield from (dataclasses.replace(value, **{field.name: new}) for new in changed)

    space = dataclasses.replace(RECIPES["two-core"].space("fusion"), output="chosen")
    base = RunConfig(data=tmp_path, objective="hybrid", label_ratio=(0.1,), space=space)
    parts = {
        axis: list(variants(getattr(base, axis))) for axis in ("space", "objective", "strategy")
    }
    parts["recipe"] = list(variants(dataclasses.replace(RECIPES["two-core"], parts=())))
    assert sum(map(len, parts.values())) > 70
    plains = set()
    for name, ones in parts.items():
        for one in ones:
            length = getattr(one, "prepare", base.recipe.prepare).length
            space = dataclasses.replace(one if name == "space" else base.space, length=length)
            config = dataclasses.replace(base, **{name: one, "space": space})
            text = json.dumps(config.plain())
            again = RunConfig.from_plain(json.loads(text))
            assert again.plain() == config.plain()
            plains.add(text)
    assert len(plains) == sum(map(len, parts.values()))


def test_data_is_told_as_one_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = {RunConfig(data=Path(name)).plain()["data"] for name in ("a", "./a", "b/../a")}
    assert told == {str(tmp_path.resolve() / "a")}


NAMES = [
    "movies.csv",
    "café",
    "数据",
    "映画　一覧",
    "a\u00a0b",
    "zero\u200bwidth",
    "$x",
    "e\u0301",
    "😀",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_any_letters_comes_back_from_a_run_and_from_its_records(name, tmp_path):
    folder = tmp_path / name
    vectors = PrepareConfig(text=f"word2vec:{folder / 'v.txt'}")
    recipe = dataclasses.replace(RECIPES["two-core"], prepare=vectors)
    write_json(tmp_path / "config.json", RunConfig(data=folder, recipe=recipe).plain())
    again = RunConfig.from_plain(read_json(tmp_path / "config.json"))
    assert again.data == folder and again.recipe.prepare == vectors
    record = Record("a", {"image": folder / "a.jpg"}, ("b",), "train")
    save_dataset(Dataset("d", {"image": "image"}, ("b",), (record,)), tmp_path / "d.json")
    assert load_dataset(tmp_path / "d.json").records == (record,)


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xff", b"\xc3(", b"\x93a", b"a\nb", b"a\x1b[1mb"])
def test_a_path_that_no_file_could_hold_is_refused_wherever_it_stands(name, tmp_path):
    folder = tmp_path / os.fsdecode(name)
    message = "expected a path .*rename the folder or file"
    with pytest.raises(InputError, match=message):
        RunConfig(data=folder / "movies.csv").plain()
    with pytest.raises(InputError, match=message):
        PrepareConfig(text=f"word2vec:{folder / 'v.txt'}").plain()
    with pytest.raises(InputError, match=message):
        RunFolder(folder, {})
    with pytest.raises(InputError, match=message):
        prepare(tmp_path / "movies.csv", folder)
    with pytest.raises(InputError, match=message), whole_folder(folder):
        pass
    record = Record("a", {"image": folder / "a.jpg"}, ("b",), "train")
    with pytest.raises(InputError, match=message):
        save_dataset(Dataset("d", {"image": "image"}, ("b",), (record,)), tmp_path / "d.json")
    assert not list(tmp_path.iterdir())


def test_default_recipe_is_the_one_for_two_cores():
    assert RunConfig(data=Path("x")).recipe == RECIPES["two-core"]


NINE = Recipe(prepare=PrepareConfig(length=9))


@pytest.mark.parametrize("recipe", [*RECIPES.values(), Recipe(), NINE], ids=[*RECIPES, "-", "nine"])
def test_fusion_network_takes_the_positions_that_the_recipe_stores(recipe):
    assert recipe.space("fusion").length == recipe.prepare.length
    assert RunConfig(data=Path("x"), recipe=recipe).sizes.length == recipe.prepare.length
    layers = RunConfig(data=Path("x"), space="layers", strategy="random", recipe=recipe)
    assert layers.sizes == recipe.space("fusion")
    other = FusionConfig(length=25)
    with pytest.raises(InputError, match=r"FusionConfig.length = \d+, .*, got 25; give both"):
        RunConfig(data=Path("x"), space=other, recipe=recipe)


def test_published_recipe_has_the_published_sizes():
    """BM-NAS on MM-IMDB, Table 8 (arXiv:2104.09379)."""
    recipe = RECIPES["bm-nas"]
    fusion, search = recipe.space("fusion"), recipe.strategy("bilevel")
    sizes = (fusion.channels, fusion.length, fusion.cells, fusion.steps)
    assert (recipe.prepare.image, recipe.prepare.text, *sizes) == ("vgg19", "maxout", 192, 16, 2, 1)
    assert (search.epochs, search.batch_size) == (12, 96)
    assert (search.learning_rate, search.min_learning_rate, search.weight_decay) == (
        1e-3, 1e-6, 1e-4,
    )  # fmt: skip
    assert (search.arch_learning_rate, search.arch_weight_decay) == (3e-4, 1e-3)


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_ratio": ()}, r"expected label ratios, each once, got \[\]"),
        ({"label_ratio": (0.1, 0.1)}, r"each once, got \[0\.1, 0\.1\]"),
        ({"label_ratio": (0.1, 0.0)}, r"label ratio must be in \(0, 1\], got 0\.0"),
        ({"label_ratio": (1.5,)}, r"in \(0, 1\], got 1\.5"),
        ({"label_ratio": (-0.1,)}, r"in \(0, 1\], got -0\.1"),
        ({"label_ratio": (NAN,)}, r"in \(0, 1\], got nan"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"objective": "supervised"}, "every label ratio needs a search .* got 2 ratios"),
        ({"objective": "Contrastive"}, "unknown objective 'Contrastive'; expected contrastive, sw"),
        ({"strategy": "bi-level"}, "unknown strategy 'bi-level'; expected bilevel, .*, surrogate"),
        ({"strategy": "json:dumps"}, "strategy: expected a name or a part with a method search"),
        ({"space": FusionConfig}, r"expected an object, got the class FusionConfig"),
        ({"space": "layers"}, "the space 'layers' has no supernet for the strategy 'bilevel'"),
        ({"backbones": True}, r"backbones must be one of \('frozen', .*, got True"),
        (
            {"strategy": "random", "inherit": True},
            "only a search of a supernet, as bilevel or gates, has weights",
        ),
    ],
)
def test_run_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        RunConfig(data=Path("x"), **change)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("prepare", {"views": 0}, "views >= 1 beside the clean one, got 0"),
        ("prepare", {"length": 6}, "length must be a square number .* got 6"),
        ("prepare", {"length": -4}, "length must be a square number .* got -4"),
        ("space:fusion", {"channels": 0}, "channels must be >= 1, got 0"),
        ("space:fusion", {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1\.0"),
        ("strategy:bilevel", {"epochs": 0}, "epochs must be >= 1, got 0"),
        ("strategy:random", {"trials": 0}, "trials must be >= 1, got 0"),
        ("pretrain", {"epochs": 0}, "epochs must be >= 1, got 0"),
        ("finetune", {"learning_rate": NAN}, "learning_rate must be > 0, got nan"),
    ],
)
def test_recipe_that_cannot_work_is_refused_before_anything_runs(part, change, message):
    axis, _, name = part.partition(":")
    config = getattr(Recipe(), axis)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(config(name) if name else config, **change)


def edited(*place, value):
    """A run's configuration with the value at `place` replaced, or removed where it is None."""
    document = json.loads(json.dumps(RunConfig(data=Path("x")).plain()))
    part = document
    for key in place[:-1]:
        part = part[key]
    if value is None:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return document


@pytest.mark.parametrize(
    "document",
    [
        {},
        edited("seed", value=None),
        edited("recipe", value=None),
        edited("recipe", value=3),
        edited("recipe", value=[]),
        edited("strategy", value="bilevel"),
        edited("strategy", "momentum", value=0.9),
        edited("space", "channels", value="8"),
        edited("space", "name", value="os:system"),
        edited("recipe", "parts", value=[3]),
        edited("recipe", "pretrain", "epochs", value=0),
        edited("label_ratio", value=0.1),
        edited("label_ratio", value=["0.1"]),
        edited("seed", value="0"),
        edited("objective", value="other"),
        edited("strategy", value=["bilevel"]),
        edited("data", value=3),
    ],
)
def test_configuration_edited_by_hand_is_refused(document):
    with pytest.raises(InputError, match=r"not a run configuration \(.*\); make the run anew\.$"):
        RunConfig.from_plain(document)


def in_memory(labels=("Drama", "Crime"), value=0.0):
    rows = [
        Record(str(n), {"a": np.full(2, value, np.float32), "b": "text"}, (labels[n % 2],), split)
        for n, split in enumerate(("train", "train", "dev", "dev", "test", "test"))
    ]
    return Dataset("toy", {"a": "array", "b": "text"}, ("Crime", "Drama"), tuple(rows))


def test_data_set_in_memory_is_told_by_its_content_and_labels():
    told = RunConfig(data=in_memory()).plain()["data"]
    assert told.startswith("dataset:toy:") and told == RunConfig(data=in_memory()).plain()["data"]
    for other in (in_memory(value=1.0), in_memory(labels=("Crime", "Drama"))):
        assert RunConfig(data=other).plain()["data"] != told
    json.dumps(RunConfig(data=in_memory()).plain())


def test_configuration_of_a_data_set_in_memory_comes_back_as_it_was(tmp_path, monkeypatch):
    plain = json.loads(json.dumps(RunConfig(data=in_memory()).plain()))
    monkeypatch.chdir(tmp_path)
    assert json.loads(json.dumps(RunConfig.from_plain(plain).plain())) == plain
