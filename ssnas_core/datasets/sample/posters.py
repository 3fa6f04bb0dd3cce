"""Posters of the generated sample: composition, light and printing technique.

A poster shows four factors of a story. The land is its palette and landscape;
the mood its light together with a brushwork that survives greyscale and colour
jitter (dots, bands, slanting rain, coarse grain); the print a technique
(photograph, newsreel, engraving, cel); the emblem a silhouette (`emblems`).
Painted at twice the final size and reduced, for smooth edges.
"""

from __future__ import annotations

import io
import math
import random
from typing import Any

from ssnas_core.datasets.sample.emblems import DRAWINGS, Colour, Pen
from ssnas_core.datasets.sample.plots import words
from ssnas_core.datasets.sample.story import Story

WIDTH, HEIGHT = 96, 144
SCALE = 2
QUALITY = 60


def paint(story: Story, title: str, rng: random.Random) -> bytes:
    """The poster of `story` as a JPEG of 96 x 144 pixels (width x height)."""
    import numpy as np
    from PIL import Image, ImageDraw

    wide, high = WIDTH * SCALE, HEIGHT * SCALE
    colours = [_rgb(code) for code in rng.choice(words("posters")["palettes"][story.land]).split()]
    sky, low, far, near, ink, accent = colours
    noise = np.random.default_rng(rng.getrandbits(32))

    rows = np.linspace(0, 1, high)[:, None, None]
    image = Image.fromarray(
        np.broadcast_to(np.array(sky) * (1 - rows) + np.array(low) * rows, (high, wide, 3)).astype(
            np.uint8
        )
    )
    draw = ImageDraw.Draw(image)
    horizon = rng.uniform(0.72, 0.77) * high
    _landscape(draw, story.land, horizon, colours, rng)

    height = rng.uniform(0.5, 0.57) * high
    foot = (rng.uniform(0.45, 0.55) * wide, horizon + rng.uniform(0.0, 0.05) * high)
    _glow(image, foot[0], foot[1] - 0.55 * height, 0.62 * height, _mix(low, (255, 255, 255), 0.4))
    pen = Pen(draw, foot, height, ink, accent, flip=rng.random() < 0.5)
    DRAWINGS[story.emblem](pen, rng, story.land)

    pixels = np.asarray(image, dtype=np.float32)
    pixels = _light(pixels, story.mood)
    pixels = _brushwork(pixels, story.mood, noise)
    pixels = _print(pixels, story.print, noise)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    _lettering(image, title, story, accent, rng)
    out = io.BytesIO()
    image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _rgb(code: str) -> Colour:
    red, green, blue = bytes.fromhex(code)
    return red, green, blue


def _mix(first: Colour, second: Colour, part: float) -> Colour:
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _glow(image: Any, x: float, y: float, radius: float, colour: Colour) -> None:
    """A haze behind the emblem, so that it stands out from any landscape."""
    from PIL import Image

    haze = Image.radial_gradient("L").point([round(0.8 * max(0, 200 - v)) for v in range(256)])
    haze = haze.resize((round(2 * radius), round(2 * radius)))
    image.paste(colour, (round(x - radius), round(y - radius)), haze)


