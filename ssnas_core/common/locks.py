"""One process at a time in a folder, by a lock that the system frees when its process ends.

The file `.lock` is locked; beside it `.lock-holder` names the process, for messages only.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssnas_core.common.errors import InputError
from ssnas_core.common.files import disk_errors, remove_parts

_LOG = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds before a word is said
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextmanager
def alone_in(folder: Path, doing: str, *, wait: bool) -> Iterator[None]:
    """Do the block while no other process is inside such a block for `folder`.

    Blocks of one thread may be nested. Without locks in the file system there is a warning.

    Args:
        folder: created where it does not exist.
        doing: the holder's work there, as "preparing".
        wait: wait for another process, saying so; else refuse.

    Raises:
        InputError: another process is there and `wait` is false, or `folder` is read-only.
    """
    from filelock import FileLock, Timeout

    shown, folder = folder, Path(folder).resolve()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # One object per path in a process and thread, which counts; a soft lock would outlive a kill.
    lock = FileLock(folder / ".lock", is_singleton=True, fallback_to_soft=False)
    holder = folder / ".lock-holder"
    try:
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            other = f"another process ({_read(holder)})"
            if not wait:
                raise InputError(
                    f"{other} is {doing} {shown}; wait for it, or give another --out."
                ) from None
            _LOG.warning("waiting for %s that is %s %s", other, doing, shown)
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            with disk_errors(folder):
                raise
        _LOG.warning("no locks on this file system; take care to be alone in %s", shown)
    outermost = lock.lock_counter == 1
    try:
        if outermost:
            with suppress(OSError):
                holder.write_text(f"pid {os.getpid()} on {platform.node()}")
            if lock.is_locked:
                remove_parts(folder)
        yield
    finally:
        if outermost:
            with suppress(OSError):
                holder.unlink(missing_ok=True)
        if lock.is_locked:
            lock.release()


def _read(holder: Path) -> str:
    """The holder of a lock, as "pid 7"; of another machine, with its name."""
    with suppress(OSError, ValueError):
        return holder.read_text().removesuffix(f" on {platform.node()}")
    return "pid unknown"
