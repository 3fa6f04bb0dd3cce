"""Bilevel search: two levels that keep apart, published schedules, bit-identical resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ssnas_core.common.errors import InputError
from ssnas_core.common.random import seeded
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.hybrid import Hybrid
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.search.bilevel import BilevelConfig, bilevel, warm_restarts
from ssnas_core.search.context import SearchContext
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace
from ssnas_core.spaces.genotype import Genotype, Node
from ssnas_core.training.checkpoints import load_checkpoint
from ssnas_core.training.loop import batches

SAMPLES = 40
TRAIN, DEV = torch.arange(20), torch.arange(20, SAMPLES)
LABELS = torch.arange(SAMPLES) % 4
SMALL = BilevelConfig(epochs=3, batch_size=8, arch_learning_rate=0.01)  # 2 steps an epoch
FEATURES = ("image_0", "image_1", "text_0", "text_1")

OBJECTIVES = {
    "contrastive": Contrastive(hidden=8, out=4),
    "supervised": Supervised(labels=LABELS, classes=4),
}


@pytest.fixture(params=["contrastive", pytest.param("supervised", marks=pytest.mark.thorough)])
def objective(request):
    return OBJECTIVES[request.param]


@pytest.fixture
def space():
    channels = dict.fromkeys(FEATURES, 4)
    return FusionSpace(channels, FusionConfig(channels=4, length=2, cells=2, dropout=0.2))


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(0)
    draw = {name: torch.randn(SAMPLES, 2, 4, generator=generator) for name in FEATURES}
    return memory_source(draw, noise=0.3)


def search(space, source, objective, config=SMALL, train=TRAIN, dev=DEV, **options):
    context = SearchContext(train=train, dev=dev, **options)
    return bilevel(space, source, objective, context, config)


def same(first, second) -> bool:
    """Whether two results are equal bit for bit."""
    assert first.state.keys() == second.state.keys()
    equal = all(torch.equal(first.state[name], second.state[name]) for name in first.state)
    return equal and first.genotype == second.genotype and first.history == second.history


# --- two levels


class Watched:
    """An objective that writes down, at each loss, its rows and every parameter's value."""

    def __init__(self, objective) -> None:
        self.objective = objective
        self.head, self.report = objective.head, objective.report
        self.rows: list[set[int]] = []
        self.parameters: list[dict[str, Tensor]] = []

    def loss(self, model, source, indices, generator):
        self.rows.append(set(indices.tolist()))
        self.parameters.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return self.objective.loss(model, source, indices, generator)


def test_each_step_moves_its_own_level_alone(space, source, objective):
    watched = Watched(objective)
    search(space, source, watched)
    assert len(watched.parameters) == 3 * 2 * 2  # epochs x steps x levels
    for number, before in enumerate(watched.parameters[:-1]):
        after = watched.parameters[number + 1]
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        logits = {name for name in before if ".logits." in name}
        if number % 2 == 0:  # the weight step
            assert moved and not moved & logits
            assert watched.rows[number] <= set(TRAIN.tolist())
        else:  # the architecture step
            assert moved == logits
            assert watched.rows[number] <= set(DEV.tolist())


def test_every_epoch_has_an_order_and_views_of_its_own(space, source, objective):
    seen = []

    class Spy:
        head, report = objective.head, objective.report

        def loss(self, model, source, indices, generator):
            seen.append((tuple(indices.tolist()), tuple(generator.get_state().tolist())))
            return objective.loss(model, source, indices, generator)

    search(space, source, Spy())
    for rows_or_state in zip(*seen, strict=True):
        assert len(set(rows_or_state)) == 12


