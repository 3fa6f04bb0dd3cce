"""Variants of bilevel search that keep it stable: each against its paper written as loops."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.search import stable
from ssnas_core.search.bilevel import BilevelConfig, bilevel
from ssnas_core.search.context import SearchContext
from ssnas_core.spaces.fusion import networks
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES = 36
TRAIN, DEV = torch.arange(16), torch.arange(16, SAMPLES)  # 2 batches of 8, and 2 and a half
LABELS = torch.arange(SAMPLES) % 4
SMALL = BilevelConfig(epochs=2, batch_size=8, arch_learning_rate=0.05)
FEATURES = ("image_0", "image_1", "text_0")
OBJECTIVES = {
    "contrastive": Contrastive(hidden=8, out=4),
    "supervised": Supervised(labels=LABELS, classes=4),
}
KINDS = {
    "gumbel": {"sampling": "gumbel"},
    "beta decay": {"beta_decay": 5.0},
    "perturbation": {"select": "perturbation"},
    "early stop": {"stop": "eigenvalue"},
    "min steps": {"min_steps": 5},
    "sampled, decayed and judged": {
        "sampling": "gumbel",
        "beta_decay": 1.0,
        "select": "perturbation",
        "min_steps": 5,
    },
}


@pytest.fixture(params=["contrastive", pytest.param("supervised", marks=pytest.mark.thorough)])
def objective(request):
    return OBJECTIVES[request.param]


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    draw = {name: torch.randn(SAMPLES, 2, 4, generator=generator) for name in FEATURES}
    return memory_source(draw, noise=0.3)


@pytest.fixture
def short(monkeypatch):
    """Windows of two epochs, so that a short search can stop early."""
    from ssnas_core.search import bilevel as module

    monkeypatch.setattr(stable, "WINDOW", 2)
    monkeypatch.setattr(module, "WINDOW", 2)


def space_of(**more) -> FusionSpace:
    sizes = {"channels": 4, "length": 2, "cells": 1, "dropout": 0.2, **more}
    return FusionSpace(dict.fromkeys(FEATURES, 4), FusionConfig(**sizes))


def search(source, objective, config=SMALL, *, space=None, seed=5, **options):
    context = SearchContext(train=TRAIN, dev=DEV, seed=seed, **options)
    return bilevel(space or space_of(), source, objective, context, config)


def same(first, second) -> bool:
    equal = all(torch.equal(first.state[name], second.state[name]) for name in first.state)
    return equal and first.genotype == second.genotype and first.history == second.history


def tensors(values: dict[str, list]) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


class Seen:
    """An objective that calls `look(model, on dev, generator)` before each loss."""

    def __init__(self, objective, look) -> None:
        self.objective, self.look = objective, look
        self.head, self.report = objective.head, objective.report

    def loss(self, model, source, indices, generator):
        self.look(model, bool(indices.min() >= len(TRAIN)), generator)
        return self.objective.loss(model, source, indices, generator)


# --- every variant


WAYS = [(kind, *way) for kind in KINDS for way in (("step", 2), ("epoch", 1))]
WAYS += [("gumbel", "step", 1), ("gumbel", "epoch", 2)]
QUICK = [("sampled, decayed and judged", "step", 2), ("gumbel", "epoch", 1)]


@pytest.mark.parametrize(
    ("kind", "alternate", "order"),
    [way if way in QUICK else pytest.param(*way, marks=pytest.mark.thorough) for way in WAYS],
)
def test_variant_killed_in_any_epoch_resumes_bit_identical(
    source, killed, tmp_path, short, kind, alternate, order
):
    objective = OBJECTIVES["contrastive" if alternate == "step" else "supervised"]
    config = replace(SMALL, order=order, alternate=alternate, **KINDS[kind])
    config = replace(config, epochs=4 if kind == "early stop" else 2)
    counted, path = killed(objective), tmp_path / "checkpoint.pt"
    whole = search(source, counted, config)
    assert not same(whole, search(source, objective, config, seed=6))
    plain = search(source, objective, replace(SMALL, order=order, alternate=alternate))
    assert not same(whole, plain)
    for after in (counted.losses // 2 + 1, counted.losses - 1):  # in the midst; at the very end
        path.unlink(missing_ok=True)
        with pytest.raises(killed.Kill):
            search(source, killed(objective, after), config, checkpoint=path)
        torch.manual_seed(after)
        resumed = search(source, objective, config, checkpoint=path)
        assert same(resumed, whole)
    dead = killed(objective, after=0)  # finished: returned without a loss
    assert same(search(source, dead, config, checkpoint=path), whole)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.thorough) if k == "early stop" else k for k in KINDS],
)
def test_weights_of_every_variant_can_be_inherited(source, short, kind):
    space = space_of(steps=2)
    config = replace(SMALL, epochs=4, **KINDS[kind])
    result = search(source, OBJECTIVES["supervised"], config, space=space)
    network = space.inherit(result.genotype, result.state).eval()
    assert network(source.clean(DEV)).shape == (len(DEV), network.width)
    assert result.history[-1]["genotype"] == str(result.genotype)
    assert json.loads(json.dumps(result.history)) == list(result.history)


@pytest.mark.parametrize(
    "kind",
    ["perturbation", "beta decay", pytest.param("early stop", marks=pytest.mark.thorough)],
)
def test_released_relaxation_takes_what_needs_no_samples(memory_source, short, kind):
    names = (*FEATURES, "text_1")
    draw = {name: torch.randn(SAMPLES, 2, 4) for name in names}
    config = FusionConfig(channels=4, length=2, cells=2, relaxation="released")
    space = FusionSpace(dict.fromkeys(names, 4), config)
    result = search(
        memory_source(draw), OBJECTIVES["supervised"],
        replace(SMALL, epochs=4, alternate="epoch", **KINDS[kind]), space=space,
    )  # fmt: skip
    network = space.inherit(result.genotype, result.state)
    assert set(network.features) == set(result.genotype.features)


# --- at least so many steps


@pytest.mark.parametrize(("least", "epochs"), [(0, 2), (4, 2), (5, 3), (7, 4), (8, 4)])
def test_epochs_are_as_many_as_the_least_number_of_weight_steps_needs(
    source, objective, least, epochs
):
    result = search(source, objective, replace(SMALL, min_steps=least))
    assert [entry["epoch"] for entry in result.history] == list(range(epochs + 1))
    longer = search(source, objective, replace(SMALL, epochs=epochs))
    assert same(result, longer)


# --- sampling


def draws(scores: Tensor, temperature: float, count: int) -> Tensor:
    """Weights of `count` steps, (count, options)."""
    net = nn.Identity()
    net.relax = None
    generator, drawn = torch.Generator().manual_seed(1), []
    for _ in range(count):
        with stable.sampled(net, temperature, generator):
            net(scores)
            drawn.append(net.relax(scores))
    assert net.relax is None
    return torch.stack(drawn)


def test_options_are_drawn_one_at_a_time_as_often_as_softmax_says():
    scores = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    for temperature in (10.0, 0.1):
        weights = draws(scores, temperature, 3000)
        assert torch.equal(weights, (weights == 1).float())  # exactly, not nearly
        assert torch.equal(weights.sum(1), torch.ones(3000))
        torch.testing.assert_close(weights.mean(0), scores.softmax(0), rtol=0, atol=0.03)


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.3])
def test_gradient_of_a_sample_is_that_of_the_softmax_of_noisy_scores(temperature):
    scores = torch.tensor([0.3, -0.2, -torch.inf, 0.5], requires_grad=True)
    payoff = torch.tensor([1.0, 2.0, 3.0, -1.0])
    (draws(scores, temperature, 1)[0] * payoff).sum().backward()
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(1)))
    exponential = torch.empty(4).exponential_(generator=torch.Generator().manual_seed(seed))
    soft = ((scores.detach() - exponential.log()) / temperature).softmax(0)
    wanted = [
        sum(
            float(payoff[j] * soft[j] * (float(i == j) - soft[i])) / temperature for j in range(4)
        )
        for i in range(4)
    ]  # fmt: skip
    assert scores.grad.tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("steps", (1, 2))
@pytest.mark.parametrize("order", (1, 2))
def test_one_sample_of_every_choice_serves_all_passes_of_a_step(
    source, objective, monkeypatch, order, steps
):
    choices, passes = [], []
    plain = networks.FusionSupernet.forward

    def forward(self, features):
        relax, chosen = self.relax, []
        self.relax = lambda scores: chosen.append(relax(scores)) or chosen[-1]
        try:
            return plain(self, features)
        finally:
            self.relax = relax
            choices.append([one.detach().tolist() for one in chosen])

    monkeypatch.setattr(networks.FusionSupernet, "forward", forward)
    report = objective.report
    seen = Seen(objective, lambda *_: passes.append(len(choices)))
    seen.report = lambda *args: [report(*args), choices.append(None)][0]
    search(
        source,
        seen,
        replace(SMALL, order=order, sampling="gumbel"),
        space=space_of(cells=2, steps=steps),
    )

    sampled = [choices[place] for place in passes]
    per_pair = 2 if order == 1 else 1 + 4  # losses of a weight step and an architecture step
    drawn = []
    for first in range(0, len(sampled), per_pair):
        weights, *logits = sampled[first : first + per_pair]
        assert all(one == logits[0] for one in logits)
        drawn += [weights, logits[0]]
    assert len(drawn) == 2 * 2 * 2  # epochs, steps, levels
    assert len({str(one) for one in drawn}) > 4  # drawn anew in each step
    for one in drawn:
        assert len(one) == 2 * (1 + 2 * steps)  # each cell's pair, each step's states and primitive
        for vector in (vector for vector in one if len(vector) > 1):
            assert sorted(vector)[-2:] == [pytest.approx(0, abs=1e-20), 1]


def test_reports_see_the_softmax(source):
    relaxed = []

    class Reporting(Contrastive):
        def report(self, model, *args):
            relaxed.append(model[0].relax)
            return super().report(model, *args)

    search(source, Reporting(hidden=8, out=4), replace(SMALL, sampling="gumbel"))
    assert relaxed == [networks.softmax] * 2


@pytest.mark.parametrize(("epochs", "wanted"), [(5, [8, 6.5, 5, 3.5, 2]), (1, [2])])
def test_temperature_falls_linearly_from_the_first_epoch_to_the_last(
    source, monkeypatch, epochs, wanted
):
    from ssnas_core.search import bilevel as module

    seen = []

    def spy(supernet, temperature, generator):
        seen.append(temperature)
        return stable.sampled(supernet, temperature, generator)

    monkeypatch.setattr(module, "sampled", spy)
    config = replace(SMALL, epochs=epochs, sampling="gumbel", gumbel_temperature=(8.0, 2.0))
    search(source, OBJECTIVES["supervised"], config)
    assert seen == pytest.approx([tau for tau in wanted for _ in range(4)])


def test_released_relaxation_cannot_be_sampled(source):
    space = space_of(relaxation="released")
    with pytest.raises(InputError, match=r"by a function `relax`, got ReleasedSupernet; .*pairs"):
        search(source, OBJECTIVES["supervised"], replace(SMALL, sampling="gumbel"), space=space)


# --- Beta-Decay


def test_smooth_maximum_is_the_mean_of_logsumexp_over_all_vectors():
    logits = [torch.randn(3), torch.randn(2, 4), torch.randn(5)]
    vectors = [logits[0], logits[1][0], logits[1][1], logits[2]]
    sums = [math.log(sum(math.exp(x) for x in vector.tolist())) for vector in vectors]
    assert float(stable.smooth_maximum(logits)) == pytest.approx(sum(sums) / 4)


@pytest.mark.parametrize("order", (1, 2))
@pytest.mark.parametrize("alternate", ("step", "epoch"))
def test_beta_decay_adds_its_gradient_to_the_logits_alone_growing_from_nothing(
    source, objective, monkeypatch, order, alternate
):
    """The gradients that the optimiser of the logits takes, with the decay and without."""
    from ssnas_core.search import bilevel as module

    config = replace(SMALL, epochs=3, order=order, alternate=alternate, arch_weight_decay=0.0)
    config = replace(config, learning_rate=1e-12, min_learning_rate=0.0, arch_learning_rate=1e-12)
    taken: list[tuple[list, list]] = []
    step = torch.optim.Adam.step

    def spy(self, *args):
        leaves = self.param_groups[0]["params"]
        taken.append(
            (
                [p.detach().clone() for p in leaves],
                [None if p.grad is None else p.grad.clone() for p in leaves],
            )
        )
        return step(self, *args)

    monkeypatch.setattr(module.torch.optim.Adam, "step", spy)
    losses, trained, runs = [], [], []
    for weight in (0.0, 6.0):
        taken.clear()
        result = search(source, objective, replace(config, beta_decay=weight))
        losses.append([entry["arch_loss"] for entry in result.history[1:]])
        trained.append([entry["train_loss"] for entry in result.history[1:]])
        runs.append(list(taken))
    assert trained[1] == pytest.approx(trained[0], abs=1e-4)
    per_epoch = len(runs[0]) // 3
    compared = 0
    for number, ((leaves, plain), (_, decayed)) in enumerate(zip(*runs, strict=True)):
        factor = (0, 3, 6)[number // per_epoch]
        of_logits = leaves[0].shape == (3,)  # alpha_0 is the first
        vectors = sum(leaf.numel() // leaf.shape[-1] for leaf in leaves)
        for leaf, before, after in zip(leaves, plain, decayed, strict=True):
            added = factor * leaf.softmax(-1) / vectors if of_logits else torch.zeros_like(leaf)
            if before is not None:
                torch.testing.assert_close(after - before, added, rtol=1e-3, atol=1e-4)
        compared += of_logits
    assert compared == 3 * 2  # two architecture steps an epoch
    # logits near 0: ln of a vector's length, of alpha 3, of beta 2 twice, of gamma 5
    near = (math.log(3) + 2 * math.log(2) + math.log(5)) / 4
    differences = [b - a for a, b in zip(*losses, strict=True)]
    assert differences == pytest.approx([0, 3 * near, 6 * near], abs=2e-2)


def test_a_great_beta_decay_keeps_the_logits_of_a_choice_alike(source):
    spread = {}
    for weight in (0.0, 50.0):
        config = replace(SMALL, epochs=12, arch_learning_rate=0.02, beta_decay=weight)
        result = search(source, OBJECTIVES["supervised"], config)
        logits = tensors(result.history[-1]["logits"])
        spread[weight] = sum(float(one.std(-1).sum()) for one in logits.values())
    assert spread[50.0] < 0.5 * spread[0.0]


# --- selection by perturbation


@pytest.mark.parametrize("steps", (1, 2))
def test_importance_is_the_rise_of_the_dev_loss_without_the_option(source, objective, steps):
    """Written as a loop over the returned supernet; options are left out by hand."""
    space = space_of(steps=steps)
    trained = []
    seen = Seen(objective, lambda model, *_: trained.append(model))
    result = search(source, seen, replace(SMALL, select="perturbation"), space=space)
    last = result.history[-1]
    for name, value in last["importance"].items():
        assert result.state[f"logits.{name}"].tolist() == value
    model, logits = trained[-1].eval(), trained[-1][0].logits

    def loss() -> float:
        total = 0.0
        with torch.no_grad(), seeded(5, 0, 1) as same_views:
            for rows in (DEV[:7], DEV[7:14], DEV[14:]):  # all of dev, in parts of at most 8
                total += float(objective.loss(model, source, rows, same_views)) * len(rows) / 20
        return total

    def use(values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                logits[name].copy_(value)

    learnt = tensors(last["logits"])
    use(learnt)
    base, rises = loss(), []
    for name, value in learnt.items():
        found = torch.tensor(last["importance"][name])
        assert found.shape == value.shape
        for entry in range(value.numel()):
            without = value.clone()
            without.view(-1)[entry] = -1e4
            use({**learnt, name: without})
            rises.append(loss() - base)
            assert float(found.view(-1)[entry]) == pytest.approx(rises[-1], abs=1e-5)
    assert max(map(abs, rises)) > 1e-3
    assert result.genotype == space.derive(tensors(last["importance"]))


def test_leaving_a_primitive_out_is_its_weight_shared_among_the_others(source):
    space = space_of(dropout=0.0)
    with seeded(0):
        net = space.supernet().eval()
    features = source.clean(DEV)
    net.logits["gamma_0_0"].data = torch.tensor([0.1, 0.4, -0.3, 0.2, 0.0])
    found = {}

    def loss() -> float:
        with torch.no_grad():
            found[len(found)] = net(features).square().sum() + net(features)[:, 0].sum()
        return float(found[len(found) - 1])

    rises = stable.importances(loss, {"gamma_0_0": net.logits["gamma_0_0"]})["gamma_0_0"]
    assert torch.equal(net.logits["gamma_0_0"].detach(), torch.tensor([0.1, 0.4, -0.3, 0.2, 0.0]))
    for option in range(5):
        weights = torch.tensor([0.1, 0.4, -0.3, 0.2, 0.0]).exp()
        weights[option] = 0
        weights /= weights.sum()
        net.relax = lambda scores, w=weights: w if len(scores) == 5 else scores.softmax(0)
        assert float(rises[option]) == pytest.approx(loss() - float(found[0]), abs=1e-4)


def test_perturbation_finds_what_the_loss_needs_though_the_logits_say_otherwise():
    """Options that do the same share their logits' rise; what alone is of use is missed most."""

    class Fixed(Options):
        """Only option 1 lowers the loss on dev; training pushes the logit of option 2."""

        def loss(self, model, source, indices, generator):
            weights = model[0].logits["choice"].softmax(0)
            useful = (weights * torch.tensor([0.0, 1.0, 0.0])).sum()
            pushed = (weights * torch.tensor([0.0, 0.0, 5.0])).sum()
            return model[0].weight.square().sum() - (pushed if model.training else useful)

    config = BilevelConfig(epochs=20, batch_size=8, arch_learning_rate=0.05)
    found = {
        select: search(None, Fixed(), replace(config, select=select), space=ThreeOptions())
        for select in ("argmax", "perturbation")
    }
    assert found["argmax"].genotype.nodes[0].operator == "option_2"
    assert found["perturbation"].genotype.nodes[0].operator == "option_1"
    first, second = (found[select].history for select in found)
    assert first[:-1] == second[:-1]  # the same search up to its end
    assert first[-1]["logits"] == second[-1]["logits"]


