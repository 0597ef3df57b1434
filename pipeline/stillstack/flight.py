"""Tasks in flight: submitted to the cluster, waited for, and freed from workers that hang.

A task's age says nothing where it waits for a worker, or has only just been given to one that is
still starting. So two looks are taken, half of the patience apart, and a task hangs that the same
worker has had at both.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from distributed import Client, Future

from stillstack.errors import RunFaultError
from stillstack.job import Block

# A nanny kills a worker that does not stop within 9 s. What follows it is not waited for.
_RESTART_SECONDS: Final = 20


@dataclass(frozen=True)
class Limits:
    """How patient the coordinator is.

    Parameters
    ----------
    attempts
        How often a block is submitted whose worker died, before it is looked at alone.
    blocks_per_thread
        Blocks in flight for each thread of the cluster: one at work, one ready.
    stall_seconds
        Time without any finished block after which the run stops.
    hang_factor, least_hang_seconds
        A block that takes so many times as long as the slowest one that came back, but at least
        this long, hangs, if one worker had it for half of that: this worker is restarted. An object
        store is asked again for four minutes, which is no hanging.
    fetch_seconds
        Time to fetch what a finished block returned; then it counts as not back.
    table_seconds, table_share
        Time between two writings of the table, and the part of the coordinator's that they may take
        however long the table is.
    grace_seconds
        Time that blocks in flight get to finish when the run is interrupted.
    doubtful_blocks
        How many blocks may fail as a whole, from the first on, before the run stops.
    """

    attempts: int = 3
    blocks_per_thread: int = 2
    stall_seconds: float = 1800.0
    hang_factor: float = 20.0
    least_hang_seconds: float = 300.0
    fetch_seconds: float = 30.0
    table_seconds: float = 5.0
    table_share: float = 0.01
    grace_seconds: float = 60.0
    doubtful_blocks: int = 8


class ResultLostError(Exception):
    """A task had finished, and what it returned went with its worker: it is done again."""


class Flight:
    """Tasks that were submitted and have not been taken out again, in the order of their age.

    Parameters
    ----------
    client
        Of the cluster.
    limits
        How long a task may take.
    names
        What the tasks' keys begin with.

    Attributes
    ----------
    patience : float
        How many times as long a task may take for now.
    """

    def __init__(self, client: Client, limits: Limits, names: str) -> None:
        self._client = client
        self._limits = limits
        self._names = names
        self._tasks: dict[str, tuple[Future[Any], Block]] = {}
        self._since: dict[str, float] = {}
        self._holders: dict[str, str | None] = {}
        self._finished: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._n_submitted = 0
        self.patience = 1.0
        self._slowest = 0.0

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def hang_seconds(self) -> float:
        """Time after which a task that is not back hangs; unknown while none has come back."""
        if self._slowest == 0.0:
            return self._limits.stall_seconds
        likely = max(self._limits.hang_factor * self._slowest, self._limits.least_hang_seconds)
        return min(self.patience * likely, self._limits.stall_seconds)

    def submit(
        self, function: Callable[..., Any], job_digest: str, stage: Any, block: Block
    ) -> None:
        """Give a task to the cluster."""
        self._n_submitted += 1
        key = f"{self._names}-{block.start}-{self._n_submitted}"
        future = self._client.submit(
            function, job_digest, stage, block, key=key, pure=False, retries=0
        )
        self._tasks[key] = (future, block)
        self._since[key] = time.monotonic()
        future.add_done_callback(self._announce)

    def _announce(self, future: Future[Any]) -> None:
        self._finished.put(str(future.key))

    def finished(self, timeout: float) -> str | None:
        """Key of a task that has finished, None where none has after ``timeout`` seconds."""
        with contextlib.suppress(queue.Empty):
            key = self._finished.get(timeout=timeout)
            return key if key in self._tasks else None
        return None

    def hung(self) -> str | None:
        """Key of the oldest task if a worker hangs on it, else None."""
        limit = self.hang_seconds
        if not self._since or limit >= self._limits.stall_seconds:
            return None
        key, since = next(iter(self._since.items()))
        if time.monotonic() - since <= limit / 2:
            return None
        holder = self._holder_of(key)
        if holder is not None and holder == self._holders.get(key):
            return key
        self._holders[key] = holder
        self._renew(key)
        return None

    def _holder_of(self, key: str) -> str | None:
        """Worker that has a task, None while it waits for one."""
        processing = self._client.processing().items()
        return next((str(worker) for worker, keys in processing if key in keys), None)

    def _renew(self, key: str) -> None:
        del self._since[key]  # youngest now: the dict's order is the tasks' age
        self._since[key] = time.monotonic()

    def note_time(self, seconds: float) -> None:
        """Learn how long a block takes."""
        self._slowest = max(self._slowest, seconds)

    def block(self, key: str) -> Block:
        """Block of a task in flight."""
        return self._tasks[key][1]

    def result_of(self, key: str) -> Any:
        """What a task that has finished returned; what it raised is raised.

        Raises
        ------
        ResultLostError
            If that does not come: the scheduler gives the task to a worker again, which may take
            any time. It stays in flight, and is announced again.
        """
        future, _ = self._tasks[key]
        try:
            return future.result(timeout=self._limits.fetch_seconds)
        except TimeoutError:
            if future.status == "error":  # it is the task's own
                raise
        self._renew(key)
        future.add_done_callback(self._announce)
        raise ResultLostError

    def take(self, key: str) -> tuple[Future[Any], Block]:
        """Take a task out, finished or not."""
        del self._since[key]
        self._holders.pop(key, None)
        return self._tasks.pop(key)

    def restart_worker_of(self, key: str) -> None:
        """Restart the process of a worker that hangs on a task.

        The scheduler forgets the worker, whether its process ends in time or not, and gives the
        task to another one: to one that is there, or to the next that comes.

        Raises
        ------
        RunFaultError
            If the worker has no nanny that could restart it.
        """
        holder = str(self._holders.pop(key))
        with contextlib.suppress(KeyError):  # it has gone by itself
            try:
                self._client.restart_workers(
                    [holder], timeout=_RESTART_SECONDS, raise_for_error=False
                )
            except ValueError as error:
                raise RunFaultError(
                    f"A block has been with {holder} for {self.hang_seconds:.0f} s, and this "
                    "worker cannot be restarted: it was started without a nanny.",
                    consequence="The run stopped; frames that are done are kept.",
                    cure="Look after the worker, start workers with a nanny (Dask's default), and "
                    "run the same command again.",
                ) from error
        self._renew(key)

    def drop_waiting(self) -> None:
        """Take back the tasks that no worker has been given yet."""
        given = {key for keys in self._client.processing().values() for key in keys}
        for key in [key for key in self._tasks if key not in given]:
            future, _ = self._tasks[key]
            if not future.done():
                self.take(key)
                future.cancel()

    def drop_all(self) -> None:
        """Forget all tasks, and tell the cluster as far as it still listens."""
        with contextlib.suppress(Exception):
            self._client.cancel([future for future, _ in self._tasks.values()])
        self._tasks.clear()
        self._since.clear()
        self._holders.clear()
