"""One hostile input and a verdict on its reader: taken, or refused in one line, and nothing else.

Each input is read in a forked child with limits on memory, time and file size. The child also
watches what Python opens, removes, runs and connects to. So a finding is any of: another
exception than `InputError`, a message that is not one printable line or names no file, a
crash, a hang, too much memory or disk, a traceback on stderr, a file touched outside of the
input's folder, a process started, a socket opened, a class unpickled.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import random
import re
import resource
import select
import signal
import site
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssnas_core.common.errors import InputError

MEMORY = 500 * 10**6  # bytes more than before
SECONDS = 15  # of processor time
WAITING = 90.0  # seconds until a reader counts as one that waits for ever
DISK = 1200 * 10**6  # bytes left in the input's folder

_TOUCHING = {
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod"),
    *("os.truncate", "shutil.rmtree", "os.chown", "os.utime"),
}
_RUNNING = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen"),
    *("pickle.find_class", "ctypes.dlopen"),
}
_READABLE = tuple(
    {
        *(os.path.realpath(path) for path in sysconfig.get_paths().values()),
        *(os.path.realpath(path) for path in (*site.getsitepackages(), sys.base_prefix)),
        *(os.path.realpath(path) for path in ("/usr/lib", "/usr/share", "/proc", "/sys", "/dev")),
        os.path.realpath(Path(__file__).parents[2] / "ssnas_core"),
        os.path.realpath(Path(__file__).parent),
    }
)


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        make: writes a mutated input into a folder, its own, and returns its path.
        read: must return or raise `InputError`.
        network: whether it may connect to the loopback.
        named: whether it may open for reading what the input names, as a run its images.
    """

    make: Callable[[Path, random.Random], Path]
    read: Callable[[Path], object]
    network: bool = False
    named: bool = False


@dataclass(frozen=True)
class Verdict:
    """What came of an input.

    Attributes:
        outcome: "accepted", "refused" or "finding".
        detail: what was returned, the refusal, or what is wrong.
        megabytes: memory that reading took beyond what was there before.
        seconds: processor time of reading it.
    """

    outcome: str
    detail: str
    megabytes: float = 0.0
    seconds: float = 0.0


def judge(target: Target, rng: random.Random) -> Verdict:
    """Make one input, read it in a child, and say what came of it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        folder, outside = Path(home) / "input", Path(home) / "outside"
        folder.mkdir()
        outside.mkdir()
        (outside / "canary.txt").write_text("canary")
        path = target.make(folder, rng)
        before = _tree(Path(home), folder)
        verdict = _in_child(target, path, Path(home))
        if verdict.outcome == "finding":
            return verdict
        if _tree(Path(home), folder) != before:
            return Verdict("finding", "wrote outside of the input's folder")
        size = sum(512 * f.lstat().st_blocks for f in folder.rglob("*"))
        if size > DISK:
            return Verdict("finding", f"left {size:,} bytes in the input's folder")
        return verdict


def _tree(home: Path, folder: Path) -> dict[str, bytes | None]:
    """Every file of `home` that is not in `folder`."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in home.rglob("*")
        if folder not in path.parents and path != folder and path.name != "stderr"
    }


def _in_child(target: Target, path: Path, home: Path) -> Verdict:
    receive, send = os.pipe()
    ctypes.CDLL(None).malloc_trim(0)  # else what training left free would serve the child unseen
    child = os.fork()
    if child == 0:
        os.close(receive)
        told: dict[str, Any] = {"outcome": "finding", "detail": "no verdict"}
        try:
            told = _read_limited(target, path, home)
        finally:
            os.write(send, json.dumps(told).encode()[:60_000])
            os._exit(0)
    os.close(send)
    ready, _, _ = select.select([receive], [], [], WAITING)
    if not ready:
        os.kill(child, signal.SIGKILL)
    answer = b""
    while chunk := os.read(receive, 1 << 16):
        answer += chunk
    os.close(receive)
    _, status = os.waitpid(child, 0)
    if not ready:
        return Verdict("finding", f"no end after {WAITING:g} s")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return Verdict("finding", f"no end after {SECONDS} s of work")
    if os.WIFSIGNALED(status) or not answer:
        return Verdict("finding", f"died of {signal.Signals(os.WTERMSIG(status)).name}")
    told = json.loads(answer)
    said = (home / "stderr").read_text(errors="replace") if (home / "stderr").exists() else ""
    if told["outcome"] != "finding" and "Traceback" in said:
        told |= {"outcome": "finding", "detail": f"a traceback on stderr: {said[-2000:]}"}
    return Verdict(**told)