# --- early stop


class Bowl(nn.Module):
    """x' A x / 2 + b x of two leaves."""

    def __init__(self, eigenvalues: list[float]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        turn = torch.linalg.qr(torch.randn(5, 5, generator=generator))[0]
        self.matrix = turn @ torch.diag(torch.tensor(eigenvalues)) @ turn.T
        self.slope = torch.randn(5, generator=generator)
        self.leaves = nn.ParameterList([torch.randn(2, generator=generator), torch.randn(1, 3)])

    def loss(self) -> Tensor:
        x = torch.cat([leaf.flatten() for leaf in self.leaves])
        return x @ self.matrix @ x / 2 + self.slope @ x


@pytest.mark.parametrize("eigenvalues", [[3.0, 1.0, 0.5, 0.0, -7.0], [-1.0, -2.0, -3.0, -4.0, -5]])
def test_curvature_of_a_quadratic_is_its_largest_eigenvalue(eigenvalues):
    bowl = Bowl(eigenvalues)
    before = [leaf.detach().clone() for leaf in bowl.leaves]
    found = stable.curvature(bowl.loss, list(bowl.leaves))
    assert found == pytest.approx(max(eigenvalues), abs=2e-3)
    assert all(torch.equal(leaf, old) for leaf, old in zip(bowl.leaves, before, strict=True))
    assert all(leaf.grad is None for leaf in bowl.leaves)


def plain_mix(weights, states, length):
    """`mix` as autograd takes it, any number of times."""
    wide = [state.expand(-1, length, -1) for state in states]
    return tuple(sum(w * state for w, state in zip(row, wide, strict=True)) for row in weights)


@pytest.mark.parametrize("steps", (1, pytest.param(2, marks=pytest.mark.thorough)))
def test_eigenvalue_in_the_history_is_that_of_autograds_hessian(
    source, objective, short, monkeypatch, steps
):
    """Of the supernet as it was after each epoch, on the first part of dev in eval mode."""
    # without ReLU, whose kinks differences see and autograd does not
    monkeypatch.setattr(torch.Tensor, "relu", lambda x: nn.functional.softplus(x))
    states = []

    class Reporting(type(objective)):
        def report(self, model, *args):
            assert not model.training
            states.append({name: value.clone() for name, value in model.state_dict().items()})
            return {}

        def head(self, width):
            return nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 4))

    known = {name: getattr(objective, name) for name in vars(objective)}
    objective, space = Reporting(**known), space_of(steps=steps)
    config = replace(SMALL, epochs=4, stop="eigenvalue", arch_learning_rate=0.3)
    history = search(source, objective, config, space=space).history
    monkeypatch.setattr(networks, "mix", plain_mix)
    net = space.supernet()
    model = nn.Sequential(net, objective.head(net.width)).eval()
    logits = list(model[0].logits.values())
    for entry, state in zip(history[1:], states, strict=True):
        model.load_state_dict(state)
        with seeded(5, 0, 1) as same_views:
            loss = objective.loss(model, source, DEV[:7], same_views)
        slopes = torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, logits, create_graph=True)]
        )
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(one, logits, retain_graph=True)])
            for one in slopes
        ]
        wanted = float(torch.linalg.eigvalsh(torch.stack(rows).double())[-1])
        assert wanted > 1e-3
        assert entry["eigenvalue"] == pytest.approx(wanted, rel=0.01)


