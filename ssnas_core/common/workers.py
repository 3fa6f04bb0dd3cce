"""Worker processes, by Dask: of this machine, or those of a scheduler; a lost one is no news."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from multiprocessing import current_process
from threading import RLock
from typing import Any

from ssnas_core.common.errors import InputError

# A killed worker is no fault of its work; but one that takes too much memory kills every worker.
_MOST_LOST = 100
# Of a worker of our own: Ctrl-C reaches it too, but it is the command that ends it.
_PRELOAD = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
_SILENT = (
    "import logging, warnings; logging.disable({0})\n"
    "if {0}: warnings.showwarning = lambda *_, **__: None"
)


@contextmanager
def dask_client(
    workers: int, scheduler: str | None = None
) -> Iterator[tuple[Any, Callable[[], None]]]:
    """Yield a Dask client, and what starts workers in place of those that were killed.

    Args:
        workers: processes on this machine; started by the first call of that function.
        scheduler: address of a Dask scheduler instead, whose workers are its own matter.

    Raises:
        InputError: no scheduler there, or this process is a worker, which can have none.
    """
    from dask import config as dask_config
    from distributed import Client, LocalCluster  # it adds its own settings

    if scheduler is None and current_process().daemon:
        raise InputError(
            "a worker cannot have workers of its own; give the study --workers 0, or the search "
            "one worker."
        )
    environ = dict(dask_config.get("distributed.nanny.pre-spawn-environ"))
    environ.pop("MALLOC_TRIM_THRESHOLD_", None)  # 64 kB: a step's memory would go and come again
    settings = {
        "distributed.scheduler.allowed-failures": _MOST_LOST,
        "distributed.nanny.pre-spawn-environ": environ,
        "distributed.worker.profile.enabled": False,  # it takes a tenth of a trial, for nobody
    }
    with dask_config.set(settings), _quiet("distributed", "tornado"), ExitStack() as stack:
        cluster = None
        if scheduler is None:
            preload = dask_config.get("distributed.worker.preload")
            silent = _SILENT.format(logging.root.manager.disable)  # as this process is
            cluster = LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                memory_limit=None,
                dashboard_address=":0",  # any free port
                silence_logs=logging.ERROR,
                preload=[*([preload] if isinstance(preload, str) else preload), _PRELOAD, silent],
            )
            stack.enter_context(cluster)
        try:
            client = stack.enter_context(Client(cluster or scheduler))
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot reach a Dask scheduler at {scheduler} ({error}); start it, or give its "
                "address as tcp://HOST:PORT."
            ) from error

        def refill() -> None:
            if cluster is not None:
                cluster.scale(workers)  # those that were killed, even while they started, too

        yield client, refill


def result_of(future: Any, refill: Callable[[], None]) -> Any:
    """Return the result of a call that a client of `dask_client` was given.

    Raises:
        InputError: the call was lost with every worker that began it, or with the scheduler.
    """
    from distributed import KilledWorker

    while True:
        refill()
        try:
            return future.result(timeout=5)
        except TimeoutError:
            continue
        except (KilledWorker, CancelledError) as error:
            raise InputError(
                "work was lost with every worker that began it; see that memory suffices, and "
                "give the same command again: what is done is kept."
            ) from error


def become_worker() -> None:
    """Make this process one that may be killed.

    No bar is shown there, but tqdm would make a lock between processes, which the system is
    left with ("leaked semaphore") where its process is killed.
    """
    from tqdm import tqdm

    tqdm.set_lock(RLock())


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Nothing but what is critical in the logs of libraries: a lost worker is no news here."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
