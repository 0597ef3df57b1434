"""Whether a store still holds what was written: every object's bytes against the ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillstack.address import Location, located
from stillstack.errors import said_by
from stillstack.kept_references import stored_digest
from stillstack.layout import ONE_PASS, TWO_PASSES
from stillstack.model import COLUMNS, TRAJECTORY_COLUMNS, Status
from stillstack.settle import table_of
from stillstack.storage import (
    BlockStore,
    DamagedBlock,
    RunStore,
    lock_run,
    open_block_store,
)

OnFrames = Callable[[int, int, int], None]

_ORDER = {stage.name: place for place, stage in enumerate((*TWO_PASSES, *ONE_PASS))}


@dataclass(frozen=True)
class Verification:
    """What was found in a store.

    Parameters
    ----------
    path
        The store.
    complete
        Whether it was finished.
    n_blocks, n_frames
        Of the store.
    missing
        Blocks that no stage's ledger has as done, of a store that was finished.
    damaged
        Blocks whose objects are missing or hold other bytes.
    beside
        What is wrong with anything but blocks, in words.
    lost
        Whether something is damaged that the same command cannot make again.
    taken_back
        Whether what is damaged counts as not done now, so that the same command repairs it.
    """

    path: Location
    complete: bool
    n_blocks: int
    n_frames: int
    missing: tuple[int, ...]
    damaged: tuple[DamagedBlock, ...]
    beside: tuple[str, ...]
    lost: bool
    taken_back: bool

    @property
    def sound(self) -> bool:
        """Whether everything is as it was written."""
        return not (self.missing or self.damaged or self.beside)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "sound": self.sound,
            "complete": self.complete,
            "blocks": self.n_blocks,
            "frames": self.n_frames,
            "missing_blocks": list(self.missing),
            "damaged": [
                {"block": d.block, "start": d.start, "stop": d.stop, "faults": list(d.faults)}
                for d in self.damaged
            ],
            "beside": list(self.beside),
            "cannot_be_repaired": self.lost,
            "taken_back": self.taken_back,
        }


def verify_store(
    path: str | Location, *, take_back: bool = True, progress: OnFrames | None = None
) -> Verification:
    """Read everything that a run or a stack holds, and compare it with its ledger.

    Parameters
    ----------
    path
        What ``stillstack run``, ``ingest`` or ``simulate`` wrote.
    take_back
        Let damaged blocks count as not done, so that the same command does them again. Without it
        nothing is changed.
    progress
        Called with how many frames have been read, of how many, and 0.

    Raises
    ------
    InputError
        If there is no such store, or something is still writing it and blocks are to be taken back.
    """
    with _opened(located(path), locked=take_back) as store:
        # later passes replace rows of earlier ones
        stages = tuple(sorted(store.stages(), key=lambda name: _ORDER.get(name, -1)))
        found = _damaged(store, stages, progress)
        missing = _missing(store, stages) if store.complete else ()
        rebuilt, lost = _beside(store) if isinstance(store, RunStore) else ((), ())
        complete, taken = store.complete, take_back and bool(missing or found or rebuilt)
        if taken:
            for stage, damaged in found.items():
                store.take_back(stage, [block.block for block in damaged])
            if store.complete:
                store.mark_unfinished()
        return Verification(
            path=store.path,
            complete=complete,
            n_blocks=store.n_blocks,
            n_frames=store.n_frames,
            missing=missing,
            damaged=tuple(block for blocks in found.values() for block in blocks),
            beside=(*rebuilt, *lost),
            lost=bool(lost),
            taken_back=taken,
        )


@contextlib.contextmanager
def _opened(path: Location, *, locked: bool) -> Iterator[BlockStore]:
    """Open a store, for looking or with its lock."""
    kind = type(open_block_store(path))
    if not locked:
        yield kind.view(path)
        return
    with lock_run(path) as lock:
        yield kind.resume(lock)


def _damaged(
    store: BlockStore, stages: tuple[str, ...], progress: OnFrames | None
) -> dict[str, list[DamagedBlock]]:
    n_seen, total = 0, sum(store.stage_frames(stage) for stage in stages)

    def seen(_: int) -> None:
        nonlocal n_seen
        n_seen += 1
        if progress is not None:
            done = min(n_seen * store.block_frames, total)
            progress(done, total, 0)

    found = {stage: store.verify(stage, seen) for stage in stages}
    return {stage: damaged for stage, damaged in found.items() if damaged}


def _missing(store: BlockStore, stages: tuple[str, ...]) -> tuple[int, ...]:
    """Blocks of a finished store that a ledger has lost."""
    layout = store.layout
    # where shifts are given and no image is wanted there is nothing to do
    idle = layout.get("given") and layout.get("aligned_dtype") is None
    lost: set[int] = set(range(store.n_blocks)) if not (stages or idle) else set()
    for stage in stages:
        lost |= set(range(len(store.blocks(stage)))) - store.recorded_blocks(stage)
    return tuple(sorted(lost))


def _beside(store: RunStore) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is wrong with a run's table, which is made again, and with the rest, which is not.

    Zarr compares every chunk that it reads with the checksum at its end. What the table is made of
    comes first: without it the table that was written is the better one.
    """
    rebuilt: list[str] = []
    lost: list[str] = []
    made_again = {column.name for column in (*COLUMNS, *TRAJECTORY_COLUMNS)}
    for name, why in store.damaged_arrays().items():
        words = f"{name} cannot be read: {why}"
        (rebuilt if name in made_again else lost).append(words)
    if lost:
        return (), (*rebuilt, *lost)
    if not rebuilt:
        table, folded = store.read_table(), table_of(store)
        known = (folded["status"] & int(Status.PENDING)) == 0
        # a run that was not finished may not have written its last rows
        if store.complete and table[known].tobytes() != folded[known].tobytes():
            n_other = int(np.count_nonzero(table[known] != folded[known]))
            rebuilt.append(f"the per-frame table differs from the ledger in {n_other} frames")
    try:
        digest = stored_digest(store)
    except Exception as error:  # noqa: BLE001  # of an array that is whole: what it holds
        lost.append(f"the reference cannot be read: {said_by(error)}")
    else:
        if digest != store.attributes["reference_digest"]:
            lost.append("the reference is not the one that frames were registered to")
    return tuple(rebuilt), tuple(lost)


def repair_advice(found: Verification) -> str:
    """Say what to do about what was found."""
    if found.lost:
        return "What is lost cannot be made again as it was: run with a new output."
    if found.taken_back:
        return "Run the same command again (stillstack run CONFIG): it does these blocks again."
    return "Verify without --keep, then run the same command again: it does these blocks again."
