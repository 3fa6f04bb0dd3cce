"""A data set: numbers and words that share a class."""

import numpy as np

from ssnas_core import ArrayDataset


def shared():
    """60 samples of two modalities in three classes."""
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 3
    numbers = (classes[:, None] + 0.3 * rng.normal(size=(60, 6))).astype(np.float32)
    words = [" ".join(rng.choice((("sea", "sun"), ("ice", "fog"), ("red", "sky"))[c], 5))
             for c in classes]  # fmt: skip
    return ArrayDataset({"numbers": numbers, "words": words}, classes)
