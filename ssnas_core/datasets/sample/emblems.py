"""Silhouettes of the generated sample's posters: the part that takes depth to read.

Each emblem has two or three drawings, so that a shape and not a template is to
be learned. They are drawn in units of the emblem's height: x to the right of
its middle, y upwards from its foot.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

Point = tuple[float, float]
Colour = tuple[int, int, int]


class Pen:
    """Draws on a PIL `ImageDraw` in the emblem's own units."""

    def __init__(
        self, draw: Any, foot: Point, height: float, ink: Colour, accent: Colour, flip: bool
    ) -> None:
        self.draw, self.foot, self.height = draw, foot, height
        self.ink, self.accent = ink, accent
        self.side = -1 if flip else 1

    def at(self, x: float, y: float) -> Point:
        """Return the pixel of a point in the emblem's units."""
        return self.foot[0] + self.side * x * self.height, self.foot[1] - y * self.height

    def poly(self, *points: Point, fill: Colour | None = None) -> None:
        """Fill a polygon."""
        self.draw.polygon([self.at(*point) for point in points], fill=fill or self.ink)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour | None = None) -> None:
        """Fill an ellipse about (x, y)."""
        (x0, y0), r, s = self.at(x, y), rx * self.height, ry * self.height
        self.draw.ellipse([x0 - r, y0 - s, x0 + r, y0 + s], fill=fill or self.ink)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, fill: Colour) -> None:
        """Draw the outline of an ellipse about (x, y)."""
        (x0, y0), r, s = self.at(x, y), rx * self.height, ry * self.height
        box = [x0 - r, y0 - s, x0 + r, y0 + s]
        self.draw.ellipse(box, outline=fill, width=max(1, round(width * self.height)))

    def line(self, *points: Point, width: float = 0.02, fill: Colour | None = None) -> None:
        """Draw a line through points."""
        wide = max(1, round(width * self.height))
        self.draw.line(
            [self.at(*point) for point in points], fill=fill or self.ink, width=wide, joint="curve"
        )

    def box(self, x: float, y: float, w: float, h: float, fill: Colour | None = None) -> None:
        """Fill a rectangle from its lower left corner."""
        self.poly((x, y), (x + w, y), (x + w, y + h), (x, y + h), fill=fill)


def person(pen: Pen, x: float, tall: float, *, dress: bool, hat: bool) -> None:
    """A standing figure `tall` units high, in a coat or a dress."""

    def put(points: Sequence[Point]) -> list[Point]:
        return [(x + px * tall, py * tall) for px, py in points]

    if dress:
        skirt = [(-0.05, 0.55), (-0.17, 0.0), (0.17, 0.0), (0.05, 0.55)]
        pen.poly(*put(skirt))
        pen.poly(*put([(-0.09, 0.82), (0.09, 0.82), (0.05, 0.5), (-0.05, 0.5)]))
        pen.oval(x, 0.91 * tall, 0.07 * tall, 0.085 * tall)
        pen.oval(x - 0.05 * tall, 0.86 * tall, 0.05 * tall, 0.09 * tall)
    else:
        pen.poly(*put([(-0.12, 0.82), (0.12, 0.82), (0.13, 0.34), (-0.13, 0.34)]))
        pen.poly(*put([(-0.11, 0.4), (-0.01, 0.4), (-0.03, 0.0), (-0.12, 0.0)]))
        pen.poly(*put([(0.01, 0.4), (0.11, 0.4), (0.12, 0.0), (0.03, 0.0)]))
        pen.oval(x, 0.91 * tall, 0.065 * tall, 0.08 * tall)
    if hat:
        pen.poly(*put([(-0.14, 0.94), (0.14, 0.94), (0.13, 0.965), (-0.13, 0.965)]))
        pen.poly(*put([(-0.075, 0.95), (0.075, 0.95), (0.06, 1.04), (-0.06, 1.04)]))


def heart(pen: Pen, x: float, y: float, r: float, fill: Colour) -> None:
    """A heart of radius `r` about (x, y)."""
    curve = []
    for step in range(40):
        t = step * math.tau / 40
        across = 16 * math.sin(t) ** 3
        up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        curve.append((x + r * across / 16, y + r * up / 16))
    pen.poly(*curve, fill=fill)


