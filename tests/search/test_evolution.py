"""Regularised evolution: who competes, who has a child, who dies; by any objective, resumable."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.hybrid import Hybrid
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.search.context import SearchContext
from ssnas_core.search.evolution import EvolutionConfig, evolution
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.training.loop import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES = 24
TRAIN, DEV = torch.arange(16), torch.arange(16, SAMPLES)
BRIEF = TrainConfig(epochs=1, batch_size=16)
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


def loss_of(number: str) -> float:
    """A made-up loss: no two numbers of three digits from 0 to 6 have the same."""
    return int(number, 7) * 37 % 343 / 343


def evolve(space, objective, source=None, **config):
    more = {name: config.pop(name) for name in ("seed", "checkpoint", "on_epoch") if name in config}
    chosen = EvolutionConfig(**{"train": BRIEF, **config})
    context = SearchContext(train=TRAIN, dev=DEV, **more)
    return evolution(space, source, objective, context, chosen)


@pytest.fixture
def numbers(digits, table, number):
    """A search over numbers of three digits, and its history as (number, parent) pairs."""

    def search(**config):
        result = evolve(digits(values=config.pop("values", 7)), table(loss_of), **config)
        return [(number(one["genotype"]), one.get("parent")) for one in result.history]

    return search


# --- who dies: the oldest


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("seed", range(4))
def test_only_the_youngest_of_the_population_have_children(numbers, seed):
    trials = numbers(population=4, sample=8, trials=60, seed=seed)
    assert [parent for _, parent in trials[:4]] == [None] * 4
    for trial, (_, parent) in enumerate(trials[4:], 4):
        assert trial - 4 <= parent < trial
    dead = [min(loss_of(number) for number, _ in trials[: trial - 4]) for trial in range(5, 60)]
    living = [
        min(loss_of(number) for number, _ in trials[trial - 4 : trial]) for trial in range(5, 60)
    ]
    assert any(gone < best for gone, best in zip(dead, living, strict=True))  # or it says nothing


# --- who has a child: the best of those that compete


@pytest.mark.usefixtures("untrained")
def test_all_compete_and_the_best_of_the_living_is_the_parent(numbers):
    trials = numbers(population=5, sample=200, trials=60)
    for trial, (_, parent) in enumerate(trials[5:], 5):
        living = range(trial - 5, trial)
        assert loss_of(trials[parent][0]) == min(loss_of(trials[one][0]) for one in living)


@pytest.mark.usefixtures("untrained")
def test_parent_of_a_competition_of_one_is_anyone_living(numbers):
    trials = numbers(population=5, sample=1, trials=2000)
    ages = Counter(trial - parent for trial, (_, parent) in enumerate(trials[5:], 5))
    assert set(ages) == {1, 2, 3, 4, 5}
    assert all(330 < count < 470 for count in ages.values())  # 399 each, in 4 sigma


@pytest.mark.usefixtures("untrained")
def test_competitors_are_drawn_with_replacement(numbers):
    """Of 2 drawn of 2, the worse wins a quarter of the time; without replacement, never."""
    trials = numbers(population=2, sample=2, trials=2000)
    worse = decided = 0
    for trial, (_, parent) in enumerate(trials[2:], 2):
        losses = {one: loss_of(trials[one][0]) for one in (trial - 2, trial - 1)}
        if len(set(losses.values())) == 2:
            decided += 1
            worse += losses[parent] == max(losses.values())
    assert decided > 1500
    assert 0.2 < worse / decided < 0.3


# --- the child: one change


@pytest.mark.usefixtures("untrained")
def test_child_differs_from_its_parent_in_one_value(numbers):
    trials = numbers(population=3, sample=2, trials=80)
    for child, parent in trials[3:]:
        assert sum(a != b for a, b in zip(child, trials[parent][0], strict=True)) == 1


def test_every_change_that_makes_an_architecture_is_as_likely(numbers):
    trials = numbers(population=1, sample=1, trials=4000, values=3)
    changes = Counter((trials[parent][0], child) for child, parent in trials[1:])
    starts = Counter(trials[parent][0] for _, parent in trials[1:])
    # from 012: 112, 002, 022, 011 are none; 212, 010 are
    assert {child for start, child in changes if start == "012"} == {"212", "010"}
    for (start, _), count in changes.items():
        ways = len({child for other, child in changes if other == start})
        total = starts[start]
        assert abs(count - total / ways) < 4.5 * math.sqrt(total / ways)
    assert len(starts) == 12


def test_change_to_what_is_the_same_architecture_is_drawn_again(digits, table, number):
    class Twins(digits):
        """Numbers in which a 3 is another way to write a 0."""

        def decode(self, choice):
            return super().decode({name: digit % 3 for name, digit in choice.items()})

    result = evolve(Twins(values=4), table(loss_of), population=1, sample=1, trials=60)
    trials = [number(one["genotype"]) for one in result.history]
    assert "3" not in "".join(trials)
    assert all(child != parent for parent, child in zip(trials, trials[1:], strict=False))


def test_space_without_a_neighbour_is_refused(digits, table):
    with pytest.raises(InputError, match="no change of one variable of D0.. makes another"):
        evolve(digits(digits=1, values=1), table(loss_of), population=1, sample=1, trials=2)
    # 01 and 10 are two changes apart
    with pytest.raises(InputError, match="no change of one variable"):
        evolve(digits(digits=2, values=2), table(loss_of), population=1, sample=1, trials=2)


# --- the search


def test_best_of_all_that_lived_is_returned(digits, table, number):
    result = evolve(digits(values=7), table(loss_of), population=3, sample=2, trials=40)
    losses = [loss_of(number(one["genotype"])) for one in result.history]
    assert loss_of(number(str(result.genotype))) == min(losses)
    assert [one["dev_loss"] for one in result.history] == pytest.approx(losses)
    assert [one["trial"] for one in result.history] == list(range(40))


def test_an_architecture_is_trained_once(digits, table, number):
    space = digits(values=3)
    result = evolve(space, table(loss_of), population=5, sample=2, trials=60)
    assert len(space.built) == len(set(space.built)) <= 12
    first: dict[str, int] = {}
    for one in result.history:
        assert one.get("repeats") == first.get(one["genotype"])
        first.setdefault(one["genotype"], one["trial"])


@pytest.mark.usefixtures("untrained")
def test_evolution_finds_better_ones_than_drawing(digits, table, number):
    """On a loss that is a sum over digits; a population of 60 only draws."""

    def smooth(number: str) -> float:
        return sum((int(digit) * 3 % 8) ** 2 for digit in number)

    def best(**config) -> float:
        found = []
        for seed in range(4):
            result = evolve(space, table(smooth), trials=60, seed=seed, **config)
            found.append(smooth(number(str(result.genotype))))
        return sum(found) / len(found)

    space = digits(digits=5, values=8)
    assert best(population=8, sample=3) < 0.7 * best(population=60)


@pytest.fixture
def space():
    config = FusionConfig(channels=4, length=1, cells=2, dropout=0.2)
    return FusionSpace(dict.fromkeys(FEATURES, 3), config)


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    return memory_source({n: torch.randn(SAMPLES, 1, 3, generator=generator) for n in FEATURES})


SHORT = {"population": 2, "sample": 2, "trials": 5, "train": replace(BRIEF, batch_size=4)}


@pytest.mark.parametrize(
    "name",
    [
        "supervised",
        pytest.param("contrastive", marks=pytest.mark.thorough),
        pytest.param("hybrid", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize(
    "after", [13, *(pytest.param(n, marks=pytest.mark.thorough) for n in (0, 7, 25))]
)
def test_search_killed_in_any_trial_resumes_to_the_same_result(
    space, source, killed, tmp_path, name, after
):
    objective, path = OBJECTIVES[name], tmp_path / "search.pt"
    whole = evolve(space, objective, source, seed=5, **SHORT)
    assert not any("repeats" in one for one in whole.history)  # which would not be trained
    with pytest.raises(killed.Kill):
        evolve(space, killed(objective, after), source, seed=5, checkpoint=path, **SHORT)
    counted = killed(objective)
    assert evolve(space, counted, source, seed=5, checkpoint=path, **SHORT) == whole
    a_trial = 4 + 2  # training steps and dev batches
    assert counted.losses == 30 - after // a_trial * a_trial
    space.validate(whole.genotype)


def test_search_is_decided_by_its_seed_and_leaves_the_callers_randomness_alone(space, source):
    results = []
    for seed, outside in ((1, 10), (1, 11), (2, 10)):
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        results.append(evolve(space, OBJECTIVES["contrastive"], source, seed=seed, **SHORT))
        assert torch.equal(torch.get_rng_state(), state)
    assert results[0] == results[1]
    first, _, other = ([one["genotype"] for one in result.history] for result in results)
    assert first != other


@pytest.mark.parametrize("wrong", [{"sample": 0}, {"population": 0}, {"population": 41}])
def test_population_larger_than_the_trials_and_nobody_are_refused(wrong):
    with pytest.raises(InputError, match="sample >= 1 and 1 <= population <= trials, got"):
        EvolutionConfig(**wrong)
