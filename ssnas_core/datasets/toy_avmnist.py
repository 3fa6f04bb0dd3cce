"""A stand-in for AV-MNIST's files, for lessons and tests without a download.

Digits in the fonts that come with matplotlib, moved, turned and thickened at random, take
MNIST's place; pairs of tones, one pair a digit as on a telephone's keypad, that of FSDD.
Files and names have the published forms, so that the same reader takes them. Both are
far easier than the real ones, and say nothing about them.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.avmnist import RATE
from ssnas_core.datasets.mnist import DIGIT_SIDE as SIDE
from ssnas_core.datasets.mnist import PARTS

_SPEAKERS = ("anna", "bert", "carl", "dora", "emil", "fay")
_FACES = (
    *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10"),
)
_KEYPAD = ("123", "456", "789", " 0 ")
_LOW, _HIGH = (450.0, 900.0, 1350.0, 1800.0), (2300.0, 2900.0, 3500.0)  # Hz, by row and column
_HUM = 150.0  # Hz
_FINE = 2  # digits are drawn this much larger, then reduced, as MNIST's were


def toy_avmnist(
    folder: Path,
    *,
    images: tuple[int, int] = (500, 200),
    takes: Sequence[int] = (0, 1, 5, *range(10, 14)),
    seed: int = 0,
) -> Path:
    """Write a stand-in for MNIST's four files and FSDD's recordings.

    The tones of a digit are those of its row and column on a keypad; their pitch is the
    speaker's, and a little the take's. They lie further apart than a real telephone's
    697 to 1477 Hz, so that small spectrograms tell them. Most of the power is in a hum, as
    in a voice's lowest tone, so that noise drowns the rest. A recording lasts 0.3 to 0.7 s.

    Args:
        folder: gets `train-images-idx3-ubyte` and so on, and wav files in
            `recordings`; made if need be.
        images: how many in MNIST's train and test files, all digits about equally often.
        takes: numbers of the recordings of each digit by each of six speakers; as in
            FSDD, 0 to 4 are of test, 5 to 9 of dev, the others of train.
        seed: of all chance.

    Returns:
        The folder.

    Raises:
        InputError: no images, no takes, or a seed below 0.
    """
    if min(images) < 1 or not takes or min(takes) < 0 or seed < 0:
        raise InputError(
            f"expected images >= 1, takes and a seed >= 0, got {images}, {list(takes)} and {seed}; "
            "as (500, 200), (0, 5, 10) and 0."
        )
    folder = Path(folder)
    sounds = folder / "recordings"
    sounds.mkdir(parents=True, exist_ok=True)
    for number, (part, count) in enumerate(zip(PARTS, images, strict=True)):
        rng = np.random.default_rng([seed, number])
        digits = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(_idx(_drawn(digits, rng)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(_idx(digits))
    rng = np.random.default_rng([seed, len(PARTS)])
    for speaker in _SPEAKERS:
        pitch = rng.uniform(0.96, 1.04)
        for digit in range(10):
            for take in takes:
                sound = _spoken(digit, pitch, rng)
                (sounds / f"{digit}_{speaker}_{take}.wav").write_bytes(_wav(sound))
    return folder


def _drawn(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A white digit on black for each of `digits` (n,), uint8 (n, 28, 28)."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    side = _FINE * SIDE
    faces = [ImageFont.truetype(fonts / f"{face}.ttf", round(0.85 * side)) for face in _FACES]
    bilinear = Image.Resampling.BILINEAR
    drawn = []
    for digit in digits:
        image = Image.new("L", (side, side))
        face, stroke = faces[rng.integers(len(faces))], int(rng.integers(3))
        middle = (side / 2, side / 2)
        text = str(digit)
        ImageDraw.Draw(image).text(middle, text, 255, face, "mm", stroke_width=stroke)
        shear, width, height = rng.uniform((-0.15, 0.95, 0.95), (0.15, 1.2, 1.2))
        shift = rng.uniform(-1, 1, 2) * _FINE - (shear + width - 1, height - 1) * np.array(middle)
        image = image.rotate(rng.uniform(-8, 8), bilinear)
        form = (width, shear, shift[0], 0.0, height, shift[1])
        image = image.transform((side, side), Image.Transform.AFFINE, form, bilinear)
        drawn.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.stack(drawn)


def _spoken(digit: int, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Samples (S,) in [-1, 1] of the hum and the two tones of a digit, swelling and fading."""
    row = next(place for place, keys in enumerate(_KEYPAD) if str(digit) in keys)
    column = _KEYPAD[row].index(str(digit))
    pitch *= rng.uniform(0.98, 1.02)
    time = np.arange(int(rng.uniform(0.3, 0.7) * RATE)) / RATE
    levels = (0.5, *rng.uniform(0.05, 0.2, 2))
    sound = np.zeros(len(time))
    for tone, level in zip((_HUM, _LOW[row], _HIGH[column]), levels, strict=True):
        sound += level * np.sin(2 * np.pi * (tone * pitch * time + rng.uniform()))
    return sound * np.hanning(len(time)) + rng.normal(0, 0.002, len(time))


def _idx(rows: np.ndarray) -> bytes:
    """uint8 of any shape in the IDX form: 0x08 is "unsigned byte", then the dimensions."""
    return np.array([0x800 + rows.ndim, *rows.shape], ">u4").tobytes() + rows.tobytes()


def _wav(samples: np.ndarray) -> bytes:
    """Samples in [-1, 1] as a wav file of one channel and 16 bit."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(np.rint(32767 * samples).astype("<i2").tobytes())
    return file.getvalue()
