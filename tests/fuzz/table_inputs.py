"""Hostile tables: encodings, quotes, paths, cells of any size, odd headers."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from making import Case, mangled, picture

HEAD = b"id,image,text,labels,split\n"
ROWS = [
    b"m%d,m.jpeg,a ship %d,%s,%s\n" % (k, k, (b"War", b"Drama|War")[k % 2], part)
    for k, part in enumerate((b"train", b"train", b"dev", b"dev", b"test", b"test"))
]
WHOLE = HEAD + b"".join(ROWS)


def table(data: bytes | Callable[[], bytes]) -> Case:
    def case(folder: Path, rng: random.Random) -> Path:
        (folder / "m.jpeg").write_bytes(picture())
        path = folder / "movies.csv"
        path.write_bytes(data if isinstance(data, bytes) else data())
        return path

    return case


CELLS = (
    *(b"", b'"', b'""', b"=1+1", b"=cmd|' /C calc'!A0", b"\0", b"a\0b", b"\xff", b"\xc3\xa9"),
    *(b'"a\nb"', b'"a\r\nb"', b"\x1b[2J", b"x" * 130_000, b"x" * 140_000, b"'", b"|", b";|;"),
    *(b"/etc/passwd", b"../outside/canary.txt", b"..\\outside\\canary.txt", b"C:\\x", b"//x/y"),
    *(b"a/../../m.jpeg", b"./m.jpeg", b".", b"m.jpeg/", b"m.jpeg/x", b"y" * 300, b"loop", b"pipe"),
    *(b"\xef\xbb\xbf", b"\xed\xa0\x80", b"nan", b"1e999", "\u202eexe".encode(), b"\r", b"\x85"),
)


def _cell(folder: Path, rng: random.Random) -> Path:
    """One cell of one row, or of the header, is odd."""
    lines = [HEAD, *ROWS]
    number = rng.randrange(len(lines))
    cells = lines[number].rstrip(b"\n").split(b",")
    cells[rng.randrange(len(cells))] = rng.choice(CELLS)
    lines[number] = b",".join(cells) + b"\n"
    path = table(b"".join(lines))(folder, rng)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    return path


def _mangled(folder: Path, rng: random.Random) -> Path:
    return table(mangled(WHOLE, rng))(folder, rng)


def _encoded(folder: Path, rng: random.Random) -> Path:
    kind = rng.choice(("utf-8-sig", "utf-16", "utf-32", "latin-1", "cp037", "utf-7"))
    return table(WHOLE.decode().replace("ship", "schéma").encode(kind))(folder, rng)


def _rows(count: int, make: Callable[[int], bytes], head: bytes = HEAD) -> Case:
    return table(lambda: head + b"".join(map(make, range(count))))


def _columns(folder: Path, rng: random.Random) -> Path:
    heads = (
        *(b"", b"\n", b",,,,\n", b"id,image,text,labels,split,split\n", b"image,text,labels\n"),
        *(b"id,image_a,image_a,labels,split\n", b"id,image_,text,labels,split\n"),
        *(b"id,image_\xc3\xa9,text_1,labels,split\n", b"image,image,text,text,labels\n"),
        *(b'id,"im\nage",text,labels,split\n', b"id,image_type,text_keys,labels,split\n"),
        *(b'"id",image,"text_a\nb",labels,"text_a b"\n', b"x" * 100_000 + b",image,text,genres\n"),
        b",".join(b"text_%d" % k for k in range(5000)) + b",labels\n",
    )
    return table(rng.choice(heads) + b"".join(ROWS))(folder, rng)


def _sparse(size: int) -> Case:
    """A file of zeros that is only declared."""

    def case(folder: Path, rng: random.Random) -> Path:
        path = table(WHOLE)(folder, rng)
        os.truncate(path, size)
        return path

    return case


CASES: dict[str, Case] = {
    "whole": table(WHOLE),
    "cells": _cell,
    "columns": _columns,
    "encodings": _encoded,
    "mangled": _mangled,
    "zeros to 1 GB": _sparse(10**9),
    "zeros to 10 GB": _sparse(10**10),
    "one cell of 300 MB": table(lambda: HEAD + b"m,m.jpeg," + b"x" * (3 * 10**8)),
    "one quoted cell of 300 MB": table(lambda: HEAD + b'm,m.jpeg,"' + b"x\n" * (15 * 10**7)),
    "300 MB of commas": table(lambda: HEAD + b"," * (3 * 10**8)),
    "2 million empty rows": table(lambda: HEAD + b"\n" * 2_000_000),
    "2 million short rows": table(lambda: WHOLE + b"a,b\n" * 2_000_000),
    "200,000 rows": _rows(200_000, lambda k: b"%d,m.jpeg,a,%s,train\n" % (k, b"ab"[k % 2 :])),
    "3,000 rows, 1000 labels, no split": _rows(
        3_000, lambda k: b"m.jpeg,a,%d\n" % (k % 1000), b"image,text,labels\n"
    ),
    "50,000 classes": _rows(50_000, lambda k: b"%d,m.jpeg,a,c%d,train\n" % (k, k)),
    "one label": _rows(50, lambda k: b"%d,m.jpeg,a,c,train\n" % k),
}
