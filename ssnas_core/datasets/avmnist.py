"""AV-MNIST: a digit that is hard to see beside the same digit, spoken in noise.

After CentralNet (Vielzeuf et al., arXiv:1808.07275) and MFAS (arXiv:1903.06496): MNIST
images with 75 % of their energy removed by PCA, and spectrograms of the Free Spoken
Digit Dataset with noise added, paired at random within a class.

Deviations: no list of the published pairs is known to us, so pairs are drawn here. The
noise is synthetic, between white and pink, at a random level, not the ESC-50 recordings.
Components are fitted on the images of the train part alone, and a dev part is kept apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from tqdm.auto import tqdm

from ssnas_core.datasets._idx import PARTS, idx_file, read_digits
from ssnas_core.datasets._skips import Skips
from ssnas_core.datasets._speech import Recordings, noise_like, read_recordings, spectrograms
from ssnas_core.datasets.records import SPLITS, Dataset, Record
from ssnas_core.errors import InputError

PAIRS = (8000, 1000, 3000)
"""Pairs in train, dev and test unless others are asked for: a study on two cores takes them."""

NOISE = (-10.0, 5.0)
"""Range of the signal-to-noise ratio in dB."""

_COLOUR = (0.0, 1.0)  # white to pink
_DEV_TAKES, _TEST_TAKES = range(5, 10), range(5)  # FSDD's own test takes are 0 to 4
_CHUNK = 256  # spectrograms computed at a time; decides the order of chance, so keep it


def is_avmnist(folder: Path) -> bool:
    """Whether the folder holds MNIST's training images, so is to be read as AV-MNIST."""
    return idx_file(folder, PARTS[0], "images-idx3") is not None


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
    """Pairs of a digit's image and its spoken name, from the files of MNIST and FSDD.

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
    spoken = _parts(recordings, apart, seed, folder)
    rows = _chosen(sources, pairs, seed, folder)
    places = [(PARTS[split == "test"], split) for split in SPLITS]
    pixels = {split: sources[source][0][rows[split]] for source, split in places}
    mean, components = principal(pixels["train"], energy)
    records: list[Record] = []
    with tqdm(total=sum(pairs), desc="spectrograms", unit="pair", disable=not progress) as bar:
        for number, (source, split) in enumerate(places):
            digits = sources[source][1][rows[split]]
            rng = np.random.default_rng([seed, 1, number])
            partners = _partners(digits, recordings, spoken == split, rng, split, folder)
            images = reduced(pixels[split], mean, components)
            for first in range(0, len(digits), _CHUNK):
                part = slice(first, first + _CHUNK)
                sounds = _grey(_in_noise(recordings, partners[part], noise, rng))
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
    """Mean (D,) and the leading principal components (D, k) of images (N, ...), D pixels.

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
    """Images (N, ...) uint8 with nothing but these components left, rounded to uint8."""
    flat = images.reshape(len(images), -1).astype(np.float64) - mean
    kept = flat @ components @ components.T + mean
    return np.rint(kept).clip(0, 255).astype(np.uint8).reshape(images.shape)


def _check(
    pairs: tuple[int, int, int],
    seed: int,
    energy: float,
    noise: tuple[float, float] | None,
    apart: str,
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


def _parts(recordings: Recordings, apart: str, seed: int, folder: Path) -> np.ndarray:
    """The part each recording belongs to, (R,) of str."""
    takes, names = recordings.takes, sorted(set(recordings.speakers.tolist()))
    dev, test = np.isin(takes, _DEV_TAKES), np.isin(takes, _TEST_TAKES)
    if apart == "speakers":
        if len(names) < 3:
            raise InputError(
                f"{folder}: expected at least 3 speakers to keep apart, got {len(names)}; keep "
                "takes apart instead."
            )
        drawn = np.random.default_rng([seed, 2]).permutation(names)
        count = max(1, len(names) // 6)
        dev = np.isin(recordings.speakers, drawn[:count])
        test = np.isin(recordings.speakers, drawn[count : 2 * count])
    return np.select([dev, test], ["dev", "test"], "train")


def _chosen(
    sources: dict[str, tuple[np.ndarray, np.ndarray]],
    pairs: tuple[int, int, int],
    seed: int,
    folder: Path,
) -> dict[str, np.ndarray]:
    """Rows of the images of each part, in MNIST's own order."""
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


def _partners(
    digits: np.ndarray,
    recordings: Recordings,
    usable: np.ndarray,
    rng: np.random.Generator,
    split: str,
    folder: Path,
) -> np.ndarray:
    """A recording of the same digit for each of `digits` (n,), each as often as the others."""
    partners = np.empty(len(digits), dtype=np.int64)
    for digit in range(10):
        wanted = np.flatnonzero(digits == digit)
        there = rng.permutation(np.flatnonzero(usable & (recordings.digits == digit)))
        if len(wanted) and not len(there):
            raise InputError(
                f"{folder}: expected recordings of every digit in {split}, got none of {digit}; "
                "restore FSDD, or keep takes or speakers apart otherwise."
            )
        partners[rng.permutation(wanted)] = np.resize(there, len(wanted))
    return partners


def _in_noise(
    recordings: Recordings,
    rows: np.ndarray,
    noise: tuple[float, float] | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Spectrograms of the recordings `rows` (n,), each in noise of its own, (n, 112, 112)."""
    waves = recordings.samples[rows].astype(np.float64)
    if noise is not None:
        ratio = 10 ** (rng.uniform(*noise, len(rows)) / 10)
        level = np.sqrt(recordings.power[rows] / ratio)
        waves += level[:, None] * noise_like(len(rows), rng, _COLOUR)
    return spectrograms(waves)


def _grey(images: np.ndarray) -> np.ndarray:
    """Grey images (n, H, W) as (n, 3, H, W) that share memory and that nobody can change."""
    n, height, width = images.shape
    return np.broadcast_to(images[:, None], (n, 3, height, width))
