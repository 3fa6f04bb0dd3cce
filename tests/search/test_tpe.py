"""TPE: at random first, then where good architectures are dense; by any objective, resumable."""

from __future__ import annotations

import logging
import random
import signal
import warnings
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.hybrid import Hybrid
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.search import trials as trials_module
from ssnas_core.search.context import SearchContext
from ssnas_core.search.tpe import TPEConfig, _Estimator, tpe
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.training.loop import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES = 24
TRAIN, DEV = torch.arange(16), torch.arange(16, SAMPLES)
BRIEF = TrainConfig(epochs=1, batch_size=16)
FEATURES = ("image_0", "image_1", "image_2", "text_0")
OBJECTIVES = {
    "contrastive": Contrastive(hidden=8, out=4),
    "supervised": Supervised(labels=torch.arange(SAMPLES) % 3, classes=3),
    "hybrid": Hybrid(
        supervised=Supervised(labels=torch.arange(SAMPLES) % 3, classes=3),
        labelled=torch.arange(0, SAMPLES, 4),
        contrastive=Contrastive(hidden=8, out=4),
    ),
}


def search(space, objective, source=None, **config):
    more = {name: config.pop(name) for name in ("seed", "checkpoint", "on_epoch") if name in config}
    chosen = TPEConfig(**{"train": BRIEF, **config})
    context = SearchContext(train=TRAIN, dev=DEV, **more)
    return tpe(space, source, objective, context, chosen)


def tried(result, number) -> list[str]:
    return [number(one["genotype"]) for one in result.history]


def smooth(number: str) -> float:
    return sum((int(digit) * 3 % 8) ** 2 for digit in number)


# --- what is drawn


@pytest.mark.usefixtures("untrained")
def test_first_trials_are_drawn_whatever_the_losses_and_the_others_by_them(digits, table, number):
    space = digits(digits=5, values=8)
    one, other = (
        tried(search(space, table(loss), trials=50, startup=20), number)
        for loss in (smooth, lambda number: -smooth(number))
    )
    assert one[:20] == other[:20] and len(set(one[:20])) == 20
    lowest, highest = (sum(map(smooth, numbers[20:])) / 30 for numbers in (one, other))
    drawn = sum(map(smooth, one[:20])) / 20
    assert lowest < 0.8 * drawn and highest > 1.2 * drawn


def test_estimator_is_told_every_trial_and_takes_the_best_for_good(
    digits, table, number, monkeypatch
):
    import optuna

    asked = []

    class Watched(optuna.samplers.TPESampler):
        def __init__(self, *, gamma=None, **more):
            super().__init__(gamma=gamma, **more)
            self.good = gamma

        def before_trial(self, study, trial):
            done = [one for one in study.trials if one.state.name == "COMPLETE"]
            values = ["".join(map(str, one.params.values())) for one in done]
            asked.append((values, [one.value for one in done], self.good(len(study.trials))))
            super().before_trial(study, trial)

    monkeypatch.setattr(optuna.samplers, "TPESampler", Watched)
    result = search(digits(), table(smooth), trials=30, startup=9, gamma=0.5)
    numbers, losses = tried(result, number), [one["dev_loss"] for one in result.history]
    assert {len(values) for values, *_ in asked} == set(range(9, 30))
    for values, known, _ in asked:
        assert values == numbers[: len(values)] and known == losses[: len(values)]
    good = {len(values): good for values, _, good in asked}
    assert [good[count] for count in (9, 16, 17, 25, 29)] == [2, 2, 3, 3, 3]  # sqrt(n) / 2


@pytest.mark.usefixtures("untrained")
@pytest.mark.thorough
@pytest.mark.parametrize("joint", [True, False])
def test_tpe_finds_better_ones_than_drawing(digits, table, number, joint):
    """On a loss that is a sum over digits; a start of 60 only draws."""

    def best(**config) -> float:
        found = [
            search(space, table(smooth), trials=60, seed=seed, joint=joint, **config)
            for seed in range(4)
        ]
        return sum(smooth(number(str(result.genotype))) for result in found) / len(found)

    space = digits(digits=5, values=8)
    assert best(startup=20, gamma=0.5) < 0.7 * best(startup=60)


