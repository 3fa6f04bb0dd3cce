"""Pictures with several captions each, in the layout of a part of Flickr8k: matching.

A folder or an archive of one holds `captions.json`, a list of {"img": "images/NAME.jpg",
"captions": [...]}; `split.json`, {"train": [NAME.jpg, ...], "dev": ..., "test": ...}; and the
pictures. A record is a caption with its picture, whose name is its label.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import parse_json, read_bytes
from ssnas_core.common.typed import brief, typed
from ssnas_core.datasets.captions import Captioned, captioned
from ssnas_core.datasets.records import SPLITS, Dataset, Skips

_FILES = ("captions.json", "split.json")
_MOST = 20 * 2**20  # bytes of a file in an archive; more is left out
_ALL = 2**31  # bytes of all that is kept of an archive


@dataclass(frozen=True)
class _Picture:
    """The content of an image file."""

    content: bytes

    def load(self) -> bytes:
        """Return it."""
        return self.content


def is_flickr8k(path: Path) -> bool:
    """Whether pictures with captions lie at a path, an archive or a folder."""
    path = Path(path)
    if path.is_dir():
        return all((path / name).is_file() for name in _FILES)
    try:
        with tarfile.open(path, "r|gz") as archive:
            first = archive.next()
            return first is not None and first.name.split("/")[0].startswith("flickr8k")
    except (OSError, EOFError, tarfile.TarError):
        return False


def read_flickr8k(path: Path, *, strict: bool = False, progress: bool = False) -> Dataset:
    """Return captions with their pictures, a record each.

    Modalities: `image` and `caption`. Of an archive the pictures are kept in memory.

    Args:
        path: an archive, whose folder's name begins with flickr8k, or a folder.
        strict: raise on the first record that cannot be used instead of leaving it out.
        progress: taken as by all readers; reading takes seconds.

    Raises:
        InputError: no such files, or a split without a record that can be used.
    """
    path = Path(path)
    files = _of_folder(path) if path.is_dir() else _of_archive(path)
    captions, splits = (_document(path, files, name) for name in _FILES)
    entries = typed(tuple[Mapping[str, Any], ...], captions, f"{path}: captions.json")
    parts = typed(Mapping[str, tuple[str, ...]], splits, f"{path}: split.json")
    part_of = {name: part for part in SPLITS for name in parts.get(part, ())}
    skips = Skips(str(path), strict)
    found = _pictures(entries, part_of, files, skips)
    return captioned("flickr8k", {"image": "image"}, found, skips)


def _pictures(
    entries: Sequence[Mapping[str, Any]],
    part_of: Mapping[str, str],
    files: Mapping[str, Any],
    skips: Skips,
) -> Iterator[Captioned]:
    """Yield the pictures that are as the file has them."""
    for number, entry in enumerate(entries):
        picture, texts = entry.get("img"), entry.get("captions")
        if not isinstance(picture, str) or not isinstance(texts, list):
            skips.add(f"entry {number}", f"no img and captions, but {brief(entry)}")
            continue
        name = picture.rpartition("/")[2]
        reason = "in no split" if name not in part_of else ""
        reason = "picture missing" if picture not in files else reason
        yield name, texts, part_of.get(name, ""), reason or {"image": files[picture]}


def _of_folder(path: Path) -> dict[str, Any]:
    """Return the files of a folder by name, pictures as their paths."""
    images = path / "images"
    found: dict[str, Any] = {name: path / name for name in _FILES}
    if images.is_dir():
        found |= {f"images/{one.name}": one for one in images.iterdir() if one.is_file()}
    return found


def _of_archive(path: Path) -> dict[str, Any]:
    """Return the files of an archive by name, pictures as their content."""
    found: dict[str, Any] = {}
    left = _ALL
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                wanted = name in _FILES or name.startswith("images/")
                if not (wanted and member.isreg() and member.size <= min(_MOST, left)):
                    continue
                left -= member.size
                file = archive.extractfile(member)
                assert file is not None
                found[name] = _Picture(file.read())
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(
            f"{path}: expected captions.json, split.json and images "
            f"({type(error).__name__}: {error}); download it again."
        ) from error
    return found


def _document(path: Path, files: Mapping[str, Any], name: str) -> Any:
    """Return the content of a JSON file."""
    try:
        file = files[name]
        return parse_json(file.content if isinstance(file, _Picture) else read_bytes(file, _MOST))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path}: expected a JSON file {name} ({type(error).__name__}: {error}); download it "
            "again."
        ) from error
