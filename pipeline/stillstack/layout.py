"""How a run is cut up: blocks, chunks, stages and bytes. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stillstack.config import RunConfig
from stillstack.sources import Source

_BLOCK_BYTES: Final = 64 * 2**20
_MOST_BLOCK_FRAMES: Final = 64
_MOST_CHUNK_BYTES: Final = 256 * 2**20
# How often a large chunk of the source may be decoded so that several workers can share it.
_MOST_DECODINGS: Final = 4
_SMALL_BLOCK_BYTES: Final = 4 * 2**20
# 32 blocks are enough for four on each of eight workers; where blocks would be so small that
# handling them costs more than the work, 8 will do.
_FEWEST_BLOCKS: Final = 32
_FEWEST_SMALL_BLOCKS: Final = 8

# What one worker process holds, apart from frames: interpreter, libraries, compiled kernels.
_PROCESS_BYTES: Final = 300 * 2**20
# Images of four bytes a pixel: while the reference is prepared, what it keeps then, and what the
# work on one frame takes.
_PREPARING_IMAGES: Final = 34
_REFERENCE_IMAGES: Final = 12
_FRAME_IMAGES: Final = 8


@dataclass(frozen=True)
class Stage:
    """One pass over the frames, with a ledger of its own.

    Parameters
    ----------
    name
        Name of its ledger.
    estimates
        Whether it registers the frames; else their rows of the table are known.
    applies
        Whether it writes aligned frames.
    """

    name: str
    estimates: bool
    applies: bool


ONE_PASS: Final = (Stage("align", estimates=True, applies=True),)
SHIFTS_ONLY: Final = (Stage("estimate", estimates=True, applies=False),)
TWO_PASSES: Final = (
    Stage("estimate", estimates=True, applies=False),
    Stage("apply", estimates=False, applies=True),
)


def stages_of(config: RunConfig) -> tuple[Stage, ...]:
    """Return the passes over the frames that a run makes.

    Frames are read once, except that a canvas that every good frame covers is known only when all
    of them have been registered.
    """
    if not config.output.aligned:
        return SHIFTS_ONLY
    return TWO_PASSES if config.alignment.canvas == "common" else ONE_PASS


@dataclass(frozen=True)
class Layout:
    """Sizes of a run.

    Parameters
    ----------
    n_frames, frame_shape
        Frames of the source.
    source_dtype, aligned_dtype
        Names of dtypes; the second is None where only shifts are wanted.
    block_frames, chunk_frames
        Frames in a block, the unit of work, and in a chunk of the output.
    stages
        Passes over the frames.
    """

    n_frames: int
    frame_shape: tuple[int, int]
    source_dtype: str
    aligned_dtype: str | None
    block_frames: int
    chunk_frames: int
    stages: tuple[Stage, ...]

    @property
    def n_blocks(self) -> int:
        """Units of work in one pass."""
        return -(-self.n_frames // self.block_frames)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the passes, in order."""
        return tuple(stage.name for stage in self.stages)

    @property
    def pixels(self) -> int:
        """Pixels of a frame."""
        return self.frame_shape[0] * self.frame_shape[1]

    @property
    def source_bytes(self) -> int:
        """Bytes of one raw frame."""
        return self.pixels * np.dtype(self.source_dtype).itemsize

    @property
    def aligned_bytes(self) -> int:
        """Bytes of one aligned frame; 0 where none is written."""
        return self.pixels * np.dtype(self.aligned_dtype).itemsize if self.aligned_dtype else 0


def lay_out(config: RunConfig, source: Source, aligned_dtype: np.dtype[Any]) -> Layout:
    """Return the sizes of a run. They depend on the config and the source, never on the cluster."""
    n_frames, height, width = source.shape
    dtype = np.dtype(source.dtype)
    chosen = config.output.block_frames
    chunk_frames = min(config.output.chunk_frames, n_frames)
    if isinstance(chosen, int):
        block_frames = max(chunk_frames, chosen)
    else:
        frame_bytes = max(1, height * width * dtype.itemsize)
        block_frames = _automatic_block(n_frames, frame_bytes, source.chunk_frames, chunk_frames)
    return Layout(
        n_frames=n_frames,
        frame_shape=(height, width),
        source_dtype=dtype.name,
        aligned_dtype=aligned_dtype.name if config.output.aligned else None,
        block_frames=block_frames,
        chunk_frames=chunk_frames,
        stages=stages_of(config),
    )


def _automatic_block(n_frames: int, frame_bytes: int, source_chunk: int, chunk: int) -> int:
    """Frames of a block: about 64 MiB, whole chunks of the source, some blocks for each worker."""
    by_bytes = max(1, min(_BLOCK_BYTES // frame_bytes, _MOST_BLOCK_FRAMES))
    small = min(_SMALL_BLOCK_BYTES // frame_bytes, n_frames // _FEWEST_SMALL_BLOCKS)
    wanted = max(1, min(by_bytes, max(small, n_frames // _FEWEST_BLOCKS)))
    step = max(1, min(source_chunk, n_frames))
    if step <= wanted:
        block = wanted // step * step
    elif step * frame_bytes <= _MOST_CHUNK_BYTES and step <= max(4 * wanted, by_bytes):
        block = step
    else:
        fewest = max(min(wanted, step), -(-step // _MOST_DECODINGS))
        block = next(divisor for divisor in range(fewest, step + 1) if step % divisor == 0)
    return -(-block // chunk) * chunk


def read_amplification(layout: Layout, source_chunk: int) -> float:
    """How often each frame of the source is decoded, over all passes.

    Examples
    --------
    >>> layout = Layout(64, (8, 8), "uint16", "uint16", 6, 1, ONE_PASS)
    >>> read_amplification(layout, 8)
    2.0
    """
    decoded = 0
    for start in range(0, layout.n_frames, layout.block_frames):
        stop = min(start + layout.block_frames, layout.n_frames)
        first, last = start // source_chunk, (stop - 1) // source_chunk
        decoded += min((last + 1) * source_chunk, layout.n_frames) - first * source_chunk
    return len(layout.stages) * decoded / layout.n_frames


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
    """

    task: int
    worker: int
    limit: int
    total: int
    available: int

    def to_json(self) -> dict[str, int]:
        """Plain values for JSON."""
        return {f"{name}_bytes": value for name, value in vars(self).items()}


def task_bytes(layout: Layout, source_chunk: int) -> int:
    """Bytes that one block of frames takes in a worker.

    Raw frames as decoded, aligned frames, what is compressed of them on its way to the disk, the
    work on one frame, and the part of a source chunk that belongs to other blocks.
    """
    frames = min(layout.block_frames, layout.n_frames)
    beyond = source_chunk if source_chunk > 1 and frames % source_chunk else 0
    return (
        (frames + beyond) * layout.source_bytes
        + 2 * frames * layout.aligned_bytes
        + 4 * _FRAME_IMAGES * layout.pixels
    )


def worker_bytes(layout: Layout, source_chunk: int) -> int:
    """Bytes that one worker process takes at most: first to prepare the reference, then to work."""
    image = 4 * layout.pixels
    working = _REFERENCE_IMAGES * image + task_bytes(layout, source_chunk)
    return _PROCESS_BYTES + max(_PREPARING_IMAGES * image, working)


def fitting_workers(cores: int, available: int, needed: int) -> int:
    """Return how many workers the machine can feed: one for each core, fewer where memory ends.

    Examples
    --------
    >>> fitting_workers(8, 16_000, 5_000)
    3
    """
    return max(1, min(cores, math.floor(available / max(1, needed))))