def test_joint_and_single_densities_propose_otherwise(digits, table, number):
    one, other = (
        tried(search(digits(), table(smooth), trials=30, startup=10, joint=joint), number)
        for joint in (True, False)
    )
    assert one[:10] == other[:10] and one != other


def test_choices_that_make_no_architecture_are_no_trials(digits, table, number):
    space = digits(digits=4, values=2)  # of 16 choices, 0101 and 1010 are architectures
    result = search(space, table(lambda number: int(number, 2)), trials=12, startup=4)
    assert [one["trial"] for one in result.history] == list(range(12))
    assert set(tried(result, number)) == {"0101", "1010"}
    assert number(str(result.genotype)) == "0101"
    assert sorted(space.built) == ["0101", "1010"]  # each is trained once


def test_repeats_have_the_loss_of_the_first(digits, table):
    result = search(digits(values=3), table(smooth), trials=40, startup=10)
    first = {}
    for one in result.history:
        before = first.setdefault(one["genotype"], one)
        assert one.get("repeats") == (None if before is one else before["trial"])
        assert one["dev_loss"] == before["dev_loss"]
    assert len(first) <= 12


def test_space_without_an_architecture_is_refused(digits, table):
    class Nothing(digits):
        def decode(self, choice):
            return None

    with pytest.raises(InputError, match="1,000 choices in a row make no architecture"):
        search(Nothing(), table(smooth))


def test_good_ones_are_counted_as_hyperopt_or_as_optuna_counts_them():
    from optuna.samplers._tpe.sampler import default_gamma, hyperopt_default_gamma

    hyperopt, optuna = TPEConfig(gamma=0.25), TPEConfig(gamma=0.1, good="share")
    for n in (1, 10, 20, 41, 120, 250, 251, 20_000):
        assert hyperopt.good_of(n) == hyperopt_default_gamma(n)
        assert optuna.good_of(n) == default_gamma(n)
    assert TPEConfig().good_of(120) == 3 and TPEConfig(gamma=1.0, good="share").good_of(90) == 25


@pytest.mark.usefixtures("untrained")
@pytest.mark.thorough
def test_many_candidates_are_more_promising_than_few(digits, table):
    """In the mean of the trials after the start: the best of more is nearer to the good ones."""

    def mean(candidates: int) -> float:
        losses = [
            one["dev_loss"]
            for seed in range(4)
            for one in search(
                digits(digits=8, values=8), table(smooth),
                trials=60, startup=20, seed=seed, candidates=candidates,
            ).history[20:]
        ]  # fmt: skip
        return sum(losses) / len(losses)

    assert mean(1_000) < 0.9 * mean(2)


@pytest.mark.parametrize(
    "wrong",
    [{"trials": 0}, {"startup": 0}, {"candidates": 0}, {"gamma": 0.0}, {"gamma": 1.5}],
)
def test_configuration_without_trials_or_good_ones_is_refused(wrong):
    expected = r"trials >= 1, startup >= 1, candidates >= 1 and gamma in \(0, 1\], got"
    with pytest.raises(InputError, match=expected):
        TPEConfig(**wrong)


# --- trials that end early

PRUNED = {"startup": 10, "trials": 14, "train": replace(BRIEF, epochs=9)}


def ended(result) -> list[bool]:
    return [one.get("stopped", False) for one in result.history]


