"""VQA v2: questions about photographs, each answered by ten people (Goyal et al., CVPR 2017).

A folder holds the files of one part or of both, as published, v1's names without "v2_" too:

    v2_OpenEnded_mscoco_train2014_questions.json   {"questions": [{"question_id", "image_id",
    v2_OpenEnded_mscoco_val2014_questions.json         "question"}, ...]}
    v2_mscoco_train2014_annotations.json           {"annotations": [{"question_id", "image_id",
    v2_mscoco_val2014_annotations.json                 "multiple_choice_answer", "answers":
                                                       [{"answer"}, ten of them]}, ...]}
    .../COCO_train2014_000000000009.jpg.npz        regions of each picture, or its image; see
                                                   `ssnas_core.datasets.regions`

val2014 is test, and dev the training pictures whose number ends in 0. Of one part alone, dev are
those that end in 0, and test those in 1 or 2. So no picture is in two parts.

An answer counts as VQA accuracy has it: the mean, over the ten people, of min(1, m / 3), where m
of the nine others gave it: 0, 0.3, 0.6, 0.9 or 1. The answers to learn are the commonest ones of
train and dev. Published systems count val's as well, 3,129 of more than 8 occurrences.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_json
from ssnas_core.common.typed import brief
from ssnas_core.datasets.records import BadRecordError, Dataset, Record, Skips
from ssnas_core.datasets.regions import read_pictures

PEOPLE = 10
"""So many people answered each question."""

_LOG = logging.getLogger(__name__)
_PARTS = ("train2014", "val2014")
_MOST = 2**30  # bytes of a file
_SHORTEST = 8  # bytes of a value in it
_DEV, _TEST = (0,), (1, 2)  # last digits of pictures' numbers

_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = "zero one two three four five six seven eight nine ten".split()
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = ("a", "an", "the")
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't
mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
you've
"""
_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}


def plain_answer(answer: str) -> str:
    """Return an answer without case, signs and articles, and with numbers as digits.

    These are the steps of VQA's evaluation (`vqaEval.py`), which writes contractions with their
    apostrophes; here "somebody'd" is one too.

    Examples:
        >>> plain_answer("The two-story House.")
        '2 story house'
        >>> plain_answer("dont know, 1,000")
        "don't know 1000"
    """
    text = " ".join(answer.split())
    number = re.search(r"\d,\d", text)
    for sign in _SIGNS:
        beside = f"{sign} " in answer or f" {sign}" in answer or number
        text = text.replace(sign, "" if beside else " ")
    words = re.sub(r"\.(?!\d)", "", text).lower().split()
    words = [_DIGITS.get(word, word) for word in words]
    kept = [word for word in words if word not in _ARTICLES]
    return " ".join(_CONTRACTIONS.get(word.replace("'", ""), word) for word in kept)


def answer_accuracy(count: int) -> float:
    """Return how right an answer is that `count` of the ten people gave: its VQA accuracy."""
    others = count * min(1, (count - 1) / 3) + (PEOPLE - count) * min(1, count / 3)
    return round(others / PEOPLE, 9)


@dataclass(frozen=True)
class _Question:
    """A question as published: its id, picture's number, text, commonest answer, and all ten."""

    id: str
    picture: int
    text: str
    answer: str
    answers: Mapping[str, int]


def is_vqa(folder: Path) -> bool:
    """Whether VQA's questions and their answers lie in a folder."""
    return any(all(_found(folder, part)) for part in _PARTS)


def read_vqa(
    path: Path,
    *,
    more_than: int = 8,
    regions: int | None = None,
    strict: bool = False,
    progress: bool = False,
) -> Dataset:
    """Return VQA's questions with the regions of their pictures, or with the pictures.

    Modalities: `regions`, (R, C + 4) float32, the last four columns a box, or `image`; and
    `question`. The label is the commonest answer, and `Record.soft` says how right each is. A
    question of train of whose answers none is to be learnt is left out; one of dev or test stays,
    and whatever is answered is wrong.

    Args:
        path: the folder.
        more_than: an answer is learnt that is the commonest one of more questions of train and dev.
        regions: R, kept of each picture; without, the smallest square number with room for all.
        strict: raise on the first question that cannot be used instead of leaving it out.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no such files, fewer than two answers to learn, no pictures, or a part without a
            question that can be used.
    """
    path = Path(path)
    skips = Skips(str(path), strict)
    asked = [*_placed(path, _questions(path, skips), skips)]
    counts = Counter(one.answer for part, one in asked if part != "test")
    classes = tuple(sorted(answer for answer, count in counts.items() if count > more_than))
    if len(classes) < 2:
        raise InputError(
            f"{path}: expected at least two answers that are the commonest ones of more than "
            f"{more_than} questions of train and dev, got {len(classes)} of {len(counts)}; give "
            "more questions, or read_vqa(..., more_than=0)."
        )
    known, outside = set(classes), 0
    names = dict.fromkeys(str(one.picture) for _, one in asked)
    pictures = read_pictures(path, names, regions=regions, progress=progress)
    records: list[Record] = []
    for part, one in asked:
        soft = {a: answer_accuracy(n) for a, n in one.answers.items() if a in known}
        try:
            if part == "train" and not soft:
                raise BadRecordError("none of its answers is to be learnt")
            inputs = {**pictures.inputs(str(one.picture)), "question": one.text}
        except BadRecordError as bad:
            skips.add(one.id, str(bad))
            continue
        outside += not soft
        labels = (one.answer,) if one.answer in known else ()
        records.append(Record(one.id, inputs, labels, part, soft))
    if outside:
        _LOG.warning(
            "%s: %d questions of dev and test have no answer that is learnt; whatever is answered "
            "is wrong",
            *(path, outside),
        )
    skips.check(records)
    kinds = {pictures.modality: pictures.kind, "question": "text"}
    return Dataset("vqa", kinds, classes, tuple(records), skips.reasons, task="answering")


