"""The weighted sum against loops; labels of other samples are never read."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.objectives import OBJECTIVES
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.hybrid import Hybrid, HybridConfig
from ssnas_core.objectives.supervised import Supervised, SupervisedRegions

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


class Joined(nn.Module):
    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return torch.cat([features[name].flatten(1) for name in ("image_0", "text_0")], 1)


def two_heads(objective) -> nn.Sequential:
    """A model of both heads on a linear encoder, decided by one seed."""
    torch.manual_seed(0)
    encoder = nn.Sequential(Joined(), nn.Linear(16, 5))
    return nn.Sequential(encoder, objective.head(5))


def loss_of(objective, model, source, indices=BATCH) -> Tensor:
    return objective.loss(model, source, indices, torch.Generator().manual_seed(4))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_loss_is_the_weighted_sum_of_both_written_as_loops(source, supervised, weight, algorithm_1):
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


@pytest.mark.parametrize("task", ["swapped", "comm"])
def test_hybrid_reads_labels_on_the_views_and_contrasts_by_its_task(source, supervised, task):
    heads = dataclasses.replace(HEADS, task=task)
    losses = {}
    for weight in (0.0, 0.25, 1.0):
        objective = Hybrid(supervised=supervised, labelled=KNOWN, contrastive=heads, weight=weight)
        losses[weight] = float(loss_of(objective, two_heads(objective), source).detach())
    assert losses[0.0] == float(loss_of(heads, two_heads(heads), source).detach())
    assert losses[0.25] == pytest.approx(0.25 * losses[1.0] + 0.75 * losses[0.0], rel=1e-5)
    if task == "swapped":  # its views are drawn as without a task
        plain = Hybrid(supervised=supervised, labelled=KNOWN, contrastive=HEADS, weight=1.0)
        wanted = float(loss_of(plain, two_heads(plain), source).detach())
        assert losses[1.0] == pytest.approx(wanted, rel=1e-5)


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
        ({"contrastive": Contrastive(task="clip")}, "'clip' has none; use 'simclr', 'swapped'"),
        ({"supervised": Supervised(labels=MULTI, augment=False)}, "augment=False; use Supervised"),
    ],
)
def test_hybrid_that_cannot_be_is_refused(change, message):
    options = {"supervised": LABELS["several"], "labelled": KNOWN, **change}
    with pytest.raises(InputError, match=message):
        Hybrid(**options)


def test_configuration_opens_it_over_the_labels(source, supervised):
    config = HybridConfig(weight=0.3, contrastive=HEADS)
    assert OBJECTIVES.from_plain(OBJECTIVES.plain(config), "file") == config
    assert (config.uses_labels, config.labelled_only) == (True, False)
    opened = config.open(supervised, KNOWN)
    wanted = Hybrid(supervised=supervised, labelled=KNOWN, contrastive=HEADS, weight=0.3)
    losses = [loss_of(each, two_heads(each), source) for each in (opened, wanted)]
    assert torch.equal(*losses)


def test_regions_are_no_classes_to_it():
    regions = SupervisedRegions(labels=torch.zeros(64), classes=3)
    with pytest.raises(InputError, match="needs labels that are classes.*got SupervisedRegions"):
        HybridConfig().open(regions, KNOWN)


def test_configuration_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="the task 'clip' has none"):
        HybridConfig(contrastive=Contrastive(task="clip"))
    with pytest.raises(InputError, match=r"weight of the labels must be in \[0, 1\], got 1.5"):
        HybridConfig(weight=1.5)
