"""How a run is cut up: blocks, chunks, stages and bytes. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from stillstack.config import RunConfig
from stillstack.kernels.downsampling import level_shapes

# To handle a block costs 10 ms of CPU, whatever its size. That is a twentieth of the work on 64 MiB
# of frames that are aligned, and a tenth of that on 128 MiB where shifts alone are wanted. Frames
# of 256 x 256 are 0.4 ms each, so that 64 of them would cost a third more.
_BLOCK_BYTES: Final = 64 * 2**20
_BLOCK_BYTES_OF_SHIFTS: Final = 128 * 2**20
_MOST_BLOCK_FRAMES: Final = 256
_MOST_CHUNK_BYTES: Final = 256 * 2**20
# How often a large chunk of the source may be decoded so that several workers can share it.
_MOST_DECODINGS: Final = 4
_SMALL_BLOCK_BYTES: Final = 4 * 2**20
# 32 blocks are enough for four on each of eight workers; where blocks would be so small that
# handling them costs more than the work, 8 will do.
_FEWEST_BLOCKS: Final = 32
_FEWEST_SMALL_BLOCKS: Final = 8

MOST_OBJECTS: Final = 100_000
# The arrays of the table, the coordinates and the notes of a run are objects too.
_OBJECTS_BESIDE: Final = 1_000
_CHUNK_BYTES: Final = 4 * 2**20
_MOST_CHUNK_FRAMES: Final = 64
# A dark frame, a gain image, and the defects.
_KEPT_IMAGES: Final = 3


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


ESTIMATE: Final = Stage("estimate", estimates=True, applies=False)
APPLY: Final = Stage("apply", estimates=False, applies=True)

ONE_PASS: Final = (Stage("align", estimates=True, applies=True),)
SHIFTS_ONLY: Final = (ESTIMATE,)
TWO_PASSES: Final = (ESTIMATE, APPLY)


def stages_of(config: RunConfig) -> tuple[Stage, ...]:
    """Return the passes over the frames that a run makes.

    Frames are read once, except where what is written depends on the shifts of all of them (a
    canvas that every good frame covers, a trajectory) or frames are registered group by group.
    Shifts that are given are applied.
    """
    if config.shifts is not None:
        return (APPLY,) if config.output.aligned else ()
    if not config.output.aligned:
        return SHIFTS_ONLY
    if config.groups is not None or config.trajectory is not None:
        return TWO_PASSES
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
    sharded
        Whether a block is one object of the output, rather than one for each chunk.
    recorded_dtype
        Name of the dtype of frames before they are corrected, where they are; else empty.
    kept_images
        Images of four bytes a pixel that each process keeps to correct frames.
    levels
        Shapes of the smaller images that are written of each aligned frame.
    """

    n_frames: int
    frame_shape: tuple[int, int]
    source_dtype: str
    aligned_dtype: str | None
    block_frames: int
    chunk_frames: int
    stages: tuple[Stage, ...]
    sharded: bool = False
    recorded_dtype: str = ""
    kept_images: int = 0
    levels: tuple[tuple[int, int], ...] = ()

    @property
    def n_blocks(self) -> int:
        """Units of work in one pass."""
        return -(-self.n_frames // self.block_frames)

    @property
    def n_objects(self) -> int:
        """Objects that hold the aligned frames, smaller levels included."""
        if self.aligned_dtype is None:
            return 0
        together = self.block_frames if self.sharded else self.chunk_frames
        return -(-self.n_frames // together) * (1 + len(self.levels))

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
        """Bytes of one raw frame, corrected or not, in memory."""
        return self.pixels * np.dtype(self.source_dtype).itemsize

    @property
    def recorded_bytes(self) -> int:
        """Bytes of one raw frame as it was recorded."""
        return self.pixels * np.dtype(self.recorded_dtype or self.source_dtype).itemsize

    @property
    def aligned_bytes(self) -> int:
        """Bytes of one aligned frame; 0 where none is written."""
        return self.pixels * np.dtype(self.aligned_dtype).itemsize if self.aligned_dtype else 0

    @property
    def level_bytes(self) -> int:
        """Bytes of the smaller images of one aligned frame."""
        pixels = sum(height * width for height, width in self.levels)
        return pixels * np.dtype(self.aligned_dtype).itemsize if self.aligned_dtype else 0

    @property
    def written_bytes(self) -> int:
        """Bytes of one aligned frame with its smaller images."""
        return self.aligned_bytes + self.level_bytes


class Sized(Protocol):
    """As much of a source as its layout depends on."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frame, y, x)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the frames as read."""
        ...

    @property
    def chunk_frames(self) -> int:
        """Frames stored as one piece."""
        ...


def lay_out(
    config: RunConfig,
    source: Sized,
    aligned_dtype: np.dtype[Any],
    *,
    halvings: int = 0,
) -> Layout:
    """Return the sizes of a run.

    They depend on the config and the source, and on the cluster only where its memory is too
    small for the blocks that would be best.

    Parameters
    ----------
    config
        What is wanted.
    source
        Its shape, dtype and chunks.
    aligned_dtype
        dtype of aligned frames.
    halvings
        How often a block's bytes are halved, where the config says ``auto``: for small memories.
    """
    n_frames, height, width = source.shape
    dtype, recorded = np.dtype(source.dtype), getattr(source, "recorded", source)
    output = config.output
    written = height * width * aligned_dtype.itemsize if output.aligned else 0
    chunk_frames = _chunk_frames(config, n_frames, written)
    fewest = 1
    sharded = output.aligned and output.shards is not False
    most = MOST_OBJECTS - _OBJECTS_BESIDE
    levels = level_shapes((height, width)) if output.aligned and output.ome_zarr else ()
    together = n_frames * (1 + len(levels))
    if output.shards == "auto":
        sharded = sharded and -(-together // chunk_frames) > most
    if sharded:
        fewest = -(-together // most)
    if isinstance(output.block_frames, int):
        block_frames = max(chunk_frames, output.block_frames)
    else:
        frame_bytes = max(1, height * width * dtype.itemsize)
        most_block_bytes = (_BLOCK_BYTES if output.aligned else _BLOCK_BYTES_OF_SHIFTS) >> halvings
        wanted = _wanted_block(n_frames, frame_bytes, most_block_bytes)
        block_frames = _automatic_block(
            n_frames, frame_bytes, source.chunk_frames, max(wanted, fewest), most_block_bytes
        )
        if block_frames < fewest:  # rounded down to whole chunks of the source
            block_frames += source.chunk_frames
    block_frames = -(-max(block_frames, chunk_frames) // chunk_frames) * chunk_frames
    return Layout(
        n_frames=n_frames,
        frame_shape=(height, width),
        source_dtype=dtype.name,
        aligned_dtype=aligned_dtype.name if output.aligned else None,
        block_frames=block_frames,
        chunk_frames=chunk_frames,
        stages=stages_of(config),
        sharded=sharded,
        recorded_dtype="" if recorded is source else np.dtype(recorded.dtype).name,
        kept_images=0 if recorded is source else _KEPT_IMAGES,
        levels=levels,
    )


def _chunk_frames(config: RunConfig, n_frames: int, aligned_bytes: int) -> int:
    """Frames of a chunk: as the config says, or about 4 MiB, a divisor of a block that it says."""
    chosen, block = config.output.chunk_frames, config.output.block_frames
    if isinstance(chosen, int):
        return min(chosen, n_frames)
    if not config.output.aligned:
        return 1  # nothing is written, and nothing is to bind the blocks
    by_bytes = max(1, min(_CHUNK_BYTES // max(1, aligned_bytes), _MOST_CHUNK_FRAMES, n_frames))
    if isinstance(block, int):
        return next(frames for frames in range(min(by_bytes, block), 0, -1) if block % frames == 0)
    return by_bytes


def _wanted_block(n_frames: int, frame_bytes: int, most_bytes: int) -> int:
    """Frames of a block by their bytes, fewer where workers would have too few blocks."""
    by_bytes = max(1, min(most_bytes // frame_bytes, _MOST_BLOCK_FRAMES))
    small = min(_SMALL_BLOCK_BYTES // frame_bytes, n_frames // _FEWEST_SMALL_BLOCKS)
    return max(1, min(by_bytes, max(small, n_frames // _FEWEST_BLOCKS)))


def _automatic_block(
    n_frames: int, frame_bytes: int, source_chunk: int, wanted: int, most_bytes: int
) -> int:
    """Frames of a block: about as many as wanted, in whole chunks of the source if possible."""
    step = max(1, min(source_chunk, n_frames))
    by_bytes = max(1, min(most_bytes // frame_bytes, _MOST_BLOCK_FRAMES))
    most_chunk_bytes = min(_MOST_CHUNK_BYTES, 4 * most_bytes)
    if step <= wanted:
        return wanted // step * step
    if step * frame_bytes <= most_chunk_bytes and step <= max(4 * wanted, by_bytes):
        return step
    fewest = max(min(wanted, step), -(-step // _MOST_DECODINGS))
    return next(divisor for divisor in range(fewest, step + 1) if step % divisor == 0)


def read_amplification(layout: Layout, source_chunk: int) -> float:
    """How often each frame of the source is decoded, over all passes.

    Examples
    --------
    >>> layout = Layout(64, (8, 8), "uint16", "uint16", 6, 1, ONE_PASS)
    >>> read_amplification(layout, 8)
    2.0
    """
    starts = np.arange(0, layout.n_frames, layout.block_frames)
    stops = np.minimum(starts + layout.block_frames, layout.n_frames)
    first, end = starts // source_chunk, -(-stops // source_chunk)
    decoded = int((np.minimum(end * source_chunk, layout.n_frames) - first * source_chunk).sum())
    return len(layout.stages) * decoded / layout.n_frames
