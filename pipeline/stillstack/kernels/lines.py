"""Robust straight lines through a frame's neighbours, and where they pass the frame.

The slope is Siegel's repeated median (doi:10.1093/biomet/69.1.242), the height a median: up to half
of the neighbours, less one, may lie anywhere. Steady motion, however fast, is a straight line.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, locked

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LEFT, RIGHT, BOTH = 0, 1, 2


@compiled
def _median(values, n):  # type: ignore[no-untyped-def]
    """Median of the first n; sorts them."""
    for i in range(1, n):
        value = values[i]
        j = i - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value
    return 0.5 * (values[(n - 1) // 2] + values[n // 2])


@compiled
def _line_at_zero(x, y, n, slopes, each):  # type: ignore[no-untyped-def]
    """Height at x = 0 of the repeated-median line through n points."""
    found = 0
    for i in range(n):
        others = 0
        for j in range(n):
            if x[j] != x[i]:
                slopes[others] = (y[j] - y[i]) / (x[j] - x[i])
                others += 1
        if others:
            each[found] = _median(slopes, others)
            found += 1
    slope = _median(each, found) if found else 0.0
    for i in range(n):
        each[i] = y[i] - slope * x[i]
    return _median(each, n)


@compiled
def _predictions(time, value, piece, which, reach, out):  # type: ignore[no-untyped-def]
    width = 2 * reach
    x, y = np.empty(width), np.empty(width)
    slopes, each = np.empty(width), np.empty(width)
    last = time.size
    for k in range(which.size):
        i = which[k]
        for axis in range(2):
            for side in range(3):
                before = reach if side != 1 else 0
                after = reach if side != 0 else 0
                n = n_before = 0
                for j in range(max(0, i - before), i):
                    if piece[j] == piece[i]:
                        x[n], y[n] = time[j] - time[i], value[j, axis]
                        n += 1
                n_before = n
                for j in range(i + 1, min(last, i + 1 + after)):
                    if piece[j] == piece[i]:
                        x[n], y[n] = time[j] - time[i], value[j, axis]
                        n += 1
                few = n < 3 or (side == 2 and (n_before < 2 or n - n_before < 2))
                out[k, side, axis] = np.nan if few else _line_at_zero(x, y, n, slopes, each)


def line_predictions(
    time: Floats, value: Floats, piece: Indices, which: Indices, reach: int
) -> Floats:
    """Return where lines through a frame's neighbours pass it, (k, 3, 2).

    Three lines, each for y and x: through the frames before, through those after, through both.
    NaN where there are fewer than three neighbours, or fewer than two on either side for both.

    Parameters
    ----------
    time
        (n,), never falling.
    value
        (n, 2), positions.
    piece
        (n,), number of the piece that a frame is part of; neighbours are of the same.
    which
        (k,), frames that are asked for.
    reach
        Neighbours on each side.

    Examples
    --------
    >>> time = np.arange(7.0)
    >>> value = np.stack([2 * time, np.zeros(7)], axis=1)
    >>> value[3] = 50.0
    >>> line_predictions(time, value, np.zeros(7, int), np.array([3]), 3)[0]
    array([[6., 0.],
           [6., 0.],
           [6., 0.]])
    """
    out = np.empty((len(which), 3, 2))
    columns = (time, value, piece, which)
    _predictions(*(locked(column) for column in columns), reach, out)
    return out
