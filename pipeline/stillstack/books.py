"""The books of a stage: which blocks are done, what their frames came to, and who is told.

A block is done when the ledger has it. Its rows of the table follow, and what readers of the store
and people see follows these.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from stillstack.doubt import Doubt
from stillstack.flight import Limits
from stillstack.job import Block, BlockResult
from stillstack.layout import Stage
from stillstack.model import Rows, Status, is_good
from stillstack.storage import AnyLedger, RunStore
from stillstack.storage.notes import SET_ASIDE_NOTE
from stillstack.watch.progress import OnProgress, Progress
from stillstack.watch.teller import Look, Teller

Publish = Callable[[Rows], None]

_LOG: Final = logging.getLogger(__name__)
_UNSEEN: Final = int(Status.PENDING | Status.EXCLUDED)


@dataclass(eq=False)
class Books:
    """What is done of a stage; nothing else makes a block done.

    Parameters
    ----------
    stage, store, ledger
        What is being done, where, and the ledger of it, which is open.
    table
        Rows of all frames, filled in as blocks come.
    write_table
        Writes what readers see of the rows.
    limits
        How often that is done, and how many blocks may fail as a whole.
    look, progress
        As of the `Teller`.

    Attributes
    ----------
    waiting
        Blocks that are not done and not given to anyone.
    n_done
        Blocks that are done, those of earlier attempts included.
    slowest
        Longest time that a block of an earlier attempt took, seconds.
    control
        A frame that came through, as a block of its own; None where none has.
    teller
        Of how the stage goes.
    """

    stage: Stage
    store: RunStore
    ledger: AnyLedger
    table: Rows
    write_table: Publish
    limits: Limits
    look: Look
    progress: OnProgress | None

    def __post_init__(self) -> None:
        self._published = time.monotonic()
        self._doubt = Doubt(self.limits.doubtful_blocks)
        self._reasons: dict[str, str] = self.store.read_note(SET_ASIDE_NOTE) or {}
        self._n_flagged = 0
        self.waiting: deque[Block] = deque()
        self.n_done = 0
        self.slowest = 0.0
        self.control: Block | None = None
        n_resumed = self._take_stock()
        self._n_flagged = _n_flagged(self.table)
        told = Progress(
            stage=self.stage.name,
            frames_done=self._frames_done(),
            n_frames=len(self.table),
            frames_flagged=self._n_flagged,
            blocks_done=self.n_done,
            n_blocks=-(-len(self.table) // self.store.block_frames),
            resumed_frames=n_resumed,
        )
        self.teller = Teller(told, self.look, self.progress)

    def _take_stock(self) -> int:
        """Fill in what is done already, and line up the rest; return how many frames are done."""
        done, n_frames = self.store.done_blocks(self.stage.name), 0
        for index, (start, stop) in enumerate(self.store.blocks(self.stage.name)):
            if index in done:
                self._enter(done[index].rows, start, stop)
                self.slowest = max(self.slowest, done[index].seconds)
                n_frames += stop - start
                self._doubt.came_through |= _n_seen(self.table[start:stop]) > 0
                continue
            known = self.table[start:stop].copy()
            left_out = np.flatnonzero(known["status"] & int(Status.EXCLUDED)) + start
            rows = None
            if not self.stage.estimates:
                rows = known
                # until its image is there, whatever is known of its shift
                self.table["status"][start:stop] |= int(Status.PENDING)
            excluded = tuple(int(number) for number in left_out)
            self.waiting.append(Block(index, start, stop, rows, excluded=excluded))
        self.n_done = len(done)
        return n_frames

    def take(self, result: BlockResult) -> None:
        """Commit a block, as soon as it is clear that it tells of the frames.

        Raises
        ------
        RunFaultError
            If so many blocks have failed as a whole that it is not the frames' fault.
        """
        n_seen = _n_seen(self.table[result.record.start : result.record.stop])
        for believed in self._doubt.believed(result, n_seen):
            self._commit(believed)

    def _commit(self, result: BlockResult) -> None:
        """Make a block done: reasons, ledger, table, in this order."""
        record = result.record
        if result.reasons:
            self._reasons.update({str(number): why for number, why in result.reasons.items()})
            self.store.write_note(SET_ASIDE_NOTE, self._reasons)
            for number, why in result.reasons.items():
                _LOG.warning("frame %d is set aside: %s", number, why)
        self.ledger.append(record)
        self._enter(record.rows, record.start, record.stop)
        self.n_done += 1
        self.teller.advance(self._frames_done(), self.n_done, self._n_flagged)

    def _enter(self, rows: Rows | None, start: int, stop: int) -> None:
        if rows is not None:
            # counted as they come: the whole table for every block is too much of a long run
            self._n_flagged += _n_flagged(rows) - _n_flagged(self.table[start:stop])
            self.table[start:stop] = rows
            self._note_control(rows, start)

    def _note_control(self, rows: Rows, start: int) -> None:
        if self.control is not None:
            return
        good = np.flatnonzero(is_good(rows["status"]))
        if len(good):
            place, number = int(good[0]), start + int(good[0])
            known = None if self.stage.estimates else rows[place : place + 1].copy()
            self.control = Block(number // self.store.block_frames, number, number + 1, known)

    def _frames_done(self) -> int:
        # of a stage that does not estimate all rows are known, but not all of them are done
        return min(self.n_done * self.store.block_frames, len(self.table))

    def publish(self) -> None:
        """Write the table for readers."""
        self.write_table(self.table)

    def publish_now_and_then(self) -> None:
        """Write the table for readers, if the last time is long ago."""
        if time.monotonic() - self._published > self.limits.table_seconds:
            began = time.monotonic()
            self.publish()
            now = time.monotonic()
            self._published = now + (now - began) / self.limits.table_share

    def refuse_doubtful(self) -> None:
        """Raise RunFaultError if blocks are held back because not one frame has come through."""
        self._doubt.refuse()

    def close(self) -> None:
        """Write the table, and tell that the stage is done."""
        self.publish()
        self.teller.end()


def _n_flagged(rows: Rows) -> int:
    """Frames that were looked at and are not good."""
    status = rows["status"]
    unseen = (status & _UNSEEN) != 0
    return int(np.count_nonzero(~is_good(status) & ~unseen))


def _n_seen(rows: Rows) -> int:
    """Frames that the config does not leave out."""
    return int(np.count_nonzero((rows["status"] & int(Status.EXCLUDED)) == 0))
