"""Freed memory kept for the next step, where the C library is glibc."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt


@cache
def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, instead of giving it back each step.

    glibc returns it to the system and takes it again page by page, every page cleared: thousands
    of page faults in a step, most felt where other processes want the machine too. A process
    then stays at the peak of what it used. Nothing is changed where the user's environment
    tunes malloc, or under another C library.
    """
    tuned = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if any(name in os.environ for name in tuned):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
