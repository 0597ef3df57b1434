"""The one place that makes a Dask Client: the active one, workers on this machine, or an address.

Parallel work is one process with one thread for each core, so the thread pools of BLAS, numba and
the codecs are limited to one thread in the workers' environment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import dask
from distributed import Client, LocalCluster, WorkerPlugin

from stillstack.config import ClusterConfig
from stillstack.errors import InputError, RunFaultError

THREAD_CAPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "VECLIB_MAXIMUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "BLOSC_NTHREADS": "1",
        "ZARR_ASYNC__CONCURRENCY": "4",
        "ZARR_THREADING__MAX_WORKERS": "2",
        # Memory of a frame is used again for the next one, and what is free goes back to the
        # system in bounded steps. Dask's own 64 KiB doubled the CPU time of every kernel: each
        # array of a megabyte was asked for and cleared anew.
        "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_TRIM_THRESHOLD_": "67108864",
    }
)
"""Environment of every worker that is started here; what the user has set goes before."""

PAUSE_FRACTION: Final = 0.8
"""Share of its memory limit at which a worker takes no further task."""

_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "distributed.nanny.pre-spawn-environ": dict(THREAD_CAPS),
        # A worker's death is blamed on every task it held. Blocks that were blamed too often are
        # submitted again, and then looked at alone (see execute.py), so that little patience
        # here harms no innocent block, and a frame that kills workers is soon found.
        "distributed.scheduler.allowed-failures": 2,
        # Tasks return small records, so there is nothing to spill.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": PAUSE_FRACTION,
        "distributed.worker.memory.terminate": 0.95,
    }
)
_CONNECT_SECONDS: Final = 30


@contextlib.contextmanager
def client_for(
    config: ClusterConfig, *, workers: int = 1, memory_limit: int | None = None
) -> Iterator[Client]:
    """Client that a run submits its work to, closed at the end if it was made here.

    The active Client is used where there is one, and never closed.

    Parameters
    ----------
    config
        The ``cluster`` section of a run's config.
    workers
        Worker processes to start on this machine.
    memory_limit
        Bytes that one worker may use; None: no limit.

    Yields
    ------
    distributed.Client

    Raises
    ------
    InputError
        If the address does not answer, or the active Client is asynchronous.
    """
    active = active_client()
    if active is not None:
        yield active
    elif config.kind == "address":
        with _connected(str(config.address)) as client:
            yield client
    else:
        with _local(workers, memory_limit) as client:
            yield client


def active_client() -> Client | None:
    """Client that the caller's session already has, None where it has none."""
    try:
        client: Client = Client.current(allow_global=True)
    except ValueError:
        return None
    if client.asynchronous:
        raise InputError(
            "The active Dask Client is asynchronous.",
            consequence="A run waits for its blocks, which such a Client cannot do.",
            cure="Make the Client without asynchronous=True, or close it first.",
        )
    return client


def thread_count(client: Client) -> int:
    """Tasks that the cluster runs at the same time."""
    return sum(client.nthreads().values())


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {address}: {error}.",
            cure="Start one (dask scheduler), or correct cluster.address in the config.",
        ) from error
    try:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except TimeoutError as error:
            raise RunFaultError(
                f"The cluster at {address} has had no worker for {_CONNECT_SECONDS} s.",
                cure=f"Start workers (dask worker {address}) and run the same command again.",
            ) from error
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _local(workers: int, memory_limit: int | None) -> Iterator[Client]:
    with _environment_kept() as restore_environment, contextlib.ExitStack() as stack:
        with dask.config.set(_SETTINGS):
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    memory_limit=memory_limit or 0,
                    # any free port; the scheduler's own default, 8787, may be in use
                    dashboard_address="127.0.0.1:0",
                    # what goes wrong in a task is raised, or ends up in the run's notes
                    silence_logs=logging.CRITICAL,
                )
            )
        restore_environment()
        client = stack.enter_context(Client(cluster, set_as_default=False))
        client.register_plugin(IgnoreInterrupts())
        yield client


class IgnoreInterrupts(WorkerPlugin):
    """Leaves Ctrl-C to the coordinator: a terminal sends it to the workers as well."""

    name = "stillstack-ignore-interrupts"

    def setup(self, worker: Any) -> None:
        """Ignore SIGINT in a worker that has its process for itself."""
        del worker
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _environment_kept() -> Iterator[Any]:
    """Undo what starting workers does to this process's environment.

    Nannies set the thread caps in their own process before they spawn a worker, which here is the
    user's session.
    """
    names = (*THREAD_CAPS, "PYTHONHASHSEED", "__DASK_PARENT_PID")
    before = {name: os.environ.get(name) for name in names}

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    try:
        yield restore
    finally:
        restore()


def machine_size() -> tuple[int, int]:
    """Cores and bytes of memory that this process may use, cgroups and limits included."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return int(CPU_COUNT), int(MEMORY_LIMIT)
