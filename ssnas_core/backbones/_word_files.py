"""Files of word vectors, read as a stream: word2vec's binary format, and text.

Binary (.bin): a line "V D", then V times a word, a space and D float32, little
endian. Text (.txt, .vec): a line per word, "word x1 ... xD", with a line "V D" in
front (word2vec, fastText) or without (GloVe). Any of them gzipped (.gz). Only the
wanted vectors are kept, so a file's size does not matter.
"""

from __future__ import annotations

import gzip
import heapq
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssnas_core.errors import InputError

_File = gzip.GzipFile | BufferedReader

MAX_DIMENSION = 10_000
MAX_LINE = 1 << 20  # bytes of a text file's line
MAX_WORD = 10_000  # bytes of a word in a binary file
MAX_BLANK = 10_000  # blank lines in a text file
MAX_RATIO = 20  # a file that unpacks to more times its size is refused; text shrinks to a third
_MIN_UNPACKED = 50_000_000  # bytes that may be unpacked whatever the ratio
_BLOCK = 1 << 20


class _Header(NamedTuple):
    binary: bool
    count: int | None  # words that the file says it has
    dimension: int
    first: bytes  # a line of words that was read already
    most: int  # bytes that the file may unpack to


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_File, _Header]]:
    """The file at its first word, and what its first line tells."""
    name = path.name.removesuffix(".gz")
    if not name.endswith((".bin", ".txt", ".vec")):
        raise InputError(
            f"expected a file of word vectors .bin, .txt or .vec (also with .gz), got {path}; "
            "name it after its format."
        )
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            yield file, _header(file, path, name.endswith(".bin"))
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise InputError(
            f"expected word vectors in {path}, got {type(error).__name__}: {error}; "
            "check the path, or download the file again."
        ) from error


def _header(file: _File, path: Path, binary: bool) -> _Header:
    line = file.readline(MAX_LINE)
    fields = line.split()
    if len(fields) == 2 and all(one.isdigit() and len(one) < 13 for one in fields):
        count, dimension, first = int(fields[0]), int(fields[1]), b""
    else:
        count, dimension, first = None, len(fields) - 1, line
        if binary or dimension < 2 or _numbers(fields[1:]) is None:
            expected = "a line 'words dimension'" if binary else "'word x1 x2 ...'"
            found = repr(line[:40]) if line else "an empty file"
            raise InputError(
                f"expected {expected} at the start of {path}, got {found}; "
                "choose a file of word vectors, named .bin if it is binary, else .txt or .vec."
            )
    if not 1 <= dimension <= MAX_DIMENSION:
        raise InputError(
            f"expected vectors of 1 to {MAX_DIMENSION:,} numbers in {path}, got {dimension:,}; "
            "choose another file."
        )
    size = path.stat().st_size
    most = max(_MIN_UNPACKED, MAX_RATIO * size) if path.suffix == ".gz" else size
    return _Header(binary, count, dimension, first, most)


def _numbers(fields: list[bytes]) -> np.ndarray | None:
    try:
        with np.errstate(over="ignore"):
            return np.array([float(one) for one in fields]).astype(np.float32)
    except ValueError:
        return None


def read_dimension(path: Path) -> int:
    """D, the length of the vectors in a file; reads its first line.

    Raises:
        InputError: no such file, or not one of word vectors.
    """
    with _opened(Path(path)) as (_, header):
        return header.dimension


def read_vectors(path: Path, ranks: Mapping[bytes, int], most: int) -> dict[bytes, np.ndarray]:
    """The vectors of wanted words; of those in the file, the `most` of lowest rank.

    Reads the file once, whole, and keeps at most `most` vectors at a time. Of a word
    that comes twice the first vector counts. Words are compared as bytes: others
    need not be UTF-8.

    Args:
        path: the file.
        ranks: wanted words, UTF-8, each with a rank of its own.
        most: how many to keep, >= 1.

    Returns:
        word -> vector, (D,) float32, by rank.

    Raises:
        InputError: a file that is broken, whatever the words wanted.
    """
    path = Path(path)
    kept: dict[bytes, np.ndarray] = {}
    worst: list[tuple[int, bytes]] = []  # a heap: the largest rank kept is at the top
    with _opened(path) as (file, header):
        entries = _binary_entries if header.binary else _text_entries
        for number, (word, payload) in enumerate(entries(file, header, path), start=1):
            rank = ranks.get(word)
            if rank is None or word in kept or (len(kept) == most and rank > -worst[0][0]):
                continue
            vector = _vector(payload, header, f"word {number} ({word.decode()!r}) of {path}")
            if vector is None:
                continue
            kept[word] = vector
            heapq.heappush(worst, (-rank, word))
            if len(kept) > most:
                del kept[heapq.heappop(worst)[1]]
    return {word: kept[word] for word in sorted(kept, key=ranks.__getitem__)}


