"""Dask workers for tests; processes leave this process's environment as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import distributed


@contextlib.contextmanager
def worker_processes(n_workers: int) -> Iterator[Any]:
    """Cluster of so many processes of one thread; nannies set thread caps in this one too."""
    before = dict(os.environ)

    def restore() -> None:
        os.environ.clear()
        os.environ.update(before)

    make_cluster: Any = distributed.LocalCluster  # not typed
    try:
        with make_cluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster:
            restore()
            yield cluster
    finally:
        restore()  # a worker that is started again sets them again


@contextlib.contextmanager
def worker_threads(n_threads: int) -> Iterator[Any]:
    """Client, the default one, of one worker in this process with so many threads."""
    make_client: Any = distributed.Client  # not typed
    with make_client(
        processes=False, n_workers=1, threads_per_worker=n_threads, dashboard_address="127.0.0.1:0"
    ) as client:
        yield client
