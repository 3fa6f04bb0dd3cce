"""Hostile data sets of one image and one class each: IDX files, CIFAR's batches, folders."""

from __future__ import annotations

import gzip
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_inputs
from making import INTERESTING, Case, gzip_of_zeros, mangled, picture

# --- MNIST's four files

Files = dict[str, bytes]
COUNTS = {"train": 40, "t10k": 20}


def idx(kind: int, shape: tuple[int, ...], body: bytes) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", kind, *shape) + body


def digits() -> Files:
    """The files, not gzipped, by their names without an ending."""
    files = {}
    for part, count in COUNTS.items():
        pixels = random.Random(0).randbytes(count * 784)
        files[f"{part}-images-idx3-ubyte"] = idx(0x803, (count, 28, 28), pixels)
        labels = bytes(row % 10 for row in range(count))
        files[f"{part}-labels-idx1-ubyte"] = idx(0x801, (count,), labels)
    return files


def mnist(change: Callable[[Files, str, random.Random], Any], packed: bool = True) -> Case:
    """The files after a change to one of them; gzipped, or as they are."""

    def case(folder: Path, rng: random.Random) -> Path:
        files = digits()
        change(files, rng.choice(sorted(files)), rng)
        (root := folder / "digits").mkdir()
        for name, data in files.items():
            if packed and data[:2] != b"\x1f\x8b":
                (root / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (root / f"{name}{'.gz' if packed else ''}").write_bytes(data)
        return root

    return case


def _head(files: Files, name: str, rng: random.Random) -> None:
    """Another number in the header: of the form, the rows or the sides."""
    place = 4 * rng.randrange(4 if "images" in name else 2)
    number = rng.choice((0, 1, 2, 27, 29, 0x801, 0x803, 60_000, 2**31 - 1, 2**31, 2**32 - 1))
    files[name] = files[name][:place] + struct.pack(">I", number) + files[name][place + 4 :]


def _labels(files: Files, name: str, rng: random.Random) -> None:
    part = name.partition("-")[0]
    count = rng.choice((0, 1, COUNTS[part], COUNTS[part] + 1, 200_000))
    body = bytes(rng.choice((0, 9, 10, 255)) for _ in range(count))
    files[f"{part}-labels-idx1-ubyte"] = idx(0x801, (count,), body)


def _mangled(files: Files, name: str, rng: random.Random) -> None:
    files[name] = mangled(files[name], rng)


def _mangled_gzip(files: Files, name: str, rng: random.Random) -> None:
    files[name] = b"\x1f\x8b" + mangled(gzip.compress(files[name]), rng)[2:]


def _bomb(files: Files, name: str, rng: random.Random) -> None:
    """Zeros of a gigabyte behind the right header, or one that declares many."""
    declared = rng.choice((COUNTS[name.partition("-")[0]], 200_000, 1_300_000))
    head = files[name][:4] + struct.pack(">I", declared) + files[name][8:16]
    files[name] = gzip.compress(head) + gzip_of_zeros(1024)


MNIST: dict[str, Case] = {
    "whole": mnist(lambda *_: None),
    "whole, not gzipped": mnist(lambda *_: None, packed=False),
    "missing": mnist(lambda files, name, _: files.pop(name)),
    "empty": mnist(lambda files, name, _: files.update({name: b""})),
    "head": mnist(_head),
    "head, not gzipped": mnist(_head, packed=False),
    "labels": mnist(_labels),
    "mangled": mnist(_mangled),
    "mangled gzip": mnist(_mangled_gzip),
    "gzip of a gigabyte": mnist(_bomb),
}

# --- CIFAR's batches: without the published hash nothing of them may be read


class Runs:
    """Runs a program where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


BATCHES = {
    "cifar-10-batches-py": (
        *(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta",
    ),
    "cifar-100-python": ("train", "test", "meta"),
}  # fmt: skip


def cifar(make: Callable[[random.Random], bytes]) -> Case:
    """One or both of the folders, all files of them alike."""

    def case(folder: Path, rng: random.Random) -> Path:
        root = folder / "photographs"
        for name in rng.sample(sorted(BATCHES), rng.choice((1, 1, 2))):
            (root / name).mkdir(parents=True)
            for file in BATCHES[name]:
                (root / name / file).write_bytes(make(rng))
        return root

    return case


def batch() -> bytes:
    rows = {"data": bytes(3072), "labels": [3], "fine_labels": [3], "label_names": ["cat"]}
    return pickle.dumps(rows | {"fine_label_names": ["cat"]})


CIFAR: dict[str, Case] = {
    "another batch": cifar(lambda rng: batch()),
    "program": cifar(lambda rng: pickle.dumps(Runs())),
    "empty": cifar(lambda rng: b""),
    "odd bytes": cifar(lambda rng: rng.choice(INTERESTING) * rng.randrange(1, 100)),
    "mangled": cifar(lambda rng: mangled(batch(), rng)),
}

# --- images in folders of their classes

NAMES = ("cat", "dog", "train", "val", "test", "unlabelled", "\udcff", "a\nb", "\x1b[2J", "é" * 99)


def images(names: tuple[str, ...] = ("cat", "dog"), count: int = 6) -> Files:
    return {f"{name}/{row}.jpg": picture() for name in names for row in range(count)}


def photos(change: Callable[[Path, Files, random.Random], Any]) -> Case:
    """Folders of images after a change to the files, or to the folder that then holds them."""

    def case(folder: Path, rng: random.Random) -> Path:
        (root := folder / "photos").mkdir()
        files = images()
        change(root, files, rng)
        for name, data in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(path):
                path.write_bytes(data)
        return root

    return case


def _names(root: Path, files: Files, rng: random.Random) -> None:
    """Other names of folders, one in another or beside each other."""
    deep = rng.choice((1, 1, 2, 3))
    chosen = {"/".join(rng.choices(NAMES, k=deep)) for _ in range(4)}
    files.clear()
    files |= images(tuple(chosen), 3)


def _special(root: Path, files: Files, rng: random.Random) -> None:
    """What is no file: a pipe, a folder, a device, links that lead nowhere or round."""
    (root / "cat").mkdir()
    path = root / "cat" / "0.jpg"
    kind = rng.randrange(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to(("/dev/zero", "0.jpg", "nowhere")[kind - 2])
    (root / "cat" / "round").symlink_to(root, target_is_directory=True)


def _broken(root: Path, files: Files, rng: random.Random) -> None:
    files[rng.choice(sorted(files))] = rng.choice((b"", mangled(picture(), rng)))


def _large(root: Path, files: Files, rng: random.Random) -> None:
    files["cat/0.jpg"] = image_inputs.jpeg_of(65_500, 65_500)


IMAGES: dict[str, Case] = {
    "whole": photos(lambda *_: None),
    "names": photos(_names),
    "special files": photos(_special),
    "one class": photos(lambda _, files, rng: [files.pop(n) for n in [*files] if "dog" in n]),
    "empty class": photos(lambda root, files, rng: (root / "eel").mkdir()),
    "1,001 classes": photos(
        lambda _, files, rng: files.update({f"c{n}/0.jpg": picture() for n in range(1_001)})
    ),
    "JPEG of 65,500 squared": photos(_large),
    "mangled": photos(_broken),
}
