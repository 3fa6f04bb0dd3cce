"""How much of the texts their backbones know is counted, and told where it is little."""

from __future__ import annotations

import logging

import pytest

from ssnas_core.backbones.text import CharacterMLP, MaxoutMLP
from ssnas_core.common.files import read_json
from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.features.config import PrepareConfig
from ssnas_core.features.coverage import Known, coverage, unknown_texts
from ssnas_core.features.prepare import prepare
from ssnas_core.training.loop import TrainConfig

SPACED = ["a sheriff rides", "the ghost screams", "a sheriff and a ghost", "one rides, one screams"]
CHINESE = ["警长骑马进了沙漠", "鬼魂在地窖里尖叫", "警长在地窖里", "鬼魂进了沙漠"]
THAI = ["นายอำเภอขี่ม้า", "ผีในห้องใต้ดิน", "ม้าในทะเลทราย", "นายอำเภอในห้อง"]
JAPANESE = ["保安官は馬に乗る", "幽霊が叫ぶ地下室", "馬が砂漠にいる", "保安官の地下室"]


def texts(train: list[str], dev: list[str], test: list[str]) -> Dataset:
    parts = {"train": train, "dev": dev, "test": test}
    records = [
        Record(f"{split}{n}", {"text": text}, ("a",), split)
        for split, some in parts.items()
        for n, text in enumerate(some)
    ]
    return Dataset("plots", {"text": "text"}, ("a", "b"), tuple(records))


CASES = {
    # texts, backbone, (unknown, words) in train, dev and test
    "English": (texts(SPACED, SPACED[:1], SPACED[1:3]), MaxoutMLP, [(0, 1), (0, 1), (0, 1)]),
    "English, a blank and a new one": (
        texts(SPACED, [" ", "sheriff"], ["robots dance", "ghost robots", ""]),
        MaxoutMLP,
        [(0, 1), (1, 0.5), (2, 0.1667)],
    ),
    "Chinese": (texts(CHINESE, CHINESE[:1], ["沙漠里的马"]), MaxoutMLP, [(0, 1), (0, 1), (1, 0)]),
    "Japanese": (texts(JAPANESE, ["馬は砂", "幽霊"], ["馬"]), MaxoutMLP, [(0, 1), (2, 0), (1, 0)]),
    "Chinese by characters": (
        texts(CHINESE, ["警长尖叫"], ["沙漠里的马"]),
        CharacterMLP,
        [(0, 0.875), (0, 0.5), (0, 0.6)],
    ),
    "Thai by characters": (
        texts(THAI, ["ม้า"], ["desert", "ผี"]),
        CharacterMLP,
        [(0, 0.7967), (0, 1), (1, 0.25)],
    ),
    "English for a Chinese model": (
        texts(CHINESE, ["sheriff"], ["ghost", "马 x"]),
        CharacterMLP,
        [(0, 0.875), (1, 0), (2, 0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_texts_without_a_known_word_are_counted_by_split(case):
    data, kind, wanted = CASES[case]
    backbone = kind().fit([one.inputs["text"] for one in data.records if one.split == "train"])
    found = coverage(data, {"text": backbone})["text"]
    for split, (unknown, words) in zip(("train", "dev", "test"), wanted, strict=True):
        part = found[split]
        assert part.texts == len(data.indices(split))
        assert (part.unknown, part.words) == (unknown, pytest.approx(words, abs=1e-4)), split


def known(texts: int, unknown: int, words: float) -> Known:
    return Known(texts=texts, unknown=unknown, words=words)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"train": known(9, 0, 1.0), "test": known(3, 0, 0.25)}, None),
        ({"train": known(9, 1, 0.9), "test": known(3, 0, 1.0)}, "1 of 9 in train, 0 of 3 in test"),
        ({"train": known(9, 0, 1.0), "dev": known(2, 2, 0.0)}, "0 of 9 in train, 2 of 2 in dev"),
        ({"test": known(8, 0, 0.2)}, "0 of 8 in test; words known: 20 %"),
        ({"test": known(8, 8, 0.0)}, "8 of 8 in test; words known: 0 %"),
        ({}, None),
    ],
)
def test_little_knowledge_is_a_sentence_and_enough_is_none(parts, told):
    lines = unknown_texts({"plot": parts, "title": {"train": known(1, 0, 1.0)}})
    assert [line.partition(":")[0] for line in lines] == (["plot"] if told else [])
    assert told is None or told in lines[0]


ONCE = TrainConfig(epochs=1, batch_size=4, learning_rate=0.01)


@pytest.mark.parametrize("text", ["maxout", "characters"])
def test_preparing_counts_and_warns_and_names_the_backbone_for_such_texts(text, tmp_path, caplog):
    data = texts(CHINESE, ["警长尖叫"], ["沙漠里的马", ""])
    config = PrepareConfig(text=text, views=1, text_training=ONCE)
    with caplog.at_level(logging.WARNING):
        prepared = prepare(data, tmp_path, config)
    (said,) = [line for line in caplog.messages if "known word" in line]
    unknown = {"maxout": (1, 2), "characters": (0, 1)}[text]
    counts = "0 of 4 in train, {} of 1 in dev, {} of 2 in test".format(*unknown)
    assert said.startswith(f"plots: text: texts without a known word: {counts}; words known: ")
    assert ("--prepare.text characters" in said) == (text == "maxout")
    counted = prepared.counts()["texts"]["text"]
    assert (counted["dev"]["unknown"], counted["test"]["unknown"]) == unknown
    assert prepared.describe()["texts"] == {"text": counted}
    assert read_json(prepared.folder / "known.json") == {"text": counted}
