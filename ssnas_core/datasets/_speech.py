"""Spoken digits: the recordings of FSDD (Jackson et al.), and what they look like in noise.

A recording is `<digit>_<speaker>_<take>.wav`, 8 kHz, mono, 16 bit. Its picture is the
logarithm of the power in 112 frequencies (36 Hz to 4 kHz, the highest in row 0) at 112
times of 9 ms, over one second.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import wave
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssnas_core.datasets._skips import Skips
from ssnas_core.errors import InputError, one_line

SIDE = 112  # frequencies, and times
RATE = 8000  # samples a second
WINDOW = 2 * SIDE  # samples; its transform has 112 frequencies beside 0
HOP = 72  # samples between two times
SPAN = (SIDE - 1) * HOP + WINDOW  # samples of a picture: 1.03 s
RANGE = 60.0  # dB below its loudest point at which a picture is black
_NAME = re.compile(r"(?:.*/)?([0-9])_([A-Za-z0-9-]{1,40})_([0-9]{1,6})\.wav")
_MOST_BYTES = 10**6  # of a recording: a minute
_MOST_FILES = 20_000
_MOST_ARCHIVE = 300 * 10**6  # bytes that an archive may unpack to; FSDD's has 24 MB
_ARCHIVES = (".tar.gz", ".tgz")


@dataclass(frozen=True)
class Recordings:
    """R spoken digits, sorted by name.

    Attributes:
        names: `<digit>_<speaker>_<take>` of each.
        digits, speakers, takes: what the names say, (R,).
        samples: (R, 8216) float32, the recording in the middle, zeros around it; of a
            longer one its middle.
        power: mean square of the recordings without those zeros, (R,) float64.
    """

    names: list[str]
    digits: np.ndarray
    speakers: np.ndarray
    takes: np.ndarray
    samples: np.ndarray
    power: np.ndarray


def read_recordings(folder: Path, skips: Skips) -> Recordings:
    """The recordings in `folder`: wav files there, in `recordings`, in the folder of a
    release that holds that one, or in the only .tar.gz beside.

    One that cannot be used (not a wav file, another rate, silent, cut short) goes to `skips`.

    Raises:
        InputError: none there, or an archive that is broken or too large.
    """
    places = [folder / "recordings", *sorted(folder.glob("*/recordings")), folder]
    found = next((sorted(p.glob("*.wav")) for p in places if any(p.glob("*.wav"))), None)
    archives = [path for path in sorted(folder.iterdir()) if path.name.endswith(_ARCHIVES)]
    if found is None and len(archives) != 1:
        raise InputError(
            f"{folder}: expected FSDD's recordings as one .tar.gz, or as wav files in "
            f"recordings, got {len(archives)} archives and no wav file; fetch them by "
            "`ssnas download avmnist`."
        )
    read: dict[str, np.ndarray] = {}
    for count, (name, content) in enumerate(_files(found) if found else _members(archives[0]), 1):
        named = _NAME.fullmatch(name)
        if count > _MOST_FILES:
            raise InputError(f"{folder}: expected at most {_MOST_FILES:,} recordings, got more.")
        try:
            if named is None:
                raise ValueError("its name is not <digit>_<speaker>_<take>.wav")
            stem = "_".join(named.groups())
            if stem in read:
                raise ValueError("occurs twice")
            read[stem] = _samples(content)
        except (ValueError, OSError) as error:
            skips.add(Path(name).name, str(error))
    names = sorted(read)
    if not names:
        example = next((f", e.g. {k}: {why}" for k, why in skips.reasons.items()), "")
        raise InputError(
            f"{folder}: expected usable recordings, got none ({len(skips.reasons)} "
            f"unusable{example}); fetch them by `ssnas download avmnist`."
        )
    parts = [name.split("_") for name in names]
    return Recordings(
        names,
        np.array([int(digit) for digit, _, _ in parts]),
        np.array([speaker for _, speaker, _ in parts]),
        np.array([int(take) for _, _, take in parts]),
        np.stack([_centred(read[name]) for name in names]),
        np.array([np.square(read[name], dtype=np.float64).mean() for name in names]),
    )


def _files(paths: list[Path]) -> Iterator[tuple[str, bytes | OSError]]:
    for path in paths:
        try:
            with open(path, "rb") as file:
                yield path.name, file.read(_MOST_BYTES + 1)
        except OSError as error:
            yield path.name, OSError(f"cannot be read ({error.strerror or error})")


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wav files in an archive, whichever folder they are in there."""
    try:
        with gzip.open(archive) as file:
            plain = file.read(_MOST_ARCHIVE + 1)  # whole, so that its checksum is compared
        if len(plain) > _MOST_ARCHIVE:
            raise ValueError(f"it unpacks to more than {_MOST_ARCHIVE // 10**6} MB")
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as members:
            for member in members:
                if member.isreg() and member.name.endswith(".wav"):
                    source = members.extractfile(member)
                    assert source is not None  # regular files have content
                    yield member.name, source.read(_MOST_BYTES + 1)
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OSError) as error:
        raise InputError(
            f"cannot read {archive} ({one_line(error)}); expected FSDD's archive as published, "
            "download it again."
        ) from error