def _vector(payload: bytes, header: _Header, where: str) -> np.ndarray | None:
    """The numbers of a word, or None where they are those of a word with a space in it."""
    if header.binary:
        vector = np.frombuffer(payload, "<f4").astype(np.float32)
    else:
        fields = payload.split()
        if len(fields) > header.dimension and _numbers(fields[:1]) is None:
            return None  # GloVe has such: "at name@domain.com 0.1 ..."
        found = _numbers(fields)
        if found is None or len(fields) != header.dimension:
            raise InputError(
                f"expected {header.dimension} numbers for {where}, got {len(fields)} fields; "
                "the file is broken: download it again."
            )
        vector = found
    if not np.isfinite(vector).all():
        raise InputError(
            f"expected finite numbers for {where}, got NaN or infinity; "
            "the file is broken: download it again."
        )
    return vector


def _miscounted(path: Path, header: _Header, found: str) -> InputError:
    return InputError(
        f"expected {header.count:,} words of {header.dimension} numbers in {path}, as its first "
        f"line says, got {found}; the file is cut off or broken: download it again."
    )


def _swollen(path: Path, header: _Header) -> InputError:
    return InputError(
        f"expected {path} to unpack to at most {header.most:,} bytes, got more; "
        "it is no file of word vectors: download it again."
    )


def _binary_entries(file: _File, header: _Header, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Word and the bytes of its vector, for every word of a binary file."""
    assert header.count is not None
    size = 4 * header.dimension
    block, place, total = b"", 0, 0
    for number in range(header.count):
        while (end := block.find(b" ", place)) < 0 or end + 1 + size > len(block):
            if len(block) - place > MAX_WORD + size:
                break
            more = file.read(_BLOCK)
            total += len(more)
            if total > header.most:
                raise _swollen(path, header)
            if not more:
                raise _miscounted(path, header, f"{number:,} words")
            block, place = block[place:] + more, 0
        if not 0 <= end - place <= MAX_WORD:
            raise _miscounted(path, header, f"no word after word {number:,}")
        yield block[place:end].lstrip(b"\n"), block[end + 1 : end + 1 + size]
        place = end + 1 + size
    if (block[place:] + file.read(_BLOCK)).strip(b"\n"):
        raise _miscounted(path, header, "more")


def _text_entries(file: _File, header: _Header, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Word and the text of its vector, for every word of a text file."""
    number, line = 0, header.first or file.readline(MAX_LINE)
    blank = total = 0
    while line:
        total += len(line)
        if total > header.most:
            raise _swollen(path, header)
        if not line.strip():
            blank += 1
            if blank > MAX_BLANK:
                raise InputError(
                    f"expected a word in each line of {path}, got {blank:,} blank lines; "
                    "choose a text file of word vectors."
                )
        else:
            number += 1
            if len(line) == MAX_LINE:
                raise InputError(
                    f"expected lines of at most {MAX_LINE:,} bytes in {path}, got a longer one "
                    f"(word {number:,}); choose a text file of word vectors."
                )
            word, _, rest = line.partition(b" ")
            if rest.count(b" ") < header.dimension - 1:  # quick: all lines pass here
                raise InputError(
                    f"expected {header.dimension} numbers for word {number:,} of {path}, got "
                    f"{len(rest.split())}; the file is cut off or broken: download it again."
                )
            yield word, rest
        line = file.readline(MAX_LINE)
    if header.count is not None and number != header.count:
        raise _miscounted(path, header, f"{number:,}")
