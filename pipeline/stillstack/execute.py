"""Runs the blocks of a stage on a cluster, a bounded number at a time, and keeps the ledger.

Each block is a task of its own, submitted when there is room and dropped when it has finished.
What comes back is appended to the ledger at once, so that at any time no more is lost than the
blocks in flight.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from distributed import Client, Future, KilledWorker

from stillstack.blockwork import Block, BlockResult, Job, JobPlugin, Rows, probe_frame, run_block
from stillstack.cluster import thread_count
from stillstack.errors import RunFaultError, StillstackError
from stillstack.interrupt import Interrupts
from stillstack.layout import Stage
from stillstack.model import is_good
from stillstack.storage import Ledger, RunStore

SET_ASIDE_NOTE: Final = "set_aside"
"""Name of the note in ``run/`` that says why frames were set aside."""


@dataclass(frozen=True)
class Progress:
    """Where a run is; given to the caller whenever a block has finished.

    Parameters
    ----------
    stage
        ``"reference"``, or the name of the pass over the frames.
    frames_done, n_frames
        Frames that are done, and all frames.
    frames_flagged
        Frames among those done that are not good.
    blocks_done, n_blocks
        The same in blocks.
    resumed_frames
        Frames that an earlier attempt had done.
    """

    stage: str
    frames_done: int
    n_frames: int
    frames_flagged: int = 0
    blocks_done: int = 0
    n_blocks: int = 0
    resumed_frames: int = 0


OnProgress = Callable[[Progress], None]


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
    table_seconds
        Time between two writings of the table.
    grace_seconds
        Time that blocks in flight get to finish when the run is interrupted.
    doubtful_blocks
        How many blocks may fail as a whole, from the first on, before the run stops.
    """

    attempts: int = 3
    blocks_per_thread: int = 2
    stall_seconds: float = 1800.0
    table_seconds: float = 5.0
    grace_seconds: float = 60.0
    doubtful_blocks: int = 8