def _found(folder: Path, part: str) -> tuple[list[Path], list[Path]]:
    """Return the files of a part: of questions and of annotations, one of each if all is well."""
    return (
        sorted(folder.glob(f"*OpenEnded_mscoco_{part}_questions.json")),
        sorted(folder.glob(f"*mscoco_{part}_annotations.json")),
    )


def _questions(path: Path, skips: Skips) -> dict[str, list[_Question]]:
    """Return the questions that are as published, by the part of COCO that they are about."""
    questions: dict[str, list[_Question]] = {}
    for part in _PARTS:
        found = _found(path, part)
        if not any(found):
            continue
        if [len(files) for files in found] != [1, 1]:
            raise InputError(
                f"{path}: expected one file of questions and one of annotations of {part}, got "
                f"{', '.join(file.name for files in found for file in files)}; give one of each."
            )
        asked, answered = (
            _entries(files[0], field)
            for files, field in zip(found, ("questions", "annotations"), strict=True)
        )
        questions[part] = []
        for id in dict.fromkeys([*asked, *answered]):
            try:
                questions[part].append(_question(id, asked.get(id), answered.get(id)))
            except BadRecordError as bad:
                skips.add(id, str(bad))
    if not questions:
        raise InputError(
            f"{path}: expected v2_OpenEnded_mscoco_train2014_questions.json and "
            "v2_mscoco_train2014_annotations.json, or val2014's, got neither; mend the path."
        )
    return questions


def _entries(file: Path, field: str) -> dict[str, Mapping[str, Any]]:
    """Return the entries of a file by question."""
    document = read_json(file, _MOST, _SHORTEST)
    entries = document.get(field) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise InputError(
            f"{file}: expected an object with a list of {field}, got {brief(document)}; download "
            "it again."
        )
    return {str(one.get("question_id")): one for one in entries}


def _question(
    id: str, asked: Mapping[str, Any] | None, answered: Mapping[str, Any] | None
) -> _Question:
    """Return what is asked and answered.

    Raises:
        BadRecordError: something of it is missing.
    """
    if asked is None or answered is None:
        raise BadRecordError("no question" if asked is None else "no annotation")
    picture, text = asked.get("image_id"), asked.get("question")
    if not isinstance(picture, int) or not isinstance(text, str) or not text.strip():
        raise BadRecordError("no question or number of a picture")
    if answered.get("image_id", picture) != picture:
        raise BadRecordError("question and annotation of different pictures")
    given = answered.get("answers")
    given = given if isinstance(given, list) else []
    said = [one.get("answer") if isinstance(one, dict) else None for one in given]
    commonest = answered.get("multiple_choice_answer")
    if len(said) != PEOPLE or not all(isinstance(one, str) for one in (*said, commonest)):
        raise BadRecordError(f"{len(said)} answers, expected {PEOPLE} and the commonest one")
    answers = Counter(plain_answer(str(one)) for one in said)
    return _Question(id, picture, text.strip(), plain_answer(str(commonest)), answers)


def _placed(
    path: Path, questions: Mapping[str, list[_Question]], skips: Skips
) -> Iterator[tuple[str, _Question]]:
    """Yield each question with its part, by its picture."""
    alone = len(questions) == 1
    tested = {one.picture for one in questions.get("val2014", ())} if not alone else set()
    if alone:
        _LOG.warning("%s has %s alone: its pictures are train, dev and test", path, *questions)
    for name, asked in questions.items():
        for one in asked:
            digit = one.picture % 10
            if name == "val2014" and not alone or alone and digit in _TEST:
                yield "test", one
            elif one.picture in tested:
                skips.add(one.id, "its picture is in test too")
            else:
                yield "dev" if digit in _DEV else "train", one