def test_weights_learn_from_train_and_logits_from_dev():
    """A loss that wants another option, and another weight, on train than on dev."""

    class TwoFaced(Options):
        def loss(self, model, source, indices, generator):
            on_dev = bool((indices >= 20).all())
            wanted = self.payoff if on_dev else self.payoff.flip(0)
            weight = model[0].weight - (5.0 if on_dev else 1.0)
            return -(model[0].logits["choice"].softmax(0) * wanted).sum() + weight.square().sum()

    config = BilevelConfig(epochs=40, batch_size=10, arch_learning_rate=0.05, learning_rate=0.05)
    result = search(ThreeOptions(), None, TwoFaced(), config)
    assert result.genotype.nodes[0].operator == "option_2"  # the best on dev, the worst on train
    assert float(result.state["weight"]) == pytest.approx(1, abs=0.1)


def test_first_order_search_is_the_plain_loop_bit_for_bit(space, source, objective):
    """What results before there was a second order depend on: every draw in its place."""
    with seeded(5, 0):
        net = space.supernet()
        model = nn.Sequential(net, objective.head(net.width))
    logits = list(net.logits.values())
    weights = [p for p in model.parameters() if not any(p is one for one in logits)]
    by_weights = torch.optim.Adam(weights, weight_decay=1e-4, fused=True)
    by_logits = torch.optim.Adam(logits, lr=0.01, betas=(0.5, 0.999), weight_decay=1e-3, fused=True)
    for epoch in range(3):
        with seeded(5, epoch + 1) as generator:
            # an epoch is as long in both parts; the order of train is drawn first, then dev's
            turns = zip(batches(TRAIN, 8, generator), batches(DEV, 8, generator), strict=True)
            for step, (rows, part) in enumerate(turns):
                by_weights.param_groups[0]["lr"] = warm_restarts(epoch + step / 2, SMALL)
                for optimizer, chosen in ((by_weights, rows), (by_logits, part)):
                    for place, leaves in enumerate((weights, logits)):
                        for leaf in leaves:  # rounding differs where more gradients are asked for
                            leaf.requires_grad_(place == (optimizer is by_logits))
                    model.zero_grad()
                    objective.loss(model.train(), source, chosen, generator).backward()
                    optimizer.step()
    found = search(space, source, objective, seed=5).state
    assert [n for n, v in net.state_dict().items() if not torch.equal(v, found[n])] == []


def test_levels_that_alternate_by_epoch_pass_over_train_and_then_over_dev(
    space, source, objective, steps
):
    """BM-NAS's released code."""
    watched = Watched(objective)
    config = replace(SMALL, alternate="epoch")
    search(space, source, watched, config, dev=MORE)
    assert len(watched.rows) == 3 * (2 + 3)
    for epoch in range(3):
        weights, logits = (
            watched.rows[5 * epoch : 5 * epoch + 2],
            watched.rows[5 * epoch + 2 : 5 * epoch + 5],
        )
        assert set.union(*weights) <= set(TRAIN.tolist())
        assert set.union(*logits) == set(MORE.tolist())  # 3 batches of 8: each sample once
    for number, (_, group) in enumerate(steps):
        epoch, step = divmod(number, 5)
        if step < 2:
            assert group["lr"] == warm_restarts(epoch + step / 2, config)
        else:
            assert group["betas"] == (0.5, 0.999)


def test_what_is_frozen_stays_frozen(space, source, objective):
    class Frozen(FusionSpace):
        def supernet(self):
            net = super().supernet()
            net.stems.image_0.linear.weight.requires_grad_(False)
            net.logits["beta_0_0"].requires_grad_(False)
            self.start = {name: value.clone() for name, value in net.state_dict().items()}
            return net

    frozen = Frozen(space.channels, space.config)
    for config in (SMALL, replace(SMALL, order=2)):
        result = search(frozen, source, objective, config)
        still = {n for n in result.state if torch.equal(result.state[n], frozen.start[n])}
        assert {"stems.image_0.linear.weight", "logits.beta_0_0"} <= still
        assert not {"stems.image_1.linear.weight", "logits.beta_1_0", "logits.alpha_0"} & still


def test_search_without_anything_to_train_is_refused():
    class Fixed(ThreeOptions):
        def supernet(self):
            net = super().supernet()
            net.logits.requires_grad_(False)
            return net

    with pytest.raises(InputError, match="logits that require gradients, got 1 and 0 tensors"):
        search(Fixed(), None, Options())