def stop_by_the_paper(values: list[float], k: int = 5, factor: float = 0.75) -> tuple[int, int]:
    """The epochs (numbers from 1) at which the search ends and to which it goes back."""
    smooth = {}
    for i in range(k, len(values) + 1):
        smooth[i] = sum(values[j - 1] for j in range(i - k + 1, i + 1)) / k
        if i - k in smooth and smooth[i] > 0 and smooth[i - k] / smooth[i] < factor:
            return i, i - k
    return len(values), 0


SERIES = {
    "rises": [1.0 + 0.1 * i for i in range(20)],
    "rises fast": [1.3**i for i in range(14)],
    "falls": [1.0 / (1 + i) for i in range(20)],
    "even": [2.0] * 15,
    "jumps late": [1.0] * 12 + [3.0] * 6,
    "one peak": [1.0] * 8 + [2.0] + [1.0] * 8,
    "one high peak": [1.0] * 8 + [4.0] + [1.0] * 8,
    "negative": [-1.0] * 5 + [-0.1] * 10,
    "through zero": [-1.0] * 6 + [0.5] * 10,
    "just not": [1.0] * 5 + [1.32] * 5,
    "just": [1.0] * 5 + [1.35] * 5,
    "too few": [1.0] * 4 + [9.0] * 5,
}


