"""Every strategy by its configuration: what it asks of a space, its steps, and how long it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.search import STRATEGIES
from ssnas_core.search.bilevel import BilevelConfig, bilevel
from ssnas_core.search.context import SearchContext
from ssnas_core.search.evolution import EvolutionConfig, evolution
from ssnas_core.search.gates import GatesConfig, gates
from ssnas_core.search.random import RandomConfig, random_search
from ssnas_core.search.surrogate import SurrogateConfig, surrogate
from ssnas_core.search.tpe import TPEConfig, tpe
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.layers import LayersConfig, LayerSpace
from ssnas_core.training.loop import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

FEATURES = ("image_0", "image_1", "text_0")
CONTEXT = SearchContext(train=torch.arange(20), dev=torch.arange(20, 40), seed=3)
OBJECTIVE = Contrastive(hidden=8, out=4)
BRIEF = TrainConfig(epochs=1, batch_size=8)
FUNCTIONS = {
    "bilevel": bilevel,
    "gates": gates,
    "random": random_search,
    "evolution": evolution,
    "tpe": tpe,
    "surrogate": surrogate,
}
CONFIGS = {
    "bilevel": BilevelConfig(epochs=2, batch_size=8),
    "bilevel by epoch": BilevelConfig(epochs=2, batch_size=8, alternate="epoch"),
    "gates": GatesConfig(epochs=2, batch_size=8, every=2),
    "random": RandomConfig(trials=2, train=BRIEF),
    "one draw": RandomConfig(trials=1, train=BRIEF),
    "evolution": EvolutionConfig(population=2, sample=2, trials=4, train=BRIEF),
    "tpe": TPEConfig(trials=9, startup=8, train=BRIEF),  # of 9, a few are repeats
    "surrogate": SurrogateConfig(iterations=1, samples=2, hidden=4, epochs=1, train=BRIEF),
}


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    return memory_source({n: torch.randn(40, 1, 3, generator=generator) for n in FEATURES})


def space_for(config):
    sizes = dict.fromkeys(FEATURES, 3)
    if isinstance(config, BilevelConfig | GatesConfig):
        return FusionSpace(sizes, FusionConfig(channels=4, length=1, cells=1))
    return LayerSpace(sizes, LayersConfig(layers=2, channels=4))


class Only:
    """Of a space, what is named and its plain values."""

    def __init__(self, space, names) -> None:
        for name in (*names, "variables", "levels", "token_sizes"):
            if hasattr(space, name):
                setattr(self, name, getattr(space, name))


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_runs_its_strategy(source, name):
    config = CONFIGS[name]
    function = FUNCTIONS[STRATEGIES.name_of(config)]
    result = config.search(space_for(config), source, OBJECTIVE, CONTEXT)
    assert result == function(space_for(config), source, OBJECTIVE, CONTEXT, config)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "one draw"])
def test_strategy_asks_of_a_space_what_it_says_and_all_of_that(source, name):
    config = CONFIGS[name]
    space = space_for(config)
    config.search(Only(space, config.needs), source, OBJECTIVE, CONTEXT)
    for needed in config.needs:
        less = [other for other in config.needs if other != needed]
        with pytest.raises(AttributeError, match=needed):
            config.search(Only(space, less), source, OBJECTIVE, CONTEXT)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dev", [20, 8])
def test_steps_are_those_that_the_search_took(source, name, dev):
    config, taken = CONFIGS[name], []
    context = replace(CONTEXT, dev=CONTEXT.dev[:dev])

    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: taken.append(type(optimizer)))
    try:
        history = config.search(space_for(config), source, OBJECTIVE, context).history
    finally:
        hook.remove()
    kind = (
        torch.optim.Adam if "bilevel" in name or name == "gates" else torch.optim.AdamW
    )  # the surrogate's is Adam
    assert config.steps(history, 20, dev) == sum(one is kind for one in taken)
    assert any("repeats" in entry for entry in history) == (name == "tpe")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("few", "many"), [(3, 20), (9, 20), (20, 20), (20, 9)])
def test_search_on_few_samples_can_be_as_long_as_on_many(name, few, many):
    config = CONFIGS[name]
    history = [{"dev_loss": 0.0}] * 3

    def weight_steps(config, samples: int) -> int:
        if isinstance(config, GatesConfig):
            weights = samples // min(config.batch_size, samples)
            return max(config.epochs, -(-config.min_steps // weights)) * weights
        if isinstance(config, BilevelConfig):
            weights = config.steps_in_epoch(samples, samples)["weights"]
            return max(config.epochs, -(-config.min_steps // weights)) * weights
        return config.steps(history, samples, samples) // 3

    longer = config.as_long_as(many)
    least = max(weight_steps(config, few), weight_steps(config, many))
    assert least <= weight_steps(longer, few) < least + 8  # whole epochs
    assert weight_steps(longer, many) == weight_steps(config, many)
    assert type(longer) is type(config)
