"""NT-Xent against SimCLR's Algorithm 1; the report shows collapse and the shortcut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssnas_core.common.errors import InputError
from ssnas_core.objectives import OBJECTIVES
from ssnas_core.objectives.contrastive import (
    Contrastive,
    alignment,
    effective_rank,
    match_rate,
    nt_xent,
    uniformity,
)
from ssnas_core.objectives.supervised import Supervised
from ssnas_core.runs.recipes import Recipe, RunConfig

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


# --- tasks that ask for all modalities

TASKS = ("simclr", "swapped", "comm", "clip")
INDICES = torch.tensor([5, 2, 9, 40, 7])


class Rows(nn.Module):
    """An encoder that keeps what it is given, and reads some features."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.read = Reader(*names)
        self.given: dict[str, Tensor] = {}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        self.given = features
        return self.read(features)


def of(source, seed: int = 4, count: int = 2) -> list[dict[str, Tensor]]:
    return source.augmented(INDICES, torch.Generator().manual_seed(seed), count)


def loss_of(task: Any, model: nn.Module, source) -> float:
    objective = Contrastive(task=task, temperature=0.3)
    with torch.no_grad():
        return float(objective.loss(model, source, INDICES, torch.Generator().manual_seed(4)))


def ell(anchor: Tensor, positive: Tensor, negatives: list[Tensor], tau: float = 0.3) -> float:
    """-log of the positive's share, written out."""

    def kernel(other: Tensor) -> float:
        return math.exp(float(F.cosine_similarity(anchor, other, dim=0)) / tau)

    return -math.log(kernel(positive) / (kernel(positive) + sum(map(kernel, negatives))))


def mix(image_of: dict[str, Tensor], text_of: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: (image_of if n.startswith("image") else text_of)[n] for n in image_of}


def row(features: dict[str, Tensor], place: int) -> dict[str, Tensor]:
    return {name: value[place : place + 1] for name, value in features.items()}


def test_swapped_task_tells_each_anchor_from_its_own_view_with_one_modality_exchanged(source):
    read = Reader("image_0", "text_0")
    views, total = of(source), 0.0
    for view in (0, 1):
        mine, theirs = views[view], views[1 - view]
        for i in range(5):
            anchor, positive = (read(row(each, i))[0] for each in (mine, theirs))
            others = [read(row(each, j))[0] for j in range(5) if j != i for each in views]
            swapped = [  # the image of the sample before it, among views like the positive
                read(mix(row(theirs, (j - 1) % 5), row(theirs, j)))[0] for j in range(5)
            ]
            total += ell(anchor, positive, [*others, *swapped]) / 10
    assert loss_of("swapped", read, source) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("ignored", ["image", "text"])
def test_network_that_ignores_a_modality_pays_log_2_in_the_swapped_task(memory_source, ignored):
    names = ("image_0", "text_0")
    features = {name: 9 * torch.eye(10)[:, None] for name in names}  # samples far apart
    source = memory_source(features, noise=0.01)
    indices, generator = torch.arange(10), torch.Generator().manual_seed(0)
    objective = Contrastive(task="swapped", temperature=0.02)
    blind = Reader(*(name for name in names if not name.startswith(ignored)))
    for model, low, high in ((blind, math.log(2) - 1e-3, 0.75), (Reader(*names), 0.0, 1e-3)):
        assert low <= float(objective.loss(model, source, indices, generator)) <= high
    plain = Contrastive(temperature=0.02)  # which is content with one modality
    assert float(plain.loss(blind, source, indices, generator)) < 1e-3


def test_swapped_task_of_three_modalities_exchanges_each(memory_source):
    names = ("image_0", "text_0", "audio_0")
    source = memory_source({n: torch.arange(64.0)[:, None, None] for n in names}, noise=0)
    model = Rows(*names)
    loss_of("swapped", model, source)
    groups = [
        tuple(str(int(v[0])) for v in (model.given[n].chunk(8)[g].flatten(1) for n in names))
        for g in range(8)
    ]
    first, before = str(int(INDICES[0])), str(int(INDICES[-1]))
    own = (first, first, first)
    exchanged = [tuple(before if n == m else first for n in range(3)) for m in range(3)]
    assert groups == [own, own, *(each for one in exchanged for each in (one, one))]


