"""Hostile HDF5 files in MM-IMDB's layout: links out, declared sizes, odd types, broken bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from making import Case, mangled

from ssnas_core.datasets.mmimdb import GENRES

ROWS = 6
SPANS = {"train": (0, 2), "dev": (2, 4), "test": (4, 6)}
FUEL = [("split", "S5"), ("source", "S12"), ("start", "i8"), ("stop", "i8"),
        ("indices", h5py.special_dtype(ref=h5py.Reference)),
        ("available", "?"), ("comment", "S1")]  # fmt: skip


def fuel(spans: dict[str, tuple[int, int]]) -> np.ndarray:
    rows = [(split.encode(), b"images", *span, h5py.Reference(), True, b".")
            for split, span in spans.items()]  # fmt: skip
    return np.array(rows, dtype=FUEL)


def build(file: h5py.File, leave: str = "") -> None:
    """The six-row file; `leave` names a field or attribute that is left out."""
    if leave != "images":
        file.create_dataset("images", (ROWS, 3, 256, 160), "i4", chunks=(1, 3, 256, 160),
                            compression="gzip", compression_opts=1, fillvalue=-30)  # fmt: skip
        file["images"][:2] = np.random.default_rng(0).integers(-90, 90, (2, 3, 256, 160)) // 30 * 30
    if leave != "features":
        file["features"] = np.ones((ROWS, 300), "f4")
    if leave != "genres":
        file["genres"] = np.eye(ROWS, 23, dtype="i4")
        file["genres"].attrs["target_names"] = json.dumps(GENRES)
    if leave != "imdb_ids":
        file["imdb_ids"] = np.array([f"{row:07d}" for row in range(ROWS)], "S7")
    if leave != "split":
        file.attrs["split"] = fuel(SPANS)


def case(leave: str, change: Callable[[h5py.File, Path, random.Random], Any]) -> Case:
    """The file without one part, and with what `change` puts there."""

    def made(folder: Path, rng: random.Random) -> Path:
        path = folder / "multimodal_imdb.hdf5"
        with h5py.File(path, "w") as file:
            build(file, leave)
            change(file, folder.parent / "outside", rng)
        return path

    return made


@cache
def whole() -> bytes:
    with h5py.File("whole", "w", driver="core", backing_store=False) as file:
        build(file)
        file.flush()
        return file.id.get_file_image()


def _other(outside: Path) -> str:
    """A whole file that lies outside."""
    path = outside / "other.hdf5"
    with h5py.File(path, "w") as file:
        build(file)
    return str(path)


def _link(file: h5py.File, outside: Path, rng: random.Random) -> None:
    name = rng.choice(("images", "features", "genres", "imdb_ids"))
    del file[name]
    file[name] = rng.choice(
        (
            h5py.ExternalLink(_other(outside), f"/{name}"),
            h5py.ExternalLink("/etc/passwd", "/"),
            h5py.SoftLink(f"/{name}"),
            h5py.SoftLink("/nowhere"),
            h5py.SoftLink("/"),
        )
    )


def _soft_to_external(file: h5py.File, outside: Path, rng: random.Random) -> None:
    file["hidden"] = h5py.ExternalLink(_other(outside), "/features")
    file["features"] = h5py.SoftLink("/hidden")


def _storage(file: h5py.File, outside: Path, rng: random.Random) -> None:
    """Features whose bytes lie in another file."""
    secret = outside / "secret.bin"
    secret.write_bytes(bytes(ROWS * 300 * 4))
    file.create_dataset("features", (ROWS, 300), "f4", external=[(str(secret), 0, 7200)])


def _virtual(file: h5py.File, outside: Path, rng: random.Random) -> None:
    layout = h5py.VirtualLayout((ROWS, 300), "f4")
    layout[:] = h5py.VirtualSource(_other(outside), "features", (ROWS, 300))
    file.create_virtual_dataset("features", layout)


SHAPES: dict[str, tuple[int, ...]] = {
    "images": (3, 256, 160), "features": (300,), "genres": (23,), "imdb_ids": ()
}  # fmt: skip


def _huge(rows: int) -> Callable[[h5py.File, Path, random.Random], None]:
    """All fields declare many rows, of which none is written."""

    def change(file: h5py.File, outside: Path, rng: random.Random) -> None:
        kinds = {"images": "i4", "features": "f8", "genres": "i8", "imdb_ids": "S7"}
        for name, shape in SHAPES.items():
            del file[name]
            file.create_dataset(name, (rows, *shape), kinds[name], chunks=(1, *shape))
        file.attrs["split"] = fuel({"train": (0, 2), "dev": (2, 4), "test": (4, rows)})

    return change


def _chunk(file: h5py.File, outside: Path, rng: random.Random) -> None:
    """Images in one chunk of three gigabytes, which one row unpacks."""
    for name in ("images", "features", "genres", "imdb_ids"):
        del file[name]
    rows = 6400
    shape = (rows, 3, 256, 160)
    images = file.create_dataset("images", shape, "i4", chunks=shape, compression="gzip")
    images.id.write_direct_chunk((0, 0, 0, 0), b"x\x9c" + bytes(100))
    file["features"] = np.ones((rows, 300), "f4")
    file["genres"] = np.ones((rows, 23), "i4")
    file["imdb_ids"] = np.array([f"{row:07d}" for row in range(rows)], "S7")
    file.attrs["split"] = fuel({"train": (0, 2), "dev": (2, 4), "test": (4, rows)})


def _wide_ids(file: h5py.File, outside: Path, rng: random.Random) -> None:
    file.create_dataset("imdb_ids", (ROWS,), f"S{200 * 10**6}", chunks=(1,))


def _same_id(file: h5py.File, outside: Path, rng: random.Random) -> None:
    """Strings of any length; thousands that all are the same ten megabytes."""
    _huge(2000)(file, outside, rng)
    del file["imdb_ids"]
    ids = file.create_dataset("imdb_ids", (2000,), h5py.string_dtype(), chunks=(2000,))
    ids[0] = b"x" * 10**7
    reference = ids.id.read_direct_chunk((0,))[1][:16]
    ids.id.write_direct_chunk((0,), reference * 2000)


def _types(file: h5py.File, outside: Path, rng: random.Random) -> None:
    name = rng.choice(sorted(SHAPES))
    kind: Any = rng.choice(
        ("f2", "f4", "f8", "i1", "u8", "?", "c8", "S3", "S0", h5py.string_dtype(),
         h5py.vlen_dtype("i4"), h5py.ref_dtype, h5py.regionref_dtype, h5py.enum_dtype({"a": 1}),
         np.dtype([("a", "i4")]), np.dtype(("i4", (2,))), ">f4", h5py.opaque_dtype("M8[s]"))
    )  # fmt: skip
    if kind == "S0":
        kind = "S1"
    del file[name]
    file.create_dataset(name, (ROWS, *SHAPES[name]), kind)


def _numbers(file: h5py.File, outside: Path, rng: random.Random) -> None:
    name = rng.choice(("features", "genres", "images"))
    value = rng.choice((np.nan, np.inf, -1, 1e30, 2**31 - 1))
    row = rng.randrange(ROWS)
    if name == "features":
        file[name][row, 3] = value
    else:
        file[name][row, 0] = value if np.isfinite(value) and abs(value) < 2**31 else 7


def _ids(file: h5py.File, outside: Path, rng: random.Random) -> None:
    odd = rng.choice((b"", b"\xff\xfe", b"a\nb", b"\x1b[2J", b"../../x", b" ", b"0000001", b"\0a"))
    values = [f"{row:07d}".encode() for row in range(ROWS)]
    values[rng.randrange(ROWS)] = odd
    file["imdb_ids"] = np.array(values, "S9")


def _names(file: h5py.File, outside: Path, rng: random.Random) -> None:
    odd: Any = rng.choice(
        ("[" * 100_0, "null", "{}", json.dumps([*GENRES[:-1], "\ud800"]), b"\xff", 5, np.nan,
         json.dumps(["a\nb"] * 23), h5py.Empty("f4"), np.zeros((50, 50)), "x" * 60_000,
         [*GENRES[1:], "\x1b"])
    )  # fmt: skip
    file["genres"].attrs["target_names"] = odd


def _split(file: h5py.File, outside: Path, rng: random.Random) -> None:
    odd: Any = rng.choice(
        (
            *(fuel(SPANS | {"test": span}) for span in ((4, 7), (-1, 6), (6, 4), (0, 6), (4, 4))),
            *(fuel(SPANS | {"test": (4, 2**62)}), fuel({"train": (0, 6)}), fuel({})),
            *(fuel(SPANS | {"test\n": (0, 1)}), "text", 5, h5py.Empty("f4"), np.zeros(3)),
            np.array([(b"train", 0)], [("split", "S5"), ("start", "i8")]),
            np.array([("a", 1)], [("split", h5py.string_dtype()), ("source", "i4")]),
        )
    )
    file.attrs["split"] = odd


def _deep(file: h5py.File, outside: Path, rng: random.Random) -> None:
    file["loop"] = file["/"]
    group = file.create_group("images")
    group["images"] = file["/"]


def _many_names(file: h5py.File, outside: Path, rng: random.Random) -> None:
    for number in range(3000):
        file.create_group(f"a\n\x1b{number}")


def _filter(file: h5py.File, outside: Path, rng: random.Random) -> None:
    """Features packed by a filter that nobody has."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((1, 300))
    made.set_filter(32_999, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    space = h5py.h5s.create_simple((ROWS, 300))
    data = h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, made)
    h5py.Dataset(data).id.write_direct_chunk((0, 0), b"x" * 40)


