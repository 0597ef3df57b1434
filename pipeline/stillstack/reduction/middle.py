"""The median of a group: all of its frames at once, a band of rows at a time."""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.frameblock import Resampling
from stillstack.quantities import byte_size
from stillstack.reduction.aligned_frames import Job, align_into, frames_of
from stillstack.reduction.pieces import Piece
from stillstack.reduction.sums import Sums

# A band of rows is one more pass over the group's frames.
_MOST_BANDS: Final = 16


def median_bands(job: Job, n_frames: int, task_bytes: int) -> tuple[tuple[int, int], ...]:
    """Bands of rows in which a group's median is made, so that each fits into a task's memory.

    Parameters
    ----------
    job
        How frames are moved.
    n_frames
        Frames of the group.
    task_bytes
        What one task may take for it.

    Raises
    ------
    InputError
        If there would be so many that the frames were read more than sixteen times.
    """
    height, width = job.resampling.shape
    # the values, and what sorting and picking takes of them in turn
    row_bytes = 2 * n_frames * width * np.dtype(job.resampling.dtype).itemsize
    rows = int(task_bytes // row_bytes)
    if rows * _MOST_BANDS < height:
        least = math.ceil(height / _MOST_BANDS) * row_bytes
        raise InputError(
            f"The median of {n_frames} frames of {height} x {width} pixels takes "
            f"{byte_size(row_bytes * height)}, and a task has {byte_size(task_bytes)} "
            "for it.",
            consequence=f"The frames would be read more than {_MOST_BANDS} times.",
            cure="Use the sigma-clipped mean, make groups of fewer frames, or use workers with "
            f"{byte_size(least)} or more for each thread.",
        )
    n_bands = math.ceil(height / min(rows, height))
    edges = np.linspace(0, height, n_bands + 1).round().astype(int)
    return tuple((int(a), int(b)) for a, b in itertools.pairwise(edges))


def middle_band(job: Job, piece: Piece, sums: Sums, band: tuple[int, int]) -> NDArray[np.float32]:
    """Median of a group over a band of rows, NaN where nothing counts.

    Parameters
    ----------
    job, piece
        All frames of one group.
    sums
        Of the group: it knows the frames' scales.
    band
        First row, and the one after the last.
    """
    (group,) = np.unique(piece.groups)
    known = sums[int(group)]
    _, _, x0, x1 = job.resampling.canvas
    window = Resampling(
        job.resampling.interpolation, job.resampling.dtype, (band[0], band[1], x0, x1)
    )
    values = np.full((len(known.numbers), *window.shape), np.nan, np.dtype(window.dtype))
    place = {int(number): i for i, number in enumerate(known.numbers)}
    for at, frame in frames_of(job, piece):
        number = int(piece.numbers[at])
        if number in place:
            align_into(values[place[number]], frame, piece, at, job, window=window)
    values *= known.scale[:, None, None].astype(values.dtype)
    return _middle(values)


def _middle(values: NDArray[np.floating[Any]]) -> NDArray[Any]:
    """Median along the first axis of what is not NaN; sorts in place."""
    values.sort(axis=0)  # NaN last
    count = np.isfinite(values).sum(axis=0)
    low, high = (np.maximum(count - 1, 0) // 2)[None], (count // 2)[None]
    high = np.minimum(high, len(values) - 1)
    pair = [np.take_along_axis(values, index, axis=0)[0] for index in (low, high)]
    return np.where(count > 0, 0.5 * (pair[0] + pair[1]), np.nan)


def stacked(*bands: NDArray[Any]) -> NDArray[Any]:
    """Image made of bands of rows."""
    return np.concatenate(bands)
