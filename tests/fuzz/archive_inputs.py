"""Hostile MM-IMDB archives: what a tar header can say, what gzip can hide, and broken bytes."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

from making import Case, any_of, dumps, gzip_of_zeros, mangled, movies, picture, writing

ZEROS = 100  # MB in one gzip member of a bomb


def block(name: bytes, kind: bytes = b"0", size: int | bytes = 0, magic: bytes = b"") -> bytes:
    """A tar header; a size of bytes goes in as it is."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    head = name.ljust(100, b"\0")[:100] + b"0000644\0" + b"0000000\0" * 2 + field[:12]
    head += b"00000000000\0" + b" " * 8 + kind + bytes(100) + (magic or b"ustar\x0000")
    head = head.ljust(512, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def base256(size: int) -> bytes:
    """A size of more than eleven octal digits, or below zero."""
    lead = b"\x80" if size >= 0 else b"\xff"
    return lead + (size % 256**11).to_bytes(11, "big")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: str, data: bytes) -> bytes:
    return block(f"mmimdb/{name}".encode(), size=len(data)) + padded(data)


def pax(records: dict[str, str], kind: bytes = b"x") -> bytes:
    """A pax header of these records."""
    body = b""
    for key, value in records.items():
        text = f" {key}={value}\n".encode("utf-8", "surrogateescape")
        length = len(text) + 1
        while len(str(length)) + len(text) != length:
            length += 1
        body += str(length).encode() + text
    return block(b"pax", kind, len(body)) + padded(body)


def tar(files: dict[str, bytes] | None = None) -> bytes:
    """The members of a whole small archive, without its end."""
    return b"".join(member(*one) for one in (movies() if files is None else files).items())


def packed(*parts: bytes, end: bytes = bytes(1024)) -> Case:
    return writing("movies.tar.gz", lambda: gzip.compress(b"".join(parts) + end, 1))


def around(make: Callable[[], bytes]) -> list[Case]:
    """A piece before, amid, and after good members."""
    whole = tar()
    half = len(member("split.json", movies()["split.json"]))
    return [
        writing("movies.tar.gz", lambda: gzip.compress(make() + whole + bytes(1024), 1)),
        writing(
            "movies.tar.gz",
            lambda: gzip.compress(whole[:half] + make() + whole[half:] + bytes(1024), 1),
        ),
        writing("movies.tar.gz", lambda: gzip.compress(whole + make() + bytes(1024), 1)),
    ]


