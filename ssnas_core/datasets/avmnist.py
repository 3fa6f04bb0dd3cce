"""AV-MNIST: a digit that is hard to see beside the same digit, spoken in noise.

After CentralNet (Vielzeuf et al., arXiv:1808.07275) and MFAS (arXiv:1903.06496): MNIST
images with 75 % of their energy removed by PCA, and spectrograms of the Free Spoken
Digit Dataset with noise added, paired at random within a class.

Deviations: no list of the published pairs is known to us, so pairs are drawn here. The
noise is synthetic, between white and pink, at a random level, not the ESC-50 recordings.
Components are fitted on the images of the train part alone, and a dev part is kept apart.
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
from typing import Literal

import numpy as np
from tqdm.auto import tqdm

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.datasets.mnist import PARTS, Digits, has_digits, read_digits
from ssnas_core.datasets.records import SPLITS, Dataset, Record, Skips

_Range = tuple[float, float]

# Spoken digits: the recordings of FSDD (Jackson et al.), and their spectrograms in noise.

SPECTROGRAM_SIDE = 112  # frequencies, and times
RATE = 8000  # samples a second
WINDOW = 2 * SPECTROGRAM_SIDE  # samples; its transform has 112 frequencies beside 0
HOP = 72  # samples between two times
SPAN = (SPECTROGRAM_SIDE - 1) * HOP + WINDOW  # samples of a picture: 1.03 s
RANGE = 60.0  # dB below its loudest point at which a picture is black
_NAME = re.compile(r"(?:.*/)?([0-9])_([A-Za-z0-9-]{1,40})_([0-9]{1,6})\.wav")
_MOST_BYTES = 10**6  # of a recording: a minute
_MOST_FILES = 20_000
_MOST_ARCHIVE = 300 * 10**6  # bytes that an archive may unpack to; FSDD's has 24 MB
_ARCHIVES = (".tar.gz", ".tgz")


@dataclass(frozen=True)
class _Recordings:
    """R spoken digits, sorted by name.

    Attributes:
        folder: where they are, for messages.
        names: `<digit>_<speaker>_<take>` of each.
        digits, speakers, takes: what the names say, (R,).
        samples: (R, 8216) float32, the recording in the middle, zeros around it; of a
            longer one its middle.
        power: mean square of the recordings without those zeros, (R,) float64.
    """

    folder: Path
    names: list[str]
    digits: np.ndarray
    speakers: np.ndarray
    takes: np.ndarray
    samples: np.ndarray
    power: np.ndarray

    def parts(self, apart: str, seed: int) -> np.ndarray:
        """Return the part that each recording belongs to, (R,) of str."""
        dev, test = np.isin(self.takes, _DEV_TAKES), np.isin(self.takes, _TEST_TAKES)
        if apart == "speakers":
            names = np.unique(self.speakers)
            if len(names) < 3:
                raise InputError(
                    f"{self.folder}: expected at least 3 speakers to keep apart, got {len(names)}; "
                    "keep takes apart instead."
                )
            drawn = np.random.default_rng([seed, 2]).permutation(names)
            count = max(1, len(names) // 6)
            dev = np.isin(self.speakers, drawn[:count])
            test = np.isin(self.speakers, drawn[count : 2 * count])
        return np.select([dev, test], ["dev", "test"], "train")

    def partners(
        self, digits: np.ndarray, usable: np.ndarray, split: str, rng: np.random.Generator
    ) -> np.ndarray:
        """Return a recording of the same digit for each of `digits` (n,), all equally often."""
        partners = np.empty(len(digits), dtype=np.int64)
        for digit in range(10):
            wanted = np.flatnonzero(digits == digit)
            there = rng.permutation(np.flatnonzero(usable & (self.digits == digit)))
            if len(wanted) and not len(there):
                raise InputError(
                    f"{self.folder}: expected recordings of every digit in {split}, got none of "
                    f"{digit}; restore FSDD, or keep takes or speakers apart otherwise."
                )
            partners[rng.permutation(wanted)] = np.resize(there, len(wanted))
        return partners

    def in_noise(
        self, rows: np.ndarray, noise: _Range | None, rng: np.random.Generator
    ) -> np.ndarray:
        """Return spectrograms (n, 112, 112) of the recordings `rows` (n,), each in other noise."""
        waves = self.samples[rows].astype(np.float64)
        if noise is not None:
            ratio = 10 ** (rng.uniform(*noise, len(rows)) / 10)
            level = np.sqrt(self.power[rows] / ratio)
            waves += level[:, None] * noise_like(len(rows), rng, _COLOUR)
        return spectrograms(waves)


def read_recordings(folder: Path, skips: Skips) -> _Recordings:
    """Return the recordings in `folder`: wav files there, in `recordings`, in the folder of a
    release that holds that one, or in the only .tar.gz beside.

    One that cannot be used (not a wav file, another rate, silent, cut short) goes to `skips`.

    Raises:
        InputError: none there, or an archive that is broken or too large.
    """
    wavs = next((sorted(place.glob("*.wav")) for place in _places(folder)), [])
    archives = _archives(folder)
    if not wavs and len(archives) != 1:
        raise InputError(
            f"{folder}: expected FSDD's recordings as one .tar.gz, or as wav files in "
            f"recordings, got {len(archives)} archives and no wav file; fetch them by "
            "`ssnas download avmnist`."
        )
    read: dict[str, np.ndarray] = {}
    sources = ((path.name, path) for path in wavs) if wavs else _members(archives[0])
    for count, (name, source) in enumerate(sources, 1):
        named = _NAME.fullmatch(name)
        if count > _MOST_FILES:
            raise InputError(f"{folder}: expected at most {_MOST_FILES:,} recordings, got more.")
        try:
            if named is None:
                raise ValueError("its name is not <digit>_<speaker>_<take>.wav")
            stem = "_".join(named.groups())
            if stem in read:
                raise ValueError("occurs twice")
            read[stem] = _samples(source)
        except OSError as error:
            skips.add(Path(name).name, f"cannot be read ({error.strerror or error})")
        except ValueError as error:
            skips.add(Path(name).name, str(error))
    names = sorted(read)
    if not names:
        example = next((f", e.g. {k}: {why}" for k, why in skips.reasons.items()), "")
        raise InputError(
            f"{folder}: expected usable recordings, got none ({len(skips.reasons)} "
            f"unusable{example}); fetch them by `ssnas download avmnist`."
        )
    parts = [name.split("_") for name in names]
    return _Recordings(
        folder,
        names,
        np.array([int(digit) for digit, _, _ in parts]),
        np.array([speaker for _, speaker, _ in parts]),
        np.array([int(take) for _, _, take in parts]),
        np.stack([_centred(read[name]) for name in names]),
        np.array([np.square(read[name], dtype=np.float64).mean() for name in names]),
    )


def _places(folder: Path) -> Iterator[Path]:
    """Yield the folders that hold recordings."""
    places = [folder / "recordings", *sorted(folder.glob("*/recordings")), folder]
    yield from (place for place in places if any(place.glob("*.wav")))


def _archives(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.name.endswith(_ARCHIVES)]


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the wav files in an archive, whichever folder they are in."""
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


