"""Hostile forms of the files that runs leave behind: JSON, logs, arrays, tensors, checkpoints."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from making import ODD, dumps, mangled

Spoil = Callable[[Path, random.Random], None]
"""What is done to a file."""


def spots(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    found, todo = [], [document]
    while todo:
        part = todo.pop()
        keys = part.keys() if isinstance(part, dict) else range(len(part))
        for key in keys:
            found.append((part, key))
            if isinstance(part[key], dict | list):
                todo.append(part[key])
    return found


def odd(rng: random.Random) -> Any:
    """An odd value, one's own: what is made of it changes no other."""
    return json.loads(json.dumps(rng.choice(ODD)))


def odd_number(rng: random.Random) -> Any:
    return rng.choice((0, -1, 1, 2, 7, 10**6, 10**9, 10**12, 2**63, 10**40, 0.5, 1e-300, 1e300))


def edited(document: Any, rng: random.Random) -> Any:
    """The document with something in it exchanged, dropped, doubled, renamed or added."""
    places = spots(document) if isinstance(document, dict | list) else []
    if not places or rng.random() < 0.03:
        return odd(rng)
    part, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind < 3:
        part[key] = odd(rng)
    elif kind == 3:
        part[key] = odd_number(rng)
    elif kind == 4:
        del part[key]
    elif kind == 5:
        other, its = rng.choice(places)
        part[key] = json.loads(json.dumps(other.get(its) if isinstance(other, dict) else None))
    elif isinstance(part, dict):
        name = rng.choice([one for one in ODD if isinstance(one, str)])
        part[name] = part[key] if kind == 6 else part.pop(key)
    else:
        part[key:key] = [part[key]] * rng.choice((1, 3, 1000))
    return document


def edit(path: Path, rng: random.Random) -> None:
    """One to three faults in a JSON document, or in one line of a log of such."""
    lines = path.suffix == ".jsonl"
    texts = path.read_text().splitlines() if lines else [path.read_text()]
    if not texts:
        return
    number = rng.randrange(len(texts))
    document = json.loads(texts[number])
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        document = edited(document, rng)
    texts[number] = dumps(document).decode()
    path.write_text("\n".join(texts) + "\n")


def mangle(path: Path, rng: random.Random) -> None:
    path.write_bytes(mangled(path.read_bytes(), rng))


def _text(make: Callable[[], bytes]) -> Spoil:
    return lambda path, rng: path.write_bytes(make()) and None


def _gone(path: Path, rng: random.Random) -> None:
    path.unlink()


def _folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _loop(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _sparse(path: Path, rng: random.Random) -> None:
    """The file's beginning, and then holes for a gigabyte."""
    with open(path, "rb+") as file:
        file.truncate(10**9)


ANY: dict[str, Spoil] = {
    "no file": _gone,
    "an empty file": _text(bytes),
    "a folder": _folder,
    "a pipe": _pipe,
    "a device": _device,
    "a link to itself": _loop,
    "holes": _sparse,
    "other bytes": mangle,
}
JSON: dict[str, Spoil] = {
    "edited": edit,
    "100 MB of text": _text(lambda: b'{"a": "' + b"x" * 10**8 + b'"}'),
    "30 MB of lists": _text(lambda: b"[" + b"[]," * 10**7 + b"0]"),
    "30 MB of short names": _text(
        lambda: b"{" + b",".join(b'"%d":{}' % n for n in range(2 * 10**6)) + b"}"
    ),
    "nested deeply": _text(lambda: b"[" * 10**6 + b"]" * 10**6),
    "nested as deep as can be read": _text(lambda: b'{"a":' * 900 + b"1" + b"}" * 900),
    "a number of a million digits": _text(lambda: b"1" * 10**6),
    "no UTF-8": _text(lambda: b'{"a": "\xff\xfe"}'),
    "half a surrogate": _text(lambda: b'{"format": 1, "space": "\\ud800", "nodes": []}'),
}


# --- arrays


def npy(header: bytes, version: int = 1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes((version, 0)) + size + header


def _shaped(shape: str, kind: str = "'<f2'") -> Callable[[], bytes]:
    told = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}\n"
    return lambda: npy(told.encode()) + bytes(64)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Canary()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros(10**6))
    return buffer.getvalue()


