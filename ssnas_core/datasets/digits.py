"""The handwritten digits that come with scikit-learn: real images, small enough for minutes.

1,797 images of 8 x 8 pixels in 17 levels of grey, of ten classes, from the test set of the UCI
repository's "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998). They come
without a split, so there is a stratified one. One modality: nothing is there to be fused.
"""

from __future__ import annotations

import numpy as np

from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.datasets.splits import stratified_split

_LEVELS = 16  # the brightest


def digits() -> Dataset:
    """Return the digits as white on black: 1,258 train, 180 dev and 359 test images."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / _LEVELS)).astype(np.uint8).reshape(-1, 1, 8, 8)
    split = stratified_split(np.eye(10, dtype=np.uint8)[labels], seed=0)
    records = tuple(
        Record(str(number), {"image": image.repeat(3, axis=0)}, (str(label),), part)
        for number, (image, label, part) in enumerate(zip(pixels, labels, split, strict=True))
    )
    classes = tuple(map(str, range(10)))
    return Dataset("digits", {"image": "image"}, classes, records, single_label=True)
