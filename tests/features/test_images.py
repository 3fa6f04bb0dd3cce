"""Facts about decoding one image: what it shows, what is let through, and what it may cost."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from ssnas_core.features import images
from ssnas_core.features.images import ImageFacts, decode_image, describe_image


def written(path, form="JPEG", size=(40, 30), **options):
    Image.new("RGB", size, (200, 10, 10)).save(path, form, **options)
    return path


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP"])
def test_formats_of_photographs_are_decoded_whatever_the_name(tmp_path, form):
    pixels = decode_image(written(tmp_path / "a.jpeg", form), (8, 8))
    assert pixels.shape == (3, 8, 8)
    assert abs(pixels.reshape(3, -1).mean(1) - (200, 10, 10)).max() < 6


def test_pixels_are_limited_to_half_as_many_in_webp(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1200)
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
    monkeypatch.setattr(images, "_LARGE", 1000)
    large, small = written(tmp_path / "a.png", "PNG"), written(tmp_path / "b.png", "PNG", (9, 9))
    waiting = threading.Thread(target=decode_image, args=(large, (8, 8)))
    with images._ONE_AT_A_TIME:
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


# --- what is stored, and what it shows

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every level once
SHOWN = np.stack([LEVELS] * 3)


def saved(image: Any, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        buffer, form, **options
    )
    return buffer.getvalue()


def tiff(data: bytes, **tags: int) -> bytes:
    """A grey TIFF of 16 x 16 numbers; `tags` as bits, zero_is_black and sign."""
    fields = {256: 16, 257: 16, 258: tags["bits"], 259: 1, 262: tags.get("zero_is_black", 1)}
    fields |= {273: 8, 277: 1, 278: 16, 279: len(data), 339: tags.get("sign", 1)}
    entries = b"".join(
        struct.pack("<HHI", tag, 4 if tag in (273, 279) else 3, 1) + struct.pack("<I", value)
        for tag, value in sorted(fields.items())
    )
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(fields)) + entries + bytes(4)


def packed(numbers: np.ndarray) -> bytes:
    """Whole numbers of 12 bits, two in three bytes."""
    bits = (numbers.reshape(-1, 1) >> np.arange(11, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def png(depth: int, kind: int, rows: list[bytes], width: int, key: bytes) -> bytes:
    """A PNG with a transparent colour."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + check

    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = ((b"IHDR", head), (b"tRNS", key), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


WIDE = LEVELS.astype(np.uint16) * 257
SHARE = (LEVELS / 255).astype(np.float32)
TWELVE = (LEVELS.astype(np.uint32) * 4095 + 127) // 255
DEEP = {
    "PNG of 16 bits": lambda: saved(WIDE, "PNG"),
    "TIFF of 16 bits": lambda: saved(WIDE, "TIFF"),
    "TIFF of 16 bits, compressed": lambda: saved(WIDE, "TIFF", compression="tiff_lzw"),
    "PGM of 16 bits": lambda: b"P5 16 16 65535 " + WIDE.astype(">u2").tobytes(),
    "PGM of 10 bits": lambda: (
        b"P5 16 16 1020 " + (LEVELS.astype(">u2") * 4).astype(">u2").tobytes()
    ),
    "JPEG 2000 of 16 bits": lambda: saved(WIDE, "JPEG2000", irreversible=False),
    "TIFF of 12 bits": lambda: tiff(packed(TWELVE), bits=12),
    "TIFF of 16 bits, 0 is white": lambda: tiff((65535 - WIDE).tobytes(), bits=16, zero_is_black=0),
    "TIFF of 8 bits, 0 is white": lambda: tiff((255 - LEVELS).tobytes(), bits=8, zero_is_black=0),
    "TIFF of signed 16 bits": lambda: tiff(
        np.rint(LEVELS / 255 * 32767).astype("<i2").tobytes(), bits=16, sign=2
    ),
    "TIFF of 32 bits, up to 255": lambda: saved(LEVELS.astype(np.int32), "TIFF"),
    "TIFF of 32 bits, up to 65,535": lambda: saved(WIDE.astype(np.int32), "TIFF"),
    "TIFF of unsigned 32 bits": lambda: tiff(WIDE.astype("<u4").tobytes(), bits=32),
    "floats to 1": lambda: saved(SHARE, "TIFF"),
    "floats to 1, and a bit beyond": lambda: saved(SHARE * 1.001 - np.float32(5e-4), "TIFF"),
    "floats to 255": lambda: saved(LEVELS.astype(np.float32), "TIFF"),
    "floats, 0 is white": lambda: tiff(
        (1 - SHARE).astype("<f4").tobytes(), bits=32, sign=3, zero_is_black=0
    ),
    "PFM": lambda: b"Pf\n16 16\n-1.0\n" + SHARE[::-1].astype("<f4").tobytes(),
}


@pytest.mark.parametrize("case", DEEP)
def test_numbers_of_any_depth_show_every_level_they_hold(case):
    assert np.array_equal(decode_image(DEEP[case](), (16, 16)), SHOWN)


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "group4"}), ("PPM", {}), ("BMP", {})],
)
def test_one_bit_is_black_or_white(form, options):
    bits = np.random.default_rng(0).integers(0, 2, (16, 16)).astype(bool)
    found = decode_image(saved(bits, form, **options), (16, 16))
    assert np.array_equal(found, np.stack([bits * np.uint8(255)] * 3))


