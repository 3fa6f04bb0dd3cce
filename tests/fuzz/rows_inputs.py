"""Hostile tables that are no CSV: JSON lines, Parquet, Arrow."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet
from making import ODD, Case, dumps, mangled, picture

SPLITS = ("train", "train", "dev", "dev", "test", "test")
ROWS: list[dict[str, Any]] = [
    {
        "id": f"m{k}",
        "image": "m.jpeg",
        "text": f"a ship {k}",
        "labels": ["War"] if k % 2 else ["Drama", "War"],
        "split": part,
    }
    for k, part in enumerate(SPLITS)
]


def _lines(folder: Path, rows: list[Any]) -> Path:
    (folder / "m.jpeg").write_bytes(picture())
    path = folder / "movies.jsonl"
    path.write_bytes(b"\n".join(map(dumps, rows)))
    return path


def _odd(folder: Path, rng: random.Random) -> Path:
    """One cell of one row, or one row, is odd."""
    rows: list[Any] = [dict(row) for row in ROWS]
    number = rng.randrange(len(rows))
    if rng.random() < 0.2:
        rows[number] = rng.choice(ODD)
    else:
        rows[number][rng.choice([*ROWS[0], "more"])] = rng.choice(ODD)
    return _lines(folder, rows)


def _labels(folder: Path, rng: random.Random) -> Path:
    """All labels are of an odd form."""
    forms: tuple[Any, ...] = (
        *("[" * 5000, "[" * 90_000 + "]" * 90_000, "{'a': " * 500, "['a' 'b']", "[1e999]", "[[]]"),
        *(
            "{" * 60 + "}" * 60,
            "('a',) * 10**9",
            "[" + "'a'," * 20_000 + "]",
            "\0,\0",
            "a" * 99_999,
        ),
        *("{'name': {}}", "[{}]", "[None]", "[True, False]", ",".join("abc" * 9000), "|" * 9000),
        *(["a", "a\ud800"], {"name": "x"}, [{"name": 3}], 3.5, [0, 1, 1], [[0], [1]], True),
    )
    kept = rng.choice(forms)
    return _lines(folder, [{**row, "labels": kept if k % 3 else "b"} for k, row in enumerate(ROWS)])


def _table() -> Any:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    columns["image"] = [{"bytes": picture(), "path": None} for _ in ROWS]
    names = {"_type": "ClassLabel", "names": ["a", "b"]}
    noted = json.dumps({"info": {"features": {"label": names}}})
    return arrow.table(columns).replace_schema_metadata({"huggingface": noted})


def _written(folder: Path, table: Any, stream: bool | None = None) -> Path:
    path = folder / ("movies.parquet" if stream is None else "movies.arrow")
    if stream is None:
        pyarrow.parquet.write_table(table, path, row_group_size=4)
        return path
    opened = arrow.ipc.new_stream if stream else arrow.ipc.new_file
    with arrow.OSFile(str(path), "wb") as sink, opened(sink, table.schema) as out:
        out.write_table(table)
    return path


def _whole(stream: bool | None) -> Case:
    return lambda folder, rng: _written(folder, _table(), stream)


def _mangled(stream: bool | None) -> Case:
    def case(folder: Path, rng: random.Random) -> Path:
        path = _written(folder, _table(), stream)
        path.write_bytes(mangled(path.read_bytes(), rng))
        return path

    return case


def _images(folder: Path, rng: random.Random) -> Path:
    """Images are odd bytes, or paths, or of a structure without any."""
    odd = [b"", b"\xff\xd8", picture()[:100], None, b"x" * 10**6, picture()]
    table = _table().drop_columns("image")
    kinds = (
        arrow.array([rng.choice(odd) for _ in ROWS], arrow.binary()),
        arrow.array([{"bytes": rng.choice(odd), "path": "/etc/passwd"} for _ in ROWS]),
        arrow.array([{"path": "../../x"} for _ in ROWS]),
        arrow.array([["m.jpeg"] for _ in ROWS]),
        arrow.array([{"bytes": [1, 2]} for _ in ROWS]),
        arrow.array(range(len(ROWS))),
    )
    return _written(
        folder, table.append_column("image", rng.choice(kinds)), rng.choice((None, True))
    )


def _features(folder: Path, rng: random.Random) -> Path:
    """What is noted of the columns is odd, and labels are numbers."""
    odd = rng.choice([*(one for one in ODD if one is not None), {"names": 3}, [{"names": ["a"]}]])
    try:
        noted = json.dumps({"info": {"features": {"labels": odd}}}).encode()
    except ValueError:
        noted = b"{"
    numbers = arrow.array([[rng.randrange(-2, 4)] for _ in ROWS])
    table = _table().drop_columns("labels").append_column("labels", numbers)
    return _written(folder, table.replace_schema_metadata({"huggingface": noted}), None)


def _bomb(folder: Path, rng: random.Random) -> Path:
    """A few bytes that stand for hundreds of gigabytes of text."""
    text = arrow.array(["x" * 10**6]).dictionary_encode()
    many = arrow.DictionaryArray.from_arrays(
        arrow.array([0] * 400_000, arrow.int32()), text.dictionary
    )
    table = arrow.table({"text": many, "labels": many})
    return _written(folder, table, rng.choice((None, False)))


CASES: dict[str, Case] = {
    "whole": _whole(None),
    "whole file of Arrow": _whole(False),
    "whole stream of Arrow": _whole(True),
    "odd": _odd,
    "labels": _labels,
    "images": _images,
    "features": _features,
    "mangled Parquet": _mangled(None),
    "mangled file of Arrow": _mangled(False),
    "mangled stream of Arrow": _mangled(True),
    "bomb of a dictionary": _bomb,
}
