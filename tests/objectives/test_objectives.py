"""Losses against loops and closed forms; what is logged shows collapse and the shortcut."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.errors import InputError
from ssnas_core.objectives.base import OnDevice
from ssnas_core.objectives.contrastive import (
    Contrastive,
    alignment,
    effective_rank,
    match_rate,
    nt_xent,
    uniformity,
)
from ssnas_core.objectives.hybrid import Hybrid
from ssnas_core.objectives.supervised import Supervised

N, D = 5, 3


def rows(count: int = 1, samples: int = N, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, D, generator=generator) for _ in range(count)]


def algorithm_1(first: Tensor, second: Tensor, tau: float) -> float:
    """SimCLR's Algorithm 1, line by line: z[2k] and z[2k + 1] are the views of sample k."""
    z = [row.tolist() for pair in zip(first, second, strict=True) for row in pair]

    def s(i: int, j: int) -> float:
        dot = sum(a * b for a, b in zip(z[i], z[j], strict=True))
        return dot / (math.hypot(*z[i]) * math.hypot(*z[j]))

    def ell(i: int, j: int) -> float:
        others = sum(math.exp(s(i, k) / tau) for k in range(len(z)) if k != i)
        return -math.log(math.exp(s(i, j) / tau) / others)

    total = 0.0
    for k in range(len(first)):
        total += ell(2 * k, 2 * k + 1) + ell(2 * k + 1, 2 * k)
    return total / (2 * len(first))


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("samples", [2, 3, 7])
def test_nt_xent_matches_algorithm_1_written_as_loops(samples, tau):
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


def test_nt_xent_of_half_precision_is_computed_in_single():
    first, second = rows(2)
    halves = first.bfloat16(), second.bfloat16()
    found = nt_xent(*halves, temperature=0.05)
    assert found.dtype == torch.float32
    wanted = algorithm_1(halves[0].double(), halves[1].double(), 0.05)
    assert float(found) == pytest.approx(wanted, rel=1e-4)


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


@pytest.fixture
def source(memory_source):
    generator = torch.Generator().manual_seed(3)
    names = ("image_0", "image_1", "text_0")
    return memory_source({n: torch.randn(64, 2, 4, generator=generator) for n in names})


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


def test_contrastive_loss_is_nt_xent_of_two_joint_views_in_one_forward_pass(source):
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


def supervised_loss(objective: Supervised, source, indices: Tensor) -> tuple[float, list, Spy]:
    torch.manual_seed(0)
    spy = Spy(8)
    loss = objective.loss(spy, source, indices, torch.Generator().manual_seed(4))
    with torch.no_grad():
        logits = spy.linear(spy.seen[0]["text_0"].flatten(1)).double().tolist()
    return float(loss.detach()), logits, spy


def test_several_labels_are_scored_by_the_mean_binary_cross_entropy(source):
    labels = (torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8)
    indices = torch.tensor([40, 3, 17, 8])
    loss, logits, _ = supervised_loss(Supervised(labels=labels), source, indices)
    total = 0.0
    for n, index in enumerate(indices.tolist()):
        for k in range(3):
            p = 1 / (1 + math.exp(-logits[n][k]))
            total -= math.log(p) if labels[index, k] else math.log(1 - p)
    assert loss == pytest.approx(total / (4 * 3), rel=1e-5)


def test_one_label_is_scored_by_the_mean_cross_entropy(source):
    labels = torch.arange(64) % 3
    indices = torch.tensor([40, 3, 17, 8])
    loss, logits, _ = supervised_loss(Supervised(labels=labels, classes=3), source, indices)
    total = 0.0
    for n, index in enumerate(indices.tolist()):
        total -= logits[n][index % 3] - math.log(sum(math.exp(v) for v in logits[n]))
    assert loss == pytest.approx(total / 4, rel=1e-5)


def test_supervised_loss_reads_one_augmented_view_or_the_clean_one(source):
    labels, indices = torch.zeros(64, 3), torch.tensor([40, 3])
    (view,) = source.augmented(indices, torch.Generator().manual_seed(4), 1)
    for augment, wanted in ((True, view), (False, source.clean(indices))):
        objective = Supervised(labels=labels, augment=augment)
        _, _, spy = supervised_loss(objective, source, indices)
        assert torch.equal(spy.seen[0]["text_0"], wanted["text_0"])