class _Canary:
    """Unpickled, it leaves a trace."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("../outside/pwned",)


ARRAYS: dict[str, Spoil] = {
    "a huge shape": _text(_shaped("(1000000000000, 3, 16, 32)")),
    "a shape that overflows": _text(_shaped("(4611686018427387904, 8)")),
    "a negative shape": _text(_shaped("(-1, 3)")),
    "a shape of no numbers": _text(_shaped("('a', True)")),
    "no rows": _text(_shaped("(0, 3)")),
    "numbers of another kind": _text(_shaped("(2, 2)", "'>f8'")),
    "texts": _text(_shaped("(2, 2)", "'<U2'")),
    "fields": _text(_shaped("(2,)", "[('a', '<f4'), ('b', '|O')]")),
    "a kind that does not exist": _text(_shaped("(2, 2)", "'<q99'")),
    "dates": _text(_shaped("(2,)", "'<M8[ns]'")),
    "objects": _text(_pickled),
    "an archive of arrays": _text(_npz),
    "a pickle": _text(lambda: pickle.dumps(_Canary())),
    "a header that calls": _text(lambda: npy(b"__import__('os').mkdir('x')\n")),
    "a header that is nested": _text(lambda: npy(b"(" * 5000)),
    "a header of open brackets": _text(lambda: npy(b"{'descr': (((\n")),
    "a header of indents": _text(lambda: npy(b"  a\n b\n   c\n'''")),
    "a header of gigabytes": _text(lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"),
    "a header with a NUL": _text(lambda: npy(b"{'descr'\0}")),
}


# --- tensors


def _safe(header: Any, body: bytes = b"") -> bytes:
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(told)) + told + body


def _tensor(kind: str = "F32", shape: Any = (2,), ends: Any = (0, 8), body: int = 8) -> Spoil:
    made = {"head.weight": {"dtype": kind, "shape": shape, "data_offsets": ends}}
    return _text(lambda: _safe(made, bytes(body)))


def _renamed(path: Path, rng: random.Random) -> None:
    """A valid file whose tensors have other names, kinds or shapes."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    for _ in range(rng.choice((1, 2))):
        name = rng.choice(sorted(tensors))
        value = tensors[name]
        kind = rng.randrange(6)
        if kind == 0:
            del tensors[name]
        elif kind == 1:
            tensors[rng.choice(("", "a", "../../x", name + "x", "\0"))] = value.clone()
        elif kind == 2:
            tensors[name] = value.to(rng.choice((torch.int8, torch.float64, torch.bool))).clone()
        elif kind == 3:
            tensors[name] = value.flatten()[: value.numel() // 2].clone()
        elif kind == 4 and value.is_floating_point():
            tensors[name] = torch.full_like(value, rng.choice((float("nan"), float("inf"), 1e38)))
        else:
            tensors[name] = torch.zeros((*value.shape, 2), dtype=value.dtype)
    save_file(tensors, path)


TENSORS: dict[str, Spoil] = {
    "other tensors": _renamed,
    "a header of terabytes": _text(lambda: struct.pack("<Q", 10**13) + b"{}"),
    "a header of all bits": _text(lambda: b"\xff" * 8 + b"{}"),
    "tensors of terabytes": _tensor(shape=(10**12,), ends=(0, 4 * 10**12)),
    "a shape that overflows": _tensor(shape=(2**62, 2**62)),
    "a negative shape": _tensor(shape=(-2,)),
    "offsets that turn back": _tensor(ends=(8, 0)),
    "no dimensions of nothing": _tensor(shape=(0, 2**62), ends=(0, 0), body=0),
    "a kind that torch lacks": _tensor("F4", shape=(16,)),
    "a kind that nobody has": _tensor("X9"),
    "eight bits": _tensor("F8_E4M3", shape=(8,)),
    "a header that is a list": _text(lambda: _safe([])),
    "metadata that is none": _text(lambda: _safe({"__metadata__": {"a": 1}})),
    "a header nested deeply": _text(lambda: _safe(b'{"a":' * 100_000 + b"}" * 100_000)),
    "90 MB of header": _text(lambda: _safe(b'{"a": "' + b"x" * 90_000_000 + b'"}')),
    "a million tensors": _text(
        lambda: _safe(
            {str(n): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)}
        )
    ),
}


# --- checkpoints of torch.save


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _pickle_inside(path: Path, rng: random.Random) -> None:
    members = _members(path)
    data = next(name for name in members if name.endswith("data.pkl"))
    _zipped(path, {**members, data: pickle.dumps(_Canary())})


