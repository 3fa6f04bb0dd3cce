"""Generated scenes: regions with boxes, and a question that only some of them answer.

A scene is 4 to 8 shapes of 6 colours and 2 sizes that do not touch, on 100 x 100 pixels. What
a detector would give is given: of each shape what it is, and its box. Three kinds of question
ask for more and more of an architecture:

- attribute: "what colour is the large circle", where there is one; words find a region;
- count: "how many red shapes are there"; words find several;
- nearest: "what colour is the shape nearest to the red square"; words find a region, and
  where it lies finds another. All answers but one are as well described, so that without boxes
  this cannot be told.

The answer is one word. Nothing here is drawn as pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import Dataset, Record

SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow", "purple", "grey")
SIZES = {"small": 10, "large": 20}  # sides, in pixels
NUMBERS = ("none", "one", "two", "three", "four")
KINDS = ("attribute", "count", "nearest")
SIDE = 100  # of a scene, in pixels
REGIONS = 16  # rows of a scene's array; those after its shapes are 0
CLEARER = 1.3  # the second nearest shape is at least so many times as far away as the nearest

_SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
_SHAPES_IN = (4, 8)


def read_scenes(scenes: int = 3000, *, kinds: Sequence[str] = KINDS, seed: int = 0) -> Dataset:
    """Return questions about generated scenes, one of each kind for each scene.

    Modalities: `regions`, (16, 15) float32, of which the last four columns are the box, x1, y1,
    x2, y2 in pixels, and the others say shape, colour and size as 0 and 1; and `question`. A
    scene and its questions are in one split: train 70 %, dev 10 %, test 20 % of the scenes.

    Args:
        scenes: how many, >= 10.
        kinds: of question.
        seed: of all chance.

    Raises:
        InputError: too few scenes, or kinds that are none.
    """
    if scenes < 10 or not kinds or not set(kinds) <= set(KINDS) or seed < 0:
        raise InputError(
            f"expected at least 10 scenes, kinds among {', '.join(KINDS)} and a seed >= 0, got "
            f"{scenes}, {list(kinds)} and {seed}."
        )
    rng = random.Random(seed)
    ends = np.cumsum([*_SHARES.values()]) * scenes
    records = []
    for number in range(scenes):
        split = next(s for s, end in zip(_SHARES, ends, strict=True) if number < round(end))
        regions, asked = _asked(kinds, rng)
        for kind, (question, answer) in asked.items():
            inputs = {"regions": regions, "question": question}
            records.append(Record(f"{number:05d}-{kind}", inputs, (answer,), split))
    classes = (
        *(COLOURS if set(kinds) != {"count"} else ()),
        *(NUMBERS if "count" in kinds else ()),
    )
    given = {"regions": "array", "question": "text"}
    return Dataset("scenes", given, classes, tuple(records), single_label=True)


def kind_of(record_id: str) -> str:
    """Return which kind of question a record of `read_scenes` asks."""
    return record_id.rpartition("-")[2]


@dataclass(frozen=True)
class _Shape:
    """A shape: what it is, and its centre in pixels."""

    shape: str
    colour: str
    size: str
    x: int
    y: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2, both corner pixels within."""
        side = SIZES[self.size]
        left, top = self.x - side / 2, self.y - side / 2
        return (left, top, left + side - 1, top + side - 1)

    def touches(self, other: _Shape) -> bool:
        """Whether there is no pixel between the boxes of two shapes."""
        apart = max(abs(self.x - other.x), abs(self.y - other.y))
        return apart <= (SIZES[self.size] + SIZES[other.size]) / 2


def _scene(rng: random.Random) -> list[_Shape]:
    count = rng.randint(*_SHAPES_IN)
    shapes: list[_Shape] = []
    while len(shapes) < count:
        size = rng.choice([*SIZES])
        half = SIZES[size] // 2
        x, y = (rng.randint(half, SIDE - half) for _ in range(2))
        one = _Shape(rng.choice(SHAPES), rng.choice(COLOURS), size, x, y)
        if not any(one.touches(other) for other in shapes):
            shapes.append(one)
    return shapes


def _asked(
    kinds: Sequence[str], rng: random.Random
) -> tuple[np.ndarray, dict[str, tuple[str, str]]]:
    """Return the regions of a scene that all kinds of question can be asked about, and these."""
    while True:
        shapes = _scene(rng)
        asked = {kind: _ASK[kind](shapes, rng) for kind in kinds}
        if all(asked.values()):
            return _regions(shapes), {kind: one for kind, one in asked.items() if one}


def _regions(shapes: Sequence[_Shape]) -> np.ndarray:
    rows = np.zeros((REGIONS, len(SHAPES) + len(COLOURS) + len(SIZES) + 4), np.float32)
    for row, one in zip(rows, shapes, strict=False):
        named = [name == own for names, own in _named(one) for name in names]
        row[:] = [*named, *one.box]
    return rows


def _named(one: _Shape) -> list[tuple[Sequence[str], str]]:
    return [(SHAPES, one.shape), (COLOURS, one.colour), ([*SIZES], one.size)]


def _attribute(shapes: Sequence[_Shape], rng: random.Random) -> tuple[str, str] | None:
    """Ask for the colour of the one shape of a form and a size."""
    for one in rng.sample(shapes, len(shapes)):
        if sum((s.shape, s.size) == (one.shape, one.size) for s in shapes) == 1:
            return f"what colour is the {one.size} {one.shape}", one.colour
    return None


def _count(shapes: Sequence[_Shape], rng: random.Random) -> tuple[str, str] | None:
    """Ask how many shapes have a colour."""
    colour = rng.choice(COLOURS)
    found = sum(one.colour == colour for one in shapes)
    if found >= len(NUMBERS):
        return None
    return f"how many {colour} shapes are there", NUMBERS[found]


def _nearest(shapes: Sequence[_Shape], rng: random.Random) -> tuple[str, str] | None:
    """Ask for the colour of the shape nearest to the one of a form and a colour."""
    for one in rng.sample(shapes, len(shapes)):
        if sum((s.shape, s.colour) == (one.shape, one.colour) for s in shapes) > 1:
            continue
        others = [other for other in shapes if other is not one]
        others.sort(key=lambda other: math.dist((one.x, one.y), (other.x, other.y)))
        near, next_ = (math.dist((one.x, one.y), (other.x, other.y)) for other in others[:2])
        if next_ >= CLEARER * near:
            asked = f"what colour is the shape nearest to the {one.colour} {one.shape}"
            return asked, others[0].colour
    return None


_ASK = {"attribute": _attribute, "count": _count, "nearest": _nearest}