# --- what is found


def planted(memory_source, pair: tuple[str, str], seed: int):
    """Two bits, one in each feature of `pair`; everything else is drawn afresh in every view."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(2, (256, 2), generator=generator)
    labels = bits[:, 0] * 2 + bits[:, 1]
    features = {}
    for name in FEATURES:
        features[name] = torch.randn(256, 1, 4, generator=generator)
    for bit, name in enumerate(pair):
        features[name][:, 0, 0] = 4.0 * bits[:, bit] - 2
    return memory_source(features, noise=0.3, fresh=set(FEATURES) - set(pair)), labels


@pytest.mark.parametrize("kind", ["supervised", "contrastive"])
@pytest.mark.parametrize(
    ("pair", "seed"),
    [
        (("image_1", "text_0"), 0),
        pytest.param(("image_0", "text_1"), 1, marks=pytest.mark.thorough),
        pytest.param(FEATURES[2:], 2, marks=pytest.mark.thorough),
    ],
)
def test_the_one_informative_pair_of_features_is_found(memory_source, kind, pair, seed):
    source, labels = planted(memory_source, pair, seed)
    objective = {
        "supervised": Supervised(labels=labels, classes=4),
        "contrastive": Contrastive(hidden=16, out=8),
    }[kind]
    space = FusionSpace(
        dict.fromkeys(FEATURES, 4), FusionConfig(channels=8, length=1, cells=1, dropout=0.0)
    )
    config = BilevelConfig(epochs=15, batch_size=64, arch_learning_rate=0.03, learning_rate=0.01)
    halves = {"train": torch.arange(128), "dev": torch.arange(128, 256)}
    result = bilevel(space, source, objective, SearchContext(seed=seed, **halves), config)
    assert set(result.genotype.nodes[0].inputs) == set(pair)
    # by a clear margin over every other feature, and from a start that knew nothing
    alpha = dict(zip(FEATURES, result.history[-1]["logits"]["alpha_0"], strict=True))
    others = [value for name, value in alpha.items() if name not in pair]
    assert min(alpha[name] for name in pair) > max(others) + 0.3
    assert max(map(abs, result.history[0]["logits"]["alpha_0"])) < 0.01


def test_permuting_all_labels_changes_nothing_in_a_contrastive_search(space, source):
    permuted = LABELS[torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(7))]
    results = {}
    for kind in OBJECTIVES:
        for name, labels in (("true", LABELS), ("permuted", permuted)):
            source.labels = labels  # within reach, as in a data set
            chosen = {
                "contrastive": Contrastive(hidden=8, out=4),
                "supervised": Supervised(labels=labels, classes=4),
            }[kind]
            results[kind, name] = search(space, source, chosen)
    assert same(results["contrastive", "true"], results["contrastive", "permuted"])
    assert not same(results["supervised", "true"], results["supervised", "permuted"])


# --- determinism


def test_search_is_decided_by_its_seed_and_leaves_the_callers_randomness_alone(
    space, source, objective
):
    results = []
    for seed, outside in ((1, 10), (1, 11), (2, 10)):
        torch.manual_seed(outside)
        state = torch.get_rng_state()
        results.append(search(space, source, objective, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
    assert same(results[0], results[1]) and not same(results[0], results[2])


@pytest.mark.parametrize(
    "after", [6 if n == 6 else pytest.param(n, marks=pytest.mark.thorough) for n in range(12)]
)
def test_search_killed_at_any_step_resumes_bit_identical(
    space, source, objective, killed, tmp_path, after
):
    whole = search(space, source, objective, seed=5)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(killed.Kill):
        search(space, source, killed(objective, after), seed=5, checkpoint=path)
    assert path.exists() == (after >= 4)
    torch.manual_seed(after)  # another process
    counted = killed(objective)
    assert same(search(space, source, counted, seed=5, checkpoint=path), whole)
    assert counted.losses == 12 - after // 4 * 4  # whole epochs are not searched again


def test_finished_search_is_returned_without_a_step(space, source, objective, killed, tmp_path):
    path = tmp_path / "checkpoint.pt"
    whole = search(space, source, objective, seed=5, checkpoint=path)
    dead = killed(objective, after=0)
    assert same(search(space, source, dead, seed=5, checkpoint=path), whole)


def test_checkpoint_of_another_space_is_refused(space, source, objective, tmp_path):
    path = tmp_path / "checkpoint.pt"
    search(space, source, objective, checkpoint=path)
    other = FusionSpace(dict.fromkeys(FEATURES[:3], 4), space.config)
    with pytest.raises(InputError, match="checkpoint of another model .*; delete it or use"):
        search(other, source, objective, checkpoint=path)


VARIANTS = {
    "hybrid": (SMALL, 4),  # a configuration, and its losses in an epoch
    "second order": (replace(SMALL, order=2), 2 * 5),
    "by epoch": (replace(SMALL, alternate="epoch"), 2 + 3),
    "second order by epoch": (replace(SMALL, order=2, alternate="epoch"), 2 + 3 * 4),
}
HYBRID = Hybrid(
    supervised=Supervised(labels=LABELS, classes=4),
    labelled=torch.arange(0, SAMPLES, 3),
    contrastive=Contrastive(hidden=8, out=4),
)
MORE = torch.arange(16, SAMPLES)  # 24 for dev: 3 batches, where train has 2


@pytest.mark.parametrize(
    "kind",
    [
        "hybrid",
        "second order by epoch",
        pytest.param("second order", marks=pytest.mark.thorough),
        pytest.param("by epoch", marks=pytest.mark.thorough),
    ],
)
def test_every_kind_of_search_is_decided_by_its_seed_and_resumes_bit_identical(
    space, source, killed, tmp_path, kind
):
    config, losses = VARIANTS[kind]
    objective = HYBRID if kind == "hybrid" else OBJECTIVES["contrastive"]
    whole = search(space, source, objective, config, dev=MORE, seed=5)
    other = search(space, source, objective, config, dev=MORE, seed=6)
    assert not same(whole, other)
    first = search(space, source, objective, dev=MORE, seed=5)
    assert same(whole, first) == (kind == "hybrid")
    path = tmp_path / "checkpoint.pt"
    for after in (losses, 2 * losses - 1):  # after an epoch; in the last loss of the next one
        path.unlink(missing_ok=True)
        with pytest.raises(killed.Kill):
            dying = killed(objective, after)
            search(space, source, dying, config, dev=MORE, seed=5, checkpoint=path)
        counted = killed(objective)
        torch.manual_seed(after)
        resumed = search(space, source, counted, config, dev=MORE, seed=5, checkpoint=path)
        assert same(resumed, whole)
        assert counted.losses == 2 * losses


OTHER_RUNS = {
    "seed": {"seed": 6},
    "configuration": {"config": replace(SMALL, arch_learning_rate=0.02)},
    "order": {"config": replace(SMALL, order=2)},
    "train samples": {"train": TRAIN[:-1]},
    "dev samples": {"dev": DEV[:-1]},
}


@pytest.mark.parametrize("case", OTHER_RUNS)
def test_checkpoint_of_another_search_is_refused(space, source, objective, tmp_path, case):
    path = tmp_path / "checkpoint.pt"
    search(space, source, objective, seed=5, checkpoint=path)
    options = {"seed": 5, "checkpoint": path, **OTHER_RUNS[case]}
    with pytest.raises(InputError, match=r"point\.pt is a checkpoint of another run: expected \("):
        search(space, source, objective, **options)


def test_whole_history_is_told_after_each_epoch_once_it_is_saved(
    space, source, objective, killed, tmp_path
):
    path, calls = tmp_path / "checkpoint.pt", []

    def on_epoch(history):
        saved = load_checkpoint(path)
        assert saved is not None and saved["history"] == history
        calls.append(history)

    with pytest.raises(killed.Kill):
        search(space, source, killed(objective, 5), seed=5, checkpoint=path, on_epoch=on_epoch)
    whole = search(space, source, objective, seed=5, checkpoint=path, on_epoch=on_epoch)
    history = list(whole.history)
    assert calls == [history[:n] for n in (2, 2, 3, 4)]  # with the start; 2 again: what was saved
    assert same(whole, search(space, source, objective, seed=5))


# --- schedules and optimisers


@pytest.mark.parametrize(("period", "factor"), [(1, 2), (3, 1), (2, 3)])
def test_learning_rate_is_torchs_cosine_annealing_with_warm_restarts(period, factor):
    config = BilevelConfig(
        learning_rate=0.2, min_learning_rate=0.01, restart_epochs=period, restart_factor=factor
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    schedule = CosineAnnealingWarmRestarts(optimizer, period, factor, eta_min=0.01)
    for step in range(7 * 15):
        optimizer.step()
        schedule.step(step / 7)
        assert warm_restarts(step / 7, config) == pytest.approx(schedule.get_last_lr()[0])


def test_rate_restarts_at_epochs_0_1_3_and_7_and_falls_to_the_minimum_before():
    config = BilevelConfig()
    restarts = [warm_restarts(epoch, config) for epoch in (0, 1, 3, 7)]
    assert restarts == [1e-3] * 4
    assert warm_restarts(7 - 1e-9, config) == pytest.approx(1e-6)


@pytest.fixture
def steps():
    """Every optimiser step of the test: its optimiser's class and settings."""
    seen: list[tuple[type, dict]] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append((type(optimizer), dict(optimizer.param_groups[0])))
    )
    yield seen
    hook.remove()