def _landscape(
    draw: Any, land: str, horizon: float, palette: list[Colour], rng: random.Random
) -> None:
    sky, low, far, near, ink, accent = palette
    wide, high = WIDTH * SCALE, HEIGHT * SCALE
    pale = _mix(low, (255, 255, 255), 0.55)

    def disc(x: float, y: float, r: float, fill: Any) -> None:
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)

    def ridge(base: float, rise: float, points: int, fill: Colour) -> list[tuple[float, float]]:
        xs = [k * wide / points for k in range(points + 1)]
        tops = [(x, base - rng.uniform(0.15, 1) * rise) for x in xs]
        draw.polygon([(0, high), *tops, (wide, high)], fill=fill)
        return tops

    sun_x, sun_y = rng.uniform(0.2, 0.8) * wide, rng.uniform(0.14, 0.34) * high
    if land == "stars":
        for _ in range(90):
            disc(rng.uniform(0, wide), rng.uniform(0, horizon), rng.choice((0.6, 0.9, 1.5)),
                 (235, 235, 255))  # fmt: skip
        radius = rng.uniform(18, 34)
        disc(sun_x, sun_y, radius, far)
        disc(sun_x - radius * 0.25, sun_y - radius * 0.2, radius * 0.72, low)
        if rng.random() < 0.6:
            box = [sun_x - radius * 1.7, sun_y - radius * 0.4, sun_x + radius * 1.7,
                   sun_y + radius * 0.4]  # fmt: skip
            draw.arc(box, -20, 200, fill=pale, width=3)
        ridge(horizon, 14, 6, far)
        draw.rectangle([0, horizon, wide, high], fill=near)
        for _ in range(7):
            x, y = rng.uniform(0, wide), rng.uniform(horizon + 8, high)
            r = rng.uniform(5, 16)
            draw.ellipse([x - r, y - r * 0.35, x + r, y + r * 0.35], fill=far)
        return
    if land == "forest":
        _forest(draw, horizon, far, near, rng)
        return
    disc(sun_x, sun_y, rng.uniform(15, 26), pale)
    if land == "desert":
        for _ in range(2):
            x, w, tall = rng.uniform(0, wide), rng.uniform(18, 44), rng.uniform(34, 74)
            draw.polygon([(x - w * 1.4, horizon), (x - w, horizon - tall), (x + w, horizon - tall),
                          (x + w * 1.4, horizon)], fill=far)  # fmt: skip
        draw.rectangle([0, horizon, wide, high], fill=far)
        for k in range(3):
            y = horizon + 14 + 24 * k
            dune = [
                (0, y + rng.uniform(-8, 8)),
                (wide * 0.4, y - 6),
                (wide, y + rng.uniform(-4, 14)),
            ]
            draw.polygon([(0, high), *dune, (wide, high)], fill=_mix(far, near, (k + 1) / 3))
        for _ in range(rng.randint(1, 3)):
            x, y, s = rng.choice((0.1, 0.22, 0.8, 0.92)) * wide, horizon + 12, rng.uniform(16, 26)
            draw.line([(x, y), (x, y - 2 * s)], fill=ink, width=7)
            draw.line(
                [(x, y - s), (x - s * 0.6, y - s), (x - s * 0.6, y - 1.6 * s)], fill=ink, width=5
            )
            draw.line([(x, y - 0.7 * s), (x + s * 0.6, y - 0.7 * s), (x + s * 0.6, y - 1.4 * s)],
                      fill=ink, width=5)  # fmt: skip
    elif land == "city":
        for fill, step, tallest in ((far, 17, 120), (near, 23, 74)):
            x = -rng.uniform(0, 12)
            while x < wide:
                w, tall = rng.uniform(0.7, 1.2) * step, rng.uniform(0.35, 1) * tallest
                draw.rectangle([x, horizon - tall, x + w, high], fill=fill)
                if rng.random() < 0.3:
                    draw.line([(x + w / 2, horizon - tall), (x + w / 2, horizon - tall - 16)],
                              fill=fill, width=2)  # fmt: skip
                for wx in range(round(x) + 4, round(x + w) - 4, 6):
                    for wy in range(round(horizon - tall) + 5, round(horizon), 8):
                        if rng.random() < 0.3:
                            draw.rectangle([wx, wy, wx + 2, wy + 3], fill=(250, 214, 130))
                x += w + 1
        draw.rectangle([0, horizon + 3, wide, high], fill=near)
        draw.line([(wide * 0.5, horizon + 8), (wide * 0.5, high)], fill=far, width=4)
    elif land == "sea":
        draw.rectangle([0, horizon, wide, high], fill=far)
        for k in range(9):
            y, phase = horizon + 4 + k * k * 1.1 + 4 * k, rng.uniform(0, 6)
            crest = [(x, y + (1 + 0.5 * k) * math.sin(x / (7 + 2 * k) + phase))
                     for x in range(0, wide + 4, 4)]  # fmt: skip
            shade = _mix(far, near, k / 8)
            draw.polygon([(0, high), *crest, (wide, high)], fill=shade)
            draw.line(crest, fill=_mix(shade, (255, 255, 255), 0.25), width=2)
    else:  # snow
        for base, rise, points, fill in ((horizon, 110, 4, far), (horizon + 4, 60, 6, sky)):
            tops = ridge(base, rise, points, fill)
            for (x0, y0), (x1, y1), (x2, y2) in zip(tops, tops[1:], tops[2:], strict=False):
                if y1 < y0 and y1 < y2:
                    draw.polygon([(x1, y1), (x1 + (x0 - x1) * 0.34, y1 + (y0 - y1) * 0.34),
                                  (x1, y1 + 9), (x1 + (x2 - x1) * 0.34, y1 + (y2 - y1) * 0.34)],
                                 fill=(250, 252, 255))  # fmt: skip
        draw.rectangle([0, horizon + 4, wide, high], fill=near)
        for _ in range(36):
            x, y = rng.uniform(0, wide), rng.uniform(0, high)
            disc(x, y, rng.choice((1, 1.6, 2.2)), (255, 255, 255))


