"""Hostile files of word vectors: counts, dimensions, lines, bombs, broken bytes."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

from making import Case, any_of, gzip_of_zeros, mangled, writing

WORDS = "ship robot queen war love city".split()
TEXT = "".join(f"{word} {k} {k + 0.5} -{k}.25\n" for k, word in enumerate(WORDS)).encode()
BINARY = b"6 3\n" + b"".join(
    word.encode() + b" " + struct.pack("<3f", k, k + 0.5, -k) + b"\n"
    for k, word in enumerate(WORDS)
)
ENDS = (".txt", ".vec", ".bin", ".txt.gz", ".bin.gz", ".csv", "", ".gz")


def _packed(name: str, data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0) if name.endswith(".gz") else data


def _mangled(folder: Path, rng: random.Random) -> Path:
    name = f"words{rng.choice(ENDS[:5])}"
    data = BINARY if ".bin" in name else rng.choice((TEXT, b"6 3\n" + TEXT))
    made = _packed(name, mangled(data, rng))
    return writing(name, mangled(made, rng) if rng.random() < 0.3 else made)(folder, rng)


HEADS = (
    *(b"", b"\n", b"6\n", b"6 3 1\n", b"0 3\n", b"6 0\n", b"-6 3\n", b"6 -3\n", b"1e3 3\n"),
    *(b"999999999999 3\n", b"6 10001\n", b"6 9999\n", b"9" * 5000 + b" 3\n", b"\xff\xfe 3\n"),
    *(b"6 3", b" 6  3 \r\n", b"\xef\xbb\xbf6 3\n", "٣ ٣\n".encode(), b"6 3\0\n", b"x" * 2_000_000),
)
LINES = (
    *(b"ship 1 2 nan\n", b"ship inf 1 2\n", b"ship 1e999 1 2\n", b"ship 1 2\n", b"ship 1 2 3 4\n"),
    *(b"ship 1 2 x\n", b"ship 1_0 2 3\n", b"ship 0x1 2 3\n", b"ship\t1\t2\t3\n", b"\xff 1 2 3\n"),
    *(b" 1 2 3\n", b"ship  1  2  3\n", b"\0 1 2 3\n", b"a b ship 1 2 3\n", b"ship 1 2 3\r\n"),
    *(b"ship 1 2 3", b"ship " + b"9" * 400 + b" 2 3\n", b"x" * 2_000_000, b"ship" * 300_000),
    b"ship 1 2 " + b"\0" * 100 + b"\n",
)


def _head(folder: Path, rng: random.Random) -> Path:
    name = f"words{rng.choice(ENDS)}"
    rest = BINARY[4:] if ".bin" in name else TEXT
    return writing(name, _packed(name, rng.choice(HEADS) + rest))(folder, rng)


def _line(folder: Path, rng: random.Random) -> Path:
    lines = [TEXT, rng.choice(LINES), TEXT]
    rng.shuffle(lines)
    return writing("words.txt", b"".join(lines))(folder, rng)


def _special(folder: Path, rng: random.Random) -> Path:
    path = folder / "words.txt"
    kind = rng.randrange(3)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(path.name)
    else:
        path.symlink_to("/dev/null")
    return path


CASES: dict[str, Case] = {
    "whole": any_of(
        [
            *(writing(name, TEXT) for name in ("words.txt", "words.vec")),
            *(writing("words.bin", BINARY), writing("words.bin.gz", gzip.compress(BINARY))),
        ]
    ),
    "mangled": _mangled,
    "head": _head,
    "line": _line,
    "special": _special,
    "gzip of zeros": writing("words.txt.gz", lambda: gzip.compress(TEXT) + gzip_of_zeros(3000)),
    "gzip of blank lines": writing(
        "words.txt.gz", lambda: gzip.compress(TEXT) + gzip.compress(b"\n" * 10**8) * 30
    ),
    "gzip of one line again": writing(
        "words.txt.gz", lambda: gzip.compress(b"zzz 1 2 3\n" * 5 * 10**6) * 30
    ),
    "gzip of binary zeros": writing(
        "words.bin.gz", lambda: gzip.compress(b"999999999 3\n") + gzip_of_zeros(3000)
    ),
    "long words": writing("words.bin", b"9 3\n" + b"x" * 3_000_000),
    "no space": writing("words.txt", b"x" * 3_000_000),
}