def test_steps_alternate_between_the_published_optimisers(space, source, objective, steps):
    """BM-NAS, Table 8."""
    search(space, source, objective, BilevelConfig(epochs=4, batch_size=10))
    assert len(steps) == 4 * 2 * 2
    assert {kind for kind, _ in steps} == {torch.optim.Adam}
    for number, (_, group) in enumerate(steps):
        settings = (group["betas"], group["weight_decay"])
        if number % 2 == 0:
            assert settings == ((0.9, 0.999), 1e-4)
            wanted = warm_restarts(number / 4, BilevelConfig())  # 2 steps of each level an epoch
            assert group["lr"] == pytest.approx(wanted)
        else:
            assert settings == ((0.5, 0.999), 1e-3)
            assert group["lr"] == 3e-4


def test_default_search_is_as_long_and_as_wide_as_published():
    config = BilevelConfig()
    assert (config.epochs, config.batch_size) == (12, 96)


# --- what is returned


def test_history_holds_every_logit_every_loss_and_the_genotype_of_each_epoch(
    space, source, objective
):
    result = search(space, source, objective)
    assert [entry["epoch"] for entry in result.history] == [0, 1, 2, 3]
    shapes = {name: p.shape for name, p in space.supernet().logits.items()}
    for entry in result.history:
        logits = {name: torch.tensor(values) for name, values in entry["logits"].items()}
        assert {name: value.shape for name, value in logits.items()} == shapes
        assert entry["genotype"] == str(space.derive(logits))
    losses = [(e["train_loss"], e["arch_loss"]) for e in result.history[1:]]
    assert len({loss for pair in losses for loss in pair}) == 6
    if isinstance(objective, Contrastive):
        assert all("effective_rank" in entry for entry in result.history[1:])
    assert json.loads(json.dumps(result.history)) == list(result.history)
    assert result.history[-1]["genotype"] == str(result.genotype)


