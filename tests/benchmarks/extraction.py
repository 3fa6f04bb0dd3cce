"""Images per second of feature extraction, against the bare backbone on decoded tensors.

    python tests/benchmarks/extraction.py --out runs/extraction.md

For each backbone it writes JPEG files, decodes them (`decode_images`) and stores their
features, clean and in V views (`extract_features`). Beside it the bare loop: the same
backbone on tensors that are in memory already, in the same batches and as many of them.
Both run in turn, several times, and the fastest of each counts. The share is that of the
bare loop's rate: what decoding aside is lost to augmentation, pooling, rounding and disk;
beside it the share of CPU time, which a machine that is busy with other things disturbs less.
`decode` and `end to end` are images per second of decoding alone and of both together;
the latter decodes to a fresh file too.

Writes the table to --out and the figures to the .json beside it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from ssnas_core.backbones.base import Backbone
from ssnas_core.backbones.factory import image_backbone
from ssnas_core.common.files import write_json, write_text
from ssnas_core.datasets.records import Dataset, Record
from ssnas_core.features.extract import BATCH, extract_features
from ssnas_core.features.inputs import RawInputs, decode_images

KINDS = {"image": "image"}
IMAGES = {"small": 1024, "torchvision:resnet18": 128, "vgg19": 32}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much, and where to."""

    out: Path
    backbones: tuple[str, ...] = tuple(IMAGES)
    images: int = 0
    """Of each backbone; 0 for as many as take it about ten seconds."""
    views: int = 2
    rounds: int = 5
    poster: tuple[int, int] = (380, 256)
    """Height and width of the JPEG files."""


def posters(folder: Path, count: int, size: tuple[int, int]) -> Dataset:
    """JPEG files of smooth random colours."""
    random, records = np.random.default_rng(0), []
    for number in range(count):
        coarse = random.integers(0, 256, (24, 16, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
        path = folder / f"{number}.jpeg"
        image.save(path, quality=90)
        records.append(Record(path.stem, {"image": path}, (), "train"))
    return Dataset("posters", KINDS, (), tuple(records))


@contextmanager
def timed(times: list[tuple[float, float]]) -> Iterator[None]:
    """Add the seconds that the block takes, by the clock and of CPU, to `times`."""
    start, busy = time.perf_counter(), time.process_time()
    yield
    times.append((time.perf_counter() - start, time.process_time() - busy))


def bare(backbone: Backbone, batches: list[torch.Tensor], options: Options) -> None:
    """Nothing but the forward passes."""
    with torch.inference_mode():
        for _ in range(1 + options.views):
            for batch in batches:
                backbone(batch)


def measured(name: str, options: Options) -> dict[str, float]:
    """Images per second of one backbone, each way."""
    torch.manual_seed(0)
    backbone = image_backbone(name, weights=None).eval()
    count = options.images or IMAGES.get(name, 128)
    times: dict[str, list[tuple[float, float]]] = {"decode": [], "bare": [], "extract": []}
    with tempfile.TemporaryDirectory(dir=options.out.parent) as folder:
        home = Path(folder)
        dataset = posters(home, count, options.poster)
        for turn in range(options.rounds):
            file = home / f"{turn}.npy"
            with timed(times["decode"]):
                decode_images(dataset, "image", backbone.size, file)
            inputs = RawInputs({"image": np.load(file, mmap_mode="r")}, KINDS, "posters")
            batches = [
                inputs.images("image", slice(first, first + BATCH))
                for first in range(0, count, BATCH)
            ]
            with timed(times["bare"]):
                bare(backbone, batches, options)
            with timed(times["extract"]):
                extract_features(
                    inputs,
                    {"image": backbone},
                    home / f"store-{turn}",
                    views=options.views,
                )
    best, busy = (
        {stage: min(found[column] for found in each) for stage, each in times.items()}
        for column in (0, 1)
    )
    return {
        "images": count,
        "decode": count / best["decode"],
        "bare": count / best["bare"],
        "extract": count / best["extract"],
        "share": best["bare"] / best["extract"],
        "cpu_share": busy["bare"] / busy["extract"],
        "end_to_end": count / (best["decode"] + best["extract"]),
    }


def main(options: Options) -> None:
    """Measure each backbone, write and print the table."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.backbones:
        found[name] = measured(name, options)
        print(f"{name}: {found[name]['share']:.2f} of the bare loop", flush=True)
    lines = [
        f"Images per second, {1 + options.views} forward passes each, in batches of {BATCH}, "
        f"float32, {torch.get_num_threads()} threads; the fastest of "
        f"{options.rounds} rounds. JPEG files of {options.poster[0]} x {options.poster[1]}.",
        "",
        "| backbone | bare loop | extraction | share | of CPU time | decode | end to end |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {row['bare']:.1f} | {row['extract']:.1f} | {row['share']:.2f} | "
            f"{row['cpu_share']:.2f} | {row['decode']:.0f} | {row['end_to_end']:.1f} |"
            for name, row in found.items()
        ),
    ]
    write_text(options.out, "\n".join(lines) + "\n")
    told = {"threads": torch.get_num_threads(), "views": options.views,
            "torch": torch.__version__, "rates": found}  # fmt: skip
    write_json(options.out.with_suffix(".json"), told)
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