def test_comm_task_adds_each_modality_alone_against_both_views(source, algorithm_1):
    read, generator = Reader("image_1", "text_0"), torch.Generator().manual_seed(4)
    first, second, third = source.augmented(INDICES, generator, 3)
    total = algorithm_1(read(first), read(second), 0.3)
    for modality in ("image", "text"):
        masked = {
            name: value if name.startswith(modality) else value * 0 + sum(row / 5 for row in value)
            for name, value in third.items()
        }
        total += algorithm_1(read(masked), read(first), 0.3) / 2
        total += algorithm_1(read(masked), read(second), 0.3) / 2
    assert loss_of("comm", read, source) == pytest.approx(total, rel=1e-5)


def test_clip_task_finds_one_modality_by_the_other_and_nothing_by_its_own_kind(source):
    read, (first, second) = Reader("image_0", "text_0"), of(source)
    means = [{n: v * 0 + v.mean(0) for n, v in view.items()} for view in (first, second)]
    images, texts = read(mix(first, means[0])), read(mix(means[1], second))
    total = 0.0
    for mine, theirs in ((images, texts), (texts, images)):
        for i in range(5):
            others = [theirs[j] for j in range(5) if j != i]
            total += ell(mine[i], theirs[i], others) / 10
    assert loss_of("clip", read, source) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("simclr", math.log(2 * 5 - 1)),
        ("swapped", math.log(3 * 5 - 1)),
        ("comm", 3 * math.log(2 * 5 - 1)),
        ("clip", math.log(5)),
    ],
)
def test_loss_of_equal_rows_is_the_one_that_the_docstring_has(task, wanted, source):
    assert loss_of(task, Constant(), source) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_task_of_one_modality_is_to_match_its_views(task, source):
    del source.features["text_0"]
    model = Reader("image_0")
    found = loss_of(task, model, source)
    if task == "clip":
        first, second = map(model, of(source))
        others = [[j for j in range(5) if j != i] for i in range(5)]
        pairs = ((first, second), (second, first))
        wanted = sum(
            ell(a[i], b[i], [b[j] for j in others[i]]) / 10 for a, b in pairs for i in range(5)
        )
        assert found == pytest.approx(wanted, rel=1e-5)
    elif task == "comm":  # its third view is drawn in vain
        assert math.isfinite(found) and found < math.log(9)
    else:
        assert found == loss_of("simclr", model, source)


@pytest.mark.parametrize("task", TASKS)
def test_task_passes_gradcheck_in_double_precision_and_keeps_it(task):
    groups = {"simclr": 2, "swapped": 4, "comm": 4, "clip": 3}[task]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(groups * 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    objective = Contrastive(task=task, temperature=0.3)
    assert objective.loss_of_projections(rows, groups).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda z: objective.loss_of_projections(z, groups), (rows,))
    half = objective.loss_of_projections(rows.to(torch.bfloat16), groups)
    exact = objective.loss_of_projections(rows.to(torch.bfloat16).double(), groups)
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(exact.detach()), rel=1e-5)


def test_report_is_of_joint_views_whatever_the_task(source):
    model = Reader("image_0", "text_0")
    figures = [report(model, source, Contrastive(task=task)) for task in TASKS]
    assert figures == figures[:1] * 4 and "match_without_text" in figures[0]


def test_token_numbers_cannot_be_masked_but_can_be_exchanged(source):
    source.features["text_0"] = torch.arange(64 * 8).view(64, 2, 4)
    source.augmented = lambda rows, generator, count=2: [source.clean(rows)] * count
    model = Reader("image_0")
    for task in ("comm", "clip"):
        with pytest.raises(InputError, match="batch mean, which text_0 of torch.int64 has not"):
            loss_of(task, model, source)
    assert math.isfinite(loss_of("swapped", model, source))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"task": "both"}, "task must be one of"), ({"temperature": 0.0}, "temperature must be > 0")],
)
def test_contrast_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=f"Contrastive.{message}"):
        Contrastive(**options)


def test_tasks_have_names_and_the_sizes_of_the_recipe():
    recipe = Recipe(contrastive=Contrastive(temperature=0.5, hidden=7))
    for name in TASKS[1:]:
        objective = RunConfig(data=Path("movies"), objective=name, recipe=recipe).objective
        assert objective == Contrastive(temperature=0.5, hidden=7, task=name)
        assert OBJECTIVES.from_plain(OBJECTIVES.plain(objective), "file") == objective
