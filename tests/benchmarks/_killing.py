"""One session of a small run that comes to a bad end, and what a run leaves to compare.

`python tests/benchmarks/_killing.py EPOCHS ARGUMENT...` is the `ssnas` command with small sizes;
`tests/benchmarks/kills.py` starts it, or forks, and ends it at random.
"""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import json
import os
import re
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

CHUNK = 16  # samples in a chunk of the store: several in 60 movies

STAGES = (
    "beginning", "unpacking", "decoding", "image backbone", "text backbone", "extraction",
    "end of preparation", "search", "pretraining", "fine-tuning", "evaluation", "end",
)  # fmt: skip

Point = tuple[str, str, int]
"""A write: what is called, on which file, and the how manieth such call it is in a session."""


def write_archive(path: Path) -> Path:
    """60 movies in MM-IMDB's layout, as the tests have them."""
    return runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))["Movies"]().archive(path)


def arguments(archive: Path, out: Path) -> list[str]:
    """The command that is killed and given again."""
    told = ["run", "--data", str(archive), "--out", str(out), "--quiet", "--device", "cpu"]
    return [*told, "--label-ratio", "0.5", "1.0"]


def become_small(epochs: int) -> None:
    """Make the default recipe a small one of `epochs` in each stage; load what runs import."""
    import matplotlib.backends.backend_agg  # noqa: F401
    import networkx  # noqa: F401
    import sklearn.decomposition
    import sklearn.feature_extraction.text  # noqa: F401
    import torch._dynamo  # noqa: F401
    from PIL import Image, JpegImagePlugin, PngImagePlugin  # noqa: F401

    from ssnas_core.features import extract
    from ssnas_core.features.config import PrepareConfig
    from ssnas_core.objectives.contrastive import Contrastive
    from ssnas_core.runs.recipes import RECIPES, Recipe
    from ssnas_core.search.bilevel import BilevelConfig
    from ssnas_core.spaces.fusion.space import FusionConfig
    from ssnas_core.training import checkpoints
    from ssnas_core.training.loop import TrainConfig

    checkpoints.EVERY = 0.0  # every epoch is a moment to be killed at
    simclr = Contrastive(hidden=8, out=4)
    whole = TrainConfig(epochs=epochs, batch_size=18, learning_rate=0.01)
    RECIPES["two-core"] = Recipe(
        prepare=PrepareConfig(
            image_size=(48, 32),
            views=2,
            image_training=whole,
            text_training=whole,
            contrastive=simclr,
        ),
        parts=(
            FusionConfig(channels=8, length=4, dropout=0.1),
            BilevelConfig(epochs=epochs, batch_size=12, arch_learning_rate=0.1),
        ),
        contrastive=simclr,
        pretrain=whole,
        finetune=whole,
        finetune_dropout=0.3,
    )
    extract.CHUNK, extract.BATCH = CHUNK, 8


def stage_of(out: Path) -> str:
    """What a run was doing when it was left, by the files that are there."""
    from ssnas_core.runs.methods import methods_of

    raw, home = ([*out.glob(f"store/{name}-*")] for name in ("raw", "prepared"))
    if not home:
        return "unpacking" if raw else "beginning"
    for stage, file in (
        ("decoding", "inputs/image-*.json"),
        ("image backbone", "image.pt"),
        ("text backbone", "text.pt"),
        ("extraction", "features/store.json"),
        ("end of preparation", "inputs.json"),
    ):
        if not any(home[0].glob(file)):
            return stage
    if not (out / "prepared.json").exists():
        return "end of preparation"
    if not (out / "genotype.json").exists():
        return "search"
    methods = tuple(map(str, methods_of(("image", "text"))))
    trained, tested = (len([*out.glob(f"cells/*/{part}.json")]) for part in ("train", "test"))
    if trained > tested:
        return "evaluation"
    pretrained = (out / "checkpoint" / "pretrained.safetensors").exists()
    if methods[tested % len(methods)] == "found, pretrained" and not pretrained:
        return "pretraining"
    return "fine-tuning" if tested < 2 * len(methods) else "end"


