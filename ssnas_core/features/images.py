"""One image as it is seen: whatever a file stores, as uint8 RGB.

What a file stores is not yet what it shows. Numbers become levels from 0 (black) to
255 (white) by a rule for each depth:

    8 bits or fewer  levels, or shares of the file's own maximum, as Pillow gives them
    16 bits          0 to 65,535; of colours the high byte. A TIFF of 12 bits: 0 to 4,095
    whole numbers    of 32 bits: 0 to 255, or, where the largest is above that, 0 to 65,535
    floats           0 to 1, or, where the largest is 16 or more, 0 to 255

Other numbers (negative ones, NaN, floats up to 1.7) do not say what is white: they are
refused. A picture stands as its EXIF orientation says, what is transparent lies on white,
and of several frames the first is taken. Colour profiles are not applied.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssnas_core.common.errors import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

DECODED_VERSION = 2  # of the rules above
MAX_PIXELS = 50_000_000  # beyond this a poster is taken for a decompression bomb
_LARGE = 8_000_000  # pixels; of larger images one is decoded at a time, whatever the threads
_ONE_AT_A_TIME = threading.Lock()
_MAX_SCANS = 200  # of a JPEG; a progressive one has about ten, and each costs a pass
_BLOCK = 2**20  # numbers that become levels at a time
# What photographs and posters come in. Of the others that PIL knows, some start programs (EPS).
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_TURNS = {  # EXIF orientation -> how the stored picture is to be turned
    **{2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"},
    **{6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"},
}
_ORIENTATION, _PHOTOMETRIC, _BITS, _SIGN = 0x0112, 262, 258, 339  # of EXIF, of TIFF


@dataclass(frozen=True)
class ImageFacts:
    """What an image says of itself before it is decoded.

    Attributes:
        width: in pixels, as it is seen; 0 where nothing is known.
        height: likewise.
        mode: Pillow's name of what a pixel is, as "RGB" or "I;16"; "" where unknown.
        format: Pillow's name of the format, as "JPEG", or "pixels"; "" where unknown.
        problem: why it cannot be decoded, as far as that is known; else None.
    """

    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    problem: str | None = None


def describe_image(value: Any) -> ImageFacts:
    """Return what an image says of itself, read from its header where that suffices.

    Numbers of more than 8 bits and alpha are read, since they decide what is seen at all.
    Of other files only decoding tells that they are cut short.

    Args:
        value: as of `decode_image`.
    """
    facts: dict[str, Any] = {}
    try:
        content = _content(value)
        if isinstance(content, np.ndarray):
            height, width = content.shape[1:]
            return ImageFacts(width, height, "RGB", "pixels")
        with _opened(content, facts) as image:
            clear = image.mode.upper().endswith("A") or "transparency" in image.info
            if _deep(image) or clear:
                with _turn_to_decode(image):
                    _seen(image)
    except Exception as error:  # PIL answers broken files with many kinds; all mean the same here
        return ImageFacts(**facts, problem=image_problem(error))
    return ImageFacts(**facts)


def image_problem(error: Exception) -> str:
    """Return in one line why an image cannot be decoded."""
    return one_line(f"{type(error).__name__}: {error}", 300)


def decode_image(value: Any, size: tuple[int, int]) -> np.ndarray:
    """Return an image as uint8 (3, H, W): RGB as seen, scaled to cover `size`, centre cropped.

    Args:
        value: path of an image file, its content as bytes, a PIL image, uint8 (3, H, W)
            RGB, or a `StoredImage` of pixels or bytes.
        size: (H, W).

    Raises:
        OSError, ValueError, SyntaxError: not an image, truncated, too large, or of
            numbers that do not say what is white; PIL raises more kinds.
    """
    from PIL import Image

    content = _content(value)
    height, width = size
    if isinstance(content, np.ndarray):
        if content.shape[1:] == size:
            return content
        return _fitted(Image.fromarray(np.ascontiguousarray(content.transpose(1, 2, 0))), size)
    if isinstance(content, Image.Image):
        return _fitted(_seen(content), size)
    with _opened(content) as image, _turn_to_decode(image) as large:
        lying = image.format in ("JPEG", "MPO") and _orientation(image) > 4
        # JPEG: decode at the smallest scale that covers
        image.draft("RGB", (height, width) if lying else (width, height))
        rgb = _seen(image)
        image.close()  # of a large one the raw pixels are half of what is held
        fitted = _fitted(rgb, size)
        if large:
            del rgb
            _give_back()
    return fitted


def _content(value: Any) -> Any:
    """Return a path, bytes or a PIL image as they are, else uint8 pixels (3, H, W)."""
    from PIL import Image

    if isinstance(value, Path | bytes | Image.Image):
        return value
    content = value if isinstance(value, np.ndarray) else value.load()
    if isinstance(content, bytes):
        return content
    if content.dtype != np.uint8 or content.ndim != 3 or len(content) != 3:
        raise ValueError(f"{content.dtype} {content.shape} is no uint8 (3, H, W) image")
    return content


def _fitted(image: Image, size: tuple[int, int]) -> np.ndarray:
    """Return an RGB image as uint8 (3, H, W), scaled to cover `size` and centre cropped."""
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(fitted).transpose(2, 0, 1)


@contextlib.contextmanager
def _opened(source: Path | bytes, facts: dict[str, Any] | None = None) -> Iterator[Image]:
    """Open an image within bounds; what it says of itself goes into `facts`."""
    from PIL import Image, UnidentifiedImageError, features

    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise OSError(f"{source} is no ordinary file")  # a pipe could be read for ever
    avif = "avif" in features.modules and features.check("avif")
    formats = (*_FORMATS, "AVIF") if avif else _FORMATS
    file = source if isinstance(source, Path) else io.BytesIO(source)
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as opened:
            head = opened.read(4096)
        name, remedy = _format_of(head)
        if name == "AVIF" and avif:
            name, remedy = "this AVIF", _ANEW
        if facts is not None:
            facts["format"] = name.removeprefix("this ")
        if name:
            raise UnidentifiedImageError(f"{name} is not read; {remedy}") from None
        where = repr(str(source)) if isinstance(source, Path) else f"of {len(source):,} bytes"
        raise UnidentifiedImageError(f"cannot identify image file {where}") from None
    with image:
        width, height = image.size
        form = image.format or ""
        if facts is not None:
            facts |= {"width": width, "height": height, "mode": image.mode, "format": form}
        # WebP's decoder holds several copies of an image, and so may AVIF's
        most = MAX_PIXELS // 2 if form in ("WEBP", "AVIF") else MAX_PIXELS
        if width * height > most:
            raise ValueError(f"{width} x {height} pixels, more than {most:,}")
        if form in ("JPEG", "MPO"):
            data = source.read_bytes() if isinstance(source, Path) else source
            if data.count(b"\xff\xda") > _MAX_SCANS:
                raise ValueError(f"a JPEG of more than {_MAX_SCANS} scans")
            if image.mode == "CMYK" and "adobe" not in image.info:
                raise ValueError(
                    "a CMYK JPEG without Adobe's mark, which may mean ink or light; convert it "
                    "to RGB"
                )
        if image.mode == "L" and _tags(image).get(_SIGN) == (2,):
            raise ValueError("a TIFF of signed 8-bit numbers; save it with 8 bits from 0 to 255")
        # a PNG says it after its pixels, or at once; a TIFF's size is already turned
        known = form != "TIFF" and (form != "PNG" or "exif" in image.info)
        if facts is not None and known and _orientation(image) > 4:
            facts |= {"width": height, "height": width}
        yield image


@contextlib.contextmanager
def _turn_to_decode(image: Image) -> Iterator[bool]:
    """Wait for the other large images where this is one; give whether it is."""
    large = image.width * image.height > _LARGE
    with _ONE_AT_A_TIME if large else contextlib.nullcontext():
        yield large


def _give_back() -> None:
    """Return freed memory to the system: in glibc each thread would keep its own."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


