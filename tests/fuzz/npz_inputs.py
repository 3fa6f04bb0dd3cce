"""Hostile .npz files: bombs, pickles, headers that lie, zips of something else."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from making import Case, mangled, writing

NAME = "owls.npz"
ROWS = 12


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "audio": rng.normal(size=(ROWS, 5)).astype(np.float32),
        "image": rng.integers(256, size=(ROWS, 8, 6, 3), dtype=np.uint8),
        "text": np.array([f"a ship {row}" for row in range(ROWS)]),
        "labels": np.arange(ROWS) % 3,
        "classes": np.array(["owl", "cat", "eel"]),
        "split": np.array(["train", "dev", "test"] * (ROWS // 3)),
        "ids": np.array([f"m{row}" for row in range(ROWS)]),
    }


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(text: str, body: bytes = b"", version: bytes = b"\1\0", length: int = -1) -> bytes:
    """A .npy whose header is any text."""
    data = text.encode()
    size = len(data) if length < 0 else length
    return (
        b"\x93NUMPY"
        + version
        + struct.pack("<H" if version == b"\1\0" else "<I", size)
        + (data + body)
    )


def declared(dtype: str = "<f4", shape: str = "(12, 5)", body: bytes = b"", **other: Any) -> bytes:
    form = other.pop("form", "{'descr': %s, 'fortran_order': False, 'shape': %s}")
    return header(form % (repr(dtype) if dtype[0] != "[" else dtype, shape), body, **other)


def zipped(members: dict[str, bytes], compress: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@cache
def whole(compress: int = zipfile.ZIP_DEFLATED) -> bytes:
    return zipped({f"{name}.npy": npy(array) for name, array in arrays().items()}, compress)


def with_(compress: int = zipfile.ZIP_DEFLATED, **members: Any) -> Callable[[], bytes]:
    """The file with some members changed or, by None, left out; arrays or the bytes of them."""

    def make() -> bytes:
        made = {f"{name}.npy": npy(array) for name, array in arrays().items()}
        for name, value in members.items():
            made.pop(f"{name}.npy", None)
            if value is not None:
                made[f"{name}.npy"] = value if isinstance(value, bytes) else npy(value)
        return zipped(made, compress)

    return make


def _case(make: Callable[[], bytes]) -> Case:
    return writing(NAME, make)


ODD = (
    *(("<f4", "(12, -5)"), ("<f4", "(-1,)"), ("<f4", "(12, 5, 0)"), ("<f4", "()"), ("<f4", "[12]")),
    *(("<f4", "(10**15, 5)"), ("<f4", "(2**62, 2**62)"), ("<f4", "(12, True)"), ("<U0", "(9,)")),
    *(("<U1", "(12, 5)"), ("<U2147483647", "(12,)"), ("|S5", "(12,)"), ("<c8", "(12,)")),
    *(("<M8[s]", "(12,)"), ("|V4", "(12, 5)"), ("|O", "(12,)"), (">f4", "(12, 5)"), ("x", "(12,)")),
    *(("[('a', '<f4')]", "(12, 5)"), ("[('a', '<f4', (10**9,))]", "(1,)"), ("<f4", "(" * 5000)),
    *(("<f4", "__import__('os')"), ("<f4", "(" + "9" * 5000 + ",)"), ("<f4", "(1e300,)")),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *(np.zeros(ROWS), np.full((ROWS, 5), np.nan), np.zeros((ROWS, 2, 2, 2)), np.array("x")),
    *(np.array([{}] * ROWS), np.array([None] * ROWS), np.zeros((ROWS, 3), complex)),
    *(np.array(["\ud800"] * ROWS), np.array(["\x1b[2J\n" * 50] * ROWS), np.zeros((ROWS + 1, 2))),
    *(np.array(["x" * 10_000] * ROWS), np.zeros((ROWS, 5000), np.uint8), np.arange(ROWS) / 2),
    *(np.array([[["a"]]] * ROWS), np.array(["1"] * ROWS), np.arange(ROWS) * 10**17, np.zeros(0)),
)


def _header(folder: Path, rng: random.Random) -> Path:
    dtype, shape = rng.choice(ODD)
    body = bytes(rng.choice((0, 240, 10_000)))
    name = rng.choice(("audio", "text", "labels", "ids"))
    return _case(with_(**{name: declared(dtype, shape, body)}))(folder, rng)


def _value(folder: Path, rng: random.Random) -> Path:
    name = rng.choice((*arrays(), "other", "keys", "late"))
    return _case(with_(**{name: rng.choice((None, *VALUES))}))(folder, rng)


def _named(folder: Path, rng: random.Random) -> Path:
    odd = (".npy", "../x.npy", "/x.npy", "a b.npy", "a\n.npy", "x" * 60_000 + ".npy", "a.txt")
    odd += ("\x1b[2J.npy", "audio.npy.npy", "é.npy", "audio.npy/", "\u200d.npy")
    return _case(
        lambda: zipped(
            {f"{name}.npy": npy(array) for name, array in arrays().items()}
            | {rng.choice(odd): npy(np.zeros((ROWS, 2)))}
        )
    )(folder, rng)


def _mangled(folder: Path, rng: random.Random) -> Path:
    data = mangled(whole(rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))), rng)
    return writing(NAME, data)(folder, rng)


def _mangled_header(folder: Path, rng: random.Random) -> Path:
    name = rng.choice([*arrays()])
    data = npy(arrays()[name])
    head = mangled(data[:128], rng)
    return _case(with_(**{name: head + data[128:]}))(folder, rng)


def _twice() -> bytes:
    buffer = io.BytesIO(whole())
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("audio.npy", npy(np.zeros((ROWS, 5))))
    return buffer.getvalue()


def _encrypted() -> bytes:
    """The flag of a password on every member."""
    data = bytearray(whole())
    place = 0
    while (place := data.find(b"PK\1\2", place)) >= 0:
        data[place + 8] |= 1
        place += 4
    return bytes(data)


def _overlapping() -> bytes:
    """A directory that names one large member a thousand times."""
    data = zipped({"labels.npy": npy(np.zeros((5000, 1000), np.uint8))})
    start = data.index(b"PK\1\2")
    entry, end = data[start : data.index(b"PK\5\6")], bytearray(data[data.index(b"PK\5\6") :])
    entries = b"".join(entry.replace(b"labels", b"a%05d" % number) for number in range(1000))
    end[8:10] = end[10:12] = struct.pack("<H", 1000)
    end[12:16] = struct.pack("<I", len(entries))
    return data[:start] + entries + bytes(end)


def _directory() -> bytes:
    """A directory of a million entries."""
    data = zipped({"a.npy": b""})
    start = data.index(b"PK\1\2")
    entry = data[start : data.index(b"PK\5\6")]
    count = 10**6
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count,
                      count * len(entry), start)  # fmt: skip
    end += struct.pack("<4sIQI", b"PK\6\7", 0, start + count * len(entry), 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return data[:start] + entry * count + end


def _zeros(megabytes: int, dtype: str = "|u1") -> bytes:
    size = megabytes << 20
    return declared(dtype, f"({ROWS}, {size // ROWS})", bytes(size // ROWS * ROWS))


CASES: dict[str, Case] = {
    "whole": _case(whole),
    "stored": _case(lambda: whole(zipfile.ZIP_STORED)),
    "lzma": _case(lambda: whole(zipfile.ZIP_LZMA)),
    "empty": writing(NAME, b""),
    "no members": writing(NAME, b"PK\5\6" + bytes(18)),
    "html": writing(NAME, b"<html><body>404</body></html>"),
    "npy": writing(NAME, npy(np.zeros((ROWS, 5)))),
    "headers": _header,
    "values": _value,
    "names": _named,
    "mangled": _mangled,
    "mangled header": _mangled_header,
    "pickle": _case(with_(text=np.array([{"a": print}] * ROWS))),
    "later version": _case(with_(audio=declared(version=b"\2\0", length=2**31))),
    "long header": _case(with_(audio=declared("<f4", "(12, 5)" + " " * 60_000))),
    "text beyond Unicode": _case(with_(text=declared("<U1", f"({ROWS},)", b"\xff" * 4 * ROWS))),
    "twice": _case(_twice),
    "encrypted": _case(_encrypted),
    "overlapping": _case(_overlapping),
    "directory of a million": _case(_directory),
    "zeros of a gigabyte": _case(with_(audio=None, text=_zeros(1000))),
    "zeros of 60 MB": _case(with_(text=_zeros(60))),
    "a million samples": _case(
        lambda: zipped({f"{n}.npy": npy(np.zeros((10**6, 1), np.uint8)) for n in ("a", "b")})
    ),
    "150,000 samples": _case(
        lambda: zipped(
            {f"{n}.npy": npy(np.zeros((150_000, 1), np.uint8)) for n in ("a", "b")}
            | {"labels.npy": npy(np.arange(150_000) % 2)}
        )
    ),
    "many modalities": _case(
        lambda: zipped({f"a{n}.npy": npy(np.zeros((10_000, 1), np.uint8)) for n in range(1000)})
    ),
    "a class for each": _case(
        lambda: zipped(
            {f"{n}.npy": npy(np.zeros((100_000, 1), np.uint8)) for n in ("a", "b")}
            | {"labels.npy": npy(np.arange(100_000))}
        )
    ),
    "classes by the million": _case(with_(labels=np.zeros((ROWS, 10**6), np.uint8), classes=None)),
    "a split for each": _case(
        lambda: zipped(
            {f"{n}.npy": npy(np.zeros((100_000, 1), np.uint8)) for n in ("a", "b")}
            | {"labels.npy": npy(np.arange(100_000) % 2)}
            | {"split.npy": npy(np.arange(100_000).astype(str))}
        )
    ),
}
