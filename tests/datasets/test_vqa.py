"""VQA's files: soft targets as its accuracy has them, parts by picture, what is bad is named."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ssnas_core.cli.main import main
from ssnas_core.common.errors import InputError
from ssnas_core.datasets.facts import labels_in_words
from ssnas_core.datasets.open import form_of, open_dataset
from ssnas_core.datasets.vqa import answer_accuracy, plain_answer, read_vqa
from ssnas_core.features.train_backbones import Labels

COLOURS = ("red", "blue")


def regions(path, count=3, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    boxes = np.array([[5 * n, 0, 5 * n + 8, 9] for n in range(count)], np.float32)
    what = rng.normal(size=(4, count)).astype(np.float32)
    given = {"x": what, "bbox": boxes, "image_w": 40, "image_h": 30, "num_bbox": count} | changes
    np.savez_compressed(path, **given)


def write(folder, part, pictures, change=lambda questions, annotations: None):
    """Write two questions about each picture, of which the second one is yes or no."""
    questions, annotations = [], []
    for picture in pictures:
        for place, (text, answers) in enumerate(
            (
                ("What colour is it?", [COLOURS[picture % 2]] * 7 + ["Green."] * 3),
                ("Is it a dog?", ["yes"] * 9 + ["no"]),
            )
        ):
            id = 10 * picture + place
            questions.append({"question_id": id, "image_id": picture, "question": text})
            annotations.append(
                {
                    **{"question_id": id, "image_id": picture, "answer_type": "other"},
                    "multiple_choice_answer": answers[0],
                    "answers": [
                        {"answer": one, "answer_confidence": "yes", "answer_id": n}
                        for n, one in enumerate(answers, 1)
                    ],
                }
            )
    change(questions, annotations)
    names = ("v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")
    for name, field, entries in zip(
        names, ("questions", "annotations"), (questions, annotations), strict=True
    ):
        (folder / name.format(part)).write_text(json.dumps({"info": {}, field: entries}))


TRAIN, VAL = range(1, 31), range(101, 107)


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "vqa"
    home.mkdir()
    write(home, "train2014", TRAIN)
    write(home, "val2014", VAL)
    for part, pictures in (("train2014", TRAIN), ("val2014", VAL)):
        for picture in pictures:
            name = f"COCO_{part}_{picture:012d}.jpg.npz"
            regions(home / "features" / part / name, 2 + picture % 3)
    return home


def test_answer_accuracy_is_that_over_ten_people_each_left_out_in_turn():
    for count in range(11):
        people = ["red"] * count + ["blue"] * (10 - count)
        total = 0.0
        for left_out in range(10):
            others = [one for place, one in enumerate(people) if place != left_out]
            total += min(1.0, others.count("red") / 3)
        assert answer_accuracy(count) == pytest.approx(total / 10)
    assert [answer_accuracy(n) for n in range(6)] == [0, 0.3, 0.6, 0.9, 1, 1]


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("Yes", "yes"),
        (" the  Red.", "red"),
        ("None", "0"),
        ("ten o'clock", "10 o'clock"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("1,000", "1000"),
        ("2.5", "2.5"),
        ("dont", "don't"),
        ("couldn'tve", "couldn't've"),
        ("we're", "we're"),
    ],
)
def test_answers_are_compared_as_the_evaluation_of_vqa_does(answer, plain):
    assert plain_answer(answer) == plain == plain_answer(plain)


def test_questions_have_soft_answers_and_the_regions_of_their_picture(folder):
    assert form_of(folder) == "vqa"
    data = open_dataset(f"vqa:{folder}")
    assert open_dataset(folder).fingerprint() == data.fingerprint()
    assert (data.name, data.task, data.classes) == ("vqa", "answering", ("blue", "red", "yes"))
    assert data.kinds == {"regions": "array", "question": "text"}
    assert labels_in_words(data) == "3 answers (blue, red, yes)"
    first, second = data.records[2:4]
    assert (first.id, first.inputs["question"]) == ("20", "What colour is it?")
    assert (first.labels, first.soft) == (("red",), {"red": 1.0})  # nobody says green most
    assert (second.labels, second.soft) == (("yes",), {"yes": 1.0})
    assert first.inputs["regions"].shape == (4, 8)
    assert first.inputs["regions"] is second.inputs["regions"]


def test_answer_is_as_right_as_many_people_give_it_and_the_commonest_may_not_be_learnt(folder):
    said = ["Red."] * 2 + ["blue"] + ["yes"] * 3 + ["a bird"] * 4
    write(folder, "train2014", TRAIN, lambda _, annotations: answered(annotations[0], said))
    first = read_vqa(folder).records[0]
    assert (first.labels, first.soft) == ((), {"red": 0.6, "blue": 0.3, "yes": 0.9})
    assert read_vqa(folder, more_than=14).classes == ("red", "yes")  # blue: 14 times
    assert read_vqa(folder, more_than=13).classes == ("blue", "red", "yes")
    with pytest.raises(
        InputError, match="expected at least two answers .*more than 15 .* got 1 of 4"
    ):
        read_vqa(folder, more_than=15)


def answered(annotation, answers):
    """Give an annotation other answers, the last one the commonest."""
    annotation["multiple_choice_answer"] = answers[-1]
    annotation["answers"] = [{"answer": one} for one in answers]


def test_no_picture_is_in_two_parts_and_the_test_part_decides_on_no_answer(folder):
    data = read_vqa(folder)
    parts = {}
    for record in data.records:
        parts.setdefault(int(record.id) // 10, set()).add(record.split)
    assert all(len(places) == 1 for places in parts.values())
    assert {picture for picture, place in parts.items() if place == {"dev"}} == {10, 20, 30}
    assert {picture for picture, place in parts.items() if place == {"test"}} == set(VAL)

    def rename(questions, annotations):
        for one in annotations:
            answered(one, ["a bird"] * 10)

    write(folder, "val2014", VAL, rename)
    changed = read_vqa(folder)
    assert changed.classes == data.classes
    test = [one for one in changed.records if one.split == "test"]
    assert len(test) == 2 * len(VAL)  # they stay, and whatever is said is wrong
    assert {(one.labels, len(one.soft)) for one in test} == {((), 0)}


def test_one_part_alone_is_all_three(folder, caplog):
    for file in folder.glob("*val2014*.json"):
        file.unlink()
    data = read_vqa(folder)
    counts = Counter(one.split for one in data.records)
    assert counts == {"train": 42, "dev": 6, "test": 12}
    assert "train2014 alone: its pictures are train, dev and test" in caplog.text


def test_backbones_may_learn_from_the_soft_answers_of_the_labelled_part_alone(folder):
    data = read_vqa(folder)
    labels = Labels.of(data, 0.5, 0)
    known = ~labels.objective.labels.isnan().any(1)
    assert known.nonzero()[:, 0].tolist() == labels.rows.tolist()
    assert labels.objective.labels[labels.rows].tolist() == data.soft()[labels.rows].tolist()


def spoil(folder):
    """Spoil a training question, annotation or region file in each way; return id -> reason."""

    def change(questions, annotations):
        by_id = {one["question_id"]: one for one in annotations}
        annotations.remove(by_id[11])
        del questions[2]  # 20
        by_id[21]["answers"].pop()
        answered(by_id[31], ["a bird"] * 10)
        next(one for one in questions if one["question_id"] == 41)["question"] = " "
        by_id[71]["image_id"] = 8
        for rows in (questions, annotations):
            rows.append({**rows[-1], "question_id": 7, "image_id": VAL[0]})

    write(folder, "train2014", TRAIN, change)
    features = folder / "features" / "train2014"
    (features / f"COCO_train2014_{5:012d}.jpg.npz").unlink()
    regions(features / f"COCO_train2014_{6:012d}.jpg.npz", image_w=10)
    return {
        "11": "no annotation",
        "20": "no question",
        "21": "9 answers, expected 10 and the commonest one",
        "31": "none of its answers is to be learnt",
        "41": "no question or number of a picture",
        "50": "region file missing",
        "51": "region file missing",
        "60": "a box outside its image",
        "61": "a box outside its image",
        "71": "question and annotation of different pictures",
        "7": "its picture is in test too",
    }


def test_what_cannot_be_used_is_named_and_left_out_or_refused(folder, caplog):
    before, reasons = len(read_vqa(folder)), spoil(folder)
    data = read_vqa(folder)
    assert data.skipped == reasons
    assert len(data) == before - len(reasons) + 1  # 7 is new
    assert "left out 11 of" in caplog.text and "2 x a box outside its image" in caplog.text
    with pytest.raises(InputError, match="record '11': no annotation; mend it"):
        read_vqa(folder, strict=True)


def test_question_without_an_answer_to_learn_is_refused_if_strict(folder):
    write(folder, "train2014", TRAIN, lambda _, rows: answered(rows[2], ["a bird"] * 10))
    with pytest.raises(InputError, match="'20': none of its answers is to be learnt; mend it"):
        read_vqa(folder, strict=True)


def test_files_that_are_none_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="expected v2_OpenEnded_mscoco_train2014_questions.json"):
        read_vqa(tmp_path)
    annotations = folder / "v2_mscoco_val2014_annotations.json"
    annotations.write_text('{"annotations": [1]}')
    with pytest.raises(
        InputError, match="val2014_annotations.json: expected an object with a list"
    ):
        read_vqa(folder)
    annotations.write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        read_vqa(folder)
    annotations.unlink()
    with pytest.raises(InputError, match="one of annotations of val2014, got v2_OpenEnded"):
        read_vqa(folder)


SHORT = [
    *("--space", "encdec", "--space.encoder", "1", "--space.decoder", "2", "--recipe", "scenes"),
    *("--space.channels", "8", "--space.head", "8", "--strategy", "random", "--label-ratio", "1"),
    *("--strategy.trials", "1", "--strategy.train.epochs", "1", "--pretrain.epochs", "1"),
    *("--finetune.epochs", "1", "--finetune.min-steps", "1", "--prepare.length", "4"),
]


def ssnas(capsys, *arguments):
    with pytest.raises(SystemExit, match="0"):
        main([str(one) for one in (*arguments, "--json", "--quiet")])
    return json.loads(capsys.readouterr().out)


def test_run_from_the_command_line_answers_questions(folder, tmp_path, capsys):
    run = tmp_path / "run"
    scores = ssnas(capsys, "run", "--data", f"vqa:{folder}", "--out", run, *SHORT)["scores"]
    assert all({"vqa_accuracy", "accuracy"} <= row.keys() for row in scores)
    regions = read_vqa(folder).records[0].inputs["regions"]
    np.save(tmp_path / "regions.npy", regions)
    given = ["--input", f"regions={tmp_path / 'regions.npy'}", "--text", "What colour is it?"]
    said = ssnas(capsys, "predict", "--run", run, "--method", "found", *given)["probabilities"]
    assert said.keys() == {"blue", "red", "yes"} and all(0 <= p <= 1 for p in said.values())


def test_run_answers_questions_about_the_grid_of_an_image(folder, tmp_path, capsys):
    shutil.rmtree(folder / "features")
    for picture in (*TRAIN, *VAL):
        pixels = np.full((8, 8, 3), 7 * (picture % 30), np.uint8)
        Image.fromarray(pixels).save(folder / f"COCO_{picture:012d}.png")
    assert read_vqa(folder).kinds == {"image": "image", "question": "text"}
    small = ["--prepare.image-size", "32", "32", "--space.boxes", "None"]
    given = ["--data", folder, "--out", tmp_path / "run"]
    scores = ssnas(capsys, "run", *given, *SHORT, *small)["scores"]
    assert any(row["method"] == "image only" for row in scores)