def _packed(path: Path, rng: random.Random) -> None:
    members = _members(path)
    biggest = max(members, key=lambda name: len(members[name]))
    _zipped(path, {**members, biggest: bytes(6 * 10**8)}, zipfile.ZIP_DEFLATED)


def _overlapping(path: Path, rng: random.Random) -> None:
    """Each entry of the directory says that it is the largest member."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        big = max(archive.infolist(), key=lambda one: one.file_size)
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        struct.pack_into("<II", data, place + 20, big.compress_size, big.file_size)
        struct.pack_into("<I", data, place + 42, big.header_offset)
        place = data.find(b"PK\x01\x02", place + 4)
    path.write_bytes(data)


def _flipped_weight(path: Path, rng: random.Random) -> None:
    """One bit in the largest member's data, which torch itself reads without a word."""
    with zipfile.ZipFile(path) as archive:
        big = max(archive.infolist(), key=lambda one: one.file_size)
        content = archive.read(big)
    data = bytearray(path.read_bytes())
    place = bytes(data).find(content) + rng.randrange(len(content))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _saved(change: Callable[[Any, random.Random], Any]) -> Spoil:
    """A file that torch.save wrote, of something changed."""

    def spoil(path: Path, rng: random.Random) -> None:
        torch.save(change(torch.load(path, weights_only=True), rng), path)

    return spoil


def _other_states(saved: Any, rng: random.Random) -> Any:
    """Odd values, keys and tensors anywhere in the nested dicts and lists of a checkpoint."""
    odd = [one for one in ODD if one != "\ud800" and not isinstance(one, list)] + [
        torch.zeros(()), torch.zeros(2, 2), torch.zeros(1).expand(10**6, 10**6), torch.zeros(0),
        torch.full((3,), float("nan")), torch.zeros(1, dtype=torch.complex64), [],
    ]  # fmt: skip
    for _ in range(rng.choice((1, 1, 3))):
        places = spots(saved)
        part, key = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0:
            del part[key]
        elif kind == 1 and isinstance(part, dict):
            part[rng.choice((0, "a", "../../x", None))] = part[key]
        elif kind == 2 and isinstance(part[key], torch.Tensor):
            part[key] = torch.zeros((*part[key].shape, 2))
        else:
            part[key] = rng.choice(odd)
        if not isinstance(saved, dict) or not saved:
            return saved
    return saved


def _other_history(saved: Any, rng: random.Random) -> Any:
    if isinstance(saved, dict) and "history" in saved:
        history = json.loads(saved["history"])
        saved["history"] = json.dumps(edited(history, rng))
        return saved
    return _other_states(saved, rng)


def _legacy(path: Path, rng: random.Random) -> None:
    saved = torch.load(path, weights_only=True)
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    if rng.random() < 0.5:
        mangle(path, rng)


CHECKPOINTS: dict[str, Spoil] = {
    "a pickle that calls": lambda path, rng: path.write_bytes(pickle.dumps(_Canary())) and None,
    "a pickle that calls, zipped": _pickle_inside,
    "a zip bomb": _packed,
    "members on top of each other": _overlapping,
    "a flipped bit of a weight": _flipped_weight,
    "other states": _saved(_other_states),
    "another history": _saved(_other_history),
    "the format before zip": _legacy,
    "a list": _saved(lambda saved, rng: [saved]),
    "a whole module": lambda path, rng: torch.save(torch.nn.Linear(2, 2), path),
}

KINDS: dict[str, dict[str, Spoil]] = {
    ".json": JSON,
    ".jsonl": JSON,
    ".npy": ARRAYS,
    ".safetensors": TENSORS,
    ".pt": CHECKPOINTS,
}


def spoiled(source: Path, target: Path, names: list[str], rng: random.Random) -> str:
    """A copy of a folder with one of its files spoiled; its name and how."""
    shutil.copytree(source, target)
    name = rng.choice(names)
    path = target / name
    own = KINDS.get(path.suffix, {}) if path.stat().st_size else {}
    cases = ANY if not own or rng.random() < 0.25 else own
    if own is JSON and cases is JSON and rng.random() < 0.8:
        how = "edited"
    else:
        how = rng.choice(sorted(cases))
    cases[how](path, rng)
    return f"{name}: {how}"
