"""Binning that respects ``valid``: means over the valid pixels of each bin, and their number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, locked


@compiled
def _bin_static(frame, factor, offset, out):  # type: ignore[no-untyped-def]
    n_y, n_x = out.shape
    scale = 1.0 / (factor * factor)
    row_sum = np.empty(n_x * factor, np.float64)
    for j in range(n_y):
        row = frame[j * factor]
        for i in range(n_x * factor):
            row_sum[i] = row[i]
        for k in range(1, factor):
            row = frame[j * factor + k]
            for i in range(n_x * factor):
                row_sum[i] += row[i]
        for i in range(n_x):
            total = 0.0
            for k in range(factor):
                total += row_sum[i * factor + k]
            out[j, i] = np.float32(total * scale - offset)


@compiled
def _mend_partial(frame, valid, factor, offset, count, out):  # type: ignore[no-untyped-def]
    n_y, n_x = out.shape
    whole = factor * factor
    for j in range(n_y):
        for i in range(n_x):
            number = count[j, i]
            if number == whole:
                continue
            total = 0.0
            for k in range(factor):
                for m in range(factor):
                    if valid[j * factor + k, i * factor + m]:
                        total += frame[j * factor + k, i * factor + m]
            out[j, i] = np.float32(total / number - offset) if number > 0 else np.float32(0.0)


@compiled
def _bin_valid(frame, valid, factor, offset, out, count):  # type: ignore[no-untyped-def]
    n_y, n_x = out.shape
    for j in range(n_y):
        for i in range(n_x):
            total = 0.0
            number = 0
            for k in range(factor):
                for m in range(factor):
                    if valid[j * factor + k, i * factor + m]:
                        total += frame[j * factor + k, i * factor + m]
                        number += 1
            count[j, i] = number
            out[j, i] = np.float32(total / number - offset) if number > 0 else np.float32(0.0)


@compiled
def _halve(mean, count, out, out_count):  # type: ignore[no-untyped-def]
    n_y, n_x = out.shape
    for j in range(n_y):
        for i in range(n_x):
            total = np.float32(0.0)
            number = 0
            for k in range(2):
                for m in range(2):
                    c = count[2 * j + k, 2 * i + m]
                    total += mean[2 * j + k, 2 * i + m] * np.float32(c)
                    number += c
            out_count[j, i] = number
            out[j, i] = total / np.float32(number) if number > 0 else np.float32(0.0)


@compiled
def _count_valid(valid, factor, count):  # type: ignore[no-untyped-def]
    n_y, n_x = count.shape
    for j in range(n_y):
        for i in range(n_x):
            number = 0
            for k in range(factor):
                for m in range(factor):
                    if valid[j * factor + k, i * factor + m]:
                        number += 1
            count[j, i] = number


def count_valid(valid: NDArray[np.bool_], factor: int) -> NDArray[np.int32]:
    """Number of valid pixels in each bin of ``factor`` by ``factor`` pixels.

    Parameters
    ----------
    valid
        Valid pixels (y, x). Rows and columns that fill no whole bin are left out.
    factor
        Side of a bin, px.
    """
    count = np.empty((valid.shape[0] // factor, valid.shape[1] // factor), np.int32)
    _count_valid(locked(valid), factor, count)
    return count


def rough_mean(frame: NDArray[Any], valid: NDArray[np.bool_]) -> float:
    """Mean over the valid pixels of some rows: a pedestal to take off before single precision.

    Any value near the mean serves, since the correlation does not change with it.
    """
    step = max(1, frame.shape[0] // 32)
    for first in {step // 2, 0}:
        rows = slice(first, None, step if first else 1)
        chosen = valid[rows]
        number = np.count_nonzero(chosen)
        if number:
            return float(np.sum(frame[rows], where=chosen, dtype=np.float64) / number)
    return 0.0


def bin_frame(
    frame: NDArray[Any],
    valid: NDArray[np.bool_],
    factor: int,
    offset: float,
    *,
    count: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Mean of the valid pixels of each bin less ``offset``, and their number.

    Sums are made in float64, and the offset is taken off there: single precision then survives
    any pedestal.

    Parameters
    ----------
    frame
        One frame (y, x), any real dtype.
    valid
        Pixels that count (y, x).
    factor
        Side of a bin, px.
    offset
        Pedestal, counts.
    count
        Valid pixels of each bin, where they are known already: faster.

    Returns
    -------
    mean : float32 (y // factor, x // factor), 0 where no pixel is valid
    count : int32, same shape
    """
    shape = (frame.shape[0] // factor, frame.shape[1] // factor)
    mean = np.empty(shape, np.float32)
    frame, valid = locked(frame), locked(valid)
    if count is not None:
        _bin_static(frame, factor, offset, mean)
        _mend_partial(frame, valid, factor, offset, locked(count), mean)
        return mean, count
    made = np.empty(shape, np.int32)
    _bin_valid(frame, valid, factor, offset, mean, made)
    return mean, made


def halve(
    mean: NDArray[np.float32], count: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Next level of the pyramid: 2x2 bins of ``mean``, weighted with ``count``.

    Parameters
    ----------
    mean, count
        A level as :func:`bin_frame` makes it.
    """
    shape = (mean.shape[0] // 2, mean.shape[1] // 2)
    out, out_count = np.empty(shape, np.float32), np.empty(shape, np.int32)
    _halve(locked(mean), locked(count), out, out_count)
    return out, out_count
