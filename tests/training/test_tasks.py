"""Each task has a head, a loss and a metric, and a network that can embed regions does so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.datasets.scenes import read_captions, read_phrases, read_scenes
from ssnas_core.objectives.contrastive import Contrastive
from ssnas_core.objectives.supervised import RegionHead, Supervised, SupervisedRegions
from ssnas_core.training.loop import join
from ssnas_core.training.tasks import task_of


class Network(nn.Module):
    """Embeds each of the rows of a feature, or their mean."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.width, self.apart = width, False

    def forward(self, features):
        rows = features["regions_0"]
        return rows if self.apart else rows.mean(1)


@pytest.fixture
def phrases():
    return task_of(read_phrases(10))


def test_a_data_set_says_which_task_it_is(phrases):
    questions = task_of(read_scenes(10))
    assert type(questions.learning) is Supervised and questions.primary == "accuracy"
    assert type(phrases.learning) is SupervisedRegions and phrases.primary == "accuracy"
    assert phrases.learning.classes == 16


def test_network_embeds_each_region_where_the_task_asks_for_it_alone(phrases):
    rows = {"regions_0": torch.randn(4, 16, 3)}
    network = Network()
    assert join(network, network, Contrastive()).forward(rows).shape == (4, 128)
    assert not network.apart
    model = join(network, network, phrases.learning)
    assert network.apart and isinstance(model[1], RegionHead) and model(rows).shape == (4, 16)


def test_other_networks_have_a_number_for_each_place_in_the_list(phrases):
    network = nn.Flatten()
    network.width = 48
    model = join(network, network, phrases.learning)
    assert model(torch.randn(4, 16, 3)).shape == (4, 16)


def test_region_is_right_where_it_overlaps_the_true_box_by_half():
    data = read_phrases(12)
    task, rows = task_of(data), torch.arange(len(data))
    predicted = torch.rand(len(data), 16, generator=torch.Generator().manual_seed(0)).numpy()
    predicted *= np.stack([record.inputs["regions"].any(1) for record in data.records])
    right = 0
    for scores, record in zip(predicted, data.records, strict=True):
        boxes = record.inputs["regions"][:, -4:]
        (x1, y1, x2, y2), (a, b, c, d) = boxes[scores.argmax()], boxes[int(record.labels[0])]
        wide, high = (
            max(0, min(e, g) - max(f, h) + 1) for e, f, g, h in ((x2, x1, c, a), (y2, y1, d, b))
        )
        both = (x2 - x1 + 1) * (y2 - y1 + 1) + (c - a + 1) * (d - b + 1)
        right += wide * high / (both - wide * high) >= 0.5
    assert 0 < right < len(data)
    assert task.scores(predicted, rows, None) == {"accuracy": right / len(data)}
    assert task.threshold(predicted, rows) is None


RECORD = Record("a", {"regions": np.ones((3, 5), np.float32), "text": "x"}, ("0",), "train")
GIVEN = {"regions": "array", "text": "text"}


@pytest.mark.parametrize(
    ("task", "single", "classes", "message"),
    [
        ("finding", True, "012", "a task among classification, grounding, matching"),
        ("grounding", False, "012", "the latter two of one label a sample"),
        ("grounding", True, "01", "one array of 2 regions, got 'grounding'.*arrays of .3. rows"),
    ],
)
def test_data_without_what_their_task_needs_are_refused(task, single, classes, message):
    with pytest.raises(InputError, match=message):
        Dataset("own", GIVEN, tuple(classes), (RECORD,), single_label=single, task=task)


CAPTIONS = read_captions(12)


class Features:
    """A feature of each modality in which a record and its picture have a number."""

    def __init__(self) -> None:
        self.read = 0

    def clean(self, indices):
        self.read += len(indices)
        pictures = torch.tensor([int(CAPTIONS.records[row].labels[0]) for row in indices.tolist()])
        return {"regions_0": pictures[:, None].float(), "caption_0": indices[:, None].float()}


class Likes(nn.Module):
    """High where text // 2 and picture are the same number, or where they are not."""

    def __init__(self, sign: int = 1) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, features):
        text, picture = features["caption_0"] // 2, features["regions_0"]
        return -self.sign * (text - picture).abs()


def test_all_pairs_of_a_part_go_through_the_network_and_each_row_is_read_once_a_batch():
    task, source = task_of(CAPTIONS), Features()
    rows = torch.tensor([9, 4, 5, 8, 2])  # of the pictures 4, 2, 2, 4, 1
    scores = task.predict(Likes(), source, rows)
    wanted = [[-abs(row // 2 - picture) for picture in (1, 2, 4)] for row in rows.tolist()]
    assert scores.tolist() == wanted
    assert source.read == 5 + 3 + 1
    assert set(task.scores(scores, rows, None).values()) == {1.0}
    assert task.scores(task.predict(Likes(-1), source, rows), rows, None)["texts_at_1"] == 0


def test_text_and_picture_of_a_match_are_what_the_data_set_has():
    with pytest.raises(InputError, match="expected pictures, one text, got 'matching'"):
        Dataset("own", {"a": "text"}, ("0",), (), single_label=True, task="matching")
    task = task_of(CAPTIONS)
    assert (task.primary, task.learning.text, task.threshold(None, None)) == (
        "recall",
        "caption",
        None,
    )
    assert task.learning.pictures.tolist() == [row // 2 for row in range(24)]