def test_supervised_head_is_linear_with_one_output_per_class():
    several = Supervised(labels=torch.zeros(4, 23)).head(11)
    one = Supervised(labels=torch.zeros(4), classes=10).head(11)
    assert [tuple(p.shape) for p in several.parameters()] == [(23, 11), (23,)]
    assert [tuple(p.shape) for p in one.parameters()] == [(10, 11), (10,)]


@pytest.mark.parametrize(
    ("shape", "classes", "got"),
    [((4,), 0, r"\(4,\) with classes=0"), ((4,), 1, "classes=1"), ((4, 3, 2), 3, r"\(4, 3, 2\)")],
)
def test_labels_of_another_shape_are_refused(shape, classes, got):
    with pytest.raises(InputError, match=got):
        Supervised(labels=torch.zeros(shape), classes=classes)


# --- labels for some, contrast for all

MULTI = (torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8)
LABELS = {
    "several": Supervised(labels=MULTI),
    "one": Supervised(labels=torch.arange(64) % 3, classes=3),
}
KNOWN, BATCH = torch.tensor([40, 8, 3, 60]), torch.tensor([40, 3, 17, 8, 22])
HEADS = Contrastive(temperature=0.7, hidden=6, out=4)


@pytest.fixture(params=LABELS)
def supervised(request):
    return LABELS[request.param]


def two_heads(objective) -> nn.Sequential:
    """A model of both heads on a linear encoder, decided by one seed."""
    torch.manual_seed(0)
    encoder = nn.Sequential(Reader("image_0", "text_0"), nn.Linear(16, 5))
    return nn.Sequential(encoder, objective.head(5))


def loss_of(objective, model, source, indices=BATCH) -> Tensor:
    return objective.loss(model, source, indices, torch.Generator().manual_seed(4))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_hybrid_loss_is_the_weighted_sum_of_both_written_as_loops(source, supervised, weight):
    objective = Hybrid(supervised=supervised, labelled=KNOWN, contrastive=HEADS, weight=weight)
    model = two_heads(objective)
    found = loss_of(objective, model, source)
    views = source.augmented(BATCH, torch.Generator().manual_seed(4), 2)
    outputs = [[part.detach().double() for part in model(view)] for view in views]
    total, terms = 0.0, 0
    for _, logits in outputs:
        for place, sample in enumerate(BATCH.tolist()):
            if sample not in KNOWN.tolist():
                continue
            label, row = supervised.labels[sample], logits[place].tolist()
            if label.ndim:
                odds = [1 / (1 + math.exp(-v)) for v in row]
                total -= sum(math.log(p if y else 1 - p) for p, y in zip(odds, label, strict=True))
                terms += 3
            else:
                total -= row[int(label)] - math.log(sum(math.exp(v) for v in row))
                terms += 1
    assert terms == (18 if supervised.labels.ndim == 2 else 6)  # 3 samples, 2 views
    contrast = algorithm_1(outputs[0][0], outputs[1][0], 0.7)
    wanted = weight * total / terms + (1 - weight) * contrast
    assert float(found.detach()) == pytest.approx(wanted, rel=1e-5)


def test_hybrid_reads_both_views_in_one_forward_pass(source, supervised):
    seen = []
    objective = Hybrid(supervised=supervised, labelled=KNOWN, contrastive=HEADS)
    model = two_heads(objective)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss_of(objective, model, source)
    first, second = source.augmented(BATCH, torch.Generator().manual_seed(4), 2)
    assert len(seen) == 1
    assert torch.equal(seen[0]["text_0"], torch.cat((first["text_0"], second["text_0"])))


