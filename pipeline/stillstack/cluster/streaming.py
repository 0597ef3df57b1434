"""Lazy results as they are finished, a bounded number at work, on whatever scheduler is in use."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Final, TypeVar

from dask.base import compute
from dask.delayed import Delayed
from distributed import Client, KilledWorker, as_completed

from stillstack.errors import RunFaultError

Name = TypeVar("Name", bound=Hashable)
_RETRIES: Final = 2


def finished(
    tasks: Iterable[dict[Name, Delayed]], client: Client | None, at_once: int
) -> Iterator[tuple[Name, Any]]:
    """Yield the name and the result of each lazy value, as they are finished.

    Graphs are built when there is room for them, and results are let go when they were taken, so
    that neither the graph nor the results of a long reduction are ever held as a whole.

    Parameters
    ----------
    tasks
        Lazy values by name, in batches that share a graph.
    client
        Where they are computed; None: by Dask's scheduler in use, a batch at a time.
    at_once
        Results that may be waited for before another batch is given to the cluster.

    Raises
    ------
    RunFaultError
        If the cluster failed. What goes wrong in a task is raised as it is.
    """
    if client is None:
        for batch in tasks:
            yield from zip(batch, compute(*batch.values()), strict=True)
        return
    waiting: dict[Any, Name] = {}
    stream = as_completed([], loop=client.loop)
    try:
        for batch in tasks:
            _submit(client, batch, waiting, stream)
            while len(waiting) >= at_once:
                yield _taken(waiting, stream)
        while waiting:
            yield _taken(waiting, stream)
    finally:
        if client.status == "running":
            client.cancel(list(waiting))


def _submit(
    client: Client, batch: dict[Name, Delayed], waiting: dict[Any, Name], stream: Any
) -> None:
    futures = client.compute(list(batch.values()), retries=_RETRIES)
    waiting.update(zip(futures, batch, strict=True))
    stream.update(futures)


def _taken(waiting: dict[Any, Name], stream: Any) -> tuple[Name, Any]:
    future = next(stream)
    name = waiting.pop(future)
    try:
        return name, _result(future)
    finally:
        future.release()


def _result(future: Any) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        raise RunFaultError(
            f"Workers died on the task {error.task}.",
            consequence="What is done is kept.",
            cure="Most often it is memory: use fewer workers, and run the same command again.",
        ) from error
    except (OSError, TimeoutError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise RunFaultError(
            "The cluster's scheduler is lost.",
            consequence="What is done is kept.",
            cure="Run the same command again: it goes on where this one stopped.",
        ) from error
