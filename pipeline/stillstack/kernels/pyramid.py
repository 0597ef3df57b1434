"""Whether a frame's values are in order, and the coarser levels that follow from its bins.

The finest level's bins are made by `binning`; coarser levels are sums of usable ones times one over
their number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, compiled_sums, locked

Float32 = NDArray[np.float32]
Flags = NDArray[np.uint8]

SAMPLED_ROWS = 16


@compiled
def _n_outside(frame, static, valid, limits):  # type: ignore[no-untyped-def]
    low, high = limits[0], limits[1]
    found = 0
    for y in range(frame.shape[0]):
        row, flag, own = frame[y], static[y], valid[y]
        number = np.int32(0)
        for i in range(row.size):
            inside = (limits.dtype.type(row[i]) >= low) & (limits.dtype.type(row[i]) <= high)
            number += np.int32(flag[i] & own[i] & np.uint8(not inside))
        found += int(number)
    return found


@compiled_sums
def _sample_rows(frame, static, valid, limits, first, step, means):  # type: ignore[no-untyped-def]
    """Mean of the pixels that count of every ``step``-th row; how many rows have any."""
    low, high = limits[0], limits[1]
    found = 0
    for y in range(first, frame.shape[0], step):
        row, flag, own = frame[y], static[y], valid[y]
        total, number = 0.0, np.int32(0)
        for i in range(row.size):
            value = np.float64(row[i])
            good = (flag[i] & own[i] != 0) & (value >= low) & (value <= high)
            total += value if good else 0.0
            number += np.int32(good)
        if number > 0:
            means[found] = total / number
            found += 1
    return found


def typical_level(
    frame: NDArray[Any],
    static: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> float:
    """Median of the means of some rows over their valid pixels: a level that no hit raises.

    Nor does what lies in every row, as a gap between modules that reads as saturated: values that
    are not finite or not within ``limits`` do not count.
    """
    largest = np.finfo(np.float64).max
    bounds = np.clip(np.array(limits, np.float64), -largest, largest)
    step = max(1, frame.shape[0] // SAMPLED_ROWS)
    means = np.empty(frame.shape[0], np.float64)
    flags = (locked(static.view(np.uint8)), locked(valid.view(np.uint8)))
    for first, stride in ((step // 2, step), (0, 1)):
        found = _sample_rows(locked(frame), *flags, bounds, first, stride, means)
        if found:
            return float(np.sort(means[:found])[found // 2])
    return 0.0


def n_outside(
    frame: NDArray[Any],
    static: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    limits: tuple[float, float],
) -> int:
    """Number of pixels, among those that count, that are not within limits: NaN is not."""
    bounds = np.array(limits, np.result_type(frame.dtype, np.float32))
    largest = np.finfo(bounds.dtype).max
    bounds = np.clip(bounds, -largest, largest)
    flags = (locked(static.view(np.uint8)), locked(valid.view(np.uint8)))
    return int(_n_outside(locked(frame), *flags, bounds))


@compiled
def _halve(total, inverse, out, mean):  # type: ignore[no-untyped-def]
    n_y, n_x = out.shape
    for j in range(n_y):
        upper, lower, into, scaled, share = (
            total[2 * j],
            total[2 * j + 1],
            out[j],
            mean[j],
            inverse[j],
        )
        for i in range(n_x):
            left, right = upper[2 * i] + lower[2 * i], upper[2 * i + 1] + lower[2 * i + 1]
            into[i] = left + right
            scaled[i] = (left + right) * share[i]


def halve(total: Float32, inverse: Float32) -> tuple[Float32, Float32]:
    """Next coarser level: sums of 2x2, and these times ``inverse``.

    Parameters
    ----------
    total
        Sums of the finest level's usable bins (y, x).
    inverse
        (y // 2, x // 2): one over the number of them, 0 where too few.
    """
    out, mean = np.empty(inverse.shape, np.float32), np.empty(inverse.shape, np.float32)
    _halve(locked(total), locked(inverse), out, mean)
    return out, mean


@compiled
def _halve_counts(count, enough, out, inverse):  # type: ignore[no-untyped-def]
    zero, one = np.float32(0.0), np.float32(1.0)
    for j in range(out.shape[0]):
        upper, lower, into, share = count[2 * j], count[2 * j + 1], out[j], inverse[j]
        for i in range(into.size):
            left, right = upper[2 * i] + lower[2 * i], upper[2 * i + 1] + lower[2 * i + 1]
            number = left + right
            into[i] = number
            share[i] = one / number if number >= enough else zero


def inverse_counts(usable: Flags, halvings: int) -> list[Float32]:
    """For each coarser level: one over the number of usable finest bins, 0 under half of them."""
    count = usable.astype(np.float32)
    found = []
    for k in range(1, halvings + 1):
        shape = (count.shape[0] // 2, count.shape[1] // 2)
        out, inverse = np.empty(shape, np.float32), np.empty(shape, np.float32)
        _halve_counts(locked(count), np.float32(0.5 * 4.0**k), out, inverse)
        count = out
        found.append(inverse)
    return found


@compiled
def _scale_again(total, mean, usable, static, lost, halvings, gone):  # type: ignore[no-untyped-def]
    """Means of the bins around some lost ones, over the others; which have too few of them."""
    side = 1 << halvings
    enough = 0.5 * side * side
    found, row, first = 0, 0, 0
    for k in range(lost.size):
        # Places ascend: a row is found without dividing.
        while lost[k] >= first + usable.shape[1]:
            row, first = row + 1, first + usable.shape[1]
        j, i = row >> halvings, (lost[k] - first) >> halvings
        if j >= mean.shape[0] or i >= mean.shape[1] or static[j, i] == 0:
            continue
        number = 0
        for y in range(j * side, (j + 1) * side):
            for x in range(i * side, (i + 1) * side):
                number += int(usable[y, x])
        if number >= enough:
            mean[j, i] = total[j, i] * np.float32(1.0 / number)
        else:
            mean[j, i] = np.float32(0.0)
            gone[found] = j * mean.shape[1] + i
            found += 1
    return found


def scale_again(
    total: Float32,
    mean: Float32,
    usable: Flags,
    static: Flags,
    lost: NDArray[np.int64],
    halvings: int,
) -> NDArray[np.int64]:
    """Correct means of a coarser level, in place, for bins of the finest that a frame has lost.

    Few are: to count the usable ones anew around each takes less than to do so everywhere.

    Parameters
    ----------
    total, mean
        From :func:`halve` with the static inverse counts.
    usable
        The frame's usable bins of the finest level.
    static
        The coarser level's bins that count in every frame.
    lost
        Places of lost bins in the finest level's flat array, ascending.
    halvings
        Steps between the two levels.

    Returns
    -------
    Places in the coarser level's flat array of the bins that have too few left.
    """
    gone = np.empty(lost.size, np.int64)
    flags = (locked(usable), locked(static), locked(lost))
    found = int(_scale_again(locked(total), mean, *flags, halvings, gone))
    return np.unique(gone[:found]) if found else gone[:0]


@compiled
def _first_differing(mean, usable):  # type: ignore[no-untyped-def]
    """Number of the first usable bin that differs from the one before, or -1."""
    known, value = False, np.float32(0.0)
    flat, flags = mean.ravel(), usable.ravel()
    for i in range(flat.size):
        if flags[i]:
            if known and flat[i] != value:
                return i
            known, value = True, flat[i]
    return -1


def is_flat(mean: Float32, usable: Flags) -> bool:
    """Whether all usable bins hold one value."""
    return int(_first_differing(locked(mean), locked(usable))) < 0


@compiled
def _exceeds(mean, ceiling):  # type: ignore[no-untyped-def]
    found = np.int32(0)
    flat = mean.ravel()
    for i in range(flat.size):
        found += np.int32(flat[i] > ceiling)
    return found > 0


def exceeds(mean: Float32, ceiling: float) -> bool:
    """Whether any bin holds more than ``ceiling``."""
    return bool(_exceeds(locked(mean), np.float32(ceiling)))