def _forest(draw: Any, horizon: float, far: Colour, near: Colour, rng: random.Random) -> None:
    wide, high = WIDTH * SCALE, HEIGHT * SCALE
    for layer, fill in ((0.16, far), (0.06, near)):
        for _ in range(13):
            x, tall = rng.uniform(-6, wide + 6), rng.uniform(46, 96)
            base = horizon + layer * 60
            for step in range(4):
                y, half = base - tall * step / 5, tall * (0.22 - 0.042 * step)
                draw.polygon([(x - half, y), (x + half, y), (x, y - tall * 0.4)], fill=fill)
            draw.rectangle([x - 2, base, x + 2, base + 14], fill=fill)
    draw.rectangle([0, horizon + 4, wide, high], fill=near)
    for _ in range(40):
        x, y = rng.uniform(0, wide), rng.uniform(horizon + 8, high)
        draw.line([(x, y), (x + rng.uniform(-4, 4), y - rng.uniform(5, 11))], fill=far, width=2)


def _light(pixels: Any, mood: str) -> Any:
    """Exposure, contrast and saturation of a mood; (H, W, 3) floats in [0, 255]."""
    gain, contrast, saturation, lift = {
        "bright": (1.04, 1.0, 1.2, 16.0),
        "tender": (1.0, 0.8, 0.9, 14.0),
        "tense": (0.94, 1.25, 1.05, -8.0),
        "bleak": (0.78, 1.05, 0.6, 0.0),
    }[mood]
    grey = pixels.mean(-1, keepdims=True)
    pixels = grey + saturation * (pixels - grey)
    return ((pixels - 128) * contrast + 128) * gain + lift


