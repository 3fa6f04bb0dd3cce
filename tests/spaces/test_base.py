"""A space of one's own: the example of the docstring works, and with what a run uses of a space."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.search.context import SearchContext
from ssnas_core.search.random import RandomConfig
from ssnas_core.spaces import base
from ssnas_core.spaces.base import features_of, labels_of, validate, width_of
from ssnas_core.spaces.fusion.space import FusionConfig
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.loop import TrainConfig

CHANNELS = {"image_0": 3, "text_0": 4}


def example() -> str:
    """The indented lines of the docstring."""
    lines = (inspect.getdoc(base) or "").splitlines()
    return textwrap.dedent("\n".join(line for line in lines if line[:4] in ("", "    ")))


@pytest.fixture(scope="module")
def space():
    names = {"torch": torch, "nn": nn, "dataclass": dataclass, "Genotype": Genotype, "Node": Node}
    names["__name__"] = __name__
    exec(example(), names)
    return names["OneFeatureConfig"]().open(CHANNELS, dict.fromkeys(CHANNELS, 2))


def test_example_is_searched(space, memory_source):
    source = memory_source({name: torch.randn(24, 2, c) for name, c in CHANNELS.items()})
    context = SearchContext(train=torch.arange(12), dev=torch.arange(12, 24))
    config = RandomConfig(trials=3, train=TrainConfig(epochs=1, batch_size=6))
    result = config.search(space, source, Contrastive(hidden=4, out=3), context)
    network = space.build(result.genotype)
    assert network(source.clean(torch.arange(5))).shape == (5, network.width)


def test_space_that_has_only_the_least_is_labelled_and_checked(space):
    genotype = space.sample(torch.Generator().manual_seed(0))
    assert labels_of(space) == {}
    assert features_of(space, genotype) == genotype.features
    before = torch.get_rng_state()
    validate(space, genotype)
    assert torch.equal(torch.get_rng_state(), before)
    other = Genotype("one", (Node("out", "Linear", ("audio_0",)),))
    with pytest.raises(InputError, match=r"Linear\(audio_0\) is not a genotype of OneFeature"):
        validate(space, other)


def test_space_that_has_more_is_asked():
    space = FusionConfig(channels=2, length=1, cells=1).open(CHANNELS)
    genotype = space.sample(torch.Generator().manual_seed(0))
    assert labels_of(space) == space.labels()
    assert features_of(space, genotype) == tuple(CHANNELS)
    validate(space, genotype)
    with pytest.raises(InputError, match="expected fusion, got layers"):
        validate(space, Genotype("layers", genotype.nodes))


def test_network_that_does_not_say_its_width_is_refused():
    with pytest.raises(InputError, match=r"got Linear of width None; set self.width"):
        width_of(nn.Linear(2, 3))
