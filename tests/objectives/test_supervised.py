"""Cross-entropies against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.common.errors import InputError
from ssnas_core.objectives import OBJECTIVES
from ssnas_core.objectives.supervised import (
    NO_REGION,
    Supervised,
    SupervisedConfig,
    SupervisedRegions,
)


class Spy(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        self.seen.append(features)
        return self.linear(features["text_0"].flatten(1))


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


def test_configuration_opens_it_over_the_labels():
    config = SupervisedConfig(augment=False)
    assert OBJECTIVES.from_plain(OBJECTIVES.plain(config), "file") == config
    assert (config.uses_labels, config.labelled_only) == (True, True)
    labels = torch.tensor([0, 2, 1])
    objective = config.open(Supervised(labels=labels, classes=3), torch.tensor([1]))
    assert (objective.labels is labels, objective.classes, objective.augment) == (True, 3, False)


def iou(one, other) -> float:
    """Intersection over union of two boxes whose corner pixels are both in."""
    wide, high = (
        max(0.0, min(one[2 + k], other[2 + k]) - max(one[k], other[k]) + 1) for k in (0, 1)
    )
    areas = [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in (one, other)]
    return wide * high / (sum(areas) - wide * high)


def test_loss_of_regions_is_the_divergence_from_their_overlaps_with_the_true_box(source):
    boxes = [(0, 0, 9, 9), (20, 0, 39, 19), (0, 30, 9, 39), (70, 70, 79, 79)]  # none overlaps
    truth = torch.tensor([2, 0, 3, 1])
    objective = SupervisedRegions(labels=truth, classes=4)
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))
    total = 0.0
    for row in range(4):
        overlaps = [iou(box, boxes[truth[row]]) for box in boxes]
        kept = [value if value >= 0.5 else 0.0 for value in overlaps]
        total_score = sum(math.exp(value) for value in logits[row].tolist())
        for k, value in enumerate(kept):
            target = value / sum(kept)
            if target:
                share = math.exp(logits[row, k]) / total_score
                total += target * (math.log(target) - math.log(share))
    loss = objective.loss_of_logits(logits, torch.arange(4))
    assert float(loss) == pytest.approx(total / 4, rel=1e-5)


def test_regions_are_scored_alike_wherever_they_stand_and_padding_never_wins():
    head = SupervisedRegions(labels=torch.zeros(2), classes=5).each(3)
    embeddings = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    embeddings[0, 3:] = 0
    logits = head(embeddings)
    turned = head(embeddings[:, [4, 2, 0, 1, 3]])
    assert torch.equal(turned, logits[:, [4, 2, 0, 1, 3]])
    assert logits[0, 3:].tolist() == [NO_REGION] * 2 and bool((logits.softmax(1)[0, 3:] == 0).all())
    assert torch.allclose(logits[1], embeddings[1] @ head.weight[0] + head.bias)
