"""The stand-in for AV-MNIST's files has their forms, and is as hard as it says."""

from __future__ import annotations

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets.avmnist import (
    WINDOW,
    principal,
    read_avmnist,
    read_recordings,
    spectrograms,
)
from ssnas_core.datasets.mnist import read_digits
from ssnas_core.datasets.open import open_dataset
from ssnas_core.datasets.records import Skips
from ssnas_core.datasets.toy_avmnist import toy_avmnist

IMAGES, TAKES = (80, 40), (0, 5, 10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_avmnist(tmp_path_factory.mktemp("toy"), images=IMAGES, takes=TAKES)


def content(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_files_begin_as_the_published_ones_do(folder):
    images = (folder / "train-images-idx3-ubyte").read_bytes()
    assert images[:16].hex(" ", 4) == "00000803 00000050 0000001c 0000001c"
    assert len(images) == 16 + 80 * 28 * 28
    labels = (folder / "t10k-labels-idx1-ubyte").read_bytes()
    assert labels[:8].hex(" ", 4) == "00000801 00000028"
    assert sorted(labels[8:]) == sorted(list(range(10)) * 4)
    sound = (folder / "recordings" / "7_anna_5.wav").read_bytes()
    assert (sound[:4], sound[8:12], int.from_bytes(sound[24:28], "little")) == (
        b"RIFF", b"WAVE", 8000,
    )  # fmt: skip


def test_reader_takes_all_of_it_with_takes_or_speakers_apart(folder):
    for apart in ("takes", "speakers"):
        data = read_avmnist(folder, pairs=(60, 20, 40), apart=apart, noise=None, strict=True)
        assert len(data) == 120 and not data.skipped
        assert {label for record in data.records for label in record.labels} == set("0123456789")


def test_same_seed_writes_the_same_bytes_and_another_seed_others(folder, tmp_path):
    small = {"images": (10, 10), "takes": (0,)}
    first, again = (toy_avmnist(tmp_path / name, **small) for name in "ab")
    assert content(first) == content(again)
    other = content(toy_avmnist(tmp_path / "c", **small, seed=1))
    assert other.keys() == content(first).keys()
    assert all(other[name] != value for name, value in content(first).items())


def test_digits_are_white_on_black_inside_the_picture_and_none_is_like_another(folder):
    images, digits = read_digits(folder, "train")
    assert len({image.tobytes() for image in images}) == len(images)
    assert (images.max((1, 2)) > 200).all()
    border = np.ones((28, 28), bool)
    border[2:-2, 2:-2] = False
    assert images[:, border].mean() < 6 < 25 < images.mean()
    ink = [images[digits == digit].mean() for digit in range(10)]
    assert ink[8] > ink[1] and min(ink) > 10


def test_a_quarter_of_the_energy_is_a_few_components(folder):
    images, _ = read_digits(folder, "train")
    assert 2 <= principal(images, 0.25)[1].shape[1] <= 4


def test_two_frequencies_above_the_hum_are_those_of_row_and_column_on_a_keypad(folder):
    keypad = {
        1: (450, 2300), 2: (450, 2900), 3: (450, 3500),
        4: (900, 2300), 5: (900, 2900), 6: (900, 3500),
        7: (1350, 2300), 8: (1350, 2900), 9: (1350, 3500), 0: (1800, 2900),
    }  # fmt: skip
    read = read_recordings(folder, Skips("toy", True))
    assert len(read.names) == 10 * 6 * len(TAKES)
    middle = 2050 * WINDOW // 8000
    for digit, picture in zip(read.digits, spectrograms(read.samples), strict=True):
        loud = picture.astype(float).mean(1)[::-1]  # of 36 Hz, 71 Hz, ...
        assert loud[:8].max() == loud.max()  # the hum
        loud[:8] = 0
        low, high = loud[:middle].argmax() + 1, middle + loud[middle:].argmax() + 1
        found = np.array([low, high]) * 8000 / WINDOW
        assert np.abs(found / keypad[digit] - 1).max() < 0.1


def test_it_is_opened_as_avmnist(folder, monkeypatch):
    monkeypatch.setitem(read_avmnist.__kwdefaults__, "pairs", (60, 20, 40))
    assert open_dataset(folder).name == "avmnist"


@pytest.mark.parametrize(
    "given", [{"images": (0, 5)}, {"takes": ()}, {"takes": (-1,)}, {"seed": -1}]
)
def test_counts_that_make_no_sense_are_refused(tmp_path, given):
    with pytest.raises(InputError, match=r"images >= 1, takes and a seed >= 0, got .*; as \(500"):
        toy_avmnist(tmp_path, **given)
    assert not any(tmp_path.iterdir())
