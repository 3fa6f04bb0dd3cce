"""Each task has a head, a loss and a metric, and a network that can embed regions does so."""

from __future__ import annotations

import math

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
from ssnas_core.training.tasks import Answering, task_of


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
        ("finding", True, "012", "a task among classification, grounding, matching, answering"),
        ("grounding", False, "012", "grounding and matching of one label a sample"),
        ("answering", True, "012", "any number of labels a sample, got 'answering'"),
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


def asked(id, labels, split="train", soft=None):
    return Record(id, {"text": "what", "image": "a.png"}, labels, split, soft)


ANSWERS = Dataset(
    "own",
    {"image": "image", "text": "text"},
    ("no", "red", "yes"),
    (
        asked("a", ("yes",), soft={"yes": 1.0, "no": 0.6}),
        asked("b", ("red",), soft={"red": 0.9}),
        asked("c", (), "test", soft={"no": 0.3}),  # the commonest answer is no class
        asked("d", None),
    ),
    task="answering",
)


def test_answer_scores_as_many_people_give_it_and_whether_it_is_the_commonest():
    task, rows = task_of(ANSWERS), torch.arange(3)
    assert isinstance(task, Answering)
    said = np.array([[0.9, 0, 0.8], [0.1, 0.2, 0.1], [0.3, 0.1, 0]])  # no, red, no
    scores = task.scores(said, rows, task.threshold(said, rows))
    assert scores == {"vqa_accuracy": pytest.approx((0.6 + 0.9 + 0.3) / 3), "accuracy": 1 / 3}
    assert (task.primary, task.threshold(said, rows)) == ("vqa_accuracy", None)
    assert task.scores(said[:1] * [0, 1, 1], rows[:1], None)["accuracy"] == 1


def test_answers_are_learnt_by_cross_entropy_summed_over_them():
    learning = task_of(ANSWERS).learning
    logits, rows = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.0, -2.0]]), torch.tensor([1, 0])
    targets = [[0.0, 0.9, 0.0], [0.6, 0.0, 1.0]]
    wanted = 0.0
    for row, target in zip(logits.sigmoid().tolist(), targets, strict=True):
        for p, t in zip(row, target, strict=True):
            wanted -= t * math.log(p) + (1 - t) * math.log(1 - p)
    assert float(learning.loss_of_logits(logits, rows)) == pytest.approx(wanted / 2)
    assert ANSWERS.targets()[3].tolist() == [0, 0, 0]


def test_region_by_overlap_is_learnt_by_divergence_and_right_from_a_half_on():
    regions = np.ones((3, 5), np.float32)
    softs = ({"0": 0.5, "2": 0.75}, {}, {"1": 0.49})
    records = tuple(
        Record(str(row), {"regions": regions, "text": "x"}, ("0",), "train", soft)
        for row, soft in enumerate(softs)
    )
    data = Dataset("own", GIVEN, tuple("012"), records, single_label=True, task="grounding")
    task, logits = task_of(data), torch.tensor([[1.0, 2.0, 0.5]] * 3)
    logs = logits[0].log_softmax(0).tolist()
    first = sum(t * (math.log(t) - logs[k]) for k, t in ((0, 0.4), (2, 0.6)))
    loss = task.learning.loss_of_logits
    assert float(loss(logits[:2], torch.tensor([0, 1]))) == pytest.approx(first)  # 1 has none
    assert float(loss(logits[:1], torch.tensor([1]))) == 0
    assert float(loss(logits[:2], torch.tensor([0, 2]))) == pytest.approx((first - logs[1]) / 2)
    said = np.eye(3)[[0, 0, 1]]
    assert task.scores(said, torch.arange(3), None) == {"accuracy": 1 / 3}
