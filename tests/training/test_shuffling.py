"""What shuffling a modality does to a score: nothing to what is ignored, all to what decides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.training.loop import predict
from ssnas_core.training.shuffling import shuffled_scores
from ssnas_core.training.tasks import task_of

ROWS = torch.tensor([3, 17, 5, 29, 8, 11, 2, 20])


class Reads(nn.Module):
    """Logits that are the sum of some features."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        self.seen.append(features)
        return sum(features[name] for name in self.names) * 20 - 10  # type: ignore[return-value]


@pytest.fixture
def source(memory_source):
    one_hot = torch.eye(32)  # each sample is a class of its own
    return memory_source(
        {"image_0": one_hot, "image_1": one_hot.clone(), "text_0": one_hot.clone()}
    )


def shuffled(model: nn.Module, source, single: bool = True) -> dict[str, float]:
    names = tuple(map(str, range(32)))
    records = tuple(Record(name, {"text": name}, (name,), "test") for name in names)
    task = task_of(Dataset("own", {"text": "text"}, names, records, single_label=single))
    return shuffled_scores(task, model, source, ROWS, None if single else 0.5)


@pytest.mark.parametrize("single", [True, False])
def test_score_falls_by_what_the_network_reads_and_by_nothing_else(source, single):
    assert shuffled(Reads("text_0"), source, single) == {"image": 1.0, "text": 0.0}
    assert shuffled(Reads("image_1"), source, single) == {"image": 0.0, "text": 1.0}


def test_all_features_of_a_modality_come_from_one_other_of_the_samples(source):
    model = Reads("image_0", "text_0")
    shuffled(model, source)
    orders = set()
    for features in model.seen[:5]:  # those with another image
        image, again, own = (features[n].argmax(1) for n in ("image_0", "image_1", "text_0"))
        assert torch.equal(own, ROWS) and torch.equal(image, again)
        assert sorted(image.tolist()) == sorted(ROWS.tolist()) and not bool((image == own).any())
        orders.add(tuple(image.tolist()))
    assert len(orders) == 5
    assert all(torch.equal(f["image_0"].argmax(1), ROWS) for f in model.seen[5:])


def test_same_orders_every_time_and_the_callers_chance_is_left_alone(source):
    source.features["text_0"] = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first, again = (shuffled(Reads("image_0", "text_0"), source) for _ in range(2))
    assert first == again and 0 < first["text"] <= 1
    assert torch.equal(torch.get_rng_state(), state)


def test_score_is_of_the_rows_in_their_order(source):
    model = Reads("text_0")
    logits = predict(model, source, ROWS)
    assert logits.argmax(1).tolist() == ROWS.tolist()
    assert shuffled(model, source)["image"] == 1.0
