"""Runs the blocks of a stage on a cluster, a bounded number at a time.

Each block is a task of its own, submitted when there is room and dropped when it has finished.
What comes back is entered into the books at once, so that at any time no more is lost than the
blocks in flight.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from distributed import Client, Future, KilledWorker

from stillstack.blockwork import probe_frame, run_block
from stillstack.books import Books, Publish
from stillstack.cluster import thread_count, workers_memory
from stillstack.errors import RunFaultError, StillstackError
from stillstack.flight import Flight, Limits, ResultLostError
from stillstack.interrupt import Interrupts
from stillstack.job import Block, BlockResult, Job, JobPlugin
from stillstack.layout import Stage
from stillstack.model import Rows
from stillstack.storage import RunStore
from stillstack.storage.notes import SET_ASIDE_NOTE
from stillstack.watch.progress import OnProgress, Progress

__all__ = ["SET_ASIDE_NOTE", "OnProgress", "Progress", "Publish", "execute"]

_LOG: Final = logging.getLogger(__name__)
_ROOM_SECONDS: Final = 1.0
_PATIENCE_WITH_CONTROL: Final = 3.0


@dataclass(frozen=True)
class _Lost:
    """A task from which nothing came back, and why."""

    why: str


def execute(
    client: Client,
    job: Job,
    stage: Stage,
    store: RunStore,
    table: Rows,
    *,
    interrupts: Interrupts,
    publish: Publish | None = None,
    progress: OnProgress | None = None,
    limits: Limits | None = None,
    most_workers: int = 1,
) -> None:
    """Do every block of a stage that is not done, and fill in its rows of the table.

    Now and then, and at the end, `publish` is given the rows, to write what readers see of them;
    they are the table of the run where it is not given. A cluster that adapts sees the work that
    it is given: enough for `most_workers` is.

    Raises
    ------
    InterruptedRunError
        If the run was asked to stop. What is done is in the ledger.
    RunFaultError
        If the disk, the cluster or the source as a whole is at fault.
    """
    with (
        store.ledger(stage.name) as ledger,
        _job_on_workers(client, job),
        interrupts.deferred(),
    ):
        limits = limits or Limits()
        look = partial(workers_memory, client)
        published = publish or store.write_table
        books = Books(stage, store, ledger, table, published, limits, look, progress)
        _Execution(client, job, stage, books, interrupts, limits, most_workers).run()


@contextlib.contextmanager
def _job_on_workers(client: Client, job: Job) -> Iterator[None]:
    plugin = JobPlugin(job)
    client.register_plugin(plugin)
    try:
        yield
    finally:
        # a cluster that is gone takes its plugins along
        with contextlib.suppress(Exception):
            client.unregister_worker_plugin(plugin.name)


def _lost_scheduler() -> RunFaultError:
    return RunFaultError(
        "The cluster's scheduler is lost.",
        consequence="Frames that are done are kept.",
        cure="Run the same command again: it goes on where this one stopped.",
    )


@dataclass(eq=False)
class _Execution:
    client: Client
    job: Job
    stage: Stage
    books: Books
    interrupts: Interrupts
    limits: Limits
    most_workers: int

    def __post_init__(self) -> None:
        self.waiting = self.books.waiting
        self.suspects: list[Block] = []
        self.attempts: dict[int, int] = {}
        names = f"{self.stage.name}-{self.job.digest}"
        self.flight = Flight(self.client, self.limits, names)
        # how long blocks take is known from those of earlier attempts
        self.flight.note_time(self.books.slowest)
        self.room = 0
        self.room_known = -math.inf
        self.heard = time.monotonic()

    def run(self) -> None:
        """Do all blocks: the ordinary ones side by side, suspects alone and last."""
        self.books.teller.begin()
        try:
            self._run_side_by_side()
            for block in self.suspects:
                self._run_alone(block)
            self.books.refuse_doubtful()
        except BaseException as error:
            self.flight.drop_all()
            # the table follows from the ledger; a disk that is full must not hide why
            with contextlib.suppress(OSError, StillstackError):
                self.books.publish()
            # what the network says has no number, what the disk says has
            if isinstance(error, OSError) and error.errno is None:
                raise _lost_scheduler() from error
            raise
        self.books.close()

    def _run_side_by_side(self) -> None:
        while self.waiting or self.flight:
            while self.waiting and len(self.flight) < self._room():
                self._submit(self.waiting.popleft())
            key, hangs = self._next()
            if hangs:
                self._free(key)
                continue
            self._settle(key)
            if self.interrupts.received:
                self._wind_down()

    def _room(self) -> int:
        """Blocks that may be in flight; the scheduler is asked for its threads once a second."""
        if time.monotonic() - self.room_known > _ROOM_SECONDS:
            threads = max(self.most_workers, thread_count(self.client))
            self.room = self.limits.blocks_per_thread * threads
            self.room_known = time.monotonic()
        return self.room

    def _settle(self, key: str) -> None:
        """Take note of a block that has finished in whatever way."""
        try:
            result: BlockResult = self.flight.result_of(key)
        except ResultLostError:
            return
        except StillstackError:
            raise
        except Exception as error:  # noqa: BLE001  # judged by what it is, below
            future, block = self.flight.take(key)
            self._failed(block, future, error)
        else:
            future, _ = self.flight.take(key)
            self._enter(result)
        self.heard = time.monotonic()
        future.release()

    def _enter(self, result: BlockResult) -> None:
        self.flight.note_time(result.record.seconds)
        self.books.take(result)

    def _failed(self, block: Block, future: Future[Any], error: Exception) -> None:
        if self.client.status != "running":
            raise _lost_scheduler() from error
        self.attempts[block.index] = self.attempts.get(block.index, 0) + 1
        _LOG.warning(
            "frames %d to %d failed, %d of %d times: %s: %s",
            *(block.start, block.stop - 1),
            *(self.attempts[block.index], self.limits.attempts),
            *(type(error).__name__, error),
        )
        if self.attempts[block.index] < self.limits.attempts:
            self.waiting.append(block)
        elif isinstance(error, KilledWorker) or future.cancelled():
            self.suspects.append(block)
            self._refuse_general_dying()
        else:
            raise RunFaultError(
                f"Frames {block.start} to {block.stop - 1} failed {self.limits.attempts} times: "
                f"{type(error).__name__}: {error}",
                consequence="The run stopped; frames that are done are kept.",
            ) from error

    def _refuse_general_dying(self) -> None:
        """Stop where workers die whatever they do: that is not the frames' fault."""
        if len(self.suspects) > max(2, self.books.n_done):
            raise RunFaultError(
                f"Workers died on {len(self.suspects)} blocks, and {self.books.n_done} are done.",
                consequence="The run stopped; frames that are done are kept.",
                cure="Most often it is memory: use fewer workers or a smaller "
                "output.block_frames, and run the same command again.",
            )

    def _free(self, key: str) -> None:
        """Restart the worker that hangs on a task; set the task apart if that happens again."""
        block = self.flight.block(key)
        _LOG.warning("frames %d to %d hang: their worker is restarted", block.start, block.stop - 1)
        self.flight.restart_worker_of(key)
        self.attempts[block.index] = self.attempts.get(block.index, 0) + 1
        if self.attempts[block.index] >= self.limits.attempts:
            future, _ = self.flight.take(key)
            future.cancel()
            self.suspects.append(block)
            self._refuse_general_dying()

    def _run_alone(self, block: Block) -> None:
        """Find the frames of a block that kill or stop workers, and do the block without them.

        Nothing else is in flight, so that no other block can be to blame.
        """
        _LOG.warning("frames %d to %d are tried one by one", block.start, block.stop - 1)
        killers = dict(block.set_aside)
        for place, number in enumerate(range(block.start, block.stop)):
            if number in block.excluded:
                continue
            rows = None if block.rows is None else block.rows[place : place + 1]
            frame = Block(block.index, number, number + 1, rows)
            outcome = self._alone(probe_frame, frame)
            if isinstance(outcome, _Lost):
                self._refuse_general_loss()
                killers[number] = outcome.why
        result = self._alone(run_block, replace(block, set_aside=killers))
        if isinstance(result, _Lost):
            raise RunFaultError(
                f"Frames {block.start} to {block.stop - 1} cannot be done together, though each "
                f"of them can be done alone: {result.why}.",
                consequence="The run stopped; frames that are done are kept.",
                cure="Most often it is memory: use a smaller output.block_frames.",
            )
        self._enter(result)

    def _refuse_general_loss(self) -> None:
        """Stop where a frame that came through before is lost as well: it is not the frames."""
        control = self.books.control
        if control is None:
            return
        # a worker that was restarted has the libraries to load first
        self.flight.patience = _PATIENCE_WITH_CONTROL
        outcome = self._alone(probe_frame, control)
        self.flight.patience = 1.0
        if isinstance(outcome, _Lost):
            raise RunFaultError(
                f"Frame {control.start}, which had been done before, is tried again: "
                f"{outcome.why}.",
                consequence="The run stopped, and nothing was set aside for it.",
                cure="Look after the source, the memory and the workers, and run the same command "
                "again.",
            )

    def _alone(self, function: Callable[..., Any], block: Block) -> Any:
        """Do a task with nothing beside it; `_Lost` if workers die of it or never finish it."""
        self._submit(block, function)
        while True:
            key, hangs = self._next()
            if hangs:
                self.flight.restart_worker_of(key)
            if self.interrupts.received:
                raise self.interrupts.error()
            outcome: Any = _Lost(f"no worker finished it in {self.flight.hang_seconds:.0f} s")
            try:
                outcome = outcome if hangs else self.flight.result_of(key)
            except ResultLostError:
                continue
            except KilledWorker:
                outcome = _Lost("every worker that took it died")
            self.heard = time.monotonic()
            future, _ = self.flight.take(key)
            future.cancel()
            return outcome

    def _submit(self, block: Block, function: Callable[..., Any] = run_block) -> None:
        self.flight.submit(function, self.job.digest, self.stage, block)

    def _next(self) -> tuple[str, bool]:
        """Key of the next task that has finished or that hangs, and whether it hangs."""
        while True:
            deadline = self.heard + self.limits.stall_seconds
            if self.interrupts.received:
                deadline = min(deadline, self.interrupts.received_at + self.limits.grace_seconds)
            if time.monotonic() > deadline:
                break
            self.books.publish_now_and_then()
            self.books.teller.watch_workers()
            key = self.flight.finished(timeout=0.5)
            hung = self.flight.hung() if key is None else None
            if hung is not None:
                self.heard = time.monotonic()
            if key is not None or hung is not None:
                return str(key or hung), key is None
        if self.interrupts.received:
            raise self.interrupts.error()
        raise RunFaultError(
            f"No block has finished for {self.limits.stall_seconds:.0f} s; the cluster has "
            f"{thread_count(self.client)} threads.",
            consequence="The run stopped; frames that are done are kept.",
            cure="Look after the workers, and run the same command again.",
        )

    def _wind_down(self) -> None:
        """Let blocks finish that workers have taken, and stop."""
        _LOG.info("asked to stop: blocks that workers have taken are finished first")
        self.waiting.clear()
        self.flight.drop_waiting()
        while self.flight:
            key, hangs = self._next()
            if hangs:
                break
            self._settle(key)
            self.waiting.clear()
        raise self.interrupts.error()