def _read_limited(target: Target, path: Path, home: Path) -> dict[str, Any]:
    faulthandler.disable()  # of pytest, which would tell of a death at length
    error = os.open(home / "stderr", os.O_WRONLY | os.O_CREAT)
    os.dup2(error, 2)
    os.dup2(error, 1)
    sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + 1, SECONDS + 1))  # a new process: from 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * DISK, 2 * DISK))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 8 * MEMORY  # threads' stacks count here, hence 8
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of a fork: what it has now
    seen = _watch(path, target)
    outcome, detail = "accepted", ""
    try:
        detail = repr(target.read(path))[:200]
    except InputError as refusal:
        outcome, detail = "refused", str(refusal)
        if wrong := _bad_message(detail, path):
            outcome, detail = "finding", f"{wrong}: {detail[:1000]!r}"
    except BaseException:
        outcome, detail = "finding", traceback.format_exc()[-3000:]
    used = resource.getrusage(resource.RUSAGE_SELF)
    grown = (used.ru_maxrss - start) * 1024
    if seen:
        outcome, detail = "finding", f"{seen[0]} (and {len(seen) - 1} more); {outcome}: {detail}"
    elif grown > MEMORY:
        outcome, detail = "finding", f"took {grown:,} bytes more; {outcome}: {detail[:200]}"
    seconds = used.ru_utime + used.ru_stime
    return {"outcome": outcome, "detail": detail, "megabytes": grown / 1e6, "seconds": seconds}


def _bad_message(message: str, path: Path) -> str | None:
    """What is wrong with a refusal, or None."""
    if not message.isprintable():
        return "a message that is not one printable line"
    if len(message) > 1500:
        return "a message that fills the screen"
    home = next((p for p in path.parents if p.name == "input"), path)
    if not any(one.stem in message for one in (path, *home.rglob("*"))):
        return "a message that names no file"
    return None


def _watch(path: Path, target: Target) -> list[str]:
    """A list that fills with what is done outside of the input's folder, from now on."""
    folder = os.path.realpath(path.parent if path.parent.name == "input" else path)
    while os.path.basename(folder) != "input" and folder != "/":
        folder = os.path.dirname(folder)
    temporary = os.path.realpath(tempfile.gettempdir())
    seen: list[str] = []

    def inside(name: Any, *homes: str) -> bool:
        if isinstance(name, int) or name is None:
            return True  # a descriptor
        real = os.path.realpath(os.fsdecode(name))
        return any(real == home or real.startswith(home + os.sep) for home in homes)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            name, mode, flags = args
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if flags else False
            if target.named and not writes:
                return
            homes = (folder, "/dev") if writes else (folder, *_READABLE)
            if not inside(name, *homes) and os.path.realpath(os.fsdecode(name)) != temporary:
                seen.append(f"opened {os.fsdecode(name)!r} ({mode}, {flags})")
        elif event in _TOUCHING:
            relative = event in ("os.remove", "os.rmdir") and args[-1] not in (-1, None)
            if not relative and not inside(args[0], folder):  # relative: within an open folder
                seen.append(f"{event} {args[0]!r}")
        elif event in _RUNNING and args != (None,):  # None: what is loaded already
            seen.append(f"{event} {args!r}"[:300])
        elif event == "socket.connect" and not (
            target.network and re.match(r"\('127\.0\.0\.1'", repr(args[1]))
        ):
            seen.append(f"{event} {args[1]!r}")

    sys.addaudithook(hook)
    return seen