# From what is stored to what is seen.


def _seen(image: Image) -> Image:
    """Return an image as RGB: numbers as levels, transparency on white, upright."""
    from PIL import Image

    key = _transparent(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    clear = image.has_transparency_data
    if _deep(image):
        image = _levelled(image, key)
    elif image.info.get("transparency") not in (None, key):
        image = image.copy()
        image.info["transparency"] = key
    if clear:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema()[1] == 0:
            raise ValueError("every pixel is transparent; save it without alpha")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        image = white
    rgb = image.convert("RGB")
    return rgb if turn is None else rgb.transpose(Image.Transpose[turn])


def _orientation(image: Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF says nothing; PIL raises many kinds
        return 1


def _deep(image: Image) -> bool:
    """Return whether pixels are numbers that may go beyond 255."""
    return image.mode == "F" or image.mode.startswith("I")


def _tags(image: Image) -> Any:
    """Return the tags of a TIFF; of others there are none."""
    return getattr(image, "tag_v2", {})


def _transparent(image: Image) -> Any:
    """Return the colour that is transparent, if one is, at the depth of Pillow's pixels.

    Pillow brings a PNG's greys of 1, 2 and 4 bits and colours of 16 to 8, but not this.
    """
    key = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    raw = tile[0][3] if tile and image.format == "PNG" else None
    if raw == "1" and key:
        return 255
    if raw in ("L;2", "L;4") and isinstance(key, int):
        return key * 255 // (2 ** int(raw[2:]) - 1)
    if raw == "RGB;16B" and isinstance(key, tuple):
        return tuple(value >> 8 for value in key)
    return key


def _levelled(image: Image, key: Any) -> Image:
    """Return an image of deep numbers as grey levels, with alpha where `key` is transparent."""
    from PIL import Image

    numbers = np.asarray(image)
    scale = np.float32(255 / _white(image, float(numbers.min()), float(numbers.max())))
    grey = np.empty(numbers.shape, np.uint8)
    flat, levels = numbers.reshape(-1), grey.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        some = slice(start, start + _BLOCK)
        levels[some] = np.clip(np.rint(flat[some] * scale), 0, 255)
    if _tags(image).get(_PHOTOMETRIC) == 0:  # 0 is white; Pillow sees to it at 8 bits alone
        np.subtract(255, grey, out=grey)
    if not isinstance(key, int):
        return Image.fromarray(grey)
    alpha = np.where(numbers == key, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _white(image: Image, low: float, high: float) -> float:
    """Return the number that means white, of numbers from `low` to `high`.

    Raises:
        ValueError: they do not say.
    """
    bits = _tags(image).get(_BITS)
    if image.mode.startswith("I;16"):
        return 4095 if bits == (12,) else 65535
    if image.mode == "F":
        step = 0.5 / 255  # half a level beyond either end, as resampling gives, is that end
        if -step <= low and high <= 1 + step:
            return 1
        if -255 * step <= low and 16 <= high <= 255 * (1 + step):
            return 255
        expected = "0 to 1 or 0 to 255"
    else:
        most = 32767 if bits == (16,) else 65535  # a TIFF of 16 bits that Pillow has as I is signed
        always = image.format in ("PNG", "PPM", "JPEG2000")  # they know no other depth above 8
        if low >= 0 and high <= most:
            return most if always or high > 255 else 255
        expected = f"0 to 255 or 0 to {most}"
    raise ValueError(
        f"numbers from {low:g} to {high:g}, expected {expected}; save it with 8 or 16 bits"
    )


# Formats by their first bytes, of files that are not read.

_CONVERT, _AGAIN = "convert it to JPEG or PNG", "fetch the picture itself"
_ANEW = "it is damaged or of a rare kind: fetch it again, or save it anew as JPEG or PNG"
_FOREIGN = (
    ("AVIF", rb".{4}ftyp(?:.{4}){0,15}?avi[fs]", f"{_CONVERT}, or install pillow 11.3"),
    ("HEIC", rb".{4}ftyp(?:he[iv][cfmsx]|mif1|msf1)", _CONVERT),
    ("a video (MP4)", rb".{4}ftyp", _AGAIN),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL ", _CONVERT),
    ("JPEG XR", rb"II\xbc\x01", _CONVERT),
    ("a web page (HTML)", rb"(?i)\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body)", _AGAIN),
    ("SVG", rb"(?i)\s*(?:<[?!].*?)?<svg\b", _CONVERT),
    ("XML", rb"\s*<\?xml", _AGAIN),
    ("JSON", rb'\s*[{\[]\s*["{\[]', _AGAIN),
    ("a pointer of Git LFS", rb"version https://git-lfs", "run git lfs pull"),
    ("PDF", rb"%PDF", _CONVERT),
    ("EPS (PostScript)", rb"%!|\xc5\xd0\xd3\xc6", _CONVERT),
    ("PSD (Photoshop)", rb"8BPS", _CONVERT),
    ("XCF (GIMP)", rb"gimp xcf", _CONVERT),
    ("ICO", rb"\0\0[\x01\x02]\0[^\0]", _CONVERT),
    ("ICNS", rb"icns", _CONVERT),
    ("PCX", rb"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08]", _CONVERT),
    ("DDS", rb"DDS ", _CONVERT),
    ("OpenEXR", rb"v/1\x01", _CONVERT),
    ("Radiance HDR", rb"#\?R", _CONVERT),
    ("QOI", rb"qoif", _CONVERT),
    ("FITS", rb"SIMPLE  =", _CONVERT),
    ("DICOM", rb".{128}DICM", _CONVERT),
    ("DjVu", rb"AT&TFORM", _CONVERT),
    ("a NumPy array", rb"\x93NUMPY", "save it as PNG, or give all arrays as one .npz file"),
    ("a zip archive", rb"PK\x03\x04", "unpack it"),
    ("a gzip file", rb"\x1f\x8b", "unpack it"),
    ("an empty file", rb"\Z", _AGAIN),
    ("a file of zeros", rb"\0{32}", "its download was not finished: fetch it again"),
    ("TGA", rb".[\0\x01][\x01-\x03\x09-\x0b].{13}[\x08\x0f\x10\x18\x20]", _CONVERT),
    ("this JPEG", rb"\xff\xd8\xff", _ANEW),
    ("this PNG", rb"\x89PNG", _ANEW),
    ("this GIF", rb"GIF8", _ANEW),
    ("this TIFF", rb"II[*+]\0|MM\0[*+]", _ANEW),
    ("this WebP", rb"RIFF.{4}WEBP", _ANEW),
    ("this JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", _ANEW),
    ("this BMP", rb"BM.{4}\0{4}", _ANEW),
    ("this PNM", rb"P[1-7Ff]\s", _ANEW),
)


def _format_of(head: bytes) -> tuple[str, str]:
    """Return what a file that begins with `head` is and what to do; ("", "") if unknown."""
    head = head.removeprefix(b"\xef\xbb\xbf")  # UTF-8's mark
    for name, begins, remedy in _FOREIGN:
        if re.match(begins, head, re.DOTALL):
            return name, remedy
    return "", ""
