"""NT-Xent against SimCLR's Algorithm 1; the report shows collapse and the shortcut."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.contrastive import (
    Contrastive,
    alignment,
    effective_rank,
    match_rate,
    nt_xent,
    uniformity,
)
from ssnas_core.objectives.supervised import Supervised

N, D = 5, 3


def rows(count: int = 1, samples: int = N, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, D, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("samples", [2, 3, 7])
def test_nt_xent_matches_algorithm_1_written_as_loops(samples, tau, algorithm_1):
    first, second = rows(2, samples, seed=samples)
    found = nt_xent(first, second, temperature=tau)
    assert float(found) == pytest.approx(algorithm_1(first, second, tau), rel=1e-5)


@pytest.mark.parametrize("samples", [2, 5, 64])
def test_nt_xent_of_equal_rows_is_log_of_2n_minus_1(samples):
    same = torch.tensor([[0.3, -0.1, 2.0]]).repeat(samples, 1)
    assert float(nt_xent(same, same)) == pytest.approx(math.log(2 * samples - 1), rel=1e-6)


def test_nt_xent_of_coinciding_views_of_orthogonal_samples_has_its_closed_form():
    views, tau = torch.eye(4), 0.2
    wanted = math.log1p((2 * 4 - 2) * math.exp(-1 / tau))
    assert float(nt_xent(views, views, temperature=tau)) == pytest.approx(wanted, rel=1e-4)


def test_nt_xent_ignores_scale_order_of_views_and_order_of_samples():
    first, second = rows(2)
    loss = float(nt_xent(first, second))
    scales = torch.tensor([[0.01], [3.0], [1.0], [50.0], [0.5]])
    order = torch.tensor([3, 0, 4, 1, 2])
    assert float(nt_xent(first * scales, second / scales)) == pytest.approx(loss, rel=1e-5)
    assert float(nt_xent(second, first)) == pytest.approx(loss, rel=1e-6)
    assert float(nt_xent(first[order], second[order])) == pytest.approx(loss, rel=1e-6)
    # ... but which rows are views of one sample matters
    assert abs(float(nt_xent(first, second[order])) - loss) > 1e-2


@pytest.mark.parametrize(
    ("first", "second", "got"),
    [
        ((4, 3), (5, 3), r"got \(4, 3\) and \(5, 3\)"),
        ((4, 3), (4, 2), r"got \(4, 3\) and \(4, 2\)"),
        ((1, 3), (1, 3), r"N >= 2, got \(1, 3\)"),
        ((4,), (4,), r"got \(4,\)"),
        ((2, 4, 3), (2, 4, 3), r"two \(N, D\) batches"),
    ],
)
def test_nt_xent_refuses_batches_that_are_no_pairs_of_rows(first, second, got):
    with pytest.raises(InputError, match=got):
        nt_xent(torch.ones(first), torch.ones(second))


@pytest.mark.parametrize("tau", [0.0, -0.5, float("nan")])
def test_nt_xent_refuses_a_temperature_that_is_not_positive(tau):
    with pytest.raises(InputError, match=f"temperature must be > 0, got {tau}"):
        nt_xent(*rows(2), temperature=tau)


def test_alignment_is_0_of_same_2_of_orthogonal_and_4_of_opposite_views():
    (first,) = rows()
    assert float(alignment(first, 3 * first)) == pytest.approx(0, abs=1e-6)
    assert float(alignment(first, -first)) == pytest.approx(4)
    assert float(alignment(torch.eye(3), torch.eye(3).roll(1, 0))) == pytest.approx(2)


def test_uniformity_has_its_closed_forms():
    (first,) = rows()
    same = torch.full((6, 3), 0.1)
    assert float(uniformity(same)) == pytest.approx(0, abs=1e-6)
    assert float(uniformity(torch.eye(5))) == pytest.approx(-4)  # all squared distances are 2
    assert float(uniformity(torch.tensor([[1.0, 0.0], [-7.0, 0.0]]))) == pytest.approx(-8)
    for count in (3, 4, 9):  # corners of a simplex: nothing is spread better
        simplex = torch.eye(count) - 1 / count
        assert float(uniformity(simplex)) == pytest.approx(-4 * count / (count - 1), rel=1e-5)
    unit = [row / row.norm() for row in first]
    pairs = [(a - b).square().sum() for i, a in enumerate(unit) for b in unit[:i]]
    wanted = math.log(sum(math.exp(-2 * float(d)) for d in pairs) / len(pairs))
    assert float(uniformity(first)) == pytest.approx(wanted, rel=1e-5)


def test_effective_rank_counts_directions_that_are_used_alike():
    axes = torch.cat((torch.eye(4), -torch.eye(4)))
    assert float(effective_rank(axes)) == pytest.approx(4, rel=1e-5)
    assert float(effective_rank(axes[:, :2])) == pytest.approx(2, rel=1e-5)
    line = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    assert float(effective_rank(line)) == pytest.approx(1, rel=1e-4)


def test_effective_rank_is_exp_of_the_entropy_of_singular_values():
    rows = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # 3 to 1
    wanted = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert float(effective_rank(rows)) == pytest.approx(wanted, rel=1e-5)
    assert float(effective_rank(100 * rows + 7)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("samples", [3, 7, 64])
@pytest.mark.parametrize("value", [0.1, -1234.5, 1e-4])
def test_effective_rank_of_equal_rows_is_0(samples, value):
    # 0.1 has no exact mean over 7 rows: what rounding leaves is no direction
    row = torch.tensor([[value, 1.0, 0.3, -0.7]])
    assert float(effective_rank(row.repeat(samples, 1))) == 0


def test_match_rate_is_1_of_own_0_of_foreign_and_1_over_n_of_equal_rows():
    (first,) = rows()
    assert float(match_rate(first, 2 * first)) == 1
    assert float(match_rate(torch.eye(4), torch.eye(4).roll(1, 0))) == 0
    assert float(match_rate(torch.ones(8, 2), torch.ones(8, 2))) == pytest.approx(1 / 8)


class Reader(nn.Module):
    """A model that reads some features only, as they are."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return torch.cat([features[name].flatten(1) for name in self.names], 1)