def execute(
    client: Client,
    job: Job,
    stage: Stage,
    store: RunStore,
    table: Rows,
    *,
    interrupts: Interrupts,
    progress: OnProgress | None = None,
    limits: Limits | None = None,
) -> None:
    """Do every block of a stage that is not done, and fill in its rows of the table.

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
        _Execution(
            client, job, stage, store, table, ledger, interrupts, progress, limits or Limits()
        ).run()


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


@dataclass(eq=False)
class _Execution:
    client: Client
    job: Job
    stage: Stage
    store: RunStore
    table: Rows
    ledger: Ledger
    interrupts: Interrupts
    progress: OnProgress | None
    limits: Limits

    def __post_init__(self) -> None:
        self.waiting: deque[Block] = deque()
        self.suspects: list[Block] = []
        self.attempts: dict[int, int] = {}
        self.doubtful: list[BlockResult] = []
        self.in_flight: dict[str, tuple[Future[Any], Block]] = {}
        self.finished: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.n_done = 0
        self.n_submitted = 0
        self.n_resumed = 0
        self.reasons: dict[str, str] = self.store.read_note(SET_ASIDE_NOTE) or {}
        self.table_written = time.monotonic()

    def run(self) -> None:
        """Do all blocks: the ordinary ones side by side, suspects alone and last."""
        self._take_stock()
        self._report()
        try:
            self._run_side_by_side()
            for block in self.suspects:
                self._run_alone(block)
            self._refuse_doubtful(1)
        except BaseException:
            self._drop_all()
            raise
        finally:
            self.store.write_table(self.table)

    def _take_stock(self) -> None:
        """Fill in what is done already, and line up the rest."""
        done = self.store.done_blocks(self.stage.name)
        for index, (start, stop) in enumerate(self.store.blocks()):
            if index in done:
                self._enter(done[index].rows, start, stop)
                self.n_resumed += stop - start
                continue
            rows = None if self.stage.estimates else self.table[start:stop].copy()
            self.waiting.append(Block(index, start, stop, rows))
        self.n_done = len(done)

    def _run_side_by_side(self) -> None:
        while self.waiting or self.in_flight:
            room = self.limits.blocks_per_thread * max(1, thread_count(self.client))
            while self.waiting and len(self.in_flight) < room:
                self._submit(self.waiting.popleft())
            self._settle(self._next())
            if self.interrupts.received:
                self._wind_down()

    def _settle(self, key: str) -> None:
        """Take note of a block that has finished in whatever way."""
        future, block = self.in_flight.pop(key)
        try:
            result: BlockResult = future.result()
        except StillstackError:
            raise
        except Exception as error:  # noqa: BLE001  # judged by what it is, below
            self._failed(block, future, error)
        else:
            self._judge(result)
        finally:
            future.release()

    def _judge(self, result: BlockResult) -> None:
        """Commit a block; but while not one frame has come through, only wait and see.

        Frames that fail are set aside for good. If all of them fail, from the first on, it is more
        likely the program or the source than the frames, and that can be mended.
        """
        n_frames = result.record.stop - result.record.start
        if len(result.reasons) == n_frames and self.n_done == 0:
            self.doubtful.append(result)
            self._refuse_doubtful(self.limits.doubtful_blocks)
            return
        for held in (*self.doubtful, result):
            self._commit(held)
        self.doubtful.clear()

    def _refuse_doubtful(self, enough: int) -> None:
        """Stop where so many blocks failed as a whole and not one frame has come through."""
        if len(self.doubtful) < enough:
            return
        number, reason = next(iter(self.doubtful[0].reasons.items()))
        raise RunFaultError(
            f"Not one frame of {len(self.doubtful)} blocks can be processed. Frame {number}: "
            f"{reason}",
            consequence="The run stopped; nothing was set aside.",
            cure="Mend that and run the same command again.",
        )

    def _failed(self, block: Block, future: Future[Any], error: Exception) -> None:
        if self.client.status != "running":
            raise RunFaultError(
                "The cluster's scheduler is lost.",
                consequence="Frames that are done are kept.",
                cure="Run the same command again: it goes on where this one stopped.",
            ) from error
        self.attempts[block.index] = self.attempts.get(block.index, 0) + 1
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
        if len(self.suspects) > max(2, self.n_done):
            raise RunFaultError(
                f"Workers died on {len(self.suspects)} blocks, and {self.n_done} are done.",
                consequence="The run stopped; frames that are done are kept.",
                cure="Most often it is memory: use fewer workers or a smaller "
                "output.block_frames, and run the same command again.",
            )

    def _run_alone(self, block: Block) -> None:
        """Find the frames of a block that kill workers, and do the block without them.

        Nothing else is in flight, so that no other block can be to blame.
        """
        killers = dict(block.set_aside)
        for place, number in enumerate(range(block.start, block.stop)):
            rows = None if block.rows is None else block.rows[place : place + 1]
            frame = Block(block.index, number, number + 1, rows)
            if self._alone(probe_frame, frame) is None:
                killers[number] = "every worker that took this frame died"
        result = self._alone(run_block, replace(block, set_aside=killers))
        if result is None:
            raise RunFaultError(
                f"Workers die on frames {block.start} to {block.stop - 1}, though each of them "
                "can be done alone.",
                consequence="The run stopped; frames that are done are kept.",
                cure="Most often it is memory: use a smaller output.block_frames.",
            )
        self._judge(result)

    def _alone(self, function: Callable[..., Any], block: Block) -> Any:
        """Do a task with nothing beside it, and return None if workers die of it."""
        self._submit(block, function)
        future, _ = self.in_flight[self._next()]
        self.in_flight.clear()
        if self.interrupts.received:
            raise self.interrupts.error()
        try:
            return future.result()
        except KilledWorker:
            return None
        finally:
            future.release()

    def _submit(self, block: Block, function: Callable[..., Any] = run_block) -> None:
        self.n_submitted += 1
        key = f"{self.stage.name}-{self.job.digest}-{block.start}-{self.n_submitted}"
        future = self.client.submit(
            function, self.job.digest, self.stage, block, key=key, pure=False, retries=0
        )
        self.in_flight[key] = (future, block)
        future.add_done_callback(self._announce)

    def _announce(self, future: Future[Any]) -> None:
        self.finished.put(str(future.key))

    def _next(self) -> str:
        """Key of the next task that has finished; waits for it, but not for ever."""
        deadline = time.monotonic() + self.limits.stall_seconds
        while time.monotonic() < deadline:
            self._write_table_now_and_then()
            if self.interrupts.received:
                deadline = min(deadline, self.interrupts.received_at + self.limits.grace_seconds)
            with contextlib.suppress(queue.Empty):
                key = self.finished.get(timeout=0.5)
                if key in self.in_flight:
                    return key
        if self.interrupts.received:
            raise self.interrupts.error()
        raise RunFaultError(
            f"No block has finished for {self.limits.stall_seconds:.0f} s; the cluster has "
            f"{thread_count(self.client)} threads.",
            consequence="The run stopped; frames that are done are kept.",
            cure="Look after the workers, and run the same command again.",
        )

    def _wind_down(self) -> None:
        """Let blocks in flight finish, and stop."""
        self.waiting.clear()
        while self.in_flight:
            self._settle(self._next())
            self.waiting.clear()
        raise self.interrupts.error()

    def _drop_all(self) -> None:
        with contextlib.suppress(Exception):
            self.client.cancel([future for future, _ in self.in_flight.values()])
        self.in_flight.clear()

    def _commit(self, result: BlockResult) -> None:
        """Make a block done: reasons, ledger, table, in this order."""
        record = result.record
        if result.reasons:
            self.reasons.update({str(number): why for number, why in result.reasons.items()})
            self.store.write_note(SET_ASIDE_NOTE, self.reasons)
        self.ledger.append(record)
        self._enter(record.rows, record.start, record.stop)
        self.n_done += 1
        self._report()

    def _enter(self, rows: Rows | None, start: int, stop: int) -> None:
        if rows is not None:
            self.table[start:stop] = rows

    def _write_table_now_and_then(self) -> None:
        if time.monotonic() - self.table_written > self.limits.table_seconds:
            began = time.monotonic()
            self.store.write_table(self.table)
            # never more than a twentieth of the coordinator's time
            self.table_written = time.monotonic() + 20 * (time.monotonic() - began)

    def _report(self) -> None:
        if self.progress is None:
            return
        status = self.table["status"]
        # of a stage that does not estimate all rows are known, but not all of them are done
        n_done = min(self.n_done * self.store.block_frames, self.store.n_frames)
        pending = (status & 1) != 0
        self.progress(
            Progress(
                stage=self.stage.name,
                frames_done=n_done,
                n_frames=self.store.n_frames,
                frames_flagged=int(np.count_nonzero(~is_good(status) & ~pending)),
                blocks_done=self.n_done,
                n_blocks=self.store.n_blocks,
                resumed_frames=self.n_resumed,
            )
        )
