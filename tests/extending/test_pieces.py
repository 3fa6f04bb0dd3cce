"""A new operator, space, objective, strategy or data set from outside the package, in a few lines.

Nothing of the package is edited, patched or registered: a part is an argument.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ssnas_core import (
    ArrayDataset,
    Contrastive,
    FusionConfig,
    FusionSpace,
    Genotype,
    Run,
    RunConfig,
    SearchContext,
    SearchResult,
    Supervised,
    TrainConfig,
    bilevel,
    fit,
    predict,
    prepare,
    random_search,
)
from ssnas_core.common.random import seeded
from ssnas_core.spaces.genotype import Node

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def movies_prepared(tiny_data, tiny_store, tiny_recipe):
    return prepare(tiny_data, tiny_store, tiny_recipe.prepare)


@pytest.fixture(scope="module")
def axes(movies_prepared, tiny_recipe):
    """What every search is given beside its space, objective and strategy."""
    parts = {split: movies_prepared.indices(split) for split in ("train", "dev")}
    config = tiny_recipe.strategy("bilevel")
    context = SearchContext(**parts)
    return {"source": movies_prepared.store, "config": config, "context": context, **parts}


def searched(space, axes, **others):
    axes = {"objective": Contrastive(hidden=8, out=4), **axes, **others}
    return bilevel(space, axes["source"], axes["objective"], axes["context"], axes["config"])


# --- an operator


class Hadamard(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x, y):
        return self.scale * x * y


def test_an_operator(axes):
    config = FusionConfig(channels=8, length=4, cells=1)
    space = FusionSpace(axes["source"].channels, config, operators={"Hadamard": Hadamard})
    assert len(list(space.genotypes())) > len(list(FusionSpace(space.channels, config).genotypes()))
    supernet = space.supernet()
    with torch.no_grad():
        supernet.logits["gamma_0_0"][-1] = 9.0
    genotype = space.derive(supernet.logits)
    assert "Hadamard" in [node.operator for node in genotype.nodes]
    network = space.inherit(genotype, supernet.state_dict())
    features = axes["source"].clean(torch.arange(3))
    assert network(features).shape == (3, network.width)
    assert searched(space, axes).genotype.space == "fusion"


# --- a space


class Gate(nn.Module):
    """One number per feature, softmaxed: which vector feature is passed on?"""

    def __init__(self, channels, width):
        super().__init__()
        self.width = width
        self.stems = nn.ModuleDict({name: nn.Linear(c, width) for name, c in channels.items()})
        self.logits = nn.ParameterDict({"choice": nn.Parameter(torch.zeros(len(channels)))})

    def forward(self, features):
        seen = [stem(features[name].mean(1)) for name, stem in self.stems.items()]
        return torch.einsum("f,fnd->nd", self.logits["choice"].softmax(0), torch.stack(seen))


class OneFeature:
    """The smallest space: one feature, alone."""

    def __init__(self, channels):
        self.channels = channels

    def supernet(self):
        return Gate(self.channels, 8)

    def derive(self, logits):
        return self.named(list(self.channels)[int(logits["choice"].argmax())])

    def sample(self, generator):
        place = int(torch.randint(len(self.channels), (), generator=generator))
        return self.named(list(self.channels)[place])

    def build(self, genotype):
        (name,) = genotype.features
        return Gate({name: self.channels[name]}, 8)

    def named(self, feature):
        return Genotype("one feature", (Node("cell_0", "Identity", (feature,)),))


@pytest.mark.parametrize("strategy", [bilevel, random_search])
def test_a_space(axes, tiny_recipe, strategy, tmp_path):
    space = OneFeature(axes["source"].channels)
    config = axes["config"] if strategy is bilevel else tiny_recipe.strategy("random")
    objective = Contrastive(hidden=8, out=4)
    result = strategy(space, axes["source"], objective, axes["context"], config)
    result.genotype.save(tmp_path / "genotype.json")
    assert Genotype.load(tmp_path / "genotype.json") == result.genotype
    assert space.build(result.genotype)(axes["source"].clean(torch.arange(2))).shape == (2, 8)


# --- an objective


class Decorrelation:
    """Barlow Twins (arXiv:2103.03230): correlate the two views, and nothing else."""

    def head(self, width):
        return nn.Linear(width, 4)

    def loss(self, model, source, indices, generator):
        first, second = (model(view) for view in source.augmented(indices, generator, 2))
        first, second = ((z - z.mean(0)) / (z.std(0) + 1e-3) for z in (first, second))
        return (first.T @ second / len(first) - torch.eye(4)).square().sum()

    def report(self, model, source, indices, generator):
        return {}


def test_an_objective(axes, tiny_recipe):
    space = FusionSpace(axes["source"].channels, FusionConfig(channels=8, length=4))
    result = searched(space, axes, objective=Decorrelation())
    space.validate(result.genotype)
    with seeded(0):
        network = space.build(result.genotype)
        model = nn.Sequential(network, Decorrelation().head(network.width))
    history = fit(
        model, axes["source"], Decorrelation(), axes["train"], tiny_recipe.pretrain, seed=0
    )
    assert history[-1]["loss"] < history[0]["loss"]


# --- a strategy


def greedy(space, source, objective, *, train, dev, config, seed):
    """Train each architecture of a small space for one epoch; the lowest loss wins."""
    trials = []
    for genotype in space.genotypes():
        network = space.build(genotype)
        model = nn.Sequential(network, objective.head(network.width))
        loss = fit(model, source, objective, train, config, seed=seed)[-1]["loss"]
        trials.append({"genotype": genotype, "loss": loss})
    best = min(trials, key=lambda trial: trial["loss"])
    return SearchResult(
        best["genotype"], tuple({**t, "genotype": str(t["genotype"])} for t in trials)
    )


def test_a_strategy(axes):
    names = ("image_3", "text_0", "text_1")
    channels = {name: axes["source"].channels[name] for name in names}
    space = FusionSpace(channels, FusionConfig(channels=4, length=4, cells=1))
    config = TrainConfig(epochs=1, batch_size=18)
    parts = {"train": axes["train"], "dev": axes["dev"], "config": config, "seed": 0}
    result = greedy(space, axes["source"], Contrastive(hidden=8, out=4), **parts)
    space.validate(result.genotype)
    assert len(result.history) == len(list(space.genotypes())) == 15
    assert (
        min(t["loss"] for t in result.history)
        == result.history[[t["genotype"] for t in result.history].index(str(result.genotype))][
            "loss"
        ]
    )


# --- a data set


@pytest.fixture(scope="module")
def triples():
    """Three modalities of 90 samples, of which each knows one bit of the class: eight classes."""
    rng = np.random.default_rng(0)
    classes = rng.integers(8, size=90)
    bits = (classes[:, None] >> np.arange(3)) & 1
    sound = (bits[:, :1] + 0.3 * rng.normal(size=(90, 6))).astype(np.float32)
    motion = (bits[:, 1:2, None] + 0.3 * rng.normal(size=(90, 4, 5))).astype(np.float32)
    words = [
        " ".join(rng.choice(("sea", "sun") if bit else ("ice", "fog"), 6)) for bit in bits[:, 2]
    ]
    return {"sound": sound, "motion": motion, "words": words}, classes


def test_a_data_set_of_three_modalities_through_the_whole_pipeline(triples, tiny_recipe, tmp_path):
    inputs, classes = triples
    dataset = ArrayDataset(inputs, classes)
    config = RunConfig(data=dataset, label_ratio=(0.5,), recipe=tiny_recipe)
    result = Run(config, tmp_path / "run", device="cpu").run()
    methods = ["words only", "motion only", "sound only", "late concat", "random", "found"]
    wanted = [*methods, "found, pretrained"]
    assert [row["method"] for row in result["scores"]] == wanted
    assert all(0 <= row["accuracy"] <= 1 and "threshold" not in row for row in result["scores"])
    assert result["data"]["train"] == 63
    again = Run(config, tmp_path / "run", device="cpu")
    assert again.run() == result
    assert set(again.prepared.store.channels) == {
        "sound_0", "sound_1", "sound_2", "motion_0", "words_0", "words_1", "words_2",
    }  # fmt: skip


def test_three_modalities_are_worth_more_than_one(triples, tiny_recipe, tmp_path):
    """The control of the test above: what is stored is what was given, each at its row."""
    inputs, classes = triples
    dataset = ArrayDataset(inputs, classes)
    prepared = prepare(dataset, tmp_path, tiny_recipe.prepare)
    objective = Supervised(labels=torch.from_numpy(dataset.targets()), classes=8)
    scores = {}
    for names in (("sound_0",), ("motion_0",), ("words_0",), ("sound_0", "motion_0", "words_0")):

        class Flat(nn.Module):
            def forward(self, features, names=names):
                return torch.cat([features[name].mean(1) for name in names], 1)

        width = sum(prepared.store.channels[name] for name in names)
        with seeded(0):
            model = nn.Sequential(Flat(), objective.head(width))
        config = TrainConfig(epochs=60, batch_size=30, learning_rate=0.05)
        fit(model, prepared.store, objective, prepared.indices("train"), config, seed=0)
        rows = prepared.indices("test")
        found = predict(model, prepared.store, rows).argmax(1).numpy()
        scores[names] = (found == classes[rows.numpy()]).mean()
    together = scores.popitem()[1]
    assert together >= 0.75
    assert max(scores.values()) <= together - 0.25


def test_stored_views_of_arrays_lose_channels_and_the_clean_ones_none(
    triples, tiny_recipe, tmp_path
):
    inputs, classes = triples
    prepared = prepare(ArrayDataset(inputs, classes), tmp_path, tiny_recipe.prepare)
    rows = torch.arange(90)
    assert (prepared.store.clean(rows)["motion_0"] != 0).all()
    first, second = prepared.store.augmented(rows, torch.Generator().manual_seed(0))
    for view in (first["motion_0"], second["motion_0"]):
        lost = (view == 0).all(1)
        assert torch.equal(lost, (view == 0).any(1))  # a channel is lost at all its positions
        assert 0.2 < lost.float().mean() < 0.4
    assert not torch.equal(first["motion_0"], second["motion_0"])