class Constant(nn.Module):
    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return torch.tensor([[0.1, 1.0, 0.3]]).repeat(len(features["text_0"]), 1)


def report(model: nn.Module, source, objective: Contrastive | None = None) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    return (objective or Contrastive()).report(model, source, torch.arange(64), generator)


@pytest.mark.parametrize(
    ("used", "other", "feature"), [("image", "text", "image_1"), ("text", "image", "text_0")]
)
def test_report_shows_that_one_modality_alone_does_the_matching(source, used, other, feature):
    figures = report(Reader(feature), source)
    assert figures["match"] > 0.95
    assert figures[f"match_without_{other}"] == figures["match"]
    assert figures[f"match_without_{used}"] < 0.1  # chance is 1/64


def test_report_shows_that_both_modalities_take_part(source):
    figures = report(Reader("image_0", "text_0"), source)
    assert figures["match"] > 0.95
    assert figures["match_without_image"] < 0.8 and figures["match_without_text"] < 0.8


def test_report_shows_collapse(source):
    figures = report(Constant(), source)
    assert figures == {
        "alignment": 0,
        "uniformity": pytest.approx(0, abs=1e-5),
        "effective_rank": 0,
        "match": 1 / 64,
        "match_without_image": 1 / 64,
        "match_without_text": 1 / 64,
    }


def test_report_of_one_modality_has_nothing_to_leave_out(source):
    del source.features["text_0"]
    figures = report(Reader("image_0", "image_1"), source)
    assert figures.keys() == {"alignment", "uniformity", "effective_rank", "match"}
    assert figures["alignment"] < 0.1 and figures["uniformity"] < -2
    assert 10 < figures["effective_rank"] <= 16


class Spy(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        self.seen.append(features)
        return self.linear(features["text_0"].flatten(1))


def test_contrastive_loss_is_nt_xent_of_two_joint_views_in_one_forward_pass(source, algorithm_1):
    spy, indices = Spy(8), torch.tensor([5, 2, 9])
    loss = Contrastive(temperature=0.7).loss(spy, source, indices, torch.Generator().manual_seed(4))
    first, second = source.augmented(indices, torch.Generator().manual_seed(4), 2)
    (seen,) = spy.seen  # so that batch norm sees both views
    for name in source.features:
        assert torch.equal(seen[name], torch.cat((first[name], second[name])))
    assert not torch.equal(first["text_0"], second["text_0"])
    wanted = algorithm_1(spy(first).double(), spy(second).double(), 0.7)
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert spy.linear.weight.grad is not None and bool(spy.linear.weight.grad.any())


def test_projection_head_is_an_mlp_with_one_hidden_layer():
    head = Contrastive(hidden=7, out=2).head(11)
    assert [tuple(p.shape) for p in head.parameters()] == [(7, 11), (7,), (2, 7), (2,)]
    x = torch.randn(4, 11)
    wanted = F.linear(F.linear(x, *head[0].parameters()).clamp(min=0), *head[2].parameters())
    torch.testing.assert_close(head(x), wanted)


def test_nt_xent_and_cross_entropy_pass_gradcheck_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
        for _ in range(2)
    )
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.3), (first, second))
    rows = torch.arange(5)
    for labels in (torch.eye(5)[:, :3], torch.tensor([0, 1, 2, 1, 0])):
        supervised = Supervised(labels=labels, classes=3)
        assert torch.autograd.gradcheck(lambda a, s=supervised: s.loss_of_logits(a, rows), (first,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nt_xent_has_the_dtype_of_its_inputs_and_sums_half_precisions_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(200, 16, generator=generator).to(dtype) for _ in range(2))
    for tau in (0.05, 0.1, 0.2):
        loss = nt_xent(first, second, temperature=tau)
        assert loss.dtype == dtype
        exact = nt_xent(first.double(), second.double(), temperature=tau)
        rounding = torch.finfo(dtype).eps / 2
        assert abs(loss.double() - exact) <= exact * (rounding + 1e-6)
        single = Contrastive(temperature=tau).loss_of_projections(torch.cat((first, second)))
        assert single.dtype == torch.promote_types(dtype, torch.float32)
        assert float(single) == pytest.approx(float(exact), rel=1e-5)