def test_median_ends_trials_above_the_median_of_those_that_went_on(space, source):
    """The rule as a loop: of at least five whole trials, after as many epochs."""
    result = search(space, OBJECTIVES["contrastive"], source, seed=5, pruning="median", **PRUNED)
    whole = []
    for one in result.history:
        length = 9
        for epoch in range(1, 9):
            known = sorted(losses[epoch - 1] for losses in whole)
            if len(whole) >= 5 and min(one["dev_losses"][:epoch]) > np.median(known):
                length = epoch
                break
        assert len(one["dev_losses"]) == length and one.get("stopped", False) == (length < 9)
        if length == 9:
            whole.append(one["dev_losses"])
        assert one["dev_loss"] == one["dev_losses"][-1]
    assert any(ended(result)) and not all(ended(result))


def test_hyperband_halves_trials_away_after_1_3_or_9_epochs(space, source):
    result = search(space, OBJECTIVES["contrastive"], source, seed=5, pruning="hyperband", **PRUNED)
    lengths = [len(one["dev_losses"]) for one in result.history]
    assert set(lengths) == {1, 3, 9}
    assert [length < 9 for length in lengths] == ended(result)
    whole = [one for one in result.history if not one.get("stopped")]
    best = min(whole, key=lambda one: one["dev_loss"])
    assert str(result.genotype) == best["genotype"]


def test_estimator_is_told_which_trials_ended_early(digits, table, monkeypatch):
    import optuna

    studies = []

    def noted(*args, old=optuna.create_study, **more):
        studies.append(old(*args, **more))
        return studies[-1]

    monkeypatch.setattr(optuna, "create_study", noted)
    train = replace(BRIEF, epochs=3)
    result = search(digits(digits=4), table(smooth), trials=20, train=train, pruning="median")
    known = [one for one in studies[0].trials if one.intermediate_values]
    assert [one.state.name == "PRUNED" for one in known] == ended(result)
    for trial, one in zip(known, result.history, strict=True):
        assert trial.intermediate_values == dict(enumerate(one["dev_losses"], 1))
    assert any(ended(result)) and not all(ended(result))


@pytest.mark.parametrize("pruning", ["median", "hyperband"])
@pytest.mark.parametrize(
    "after", [150, *(pytest.param(n, marks=pytest.mark.thorough) for n in (3, 60, 121))]
)
def test_search_that_ends_trials_and_is_killed_resumes_to_the_same_result(
    space, source, killed, tmp_path, pruning, after
):
    objective, path = OBJECTIVES["contrastive"], tmp_path / "search.pt"
    config = {"seed": 5, "pruning": pruning, **PRUNED}
    whole = search(space, objective, source, **config)
    with pytest.raises(killed.Kill):
        search(space, killed(objective, after), source, checkpoint=path, **config)
    counted = killed(objective)
    assert search(space, counted, source, checkpoint=path, **config) == whole
    epochs = [len(one["dev_losses"]) for one in whole.history if "repeats" not in one]
    done = sum(1 for n in range(len(epochs)) if 2 * sum(epochs[: n + 1]) <= after)
    # an epoch is a step and a judging; what was begun when it was killed is done again
    assert counted.losses == 2 * sum(epochs[done:])


# --- several workers


class Unhurried:
    """Stands for Dask's client: of the calls that wait, the last given is done first."""

    def __init__(self):
        self.calls, self.given, self.most = [], 0, 0

    def submit(self, do, *args, **_):
        call = SimpleNamespace(value=None)

        def result(timeout):
            while call.value is None:
                last, do, args = self.calls.pop()
                last.value = do(*args)
            return call.value

        call.result, self.given = result, self.given + 1
        self.calls.append((call, do, args))
        self.most = max(self.most, len(self.calls))
        return call


@pytest.fixture
def unhurried(monkeypatch):
    client = Unhurried()

    @contextmanager
    def dask_client(workers):
        yield client, lambda: None

    monkeypatch.setattr(trials_module, "dask_client", dask_client)
    monkeypatch.setattr(trials_module, "become_worker", lambda: None)
    return client