def contents(out: Path) -> dict[str, str]:
    """sha256 of each result in a finished run's folder, by path.

    Tensors are compared by name, type, shape and bits. What a session costs is left out, and so
    are checkpoints that a stage keeps for itself, and how often test labels were read. A child
    reads: torch's threads, once they are there, would be missing in every session that is forked.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(writing, "w") as file:
                json.dump(_contents(out), file)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        told = file.read()
    os.waitpid(child, 0)
    return json.loads(told)


def _contents(out: Path) -> dict[str, str]:
    import torch
    from safetensors.torch import load_file

    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.name.startswith(".") or not path.is_file():
            continue
        if name in ("timings.jsonl", "test_reads.jsonl") or name.endswith("-training.pt"):
            continue
        if path.parent.name == "checkpoint" and path.suffix == ".pt":
            continue
        content = path.read_bytes()
        if path.suffix in (".pt", ".safetensors"):
            is_pickle = path.suffix == ".pt"
            told = torch.load(path, weights_only=True) if is_pickle else load_file(path)
            content = b"".join(
                f"{key} {value.dtype} {tuple(value.shape)}".encode()
                + value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
                for key, value in sorted(told.items())
            )
        elif name == "metrics.json":
            told = json.loads(content)
            content = json.dumps([told["genotype"], told["scores"], told["data"]]).encode()
        elif path.name == "unpacked.json":
            continue  # the archive's time
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def litter(out: Path) -> list[str]:
    """Temporary files and stage checkpoints that nothing will take away any more."""
    kept = {".lock", ".lock-holder", "search.pt"}
    found = [*out.rglob(".*"), *out.rglob("checkpoint/*.pt"), *out.rglob("*-training.pt")]
    return sorted({p.relative_to(out).as_posix() for p in found if p.name not in kept})


def plain_name(path: Any) -> str:
    """A file's name that is the same in every session: without a temporary part or numbers."""
    path = Path(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else Path("?")
    name = re.sub(r"^\.(.+?)(\.[a-z0-9_]{8})?\.part$", r"\1", path.name)
    return re.sub(r"m\d+|(?<=text-)\w{16}", "#", name)


@dataclass
class Fault:
    """What happens at a write: the process dies, or from then on no write succeeds.

    Args:
        point: where; None only counts.
        when: "before" the call, at its "half" (a torn write), or "after" it.
        error: 0 to die, else the system's number for what each write fails with.
    """

    point: Point | None
    when: str = "before"
    error: int = 0

    def __post_init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.broken = False

    def __call__(self, kind: str, path: Any, do: Callable, half: Callable | None = None) -> Any:
        """Do the write, or not."""
        key = (kind, plain_name(path))
        self.counts[key] += 1
        here = self.point == (*key, self.counts[key])
        if self.error:
            self.broken = self.broken or here
            if self.broken and not (kind == "unlink" and self.error == errno.ENOSPC):
                raise OSError(self.error, os.strerror(self.error), path)
            return do()
        if here and self.when == "half" and half is not None:
            half()
        if here and self.when != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        result = do()
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def watch_writes(fault: Fault, sync: bool) -> None:
    """Let every way that a run writes go through `fault`, in this process for good."""
    import numpy as np
    import safetensors.torch

    real_open, fsync, memmap = io.open, os.fsync, np.memmap

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            def half() -> None:
                super(Raw, self).write(bytes(data)[: len(data) // 2])

            return fault("write", self.name, lambda: super(Raw, self).write(data), half)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or isinstance(file, int):
            return real_open(file, mode, buffering, *args, **options)
        fault("open", file, lambda: None)
        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        buffer: Any = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, *args, **options)

    def on_path(kind: str, work: Callable, place: int = 0) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            return fault(kind, args[place], lambda: work(*args, **options))

        return call

    def synced(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        fault("fsync", path, lambda: fsync(descriptor) if sync else None)

    def saved(tensors: Any, path: Any, *args: Any) -> None:
        save = real_save

        def half() -> None:
            save(tensors, path, *args)
            os.truncate(path, os.path.getsize(path) // 2)

        fault("write", path, lambda: save(tensors, path, *args), half)

    def mapped(name: str) -> Callable:
        work = getattr(memmap, name)

        def call(array: Any, *args: Any) -> Any:
            path = getattr(array, "filename", None)
            if path is None:
                return work(array, *args)
            return fault(f"mmap.{name}", path, lambda: work(array, *args))

        return call

    real_save = safetensors.torch.save_file
    safetensors.torch.save_file = saved
    builtins.open = io.open = opened  # type: ignore[assignment]
    os.fsync = synced
    os.replace = on_path("replace", os.replace, 1)
    os.unlink = on_path("unlink", os.unlink)
    os.mkdir = on_path("mkdir", os.mkdir)
    memmap.__setitem__, memmap.flush = mapped("__setitem__"), mapped("flush")


def forked(command: list[str], fault: Fault, told: Path, *, sync: bool = True) -> int:
    """The exit status of the command in a child with this fault, or -signal.

    Its standard error goes to `told`; so do its counts of writes, to `told`.json.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        with open(told, "w") as errors, open(os.devnull, "w") as nothing:
            os.dup2(errors.fileno(), 2)
            os.dup2(nothing.fileno(), 1)
        counts, keep = told.with_suffix(".json"), io.open
        watch_writes(fault, sync)
        try:
            become_ssnas(command)
        except SystemExit as stop:
            status = int(stop.code or 0)
        with keep(counts, "w") as file:
            json.dump([[*key, count] for key, count in fault.counts.items()], file)
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def become_ssnas(command: list[str]) -> NoReturn:
    """The `ssnas` command, to its exit."""
    from ssnas_core.cli import main as cli

    cli.main(command)


if __name__ == "__main__":
    epochs, *rest = sys.argv[1:]
    become_small(int(epochs))
    print("begins", flush=True)
    become_ssnas(rest)