def test_hybrid_of_weight_0_is_contrastive_bit_for_bit(source, supervised):
    hybrid = Hybrid(supervised=supervised, labelled=KNOWN, contrastive=HEADS, weight=0)
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    models = two_heads(hybrid), two_heads(HEADS)
    losses = [
        objective.loss(model, source, BATCH, generator)
        for objective, model, generator in zip((hybrid, HEADS), models, generators, strict=True)
    ]
    assert torch.equal(*losses)
    assert torch.equal(*(generator.get_state() for generator in generators))
    for loss in losses:
        loss.backward()
    pairs = [(models[0][0], models[1][0]), (models[0][1].projection, models[1][1])]
    for mine, theirs in pairs:
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b) and torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_hybrid_never_reads_the_labels_of_other_samples(source, supervised, weight):
    others = torch.ones(64, dtype=torch.bool)
    others[KNOWN] = False
    poisoned = supervised.labels.float() if supervised.labels.ndim == 2 else supervised.labels
    poisoned = poisoned.clone()
    poisoned[others] = math.nan if supervised.labels.ndim == 2 else 10**6
    losses = []
    for labels in (supervised.labels, poisoned):
        chosen = Supervised(labels=labels, classes=supervised.classes)
        objective = Hybrid(supervised=chosen, labelled=KNOWN, contrastive=HEADS, weight=weight)
        model = two_heads(objective)
        losses.append(loss_of(objective, model, source))
        objective.report(model, source, BATCH, torch.Generator())
    assert torch.equal(*losses) and bool(losses[0].isfinite())


def test_hybrid_of_weight_1_learns_from_labelled_samples_alone(source, supervised):
    objective = Hybrid(supervised=supervised, labelled=KNOWN, contrastive=HEADS, weight=1)
    model, inputs = two_heads(objective), []
    model.register_forward_pre_hook(
        lambda _, given: inputs.append(given[0]["text_0"].requires_grad_())
    )
    loss_of(objective, model, source).backward()
    moved = inputs[0].grad.flatten(1).any(1).tolist()
    assert moved == [True, True, False, True, False] * 2
    assert all(p.grad is None for p in model[1].projection.parameters())


@pytest.mark.parametrize("weight", [0.4, 1.0])
def test_batch_without_labels_adds_nothing_and_can_be_differentiated(source, supervised, weight):
    objective = Hybrid(supervised=supervised, labelled=KNOWN, contrastive=HEADS, weight=weight)
    rows = torch.tensor([17, 22, 1])
    model = two_heads(objective)
    loss = loss_of(objective, model, source, rows)
    contrast = loss_of(HEADS, two_heads(HEADS), source, rows)
    assert float(loss.detach()) == pytest.approx((1 - weight) * float(contrast.detach()), abs=1e-6)
    loss.backward()
    assert not any(bool(p.grad.any()) for p in model[1].classifier.parameters())
    assert (weight == 1) != any(bool(p.grad.any()) for p in model[0].parameters())


def test_hybrid_reports_on_its_projections_as_the_contrastive_loss_does(source, supervised):
    objective = Hybrid(supervised=supervised, labelled=KNOWN, contrastive=HEADS)
    found = objective.report(two_heads(objective), source, BATCH, torch.Generator().manual_seed(1))
    wanted = HEADS.report(two_heads(HEADS), source, BATCH, torch.Generator().manual_seed(1))
    assert found == wanted and "match_without_image" in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -0.1}, r"weight of the labels must be in \[0, 1\], got -0.1"),
        ({"weight": math.nan}, "got nan"),
        ({"labelled": torch.tensor([], dtype=torch.int64)}, r"n >= 1, got torch.int64 \(0,\)"),
        ({"labelled": torch.tensor([0, 64])}, r"sample numbers in 0\.\.63"),
        ({"labelled": torch.tensor([-1])}, r"sample numbers in 0\.\.63"),
        ({"labelled": torch.ones(64, dtype=torch.bool)}, r"got torch.bool \(64,\); pass the rows"),
        ({"labelled": torch.zeros(2, 2, dtype=torch.int64)}, r"\(2, 2\)"),
        ({"supervised": Supervised(labels=MULTI, augment=False)}, "augment=False; use Supervised"),
    ],
)
def test_hybrid_that_cannot_be_is_refused(change, message):
    options = {"supervised": LABELS["several"], "labelled": KNOWN, **change}
    with pytest.raises(InputError, match=message):
        Hybrid(**options)


def test_inputs_are_drawn_as_before_and_moved_to_the_device(source):
    indices = torch.tensor([1, 5, 2])
    plain = OnDevice(source, "cpu")
    seeds = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
    for found, wanted in zip(
        [plain.clean(indices), *plain.augmented(indices, seeds[0], 3)],
        [source.clean(indices), *source.augmented(indices, seeds[1], 3)],
        strict=True,
    ):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    moved = OnDevice(source, "meta")
    drawn = [moved.clean(indices), *moved.augmented(indices, torch.Generator(), 3)]
    assert len(drawn) == 4
    assert {value.device.type for view in drawn for value in view.values()} == {"meta"}