def _mangled(folder: Path, rng: random.Random) -> Path:
    path = folder / "multimodal_imdb.hdf5"
    data = bytearray(whole())
    for _ in range(rng.choice((1, 2, 8))):  # most of a file is pixels: aim at what is not
        zone = rng.choice(((0, 3000), (0, len(data)), (len(data) - 30_000, len(data))))
        place = rng.randrange(max(zone[0], 8), zone[1])
        data[place] = rng.choice((0, 1, 0xFF, data[place] ^ (1 << rng.randrange(8))))
    path.write_bytes(bytes(data) if rng.random() < 0.7 else mangled(bytes(data), rng))
    return path


CASES: dict[str, Case] = {
    "whole": case("", lambda *_: None),
    "links": case("", _link),
    "soft link to an external one": case("features", _soft_to_external),
    "external storage": case("features", _storage),
    "virtual": case("features", _virtual),
    "a million rows": case("", _huge(10**6)),
    "100,000 rows": case("", _huge(10**5)),
    "a trillion rows": case("", _huge(10**12)),
    "one huge chunk": case("", _chunk),
    "ids of 200 MB": case("imdb_ids", _wide_ids),
    "one id of 10 MB, 2000 times": case("", _same_id),
    "types": case("", _types),
    "numbers": case("", _numbers),
    "ids": case("imdb_ids", _ids),
    "names of genres": case("", _names),
    "split": case("split", _split),
    "recursive groups": case("images", _deep),
    "many odd names": case("features", _many_names),
    "unknown filter": case("features", _filter),
    "mangled": _mangled,
}
