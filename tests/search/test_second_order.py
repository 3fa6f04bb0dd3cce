"""DARTS's second order: exact hypergradients, and one chance in all that is differenced."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ssnas_core.common.random import seeded
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.search.bilevel import BilevelConfig, bilevel
from ssnas_core.search.context import SearchContext
from ssnas_core.search.stable import unrolled_gradient
from ssnas_core.spaces.fusion.space import FusionConfig, FusionSpace

RATE = 0.3


class Quadratic(nn.Module):
    """L_train = |w - A a|^2 / 2 and L_dev = |w - b|^2 / 2 + c a."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.w = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(3))
        self.matrix, self.b, self.c = torch.randn(3, 2), torch.randn(3), torch.randn(2)

    def train_loss(self, generator) -> Tensor:
        return (self.w - self.matrix @ self.a).square().sum() / 2

    def dev_loss(self, generator) -> Tensor:
        return (self.w - self.b).square().sum() / 2 + self.c @ self.a


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def gradient_of(net, rate: float = RATE):
    return unrolled_gradient(
        net.train_loss, net.dev_loss, model=net, weights=[net.w], logits=[net.a], rate=rate,
        generator=torch.Generator(),
    )  # fmt: skip


def test_gradient_of_quadratic_losses_has_its_closed_form():
    net = Quadratic()
    w, a = net.w.detach().clone(), net.a.detach()
    virtual = w - RATE * (w - net.matrix @ a)
    loss, (found,) = gradient_of(net)
    torch.testing.assert_close(found, net.c + RATE * net.matrix.T @ (virtual - net.b))
    torch.testing.assert_close(loss, (virtual - net.b).square().sum() / 2 + net.c @ a)
    assert torch.equal(net.w, w)  # the step was a virtual one
    assert not loss.requires_grad and net.w.grad is None and net.a.grad is None


def test_without_a_virtual_step_it_is_the_first_order():
    net = Quadratic()
    loss, (found,) = gradient_of(net, rate=0.0)
    (wanted,) = torch.autograd.grad(net.dev_loss(None), [net.a])
    assert torch.equal(found, wanted)
    assert torch.equal(loss, net.dev_loss(None).detach())


def test_dev_loss_that_does_not_depend_on_the_weights_leaves_nothing_to_difference():
    net = Quadratic()
    net.dev_loss = lambda _: net.c @ net.a
    assert torch.equal(gradient_of(net)[1][0], net.c)


