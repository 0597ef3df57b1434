"""Frames in pieces: which a task reads, so that its memory is bounded and no chunk is read twice.

All sizes here follow from the frames and their groups alone, never from the cluster: sums are
added in the same order wherever they are made, so that results are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.reduction.selection import Numbers, Selection
from stillstack.sources import Narrowing, Reads, Source

STATE_BYTES_PER_PIXEL: Final = 20
"""Of n (4 bytes), mean and M2 (8 each)."""

# Groups whose frames lie in the same chunks of the source are reduced together, as many as fit.
_MOST_STATE_BYTES: Final = 512 * 2**20
# A piece is long enough that passing on what comes out of it costs little beside it.
_PIECE_BYTES: Final = 512 * 2**20
READ_BYTES: Final = 64 * 2**20
_FEWEST_PIECES: Final = 32
_FEWEST_FRAMES: Final = 16


@dataclass(frozen=True, eq=False)
class Piece:
    """Frames that one task adds up.

    Parameters
    ----------
    reads
        Ranges to read one after the other: what reads them, first frame, end.
    numbers
        Frames that are wanted, ascending.
    groups
        Group of each.
    shift, status, scale
        Of each: see `Selection`.
    """

    reads: tuple[tuple[Reads, int, int], ...]
    numbers: Numbers
    groups: NDArray[np.int64]
    shift: NDArray[np.float64]
    status: NDArray[np.uint16]
    scale: NDArray[np.float64]


def batches_of(selection: Selection, source: Source) -> tuple[tuple[int, ...], ...]:
    """Groups that are reduced together: one at a time where every frame is a chunk of its own.

    Where a chunk of the source holds frames of several groups, each group alone would decode it
    again; so many groups are then done at once as their sums fit into half a GiB.

    Parameters
    ----------
    selection
        Frames in groups.
    source
        Where they are read.
    """
    filled = [group for group, numbers in enumerate(selection.groups) if len(numbers)]
    pixels = source.shape[1] * source.shape[2]
    most = max(1, _MOST_STATE_BYTES // (STATE_BYTES_PER_PIXEL * pixels))
    if source.chunk_frames == 1:
        most = 1
    return tuple(tuple(filled[i : i + most]) for i in range(0, len(filled), most))


def pieces_of(
    selection: Selection, source: Source, batch: Sequence[int], n_batches: int
) -> tuple[Piece, ...]:
    """Cut the frames of a batch of groups into pieces, along the chunks of the source.

    Parameters
    ----------
    selection, source
        As for :func:`batches_of`.
    batch
        Numbers of the groups.
    n_batches
        How many batches there are: where they are few, pieces are smaller, to keep a cluster busy,
        though of no fewer frames than make the handling of their sums worth while.
    """
    numbers = np.concatenate([selection.groups[group] for group in batch])
    groups = np.repeat(np.asarray(batch), [len(selection.groups[group]) for group in batch])
    order = np.argsort(numbers, kind="stable")
    numbers, groups = numbers[order], groups[order]
    frame_bytes = _frame_bytes(source)
    fewest = max(1, _FEWEST_PIECES // n_batches)
    wanted = max(_FEWEST_FRAMES, -(-len(numbers) // fewest))
    step = max(1, min(_PIECE_BYTES // frame_bytes, wanted))
    return tuple(
        _piece(selection, source, numbers[first:stop], groups[first:stop])
        for first, stop in _cuts(numbers // source.chunk_frames, step)
    )


def piece_of_group(selection: Selection, source: Source, group: int) -> Piece:
    """All frames of one group as one piece, for statistics that need all of them at once."""
    numbers = selection.groups[group]
    return _piece(selection, source, numbers, np.full(len(numbers), group))


def _piece(
    selection: Selection, source: Source, numbers: Numbers, groups: NDArray[np.int64]
) -> Piece:
    return Piece(
        reads=tuple(_reads(source, numbers)),
        numbers=numbers,
        groups=groups,
        shift=selection.shift[numbers],
        status=selection.status[numbers],
        scale=selection.scale[numbers],
    )


def _cuts(chunks: NDArray[np.int64], step: int) -> Iterator[tuple[int, int]]:
    """Ranges of about ``step`` frames each, cut where a chunk of the source ends."""
    ends = np.append(np.flatnonzero(np.diff(chunks)) + 1, len(chunks))
    first = 0
    while first < len(chunks):
        wanted = min(first + step, len(chunks))
        stop = int(ends[np.searchsorted(ends, wanted)])
        yield first, stop
        first = stop


def _reads(source: Source, numbers: Numbers) -> Iterator[tuple[Reads, int, int]]:
    """Ranges that hold these frames: neighbours together, and frames of one chunk."""
    chunk = source.chunk_frames
    most = max(1, READ_BYTES // _frame_bytes(source))
    start, stop = int(numbers[0]), int(numbers[0]) + 1
    for number in (int(n) for n in numbers[1:]):
        near = number == stop or number // chunk == (stop - 1) // chunk
        if near and (number - start < most or number // chunk == start // chunk):
            stop = number + 1
            continue
        yield _narrowed(source, start, stop), start, stop
        start, stop = number, number + 1
    yield _narrowed(source, start, stop), start, stop


def _narrowed(source: Source, start: int, stop: int) -> Reads:
    return source.narrow(start, stop) if isinstance(source, Narrowing) else source


def _frame_bytes(source: Source) -> int:
    return max(1, int(np.prod(source.shape[1:])) * np.dtype(source.dtype).itemsize)


def buffer_images(pixels: int, dtype: np.dtype[Any], n_frames: int) -> int:
    """Aligned images that are added up at a time.

    Examples
    --------
    >>> buffer_images(2048 * 2048, np.dtype("float32"), 64)
    8
    """
    return int(max(1, min(n_frames, 16, 128 * 2**20 // (pixels * dtype.itemsize))))
