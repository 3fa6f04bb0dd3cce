"""Facts about decoding one image: what is let through, and what it may cost."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from ssnas_core.features import inputs
from ssnas_core.features.inputs import decode_image


def written(path, form="JPEG", size=(40, 30), **options):
    Image.new("RGB", size, (200, 10, 10)).save(path, form, **options)
    return path


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"])
def test_formats_of_photographs_are_decoded_whatever_the_name(tmp_path, form):
    pixels = decode_image(written(tmp_path / "a.jpeg", form), (8, 8))
    assert pixels.shape == (3, 8, 8)
    assert abs(pixels.reshape(3, -1).mean(1) - (200, 10, 10)).max() < 6


@pytest.mark.parametrize("form", ["EPS", "PCX", "TGA", "ICO"])
def test_other_formats_are_not_images(tmp_path, form):
    with pytest.raises(OSError, match="cannot identify image file"):
        decode_image(written(tmp_path / "a.jpeg", form), (8, 8))


def test_pixels_are_limited_to_half_as_many_in_webp(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_PIXELS", 1200)
    decode_image(written(tmp_path / "a.png", "PNG"), (8, 8))
    with pytest.raises(ValueError, match="40 x 30 pixels, more than 600"):
        decode_image(written(tmp_path / "a.webp", "WEBP"), (8, 8))
    with pytest.raises(ValueError, match="41 x 30 pixels, more than 1,200"):
        decode_image(written(tmp_path / "b.png", "PNG", (41, 30)), (8, 8))


def test_jpeg_of_scans_without_end_is_refused(tmp_path):
    buffer = io.BytesIO()
    written(buffer, progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    path = tmp_path / "a.jpeg"
    path.write_bytes(whole)
    decode_image(path, (8, 8))
    path.write_bytes(whole[:-2] + whole[last:-2] * 200 + whole[-2:])
    with pytest.raises(ValueError, match="a JPEG of more than 200 scans"):
        decode_image(path, (8, 8))


def test_of_large_images_one_is_decoded_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_LARGE", 1000)
    large, small = written(tmp_path / "a.png", "PNG"), written(tmp_path / "b.png", "PNG", (9, 9))
    waiting = threading.Thread(target=decode_image, args=(large, (8, 8)))
    with inputs._ONE_AT_A_TIME:
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        decode_image(small, (8, 8))  # does not wait
    waiting.join(10)
    assert not waiting.is_alive()


def test_pipes_and_devices_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="is no ordinary file"):
            decode_image(path, (8, 8))
