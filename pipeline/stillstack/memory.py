"""Memory of a run, as a model of what its processes really hold. Pure arithmetic.

A worker is an interpreter with its libraries and compiled kernels, the reference as the coordinator
prepared it, and one block of frames. The coordinator makes the reference out of single frames, and
prepares it, before any worker starts. (A worker that cannot read what was prepared does that
itself; where frames are large and blocks short it may need more for it than is planned.)

An *image* here is four bytes a pixel. Numbers of images were counted with tracemalloc, and are the
same for frames of 256 to 2048 pixels a side; a test holds the sums to the peaks of real workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from stillstack.config import ReferenceConfig
from stillstack.layout import Layout
from stillstack.storage import CHUNKS_IN_FLIGHT, HELD_REFERENCES

# Interpreter, libraries and kernels from numba's cache are 300 MiB. Where the coordinator has
# compiled the kernels just now, workers compile a few for themselves, which takes 70 more.
PROCESS_BYTES: Final = 380 * 2**20
# A process that compiles all kernels, on a machine that has not done so before, takes this on top.
_COMPILING_BYTES: Final = 150 * 2**20
# The coordinator compiles those that make references too: 60 to 270 MiB more, measured.
_COORDINATOR_COMPILING_BYTES: Final = 280 * 2**20
# The coordinator has the scheduler and the command line too.
_COORDINATOR_BYTES: Final = 460 * 2**20
# While the reference is prepared, its arguments included; and what is kept of it then, which is
# most where features are so fine that frames are compared with it pixel by pixel.
PREPARING_IMAGES: Final = 30
REFERENCE_IMAGES: Final = 10
# Work on one frame that has pixels of its own to leave out.
_FRAME_IMAGES: Final = 4
# Sums and counts of bins, while the smaller levels of a frame are made.
_LEVEL_IMAGES: Final = 1
# Sums and counts of aligned frames, 64 bits each, that wait to be added; and of each thread that
# aligns one, the frame and what becomes of it.
_AVERAGING_IMAGES: Final = 24
_THREAD_IMAGES: Final = 4
_MEDIAN_BYTES: Final = 2**30
# The table, what is written of it, and the ledger's records while a run is taken up again.
_COORDINATOR_BYTES_PER_FRAME: Final = 400
_COORDINATOR_BYTES_PER_BLOCK: Final = 3_000


@dataclass(frozen=True)
class Memory:
    """Bytes that a run needs.

    Parameters
    ----------
    task
        Frames of one block, raw and aligned, and the work on them.
    worker
        One worker process: its libraries, the reference, one task.
    limit
        Memory limit of a worker; 0 where it is set elsewhere.
    total, available
        All workers together, and what the machine has; 0 where it is not this machine.
    needed_limit
        Smallest memory limit with which a worker never pauses.
    coordinator
        The process that makes the reference and keeps the ledger.
    needed_coordinator
        The same, on a machine that has to compile the kernels first.
    """

    task: int
    worker: int
    limit: int
    total: int
    available: int
    needed_limit: int = 0
    coordinator: int = 0
    needed_coordinator: int = 0

    def to_json(self) -> dict[str, int]:
        """Plain values for JSON."""
        return {f"{name}_bytes": value for name, value in vars(self).items()}


def task_bytes(layout: Layout, source_chunk: int) -> int:
    """Bytes that one block of frames takes in a worker.

    Raw frames, a chunk of the source as it is read and, where a block has only a part of it, as it
    is decoded; aligned frames of one chunk with their smaller levels, as they are and while they
    are compressed; what is compressed and waits for the disk, which of a shard is all of it; and
    the work on one frame.
    """
    frames = min(layout.block_frames, layout.n_frames)
    chunk = min(layout.chunk_frames, frames)
    reading = min(source_chunk, layout.n_frames) * (1 if frames % source_chunk == 0 else 2)
    waiting = frames if layout.sharded else min(frames, CHUNKS_IN_FLIGHT * chunk)
    return (
        (frames + reading) * layout.source_bytes
        + (2 * chunk + waiting) * layout.written_bytes
        + 4 * (_FRAME_IMAGES + (_LEVEL_IMAGES if layout.levels else 0)) * layout.pixels
    )


def worker_bytes(layout: Layout, source_chunk: int, *, grouped: bool = False) -> int:
    """Bytes that one worker process takes at most.

    A reference is read in one piece, of which the client of an object store makes a copy. Those of
    groups are prepared by the first worker that needs them, and a worker holds a few.
    """
    reference = prepared_bytes(layout)
    task = task_bytes(layout, source_chunk)
    most = reference + max(reference, task)
    if grouped:
        before = (HELD_REFERENCES - 1) * reference
        most = before + max(PREPARING_IMAGES * 4 * layout.pixels, reference + task)
    return PROCESS_BYTES + layout.kept_images * 4 * layout.pixels + most


def prepared_bytes(layout: Layout, n_references: int = 1) -> int:
    """Bytes that prepared references take on the disk until the run is complete, at most."""
    return n_references * REFERENCE_IMAGES * 4 * layout.pixels


def needed_limit(worker: int, pause_fraction: float) -> int:
    """Smallest memory limit with which a worker never pauses, wherever it compiles the kernels."""
    return math.ceil((worker + _COMPILING_BYTES) / pause_fraction)


def coordinator_bytes(layout: Layout, reference: ReferenceConfig, threads: int) -> int:
    """Bytes that the coordinator takes at most: to make the reference, and to keep the books."""
    image = 4 * layout.pixels
    making = (PREPARING_IMAGES + REFERENCE_IMAGES) * image
    averages = reference.kind == "mean" or reference.most_rounds > 0
    if averages:
        making += (_AVERAGING_IMAGES + _THREAD_IMAGES * threads) * image
    if reference.kind == "median":
        wanted = layout.n_frames if isinstance(reference.frames, str) else reference.frames
        # the frames one by one, and in one piece
        frames = 2 * min(wanted * layout.source_bytes, _MEDIAN_BYTES)
        making = max(making, frames + 3 * image)
    kept = _COORDINATOR_BYTES + layout.kept_images * image
    return kept + max(making, keeping_bytes(layout))


def needed_for_coordinator(coordinator: int) -> int:
    """Bytes with which the coordinator never lacks memory, wherever it compiles the kernels."""
    return coordinator + _COORDINATOR_COMPILING_BYTES


def keeping_bytes(layout: Layout) -> int:
    """Bytes of the coordinator's books, which grow with the run."""
    blocks = _COORDINATOR_BYTES_PER_BLOCK * layout.n_blocks * len(layout.stages)
    return _COORDINATOR_BYTES_PER_FRAME * layout.n_frames + blocks


def coordinator_floor(layout: Layout) -> int:
    """Bytes of the coordinator while the workers work, what it compiled included."""
    return needed_for_coordinator(_COORDINATOR_BYTES + keeping_bytes(layout))
