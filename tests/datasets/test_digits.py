"""The digits of scikit-learn as a data set of one modality."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.digits import digits
from ssnas_core.datasets.open import is_named, open_dataset
from ssnas_core.datasets.table import TableOptions
from ssnas_core.features.images import decode_image


@pytest.fixture(scope="module")
def data():
    return digits()


def test_they_are_scikit_learn_s_images_and_labels_in_their_order(data):
    images, labels = load_digits(return_X_y=True)
    assert len(data) == 1797 and data.single_label and data.kinds == {"image": "image"}
    assert data.targets().tolist() == labels.tolist()
    for row in (0, 5, 1796):
        image = data.records[row].inputs["image"]
        assert image.dtype == np.uint8 and image.shape == (3, 8, 8)
        assert (image == image[:1]).all() and image.max() == 255 * images[row].max() // 16
        grey = image[0].astype(float) * 16 / 255
        np.testing.assert_allclose(grey, images[row].reshape(8, 8), atol=0.04)
        np.testing.assert_array_equal(decode_image(image, (8, 8)), image)


def test_the_split_is_always_the_same_and_even_in_its_classes(data):
    counts = {name: len(data.indices(name)) for name in ("train", "dev", "test")}
    assert counts == {"train": 1258, "dev": 180, "test": 359}
    assert [one.split for one in digits().records] == [one.split for one in data.records]
    for name, count in counts.items():
        of_classes = np.bincount(data.targets()[data.indices(name)], minlength=10)
        assert np.abs(of_classes / count - 0.1).max() < 0.012


def test_they_are_opened_by_their_name(data, tmp_path, monkeypatch):
    assert is_named("digits") and open_dataset("digits").fingerprint() == data.fingerprint()
    with pytest.raises(InputError, match="digits is no table, so it has no columns to name"):
        open_dataset("digits", table=TableOptions(images=("poster",)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert not is_named("digits")