def _brushwork(pixels: Any, mood: str, noise: Any) -> Any:
    """A texture per mood, all of it wide enough to outlast a reduction to 64 x 96 pixels."""
    import numpy as np
    from PIL import Image

    high, wide = pixels.shape[:2]
    y, x = np.mgrid[:high, :wide].astype(np.float32)
    phase = noise.uniform(0, math.tau, 2)
    if mood == "bright":  # halftone dots on a slanted screen
        u, v = (x + y) / 13.0, (x - y) / 13.0
        screen = np.cos(math.tau * u + phase[0]) * np.cos(math.tau * v + phase[1])
        return pixels + 30 * np.clip(screen * 1.6 - 0.3, -0.2, 1)[..., None]
    if mood == "tender":  # soft horizontal bands that wander
        wander = 5 * np.sin(math.tau * x / wide * noise.uniform(0.6, 1.4) + phase[0])
        return pixels + 17 * np.sin(math.tau * (y + wander) / 12 + phase[1])[..., None]
    if mood == "tense":  # slanting rain
        slant = (x * 1.0 + y * 0.32) / 11
        strength = 0.5 + 0.5 * np.sin(y / 23 + phase[0] + np.floor(slant) * 2.4)
        return pixels + 32 * (np.cos(math.tau * slant + phase[1]) * strength)[..., None]
    grain = noise.normal(0, 1, (high // 4, wide // 4))  # coarse grain, smoothed
    grain = np.asarray(
        Image.fromarray(grain.astype(np.float32)).resize((wide, high), Image.Resampling.BICUBIC)
    )
    return pixels + 20 * grain[..., None]


def _print(pixels: Any, technique: str, noise: Any) -> Any:
    """The printing technique: colour, line and edge of the whole sheet."""
    import numpy as np

    high, wide = pixels.shape[:2]
    y, x = np.mgrid[:high, :wide].astype(np.float32)
    grey = pixels.mean(-1, keepdims=True)
    if technique == "newsreel":  # black and white, scan lines, perforated edges
        out = grey + 15 * np.sign(np.sin(math.tau * y / 8))[..., None]
        out = np.repeat(out + noise.normal(0, 7, grey.shape), 3, -1)
        edge = (x < 20) | (x >= wide - 20)
        hole = edge & (np.abs(np.minimum(x, wide - 1 - x) - 9) < 6) & (y % 24 > 11)
        out[edge] = 18
        out[hole] = 232
        return out
    if technique == "engraving":  # sepia, hatched where dark and cross-hatched where darker
        tone = np.clip(grey[..., 0] / 255, 0, 1)
        first, second = (0.5 + 0.5 * np.sin(math.tau * (x + s * y) / 10) for s in (1, -1))
        ink = np.clip(3 * (first - 1.35 * tone), 0, 1)  # lines swell where it is dark
        ink = np.maximum(ink, np.clip(3 * (second - 2.2 * tone), 0, 1))
        paper, black = np.array([240.0, 220.0, 178.0]), np.array([58.0, 36.0, 22.0])
        return paper + ink[..., None] * (black - paper)
    if technique == "cel":  # flat poster colours inside black outlines
        flat = np.round((pixels - 128) * 1.5 / 64) * 64 + 140
        smooth = (grey + np.roll(grey, 1, 0) + np.roll(grey, 1, 1))[..., 0] / 3
        slope = np.abs(np.roll(smooth, 2, 0) - smooth) + np.abs(np.roll(smooth, 2, 1) - smooth)
        flat[slope > 34] = 16
        return flat
    centre = ((x / wide - 0.5) ** 2 + (y / high - 0.5) ** 2)[..., None]
    return pixels * (1.08 - 0.5 * centre) + noise.normal(0, 4, pixels.shape)


def _lettering(image: Any, title: str, story: Story, accent: Colour, rng: random.Random) -> None:
    from PIL import ImageDraw, ImageFont

    wide, high = image.size
    draw = ImageDraw.Draw(image)
    words, lines = title.upper().split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 12 and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    longest = max(map(len, lines))
    room = 0.74 if story.print == "newsreel" else 1.0  # between the perforations
    size = min(30, round(room * wide * 1.42 / max(longest, 6)), 66 // len(lines))
    font = ImageFont.load_default(size)
    at_top = rng.random() < 0.45
    engraved = story.print == "engraving"
    colour, shade = ("#3c2414", "#f0dcb4") if engraved else ("#faf6e8", "#0c0a0e")
    y = 12 if at_top else high - 26 - len(lines) * size
    if engraved:  # hatching would swallow the letters: print them on a label
        draw.rectangle([10, y - 3, wide - 10, y + len(lines) * size + 4], fill=shade)
    for line in lines:
        left, _, right, _ = draw.textbbox((0, 0), line, font=font)
        draw.text(((wide - right + left) / 2, y), line, font=font, fill=colour,
                  stroke_width=2, stroke_fill=shade)  # fmt: skip
        y += size
    for k in range(2):  # the billing block, too small to read
        y, x = high - 14 + 6 * k, wide * 0.24
        while x < wide * 0.76:
            w = rng.uniform(4, 14)
            draw.rectangle([x, y, x + w, y + 2], fill=colour)
            x += w + 3