def couple(pen: Pen, rng: random.Random, land: str) -> None:
    """Two figures side by side, and a heart."""
    variant = rng.randrange(3)
    if variant == 0:  # before a heart
        heart(pen, 0, 0.62, 0.46, pen.accent)
    elif variant == 1:  # before a low disc
        pen.oval(0, 0.55, 0.42, 0.42, fill=pen.accent)
    person(pen, -0.17, 0.86, dress=False, hat=rng.random() < 0.5)
    person(pen, 0.17, 0.79, dress=True, hat=False)
    if variant == 2:  # a kiss under an umbrella
        pen.poly(
            *[(0.42 * math.cos(a * math.pi / 12), 0.86 + 0.2 * math.sin(a * math.pi / 12))
              for a in range(13)],
            fill=pen.accent,
        )  # fmt: skip
        pen.line((0, 1.06), (0, 0.4), width=0.018)
    pen.line((-0.1, 0.62), (0, 0.42), (0.1, 0.58), width=0.045)


def weapon(pen: Pen, rng: random.Random, land: str) -> None:
    """Crossed swords or a revolver."""
    if rng.random() < 0.5:  # crossed swords
        for side in (-1, 1):
            pen.poly((side * 0.38, 0.1), (side * 0.29, 0.03), (-side * 0.34, 0.9),
                     (-side * 0.42, 1.03), (-side * 0.43, 0.94), fill=pen.ink)  # fmt: skip
            pen.line((side * 0.37, 0.26), (side * 0.12, 0.1), width=0.06, fill=pen.accent)
            pen.oval(side * 0.37, 0.0, 0.04, 0.04, fill=pen.accent)
    else:  # a revolver
        pen.poly((-0.42, 0.72), (0.3, 0.72), (0.3, 0.62), (-0.42, 0.62))
        pen.poly((0.02, 0.76), (0.34, 0.76), (0.36, 0.5), (0.0, 0.5))
        pen.poly((0.14, 0.54), (0.36, 0.6), (0.5, 0.1), (0.3, 0.04))
        pen.ring(0.1, 0.46, 0.09, 0.09, 0.025, pen.ink)
        pen.poly((-0.4, 0.72), (-0.34, 0.72), (-0.37, 0.78))
        pen.oval(0.13, 0.63, 0.1, 0.075, fill=pen.accent)
        pen.oval(-0.52, 0.67, 0.05, 0.05, fill=pen.accent)
        pen.poly((-0.46, 0.67), (-0.66, 0.78), (-0.58, 0.67), (-0.66, 0.56), fill=pen.accent)


def eye(pen: Pen, rng: random.Random, land: str) -> None:
    """An eye, or what looks like one."""
    if rng.random() < 0.5:  # an eye in the sky
        up = [(0.55 * math.cos(a * math.pi / 16), 0.6 + 0.3 * math.sin(a * math.pi / 16))
              for a in range(33)]  # fmt: skip
        pen.poly(*up, fill=pen.ink)
        pen.poly(*[(x * 0.9, 0.6 + (y - 0.6) * 0.8) for x, y in up], fill=(240, 234, 218))
        pen.oval(0, 0.6, 0.23, 0.23, fill=pen.accent)
        pen.oval(0, 0.6, 0.12, 0.12)
        pen.oval(0.06, 0.68, 0.04, 0.04, fill=(255, 255, 255))
        for lash in range(-3, 4):
            pen.line((lash * 0.13, 0.86 - 0.02 * lash**2), (lash * 0.17, 1.0 - 0.035 * lash**2),
                     width=0.03)  # fmt: skip
    else:  # a magnifying glass
        pen.line((0.16, 0.44), (0.42, 0.06), width=0.12)
        pen.oval(-0.06, 0.68, 0.36, 0.36)
        pen.oval(-0.06, 0.68, 0.29, 0.29, fill=(232, 238, 236))
        pen.oval(-0.06, 0.66, 0.13, 0.09)
        pen.oval(-0.06, 0.66, 0.06, 0.06, fill=pen.accent)