def test_state_is_the_searched_supernet_and_its_weights_can_be_inherited(space, source, objective):
    result = search(space, source, objective)
    net = space.supernet()
    net.load_state_dict(result.state)
    assert space.derive(net.logits) == result.genotype
    network = space.inherit(result.genotype, result.state).eval()
    assert network(source.clean(DEV)).shape == (20, network.width)
    for name, value in result.history[-1]["logits"].items():
        assert result.state[f"logits.{name}"].tolist() == value


def test_epoch_losses_are_the_mean_over_its_steps(space, source, objective):
    losses = []

    class Spy:
        head, report = objective.head, objective.report

        def loss(self, *args):
            losses.append(objective.loss(*args))
            return losses[-1]

    result = search(space, source, Spy())
    for epoch, entry in enumerate(result.history[1:]):
        values = [float(loss.detach()) for loss in losses[4 * epoch : 4 * epoch + 4]]
        assert entry["train_loss"] == pytest.approx((values[0] + values[2]) / 2)
        assert entry["arch_loss"] == pytest.approx((values[1] + values[3]) / 2)


# --- a strategy knows neither space nor objective


class ThreeOptions:
    """No more than what the protocol asks of a space."""

    def supernet(self) -> Any:
        net: Any = nn.Module()
        net.width = 1
        net.logits = nn.ParameterDict({"choice": nn.Parameter(0.01 * torch.randn(3))})
        net.weight = nn.Parameter(torch.zeros(1))
        return net

    def derive(self, logits) -> Genotype:
        best = int(logits["choice"].argmax())
        return Genotype("options", (Node("only", f"option_{best}", ()),))