@pytest.mark.parametrize("name", SERIES)
def test_search_ends_where_the_papers_rule_says(name):
    values = SERIES[name]
    ended, back = stop_by_the_paper(values)
    for epoch in range(1, ended):
        assert stable.epoch_before_sharp(values[:epoch]) is None
    assert stable.epoch_before_sharp(values[:ended]) == (back or None)


def test_series_tell_the_rules_apart():
    assert {name: stop_by_the_paper(values) for name, values in SERIES.items()} == {
        "rises": (10, 5), "rises fast": (10, 5), "falls": (20, 0), "even": (15, 0),
        "jumps late": (13, 8), "one peak": (17, 0), "one high peak": (10, 5),
        "negative": (15, 0), "through zero": (10, 5), "just not": (10, 0), "just": (10, 5),
        "too few": (9, 0),
    }  # fmt: skip


@pytest.mark.parametrize("after", (0, pytest.param(1, marks=pytest.mark.thorough), 2))
def test_stopped_search_gives_the_genotype_of_five_epochs_before(
    source, killed, tmp_path, monkeypatch, after
):
    from ssnas_core.search import bilevel as module

    curvatures = [1.0] * 9 + [3.0] * 5  # sharp from epoch 10 on: (1 * 4 + 3) / 5 = 1.4
    counted = iter(curvatures)
    monkeypatch.setattr(module, "curvature", lambda *_: next(counted))
    config = replace(SMALL, epochs=14, arch_learning_rate=0.3)
    objective, space = OBJECTIVES["contrastive"], space_of()
    plain = search(source, objective, config)
    path = tmp_path / "checkpoint.pt"
    if after:
        epoch = (0, 3, 9)[after]
        with pytest.raises(killed.Kill):
            dying = killed(objective, 4 * epoch)
            search(source, dying, replace(config, stop="eigenvalue"), checkpoint=path)
        counted = iter(curvatures[epoch:])
    result = search(source, objective, replace(config, stop="eigenvalue"), checkpoint=path)
    assert [entry.get("eigenvalue") for entry in result.history] == [None, *curvatures[:10]]
    assert [entry.get("from_epoch") for entry in result.history] == [None] * 10 + [5]
    fifth = result.history[5]
    assert str(result.genotype) == fifth["genotype"] == result.history[-1]["genotype"]
    assert result.genotype == space.derive(tensors(fifth["logits"]))
    for entry, other in zip(result.history, plain.history, strict=False):  # nothing else differs
        assert entry["logits"] == other["logits"] and entry.get("match") == other.get("match")
    for name, value in fifth["logits"].items():
        assert result.state[f"logits.{name}"].tolist() == value
        assert value != result.history[-1]["logits"][name]


