"""What several tests share: sources and objectives of their own, and a very small run."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # read when torch is loaded; see the Makefile

import pytest
import torch
from torch import Tensor


class MemorySource:
    """Features (N, ...) by name; views add noise to them, and redraw those in `fresh`."""

    def __init__(
        self, features: Mapping[str, Tensor], *, noise: float = 0.1, fresh: Sequence[str] = ()
    ) -> None:
        self.features = dict(features)
        self.noise = noise
        self.fresh = set(fresh)

    def clean(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: value[indices] for name, value in self.features.items()}

    def augmented(
        self, indices: Tensor, generator: torch.Generator, count: int = 2
    ) -> list[dict[str, Tensor]]:
        views = []
        for _ in range(count):
            view = {}
            for name, value in self.clean(indices).items():
                noise = torch.randn(value.shape, generator=generator)
                view[name] = noise if name in self.fresh else value + self.noise * noise
            views.append(view)
        return views


class Kill(BaseException):
    """The end of a process; not KeyboardInterrupt, which would end the tests."""


class Killed:
    """An objective that counts its losses and, from number `after` on, is killed instead."""

    Kill = Kill

    def __init__(self, objective: Any, after: float = float("inf")) -> None:
        self.objective = objective
        self.after = after
        self.losses = 0

    def head(self, width: int) -> torch.nn.Module:
        return self.objective.head(width)

    def loss(self, *args: Any) -> Tensor:
        if self.losses >= self.after:
            raise Kill
        self.losses += 1
        return self.objective.loss(*args)

    def report(self, *args: Any) -> dict[str, float]:
        return self.objective.report(*args)


@pytest.fixture
def memory_source() -> type[MemorySource]:
    return MemorySource


@pytest.fixture
def killed() -> type[Killed]:
    return Killed


class Movies:
    """60 movies in MM-IMDB's layout, as bytes by their path under mmimdb/: 36 / 12 / 12."""

    splits = {"train": range(36), "dev": range(36, 48), "test": range(48, 60)}
    genres = ("Drama", "Comedy", "Romance", "War", "Western")
    words = "ship robot queen war love city train killer song desert horse winter".split()

    def __init__(self) -> None:
        self.split = {
            name: [self.name(n) for n in numbers] for name, numbers in self.splits.items()
        }
        self.files: dict[str, bytes] = {"split.json": json.dumps(self.split).encode()}
        for number in range(60):
            rng = random.Random(number)
            movie = {
                "plot": [" ".join(rng.choices(self.words, k=12))],
                "genres": rng.sample(self.genres, rng.choice((1, 2))),
            }
            self.files[self.json(number)] = json.dumps(movie).encode()
            self.files[self.poster(number)] = self.paint(rng)

    @staticmethod
    def name(number: int) -> str:
        return f"m{number:02d}"

    def json(self, number: int) -> str:
        return f"dataset/{self.name(number)}.json"

    def poster(self, number: int) -> str:
        return f"dataset/{self.name(number)}.jpeg"

    @staticmethod
    def paint(rng: random.Random) -> bytes:
        from PIL import Image

        coarse = Image.frombytes("RGB", (4, 6), rng.randbytes(72))
        buffer = io.BytesIO()
        coarse.resize((16, 24), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        return buffer.getvalue()

    def with_genres(self, change: Callable[[int, list[str]], list[str]]) -> dict[str, bytes]:
        """The files with other genres: those that `change` makes of a number's own."""
        files = dict(self.files)
        for number in range(60):
            movie = json.loads(files[self.json(number)])
            movie["genres"] = change(number, movie["genres"])
            files[self.json(number)] = json.dumps(movie).encode()
        return files

    def permuted(self) -> dict[str, bytes]:
        """The files with every movie's genres given to another movie of any split."""
        order = list(range(60))
        random.Random(1).shuffle(order)
        old = [json.loads(self.files[self.json(number)])["genres"] for number in order]
        return self.with_genres(lambda number, _: old[number])

    def folder(self, path: Path, files: Mapping[str, bytes] | None = None) -> Path:
        (path / "dataset").mkdir(parents=True)
        for name, content in (self.files if files is None else files).items():
            (path / name).write_bytes(content)
        return path

    def archive(self, path: Path, files: Mapping[str, bytes] | None = None) -> Path:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in (self.files if files is None else files).items():
                member = tarfile.TarInfo(name if name.startswith("..") else f"mmimdb/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        path.write_bytes(gzip.compress(buffer.getvalue(), 1, mtime=0))
        return path


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Tests kill processes, not machines: what is written need not reach the disk at once.

    And every epoch is saved, however short.
    """
    from ssnas_core.training import checkpoints

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        patched.setattr(checkpoints, "EVERY", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, in children too, also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def movies() -> Movies:
    return Movies()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Bit for bit needs one number of threads; and small tensors are quicker on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_recipe() -> Any:
    """A whole run in a second or two."""
    from ssnas_core.features.config import PrepareConfig
    from ssnas_core.objectives.contrastive import Contrastive
    from ssnas_core.runs.recipes import Recipe
    from ssnas_core.search.bilevel import BilevelConfig
    from ssnas_core.search.evolution import EvolutionConfig
    from ssnas_core.search.gates import GatesConfig
    from ssnas_core.search.random import RandomConfig
    from ssnas_core.search.surrogate import SurrogateConfig
    from ssnas_core.search.tpe import TPEConfig
    from ssnas_core.spaces.fusion.space import FusionConfig
    from ssnas_core.spaces.layers import LayersConfig
    from ssnas_core.training.loop import TrainConfig

    simclr = Contrastive(hidden=8, out=4)
    whole = TrainConfig(epochs=2, batch_size=36, learning_rate=0.01)
    once = TrainConfig(epochs=1, batch_size=18, learning_rate=0.01)
    twice = TrainConfig(epochs=2, batch_size=12, learning_rate=0.01)
    return Recipe(
        prepare=PrepareConfig(
            image_size=(32, 32),
            views=2,
            length=4,
            image_training=whole,
            text_training=whole,
            contrastive=simclr,
        ),
        parts=(
            FusionConfig(channels=8, length=4),
            LayersConfig(layers=2, channels=8),
            BilevelConfig(epochs=2, batch_size=12, arch_learning_rate=0.1),
            GatesConfig(epochs=2, batch_size=12, every=1),
            RandomConfig(trials=2, train=once),
            EvolutionConfig(population=2, sample=2, trials=3, train=once),
            TPEConfig(trials=3, startup=2, train=once),
            SurrogateConfig(iterations=1, samples=2, hidden=4, epochs=2, train=once),
        ),
        contrastive=simclr,
        pretrain=twice,
        finetune=twice,
    )


@pytest.fixture(scope="session")
def tiny_data(movies: Movies, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the movies as they are."""
    return movies.folder(tmp_path_factory.mktemp("data") / "mmimdb")


@pytest.fixture(scope="session")
def tiny_store(tiny_data: Path, tiny_recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the movies' features, whatever their labels."""
    from ssnas_core.features.prepare import prepare

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store = tmp_path_factory.mktemp("store")
    prepare(tiny_data, store, tiny_recipe.prepare)
    torch.set_num_threads(threads)
    return store


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    return value


def _content(path: Path) -> Any:
    if path.suffix != ".pt":
        return path.read_bytes()
    return _plain(torch.load(path, weights_only=True))  # its bytes hold a temporary file's name


@pytest.fixture(scope="session")
def tree() -> Callable[..., dict[str, Any]]:
    """What the files under a folder hold, by relative path; temporary files are left out."""

    def read(folder: Path, *patterns: str) -> dict[str, Any]:
        found = {path for pattern in patterns or ("**/*",) for path in folder.glob(pattern)}
        return {
            path.relative_to(folder).as_posix(): _content(path)
            for path in sorted(found)
            if path.is_file() and not path.name.startswith(".")
        }

    return read


@pytest.fixture
def kill_at_write(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], None]:
    """Arm: the process dies (is interrupted) at its n-th atomic write, just before or after it."""
    from ssnas_core.common import files

    replace = files.os.replace
    count, target, late = 0, 0, False

    def counted(source: Any, goal: Any) -> None:
        nonlocal count
        count += 1
        if count != target or late:
            replace(source, goal)
        if count == target:
            raise KeyboardInterrupt

    def arm(number: int, after: bool) -> None:
        nonlocal count, target, late
        count, target, late = 0, number, after

    monkeypatch.setattr(files.os, "replace", counted)
    return arm