def _samples(content: bytes | OSError) -> np.ndarray:
    """The samples of a wav file, (S,) float32 in [-1, 1)."""
    if isinstance(content, OSError):
        raise content
    if len(content) > _MOST_BYTES:
        raise ValueError(f"larger than {_MOST_BYTES // 10**6} MB")
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = (file.getframerate(), file.getnchannels(), 8 * file.getsampwidth())
            count, raw = file.getnframes(), file.readframes(file.getnframes())
    except Exception as error:  # a broken file may raise anything; all mean the same here
        raise ValueError(f"not a wav file ({one_line(error)})") from error
    if form != (RATE, 1, 16):
        raise ValueError(f"{form[0]} Hz, {form[1]} channels, {form[2]} bit; not {RATE}, 1, 16")
    if len(raw) != 2 * count:
        raise ValueError("cut short")
    samples = np.frombuffer(raw, "<i2").astype(np.float32) / 2**15
    if not samples.any():
        raise ValueError("silent")
    return samples


def _centred(samples: np.ndarray) -> np.ndarray:
    """(S,) -> (8216,): padded by zeros or cut, both on either side."""
    before = (SPAN - len(samples)) // 2
    if before < 0:
        return samples[-before:][:SPAN]
    return np.pad(samples, (before, SPAN - len(samples) - before))


def noise_like(count: int, rng: np.random.Generator, colour: tuple[float, float]) -> np.ndarray:
    """Noise of mean square 1, (count, 8216) float64.

    Each row's power falls with frequency as f^-c, c uniform in `colour`: 0 is white
    noise, 1 pink.
    """
    exponents = rng.uniform(*colour, (count, 1))
    white = np.fft.rfft(rng.standard_normal((count, SPAN)))
    frequencies = np.arange(white.shape[1], dtype=np.float64)
    frequencies[0] = np.inf  # no constant part
    shaped = np.fft.irfft(white * frequencies ** (-exponents / 2), SPAN)
    return shaped / np.sqrt(np.square(shaped).mean(1, keepdims=True))


def spectrograms(waves: np.ndarray) -> np.ndarray:
    """Pictures of waves (n, 8216), uint8 (n, 112, 112): 60 dB below the loudest point
    is black, that point white.

    Short-time Fourier transform under a periodic Hann window of 28 ms.
    """
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(waves, WINDOW, axis=1)[:, ::HOP]
    power = np.square(np.abs(np.fft.rfft(frames * hann)[:, :, 1:]))  # (n, times, frequencies)
    loudest = np.maximum(power.max((1, 2), keepdims=True), np.finfo(power.dtype).tiny)  # silence
    floor = 10 ** (-RANGE / 10)
    decibel = 10 * np.log10(np.maximum(power / loudest, floor))
    pixels = np.rint(255 * (1 + decibel / RANGE)).astype(np.uint8)
    return pixels.transpose(0, 2, 1)[:, ::-1]
