"""Random search: the best of its draws on dev, by any objective, resumable."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.hybrid import Hybrid
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.search.context import SearchContext
from ssnas_core.search.random import RandomConfig, random_search
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.checkpoints import load_checkpoint, save_checkpoint
from ssnas_core.training.loop import TrainConfig

SAMPLES = 24
TRAIN, DEV = torch.arange(16), torch.arange(16, SAMPLES)
SHORT = TrainConfig(epochs=2, batch_size=4)  # 8 steps
CONFIG = RandomConfig(trials=4, train=SHORT)
FEATURES = ("image_0", "image_1", "text_0")
OBJECTIVES = {
    "contrastive": Contrastive(hidden=8, out=4),
    "supervised": Supervised(labels=torch.arange(SAMPLES) % 3, classes=3),
    "hybrid": Hybrid(
        supervised=Supervised(labels=torch.arange(SAMPLES) % 3, classes=3),
        labelled=torch.arange(0, SAMPLES, 4),
        contrastive=Contrastive(hidden=8, out=4),
    ),
}


@pytest.fixture(
    params=[
        "hybrid",
        pytest.param("contrastive", marks=pytest.mark.thorough),
        pytest.param("supervised", marks=pytest.mark.thorough),
    ]
)
def objective(request):
    return OBJECTIVES[request.param]


@pytest.fixture
def space():
    config = FusionConfig(channels=4, length=1, cells=2, dropout=0.2)
    return FusionSpace(dict.fromkeys(FEATURES, 3), config)


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    return memory_source({n: torch.randn(SAMPLES, 1, 3, generator=generator) for n in FEATURES})


def search(space, source, objective, config=CONFIG, train=TRAIN, dev=DEV, **options):
    context = SearchContext(train=train, dev=dev, **options)
    return random_search(space, source, objective, context, config)


class Numbered:
    """A space of numbers 0, 1, 2, ... in the order of drawing; no more than the protocol asks."""

    def __init__(self) -> None:
        self.drawn = 0
        self.built: list[int] = []

    def sample(self, generator) -> Genotype:
        self.drawn += 1
        return Genotype("numbered", (Node("only", str(self.drawn - 1), ()),))

    def build(self, genotype: Genotype) -> nn.Module:
        network: Any = nn.Linear(1, 1)
        network.width = 1
        network.number = int(genotype.nodes[0].operator)
        self.built.append(network.number)
        return network


class Scores:
    """Losses by number: of trained networks on dev, and others while training."""

    def __init__(self, dev, train=None) -> None:
        self.dev, self.train = dev, train or [0.0] * len(dev)
        self.drawn: dict[int, list] = {}  # what each network was scored on

    def head(self, width):
        return nn.Identity()

    def loss(self, model, source, indices, generator):
        number, on_dev = model[0].number, bool((indices >= 16).all())
        assert on_dev or bool((indices < 16).all())
        if on_dev:
            assert not model.training and not torch.is_grad_enabled()
            view = (indices.tolist(), float(torch.rand((), generator=generator)))
            self.drawn.setdefault(number, []).append(view)
        value = (self.dev if on_dev else self.train)[number]
        return value + 0 * sum(p.sum() for p in model.parameters())

    def report(self, *_):
        return {}


def test_lowest_loss_on_dev_wins_whatever_it_was_on_train():
    scores = Scores(dev=[3.0, 1.0, 2.0, 4.0], train=[0.1, 9.0, 9.0, 0.0])
    result = search(Numbered(), None, scores)
    assert str(result.genotype) == "1()"
    assert list(result.history) == [
        {"trial": trial, "genotype": f"{trial}()", "dev_loss": loss}
        for trial, loss in enumerate([3.0, 1.0, 2.0, 4.0])
    ]
    assert not result.state


def test_first_of_equals_wins():
    result = search(Numbered(), None, Scores(dev=[2.0, 1.0, 1.0, 1.0]))
    assert str(result.genotype) == "1()"


def test_all_trials_are_scored_on_the_same_batches_and_views_of_dev():
    scores = Scores(dev=[1.0, 1.0, 1.0, 1.0])
    search(Numbered(), None, scores)
    first = scores.drawn[0]
    assert all(scores.drawn[number] == first for number in range(4))
    assert [rows for rows, _ in first] == [DEV[:4].tolist(), DEV[4:].tolist()]
    assert first[0][1] != first[1][1]


def test_genotype_of_the_lowest_recorded_loss_is_returned(space, source, objective):
    result = search(space, source, objective)
    losses = [trial["dev_loss"] for trial in result.history]
    assert len(set(losses)) == 4
    assert str(result.genotype) == result.history[losses.index(min(losses))]["genotype"]
    assert json.loads(json.dumps(result.history)) == list(result.history)
    space.validate(result.genotype)


def test_search_is_decided_by_its_seed_and_leaves_the_callers_randomness_alone(
    space, source, objective
):
    results = []
    for seed, outside in ((1, 10), (1, 11), (2, 10)):
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        results.append(search(space, source, objective, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
    assert results[0] == results[1] != results[2]


def test_one_trial_is_a_draw_of_the_same_seed_and_trains_nothing(space, source, killed):
    class Unbuildable(FusionSpace):
        def build(self, genotype):
            raise AssertionError("nothing is to be built")

    single = Unbuildable(space.channels, space.config)
    dead = killed(OBJECTIVES["contrastive"], after=0)
    result = search(single, source, dead, RandomConfig(trials=1), seed=3)
    several = search(space, source, OBJECTIVES["contrastive"], seed=3)
    assert str(result.genotype) == several.history[0]["genotype"]
    assert list(result.history) == [{"trial": 0, "genotype": str(result.genotype)}]
    drawn = {
        search(single, source, dead, RandomConfig(trials=1), seed=s).genotype for s in range(9)
    }
    assert len(drawn) > 5


@pytest.mark.parametrize(
    "after", [13, *(pytest.param(n, marks=pytest.mark.thorough) for n in (0, 5, 10, 25, 39))]
)
def test_search_killed_in_any_trial_resumes_to_the_same_result(
    space, source, objective, killed, tmp_path, after
):
    whole = search(space, source, objective, seed=5)
    path = tmp_path / "search.pt"
    with pytest.raises(killed.Kill):
        search(space, source, killed(objective, after), seed=5, checkpoint=path)
    counted = killed(objective)
    assert search(space, source, counted, seed=5, checkpoint=path) == whole
    a_trial = 8 + 2  # training steps and dev batches
    assert counted.losses == 40 - after // a_trial * a_trial  # whole trials are not run again
    dead = killed(objective, after=0)
    assert search(space, source, dead, seed=5, checkpoint=path) == whole


def test_trials_of_another_search_are_refused(space, source, objective, tmp_path):
    path = tmp_path / "search.pt"
    search(space, source, objective, seed=5, checkpoint=path)
    other = RandomConfig(trials=3, train=SHORT)
    for change in ({"seed": 6}, {"config": other}, {"train": TRAIN[:-1]}, {"dev": DEV[:-1]}):
        options = {"seed": 5, "checkpoint": path, **change}
        with pytest.raises(InputError, match=r"search\.pt is a checkpoint of another run: expe"):
            search(space, source, objective, **options)
    smaller = FusionSpace(dict.fromkeys(FEATURES[:2], 3), space.config)
    with pytest.raises(InputError, match=r"search\.pt is of another search; delete it"):
        search(smaller, source, objective, seed=5, checkpoint=path)
    save_checkpoint(path, {}, [])
    with pytest.raises(InputError, match="got one that does not say"):
        search(space, source, objective, seed=5, checkpoint=path)


def test_whole_history_is_told_after_each_trial_once_it_is_saved(
    space, source, objective, killed, tmp_path
):
    path, calls = tmp_path / "search.pt", []

    def on_epoch(history):
        assert (load_checkpoint(path) or {})["history"] == history
        calls.append(list(history))

    with pytest.raises(killed.Kill):
        search(space, source, killed(objective, 25), seed=5, checkpoint=path, on_epoch=on_epoch)
    whole = search(space, source, objective, seed=5, checkpoint=path, on_epoch=on_epoch)
    history = list(whole.history)
    assert calls == [history[:n] for n in (1, 2, 2, 3, 4)]  # 2 again: what was saved
    assert whole == search(space, source, objective, seed=5)
    calls = []
    search(space, source, objective, RandomConfig(trials=1), on_epoch=calls.append)
    assert [len(history) for history in calls] == [1]


@pytest.mark.parametrize("samples", [0, 1])
def test_parts_of_fewer_than_two_samples_are_refused(space, source, objective, samples):
    with pytest.raises(InputError, match=f"two dev samples, got {samples}"):
        search(space, source, objective, dev=DEV[:samples])
    with pytest.raises(InputError, match=f"at least two samples, got {samples}"):
        search(space, source, objective, train=TRAIN[:samples])


def test_loss_that_is_not_finite_on_dev_is_refused(tmp_path):
    path = tmp_path / "search.pt"
    scores = Scores(dev=[1.0, float("nan"), 2.0, 3.0])
    with pytest.raises(InputError, match="the loss became nan"):
        search(Numbered(), None, scores, checkpoint=path)
    assert [trial["trial"] for trial in (load_checkpoint(path) or {})["history"]] == [0]


def test_no_trials_are_refused():
    with pytest.raises(InputError, match="trials must be >= 1, got 0"):
        RandomConfig(trials=0)
