"""The Client of a run: the active one, of workers that are started for it, or at an address."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from distributed import Client

from stillstack.cluster.local import local_client
from stillstack.cluster.remote import remote_cluster
from stillstack.config.cluster import ClusterConfig
from stillstack.errors import InputError, RunFaultError

_CONNECT_SECONDS: Final = 30
_QUEUE_SECONDS: Final = 24 * 3600


OnLink = Callable[[str], None]


@contextlib.contextmanager
def client_for(
    config: ClusterConfig,
    *,
    workers: int = 1,
    memory_limit: int | None = None,
    on_link: OnLink | None = None,
    wait: bool = True,
    profiled: bool = False,
) -> Iterator[Client]:
    """Client that a run submits its work to, closed at the end if it was made here.

    The active Client is used where there is one, and never closed.

    Parameters
    ----------
    config
        The ``cluster`` section of a run's config.
    workers
        Worker processes to start.
    memory_limit
        Bytes that one worker may use; None: no limit.
    on_link
        Called with the address of the cluster's dashboard, before workers are waited for.
    wait
        Whether to wait for the first worker.
    profiled
        Whether workers that are started here note what they do, for a performance report.

    Yields
    ------
    distributed.Client

    Raises
    ------
    InputError
        If the address does not answer, options do not fit, a package is missing, or the active
        Client is asynchronous.
    RunFaultError
        If the cluster cannot be started, or has no worker for long.
    """
    with contextlib.ExitStack() as stack:
        active = active_client()
        client = active or stack.enter_context(_made(config, workers, memory_limit, profiled))
        link = dashboard_link(client)
        if on_link is not None and link:
            on_link(link)
        if active is None and wait:
            _wait_for_worker(client, config)
        yield client


def dashboard_link(client: Client) -> str:
    """Address of a cluster's dashboard; empty where it has none."""
    try:
        return str(client.dashboard_link or "")
    except (KeyError, ValueError):
        return ""


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


def _made(
    config: ClusterConfig, workers: int, memory_limit: int | None, profiled: bool
) -> contextlib.AbstractContextManager[Client]:
    if config.kind == "address":
        return _connected(str(config.address))
    if config.kind == "local":
        return local_client(workers, memory_limit, config.adapt, profiled=profiled)
    return _remote(config, workers, memory_limit, profiled)


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
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _remote(
    config: ClusterConfig, workers: int, memory_limit: int | None, profiled: bool
) -> Iterator[Client]:
    with (
        remote_cluster(config, workers, memory_limit, profiled=profiled) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _wait_for_worker(client: Client, config: ClusterConfig) -> None:
    """Wait for the first worker, unless none is to come before there is work."""
    if config.adapt is not None and config.adapt[0] == 0:
        return
    seconds = _CONNECT_SECONDS if config.kind == "address" else _QUEUE_SECONDS
    cure = "Look at the batch system's queue and the logs of its jobs"
    if config.kind == "address":
        cure = f"Start workers (dask worker {config.address})"
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError as error:
        raise RunFaultError(
            f"The cluster has had no worker for {seconds} s.",
            consequence="Nothing was run.",
            cure=f"{cure}, and run the same command again.",
        ) from error


def machine_size() -> tuple[int, int]:
    """Cores and bytes of memory that this process may use, cgroups and limits included."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return int(CPU_COUNT), int(MEMORY_LIMIT)