def _samples(source: Path | bytes) -> np.ndarray:
    """Return the samples of a wav file, or of its content, (S,) float32 in [-1, 1)."""
    content = source if isinstance(source, bytes) else _head(source)
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


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_MOST_BYTES + 1)


def _centred(samples: np.ndarray) -> np.ndarray:
    """(S,) -> (8216,): padded by zeros or cut, both on either side."""
    before = (SPAN - len(samples)) // 2
    if before < 0:
        return samples[-before:][:SPAN]
    return np.pad(samples, (before, SPAN - len(samples) - before))


def noise_like(count: int, rng: np.random.Generator, colour: tuple[float, float]) -> np.ndarray:
    """Return noise of mean square 1, (count, 8216) float64.

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
    """Return pictures of waves (n, 8216), uint8 (n, 112, 112).

    The loudest point is white, 60 dB below it black.

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


# Pairs of both.

PAIRS = (8000, 1000, 3000)
"""Pairs in train, dev and test unless others are asked for: a study on two cores takes them."""

NOISE = (-10.0, 5.0)
"""Range of the signal-to-noise ratio in dB."""

_COLOUR = (0.0, 1.0)  # white to pink
_DEV_TAKES, _TEST_TAKES = range(5, 10), range(5)  # FSDD's own test takes are 0 to 4
_CHUNK = 256  # spectrograms computed at a time; decides the order of chance, so keep it


def is_avmnist(folder: Path) -> bool:
    """Whether the folder holds MNIST's training images, and recordings or an archive of them."""
    sounds = (*_places(folder), *_archives(folder))
    return has_digits(folder) and bool(sounds)