NAMES = (
    *(b"/mmimdb/dataset/m00.json", b"../x", b"mmimdb/../../outside/x", b"mmimdb/dataset/../x"),
    *(b"..\\..\\x", b"C:\\x", b"\\x", b"mmimdb/dataset/m00.json\0x", b"mmimdb/dataset/.json"),
    *(b"mmimdb/dataset/M00.json", b"mmimdb/dataset/m00.JSON", b"mmimdb/unpacked.json", b""),
    *(b"mmimdb/dataset", b"mmimdb/dataset/", b"mmimdb/dataset/m00.json/x", b"mmimdb/split.json/"),
    *(b"\xff\xfe\xed\xa0\x80", b"mmimdb/\n\x1b[2J", b"a" * 100, b"./mmimdb/./dataset/m00.json"),
)
PAX = (
    {"path": "../../outside/x"},
    {"path": "mmimdb/dataset/m00.json\0x"},
    {"path": "a/" * 40_000},
    {"path": "\udcff\udcfe"},
    {"linkpath": "/etc/passwd"},
    *({"size": size} for size in ("-1", "0", "nan", "1e9", str(8 * 2**40), "9" * 4999, "")),
    *({"mtime": time} for time in ("nan", "inf", "-1e400", "x")),
    {"hdrcharset": "BINARY"},
    *(
        {"GNU.sparse.major": major, "GNU.sparse.minor": "0", "GNU.sparse.realsize": real}
        for major, real in (("1", str(8 * 2**40)), ("1", "-5"), ("0", "x"), ("1", "10"))
    ),
    {"GNU.sparse.map": "0,1,2", "GNU.sparse.size": str(2**50)},
    {"GNU.sparse.map": ",".join("19" * 2000), "GNU.sparse.numblocks": "-3"},
    {"GNU.sparse.name": "../../x", "GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
)


def sparse(real: int, end: bytes = b"\0") -> bytes:
    """An old GNU sparse member that claims `real` bytes and holds 512."""
    head = bytearray(block(b"mmimdb/dataset/m00.jpeg", b"S", 512, b"ustar  \0"))
    head[386 : 386 + 24] = b"%011o\0" % 0 + b"%011o\0" % 512
    head[482:483] = end
    head[483:495] = base256(real)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(512)


def long_name(size: int) -> bytes:
    return block(b"././@LongLink", b"L", size)


def bomb(folder: Path, head: bytes, megabytes: int) -> Path:
    """An archive in whose middle stand megabytes of zeros that cost a thousandth."""
    path = folder / "movies.tar.gz"
    zeros = gzip_of_zeros(ZEROS) * (megabytes // ZEROS)
    path.write_bytes(gzip.compress(tar() + head, 1) + zeros + gzip.compress(bytes(1024)))
    return path


def many_posters(folder: Path, rng: random.Random) -> Path:
    """Fifty members, each of the largest size that is unpacked, all zeros."""
    path = folder / "movies.tar.gz"
    with open(path, "wb") as file:
        file.write(gzip.compress(tar(), 1))
        for number in range(50):
            name = f"mmimdb/dataset/z{number}.jpeg".encode()
            zeros = gzip_of_zeros(47)
            file.write(gzip.compress(block(name, size=47 << 20), 1) + zeros)
        file.write(gzip.compress(bytes(1024)))
    return path


def _sparse_posters(folder: Path, rng: random.Random) -> Path:
    parts = [
        sparse(49 * 10**6).replace(b"m00.jpeg", b"%03d.jpeg" % number) for number in range(100)
    ]
    fixed = []
    for part in parts:
        head = bytearray(part[:512])
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        fixed.append(bytes(head) + part[512:])
    return packed(tar(), *fixed)(folder, rng)


def _record(data: bytes) -> Case:
    return packed(tar(movies() | {"dataset/m04.json": data}))


def _mangled_tar(folder: Path, rng: random.Random) -> Path:
    path = folder / "movies.tar.gz"
    path.write_bytes(gzip.compress(mangled(tar() + bytes(1024), rng), 1))
    return path


def _mangled_header(folder: Path, rng: random.Random) -> Path:
    """A header changed in one field, its checksum mended."""
    whole = bytearray(tar())
    places = [k for k in range(0, len(whole), 512) if whole[k : k + 6] == b"mmimdb"]
    place = rng.choice(places)
    for _ in range(rng.choice((1, 1, 3))):
        whole[place + rng.randrange(500)] = rng.choice((0, 0x20, 0x30, 0x78, 0x80, 0xFF, 0x4C))
    head = whole[place : place + 512]
    head[148:156] = b" " * 8
    whole[place + 148 : place + 156] = b"%06o\0 " % sum(head)
    path = folder / "movies.tar.gz"
    path.write_bytes(gzip.compress(bytes(whole) + bytes(1024), 1))
    return path


def _mangled_gzip(folder: Path, rng: random.Random) -> Path:
    path = folder / "movies.tar.gz"
    path.write_bytes(mangled(gzip.compress(tar() + bytes(1024), 1, mtime=0), rng))
    return path


def _other(mode: str, name: str) -> Case:
    def make() -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
            for title, data in movies().items():
                info = tarfile.TarInfo(f"mmimdb/{title}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    return writing(name, make)


CASES: dict[str, Case] = {
    "whole": packed(tar()),
    "no end": packed(tar(), end=b""),
    "empty": writing("movies.tar.gz", b""),
    "html": writing("movies.tar.gz", b"<html><body>404</body></html>"),
    "gzip of nothing": writing("movies.tar.gz", gzip.compress(b"")),
    "gzip of html": writing("movies.tar.gz", gzip.compress(b"<html>" * 100)),
    "gzip in gzip": writing("movies.tar.gz", gzip.compress(gzip.compress(tar()))),
    "zip": writing("movies.tar.gz", b"PK\3\4" + bytes(100)),
    "xz": _other("w:xz", "movies.tar.gz"),
    "plain tar": any_of([_other("w", "movies.tar.gz"), _other("w", "movies.tar")]),
    "twice": packed(tar(), bytes(1024), tar()),
    "garbage behind": packed(tar(), bytes(1024), b"x" * 999),
    "names": lambda folder, rng: any_of(
        around(lambda: block(rng.choice(NAMES), size=2) + padded(b"{}"))
    )(folder, rng),
    "types": lambda folder, rng: any_of(
        around(lambda: block(b"mmimdb/dataset/m00.json", rng.choice(b"1234567ZSDMNV\0").to_bytes()))
    )(folder, rng),
    "pax": lambda folder, rng: any_of(
        around(
            lambda: (
                pax(rng.choice(PAX), rng.choice((b"x", b"x", b"g", b"X")))
                + member("dataset/m00.json", b"{}")
            )
        )
    )(folder, rng),
    "pax of no length": any_of(
        [
            packed(tar(), block(b"p", b"x", len(body)) + padded(body) + block(b"a"))
            for body in (b"0 a=b\n", b"-5 a=b\n", b"9" * 400 + b" a=b\n", b"6 a=b", b"99 a=b\n")
        ]
    ),
    "odd sizes": lambda folder, rng: any_of(
        around(
            lambda: block(
                b"mmimdb/dataset/m00.jpeg",
                size=rng.choice(
                    (base256(2**43), base256(-1), base256(-512), base256(2**80), b"x" * 12)
                    + (b"-0000000001\0", b"77777777777\0", bytes(12))
                ),
            )
        )
    )(folder, rng),
    "negative long name": packed(tar(), block(b"././@LongLink", b"L", base256(-1024)), tar()),
    "sparse of terabytes": packed(tar(), sparse(2**43)),
    "sparse of 49 MB": packed(tar(), sparse(49 * 10**6)),
    "sparse below zero": packed(tar(), sparse(-5)),
    "sparse without end": packed(tar(), sparse(1000, b"\1"), *[b"\xff" * 512] * 50),
    "many sparse posters": _sparse_posters,
    "many posters of zeros": many_posters,
    "long name of a gigabyte": lambda folder, rng: bomb(folder, long_name(10**9), 1000),
    "pax of a gigabyte": lambda folder, rng: bomb(folder, block(b"p", b"x", 10**9), 1000),
    "member of three gigabytes": lambda folder, rng: bomb(
        folder, block(b"mmimdb/other", size=3 * 10**9), 3000
    ),
    "zeros behind the end": lambda folder, rng: bomb(folder, bytes(1024), 3000),
    "chained long names": packed(tar(), (long_name(2) + padded(b"a\0")) * 5000, tar()),
    "chained pax": packed(tar(), pax({"path": "a"}) * 5000, tar()),
    "many members": packed(tar(), b"".join(block(b"x%d" % k) for k in range(50_000))),
    "record of 9 MB of lists": _record(b"[" + b"[]," * 3_200_000 + b"[]]"),
    "record with a plot of 9 MB": _record(dumps({"plot": "x" * 9_900_000, "genres": ["War"]})),
    "record of 11 MB": _record(dumps({"plot": "x" * 11_000_000, "genres": ["War"]})),
    "split of 9 MB of lists": packed(
        tar(movies() | {"split.json": b'{"train":[' + b"[]," * 3_200_000 + b"[]]}"})
    ),
    "split of 11 MB": packed(tar(movies() | {"split.json": dumps({"train": ["x" * 11_000_000]})})),
    "poster that is an archive": packed(
        tar(movies() | {"dataset/m01.jpeg": gzip.compress(picture())})
    ),
    "mangled tar": _mangled_tar,
    "mangled header": _mangled_header,
    "mangled gzip": _mangled_gzip,
}