class Mixture(nn.Module):
    """A small relaxed network with batch norm, dropout and noise for views."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.logits = nn.ParameterDict({"choice": nn.Parameter(torch.randn(3))})
        self.branches = nn.ModuleList(nn.Linear(4, 5) for _ in range(3))
        self.norm, self.drop, self.out = nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 1)
        self.idle = nn.Parameter(torch.ones(2))  # in no loss
        self.rows = torch.randn(24, 4)
        self.wanted = torch.randn(24, 1)

    def forward(self, rows: Tensor) -> Tensor:
        shares = self.logits["choice"].softmax(0)
        mixed = sum(
            s * branch(rows).tanh() for s, branch in zip(shares, self.branches, strict=True)
        )
        return self.out(self.drop(self.norm(mixed).tanh()))

    def loss(self, part: slice, generator, values=None) -> Tensor:
        rows = self.rows[part]
        rows = rows + 0.3 * torch.randn(rows.shape, generator=generator)
        given = dict(self.named_buffers()) | (values or dict(self.named_parameters()))
        return (functional_call(self, given, (rows,)) - self.wanted[part]).square().mean()


TRAIN, DEV = slice(0, 14), slice(14, 24)


def test_gradient_of_a_small_network_is_the_exact_one_to_the_differences_accuracy():
    net = Mixture().train()
    weights = {name: p for name, p in net.named_parameters() if "logits" not in name}
    logits = {name: p for name, p in net.named_parameters() if "logits" in name}
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    loss, (found,) = unrolled_gradient(
        lambda g: net.loss(TRAIN, g), lambda g: net.loss(DEV, g), model=net,
        weights=list(weights.values()), logits=list(logits.values()), rate=RATE,
        generator=generator,
    )  # fmt: skip

    torch.manual_seed(3)  # the same chance
    generator = torch.Generator().manual_seed(4)
    with seeded(int(torch.randint(2**62, (), generator=generator))) as same:
        train = net.loss(TRAIN, same)
    slopes = torch.autograd.grad(
        train, list(weights.values()), create_graph=True, allow_unused=True
    )
    moved = {
        name: value if slope is None else value - RATE * slope
        for (name, value), slope in zip(weights.items(), slopes, strict=True)
    }
    exact_loss = net.loss(DEV, generator, {**moved, **logits})
    (exact,) = torch.autograd.grad(exact_loss, list(logits.values()), retain_graph=True)
    fixed = {name: value.detach() for name, value in moved.items()}
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    torch.randint(2**62, (), generator=generator)
    (direct,) = torch.autograd.grad(net.loss(DEV, generator, {**fixed, **logits}), logits.values())
    torch.testing.assert_close(loss, exact_loss.detach())
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-6)
    second = (exact - direct).norm()
    assert second > 0.05 * exact.norm()  # there is something to find ...
    assert (found - exact).norm() < 1e-3 * second  # ... and that is found, not the rest alone


def test_weights_and_running_statistics_are_in_the_end_what_they_were():
    net = Mixture().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parameters = dict(net.named_parameters())
    logits = [parameters.pop("logits.choice")]
    unrolled_gradient(
        lambda g: net.loss(TRAIN, g), lambda g: net.loss(DEV, g), model=net,
        weights=list(parameters.values()), logits=logits, rate=RATE, generator=torch.Generator(),
    )  # fmt: skip
    after = net.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


# --- in a search

FEATURES = ("image_0", "image_1", "text_0")
SMALL = BilevelConfig(epochs=2, batch_size=8, arch_learning_rate=0.01, order=2)  # 2 steps an epoch


class Watched(Contrastive):
    """Writes down, at each loss, the rows, the parameters and the state of both generators."""

    def loss(self, model, source, indices, generator):
        self.seen.append(
            (
                indices.tolist(),
                {name: p.detach().clone() for name, p in model.named_parameters()},
                (torch.get_rng_state().tolist(), generator.get_state().tolist()),
            )
        )
        return super().loss(model, source, indices, generator)


@pytest.fixture
def searched(memory_source):
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(0)
    source = memory_source({n: torch.randn(40, 2, 4, generator=generator) for n in FEATURES})
    config = FusionConfig(channels=4, length=2, cells=1, dropout=0.2)
    space = FusionSpace(dict.fromkeys(FEATURES, 4), config)
    context = SearchContext(train=torch.arange(20), dev=torch.arange(20, 40))

    def search(config: BilevelConfig):
        objective = Watched(hidden=8, out=4)
        object.__setattr__(objective, "seen", [])
        result = bilevel(space, source, objective, context, config)
        return result, objective.seen

    return search


def moved(before, after) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_steps_passes_over_train_see_one_batch_one_view_and_one_dropout(searched):
    _, seen = searched(SMALL)
    assert len(seen) == 2 * 2 * 5
    for first in range(0, 20, 5):
        rows, _, chance = zip(*seen[first : first + 5], strict=True)
        weight, train, dev, ahead, behind = range(5)
        assert rows[train] == rows[ahead] == rows[behind] == rows[weight]
        assert min(rows[dev]) >= 20
        for state in zip(*chance, strict=True):
            assert state[train] == state[ahead] == state[behind]
            assert len({tuple(one) for one in state}) == 3  # of their own: weight step, train, dev


def test_weights_step_virtually_and_the_logits_alone_move(searched):
    _, seen = searched(SMALL)
    values = [parameters for _, parameters, _ in seen]
    logits = {name for name in values[0] if ".logits." in name}
    for first in range(0, 15, 5):
        now, virtual, ahead, behind, following = values[first + 1 : first + 6]
        weights = moved(now, virtual)
        assert weights and not weights & logits
        for name in weights:  # to both sides of where it was, by 0.01 in all
            torch.testing.assert_close(ahead[name] + behind[name], 2 * now[name])
        reach = sum(float((ahead[name] - now[name]).square().sum()) for name in weights) ** 0.5
        assert reach == pytest.approx(0.01, rel=1e-3)
        assert moved(now, following) == logits


def test_running_statistics_are_of_the_weight_steps_alone(searched):
    for order, steps in ((1, 2 * 2 * 2), (2, 2 * 2)):
        result, _ = searched(replace(SMALL, order=order))
        counts = {int(v) for n, v in result.state.items() if n.endswith("num_batches_tracked")}
        assert counts == {steps}


def test_second_order_unrolls_by_the_rate_of_the_moment(searched, monkeypatch):
    from ssnas_core.search import bilevel as module

    rates = []

    def spy(*args, rate, **options):
        rates.append(rate)
        return unrolled_gradient(*args, rate=rate, **options)

    monkeypatch.setattr(module, "unrolled_gradient", spy)
    searched(SMALL)
    assert rates == [module.warm_restarts(step / 2, SMALL) for step in range(4)]
