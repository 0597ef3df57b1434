"""The Client of a run: the active one, of workers that are started for it, or at an address."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from distributed import Client

from stillstack.cluster.local import local_client
from stillstack.cluster.remote import remote_cluster
from stillstack.cluster_config import ClusterConfig
from stillstack.errors import InputError, RunFaultError

_CONNECT_SECONDS: Final = 30
_QUEUE_SECONDS: Final = 24 * 3600


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
        Worker processes to start.
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
    elif config.kind == "local":
        with local_client(workers, memory_limit, config.adapt) as client:
            yield client
    else:
        with _remote(config, workers, memory_limit) as client:
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
def _remote(config: ClusterConfig, workers: int, memory_limit: int | None) -> Iterator[Client]:
    with (
        remote_cluster(config, workers, memory_limit) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        try:
            client.wait_for_workers(1, timeout=_QUEUE_SECONDS)
        except TimeoutError as error:
            raise RunFaultError(
                f"No worker has started in {_QUEUE_SECONDS // 3600} hours.",
                cure="Look at the batch system's queue, and run the same command again.",
            ) from error
        yield client


def machine_size() -> tuple[int, int]:
    """Cores and bytes of memory that this process may use, cgroups and limits included."""
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return int(CPU_COUNT), int(MEMORY_LIMIT)
