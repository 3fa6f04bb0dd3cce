"""Generated scenes: regions with boxes, and texts about them that only some of them fit.

A scene is 4 to 8 shapes of 6 colours and 2 sizes that do not touch, on 100 x 100 pixels. What
a detector would give is given: of each shape what it is, and its box. Nothing here is drawn as
pixels. There are three tasks on such scenes, each with texts of kinds that ask for more and more
of an architecture.

Questions (`read_scenes`), whose answer is one word:

- attribute: "what colour is the large circle", where there is one; words find a region;
- count: "how many red shapes are there"; words find several;
- nearest: "what colour is the shape nearest to the red square"; words find a region, and
  where it lies finds another. All answers but one are as well described, so that without boxes
  this cannot be told.

Phrases (`read_phrases`), which mean one region:

- named: "the large red circle";
- nearest: "the shape nearest to the red square";
- left: "the circle left of the red square", where another circle lies right of it. Relations of
  MMnas's kind hold distances alone, so to them both are as good.

Captions (`read_captions`), which say something of their own scene:

- what: "a large red circle, a small blue square and a small grey circle";
- where: "a blue square nearest to the red circle, a red square nearest to the grey triangle".
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.records import Dataset, Record

SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow", "purple", "grey")
SIZES = {"small": 10, "large": 20}  # sides, in pixels
NUMBERS = ("none", "one", "two", "three", "four")
KINDS = ("attribute", "count", "nearest")
PHRASES = ("named", "nearest", "left")
CAPTIONS = ("what", "where")
SIDE = 100  # of a scene, in pixels
REGIONS = 16  # rows of a scene's array; those after its shapes are 0
CLEARER = 1.3  # the second nearest shape is at least so many times as far away as the nearest
ASIDE = 5  # pixels by which a shape is at least left or right of another, centre to centre

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
    records = _records(scenes, "question", {k: _QUESTIONS[k] for k in _known(kinds, KINDS)}, seed)
    classes = (
        *(COLOURS if set(kinds) != {"count"} else ()),
        *(NUMBERS if "count" in kinds else ()),
    )
    given = {"regions": "array", "question": "text"}
    return Dataset("scenes", given, classes, records, single_label=True)


def read_phrases(scenes: int = 3000, *, kinds: Sequence[str] = PHRASES, seed: int = 0) -> Dataset:
    """Return phrases about generated scenes, one of each kind for each scene: visual grounding.

    Modalities: `regions`, as `read_scenes` has them, and `phrase`. The label is the region that is
    meant, its row as a text, "0" to "15". As shapes do not touch, no other region overlaps it.

    Args:
        scenes, kinds, seed: as for `read_scenes`, kinds of phrase.

    Raises:
        InputError: as `read_scenes`.
    """
    records = _records(scenes, "phrase", {k: _PHRASES[k] for k in _known(kinds, PHRASES)}, seed)
    given = {"regions": "array", "phrase": "text"}
    rows = tuple(str(row) for row in range(REGIONS))
    return Dataset("scenes:grounding", given, rows, records, single_label=True, task="grounding")


def read_captions(scenes: int = 1000, *, kinds: Sequence[str] = CAPTIONS, seed: int = 0) -> Dataset:
    """Return captions of generated scenes, one of each kind for each scene: matching.

    Modalities: `regions`, as `read_scenes` has them, and `caption`. The label is the scene, by
    number. A caption may be true of another scene by chance.

    Args:
        scenes, kinds, seed: as for `read_scenes`, kinds of caption.

    Raises:
        InputError: as `read_scenes`.
    """
    records = _records(scenes, "caption", {k: _CAPTIONS[k] for k in _known(kinds, CAPTIONS)}, seed)
    records = tuple(replace(one, labels=(one.id.partition("-")[0],)) for one in records)
    given = {"regions": "array", "caption": "text"}
    names = tuple(dict.fromkeys(one.labels[0] for one in records if one.labels))
    return Dataset("scenes:captions", given, names, records, single_label=True, task="matching")


def kind_of(record_id: str) -> str:
    """Return which kind of text a record of scenes has."""
    return record_id.rpartition("-")[2]


def _known(kinds: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    if not kinds or not set(kinds) <= set(known):
        raise InputError(f"expected kinds among {', '.join(known)}, got {list(kinds)}.")
    return kinds


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


_Says = Callable[[Sequence[_Shape], random.Random], tuple[str, str] | None]
"""What is said of a scene, a text and its label; None where nothing of the kind can be."""


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


def _records(scenes: int, text: str, kinds: Mapping[str, _Says], seed: int) -> tuple[Record, ...]:
    """Return records of scenes of which each kind of text can be said; `text` is its modality."""
    if scenes < 10 or seed < 0:
        raise InputError(
            f"expected at least 10 scenes and a seed >= 0, got {scenes} and {seed}; give more."
        )
    rng = random.Random(seed)
    ends = np.cumsum([*_SHARES.values()]) * scenes
    records = []
    for number in range(scenes):
        split = next(s for s, end in zip(_SHARES, ends, strict=True) if number < round(end))
        while True:
            shapes = _scene(rng)
            said = {kind: says(shapes, rng) for kind, says in kinds.items()}
            if all(said.values()):
                break
        regions = _regions(shapes)
        for kind, (words, label) in said.items():  # type: ignore[misc]  # none is None
            inputs = {"regions": regions, text: words}
            records.append(Record(f"{number:05d}-{kind}", inputs, (label,), split))
    return tuple(records)


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
    for one, near in _neighbours(shapes, rng):
        return f"what colour is the shape nearest to the {one.colour} {one.shape}", near.colour
    return None


def _neighbours(shapes: Sequence[_Shape], rng: random.Random) -> Iterator[tuple[_Shape, _Shape]]:
    """Yield each shape that is the only one of its form and colour, and the one nearest to it.

    In random order; the second nearest is clearly farther away.
    """
    for one in _unique(shapes, rng):
        others = [other for other in shapes if other is not one]
        others.sort(key=lambda other: math.dist((one.x, one.y), (other.x, other.y)))
        near, next_ = (math.dist((one.x, one.y), (other.x, other.y)) for other in others[:2])
        if next_ >= CLEARER * near:
            yield one, others[0]


def _unique(shapes: Sequence[_Shape], rng: random.Random) -> Iterator[_Shape]:
    """Yield each shape that is the only one of its form and colour, in random order."""
    for one in rng.sample(shapes, len(shapes)):
        if sum((s.shape, s.colour) == (one.shape, one.colour) for s in shapes) == 1:
            yield one


_QUESTIONS: dict[str, _Says] = {"attribute": _attribute, "count": _count, "nearest": _nearest}


def _named_phrase(shapes: Sequence[_Shape], rng: random.Random) -> tuple[str, str] | None:
    """Mean the one shape of a form, a colour and a size."""
    for one in rng.sample(shapes, len(shapes)):
        if sum(_named(s) == _named(one) for s in shapes) == 1:
            return f"the {one.size} {one.colour} {one.shape}", _row_of(one, shapes)
    return None


def _nearest_phrase(shapes: Sequence[_Shape], rng: random.Random) -> tuple[str, str] | None:
    """Mean the shape nearest to the one of a form and a colour."""
    for one, near in _neighbours(shapes, rng):
        return f"the shape nearest to the {one.colour} {one.shape}", _row_of(near, shapes)
    return None


def _left_phrase(shapes: Sequence[_Shape], rng: random.Random) -> tuple[str, str] | None:
    """Mean the one shape of a form that is left of another, while one of its form is right."""
    for one in _unique(shapes, rng):
        for form in rng.sample(SHAPES, len(SHAPES)):
            others = [s for s in shapes if s.shape == form and s is not one]
            left = [s for s in others if s.x < one.x]
            clear = all(abs(s.x - one.x) >= ASIDE for s in others)
            if clear and len(left) == 1 and len(others) > 1:
                phrase = f"the {form} left of the {one.colour} {one.shape}"
                return phrase, _row_of(left[0], shapes)
    return None


def _row_of(one: _Shape, shapes: Sequence[_Shape]) -> str:
    return str(next(row for row, other in enumerate(shapes) if other is one))


def _what_caption(shapes: Sequence[_Shape], rng: random.Random) -> tuple[str, str] | None:
    """Name three of the shapes."""
    first, second, third = (f"a {s.size} {s.colour} {s.shape}" for s in rng.sample(shapes, 3))
    return f"{first}, {second} and {third}", ""


def _where_caption(shapes: Sequence[_Shape], rng: random.Random) -> tuple[str, str] | None:
    """Say of two shapes which one is nearest to them."""
    said = [
        f"a {near.colour} {near.shape} nearest to the {one.colour} {one.shape}"
        for one, near in _neighbours(shapes, rng)
    ]
    return (", ".join(said[:2]), "") if len(said) > 1 else None


_CAPTIONS: dict[str, _Says] = {"what": _what_caption, "where": _where_caption}

_PHRASES: dict[str, _Says] = {
    "named": _named_phrase,
    "nearest": _nearest_phrase,
    "left": _left_phrase,
}
