"""Weighted sums, and ReLU with dropout: the written-out passes are the plain expressions."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import gradcheck

from ssnas_core.spaces.fusion.mixing import ReluDropout, mix

N, L, C = 3, 4, 5


def draw_states(positions, dtype=torch.float64, grad=True):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(N, rows, C, generator=generator, dtype=dtype).requires_grad_(grad)
        for rows in positions
    ]


def draw_weights(count, states, dtype=torch.float64, grad=True):
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(count, states, generator=generator, dtype=dtype)
    return drawn.requires_grad_(grad)


@pytest.mark.parametrize(
    "count", [2, *(pytest.param(n, marks=pytest.mark.thorough) for n in (1, 3))]
)
@pytest.mark.parametrize("positions", list(itertools.product([1, L], repeat=3)))
def test_mix_is_the_sum_of_weight_times_state_and_has_its_gradients(count, positions):
    states, weights = draw_states(positions), draw_weights(count, 3)
    mixed = mix(weights, states, L)
    assert len(mixed) == count
    for k, result in enumerate(mixed):
        plain = sum(weights[k, s] * state.expand(N, L, C) for s, state in enumerate(states))
        torch.testing.assert_close(result, plain)
    assert gradcheck(lambda w, *s: mix(w, s, L), (weights, *states))


@pytest.mark.parametrize("learnt", ["weights", "states"])
def test_mix_has_gradients_for_what_asks_for_them_alone(learnt):
    states = draw_states([L, 1], grad=learnt == "states")
    weights = draw_weights(2, 2, grad=learnt == "weights")
    sum(part.square().sum() for part in mix(weights, states, L)).backward()
    assert (weights.grad is not None) == (learnt == "weights")
    assert all((state.grad is not None) == (learnt == "states") for state in states)


def test_mix_in_place_leaves_the_states_as_they_were():
    states, weights = draw_states([L, L, 1], grad=False), draw_weights(2, 3, grad=False)
    before = [state.clone() for state in states]
    mix(weights, states, L)
    assert all(torch.equal(a, b) for a, b in zip(states, before, strict=True))


def test_mix_of_half_precision_is_that_precision_and_near_the_exact_sum():
    states = draw_states([L, 1, L], torch.bfloat16)
    weights = draw_weights(2, 3, torch.float32)
    mixed = mix(weights, states, L)
    sum(part.float().square().sum() for part in mixed).backward()
    exact = [state.detach().double().requires_grad_() for state in states]
    wide = weights.detach().double().requires_grad_()
    sum(part.square().sum() for part in mix(wide, exact, L)).backward()
    assert {part.dtype for part in mixed} == {torch.bfloat16}
    assert weights.grad.dtype == torch.float32
    torch.testing.assert_close(weights.grad.double(), wide.grad, rtol=0.05, atol=0.2)
    for state, other in zip(states, exact, strict=True):
        torch.testing.assert_close(state.grad.double(), other.grad, rtol=0.05, atol=0.2)


def test_mix_of_states_of_two_types_is_of_the_wider_one_and_gives_each_a_gradient_of_its_own():
    states = draw_states([L, 1], torch.bfloat16) + draw_states([L], torch.float32)
    weights = draw_weights(2, 3, torch.float32)
    mixed = mix(weights, states, L)
    sum(part.square().sum() for part in mixed).backward()
    assert {part.dtype for part in mixed} == {torch.float32}
    assert [state.grad.dtype for state in states] == [state.dtype for state in states]
    plain = sum(weights[0, s] * state.float().expand(N, L, C) for s, state in enumerate(states))
    torch.testing.assert_close(mixed[0], plain, rtol=0.01, atol=0.02)


# --- ReLU with dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [1_000_003, 1_000_000])  # not, and, a multiple of four
def test_each_positive_number_is_kept_with_its_probability_and_scaled(rate, size):
    torch.manual_seed(0)
    module = ReluDropout(rate).train()
    result = module(torch.ones(size))
    kept = (result > 0).double().mean().item()
    deviation = (rate * (1 - rate) / size) ** 0.5
    assert abs(kept - (1 - rate)) < 5 * deviation + 1 / (1 << 16)
    assert result[result > 0].unique().tolist() == pytest.approx([1 / (1 - rate)], rel=1e-3)
    # neighbours are decided independently
    both = ((result[1:] > 0) & (result[:-1] > 0)).double().mean().item()
    assert abs(both - (1 - rate) ** 2) < 0.003


def test_negative_numbers_never_pass_and_the_gradient_follows_what_was_kept():
    torch.manual_seed(0)
    value = torch.randn(4001, requires_grad=True)
    result = ReluDropout(0.3).train()(value)
    result.sum().backward()
    kept = result > 0
    assert not kept[value <= 0].any()
    assert kept[value > 0].double().mean() == pytest.approx(0.7, abs=0.05)
    torch.testing.assert_close(result[kept], value[kept] / 0.7, rtol=1e-4, atol=0)
    assert value.grad[~kept].abs().max() == 0
    torch.testing.assert_close(
        value.grad[kept], torch.full((int(kept.sum()),), 1 / 0.7), rtol=1e-4, atol=0
    )


def test_the_mean_of_many_draws_is_the_relu():
    torch.manual_seed(0)
    module, value = ReluDropout(0.25).train(), torch.randn(50)
    mean = torch.stack([module(value) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, value.relu(), rtol=0.06, atol=0)


@pytest.mark.parametrize("module", [ReluDropout(0.5).eval(), ReluDropout(0.0).train()])
def test_without_training_or_rate_it_is_the_relu_and_draws_nothing(module):
    value, before = torch.randn(7), torch.get_rng_state()
    assert torch.equal(module(value), value.relu())
    assert torch.equal(torch.get_rng_state(), before)


def test_torchs_seed_decides_what_is_dropped():
    module, value = ReluDropout(0.5).train(), torch.ones(1000)
    torch.manual_seed(3)
    first = module(value)
    torch.manual_seed(3)
    assert torch.equal(module(value), first)
    assert not torch.equal(module(value), first)


def test_rate_of_almost_one_still_scales_by_a_number():
    torch.manual_seed(0)
    result = ReluDropout(1 - 1e-9).train()(torch.ones(200_000))
    assert result.isfinite().all()
    assert (result > 0).sum() < 50


def test_half_precision_is_kept():
    torch.manual_seed(0)
    assert ReluDropout(0.5).train()(torch.ones(64, dtype=torch.bfloat16)).dtype == torch.bfloat16
