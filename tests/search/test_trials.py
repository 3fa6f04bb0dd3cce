"""Trials: what the strategies that try share: resuming by replay, repeats, shared weights."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import load_states
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.search.context import SearchContext
from ssnas_core.search.random import RandomConfig
from ssnas_core.search.trials import Trials
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.checkpoints import load_checkpoint
from ssnas_core.training.loop import TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES = 16
TRAIN, DEV = torch.arange(8), torch.arange(8, SAMPLES)
CONFIG = RandomConfig(train=TrainConfig(epochs=2, batch_size=4))
FEATURES = ("image_0", "image_1", "text_0")
OBJECTIVE = Contrastive(hidden=8, out=4)


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    return memory_source({n: torch.randn(SAMPLES, 1, 3, generator=generator) for n in FEATURES})


@pytest.fixture
def space():
    return FusionSpace(dict.fromkeys(FEATURES, 3), FusionConfig(channels=4, length=1, cells=2))


def trials_of(space, source=None, objective=OBJECTIVE, **more) -> Trials:
    named = {name: more.pop(name) for name in ("total", "shared") if name in more}
    context = SearchContext(**{"train": TRAIN, "dev": DEV, "seed": 1, **more})
    return Trials(space, source, objective, context, CONFIG, **named)


@pytest.fixture
def made(digits, table):
    """Trials of numbers whose loss is that number over 100."""

    def make(**more) -> Trials:
        return trials_of(digits(), None, table(lambda number: int(number) / 100), **more)

    return make


def number(digits: str) -> Genotype:
    return Genotype("digits", tuple(Node(f"n{n}", f"D{d}", ()) for n, d in enumerate(digits)))


# --- the history


def test_history_tells_each_trial_and_what_the_strategy_adds(made):
    trials = made()
    assert trials.evaluate(number("310")) == pytest.approx(3.1)
    assert trials.evaluate(number("120"), parent=0) == pytest.approx(1.2)
    assert trials.history == [
        {"trial": 0, "genotype": "D3() -> D1() -> D0()", "dev_loss": pytest.approx(3.1)},
        {
            "trial": 1,
            "genotype": "D1() -> D2() -> D0()",
            "dev_loss": pytest.approx(1.2),
            "parent": 0,
        },
    ]


def test_trial_reports_on_dev_what_the_objective_has_to_say(space, source):
    trials, genotype = trials_of(space, source), space.sample(torch.Generator().manual_seed(0))
    loss = trials.evaluate(genotype)
    (entry,) = trials.history
    assert entry["dev_loss"] == loss
    assert {"match", "match_without_image", "match_without_text", "effective_rank"} < entry.keys()
    assert 0 <= entry["match_without_text"] <= 1
    seen = []
    source.augmented = lambda rows, *more, seen=seen, old=source.augmented: (
        seen.append(rows), old(rows, *more),
    )[1]  # fmt: skip
    assert trials_of(space, source).evaluate(genotype) == loss
    assert torch.equal(seen[-1], DEV)


def test_best_is_the_first_of_the_lowest_among_those_named(made):
    trials = made()
    for digits in ("310", "120", "410", "120"):
        trials.evaluate(number(digits))
    assert trials.best().genotype == number("120")
    assert trials.best().history == tuple(trials.history)
    assert trials.best(among=[0, 2]).genotype == number("310")
    assert len(trials.best(among=[2]).history) == 4


def test_another_space_may_build_a_trial(space, source):
    trials = trials_of(space, source)
    (first, *_) = space.extensions(None)
    with pytest.raises(InputError, match="expected 2 cells"):
        trials.evaluate(first)
    trials.evaluate(first, space=space.first(1))
    assert trials.best().genotype == first


def test_an_architecture_tried_before_is_not_trained_again(made):
    trials = made()
    for digits in ("310", "120", "310", "310"):
        trials.evaluate_once(number(digits), mark=digits)
    assert trials.space.built == ["310", "120"]
    assert [entry.get("repeats") for entry in trials.history] == [None, None, 0, 0]
    assert [entry["mark"] for entry in trials.history] == ["310", "120", "310", "310"]
    assert trials.history[2]["dev_loss"] == trials.history[0]["dev_loss"]
    trials.evaluate(number("120"))
    assert trials.space.built == ["310", "120", "120"]


def test_progress_counts_trials(space, source, capsys):
    for total, label in ((3, "try 1/3"), (None, "try 1:")):
        trials = trials_of(space, source, progress="try", total=total)
        trials.evaluate(space.sample(torch.Generator().manual_seed(0)))
        assert label in capsys.readouterr().err


# --- trials that end early


def asked_for(answers=()):
    """A `Stop` that notes what it is asked, and answers True after so many epochs."""
    asked = []

    def stop(epochs, loss):
        asked.append((epochs, loss))
        return epochs in answers

    return stop, asked


def test_judging_after_each_epoch_changes_nothing_in_a_trial(space, source):
    genotype = space.sample(torch.Generator().manual_seed(0))
    plain, judged = trials_of(space, source), trials_of(space, source)
    stop, asked = asked_for()
    assert plain.evaluate(genotype) == judged.evaluate(genotype, stop=stop)
    (entry,) = judged.history
    assert entry.pop("dev_losses") == [loss for _, loss in asked]
    assert [epochs for epochs, _ in asked] == [1, 2]
    assert plain.history == [entry]


def test_stopped_trial_is_as_long_as_it_was_trained(space, source):
    genotype = space.sample(torch.Generator().manual_seed(0))
    whole = trials_of(space, source)
    whole.evaluate(genotype, stop=asked_for()[0])
    trials, (stop, asked) = trials_of(space, source), asked_for({1})
    loss = trials.evaluate(genotype, stop=stop)
    (entry,) = trials.history
    assert entry["stopped"] and asked == [(1, loss)]
    assert entry["dev_losses"] == [loss] == whole.history[0]["dev_losses"][:1]
    assert CONFIG.steps(trials.history, len(TRAIN), len(DEV)) == 2  # of 4 in two epochs
    assert CONFIG.steps(whole.history, len(TRAIN), len(DEV)) == 4


def test_after_the_last_epoch_nobody_is_stopped(space, source):
    trials = trials_of(space, source)
    trials.evaluate(space.sample(torch.Generator().manual_seed(0)), stop=asked_for({2})[0])
    assert "stopped" not in trials.history[0] and len(trials.history[0]["dev_losses"]) == 2


def test_stopped_trials_are_never_the_best(made):
    trials = made()
    trials.evaluate(number("120"), stop=asked_for({1})[0])
    trials.evaluate(number("310"))
    assert trials.best().genotype == number("310")


def test_what_is_only_read_or_repeated_is_told_as_well(made, tmp_path):
    path = tmp_path / "search.pt"
    first = made(checkpoint=path)
    for digits in ("310", "120"):
        first.evaluate_once(number(digits), stop=asked_for({1})[0])
    again, (stop, asked) = made(checkpoint=path), asked_for({1})
    for digits in ("310", "120", "310"):
        again.evaluate_once(number(digits), stop=stop)
    assert again.space.built == []
    assert [(epochs, round(loss, 2)) for epochs, loss in asked] == [(1, 3.1), (1, 1.2), (1, 3.1)]
    assert again.history[2]["stopped"] and again.history[2]["repeats"] == 0


# --- resuming


def test_trials_in_the_checkpoint_are_replayed_and_then_the_next_is_trained(made, tmp_path):
    path, calls = tmp_path / "search.pt", []
    whole = made()
    for digits in ("310", "120", "310", "240"):
        whole.evaluate_once(number(digits), mark=digits)
    begun = made(checkpoint=path)
    for digits in ("310", "120", "310"):
        begun.evaluate_once(number(digits), mark=digits)
    again = made(checkpoint=path, on_epoch=calls.append)
    assert calls == [begun.history] and again.history == []
    for digits in ("310", "120", "310"):
        again.evaluate_once(number(digits), mark=digits)
    assert again.space.built == [] and len(calls) == 1
    again.evaluate_once(number("240"), mark="240")
    assert again.space.built == ["240"] and len(calls) == 2
    assert again.history == whole.history == calls[1]
    assert (load_checkpoint(path) or {})["history"] == whole.history


def test_replay_of_another_architecture_is_refused(made, tmp_path):
    path = tmp_path / "search.pt"
    made(checkpoint=path).evaluate(number("310"))
    for once in (True, False):
        trials = made(checkpoint=path)
        evaluate = trials.evaluate_once if once else trials.evaluate
        with pytest.raises(InputError, match=r"search\.pt is of another search; delete it"):
            evaluate(number("120"))


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        ["310"],
        [{"genotype": "D3() -> D1() -> D0()"}],
        [{"genotype": "D3() -> D1() -> D0()", "dev_loss": "low"}],
        [{"genotype": "D3() -> D1() -> D0()", "dev_loss": float("inf")}],
        [{"genotype": 310, "dev_loss": 1.0}],
    ],
)
def test_checkpoint_without_usable_trials_is_refused(made, tmp_path, broken):
    path = tmp_path / "search.pt"
    made(checkpoint=path).evaluate(number("310"))
    saved = load_states(path)
    torch.save({**saved, "history": json.dumps(broken)}, path)
    wrong = (
        r"(does not hold the trials of a search|is not a usable checkpoint \(TypeError\)); delete"
    )
    with pytest.raises(InputError, match=wrong):
        made(checkpoint=path)


def test_two_dev_samples_are_needed(made):
    with pytest.raises(InputError, match="a search by trials needs two dev samples, got 1"):
        made(dev=DEV[:1])


# --- shared weights


class Chain(nn.Module):
    """A weight per digit, all of the same shape, shared by place and digit; and one that is not."""

    def __init__(self, digits: str) -> None:
        super().__init__()
        self.digits, self.width = digits, 4
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in digits)
        self.own = nn.Linear(3, 4)
        self.start: dict[str, torch.Tensor] = {}

    def sharing(self) -> dict[str, str]:
        return {
            f"layers.{place}.weight": f"{place} {digit}" for place, digit in enumerate(self.digits)
        }

    def forward(self, features):
        if not self.start:
            self.start = {name: value.detach().clone() for name, value in self.named_parameters()}
        hidden = features["image_0"][:, 0]
        for layer in self.layers:
            hidden = layer(hidden).relu() + hidden
        return self.own(hidden)


class Chains:
    def __init__(self) -> None:
        self.built: list[Chain] = []

    def build(self, genotype: Genotype) -> Chain:
        self.built.append(Chain("".join(node.operator[1:] for node in genotype.nodes)))
        return self.built[-1]


def test_networks_start_from_the_shared_weights_and_leave_them_trained(source):
    shared: dict[str, torch.Tensor] = {}
    trials = trials_of(Chains(), source, shared=shared)
    trials.evaluate(number("12"))
    assert set(shared) == {"0 1", "1 2"}
    first = {key: value.clone() for key, value in shared.items()}
    trials.evaluate(number("13"))
    one, other = trials.space.built
    assert torch.equal(first["0 1"], one.layers[0].weight)
    assert not torch.equal(first["0 1"], one.start["layers.0.weight"])
    assert torch.equal(other.start["layers.0.weight"], first["0 1"])
    assert set(shared) == {"0 1", "1 2", "1 3"}
    assert torch.equal(shared["1 2"], first["1 2"])
    assert torch.equal(shared["0 1"], other.layers[0].weight)
    assert not torch.equal(shared["0 1"], first["0 1"])
    fresh = trials_of(Chains(), source)  # without sharing
    fresh.evaluate(number("12"))
    fresh.evaluate(number("13"))
    for name in ("layers.1.weight", "layers.0.bias", "own.weight"):
        assert torch.equal(other.start[name], fresh.space.built[1].start[name])
    assert not torch.equal(
        other.start["layers.0.weight"], fresh.space.built[1].start["layers.0.weight"]
    )


def test_trials_of_one_architecture_start_from_weights_of_their_own(source):
    trials = trials_of(Chains(), source)
    losses = [trials.evaluate(number("12")) for _ in range(2)]
    one, other = (built.start["own.weight"] for built in trials.space.built)
    assert not torch.equal(one, other)
    assert losses[0] != losses[1]


def test_shared_weights_change_only_with_the_next_networks(source):
    shared: dict[str, torch.Tensor] = {}
    trials = trials_of(Chains(), source, shared=shared)
    trials.evaluate(number("12"))
    before = shared["0 1"].clone()
    with torch.no_grad():
        trials.space.built[0].layers[0].weight.zero_()
    assert torch.equal(shared["0 1"], before)


@pytest.mark.parametrize("after", [0, 3, 6, 11, 17])
def test_search_with_shared_weights_killed_anywhere_goes_on_to_the_same(
    source, killed, tmp_path, after
):
    order = ("12", "13", "12", "32")

    def run(objective, **more):
        shared: dict[str, torch.Tensor] = {}
        trials = trials_of(Chains(), source, objective, shared=shared, **more)
        for digits in order:
            trials.evaluate(number(digits))
        return trials.history, shared

    history, shared = run(OBJECTIVE)
    path = tmp_path / "search.pt"
    with pytest.raises(killed.Kill):
        run(killed(OBJECTIVE, after), checkpoint=path)
    counted = killed(OBJECTIVE)
    found, kept = run(counted, checkpoint=path)
    assert found == history
    assert kept.keys() == shared.keys()
    assert all(torch.equal(kept[key], shared[key]) for key in shared)
    a_trial = 4 + 2  # training steps and dev batches
    assert counted.losses == 24 - after // a_trial * a_trial
    saved = load_checkpoint(path)
    assert saved is not None and saved["history"] == history
    assert run(killed(OBJECTIVE, 0), checkpoint=path)[0] == history


def test_checkpoint_whose_shared_weights_are_none_is_refused(source, tmp_path):
    path = tmp_path / "search.pt"
    trials_of(Chains(), source, checkpoint=path, shared={}).evaluate(number("12"))
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "shared": {"0 1": "no tensor"}}, path)
    with pytest.raises(InputError, match="does not hold the trials of a search"):
        trials_of(Chains(), source, checkpoint=path, shared={})
