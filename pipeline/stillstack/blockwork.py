"""What a worker does with one block: read, register, align, write, and return a small record.

A frame that cannot be read or processed is data: when a block fails, each of its
frames is tried alone, and those that fail alone are set aside with the reason.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import (
    AccessError,
    RunFaultError,
    changed_source,
    disk_fault,
    lost_source,
    said_by,
)
from stillstack.frameblock import Resampling, align_block, register_block
from stillstack.job import Block, BlockResult, Job, job_named
from stillstack.kept_references import KeptReference, reference_in
from stillstack.kernels.registration import Reference
from stillstack.kernels.validity import value_validity
from stillstack.layout import Stage
from stillstack.model import LEFT_OUT, Rows, Status, empty_table, image_fill, is_good
from stillstack.sources import read_piece
from stillstack.storage import BlockRecord, BlockWriter, BlockWriting, StoredObject

_NOT_THE_FRAMES_FAULT: Final = (MemoryError, RunFaultError, AccessError)
_LOG: Final = logging.getLogger(__name__)
# Frames over all of a source that are tried where this process has not read any yet.
_CONTROLS: Final = 5
# A frame of each job that this process has read, by the job's digest.
_read: dict[str, int] = {}


def run_block(job_digest: str, stage: Stage, block: Block) -> BlockResult:
    """Do one block and return its record.

    Raises
    ------
    RunFaultError
        If something other than the frames is at fault: the disk, the reference, the source as a
        whole.
    """
    began = time.perf_counter()
    job = job_named(job_digest)
    # before anything that could be taken for the frames' fault
    needed = job.references_for(block) if stage.estimates else ((job.reference, 0, 0),)
    for kept, _, _ in needed:
        reference_of(job, kept)
    if stage.applies and job.writer is not None:
        rows, reasons, objects = _written(job, job.writer, stage, block)
    else:
        rows, reasons = _whole_or_single(job, stage, block, None)
        objects = ()
    record = BlockRecord(
        block=block.index,
        start=block.start,
        stop=block.stop,
        rows=rows,
        objects=objects,
        seconds=time.perf_counter() - began,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        finished=time.time(),
    )
    # by the run's frames, whatever the pass goes through
    return BlockResult(record, {job.frame_number(place): why for place, why in reasons.items()})


def probe_frame(job_digest: str, stage: Stage, block: Block) -> int:
    """Do the work of a block without writing it, to see whether the worker survives."""
    job = job_named(job_digest)
    _whole_or_single(job, stage, block, None)
    return os.getpid()


def reference_of(job: Job, kept: KeptReference | None = None) -> Reference:
    """Reference of a job, or of a group: see `reference_in`."""
    return reference_in(job.store_path, kept or job.reference)


def _written(
    job: Job, writer: BlockWriter, stage: Stage, block: Block
) -> tuple[Rows, dict[int, str], tuple[StoredObject, ...]]:
    """Do a block and write its images; the disk's faults are told from the frames'."""
    try:
        with contextlib.closing(writer.begin(block.start)) as writing:
            rows, reasons = _whole_or_single(job, stage, block, writing)
            return rows, reasons, writing.commit()
    except OSError as error:
        what = f"{writer.path}, frames {block.start} to {block.stop - 1},"
        raise disk_fault(error, what) from error


def _whole_or_single(
    job: Job, stage: Stage, block: Block, writing: BlockWriting | None
) -> tuple[Rows, dict[int, str]]:
    """Rows of a block, frame by frame where it does not work as a whole; images are written."""
    if not block.set_aside:
        # whatever a block fails of, its frames are tried one by one
        with _suppressed_but_faults():
            return _computed(job, stage, block, writing), {}
    rows, images, reasons = _frame_by_frame(job, stage, block)
    if writing is not None:
        writing.discard()
        for first in range(0, len(images), writing.chunk_frames):
            writing.put(images[first : first + writing.chunk_frames])
    return rows, reasons


@contextlib.contextmanager
def _suppressed_but_faults() -> Iterator[None]:
    """Suppress what goes wrong with frames; a lack of memory, or of a store, is not their fault."""
    try:
        yield
    except _NOT_THE_FRAMES_FAULT:
        raise
    except Exception:  # noqa: BLE001  # each frame says why, when it is tried alone
        _LOG.debug("a block is tried frame by frame", exc_info=True)


def _frame_by_frame(
    job: Job, stage: Stage, block: Block
) -> tuple[Rows, NDArray[Any], dict[int, str]]:
    n_frames = block.stop - block.start
    rows = empty_table(n_frames, Status.UNREADABLE)
    images = _fill_images(job, n_frames) if stage.applies else np.empty(0)
    reasons = dict(block.set_aside)
    for place, number in enumerate(range(block.start, block.stop)):
        if number in reasons:
            continue
        known = None if block.rows is None else block.rows[place : place + 1]
        alone = replace(block, start=number, stop=number + 1, rows=known)
        image = images[place : place + 1] if stage.applies else None
        try:
            rows[place] = _computed(job, stage, alone, image)[0]
        except _NOT_THE_FRAMES_FAULT:
            raise
        except Exception as error:  # noqa: BLE001  # the frame is set aside, with the reason
            reasons[number] = said_by(error)
    if len(reasons) > len(block.set_aside):
        _refuse_lost_source(job)
    if block.rows is not None:
        _keep_known_rejects(rows, block.rows)
    return rows, images, reasons


def _computed(
    job: Job,
    stage: Stage,
    block: Block,
    images: BlockWriting | NDArray[Any] | None,
) -> Rows:
    """Rows of a range of frames, each of which is read once; images go where they are wanted.

    The same functions that the lazy graph maps over a stack, called without a graph: to build and
    compute one for every block, and to copy what comes out, takes as long as to register.
    """
    _, *shape = job.source.shape
    frames = _frames(job, block)
    if stage.estimates:
        rows = _registered(job, block, frames)
    elif block.rows is not None:
        rows = block.rows.copy()
        if job.unseen:
            _reject_blank(rows, frames, reference_of(job))
    else:
        msg = "a stage that does not estimate needs the rows of its block"
        raise RunFaultError(msg)
    if not stage.applies:
        return rows
    canvas = job.canvas or (0, shape[0], 0, shape[1])
    resampling = Resampling(job.interpolation, str(job.aligned_dtype), canvas)
    step = images.chunk_frames if isinstance(images, BlockWriting) else len(frames)
    for first in range(0, len(frames), step):
        piece = slice(first, first + step)
        moved = align_block(
            frames[piece],
            rows[piece, None, None],
            np.array([block.start + first]),
            reference=reference_of(job),
            valid=None,
            resampling=resampling,
            block_id=(0,),
        )
        rows["n_clipped"][piece] = moved.n_clipped
        if isinstance(images, BlockWriting):
            images.put(moved.images)
        elif images is not None:
            images[piece] = moved.images
    rows["status"][rows["n_clipped"] > 0] |= int(Status.CLIPPED)
    return rows


def _reject_blank(rows: Rows, frames: NDArray[Any], reference: Reference) -> None:
    """Take the shift from frames that show nothing, which sums over many do not tell."""
    valid, rules = reference.frame_valid, reference.settings.rules
    for place in np.flatnonzero(is_good(rows["status"])):
        values = frames[place][value_validity(frames[place], valid, rules).valid]
        if not values.size or values.max() == values.min():
            rows["status"][place] |= int(Status.BLANK)
            rows["shift"][place] = rows["shift_std"][place] = np.nan


def _frames(job: Job, block: Block) -> NDArray[Any]:
    """Raw frames of a block, zero where they are left out."""
    n_frames, (_, height, width) = block.stop - block.start, job.source.shape
    dtype = np.dtype(job.source.dtype)
    pieces = [
        (start, read_piece((job.source, start, stop, (height, width), dtype.str)))
        for start, stop in block.stretches
    ]
    if pieces:
        _read[job.digest] = block.stretches[-1][0]
    if not block.excluded:
        return pieces[0][1]
    frames = np.zeros((n_frames, height, width), dtype)
    for start, piece in pieces:
        frames[start - block.start :][: len(piece)] = piece
    return frames


def _registered(job: Job, block: Block, frames: NDArray[Any]) -> Rows:
    """Rows of a block's frames, each registered to the reference of its group."""
    rows = empty_table(len(frames), LEFT_OUT)
    for kept, start, stop in job.references_for(block):
        piece = slice(start - block.start, stop - block.start)
        reference = reference_of(job, kept)
        rows[piece] = register_block(frames[piece], reference, np.array([start]), (0,))[:, 0, 0]
    return rows