def test_a_dark_picture_of_16_bits_stays_dark():
    """Its range is the file's, not that of its pixels."""
    assert decode_image(saved(WIDE // 256, "PNG"), (16, 16)).max() == 1
    assert decode_image(tiff((WIDE // 256).tobytes(), bits=16), (16, 16)).max() == 1


UNCLEAR = {
    "NaN": (np.where(LEVELS == 7, np.nan, SHARE), "numbers from nan to nan, expected 0 to 1 or"),
    "infinity": (np.where(LEVELS == 7, np.inf, SHARE), "numbers from 0 to inf"),
    "floats to 1.7": (SHARE * 1.7, "numbers from 0 to 1.7, expected 0 to 1 or 0 to 255"),
    "floats from -1": (SHARE * 2 - 1, "numbers from -1 to 1,"),
    "floats to 65,535": (SHARE * 65535, "numbers from 0 to 65535,"),
    "negative whole numbers": (LEVELS.astype(np.int32) - 9, "from -9 to 246, expected 0 to 255 or"),
    "whole numbers of 24 bits": (LEVELS.astype(np.int32) << 16, "from 0 to 1.67117e.07, expected"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_numbers_that_do_not_say_what_is_white_are_refused(case):
    numbers, message = UNCLEAR[case]
    kind = np.int32 if numbers.dtype.kind == "i" else np.float32
    data = saved(numbers.astype(kind), "TIFF")
    with pytest.raises(ValueError, match=message):
        decode_image(data, (16, 16))
    facts = describe_image(data)
    assert facts.problem is not None and message[:12] in facts.problem


def no_mark() -> bytes:
    whole = saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG")
    mark = whole.index(b"\xff\xee")
    return whole[:mark] + whole[mark + 2 + int.from_bytes(whole[mark + 2 : mark + 4], "big") :]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: saved(Image.new("RGBA", (9, 9), (1, 2, 3, 0)), "PNG"), "every pixel is transpar"),
        (lambda: saved(Image.new("LA", (9, 9), (9, 0)), "PNG"), "every pixel is transparent"),
        (no_mark, "a CMYK JPEG without Adobe's mark"),
        (lambda: tiff(LEVELS.tobytes(), bits=8, sign=2), "a TIFF of signed 8-bit numbers"),
    ],
)
def test_pictures_that_may_mean_two_things_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        decode_image(make(), (16, 16))
    problem = describe_image(make()).problem
    assert problem is not None and re.search(message, problem)


RED, HIDDEN = (200, 30, 10), (0, 80, 160)  # left half; right half, which alpha hides
HALVES = np.zeros((8, 8, 3), np.uint8)
HALVES[:, :4], HALVES[:, 4:] = RED, HIDDEN
ALPHA = np.full((8, 8, 1), 255, np.uint8)
ALPHA[:, 4:] = 0
ON_WHITE = np.where(ALPHA, HALVES, 255).transpose(2, 0, 1)
GREY_ON_WHITE = np.where(ALPHA, 85, 255).transpose(2, 0, 1).repeat(3, 0)


def rgba(alpha: np.ndarray = ALPHA) -> Image.Image:
    return Image.fromarray(np.concatenate([HALVES, alpha], 2))


def palette() -> Image.Image:
    image = Image.fromarray(np.repeat([[0] * 4 + [1] * 4], 8, 0).astype(np.uint8))
    image.putpalette([*RED, *HIDDEN])
    return image


def grey_key(depth: int, left: int, right: int) -> bytes:
    row = np.array([left] * 4 + [right] * 4)
    bits = (row[:, None] >> np.arange(depth - 1, -1, -1)) & 1
    data = np.packbits(bits.astype(np.uint8)).tobytes()
    return png(depth, 0, [data] * 8, 8, right.to_bytes(2, "big"))


def wide_key() -> bytes:
    row = (np.array([RED] * 4 + [HIDDEN] * 4) * 257).astype(">u2").tobytes()
    return png(16, 2, [row] * 8, 8, (np.array(HIDDEN) * 257).astype(">u2").tobytes())


TRANSPARENT: dict[str, tuple[Callable[[], bytes], np.ndarray]] = {
    "RGBA PNG": (lambda: saved(rgba(), "PNG"), ON_WHITE),
    "RGBA WebP": (lambda: saved(rgba(), "WEBP", lossless=True), ON_WHITE),
    "RGBA TIFF": (lambda: saved(rgba(), "TIFF"), ON_WHITE),
    "RGBA JPEG 2000": (lambda: saved(rgba(), "JPEG2000", irreversible=False), ON_WHITE),
    "LA PNG": (
        lambda: saved(np.concatenate([np.full((8, 8, 1), 85, np.uint8), ALPHA], 2), "PNG"),
        GREY_ON_WHITE,
    ),
    "palette PNG, one colour": (lambda: saved(palette(), "PNG", transparency=1), ON_WHITE),
    "palette PNG, alpha of each": (
        lambda: saved(palette(), "PNG", transparency=b"\xff\x00"), ON_WHITE
    ),
    "GIF": (lambda: saved(palette(), "GIF", transparency=1), ON_WHITE),
    "RGB PNG, one colour": (
        lambda: saved(Image.fromarray(HALVES), "PNG", transparency=HIDDEN), ON_WHITE
    ),
    "RGB PNG of 16 bits, one colour": (wide_key, ON_WHITE),
    "grey PNG of 8 bits, one grey": (lambda: grey_key(8, 85, 170), GREY_ON_WHITE),
    "grey PNG of 4 bits, one grey": (lambda: grey_key(4, 5, 10), GREY_ON_WHITE),
    "grey PNG of 2 bits, one grey": (lambda: grey_key(2, 1, 2), GREY_ON_WHITE),
    "grey PNG of 16 bits, one grey": (lambda: grey_key(16, 85 * 257, 3), GREY_ON_WHITE),
    "PNG of 1 bit, black": (lambda: grey_key(1, 1, 0), np.full((3, 8, 8), 255)),
    "half transparent": (
        lambda: saved(rgba(np.full((8, 8, 1), 128, np.uint8)), "PNG"),
        np.rint(HALVES * (128 / 255) + 255 * (127 / 255)).transpose(2, 0, 1),
    ),
    "opaque RGBA": (lambda: saved(rgba(ALPHA * 0 + 255), "PNG"), HALVES.transpose(2, 0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", TRANSPARENT)
def test_what_alpha_hides_is_white(case):
    make, expected = TRANSPARENT[case]
    assert np.array_equal(decode_image(make(), (8, 8)), expected)


def test_alpha_of_a_pil_image_counts_too():
    for image in (rgba(), rgba().convert("RGBa")):
        found = decode_image(image, (8, 8))
        assert np.array_equal(found[:, :, 4:], ON_WHITE[:, :, 4:])
        assert np.array_equal(found[:, :, :4], ON_WHITE[:, :, :4])


@pytest.mark.parametrize(
    ("mode", "form", "most"),
    [
        ("RGB", "PNG", 0), ("P", "PNG", 0), ("CMYK", "TIFF", 1), ("CMYK", "JPEG", 2),
        ("YCbCr", "TIFF", 2), ("LAB", "TIFF", 3), ("RGB", "JPEG", 2), ("RGBX", "TIFF", 0),
    ],
)  # fmt: skip
def test_colours_of_every_kind_are_seen(mode, form, most):
    colour = (200, 100, 50)
    image = Image.new("RGB", (8, 8), colour)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    found = decode_image(saved(image, form), (8, 8)).astype(int)
    assert np.abs(found - np.reshape(colour, (3, 1, 1))).max() <= most


CORNERS = np.zeros((16, 8, 3), np.uint8)  # a tall picture, red above, blue below left, else black
CORNERS[:8, :, 0] = 240
CORNERS[8:, :4, 2] = 240
STORED = {  # orientation -> how the file holds the picture, by the EXIF standard's own words
    1: CORNERS,
    2: CORNERS[:, ::-1],
    3: CORNERS[::-1, ::-1],
    4: CORNERS[::-1],
    5: CORNERS.transpose(1, 0, 2),
    6: CORNERS.transpose(1, 0, 2)[::-1],
    7: CORNERS.transpose(1, 0, 2)[::-1, ::-1],
    8: CORNERS.transpose(1, 0, 2)[:, ::-1],
}


def oriented(form: str, turn: int, scale: int = 1, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = STORED[turn].repeat(scale, 0).repeat(scale, 1)
    return saved(np.ascontiguousarray(pixels), form, exif=exif, **options)


@pytest.mark.parametrize("turn", STORED)
def test_pictures_stand_as_their_exif_says(turn):
    upright = CORNERS.transpose(2, 0, 1)
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        data = oriented(form, turn, **options)
        assert np.array_equal(decode_image(data, (16, 8)), upright), form
        assert describe_image(data) == ImageFacts(8, 16, "RGB", form)
        assert np.array_equal(decode_image(Image.open(io.BytesIO(data)), (16, 8)), upright)
    large = oriented("JPEG", turn, 16, quality=95)  # which is decoded at a smaller scale
    found = decode_image(large, (16, 8)).astype(int)
    assert np.abs(found - upright)[:, [1, 2, 5, 6, 9, 10, 13, 14]][..., [1, 2, 5, 6]].max() < 12
    assert describe_image(large) == ImageFacts(128, 256, "RGB", "JPEG")


def test_jpeg_on_its_side_is_decoded_as_finely_as_one_that_stands(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 256), np.uint8).repeat(2, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = saved(np.ascontiguousarray(noise.T[::-1]), "JPEG", exif=exif, quality=95)
    standing = saved(noise, "JPEG", quality=95)
    both = [decode_image(data, (24, 64)).astype(int) for data in (lying, standing)]
    assert np.abs(both[0] - both[1]).max() <= 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_turns_nothing():
    whole = saved(CORNERS, "JPEG", quality=95)
    body = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"
    broken = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]
    assert np.array_equal(decode_image(broken, (16, 8)), decode_image(whole, (16, 8)))


@pytest.mark.parametrize("size", [(16, 16), (96, 64), (37, 90)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ordinary_posters_are_what_pillow_makes_of_them(size, mode):
    """As before there were rules: opened, drafted, converted, fitted."""
    noise = np.random.default_rng(1).integers(0, 256, (300, 200, 3), np.uint8)
    data = saved(Image.fromarray(noise).convert(mode), "JPEG")
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", size[::-1])
    wanted = ImageOps.fit(image.convert("RGB"), size[::-1], Image.Resampling.BICUBIC)
    assert np.array_equal(decode_image(data, size), np.asarray(wanted).transpose(2, 0, 1))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_a_path_its_bytes_an_open_image_and_what_stores_them_are_one_picture(tmp_path, form):
    data = saved(Image.fromarray(HALVES), form)
    (tmp_path / "a").write_bytes(data)

    class Stored:
        def load(self):
            return data

    wanted = decode_image(tmp_path / "a", (6, 6))
    for value in (data, Stored(), Image.open(io.BytesIO(data))):
        assert np.array_equal(decode_image(value, (6, 6)), wanted)
    assert describe_image(Stored()) == describe_image(tmp_path / "a")
    assert np.array_equal(decode_image(wanted, (6, 6)), wanted)  # pixels stay as they are


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read_where_pillow_reads_it():
    data = saved(Image.fromarray(CORNERS), "AVIF", quality=100, subsampling="4:4:4")
    assert np.abs(decode_image(data, (16, 8)).astype(int) - CORNERS.transpose(2, 0, 1)).max() < 9
    with pytest.raises(OSError, match="this AVIF is not read; it is damaged"):
        decode_image(data[:40], (8, 8))


# --- other formats, by their first bytes

FOREIGN = {
    "HEIC is not read; convert it to JPEG or PNG": b"\0\0\0\x18ftypheic\0\0\0\0mif1" + bytes(99),
    "HEIC is not": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99),
    "a video .MP4. is not read; fetch": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(99),
    "JPEG XL is not read; convert": b"\xff\x0a\x06\x10" + bytes(99),
    "SVG is": b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg width="8" height="8"></svg>',
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a web page .HTML. is not read; fetch the picture": b"\n<!DOCTYPE html><html>404 not found",
    "JSON is": b'{"error": "rate limit"}',
    "a pointer of Git LFS is not read; run git lfs pull": b"version https://git-lfs.github.com/spec/v1",
    "PDF is not read; convert": b"%PDF-1.7\n" + bytes(99),
    "PSD .Photoshop. is not read; convert": b"8BPS\0\1" + bytes(99),
    "a NumPy array is not read; save": b"\x93NUMPY\1\0" + bytes(99),
    "a zip archive is not read; unpack": b"PK\3\4" + bytes(99),
    "an empty file is": b"",
    "a file of zeros is not read; its download": bytes(5000),
    "this JPEG is not read; it is damaged": b"\xff\xd8\xff\xe0" + bytes(3),
    "this TIFF is not read; it is damaged or of a rare": tiff(bytes(2048), bits=64, sign=2),
}  # fmt: skip


@pytest.mark.parametrize("message", FOREIGN)
def test_what_is_not_read_is_named_with_what_to_do(tmp_path, message):
    (tmp_path / "a.jpg").write_bytes(FOREIGN[message])
    for value in (tmp_path / "a.jpg", FOREIGN[message]):
        with pytest.raises(OSError, match=message):
            decode_image(value, (8, 8))
        problem = describe_image(value).problem
        assert problem is not None and re.search(message, problem)


@pytest.mark.parametrize("form", ["EPS", "PCX", "TGA", "ICO", "DDS", "ICNS"])
def test_formats_that_pillow_knows_but_posters_never_have_are_named(form):
    with pytest.raises(OSError, match=f"{form}.* is not read; convert it to JPEG or PNG"):
        decode_image(saved(Image.new("RGB", (32, 32)), form), (8, 8))


@pytest.mark.parametrize("data", [b"id,image\nm1,m1.jpg\n", b"\x07\x11 something else"])
def test_what_nobody_knows_is_no_image(tmp_path, data):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(OSError, match="cannot identify image file '.*a.csv'"):
        decode_image(tmp_path / "a.csv", (8, 8))
    with pytest.raises(OSError, match=f"cannot identify image file of {len(data)} bytes"):
        decode_image(data, (8, 8))


# --- what an image says of itself


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: saved(Image.new("RGB", (40, 30)), "JPEG"), (40, 30, "RGB", "JPEG")),
        (lambda: saved(Image.new("L", (5, 7)), "PNG"), (5, 7, "L", "PNG")),
        (lambda: saved(palette(), "GIF"), (8, 8, "P", "GIF")),
        (lambda: saved(palette(), "GIF", transparency=1), (8, 8, "P", "GIF")),
        (lambda: saved(rgba(), "WEBP"), (8, 8, "RGBA", "WEBP")),
        (lambda: saved(WIDE, "PNG"), (16, 16, "I;16", "PNG")),
        (lambda: saved(SHARE, "TIFF"), (16, 16, "F", "TIFF")),
        (lambda: saved(Image.new("CMYK", (3, 2)), "TIFF"), (3, 2, "CMYK", "TIFF")),
        (lambda: np.zeros((3, 6, 4), np.uint8), (4, 6, "RGB", "pixels")),
    ],
)
def test_facts_of_a_good_image(make, facts):
    assert describe_image(make()) == ImageFacts(*facts)


def test_facts_of_a_bad_image_say_what_is_wrong(tmp_path, monkeypatch):
    assert describe_image(tmp_path / "gone").problem == (
        f"FileNotFoundError: [Errno 2] No such file or directory: '{tmp_path / 'gone'}'"
    )
    heic = describe_image(b"\0\0\0\x18ftypheic" + bytes(99))
    assert (heic.width, heic.format) == (0, "HEIC")
    assert heic.problem == ("UnidentifiedImageError: HEIC is not read; convert it to JPEG or PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    large = describe_image(saved(Image.new("RGB", (40, 30)), "PNG"))
    assert (large.width, large.height, large.format) == (40, 30, "PNG")
    assert large.problem == "ValueError: 40 x 30 pixels, more than 1,000"
    assert "is no uint8 (3, H, W) image" in str(describe_image(np.zeros((3, 4, 5))).problem)