class Options:
    """A loss that is lowest for the option of the largest payoff; it reads no source."""

    payoff = torch.tensor([0.0, 1.0, 2.0])

    def head(self, width: int) -> nn.Module:
        return nn.Identity()

    def loss(self, model, source, indices, generator):
        supernet = model[0]
        choice = (supernet.logits["choice"].softmax(0) * self.payoff).sum()
        return (supernet.weight - 1).square().sum() - choice

    def report(self, model, source, indices, generator):
        return {"seen": float(len(indices))}


def test_any_supernet_with_named_logits_and_any_loss_can_be_searched(tmp_path):
    config = BilevelConfig(epochs=40, batch_size=10, arch_learning_rate=0.05)
    result = search(ThreeOptions(), None, Options(), config, checkpoint=tmp_path / "c.pt")
    assert result.genotype == Genotype("options", (Node("only", "option_2", ()),))
    assert result.history[-1]["seen"] == 20
    assert result.state.keys() == {"logits.choice", "weight"}


# --- what goes wrong


@pytest.mark.parametrize(("train", "dev"), [(1, 20), (20, 1), (20, 0), (0, 20)])
def test_parts_of_fewer_than_two_samples_are_refused(space, source, objective, train, dev):
    wanted = f"two samples in each part, got {train} train and {dev} dev; give more samples"
    with pytest.raises(InputError, match=wanted):
        search(space, source, objective, train=TRAIN[:train], dev=DEV[:dev])


@pytest.mark.parametrize("level", [0, 1])
def test_loss_that_is_not_finite_is_refused_and_the_last_whole_epoch_kept(
    space, source, objective, killed, tmp_path, level
):
    class Breaking:
        head, report = objective.head, objective.report
        calls = 0

        def loss(self, *args):
            self.calls += 1
            broken = self.calls == 7 + level
            return objective.loss(*args) * (float("nan") if broken else 1)

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InputError, match="(loss became nan|weights became NaN.*) in epoch 2"):
        search(space, source, Breaking(), seed=5, checkpoint=path)
    whole = search(space, source, objective, seed=5)
    counted = killed(objective)
    assert same(search(space, source, counted, seed=5, checkpoint=path), whole)
    assert counted.losses == 8  # epochs 2 and 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"batch_size": 1}, "batch_size must be >= 2, got 1"),
        ({"restart_epochs": 0}, "restart_epochs must be >= 1, got 0"),  # would never end
        ({"restart_factor": 0}, "restart_factor must be >= 1, got 0"),
        ({"order": 3}, r"order must be one of \(1, 2\), got 3"),
        ({"alternate": "batch"}, r"alternate must be one of \('step', 'epoch'\), got 'batch'"),
    ],
)
def test_settings_that_cannot_search_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        BilevelConfig(**change)
