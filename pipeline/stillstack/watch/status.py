"""How far a run has come, read from its store alone: no lock, and nothing is changed.

What is counted is what the ledgers say and what the table was last written with, so that a look at
a hundred thousand blocks takes a second; whether every object is still there is for `verify`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np

from stillstack.address import Address, Location, located
from stillstack.config import make_config
from stillstack.errors import InputError
from stillstack.layout import stages_of
from stillstack.model import Status, is_good, status_words
from stillstack.stack_writer import STAGE
from stillstack.storage import (
    BlockRecord,
    BlockStore,
    RunStore,
    Writer,
    check_reachable,
    find_writer,
    open_block_store,
    read_attributes,
    refuse_foreign,
)
from stillstack.storage.notes import ATTEMPTS_NOTE, CHECKS_NOTE

State = Literal["new", "unfinished", "complete"]
# A rate is one of the last minutes, not of days: what the disk did on Monday says nothing of today.
_WINDOW_SECONDS: Final = 600.0


@dataclass(frozen=True)
class StageState:
    """How far one pass over the frames has come.

    Parameters
    ----------
    name
        Of the pass.
    frames_done, n_frames
        Frames that are done, and all of them.
    blocks_done, n_blocks
        The same in blocks.
    rate
        Frames per second of late, in the present attempt; None where nothing has come of it.
    last_done
        When the last block was finished, in seconds since 1970.
    """

    name: str
    frames_done: int
    n_frames: int
    blocks_done: int
    n_blocks: int
    rate: float | None = None
    last_done: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """Time that the frames that are left take at this rate; None where it is not known."""
        left = self.n_frames - self.frames_done
        if left == 0:
            return 0.0
        return left / self.rate if self.rate else None


@dataclass(frozen=True)
class RunState:
    """A run, or a stack that is being copied, as its store has it.

    Parameters
    ----------
    path
        Where it is.
    state
        ``"new"`` while nothing but the lock is there and the reference is made, ``"unfinished"``,
        or ``"complete"``.
    writer
        Who has it locked, or died without unlocking it.
    stages
        Passes over the frames, in order.
    n_frames, n_good, n_pending
        Frames, good ones, and ones that no pass has come to, when the table was last written.
    flags
        Frames with each status bit that occurs, ``pending`` left out.
    set_aside
        Frames that could not be read or processed, and why.
    attempts
        When and where it was worked on, and how that ended.
    checks
        What independent checks found when the report was last written; empty before.
    """

    path: str
    state: State
    writer: Writer | None = None
    stages: tuple[StageState, ...] = ()
    n_frames: int = 0
    n_good: int = 0
    n_pending: int = 0
    flags: Mapping[str, int] = field(default_factory=dict)
    set_aside: Mapping[int, str] = field(default_factory=dict)
    attempts: tuple[Mapping[str, Any], ...] = ()
    checks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_written(self) -> bool | None:
        """Whether a process works on it; None where only that process's machine could tell."""
        return False if self.writer is None else self.writer.alive

    @property
    def current(self) -> StageState | None:
        """Pass that is under way, or comes next; None where all are done."""
        left = (stage for stage in self.stages if stage.blocks_done < stage.n_blocks)
        return None if self.state == "complete" else next(left, None)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        current = self.current
        return {
            "path": self.path,
            "state": self.state,
            "being_written": self.is_written,
            "writer": None if self.writer is None else vars(self.writer),
            "frames": self.n_frames,
            "good": self.n_good,
            "pending": self.n_pending,
            "flags": dict(self.flags),
            "stages": [{**vars(s), "seconds_left": s.seconds_left} for s in self.stages],
            "current": None if current is None else current.name,
            "set_aside": {str(number): why for number, why in self.set_aside.items()},
            "attempts": [dict(attempt) for attempt in self.attempts],
            "checks": dict(self.checks),
        }