def test_trial_is_proposed_from_those_up_to_as_many_before_it_as_there_are_workers(
    digits, table, unhurried, monkeypatch
):
    events = []

    def noted(name):
        old = getattr(_Estimator, name)

        def method(self, *args):
            events.append(name)
            return old(self, *args)

        monkeypatch.setattr(_Estimator, name, method)

    noted("ask"), noted("tell")
    search(digits(), table(smooth), trials=9, startup=4, workers=3)
    assert events == [*["ask"] * 3, *["tell", "ask"] * 6, *["tell"] * 3]
    assert unhurried.most == 3


def test_start_is_that_of_one_worker_and_unfinished_trials_are_not_proposed_again(
    digits, table, number, unhurried
):
    space, config = digits(digits=4, values=6), {"trials": 40, "startup": 12}
    one = tried(search(space, table(smooth), **config), number)
    three = tried(search(space, table(smooth), workers=3, **config), number)
    assert one[:12] == three[:12] and one != three
    close = sum(mine in three[place - 2 : place] for place, mine in enumerate(three[12:], 12))
    assert close <= 1


def test_unfinished_trials_count_for_the_start(digits, table, unhurried, monkeypatch):
    import optuna

    made, old = [], optuna.samplers.TPESampler

    def noted(**more):
        made.append("gamma" in more)  # not the one that a study begins with
        return old(**more)

    monkeypatch.setattr(optuna.samplers, "TPESampler", noted)
    search(digits(digits=1, values=9), table(smooth), trials=9, startup=4, workers=3)
    assert sum(made) == 5


def test_trial_of_several_workers_is_trained_as_one_alone_trains_it(space, source, unhurried):
    """The same architecture at the same place has the same loss; a start has all of them."""
    drawn = {"trials": 6, "startup": 6, "seed": 5}
    one = search(space, OBJECTIVES["contrastive"], source, **drawn)
    three = search(space, OBJECTIVES["contrastive"], source, workers=3, **drawn)
    assert three == one and unhurried.most == 3


def test_workers_train_no_architecture_twice(digits, table, unhurried):
    space = digits(digits=4, values=2)  # two architectures
    result = search(space, table(smooth), trials=12, startup=4, workers=4)
    assert len(space.built) == 2
    assert sum("repeats" in one for one in result.history) == 10


@pytest.mark.parametrize("count", [0, 1, 4, 7, 11])
def test_command_of_several_workers_that_is_killed_repeats_nothing_that_is_counted(
    digits, table, unhurried, tmp_path, count
):
    class StopError(Exception):
        pass

    def on_epoch(history):
        if len(history) == max(count, 1):
            raise StopError

    config = {"trials": 12, "startup": 5, "workers": 3}
    space, path = digits(digits=4, values=6), tmp_path / "search.pt"
    whole = search(space, table(smooth), **config)
    if count:
        with pytest.raises(StopError):
            search(space, table(smooth), checkpoint=path, on_epoch=on_epoch, **config)
        unhurried.calls.clear()
    unhurried.given = 0
    assert search(space, table(smooth), checkpoint=path, **config) == whole
    assert unhurried.given == sum("repeats" not in one for one in whole.history[count:])


def test_workers_that_cannot_be_are_refused(digits, table, monkeypatch):
    with pytest.raises(InputError, match=r'pruning="none" with several.*got 2 and .median'):
        TPEConfig(workers=2, pruning="median")
    with pytest.raises(InputError, match="workers >= 1"):
        TPEConfig(workers=0)
    monkeypatch.setattr(trials_module, "world_size", lambda: 2)
    with pytest.raises(InputError, match="expected one worker where 2 processes train each trial"):
        search(digits(), table(smooth), workers=2)


