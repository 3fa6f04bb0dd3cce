"""MNIST: handwritten digits, white on black, 28 x 28 (LeCun et al. 1998).

Images and labels are in four files of the IDX form, gzipped or not. So are Fashion-MNIST and
others of ten classes that took the place of those files; their classes are numbers here too.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from pathlib import Path

import numpy as np

from ssnas_core.common.errors import InputError, one_line
from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.datasets.splits import with_splits

_LOG = logging.getLogger(__name__)

DIGIT_SIDE = 28  # pixels
PARTS: tuple[str, str] = ("train", "t10k")
Digits = tuple[np.ndarray, np.ndarray]  # images and their digits
_MOST = 200_000  # images of a file; MNIST has 60,000, its extended form EMNIST more
_MAGIC = {"images-idx3": 0x803, "labels-idx1": 0x801}


def _idx_file(folder: Path, part: str, what: str) -> Path | None:
    """Return the file `<part>-<what>-ubyte[.gz]` in the folder; None where there is none."""
    names = (f"{part}-{what}-ubyte{suffix}" for suffix in (".gz", ""))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_digits(folder: Path, part: str) -> Digits:
    """Return images (N, 28, 28) uint8 and digits (N,) int64 of one of `PARTS`.

    Raises:
        InputError: a file is missing, is none, is cut short, or they do not fit.
    """
    images = _read(folder, part, "images-idx3", (DIGIT_SIDE, DIGIT_SIDE))
    labels = _read(folder, part, "labels-idx1", ())
    if len(images) != len(labels) or labels.max(initial=0) > 9:
        raise InputError(
            f"{folder}: expected one label from 0 to 9 for each of the {len(images)} images of "
            f"{part}, got {len(labels)} up to {labels.max(initial=0)}; download both files again."
        )
    return images, labels.astype(np.int64)


def _read(folder: Path, part: str, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the rows of a file, uint8 (N, *shape)."""
    path = _idx_file(folder, part, what)
    if path is None:
        raise InputError(
            f"{folder}: expected {part}-{what}-ubyte.gz, got no such file; fetch it by "
            "`ssnas download avmnist`."
        )
    dimensions = 1 + len(shape)
    row = int(np.prod(shape))
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            header = np.frombuffer(file.read(4 * (1 + dimensions)), ">u4").tolist()
            count = header[1] if len(header) == 1 + dimensions else 0
            good = header[:1] == [_MAGIC[what]] and tuple(header[2:]) == shape
            if not good or not 1 <= count <= _MOST:
                raise InputError(
                    f"{path}: expected an IDX file of 1 to {_MOST:,} rows of "
                    f"{' x '.join(map(str, shape)) or 'one byte'}, got the header {header}; "
                    "download it again."
                )
            content = file.read(count * row + 1)  # of another one no more than this is unpacked
    except InputError:  # a ValueError too
        raise
    except (EOFError, ValueError, zlib.error, OSError) as error:
        raise InputError(f"cannot read {path} ({one_line(error)}); download it again.") from error
    if len(content) != count * row:
        raise InputError(
            f"{path}: expected {count * row:,} bytes of {count:,} rows, got "
            f"{'more' if len(content) > count * row else f'{len(content):,}'}; download it again."
        )
    return np.frombuffer(content, np.uint8).reshape(count, *shape)


def has_digits(folder: Path) -> bool:
    """Whether the folder holds MNIST's training images."""
    return _idx_file(folder, PARTS[0], "images-idx3") is not None


def read_mnist(
    folder: Path, *, seed: int = 0, strict: bool = False, progress: bool = False
) -> Dataset:
    """Return MNIST's digits, one image and one label of ten each.

    The modality is `"image"`, grey, 28 x 28. MNIST's own test images are test; a tenth of
    its training images is dev, stratified, the others train.

    Args:
        folder: with `train-images-idx3-ubyte.gz`, and so on, gzipped or not.
        seed: of the dev part.
        strict: taken as by all readers; files that are broken are always refused.
        progress: taken as by all readers; reading takes a second.

    Raises:
        InputError: files missing or broken.
    """
    folder = Path(folder)
    records: list[Record] = []
    for part in PARTS:
        images, digits = read_digits(folder, part)
        grey = np.broadcast_to(images[:, None], (len(images), 3, DIGIT_SIDE, DIGIT_SIDE))
        records += [
            Record(
                f"{part}-{row}", {"image": image}, (str(digit),), "" if part == "train" else "test"
            )
            for row, (image, digit) in enumerate(zip(grey, digits, strict=True))
        ]
    classes = tuple(map(str, range(10)))
    placed = with_splits(records, classes, seed)
    return Dataset("mnist", {"image": "image"}, classes, placed, single_label=True)