def read_avmnist(
    folder: Path,
    *,
    pairs: tuple[int, int, int] = PAIRS,
    seed: int = 0,
    apart: Literal["takes", "speakers"] = "takes",
    energy: float = 0.25,
    noise: tuple[float, float] | None = NOISE,
    strict: bool = False,
    progress: bool = False,
) -> Dataset:
    """Return pairs of a digit's image and its spoken name, from the files of MNIST and FSDD.

    Modalities `"image"`, 28x28, and `"audio"`, a 112x112 log spectrogram of 1.03 s; both
    are grey images. One label of ten. An image is in one pair at most; a recording
    is in as many as are needed, evenly, each time in other noise. MNIST's own test images
    are in test and nowhere else. A record's id names both its sources.

    An image keeps the leading principal components, as few as hold at least `energy` of
    the variance of the train part's images (the mean image is subtracted first
    and added again, and does not count), and is rounded to 0..255.

    Args:
        folder: MNIST's four files, `train-images-idx3-ubyte.gz` and so on, and FSDD:
            its release archive (`.tar.gz`) or wav files in `recordings`.
        pairs: how many in train, dev and test.
        seed: of the choice of images, pairs, noise, and of speakers.
        apart: what train, dev and test do not share: "takes" (0 to 4 are test, as in
            FSDD, 5 to 9 dev, the others train; every speaker is in all parts), or
            "speakers" (a sixth of them test, a sixth dev, at least one each).
        energy: in (0, 1]; 1 leaves images as they are.
        noise: range of the signal-to-noise ratio in dB, drawn uniformly: a recording's mean
            power without silence around it, over the noise's. None: no noise.
        strict: raise on the first unusable recording instead of leaving it out.
        progress: show a progress bar on stderr.

    Raises:
        InputError: files missing or broken, more pairs than images, a digit of which a
            part has no recording, or, if `strict`, any unusable recording.
    """
    folder = Path(folder)
    _check(pairs, seed, energy, noise, apart)
    skips = Skips(str(folder), strict)
    sources = {part: read_digits(folder, part) for part in PARTS}
    recordings = read_recordings(folder, skips)
    spoken = recordings.parts(apart, seed)
    rows = _chosen(sources, pairs, seed, folder)
    places = [(PARTS[split == "test"], split) for split in SPLITS]
    pixels = {split: sources[source][0][rows[split]] for source, split in places}
    mean, components = principal(pixels["train"], energy)
    records: list[Record] = []
    with tqdm(total=sum(pairs), desc="spectrograms", unit="pair", disable=not progress) as bar:
        for number, (source, split) in enumerate(places):
            digits = sources[source][1][rows[split]]
            rng = np.random.default_rng([seed, 1, number])
            partners = recordings.partners(digits, spoken == split, split, rng)
            images = reduced(pixels[split], mean, components)
            for first in range(0, len(digits), _CHUNK):
                part = slice(first, first + _CHUNK)
                sounds = _grey(recordings.in_noise(partners[part], noise, rng))
                for row, partner, digit, image, sound in zip(
                    rows[split][part], partners[part], digits[part], _grey(images[part]), sounds,
                    strict=True,
                ):  # fmt: skip
                    name = f"{source}-{row}+{recordings.names[partner]}"
                    inputs = {"image": image, "audio": sound}
                    records.append(Record(name, inputs, (str(digit),), split))
                bar.update(len(sounds))
    skips.check(records)
    kinds = {"image": "image", "audio": "image"}
    classes = tuple(map(str, range(10)))
    return Dataset("avmnist", kinds, classes, tuple(records), skips.reasons, single_label=True)


def principal(images: np.ndarray, energy: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (D,) and the leading principal components (D, k) of images (N, ...), D pixels.

    k is the smallest number of components that hold at least `energy` of the variance.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    mean = flat.mean(0)
    centred = flat - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
    shares = np.cumsum(variances[::-1].clip(0)) / max(variances.clip(0).sum(), 1e-12)
    count = int(np.searchsorted(shares, energy * (1 - 1e-12))) + 1
    return mean, vectors[:, ::-1][:, :count]


def reduced(images: np.ndarray, mean: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Return images (N, ...) uint8 with nothing but these components left, rounded to uint8."""
    flat = images.reshape(len(images), -1).astype(np.float64) - mean
    projected = flat @ components @ components.T + mean
    return np.rint(projected).clip(0, 255).astype(np.uint8).reshape(images.shape)


def _check(
    pairs: tuple[int, int, int], seed: int, energy: float, noise: _Range | None, apart: str
) -> None:
    if len(pairs) != 3 or not all(isinstance(n, int) and n >= 1 for n in pairs):
        raise InputError(
            f"expected pairs >= 1 of train, dev and test, got {pairs}; as (8000, 1000, 3000)."
        )
    if seed < 0:
        raise InputError(f"expected a seed that is a whole number >= 0, got {seed!r}.")
    if not 0 < energy <= 1:
        raise InputError(f"expected an energy in (0, 1], got {energy}; as 0.25.")
    if noise is not None and not -100 <= noise[0] <= noise[1] <= 100:
        raise InputError(f"expected noise as a range in dB, got {noise}; as (-5, 10), or None.")
    if apart not in ("takes", "speakers"):
        raise InputError(f"expected apart 'takes' or 'speakers', got {apart!r}.")


def _chosen(
    sources: dict[str, Digits], pairs: tuple[int, int, int], seed: int, folder: Path
) -> dict[str, np.ndarray]:
    """Return the rows of the images of each part, in MNIST's own order."""
    train, dev, test = pairs
    chosen = {}
    for number, (source, needed) in enumerate(zip(PARTS, (train + dev, test), strict=True)):
        total = len(sources[source][0])
        if needed > total:
            raise InputError(
                f"{folder}: expected at most {total:,} pairs of the images of {source}, got "
                f"{needed:,}; give fewer pairs."
            )
        chosen[source] = np.random.default_rng([seed, 0, number]).permutation(total)[:needed]
    first, last = chosen[PARTS[0]], chosen[PARTS[1]]
    rows = {"train": first[:train], "dev": first[train:], "test": last}
    return {split: np.sort(rows[split]) for split in SPLITS}


def _grey(images: np.ndarray) -> np.ndarray:
    """Return grey images (n, H, W) as (n, 3, H, W) that share memory and that nobody can change."""
    n, height, width = images.shape
    return np.broadcast_to(images[:, None], (n, 3, height, width))