def beast(pen: Pen, rng: random.Random, land: str) -> None:
    """An animal or a monster."""
    if rng.random() < 0.5:  # a horned head
        pen.poly((-0.44, 0), (-0.36, 0.5), (-0.24, 0.68), (0.24, 0.68), (0.36, 0.5), (0.44, 0))
        for side in (-1, 1):
            pen.poly((side * 0.12, 0.62), (side * 0.3, 0.56), (side * 0.46, 0.78),
                     (side * 0.4, 1.04), (side * 0.32, 0.8))  # fmt: skip
            pen.poly((side * 0.06, 0.4), (side * 0.26, 0.5), (side * 0.2, 0.36), fill=pen.accent)
        teeth = [(-0.2 + 0.05 * k, 0.2 if k % 2 else 0.1) for k in range(9)]
        pen.poly((-0.24, 0.24), *teeth, (0.24, 0.24), fill=pen.accent)
    else:  # a winged thing
        for side in (-1, 1):
            pen.poly((side * 0.06, 0.66), (side * 0.34, 1.02), (side * 0.72, 0.78),
                     (side * 0.58, 0.7), (side * 0.54, 0.52), (side * 0.4, 0.58),
                     (side * 0.32, 0.4), (side * 0.2, 0.48), (side * 0.08, 0.34))  # fmt: skip
        pen.poly((-0.12, 0.7), (0.12, 0.7), (0.16, 0.3), (0.0, 0.0), (-0.16, 0.3))
        pen.oval(0, 0.8, 0.12, 0.13)
        for side in (-1, 1):
            pen.poly((side * 0.04, 0.88), (side * 0.14, 1.02), (side * 0.12, 0.82))
            pen.oval(side * 0.05, 0.8, 0.028, 0.022, fill=pen.accent)


def child(pen: Pen, rng: random.Random, land: str) -> None:
    """Children at play."""
    variant = rng.randrange(3)
    x = -0.2
    if variant == 0:  # three balloons
        for bx, by, r in ((0.0, 0.98, 0.13), (0.26, 0.92, 0.12), (0.14, 0.74, 0.12)):
            pen.line((-0.06, 0.36), (bx, by - r), width=0.012)
            pen.oval(bx, by, r, r * 1.2, fill=pen.accent)
            pen.oval(bx - 0.04, by + 0.05, 0.025, 0.035, fill=(255, 255, 255))
    elif variant == 1:  # a kite
        pen.line((-0.06, 0.34), (0.1, 0.46), (0.2, 0.8), width=0.012)
        pen.poly((0.2, 0.64), (0.38, 0.86), (0.26, 1.1), (0.04, 0.9), fill=pen.accent)
        pen.line((0.2, 0.64), (0.26, 1.1), width=0.012)
        pen.line((0.04, 0.9), (0.38, 0.86), width=0.012)
        pen.line((0.2, 0.64), (0.26, 0.54), (0.2, 0.48), (0.28, 0.4), width=0.02, fill=pen.accent)
    else:  # a dog
        pen.poly((0.1, 0.28), (0.4, 0.28), (0.42, 0.0), (0.35, 0.0), (0.33, 0.14), (0.18, 0.14),
                 (0.16, 0.0), (0.09, 0.0))  # fmt: skip
        pen.poly((0.06, 0.42), (0.2, 0.44), (0.22, 0.26), (0.08, 0.24), (0.0, 0.3))
        pen.line((0.4, 0.26), (0.5, 0.42), width=0.04)
        pen.oval(0.04, 0.98, 0.11, 0.13, fill=pen.accent)
        pen.line((-0.06, 0.34), (0.04, 0.85), width=0.012)
    pen.line((x + 0.06, 0.32), (-0.06, 0.36), width=0.06)
    pen.poly((x - 0.13, 0.36), (x + 0.13, 0.36), (x + 0.15, 0.12), (x - 0.15, 0.12))
    pen.box(x - 0.1, 0, 0.07, 0.16)
    pen.box(x + 0.03, 0, 0.07, 0.16)
    pen.oval(x, 0.46, 0.13, 0.13)


