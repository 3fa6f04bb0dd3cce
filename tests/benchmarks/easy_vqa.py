"""easy-VQA as a table that every command reads: an image, a question, the answer as label.

    python tests/benchmarks/easy_vqa.py --folder easy_vqa
    PYTHONPATH=tests/benchmarks ssnas study --data easy_vqa/questions.csv \
        --recipe easy_vqa:RECIPE --methods core "image only" "text only" --decisive core \
        --label-ratio 0.01 0.05 0.1 0.3 1 --out runs/study-easy-vqa

Yes and no, nearly three quarters of the answers, need the image *and* the question: whether the
one shape is, or is not, what is asked for. A sum of what each says by itself cannot be right about
all of them, so this is real data in which late concatenation has to fail somewhere.

Writes so many of its questions, drawn without a pattern: those of a tenth of the training
images are dev, so that no image is in two parts; test is its own. The recipe neither
mirrors nor colours images, as questions ask for colours; and reads questions by their letters: its
words would go without English stop words, and "not" is one.
"""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from ssnas_core.features.augment import TextAugment
from ssnas_core.runs.recipes import RECIPES
from ssnas_core.training.loop import TrainConfig

_CLASSROOM = RECIPES["classroom"]
RECIPE = replace(
    _CLASSROOM,
    prepare=replace(
        _CLASSROOM.prepare,
        text="characters",
        image_size=(48, 48),
        views=2,
        augment=replace(RECIPES["av-mnist"].prepare.augment, text=TextAugment(drop=0.0)),
        image_training=TrainConfig(epochs=3, batch_size=128),
    ),
)
"""Sizes of "classroom", crops of "av-mnist"; a question is short, and no word of it can go."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """From where, and how much."""

    folder: Path
    """easy-VQA as released, train and test with questions.json and images each; the table,
    questions.csv, is written there."""
    questions: int = 10_000


def rows_of(folder: Path, count: int) -> list[dict[str, str]]:
    """So many questions as rows, of train and test alike."""
    rows = []
    for part in ("train", "test"):
        for question, answer, image in json.loads((folder / part / "questions.json").read_text()):
            split = "dev" if part == "train" and image % 10 == 0 else part
            path = f"{part}/images/{image}.png"
            rows.append({"image": path, "text": question, "label": answer, "split": split})
    return random.Random(0).sample(rows, count)


def main(options: Options) -> None:
    """Write the table."""
    rows = rows_of(options.folder, options.questions)
    table = options.folder / "questions.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} questions in {table}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
