"""Random numbers that depend on a seed alone, in one process and in several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from ssnas_core.common.distributed import rank
from ssnas_core.common.errors import InputError


@contextmanager
def seeded(*seed: int, apart: bool = False) -> Iterator[torch.Generator]:
    """A generator for `seed`, and torch's global one (dropout, initial weights) set alike.

    The caller's global state is restored at the end. With `apart` the global one differs between
    processes that work together, as dropout on their shares of a batch has to.

    Raises:
        InputError: a number that is negative or not whole.
    """
    import numpy

    try:
        shared, local = (
            numpy.random.SeedSequence(seed, spawn_key=key).generate_state(2)
            for key in ((), (rank(),) if apart and rank() else ())
        )
    except (TypeError, ValueError) as error:
        bad = next((n for n in seed if not isinstance(n, int) or n < 0), seed)
        raise InputError(f"a seed must be a whole number >= 0, got {bad}.") from error
    value, chance = (int(pair[0]) << 31 ^ int(pair[1]) for pair in (shared, local))
    devices, set_seed = None, torch.manual_seed
    if not _accelerated():  # it takes a millisecond to note seeds for devices that are not there
        devices, set_seed = [], torch.default_generator.manual_seed
    with torch.random.fork_rng(devices):
        set_seed(chance)
        yield torch.Generator().manual_seed(value + 1)


@cache
def _accelerated() -> bool:
    """Whether torch has another device than the CPU, with chance of its own."""
    return any(one.is_available() for one in (torch.cuda, torch.xpu, torch.backends.mps))