def _keep_known_rejects(rows: Rows, known: Rows) -> None:
    """Keep what an earlier stage found out about frames that this one could not read."""
    failed = (rows["status"] & int(Status.UNREADABLE)) != 0
    rows[failed] = known[failed]
    rows["status"][failed] |= int(Status.UNREADABLE)


def _fill_images(job: Job, n_frames: int) -> NDArray[Any]:
    dtype = np.dtype(str(job.aligned_dtype))
    shape = job.source.shape[1:]
    if job.canvas is not None:
        y0, y1, x0, x1 = job.canvas
        shape = (y1 - y0, x1 - x0)
    return np.full((n_frames, *shape), image_fill(dtype), dtype)


def _refuse_lost_source(job: Job) -> None:
    """Tell a source that is gone as a whole from frames that are broken.

    A disk that is away for a while may still say how large its files are, so a frame is read that
    could be read before: set aside is for good.
    """
    try:
        now = job.source.fingerprint()
    except _NOT_THE_FRAMES_FAULT:
        raise
    except Exception as error:
        raise lost_source(f"The source {job.source.name}", error) from error
    if now != job.fingerprint:
        raise changed_source(job.source.name)
    _read_control(job)


def _read_control(job: Job) -> None:
    """Read a frame that this process has read before, or one of some over all of the source.

    Raises
    ------
    RunFaultError
        If none of them can be read.
    """
    n_frames, height, width = job.source.shape
    spread = [int(number) for number in np.linspace(0, n_frames - 1, _CONTROLS)]
    failures = []
    for number in [_read[job.digest]] if job.digest in _read else spread:
        try:
            read_piece((job.source, number, number + 1, (height, width), str(job.source.dtype)))
        except _NOT_THE_FRAMES_FAULT:
            raise
        except Exception as error:  # noqa: BLE001  # raised below, unless another can be read
            failures.append(error)
        else:
            return
    raise lost_source(f"The source {job.source.name}", failures[-1]) from failures[-1]
