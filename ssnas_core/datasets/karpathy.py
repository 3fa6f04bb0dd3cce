"""Flickr30k, and Flickr8k or COCO, as Karpathy split them: pictures with five captions each.

A folder holds his file (arXiv:1412.2306), and perhaps SCAN's (arXiv:1803.08024) beside it:

    dataset_flickr30k.json      {"dataset", "images": [{"filename", "imgid", "split", "sentences":
                                [{"raw", "tokens"}, ...]}, ...]}; or dataset.json
    f30k_precomp/
        train_caps.txt          a caption in each line, five in turn of each picture
        train_ids.txt           the pictures' imgid (COCO's cocoid), once each or once a caption
        dev_caps.txt ...        the same of dev and test
    .../1000092795.jpg.npz      regions of each picture, or its image; see
                                `ssnas_core.datasets.regions`

Where SCAN's files are there, captions and parts are theirs. Of COCO "restval" is train.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import read_bytes, read_json
from ssnas_core.common.typed import brief
from ssnas_core.datasets.captions import Captioned, captioned
from ssnas_core.datasets.records import SPLITS, BadRecordError, Dataset, Skips
from ssnas_core.datasets.regions import picture_name, read_pictures

EACH = 5
"""So many captions a picture has in SCAN's files."""

_MOST = 2**30  # bytes of a file
_SHORTEST = 4  # bytes of a value in it, a word of a caption
_SCAN = ("train_caps.txt", "*/train_caps.txt")
_PARTS = {"train": "train", "restval": "train", "val": "dev", "test": "test"}

_Entry = tuple[str, Sequence[Any], str]  # a picture's file, its texts, and its part, "" of none


def is_karpathy(folder: Path) -> bool:
    """Whether a folder holds one of Karpathy's files by its name, as dataset_flickr30k.json."""
    return any(folder.glob("dataset_*.json"))


def read_karpathy(
    path: Path, *, regions: int | None = None, strict: bool = False, progress: bool = False
) -> Dataset:
    """Return captions with the regions of their pictures, or with the pictures, a record each.

    Modalities: `regions`, (R, C + 4) float32, the last four columns a box, or `image`; and
    `caption`. The label is the picture, by the name of its file.

    Args:
        path: the folder, or the JSON file in it.
        regions: R, kept of each picture; without, the smallest square number with room for all.
        strict: raise on the first caption that cannot be used instead of leaving it out.
        progress: show a progress bar on stderr.

    Raises:
        InputError: no such file, or none of its form; no pictures; or a part without a caption
            that can be used.
    """
    path = Path(path)
    file = _file(path) if path.is_dir() else path
    skips = Skips(str(path), strict)
    document = read_json(file, _MOST, _SHORTEST)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
        raise InputError(
            f"{file}: expected an object with a list of images, got {brief(document)}; download it "
            "again."
        )
    name = document.get("dataset")
    name = name if isinstance(name, str) and name.isidentifier() else "karpathy"
    scan = sorted({one.parent for at in _SCAN for one in file.parent.glob(at)})
    if len(scan) > 1:
        raise InputError(
            f"{path}: expected one folder of SCAN's captions, got "
            f"{', '.join(one.name for one in scan)}; keep one."
        )
    entries = [*(_scan(scan[0], images, skips) if scan else _karpathy(images, skips))]
    pictures = read_pictures(
        file.parent,
        [picture_name(picture) for picture, _, _ in entries],
        regions=regions,
        progress=progress,
    )

    def found() -> Iterator[Captioned]:
        for picture, texts, part in entries:
            try:
                if not part:
                    raise BadRecordError("in no split")
                yield picture, texts, part, pictures.inputs(picture_name(picture))
            except BadRecordError as bad:
                yield picture, texts, part, str(bad)

    return captioned(name, {pictures.modality: pictures.kind}, found(), skips)


def _file(folder: Path) -> Path:
    files = sorted(folder.glob("dataset_*.json")) or [*folder.glob("dataset.json")]
    if len(files) != 1:
        raise InputError(
            f"{folder}: expected one file as dataset_flickr30k.json, got "
            f"{', '.join(file.name for file in files) or 'none'}; give the path of a file."
        )
    return files[0]


def _karpathy(images: Sequence[Mapping[str, Any]], skips: Skips) -> Iterator[_Entry]:
    """Yield the pictures with captions and part as Karpathy's file has them."""
    for number, one in enumerate(images):
        file, sentences = one.get("filename"), one.get("sentences")
        if not isinstance(file, str) or not isinstance(sentences, list):
            skips.add(f"image {number}", f"no filename and sentences, but {brief(one)}")
            continue
        yield file, [*map(_sentence, sentences)], _PARTS.get(str(one.get("split")), "")


def _sentence(sentence: Any) -> str:
    """Return a caption as it was written, else its words; "" of none."""
    given = sentence if isinstance(sentence, dict) else {}
    raw, words = given.get("raw"), given.get("tokens")
    if isinstance(raw, str):
        return raw
    return " ".join(map(str, words)) if isinstance(words, list) else ""


def _scan(folder: Path, images: Sequence[Mapping[str, Any]], skips: Skips) -> Iterator[_Entry]:
    """Yield the pictures with captions and part as SCAN's files have them."""
    files = {str(one.get("cocoid", one.get("imgid"))): one.get("filename") for one in images}
    for part in SPLITS:
        captions, ids = (_lines(folder / f"{part}_{what}.txt") for what in ("caps", "ids"))
        if len(ids) != len(captions):
            ids = [id for id in ids for _ in range(EACH)]
        if len(ids) != len(captions):
            raise InputError(
                f"{folder}: expected in {part}_ids.txt a line for each of the {len(captions)} "
                f"captions, or for each {EACH}, got {len(ids) // EACH}; download it again."
            )
        texts: dict[str, list[str]] = {}
        for id, caption in zip(ids, captions, strict=True):
            texts.setdefault(id.strip(), []).append(caption)
        for id, given in texts.items():
            if isinstance(file := files.get(id), str):
                yield file, given, part
            else:
                skips.add(f"{part} picture {id}", "no picture of this number in Karpathy's file")


def _lines(file: Path) -> list[str]:
    try:
        text = read_bytes(file, _MOST).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 ({error}); download it again.") from error
    return text.removesuffix("\n").split("\n")
