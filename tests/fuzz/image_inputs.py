"""Hostile image files: declared sizes, bombs, other formats, odd modes, broken bytes."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from making import Case, mangled, movies, picture, write_folder


def poster(data: bytes | Callable[[], bytes]) -> Case:
    """A data set of which one poster is this."""

    def case(folder: Path, rng: random.Random) -> Path:
        made = data if isinstance(data, bytes) else data()
        return write_folder(folder, movies() | {"dataset/m04.jpeg": made})

    return case


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *extra: bytes, depth: int = 8, kind: int = 2) -> bytes:
    """A PNG that declares a size and holds no pixels to speak of."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + rest


@cache
def zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes << 20), 9)


@cache
def saved(form: str, mode: str, size: tuple[int, int], **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header declares another size than it has."""
    made = picture()
    place = made.index(b"\xff\xc0") + 5
    return made[:place] + struct.pack(">HH", height, width) + made[place + 4 :]


@cache
def gif_of_frames(count: int) -> bytes:
    made = picture("GIF", "P")
    image = made.index(b",", 13)
    return made[:image] + made[image:-1] * count + b";"


def many_scans(count: int) -> bytes:
    """A progressive JPEG of 49 million pixels whose last scan comes again and again."""
    made = saved("JPEG", "L", (7000, 7000), progressive=True, quality=1)
    last = made.rindex(b"\xff\xda")
    return made[:-2] + made[last:-2] * count + made[-2:]


def tiff_loop() -> bytes:
    """A TIFF whose directory comes after itself, with a tag of four billion values."""
    tags = struct.pack("<HHII", 256, 3, 1, 10) + struct.pack("<HHII", 273, 4, 0xFFFFFFFF, 8)
    return b"II*\0" + struct.pack("<IH", 8, 2) + tags + struct.pack("<I", 8)


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n"
    b"(/tmp/fuzz-ghost) (w) file closefile showpage\n%%EOF\n"
)
MODES = {
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"),
    "GIF": ("L", "P", "RGB"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr"),
    "BMP": ("1", "L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("L", "RGB"),
    "JPEG2000": ("L", "RGB", "RGBA"),
    "TGA": ("L", "RGB"),
    "ICO": ("RGBA",),
    "PCX": ("RGB",),
}


def _mode(folder: Path, rng: random.Random) -> Path:
    form = rng.choice(sorted(MODES))
    made = saved(form, rng.choice(MODES[form]), (20, 10))
    return poster(made)(folder, rng)


def _shape(folder: Path, rng: random.Random) -> Path:
    size = rng.choice(((1, 1), (1, 60_000), (60_000, 1), (49_000_000, 1), (3, 7), (16_000, 3000)))
    return poster(saved("PNG", rng.choice(("L", "RGB")), size))(folder, rng)


def _mangled(folder: Path, rng: random.Random) -> Path:
    form = rng.choice(("JPEG", "JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"))
    mode = rng.choice(("RGB", "L", "P") if form in ("PNG", "GIF", "TIFF", "BMP") else ("RGB",))
    return poster(mangled(picture(form, mode, (40, 30)), rng))(folder, rng)


def _exif(folder: Path, rng: random.Random) -> Path:
    body = rng.choice((bytes([rng.randrange(256) for _ in range(60)]), b"MM\0*\0\0\0\x08\xff\xff"))
    made = picture()
    return poster(made[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 8) + b"Exif\0\0" + body
                  + made[2:])(folder, rng)  # fmt: skip


CASES: dict[str, Case] = {
    "modes": _mode,
    "shapes": _shape,
    "mangled": _mangled,
    "EXIF": _exif,
    "JPEG of 65,500 squared": poster(lambda: jpeg_of(65_500, 65_500)),
    "JPEG of 7000 squared": poster(lambda: jpeg_of(7000, 7000)),
    "JPEG of no size": poster(lambda: jpeg_of(0, 5)),
    "PNG of two billion squared": poster(png(2**31 - 1, 2**31 - 1)),
    "PNG of 7000 squared without pixels": poster(png(7000, 7000)),
    "PNG of no size": poster(png(0, 0)),
    "PNG zTXt bomb": poster(lambda: png(5, 5, chunk(b"zTXt", b"a\0\0" + zeros(900)))),
    "PNG many zTXt": poster(
        lambda: png(5, 5, *[chunk(b"zTXt", b"a%d\0\0" % k + zeros(1)) for k in range(500)])
    ),
    "PNG iCCP bomb": poster(lambda: png(5, 5, chunk(b"iCCP", b"a\0\0" + zeros(900)))),
    "PNG of many chunks": poster(lambda: png(5, 5, chunk(b"tEXt", b"a\0b") * 500_000)),
    "PNG pixels bomb": poster(
        lambda: png(5, 5).replace(chunk(b"IEND", b""), chunk(b"IDAT", zeros(900)))
    ),
    **{
        f"large {form} {mode}": poster(lambda form=form, mode=mode: saved(form, mode, (7000, 7000)))
        for form, mode in (
            *(("PNG", "1"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "I;16")),
            *(("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"), ("WEBP", "RGBA")),
        )
    },
    "large progressive JPEG": poster(
        lambda: saved("JPEG", "RGB", (7000, 7000), progressive=True, subsampling=0)
    ),
    "large progressive CMYK": poster(lambda: saved("JPEG", "CMYK", (7000, 7000), progressive=True)),
    "large TIFF of floats": poster(lambda: saved("TIFF", "F", (3400, 3400))),
    "large TIFF, packed": poster(
        lambda: saved("TIFF", "RGBA", (7000, 7000), compression="tiff_adobe_deflate")
    ),
    "several large ones": lambda folder, rng: write_folder(
        folder,
        movies() | {f"dataset/m0{k}.jpeg": saved("PNG", "RGBA", (7000, 7000)) for k in range(3)},
    ),
    "scans of a progressive JPEG": poster(lambda: many_scans(5000)),
    "GIF of 20,000 frames": poster(lambda: gif_of_frames(20_000)),
    "GIF of 65,535 squared": poster(b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2L\1\0;"),
    "TIFF that loops": poster(tiff_loop()),
    "EPS": poster(EPS),
    "PDF": poster(b"%PDF-1.4\n1 0 obj\n"),
    "SVG": poster(b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>"),
    "XBM": poster(b"#define a_width 9000\n#define a_height 9000\nstatic char a_bits[] = {\n0x00"),
    "MPO": poster(lambda: picture() + picture()),
    "zeros": poster(bytes(100_000)),
}
