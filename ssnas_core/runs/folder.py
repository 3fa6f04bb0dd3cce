"""A run folder: what a run leaves behind, and what lets the same command go on with it.

Every file is written atomically, and a stage's file is its result: where it
exists the stage is not run again. `config.json` ties the folder to one
configuration.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssnas_core.common.distributed import on_rank_zero, rank, world_size
from ssnas_core.common.errors import InputError
from ssnas_core.common.files import (
    MAX_JSON,
    disk_errors,
    parse_json,
    path_text,
    read_bytes,
    read_json,
    write_json,
)
from ssnas_core.common.locks import alone_in
from ssnas_core.common.typed import brief, typed

log = logging.getLogger(__name__)

FORMAT = 4
"""Version of the run folder's layout."""


_CHANGED = {
    "threads": "this run began with %s threads and goes on with %d: what is computed now is "
    "equal up to rounding, not bit for bit",
    "processes": "this run began with %s processes and goes on with %d: chance inside networks "
    "(dropout) is another one in what is computed now",
}


class RunFolder:
    """The folder `path` of a run with configuration `config`.

    Args:
        path: created where it does not exist.
        config: plain JSON values; all that decides the run's results.

    Attributes:
        wait: wait for another process that works on the run, saying so, instead of refusing.

    Raises:
        InputError: the folder holds a run of another configuration or version,
            or something that is no run.
    """

    wait = False

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = Path(path)
        path_text(self.path.resolve())  # what no file could name is refused before any work
        wanted = {"format": FORMAT, **json.loads(json.dumps(config))}  # lists for tuples
        here = {"threads": torch.get_num_threads(), "processes": world_size()}
        on_rank_zero(lambda: self._claim(wanted, here))

    def _claim(self, wanted: Mapping[str, Any], here: Mapping[str, int]) -> None:
        """Begin the run in the folder, or see that it is the same run."""
        file = self.path / "config.json"
        if file.exists():
            saved = self.config_of(self.path)
            differing = _difference({key: saved.get(key) for key in wanted}, wanted)
            if differing is not None:
                name, old, new = differing
                raise InputError(
                    f"{self.path} holds a run with {name}={_short(old)}, not {_short(new)}; "
                    "give the same options to resume it, or another --out."
                )
            changed = {}
            for name, now in here.items():
                key = f"{name}_changed_to"
                if now not in (saved.get(name), saved.get(key)):
                    log.warning(_CHANGED[name], saved.get(name), now)
                    changed[key] = now
            if changed:
                with suppress(InputError), self.working():  # else it is only looked at
                    write_json(file, {**saved, **changed})
        elif self.path.is_file() or (self.path.is_dir() and _is_used(self.path)):
            raise InputError(
                f"{self.path} exists and is not a run folder; give --out a new or empty folder."
            )
        else:
            try:
                with self.working():
                    if not file.exists():
                        return write_json(file, {**wanted, **here})
            except InputError:
                if not file.exists():
                    raise
            self._claim(wanted, here)  # another process began it just now

    @classmethod
    def config_of(cls, path: Path) -> dict[str, Any]:
        """The configuration that `path` was made with.

        Raises:
            InputError: no run folder, or one of another version.
        """
        file = Path(path) / "config.json"
        if not file.is_file():
            raise InputError(f"{path} is not a run folder (no config.json); see ssnas run --help.")
        config = read_json(file)
        version = config.get("format") if isinstance(config, dict) else config
        if version != FORMAT:
            raise InputError(
                f"{file}: expected a run of format {FORMAT}, got {brief(version)!r}; make the run "
                "anew, or use the version of ssnas that made it."
            )
        return config

    @classmethod
    def opened(cls, path: Path) -> RunFolder:
        """The folder of a run that is only looked at: nothing is written to it.

        Raises:
            InputError: as `config_of`.
        """
        cls.config_of(path)
        folder = cls.__new__(cls)
        folder.path = Path(path)
        return folder

    @contextmanager
    def released_by(self, *mistakes: type[Exception]) -> Iterator[None]:
        """Forget the configuration where the block raises one of these and there is no result yet.

        So a mended command may begin in the same folder.
        """
        try:
            yield
        except mistakes:
            if rank() == 0 and not any(
                (self.path / name).exists() for name in ("checkpoint", "genotype.json")
            ):
                for name in ("prepared", "dataset", "store", "config"):
                    (self.path / f"{name}.json").unlink(missing_ok=True)
                (self.path / "timings.jsonl").unlink(missing_ok=True)
            raise

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def append(self, name: str, entry: Mapping[str, Any]) -> None:
        """Add one JSON line to the log `name` in the folder."""
        path = self.path / name
        with disk_errors(path), path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a kill cut the last line short
                    file.write(b"\n")
            file.write(json.dumps(entry).encode() + b"\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The entries of the log `name`; a line cut short by a kill is left out."""
        return [entry for entry in self._parsed(name) if isinstance(entry, dict)]

    def broken_lines(self, name: str) -> int:
        """How many lines of the log `name` are left out by `lines`."""
        return sum(not isinstance(entry, dict) for entry in self._parsed(name))

    def _parsed(self, name: str) -> list[Any]:
        """Return the value of each line of the log `name`; None for one that is not JSON."""
        file = self.path / name
        entries: list[Any] = []
        for line in read_bytes(file, MAX_JSON).splitlines() if file.exists() else ():
            try:
                entries.append(parse_json(line))
            except ValueError:
                entries.append(None)
        return entries

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let no other process work on the run during the block; blocks may be nested.

        Raises:
            InputError: another one does, and `wait` is false; or the folder cannot be written.
        """
        with ExitStack() as stack:
            lock = alone_in(self.path, "working on", wait=self.wait)
            on_rank_zero(lambda: stack.enter_context(lock))
            yield

    def once(self, done: Callable[[], Any], make: Callable[[], Any]) -> None:
        """Call `make` unless it is done, by another process that had to be waited for too.

        Raises:
            InputError: as `working`.
        """
        if not on_rank_zero(lambda: bool(done())):
            with self.working():
                if not on_rank_zero(lambda: bool(done())):
                    make()

    @contextmanager
    def stage(self, name: str, of: str | None = None) -> Iterator[None]:
        """Time the block and watch its memory; both go to `timings.jsonl`, whatever happens.

        Of several processes, those of the first.

        Args:
            name: the stage.
            of: the method or cell that it is for, where there are several.

        Raises:
            InputError: as `working`.
        """
        with self.working(), PeakMemory() as memory:
            if rank():
                yield
                return
            start, spent, done = time.perf_counter(), _spent(), False
            try:
                yield
                done = True
            finally:
                seconds = round(time.perf_counter() - start, 3)
                entry = {
                    "stage": name,
                    **({} if of is None else {"of": of}),
                    "seconds": seconds,
                    "cpu_seconds": round(_spent() - spent, 3),
                    "peak_anonymous_mb": memory.peak_mb,
                }
                try:
                    self.append("timings.jsonl", entry)
                except InputError:
                    if done:  # else the first error is the one to raise
                        raise

    def timings(self) -> list[_Timing]:
        """Return what stages cost, in the order of their ends; an interrupted one has several."""
        timings = []
        for entry in self.lines("timings.jsonl"):
            with suppress(InputError):  # edited by hand
                timings.append(typed(_Timing, entry, "timings.jsonl"))
        return timings

    def cost(self) -> dict[str, Any]:
        """Seconds per stage, over all sessions that worked on the run, and the peak memory."""
        seconds: dict[str, float] = {}
        peaks = [0.0]
        for timing in self.timings():
            seconds[timing.stage] = round(seconds.get(timing.stage, 0) + timing.seconds, 3)
            peaks.append(timing.peak_anonymous_mb or 0.0)
        return {"seconds": seconds, "peak_anonymous_mb": max(peaks)}


@dataclass(frozen=True, kw_only=True)
class _Timing:
    """A line of `timings.jsonl`: clock and CPU seconds of a stage, or of a part of one.

    Args:
        stage: "prepare", "search", "pretrain", "train" or "evaluate".
        of: the method that was pretrained, or the name of the cell.
        cpu_seconds: of all threads and of workers, which hardly depend on what else the machine
            does; None in runs of older versions.
        peak_anonymous_mb: 10^6 bytes; None where it is not known.
    """

    stage: str
    seconds: float
    of: str | None = None
    cpu_seconds: float | None = None
    peak_anonymous_mb: float | None


def _spent() -> float:
    """Return the seconds of the processor that this process took, and its ended workers."""
    return sum(os.times()[:4])


class PeakMemory:
    """The largest anonymous memory of this process inside a `with` block, in MB (10^6 bytes).

    Anonymous memory is what the process allocated itself; file pages mapped
    from a feature store are not in it. It is sampled every 20 ms from
    /proc/self/status; where there is none `peak_mb` is None.
    """

    def __init__(self) -> None:
        self.peak_mb: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            try:
                status = Path("/proc/self/status").read_text()
                kilobytes = int(status.split("RssAnon:")[1].split()[0])
            except (OSError, IndexError):
                return
            self.peak_mb = max(self.peak_mb or 0.0, round(kilobytes * 1024 / 1e6, 1))
            if self._done.wait(0.02):
                return


def pick_device(name: str) -> torch.device:
    """ "cpu", "cuda" or another of torch's devices; "auto" is a GPU where there is one.

    Raises:
        InputError: an unknown name, or a device that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot use device {name!r} ({reason}); use cpu or auto.") from error


def _is_used(folder: Path) -> bool:
    """Whether there is more than temporary files, as a kill leaves behind, and prepared data."""
    return any(entry.name != "store" and entry.name[0] != "." for entry in folder.iterdir())


def _difference(saved: Any, wanted: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return the dotted name of the first setting that differs, and both values."""
    if not isinstance(saved, dict) or not isinstance(wanted, dict):
        return None if saved == wanted else (name, saved, wanted)
    parts = (
        _difference(saved.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
        for key in {**wanted, **saved}
    )
    return next((part for part in parts if part is not None), None)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
