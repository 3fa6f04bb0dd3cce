"""Workers of this machine: what they are started with, and what becomes of a lost one's call."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from ssnas_core.common import workers
from ssnas_core.common.errors import InputError
from ssnas_core.common.workers import dask_client, result_of


def test_worker_has_no_workers(monkeypatch):
    monkeypatch.setattr(workers, "current_process", lambda: SimpleNamespace(daemon=True))
    with pytest.raises(InputError, match="a worker cannot have workers of its own"), dask_client(2):
        pass


@pytest.mark.thorough
def test_worker_keeps_freed_memory_and_a_call_that_kills_every_worker_is_told(monkeypatch):
    """Dask has its workers give memory back from 64 kB on, unless it is told not to."""
    monkeypatch.setattr(workers, "_MOST_LOST", 0)
    with dask_client(1) as (client, refill):
        assert result_of(client.submit(os.getenv, "MALLOC_TRIM_THRESHOLD_"), refill) is None
        pid = result_of(client.submit(os.getpid), refill)
        assert pid != os.getpid()
        lost = client.submit(os.kill, pid, signal.SIGKILL)
        with pytest.raises(InputError, match="lost with every worker that began it"):
            result_of(lost, refill)