def test_search_too_short_to_stop_early_is_refused(source, monkeypatch):
    from ssnas_core.search import bilevel as module

    monkeypatch.setattr(module, "curvature", lambda *_: 1.0)
    config = replace(SMALL, epochs=9, stop="eigenvalue")
    with pytest.raises(InputError, match=r"over 5 epochs and needs 10 of them, got 9; search lon"):
        search(source, OBJECTIVES["supervised"], config)
    config = replace(config, min_steps=2 * 9 + 1, learning_rate=0.0)
    assert len(search(source, OBJECTIVES["supervised"], config).history) == 11


# --- a strategy knows neither space nor objective


class ThreeOptions:
    def supernet(self) -> nn.Module:
        net: Any = nn.Module()
        net.width = 1
        net.logits = nn.ParameterDict({"choice": nn.Parameter(0.01 * torch.randn(3))})
        net.weight = nn.Parameter(torch.zeros(1))
        return net

    def derive(self, logits):
        best = int(logits["choice"].argmax())
        return Genotype("options", (Node("only", f"option_{best}", ()),))


class Options:
    def head(self, width: int) -> nn.Module:
        return nn.Identity()

    def report(self, model, source, indices, generator):
        return {}


# --- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_steps": -1}, "min_steps must be >= 0, got -1"),
        ({"beta_decay": -0.1}, "beta_decay must be >= 0, got -0.1"),
        ({"beta_decay": math.nan}, "beta_decay must be >= 0, got nan"),
        ({"beta_decay": math.inf}, "beta_decay must be >= 0, got inf"),
        ({"sampling": "hard"}, r"sampling must be one of \('softmax', 'gumbel'\), got 'hard'"),
        ({"gumbel_temperature": (10.0, 0.0)}, r"two numbers > 0, got \(10.0, 0.0\)"),
        ({"select": "max"}, r"select must be one of \('argmax', 'perturbation'\), got 'max'"),
        ({"stop": "early"}, r"stop must be one of \('never', 'eigenvalue'\), got 'early'"),
        ({"select": "perturbation", "stop": "eigenvalue"}, "an earlier epoch: choose one of them"),
    ],
)
def test_settings_that_cannot_search_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        BilevelConfig(**change)