def look_at(path: str | Location, *, now: float | None = None) -> RunState:
    """State of a run, or of a stack that ingest or simulate writes.

    Parameters
    ----------
    path
        The output: a folder, or an address such as ``s3://bucket/run.zarr``.
    now
        Moment that rates are reckoned up to, in seconds since 1970; by default this one.

    Raises
    ------
    InputError
        There is nothing there, or something else.
    """
    place = located(path)
    if isinstance(place, Address):
        check_reachable(place, writing=False)
    elif not place.exists():
        raise InputError(
            f"There is no run at {place}.", cure="Give the output that the config names."
        )
    writer = find_writer(place)
    if read_attributes(place) is None:
        refuse_foreign(place)
        return RunState(str(place), "new", writer)
    store = open_block_store(place)
    attempts = _attempts(store, writer)
    began = float(attempts[-1].get("began", 0.0)) if attempts else 0.0
    alive = writer is not None and writer.alive is not False
    until = (time.time() if now is None else now) if alive else 0.0
    state: State = "complete" if store.complete else "unfinished"
    stages = tuple(_stage_state(store, name, began, until) for name in _stage_names(store))
    seen = RunState(
        str(place),
        state,
        writer,
        stages,
        store.n_frames,
        set_aside=store.set_aside(),
        attempts=attempts,
        checks=store.read_note(CHECKS_NOTE) or {},
    )
    return _with_flags(seen, store) if isinstance(store, RunStore) else seen


def _with_flags(seen: RunState, store: RunStore) -> RunState:
    status = store.read("status").astype(np.uint16)
    counts = {bit: int(np.count_nonzero(status & int(bit))) for bit in Status}
    pending = counts.pop(Status.PENDING)
    flags = {status_words(bit)[0]: count for bit, count in counts.items() if count}
    n_good = int(np.count_nonzero(is_good(status)))
    return replace(seen, n_good=n_good, n_pending=pending, flags=flags)


def _attempts(store: BlockStore, writer: Writer | None) -> tuple[Mapping[str, Any], ...]:
    """Attempts as they were noted; of the last, which is noted as killed, whether it runs."""
    attempts = list(store.read_note(ATTEMPTS_NOTE) or ())
    if not attempts and writer is not None:
        attempts = [{"began": writer.since, "host": writer.host, "process": writer.pid}]
    last = attempts[-1] if attempts else {}
    mine = writer is not None and last.get("process") == writer.pid
    if attempts and "ended" not in last and mine and writer is not None:
        words = {True: "running", False: "killed", None: "running, or killed"}
        attempts[-1] = {**last, "outcome": words[writer.alive]}
    return tuple(attempts)


def _stage_names(store: BlockStore) -> tuple[str, ...]:
    """Passes that will be made, in order, and any others that have a ledger."""
    known = store.stages()
    if not isinstance(store, RunStore):
        return (STAGE,)
    config = store.attributes.get("config") or {}
    output = {**config.get("output", {}), "path": str(store.path)}
    try:
        planned = tuple(s.name for s in stages_of(make_config({**config, "output": output})))
    except InputError:  # of another version
        planned = ()
    return (*planned, *(name for name in known if name not in planned))


def _stage_state(store: BlockStore, name: str, began: float, until: float) -> StageState:
    seen = store.glance(name)
    n_frames = store.stage_frames(name)
    n_blocks = len(store.blocks(name))
    records = list(seen.records.values())
    frames = sum(record.stop - record.start for record in records)
    return StageState(
        name,
        min(frames + seen.n_earlier * store.block_frames, n_frames),
        n_frames,
        min(len(records) + seen.n_earlier, n_blocks),
        n_blocks,
        _rate([record for record in records if record.finished >= began], until),
        max((record.finished for record in records), default=None),
    )


def _rate(records: list[BlockRecord], until: float) -> float | None:
    """Frames per second of the last minutes, up to a moment, or to the last block if that is later.

    A run that has come to a stand gets slower by the minute.
    """
    if not records:
        return None
    last = max(until, *(record.finished for record in records))
    late = [record for record in records if record.finished > last - _WINDOW_SECONDS]
    begun = min(record.finished - record.seconds for record in records)
    seconds = last - max(begun, last - _WINDOW_SECONDS)
    return sum(record.stop - record.start for record in late) / max(seconds, 1e-9)
