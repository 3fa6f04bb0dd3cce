"""The inputs of backbones: images decoded once, texts, and arrays.

Rows keep the order of the dataset's records. A record whose image cannot be
decoded has no row: the rows are those of `dataset.without(bad)`, in its order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from ssnas_core.backbones.base import Backbone, ImageBackbone
from ssnas_core.common.bars import progress_bar
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import atomic_path, map_array, read_json, write_json
from ssnas_core.features.images import DECODED_VERSION, decode_image, image_problem

if TYPE_CHECKING:
    from ssnas_core.datasets.records import Dataset

log = logging.getLogger(__name__)


def read_memmap(path: Path) -> Tensor:
    """The .npy array in `path` as a tensor over the file: pages are read when touched."""
    array = map_array(path, "c")  # private, so torch may own it
    try:
        return torch.from_numpy(array)
    except TypeError as error:  # numbers that torch lacks
        raise InputError(f"cannot read an array from {path} ({error}); make it anew.") from error


def moved(value: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor on `device`; onto CUDA without waiting, by way of pinned memory."""
    if torch.device(device).type == "cuda":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def content_key(*parts: Any) -> str:
    """16 hex digits that name `parts`, anything JSON can write."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def draws_generator(seed: int, *place: int) -> Generator:
    """A generator of its own for each place (as: modality, view) under one seed."""
    state = np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def decode_images(
    dataset: Dataset,
    modality: str,
    size: tuple[int, int],
    path: Path,
    *,
    strict: bool = False,
    progress: bool = False,
) -> tuple[np.memmap, dict[str, str]]:
    """Decode every image of a modality once, into one .npy file, and map it.

    The file appears whole or not at all (an interrupted run starts again) and
    is used again while the dataset and the size stay the same.

    Args:
        dataset: records whose `inputs[modality]` is an image.
        modality: the modality's name.
        size: (H, W).
        path: the .npy file to write; the bad ids go beside it, into a .json.
        strict: whether one bad image is an error.
        progress: whether to show a bar.

    Returns:
        uint8 (R, 3, H, W), read-only, the rows of `dataset.without(bad)` in its
        order; and `bad`, id -> reason, of the records without a row.

    Raises:
        InputError: no image can be decoded, or `strict` and one cannot.
    """
    path = Path(path)
    notes = path.with_suffix(".json")
    key = content_key(DECODED_VERSION, dataset.fingerprint(), modality, list(size))
    if path.exists() and notes.exists():
        note = read_json(notes)
        if isinstance(note, dict) and note.get("key") == key:
            known, rows = note.get("bad"), map_array(path)
            count = len(dataset) - len(known) if isinstance(known, dict) else -1
            if known is None or rows.shape != (count, 3, *size) or rows.dtype != np.uint8:
                raise InputError(f"{path} does not fit {notes}; delete both to decode anew.")
            _refuse_bad(known, len(dataset), strict)
            return rows, known

    def decoded(value: Any) -> np.ndarray | str:
        try:
            return decode_image(value, size)
        # PIL answers broken files with many kinds of exception; all mean the same here
        except Exception as error:
            return image_problem(error)

    records = dataset.records
    bad: dict[str, str] = {}
    notes.unlink(missing_ok=True)  # from here until the end there is no valid pair of files
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of sizes, where MAX_PIXELS is stricter
        shape = (len(records), 3, *size)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with open(temporary, "wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            np.lib.format.write_array_header_2_0(file, header)
            start, row = file.tell(), 0
            label = f"decoding {modality}" if progress else None
            bar = progress_bar(label, len(records), "image")
            for first in range(0, len(records), 512):  # bounds what waits to be written
                some = records[first : first + 512]
                for record, image in zip(
                    some, pool.map(decoded, [one.inputs[modality] for one in some]), strict=True
                ):
                    if isinstance(image, str):
                        bad[record.id] = image
                    else:
                        file.write(image.tobytes())
                        row += 1
                    bar.update()
            bar.close()
            _refuse_bad(bad, len(records), strict)
            if bad:  # the header, written again for the rows there are, padded to its old length
                file.seek(0)
                np.lib.format.write_array_header_2_0(file, header | {"shape": (row, 3, *size)})
                assert file.tell() == start
    write_json(notes, {"version": DECODED_VERSION, "key": key, "bad": bad})
    if bad:
        common = Counter(bad.values()).most_common(3)
        shown = ", ".join(f"{count} x {reason}" for reason, count in common)
        log.warning(
            "%d of %d images cannot be decoded: %s; all are in %s",
            *(len(bad), len(records), shown, notes),
        )
    return np.load(path, mmap_mode="r"), bad


def _refuse_bad(bad: Mapping[str, str], total: int, strict: bool) -> None:
    if bad and (strict or len(bad) == total):
        name, reason = next(iter(bad.items()))
        remedy = "restore the files" if len(bad) == total else "restore them, or do without strict"
        raise InputError(
            f"expected {total} images, got {len(bad)} that cannot be decoded "
            f"(first: {name}, {reason}); {remedy}."
        )


@dataclass(frozen=True)
class RawInputs:
    """One row of raw input per record: uint8 images (N, 3, H, W), texts, float32 arrays.

    Attributes:
        columns: modality -> its rows, in the order of the dataset's records.
        kinds: modality -> "image", "text" or "array", in the order of the modalities.
        fingerprint: of the dataset the rows were read from.
    """

    columns: Mapping[str, Any]
    kinds: Mapping[str, str]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.columns[next(iter(self.kinds))])

    def images(
        self, modality: str, rows: Tensor | slice, device: torch.device | str = "cpu"
    ) -> Tensor:
        """The images of `rows` as float (n, 3, H, W) in [0, 1]; they travel as bytes."""
        chosen = self.columns[modality][rows if isinstance(rows, slice) else rows.numpy()]
        pixels = torch.from_numpy(np.require(chosen, requirements=["C", "W"]))
        return moved(pixels, device).float().div_(255)


def prepare_inputs(
    dataset: Dataset,
    backbones: Mapping[str, Backbone],
    folder: Path,
    *,
    strict: bool = False,
    progress: bool = False,
) -> tuple[Dataset, RawInputs]:
    """Decode a dataset's images to the sizes its backbones want.

    Args:
        dataset: the records.
        backbones: modality -> backbone, of the modality's kind.
        folder: of this dataset, for its decoded images, <modality>-<H>x<W>.npy, and
            its arrays, <modality>-array.npy; and for the images whose samples are all
            whole, <modality>.npy.
        strict: whether one bad image is an error.
        progress: whether to show bars.

    Returns:
        The dataset without the records whose images are bad, and their inputs.

    Raises:
        InputError: a modality without a backbone of its kind, or bad images.
    """
    check_kinds(dataset.kinds, backbones)
    columns: dict[str, Any] = {}
    bad: dict[str, dict[str, str]] = {}
    for modality in (name for name, kind in dataset.kinds.items() if kind == "image"):
        backbone = backbones[modality]
        assert isinstance(backbone, ImageBackbone)
        size = backbone.size
        path = Path(folder) / f"{modality}-{size[0]}x{size[1]}.npy"
        columns[modality], bad[modality] = decode_images(
            dataset, modality, size, path, strict=strict, progress=progress
        )
    missing = {name: reason for reasons in bad.values() for name, reason in reasons.items()}
    kept = dataset.without(missing) if missing else dataset
    for modality, reasons in bad.items():  # a row goes where another modality's image is bad
        rows = [one.id not in missing for one in dataset.records if one.id not in reasons]
        if not all(rows):
            columns[modality] = _mapped(Path(folder) / f"{modality}.npy", columns[modality][rows])
    for modality in dataset.kinds.keys() - bad.keys():
        columns[modality] = kept.column(modality)
        if dataset.kinds[modality] == "array":
            path = Path(folder) / f"{modality}-array.npy"
            columns[modality] = _mapped(path, np.stack(columns[modality]))
    return kept, RawInputs(columns, dict(kept.kinds), kept.fingerprint())


def _mapped(path: Path, rows: np.ndarray) -> np.memmap:
    """Return `rows` as the file `path`, which is written."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, rows)
    return np.load(path, mmap_mode="r")


def check_kinds(kinds: Mapping[str, str], backbones: Mapping[str, Backbone]) -> None:
    """Refuse backbones that are not one per modality, of its kind."""
    given = {name: backbone.modality_kind for name, backbone in backbones.items()}
    if given != dict(kinds):
        raise InputError(
            f"expected one backbone per modality, of its kind: {dict(kinds)}, got {given}; "
            "pass a dict from modality to backbone."
        )