@pytest.mark.thorough
def test_killed_workers_lose_and_repeat_nothing(space, source, tmp_path):
    """Every worker is killed once; the search finds what it finds without."""
    killed: list[int] = []

    def on_epoch(history):
        if len(history) in (2, 5):  # while others are at work
            for child in psutil.Process().children(recursive=True):
                if any("spawn_main" in part for part in child.cmdline()):
                    child.send_signal(signal.SIGKILL)
                    killed.append(child.pid)

    config = {"trials": 8, "startup": 4, "workers": 2, "seed": 5}
    objective, path = OBJECTIVES["contrastive"], tmp_path / "search.pt"
    config["train"] = replace(BRIEF, epochs=5, batch_size=4)
    whole = search(space, objective, source, **config)
    assert search(space, objective, source, checkpoint=path, on_epoch=on_epoch, **config) == whole
    assert len(killed) >= 3
    assert [one["trial"] for one in whole.history] == list(range(8))


# --- what else is in the process


def test_optuna_says_nothing_and_its_logging_is_left_as_it_was(digits, table, capfd):
    import optuna

    before = optuna.logging.get_verbosity()
    try:
        optuna.logging.set_verbosity(optuna.logging.INFO)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            search(digits(digits=4, values=2), table(smooth), trials=25, startup=5)
        assert optuna.logging.get_verbosity() == logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")


def test_search_is_decided_by_its_seed_and_leaves_the_callers_randomness_alone(
    digits, table, number
):
    found = []
    for seed, outside in ((1, 10), (1, 11), (2, 10)):
        torch.manual_seed(outside)
        np.random.seed(outside)
        random.seed(outside)
        before = (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())
        found.append(tried(search(digits(), table(smooth), trials=30, seed=seed), number))
        after = (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())
        assert after == before
    assert found[0] == found[1] != found[2]


# --- resuming


@pytest.fixture
def space():
    config = FusionConfig(channels=4, length=1, cells=2, dropout=0.2)
    return FusionSpace(dict.fromkeys(FEATURES, 3), config)


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    return memory_source({n: torch.randn(SAMPLES, 1, 3, generator=generator) for n in FEATURES})


SHORT = {"startup": 3, "trials": 6, "train": replace(BRIEF, batch_size=4)}


@pytest.mark.parametrize(
    "name",
    [
        "hybrid",
        pytest.param("contrastive", marks=pytest.mark.thorough),
        pytest.param("supervised", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize(
    "after", [13, *(pytest.param(n, marks=pytest.mark.thorough) for n in (0, 7, 25, 34))]
)
def test_search_killed_in_any_trial_resumes_to_the_same_result(
    space, source, killed, tmp_path, name, after
):
    objective, path = OBJECTIVES[name], tmp_path / "search.pt"
    whole = search(space, objective, source, seed=5, **SHORT)
    trained = 6 * sum("repeats" not in one for one in whole.history)
    assert trained == 36
    with pytest.raises(killed.Kill):
        search(space, killed(objective, after), source, seed=5, checkpoint=path, **SHORT)
    counted = killed(objective)
    assert search(space, counted, source, seed=5, checkpoint=path, **SHORT) == whole
    assert counted.losses == 36 - after // 6 * 6
    space.validate(whole.genotype)
    losses = [one["dev_loss"] for one in whole.history]
    assert str(whole.genotype) == whole.history[losses.index(min(losses))]["genotype"]


def test_search_killed_among_repeats_resumes_to_the_same_result(digits, table, tmp_path):
    class StopError(Exception):
        pass

    def stop_after(count):
        def on_epoch(history):
            if len(history) == count:
                raise StopError

        return on_epoch

    config = {"trials": 30, "startup": 8}
    whole = search(digits(values=3), table(smooth), **config)
    assert sum("repeats" in one for one in whole.history[12:24]) > 3
    for count in (12, 17, 23):
        path = tmp_path / f"{count}.pt"
        with pytest.raises(StopError):
            search(
                digits(values=3), table(smooth),
                checkpoint=path, on_epoch=stop_after(count), **config,
            )  # fmt: skip
        assert search(digits(values=3), table(smooth), checkpoint=path, **config) == whole
