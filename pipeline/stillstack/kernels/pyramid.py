"""One pass over a raw frame: bins of the finest level, and whether all its values are in order.

A bin is *usable* when every pixel of it counts. One invalid pixel between a valid left and a valid
right neighbour is filled in with their mean first: one pixel in a hundred out would otherwise cost
one bin of 4x4 in seven. Where bins are single pixels nothing is filled.

Means are made of each pixel less a pedestal, so that single precision survives any level of counts.
Coarser levels are sums of usable bins times one over their number.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, compiled_sums, locked

Float32 = NDArray[np.float32]
Flags = NDArray[np.uint8]

_EVEN = np.uint64(0x0000FFFF0000FFFF)
_HALF = np.uint64(16)
_WORD = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_EVEN32 = np.uint32(0xFFFF)
_HALF32 = np.uint32(16)
SAMPLED_ROWS = 16


@compiled
def _bin_by_four(words, pedestal, usable, out):  # type: ignore[no-untyped-def]
    """uint16 by 4x4: four pixels a word, whose even and odd ones are summed side by side.

    Returns the bits that are set in any pixel. One row after the other: four at once keep the
    memory waiting, at half as much time again.
    """
    n_y, n_x = out.shape
    scale, zero = np.float32(1.0 / 16.0), np.float32(0.0)
    total = np.empty(n_x, np.uint64)
    bits = np.uint64(0)
    for j in range(n_y):
        row = words[4 * j]
        for i in range(n_x):
            total[i] = (row[i] & _EVEN) + ((row[i] >> _HALF) & _EVEN)
            bits |= row[i]
        for k in range(1, 4):
            row = words[4 * j + k]
            for i in range(n_x):
                total[i] += (row[i] & _EVEN) + ((row[i] >> _HALF) & _EVEN)
                bits |= row[i]
        into, use = out[j], usable[j]
        for i in range(n_x):
            count = np.int32((total[i] & _LOW) + (total[i] >> _WORD)) - pedestal
            into[i] = np.float32(count) * scale if use[i] else zero
    bits |= bits >> _WORD
    return (bits | (bits >> _HALF)) & np.uint64(0xFFFF)


@compiled
def _bin_by_two(words, pedestal, usable, out):  # type: ignore[no-untyped-def]
    """uint16 by 2x2: two pixels a word. Returns the bits that are set in any pixel."""
    n_y, n_x = out.shape
    scale, zero = np.float32(0.25), np.float32(0.0)
    total = np.empty(n_x, np.uint32)
    bits = np.uint32(0)
    for j in range(n_y):
        row = words[2 * j]
        for i in range(n_x):
            total[i] = (row[i] & _EVEN32) + (row[i] >> _HALF32)
            bits |= row[i]
        row = words[2 * j + 1]
        into, use = out[j], usable[j]
        for i in range(n_x):
            count = np.int32(total[i] + (row[i] & _EVEN32) + (row[i] >> _HALF32)) - pedestal
            bits |= row[i]
            into[i] = np.float32(count) * scale if use[i] else zero
    return np.uint64((bits | (bits >> _HALF32)) & _EVEN32)


@compiled
def _fold(row, factor, scale, use, out):  # type: ignore[no-untyped-def]
    """Sums of ``factor`` neighbours; written out, so that they vectorise."""
    zero = np.float32(0.0)
    if factor == 1:
        for i in range(out.size):
            out[i] = row[i] if use[i] else zero
    elif factor == 2:
        for i in range(out.size):
            total = row[2 * i] + row[2 * i + 1]
            out[i] = total * scale if use[i] else zero
    elif factor == 4:
        for i in range(out.size):
            left, right = row[4 * i] + row[4 * i + 1], row[4 * i + 2] + row[4 * i + 3]
            out[i] = (left + right) * scale if use[i] else zero
    else:
        for i in range(out.size):
            total = zero
            for k in range(factor):
                total += row[i * factor + k]
            out[i] = total * scale if use[i] else zero


@compiled
def _bin_plain(frame, pedestal, factor, usable, total, out):  # type: ignore[no-untyped-def]
    """Any type. ``pedestal``: an array of one, in the precision in which it is taken off."""
    scale = np.float32(1.0 / (factor * factor))
    level = pedestal[0]
    for j in range(out.shape[0]):
        total[:] = np.float32(0.0)
        for k in range(factor):
            row = frame[j * factor + k]
            for i in range(total.size):
                total[i] += np.float32(pedestal.dtype.type(row[i]) - level)
        _fold(total, factor, scale, usable[j], out[j])


@compiled
def _lost_row(static, valid, fills, lost):  # type: ignore[no-untyped-def]
    """Add the pixels of a row that neither count nor can be filled in."""
    n = lost.size
    for i in range(1, n - 1):
        between = static[i - 1] & valid[i - 1] & static[i + 1] & valid[i + 1] & fills
        lost[i] |= ((static[i] & valid[i]) ^ 1) & (between ^ 1)
    for i in (0, n - 1):
        lost[i] |= (static[i] & valid[i]) ^ 1


@compiled
def _fill_integers(row, static, valid, into):  # type: ignore[no-untyped-def]
    """A row with what does not count replaced by the mean of its neighbours, rounded down."""
    n = row.size
    for i in range(1, n - 1):
        mean = (row[i - 1] >> 1) + (row[i + 1] >> 1)
        into[i] = row[i] if static[i] & valid[i] else mean
    for i in (0, n - 1):
        into[i] = row[i] if static[i] & valid[i] else into.dtype.type(0)


@compiled
def _fill_floats(row, static, valid, into):  # type: ignore[no-untyped-def]
    half, n = row.dtype.type(0.5), row.size
    for i in range(1, n - 1):
        mean = (row[i - 1] + row[i + 1]) * half
        into[i] = row[i] if static[i] & valid[i] else mean
    for i in (0, n - 1):
        into[i] = row[i] if static[i] & valid[i] else row.dtype.type(0.0)


@compiled
def _usable_row(lost, factor, use):  # type: ignore[no-untyped-def]
    if factor == 1:
        for i in range(use.size):
            use[i] = lost[i] ^ 1
    elif factor == 2:
        for i in range(use.size):
            use[i] = (lost[2 * i] | lost[2 * i + 1]) ^ 1
    elif factor == 4:
        for i in range(use.size):
            left, right = lost[4 * i] | lost[4 * i + 1], lost[4 * i + 2] | lost[4 * i + 3]
            use[i] = (left | right) ^ 1
    else:
        for i in range(use.size):
            any_lost = lost[i * factor]
            for k in range(1, factor):
                any_lost |= lost[i * factor + k]
            use[i] = any_lost ^ 1


@compiled
def _usable(static, valid, factor, usable):  # type: ignore[no-untyped-def]
    """Which bins count: a pass of its own, since mixed with the sums both take longer."""
    lost = np.empty(static.shape[1], np.uint8)
    for j in range(usable.shape[0]):
        lost[:] = 0
        for k in range(j * factor, (j + 1) * factor):
            _lost_row(static[k], valid[k], np.uint8(factor > 1), lost)
        _usable_row(lost, factor, usable[j])


@compiled
def _filled_packed(frame, static, valid, pedestal, factor, band, words, usable, out):  # type: ignore[no-untyped-def]
    """uint16 by 2x2 or 4x4, a row of bins at a time. Returns bits of all that was summed."""
    width = frame.shape[1]
    bits = np.uint64(0)
    for j in range(out.shape[0]):
        for k in range(factor):
            y = j * factor + k
            _fill_integers(frame[y], static[y], valid[y], band[k, :width])
        if factor == 4:
            bits |= _bin_by_four(words, pedestal, usable[j : j + 1], out[j : j + 1])
        else:
            bits |= _bin_by_two(words, pedestal, usable[j : j + 1], out[j : j + 1])
    return bits


@compiled
def _filled_integers(frame, static, valid, pedestal, factor, band, usable, out):  # type: ignore[no-untyped-def]
    width = frame.shape[1]
    total = np.empty(width, np.float32)
    for j in range(out.shape[0]):
        for k in range(factor):
            y = j * factor + k
            _fill_integers(frame[y], static[y], valid[y], band[k, :width])
        _bin_plain(band, pedestal, factor, usable[j : j + 1], total, out[j : j + 1])


@compiled
def _filled_floats(frame, static, valid, pedestal, factor, band, usable, out):  # type: ignore[no-untyped-def]
    width = frame.shape[1]
    total = np.empty(width, np.float32)
    for j in range(out.shape[0]):
        for k in range(factor):
            y = j * factor + k
            _fill_floats(frame[y], static[y], valid[y], band[k, :width])
        _bin_plain(band, pedestal, factor, usable[j : j + 1], total, out[j : j + 1])


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
def _sample_rows(frame, static, valid, first, step, means):  # type: ignore[no-untyped-def]
    """Mean of the valid, finite pixels of every ``step``-th row; how many rows have any."""
    found = 0
    for y in range(first, frame.shape[0], step):
        row, flag, own = frame[y], static[y], valid[y]
        total, number = 0.0, np.int32(0)
        for i in range(row.size):
            value = np.float64(row[i])
            good = (flag[i] & own[i] != 0) & (value - value == 0.0)
            total += value if good else 0.0
            number += np.int32(good)
        if number > 0:
            means[found] = total / number
            found += 1
    return found


def typical_level(
    frame: NDArray[Any], static: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> float:
    """Median of the means of some rows over their valid pixels: a level that no hit raises."""
    step = max(1, frame.shape[0] // SAMPLED_ROWS)
    means = np.empty(frame.shape[0], np.float64)
    flags = (locked(static.view(np.uint8)), locked(valid.view(np.uint8)))
    for first, stride in ((step // 2, step), (0, 1)):
        found = _sample_rows(locked(frame), *flags, first, stride, means)
        if found:
            return float(np.sort(means[:found])[found // 2])
    return 0.0


def bin_plain(
    frame: NDArray[Any], pedestal: float, factor: int, usable: Flags
) -> tuple[Float32, int | None]:
    """Means of bins less a pedestal, 0 where not usable; a bound on the frame's values.

    Parameters
    ----------
    frame
        One frame (y, x), contiguous, any real dtype.
    pedestal
        Whole number of counts.
    factor
        Side of a bin, px.
    usable
        (y // factor, x // factor), 1 where a bin counts.

    Returns
    -------
    float32 (y // factor, x // factor), and a number that no pixel of the bins exceeds, where that
    comes for nothing
    """
    out = np.empty(usable.shape, np.float32)
    frame, usable = locked(frame), locked(usable)
    if _is_packed(frame, factor):
        by, word = _PACKED[factor]
        return out, int(by(frame.view(word), np.int32(pedestal * factor**2), usable, out))
    total = np.empty(frame.shape[1], np.float32)
    _bin_plain(frame, _pedestal_of(frame, pedestal), factor, usable, total, out)
    return out, None


def bin_filled(
    frame: NDArray[Any],
    static: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    pedestal: float,
    factor: int,
) -> tuple[Float32, Flags, int | None]:
    """Means of bins less a pedestal, lone invalid pixels filled in; which bins are usable.

    Parameters
    ----------
    frame
        One frame (y, x), contiguous, any real dtype.
    static, valid
        A pixel counts where both are set.
    pedestal
        Whole number of counts.
    factor
        Side of a bin, px.

    Returns
    -------
    float32 and uint8 (y // factor, x // factor), and a number that no valid pixel of the bins
    exceeds, where that comes for nothing.
    """
    usable = _usable_flags(static, valid, factor)
    out = np.empty(usable.shape, np.float32)
    # Rows 4096 bytes apart, what is written to one delays reads of the others.
    band = np.empty((factor, -(-frame.shape[1] // 8) * 8 + 96), frame.dtype)
    frame = locked(frame)
    flags = (locked(static.view(np.uint8)), locked(valid.view(np.uint8)))
    if _is_packed(frame, factor):
        words: NDArray[Any] = band.view(_PACKED[factor][1])
        level = np.int32(pedestal * factor**2)
        bits = _filled_packed(frame, *flags, level, factor, band, words, usable, out)
        return out, usable, int(bits)
    by = _filled_floats if frame.dtype.kind == "f" else _filled_integers
    by(frame, *flags, _pedestal_of(frame, pedestal), factor, band, usable, out)
    return out, usable, None


def _is_packed(frame: NDArray[Any], factor: int) -> bool:
    return frame.dtype == np.uint16 and factor in _PACKED and frame.shape[1] % factor == 0


_PACKED: Final[dict[int, tuple[Any, type]]] = {
    2: (_bin_by_two, np.uint32),
    4: (_bin_by_four, np.uint64),
}


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


def _pedestal_of(frame: NDArray[Any], pedestal: float) -> NDArray[Any]:
    """The pedestal in the precision that holds a pixel exactly."""
    return np.array([pedestal], np.result_type(frame.dtype, np.float32))


def usable_bins(valid: NDArray[np.bool_], factor: int) -> Flags:
    """Bins all of whose pixels count or can be filled in, 1 where usable."""
    return _usable_flags(valid, valid, factor)


def _usable_flags(static: NDArray[np.bool_], valid: NDArray[np.bool_], factor: int) -> Flags:
    usable = np.empty((static.shape[0] // factor, static.shape[1] // factor), np.uint8)
    _usable(locked(static.view(np.uint8)), locked(valid.view(np.uint8)), factor, usable)
    return usable


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
def _lessen(inverse, lost, width, halvings, enough):  # type: ignore[no-untyped-def]
    """Take lost bins of the finest level out of the counts; whether a coarse one is lost too."""
    some = False
    for k in range(lost.size):
        j, i = (lost[k] // width) >> halvings, (lost[k] % width) >> halvings
        if j < inverse.shape[0] and i < inverse.shape[1] and inverse[j, i] > 0.0:
            number = np.rint(1.0 / inverse[j, i]) - 1.0
            inverse[j, i] = 1.0 / number if number >= enough else 0.0
            some = some or number < enough
    return some


def lessened(
    inverse: Float32, lost: NDArray[np.int64], width: int, halvings: int
) -> tuple[Float32, bool]:
    """Inverse counts of a coarser level without some bins of the finest.

    Parameters
    ----------
    inverse
        As :func:`inverse_counts` makes it.
    lost
        Places in the finest level's flat array, whose rows are ``width`` long.
    halvings
        Steps between the two levels.

    Returns
    -------
    The new inverse counts, and whether some coarse bin has too few left.
    """
    out = inverse.copy()
    return out, bool(_lessen(out, locked(lost), width, halvings, 0.5 * 4.0**halvings))


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
