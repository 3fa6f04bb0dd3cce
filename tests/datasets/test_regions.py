"""Regions and images below a folder, by the picture's number; what is no region file is told."""

from __future__ import annotations

import numpy as np
import pytest

from ssnas_core.common.errors import InputError
from ssnas_core.datasets import regions
from ssnas_core.datasets.records import BadRecordError
from ssnas_core.datasets.regions import picture_name, read_pictures

BOX = [[0.0, 0.0, 9.0, 9.0], [10.0, 5.0, 40.0, 30.0]]


def save(path, count=2, channels=3, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    boxes = np.array((BOX * count)[:count], np.float32)
    what = np.arange(channels * count, dtype=np.float32).reshape(channels, count)
    arrays = {"x": what, "bbox": boxes, "image_w": 40, "image_h": 30, "num_bbox": count} | changes
    np.savez_compressed(path, **{n: one for n, one in arrays.items() if one is not None})
    return path


def test_number_at_the_end_of_a_file_is_its_pictures():
    files = ("COCO_val2014_000000000042.jpg.npz", "a/b/000042.JPG", "42.png", "x_7.y.jpg")
    assert [picture_name(file) for file in files] == ["42", "42", "42", "x_7.y"]


def test_regions_are_rows_with_their_box_at_the_end_and_filled_to_a_square_number(tmp_path):
    save(tmp_path / "a" / "COCO_train2014_000000000001.jpg.npz", 5)
    save(tmp_path / "b" / "x_2.jpg.npz", 2)
    save(tmp_path / "b" / "x_3.jpg.npz", 30)  # not asked for
    found = read_pictures(tmp_path, ["1", "2"])
    assert (found.modality, found.kind, sorted(found.values)) == ("regions", "array", ["1", "2"])
    rows = found.inputs("1")["regions"]
    assert rows.shape == (9, 7) and rows.dtype == np.float32 and not rows[5:].any()
    assert rows[1].tolist() == [1, 6, 11, *BOX[1]]
    cut = read_pictures(tmp_path, ["1", "2"], regions=1).inputs("2")["regions"]
    assert cut.tolist() == [[0, 2, 4, *BOX[0]]]


def test_images_are_taken_where_there_are_no_regions(tmp_path):
    for name in ("p_1.jpg", "p_2.JPG"):
        (tmp_path / name).write_bytes(b"some bytes")
    (tmp_path / "p_3.jpg").touch()
    found = read_pictures(tmp_path, ["1", "2", "3", "4"])
    assert (found.modality, found.kind) == ("image", "image")
    assert found.inputs("2") == {"image": tmp_path / "p_2.JPG"}
    for name, message in (("3", "picture empty"), ("4", "picture missing")):
        with pytest.raises(BadRecordError, match=message):
            found.inputs(name)
    save(tmp_path / "q_1.jpg.npz")
    assert read_pictures(tmp_path, ["1"]).modality == "regions"


BAD = {
    "a box outside its image": {"bbox": np.array([[0, 0, 9, 9], [10, 5, 42, 30]])},
    "a box outside its image ": {"bbox": np.array([[0, 0, 9, 9], [10, 5, 9, 30]])},
    "a box outside its image  ": {"bbox": np.array([[0, -2, 9, 9], [10, 5, 20, 30]])},
    "region file without bbox": {"bbox": None},
    "region file without image_h": {"image_h": None},
    "region file without numbers": {"image_h": "tall"},
    "region file with NaN or inf": {"x": np.full((3, 2), np.nan)},
    "region file with x (2, 3) and bbox (2, 4), expected (C, n)": {"x": np.zeros((2, 3))},
    "region file of 1 channels, others have 3": {"x": np.zeros((1, 2))},
    "region file damaged": {"x": np.array([[{}]], dtype=object)},  # a pickle
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_region_file_is_told_with_its_picture(tmp_path, reason):
    save(tmp_path / "p_1.jpg.npz")
    save(tmp_path / "p_2.jpg.npz", **BAD[reason])
    found = read_pictures(tmp_path, ["1", "2", "3"])
    assert list(found.values) == ["1"]
    assert found.bad["2"].startswith(reason.strip()) and found.bad["3"] == "region file missing"


def test_half_a_pixel_out_of_the_image_is_rounding(tmp_path):
    save(tmp_path / "p_1.jpg.npz", 1, bbox=np.array([[-0.5, 0, 40.5, 30.0]]))
    assert read_pictures(tmp_path, ["1"]).bad == {}


def test_torn_and_huge_files_are_not_read(tmp_path, monkeypatch):
    whole = save(tmp_path / "p_1.jpg.npz").read_bytes()
    (tmp_path / "p_2.jpg.npz").write_bytes(whole[:-40])
    save(tmp_path / "p_3.jpg.npz", 500)
    monkeypatch.setattr(regions, "MAX_REGION_BYTES", 10_000)
    bad = read_pictures(tmp_path, ["1", "2", "3"]).bad
    assert bad == {"2": "region file damaged", "3": "region file larger than 0 MB"}
    monkeypatch.setattr(regions, "MAX_ALL_BYTES", 30)
    with pytest.raises(InputError, match="at most 30 bytes, got more in 1 of 3 .*give fewer pict"):
        read_pictures(tmp_path, ["1", "2", "3"])


def test_two_files_of_a_picture_and_none_at_all_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"expected region files \(NAME.jpg.npz\) or images .* none"
    ):
        read_pictures(tmp_path, ["1"])
    save(tmp_path / "a" / "p_1.jpg.npz")
    save(tmp_path / "b" / "p_01.jpg.npz")
    with pytest.raises(InputError, match="one file of the picture 1, got p_1.jpg.npz and p_01.jpg"):
        read_pictures(tmp_path, ["1"])