def instrument(pen: Pen, rng: random.Random, land: str) -> None:
    """A musical instrument."""
    if rng.random() < 0.5:  # a guitar
        pen.oval(0, 0.2, 0.24, 0.21)
        pen.oval(0, 0.46, 0.17, 0.15)
        pen.oval(0, 0.34, 0.075, 0.075, fill=pen.accent)
        pen.box(-0.035, 0.4, 0.07, 0.52)
        pen.box(-0.07, 0.9, 0.14, 0.14)
        for k in (-1, 0, 1):
            pen.line((0.018 * k, 0.14), (0.018 * k, 0.92), width=0.007, fill=pen.accent)
        pen.line((-0.09, 0.14), (0.09, 0.14), width=0.03, fill=pen.accent)
    else:  # a violin with its bow
        pen.oval(-0.06, 0.17, 0.19, 0.17)
        pen.oval(-0.06, 0.42, 0.15, 0.13)
        pen.box(-0.14, 0.2, 0.16, 0.2)
        pen.box(-0.085, 0.5, 0.05, 0.46)
        pen.oval(-0.06, 0.98, 0.05, 0.05)
        pen.line((-0.13, 0.2), (-0.13, 0.36), width=0.02, fill=pen.accent)
        pen.line((0.01, 0.2), (0.01, 0.36), width=0.02, fill=pen.accent)
        pen.line((-0.06, 0.1), (-0.06, 0.9), width=0.012, fill=pen.accent)
        pen.line((0.34, 0.02), (0.2, 0.98), width=0.025)
        pen.line((0.38, 0.04), (0.25, 0.98), width=0.01, fill=pen.accent)


def portrait(pen: Pen, rng: random.Random, land: str) -> None:
    """A head and shoulders."""
    variant = rng.randrange(3)
    pen.oval(0, 0.53, 0.42, 0.53)
    pen.oval(0, 0.53, 0.37, 0.48, fill=(238, 226, 198))
    shoulders = [(0.3 * math.cos(a * math.pi / 12), 0.14 + 0.2 * math.sin(a * math.pi / 12))
                 for a in range(13)]  # fmt: skip
    pen.poly((0.3, 0.14), *shoulders, (-0.3, 0.14), (-0.14, 0.07), (0.14, 0.07))
    pen.box(-0.06, 0.3, 0.12, 0.16)
    pen.oval(0, 0.58, 0.15, 0.19)
    pen.poly((0.12, 0.62), (0.2, 0.53), (0.12, 0.5))  # the nose: a profile
    if variant == 0:  # a top hat
        pen.box(-0.24, 0.7, 0.46, 0.04)
        pen.box(-0.15, 0.72, 0.29, 0.2)
        pen.box(-0.15, 0.74, 0.29, 0.035, fill=pen.accent)
    elif variant == 1:  # a bun
        pen.oval(-0.16, 0.72, 0.11, 0.1)
        pen.oval(-0.03, 0.7, 0.15, 0.1)
        pen.poly((-0.12, 0.36), (0.12, 0.36), (0.0, 0.26), fill=pen.accent)
    else:  # a beard
        pen.poly((-0.1, 0.52), (0.14, 0.52), (0.1, 0.28), (0.02, 0.24))
        pen.poly((-0.07, 0.3), (0.07, 0.3), (0, 0.2), fill=pen.accent)
    pen.ring(0, 0.53, 0.42, 0.53, 0.02, pen.accent)


