"""What the graph maps over a stack: one block of frames in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import RunFaultError
from stillstack.kernels.registration import Reference, frame_validity, register_frame
from stillstack.kernels.resampling import ValidPixels, resample_frame
from stillstack.model import COLUMNS, empty_table, image_fill, is_good
from stillstack.stacks import Canvas

REGISTERED: Final = tuple(column for column in COLUMNS if column.name != "n_clipped")
"""Columns of the table that registration fills in."""


@dataclass(frozen=True)
class Resampling:
    """How frames are moved: small values that travel in the graph.

    Parameters
    ----------
    interpolation
        One of :data:`stillstack.kernels.resampling.INTERPOLATIONS`.
    dtype
        dtype of aligned images, as a string.
    canvas
        Window of the input that is produced.
    """

    interpolation: str
    dtype: str
    canvas: Canvas

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an aligned image."""
        y0, y1, x0, x1 = self.canvas
        return (y1 - y0, x1 - x0)


class Moved(NamedTuple):
    """What one block of frames becomes: images, and per frame the number of clipped values."""

    images: NDArray[Any]
    n_clipped: NDArray[np.float32]


def register_block(
    frames: NDArray[Any],
    reference: Reference,
    starts: NDArray[np.int64],
    block_id: tuple[int, ...],
) -> NDArray[np.void]:
    """Rows of the table for one block of frames, shape (frame, 1, 1)."""
    rows = empty_table(len(frames))
    for i, frame in enumerate(frames):
        try:
            registration = register_frame(frame, reference)
        except Exception as error:
            raise _broken(error, "registered", i, _numbers(frames, starts, block_id)) from error
        for column in REGISTERED:
            rows[column.name][i] = getattr(registration, column.name)
    return rows[:, None, None]


def align_block(
    frames: NDArray[Any],
    rows: NDArray[np.void],
    starts: NDArray[np.int64],
    *,
    reference: Reference | None,
    valid: NDArray[np.bool_] | None,
    resampling: Resampling,
    block_id: tuple[int, ...],
) -> Moved:
    """Aligned images of one block of frames, and how many values of each were clipped."""
    images = np.empty((len(frames), *resampling.shape), np.dtype(resampling.dtype))
    n_clipped = np.zeros(len(frames), np.float32)
    for i, frame in enumerate(frames):
        row = rows[i, 0, 0]
        try:
            n_clipped[i] = align_frame(
                frame, row, resampling, images[i], reference=reference, valid=valid
            )
        except Exception as error:
            raise _broken(error, "aligned", i, _numbers(frames, starts, block_id)) from error
    return Moved(images, n_clipped)


def align_frame(
    frame: NDArray[Any],
    row: np.void,
    resampling: Resampling,
    out: NDArray[Any],
    *,
    reference: Reference | None,
    valid: NDArray[np.bool_] | None = None,
) -> int:
    """Write one frame, aligned, and return how many of its values were clipped.

    Parameters
    ----------
    frame
        (y, x), as recorded.
    row
        With fields ``shift`` and ``status``; a frame that is not good becomes all fill.
    resampling
        How it is moved.
    out
        The aligned image.
    reference, valid
        Which of its pixels count.
    """
    displacement, bits = row["shift"], int(row["status"])
    if not (is_good(bits) and np.isfinite(displacement).all()):
        out[...] = image_fill(out.dtype)
        return 0
    moved = resample_frame(
        frame,
        displacement,
        valid=_valid_pixels(frame, displacement, bits, reference, valid),
        interpolation=resampling.interpolation,
        dtype=out.dtype,
        canvas=resampling.canvas,
        out=out,
    )
    return moved.n_clipped


def _valid_pixels(
    frame: NDArray[Any],
    displacement: NDArray[np.float64],
    status: int,
    reference: Reference | None,
    valid: NDArray[np.bool_] | None,
) -> NDArray[np.bool_] | ValidPixels | None:
    """Pixels of one raw frame that may enter its interpolation; None where all may."""
    if reference is not None:
        found: NDArray[np.bool_] = frame_validity(frame, reference, displacement, status)
        if valid is None and found is reference.frame_valid:
            return reference.static_pixels
    elif np.issubdtype(frame.dtype, np.floating):
        found = np.isfinite(frame)
    else:
        return valid
    return found if valid is None else found & valid


def _numbers(frames: NDArray[Any], starts: NDArray[np.int64], block_id: tuple[int, ...]) -> range:
    """Numbers, in the stack, of one block's frames."""
    start = int(starts[block_id[0]])
    return range(start, start + len(frames))


def _broken(error: Exception, verb: str, i: int, numbers: range) -> RunFaultError:
    return RunFaultError(
        f"Frame {numbers[i]} could not be {verb}: {type(error).__name__}: {error}.",
        consequence=f"The block of frames {numbers[0]} to {numbers[-1]} has no result.",
        cure="Look at this frame; the other frames of the block can be computed without it.",
    )


def moved_images(moved: Moved) -> NDArray[Any]:
    """Images of a moved block."""
    return moved.images


def moved_counts(moved: Moved) -> NDArray[np.float32]:
    """Clipped values of each frame of a moved block, shape (frame, 1, 1)."""
    return moved.n_clipped[:, None, None]


def table_field(table: NDArray[np.void], field: str) -> NDArray[Any]:
    """One column of a block's rows."""
    return np.ascontiguousarray(table[field][:, 0, 0])
