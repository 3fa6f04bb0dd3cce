"""The primitive operators, against loops and under exchange of their inputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.spaces.operators import (
    OPERATORS,
    ORDERED,
    PRIMITIVES,
    ConcatFC,
    LinearGLU,
    attention,
    glu,
)

N, L, C = 2, 3, 4


def inputs(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, N, L, C, generator=generator, dtype=torch.float64)
    return x, y


def operator(name: str) -> nn.Module:
    torch.manual_seed(1)
    return OPERATORS[name](C).double()


def test_attention_is_a_softmax_over_positions_of_y_written_as_loops():
    x, y = inputs()
    found = attention(x, y)
    for n in range(N):
        for i in range(L):
            scores = [sum(float(x[n, i, c] * y[n, j, c]) for c in range(C)) for j in range(L)]
            exps = [math.exp(score / math.sqrt(C)) for score in scores]
            for c in range(C):
                read = sum(e / sum(exps) * float(y[n, j, c]) for j, e in enumerate(exps))
                assert float(found[n, i, c]) == pytest.approx(read, rel=1e-12)


def test_attention_to_equal_positions_returns_them():
    x, y = inputs()
    same = y[:, :1].expand(-1, L, -1)
    torch.testing.assert_close(attention(x, same), same)


def test_glu_gates_its_first_half_by_its_second():
    gated = torch.cat(inputs(), -1)
    found = glu(gated)
    assert found.shape == (N, L, C)
    for index in range(N * L):
        row = gated.flatten(0, 1)[index].tolist()
        for c in range(C):
            wanted = row[c] / (1 + math.exp(-row[C + c]))
            assert float(found.flatten(0, 1)[index, c]) == pytest.approx(wanted, rel=1e-12)


def product(linear: nn.Linear, row: int, x: Tensor, y: Tensor) -> float:
    """Row `row` of W [x; y] + b, for one position."""
    weight = linear.weight[row].tolist()
    both = [*x.tolist(), *y.tolist()]
    return sum(w * v for w, v in zip(weight, both, strict=True)) + linear.bias[row].item()


def test_linear_glu_and_concat_fc_are_their_formulas_written_as_loops():
    x, y = inputs()
    gated, dense = operator("LinearGLU"), operator("ConcatFC")
    assert isinstance(gated, LinearGLU) and isinstance(dense, ConcatFC)
    found = gated(x, y).detach(), dense(x, y).detach()
    for n in range(N):
        for i in range(L):
            for c in range(C):
                gate = product(gated.linear, C + c, x[n, i], y[n, i])
                value = product(gated.linear, c, x[n, i], y[n, i]) / (1 + math.exp(-gate))
                assert float(found[0][n, i, c]) == pytest.approx(value, rel=1e-12)
                value = max(0.0, product(dense.linear, c, x[n, i], y[n, i]))
                assert float(found[1][n, i, c]) == pytest.approx(value, rel=1e-12)


def test_sum_adds():
    x, y = inputs()
    assert torch.equal(operator("Sum")(x, y), x + y)


def test_zero_comes_first_and_is_the_one_primitive_that_is_never_built():
    assert ("Zero", *OPERATORS) == PRIMITIVES


@pytest.mark.parametrize("name", OPERATORS)
def test_ordered_are_exactly_the_primitives_that_no_exchange_of_columns_makes_symmetric(name):
    x, y = inputs()
    module = operator(name)
    straight = module(x, y)
    assert straight.shape == (N, L, C)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:  # W = [A B] becomes [B A]
                parameter.copy_(torch.cat((parameter[:, C:], parameter[:, :C]), 1))
    symmetric = torch.allclose(straight, module(y, x), rtol=1e-12)
    assert symmetric == (name not in ORDERED)
