"""Hostile folders of MM-IMDB: odd JSON, links, pipes, and the note of an unpacked archive."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from making import ODD, Case, dumps, mangled, movies, write_folder

NAMES = [f"m{number:02d}" for number in range(9)]
SPLIT = {part: NAMES[k::3] for k, part in enumerate(("train", "dev", "test"))}


def _with(name: str, data: bytes) -> Case:
    return lambda folder, rng: write_folder(folder, movies() | {name: data})


def _odd_split(folder: Path, rng: random.Random) -> Path:
    odd = rng.choice(ODD)
    split: Any = rng.choice(
        (odd, SPLIT | {"train": odd}, SPLIT | {"dev": [odd, *SPLIT["dev"]]}, {"train": odd})
    )
    return write_folder(folder, movies() | {"split.json": dumps(split)})


def _odd_record(folder: Path, rng: random.Random) -> Path:
    good: dict[str, Any] = {"plot": ["ship"], "genres": ["War"]}
    field, odd = rng.choice(("plot", "genres", "other")), rng.choice(ODD)
    record = rng.choice(
        (odd, good | {field: odd}, good | {field: [odd]}, good | {field: ["a", odd]})
    )
    return write_folder(folder, movies() | {"dataset/m04.json": dumps(record)})


def _raw(rng: random.Random) -> bytes:
    return rng.choice(
        (
            *(b"", b"{", b"null", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\xff", b"[" * 100_000),
            *(b'{"plot":' * 100_000, b'{"plot": ' + b"9" * 5000 + b"}", b'{"plot":"\\ud800"}'),
            b'{"plot":"a","plot":5,"genres":["War"],"genres":[]}',
            *(b'{"plot":["a"],"genres":["War"]}\0', b'{"plot":"\0"}', b"-" * 1000, b"1e99999"),
        )
    )


def _raw_json(folder: Path, rng: random.Random) -> Path:
    name = rng.choice(("split.json", "dataset/m04.json", "unpacked.json"))
    return write_folder(folder, movies() | {name: _raw(rng)})


def _marker(folder: Path, rng: random.Random) -> Path:
    odd = rng.choice((*ODD, {"m00.json": "x"}, {"m00.json": None}, {"m00.jpeg": 10**400}))
    told = rng.choice((odd, {"done": odd}, {"done": True, "oversized": odd}))
    return write_folder(folder, movies() | {"unpacked.json": dumps(told)})


def _special(folder: Path, rng: random.Random) -> Path:
    """A file or folder that is a link, a pipe, or of the other kind."""
    root = write_folder(folder, movies())
    name = rng.choice(("split.json", "dataset/m04.json", "dataset/m04.jpeg", "dataset", "other"))
    path = root / name
    if name != "dataset" and path.exists():
        path.unlink()
    elif path.exists():
        path.rename(root / "moved")
    kind = rng.randrange(6)
    if kind == 0:
        path.symlink_to(path.name)  # to itself
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.symlink_to("nowhere")
    elif kind == 4:
        path.write_bytes(b"text")
    else:
        path.symlink_to("/dev/zero")
    return root


def _mangled(folder: Path, rng: random.Random) -> Path:
    files = movies()
    name = rng.choice(("split.json", "dataset/m04.json", "dataset/m04.jpeg"))
    return write_folder(folder, files | {name: mangled(files[name], rng)})


def _case_collision(folder: Path, rng: random.Random) -> Path:
    files = movies()
    return write_folder(folder, files | {"dataset/M04.json": b"{}", "dataset/m04.JPEG": b"x"})


CASES: dict[str, Case] = {
    "whole": lambda folder, rng: write_folder(folder, movies()),
    "odd split": _odd_split,
    "odd record": _odd_record,
    "raw JSON": _raw_json,
    "marker": _marker,
    "special files": _special,
    "case collision": _case_collision,
    "mangled": _mangled,
    "split of 100 MB of lists": _with("split.json", b"[" + b"[]," * 33_000_000 + b"[]]"),
    "split of 100 MB of one id": _with("split.json", b'{"train":["' + b"a" * 10**8 + b'"]}'),
    "record of 100 MB": _with("dataset/m04.json", b"[" + b"[]," * 33_000_000 + b"[]]"),
    "record of 9 MB of objects": _with("dataset/m04.json", b"[" + b"{}," * 3_200_000 + b"{}]"),
    "marker of 100 MB": _with("unpacked.json", b"[" + b"[]," * 33_000_000 + b"[]]"),
}