def traveller(pen: Pen, rng: random.Random, land: str) -> None:
    """Somebody on the way."""
    if land == "desert":  # a rider
        pen.poly((-0.36, 0.5), (0.24, 0.52), (0.3, 0.34), (0.22, 0.3), (-0.3, 0.3), (-0.38, 0.36))
        for x, lean in ((-0.32, -0.08), (-0.24, 0.04), (0.14, -0.04), (0.22, 0.12)):
            pen.line((x, 0.34), (x + lean, 0.17), (x + lean * 0.4, 0.0), width=0.055)
        pen.poly((0.14, 0.5), (0.34, 0.76), (0.44, 0.72), (0.54, 0.6), (0.48, 0.56), (0.38, 0.6),
                 (0.26, 0.36))  # fmt: skip
        pen.line((-0.36, 0.46), (-0.5, 0.2), width=0.06)
        pen.poly((-0.12, 0.5), (0.06, 0.5), (0.06, 0.8), (-0.1, 0.8))
        pen.oval(-0.02, 0.87, 0.065, 0.075)
        pen.poly((-0.17, 0.9), (0.13, 0.9), (0.06, 0.94), (0.04, 1.02), (-0.08, 1.02), (-0.1, 0.94))
        pen.line((0.0, 0.5), (0.04, 0.26), width=0.06, fill=pen.accent)
    elif land == "sea":  # a sailing ship
        pen.poly((-0.5, 0.22), (0.5, 0.24), (0.36, 0.0), (-0.38, 0.0))
        pen.line((-0.02, 0.2), (-0.02, 1.04), width=0.03)
        pen.poly((0.02, 0.98), (0.44, 0.34), (0.02, 0.3), fill=pen.accent)
        pen.poly((-0.06, 0.9), (-0.4, 0.34), (-0.06, 0.3), fill=(240, 234, 220))
        pen.poly((-0.02, 1.04), (0.14, 1.0), (-0.02, 0.96))
    elif land == "stars":  # a rocket
        pen.poly((-0.1, 0.16), (-0.17, 0.5), (-0.11, 0.8), (0, 1.04), (0.11, 0.8), (0.17, 0.5),
                 (0.1, 0.16), fill=(226, 226, 232))  # fmt: skip
        for side in (-1, 1):
            pen.poly((side * 0.12, 0.42), (side * 0.32, 0.14), (side * 0.1, 0.2), fill=pen.accent)
        pen.poly((-0.11, 0.8), (0, 1.04), (0.11, 0.8), fill=pen.accent)
        pen.oval(0, 0.6, 0.07, 0.07)
        pen.poly((-0.1, 0.16), (0.1, 0.16), (0.03, -0.06), (0, 0.02), (-0.04, -0.1),
                 fill=(250, 190, 70))  # fmt: skip
    elif land == "city":  # a car
        pen.poly((-0.6, 0.14), (-0.6, 0.32), (-0.3, 0.36), (-0.18, 0.58), (0.2, 0.58),
                 (0.36, 0.36), (0.6, 0.32), (0.62, 0.14))  # fmt: skip
        pen.poly((-0.22, 0.37), (-0.13, 0.53), (0.0, 0.53), (0.0, 0.37), fill=(236, 224, 180))
        pen.poly((0.04, 0.37), (0.04, 0.53), (0.17, 0.53), (0.27, 0.37), fill=(236, 224, 180))
        for x in (-0.36, 0.36):
            pen.oval(x, 0.13, 0.13, 0.13)
            pen.oval(x, 0.13, 0.06, 0.06, fill=pen.accent)
        pen.poly((-0.6, 0.3), (-1.1, 0.42), (-1.1, 0.1), (-0.6, 0.22), fill=(250, 236, 170))
    else:  # a balloon above woods and peaks
        pen.oval(0, 0.68, 0.34, 0.36, fill=pen.accent)
        pen.oval(0, 0.68, 0.2, 0.36)
        pen.oval(0, 0.68, 0.08, 0.36, fill=(240, 232, 214))
        pen.poly((-0.24, 0.46), (0.24, 0.46), (0.09, 0.24), (-0.09, 0.24), fill=pen.accent)
        pen.line((-0.08, 0.26), (-0.07, 0.12), width=0.014)
        pen.line((0.08, 0.26), (0.07, 0.12), width=0.014)
        pen.box(-0.1, 0.0, 0.2, 0.14)


DRAWINGS = {
    "couple": couple, "weapon": weapon, "eye": eye, "beast": beast, "child": child,
    "instrument": instrument, "portrait": portrait, "traveller": traveller,
}  # fmt: skip
