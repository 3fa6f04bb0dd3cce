"""What several makers of hostile inputs share: odd values, mangled bytes, a small data set."""

from __future__ import annotations

import io
import json
import random
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

Case = Callable[[Path, random.Random], Path]

INTERESTING = (b"\0", b"\xff", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff" * 8, b"../")
_NESTED: Any = []
for _ in range(900):  # json can still read and write it
    _NESTED = [_NESTED]
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 5, 10**30, 10**4000, -1e308, float("nan"), float("inf")),
    *("", " ", "a", "\ud800", "a\0b", "a\nb", "\x1b[2J", "x" * 100_000, "../../x", "é" * 300),
    *([], {}, [[]], [None], ["a", 1], {"a": {}}, [1] * 1000, {"train": ["a"]}, _NESTED),
)


def mangled(data: bytes, rng: random.Random) -> bytes:
    """The data with one to four faults: flips, cuts, splices, repeats, runs of odd bytes."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not made:
            break
        kind, place = rng.randrange(6), rng.randrange(len(made))
        if kind == 0:
            made[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del made[place:]
        elif kind == 2:
            del made[place : place + rng.randrange(1, 64)]
        elif kind == 3:
            piece = rng.choice(INTERESTING)
            made[place : place + len(piece)] = piece
        elif kind == 4:
            other = rng.randrange(len(made))
            made[place:place] = made[other : other + rng.randrange(1, 256)]
        else:
            made[place] = rng.randrange(256)
    return bytes(made)


def dumps(value: Any) -> bytes:
    """JSON, also of what Python's own reader refuses: NaN and lone surrogates."""
    return json.dumps(value).encode()


@cache
def picture(form: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (12, 16)) -> bytes:
    """A small image file."""
    from PIL import Image

    pixels = random.Random(0).randbytes(size[0] * size[1] * 3)
    image = Image.frombytes("RGB", size, pixels).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def movies(count: int = 9) -> dict[str, bytes]:
    """MM-IMDB's layout in small: path under mmimdb/ -> bytes; a third in each split."""
    names = [f"m{number:02d}" for number in range(count)]
    split = {part: names[k::3] for k, part in enumerate(("train", "dev", "test"))}
    made = {"split.json": dumps(split)}
    for number, name in enumerate(names):
        genres = ["Drama", "War"][: 1 + number % 2]
        made[f"dataset/{name}.json"] = dumps({"plot": [f"ship {name}"], "genres": genres})
        made[f"dataset/{name}.jpeg"] = picture()
    return made


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """The files under `folder`/movies."""
    root = folder / "movies"
    (root / "dataset").mkdir(parents=True)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


@cache
def gzip_of_zeros(megabytes: int) -> bytes:
    """A gzip member of zeros, a thousandth of their size; members may be joined."""
    block = bytes(1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


def writing(name: str, data: bytes | Callable[[], bytes]) -> Case:
    """A case that is one file of these bytes."""

    def case(folder: Path, rng: random.Random) -> Path:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data())
        return path

    return case


def any_of(cases: Sequence[Case]) -> Case:
    """One of several cases, drawn."""
    return lambda folder, rng: rng.choice(cases)(folder, rng)
