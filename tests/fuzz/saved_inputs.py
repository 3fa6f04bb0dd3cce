"""Hostile records of a run: `dataset.json` with one thing wrong, or broken bytes."""

from __future__ import annotations

import json
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

from making import ODD, Case, dumps, mangled, picture, writing

NAMES = ("name", "kinds", "classes", "skipped", "single_label", "task", "records")


def told(folder: Path) -> dict[str, Any]:
    (folder / "m.jpeg").write_bytes(picture())
    records = [
        {
            "id": f"m{number}",
            "inputs": {"image": str(folder / "m.jpeg"), "text": "a ship"},
            "labels": ["War"],
            "split": split,
        }
        for number, split in enumerate(("train", "dev", "test"))
    ]
    kinds = {"image": "image", "text": "text"}
    return dict(
        zip(NAMES, ("movies", kinds, ["War"], {}, False, "classification", records), strict=True)
    )


def _field(folder: Path, rng: random.Random) -> Path:
    """One field of the file, of a record, or of a record's inputs is odd or missing."""
    whole, odd = told(folder), rng.choice(ODD)
    place = rng.choice((whole, whole["records"][1], whole["records"][1]["inputs"], whole["kinds"]))
    name = rng.choice(sorted(place))
    if rng.random() < 0.2:
        del place[name]
    else:
        place[name] = odd if rng.random() < 0.7 else [odd]
    return writing("dataset.json", dumps(whole))(folder, rng)


def _mangled(folder: Path, rng: random.Random) -> Path:
    return writing("dataset.json", mangled(json.dumps(told(folder)).encode(), rng))(folder, rng)


def _odd(folder: Path, rng: random.Random) -> Path:
    return writing("dataset.json", dumps(rng.choice(ODD)))(folder, rng)


def _image(folder: Path, rng: random.Random) -> Path:
    """An image that is none, or could be read for ever."""
    whole = told(folder)
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    odd = rng.choice(("/dev/zero", "/dev/stdin", "pipe", "loop", "", ".", "a\0b", "y" * 5000))
    whole["records"][1]["inputs"]["image"] = odd if odd[:1] == "/" else f"{folder}/{odd}"
    return writing("dataset.json", dumps(whole))(folder, rng)


CASES: dict[str, Case] = {
    "whole": lambda folder, rng: writing("dataset.json", dumps(told(folder)))(folder, rng),
    "field": _field,
    "image": _image,
    "mangled": _mangled,
    "odd": _odd,
    "100 MB of lists": partial(writing, "dataset.json")(
        lambda: b'{"records":[' + b"[]," * 33_000_000 + b"[]]}"
    ),
    "nested": writing("dataset.json", b"[" * 10**6),
}
