"""One pass over a raw frame: means over bins of the finest level.

Means are made of each pixel less a pedestal, so that single precision survives any level of counts.
`columns` tells which bins count, and which pixels are filled in from their neighbours.

What makes the pass fast, as measured on frames that come from memory:

- The rows of a bin are read one after the other: of several at once the processor brings none
  ahead, and waits longer than it adds up.
- uint16 are summed over four rows as they are, four to a word, which holds while none has a bit
  above the fourteenth. Rows of bins with a higher one are summed again, carefully.
- Rows of bins where a frame has no invalid pixel of its own are binned as if it said nothing.
- Casts to small types are written out wherever numba would go on with 64 bits: eight times as many
  pixels fit a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from stillstack.kernels.columns import Flags, Indices, StaticBins, lost_bins, own_columns
from stillstack.kernels.compiling import compiled, compiled_inner, locked

Float32 = NDArray[np.float32]

_U8, _U16 = np.uint8, np.uint16
_EVEN = np.uint64(0x0000FFFF0000FFFF)
_HALF = np.uint64(16)
_WORD = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_EVEN32 = np.uint32(0xFFFF)
_HALF32 = np.uint32(16)
# With a bit above these, sums of four may not fit sixteen.
_FOUR_FIT = 0x3FFF


# ------------------------------------------------------------------ any type of number


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
    """``pedestal``: an array of one, in the precision in which it is taken off."""
    scale = np.float32(1.0 / (factor * factor))
    level = pedestal[0]
    for j in range(out.shape[0]):
        for i in range(total.size):
            total[i] = np.float32(0.0)
        for k in range(factor):
            row = frame[j * factor + k]
            for i in range(total.size):
                total[i] += np.float32(pedestal.dtype.type(row[i]) - level)
        _fold(total, factor, scale, usable[j], out[j])


def _middle(left, right):  # type: ignore[no-untyped-def]
    """Mean of two pixels; that of integers is rounded down, and stays within their type."""
    if isinstance(left, np.floating):
        return (left + right) * type(left)(0.5)
    return (left >> 1) + (right >> 1)


@overload(_middle)
def _typed_middle(left, right):  # type: ignore[no-untyped-def]
    del right
    half = np.float32(0.5) if left == types.float32 else np.float64(0.5)

    def of_floats(left, right):  # type: ignore[no-untyped-def]
        return (left + right) * half

    def of_integers(left, right):  # type: ignore[no-untyped-def]
        return (left >> 1) + (right >> 1)

    return of_floats if isinstance(left, types.Float) else of_integers


@compiled
def _fill(row, columns, bit, into):  # type: ignore[no-untyped-def]
    """A row with what does not count replaced by the mean of its neighbours."""
    n, zero = row.size, into.dtype.type(0)
    for i in range(1, n - 1):
        mean = _middle(row[i - 1], row[i + 1])
        into[i] = row[i] if _U8(columns[i] & bit) else mean
    for i in (0, n - 1):
        into[i] = row[i] if _U8(columns[i] & bit) else zero


@compiled
def _filled(frame, columns, pedestal, factor, band, total, usable, out):  # type: ignore[no-untyped-def]
    width = frame.shape[1]
    parts = columns.shape[0] // max(out.shape[0], 1)
    rows = factor // max(parts, 1)
    for j in range(out.shape[0]):
        for k in range(factor):
            bit = _U8(1 << (k % rows))
            _fill(frame[j * factor + k], columns[j * parts + k // rows], bit, band[k, :width])
        _bin_plain(band, pedestal, factor, usable[j : j + 1], total, out[j : j + 1])


# ------------------------------------------------------------------ uint16 by 2x2 and by 4x4


@compiled
def _careful_four(words, pedestal, use, out):  # type: ignore[no-untyped-def]
    """Four rows of words of four pixels, whose even and odd ones are summed side by side."""
    scale, zero = np.float32(1.0 / 16.0), np.float32(0.0)
    a, b, c, d = words[0], words[1], words[2], words[3]
    for i in range(out.size):
        even = (a[i] & _EVEN) + (b[i] & _EVEN) + (c[i] & _EVEN) + (d[i] & _EVEN)
        even += ((a[i] >> _HALF) & _EVEN) + ((b[i] >> _HALF) & _EVEN)
        even += ((c[i] >> _HALF) & _EVEN) + ((d[i] >> _HALF) & _EVEN)
        count = np.int32((even & _LOW) + (even >> _WORD)) - pedestal
        out[i] = np.float32(count) * scale if use[i] else zero


@compiled
def _fold_four(total, pedestal, use, out):  # type: ignore[no-untyped-def]
    scale, zero = np.float32(1.0 / 16.0), np.float32(0.0)
    for i in range(out.size):
        even = (total[i] & _EVEN) + ((total[i] >> _HALF) & _EVEN)
        count = np.int32((even & _LOW) + (even >> _WORD)) - pedestal
        out[i] = np.float32(count) * scale if use[i] else zero


@compiled
def _plain_four(words, total, pedestal, use, out):  # type: ignore[no-untyped-def]
    """As `_careful_four`, right where four pixels fit; returns the bits set in any pixel.

    One row after the other, summed up in ``total``: of four rows at once the processor brings none
    ahead, and to wait for a frame takes twice as long as to add it up.
    """
    scale, zero = np.float32(1.0 / 16.0), np.float32(0.0)
    bits = np.uint64(0)
    first = words[0]
    for i in range(out.size):
        total[i] = first[i]
        bits |= first[i]
    for k in range(1, 3):
        row = words[k]
        for i in range(out.size):
            total[i] += row[i]
            bits |= row[i]
    last = words[3]
    for i in range(out.size):
        bits |= last[i]
        four = total[i] + last[i]
        even = (four & _EVEN) + ((four >> _HALF) & _EVEN)
        count = np.int32((even & _LOW) + (even >> _WORD)) - pedestal
        out[i] = np.float32(count) * scale if use[i] else zero
    bits |= bits >> _WORD
    return _U16((bits | (bits >> _HALF)) & np.uint64(0xFFFF))


@compiled
def _filled_four(rows, columns, total):  # type: ignore[no-untyped-def]
    """Sum of four rows, filled in as `_fill` does; returns the bits set in any pixel.

    One row after the other, as in `_plain_four`.
    """
    bits = _add_filled(rows[0], columns, _U8(1), False, total)
    for k in range(1, 4):
        bits = _U16(bits | _add_filled(rows[k], columns, _U8(1 << k), True, total))
    return bits


@compiled_inner
def _add_filled(row, columns, bit, further, total):  # type: ignore[no-untyped-def]
    """Put a filled row into ``total``, or add a further one."""
    n, bits, zero = total.size, _U16(0), _U16(0)
    for i in range(1, n - 1):
        mean = _U16(_U16(row[i - 1] >> 1) + _U16(row[i + 1] >> 1))
        value = row[i] if _U8(columns[i] & bit) else mean
        total[i] = _U16(total[i] + value) if further else value
        bits = _U16(bits | value)
    for i in (0, n - 1):
        value = row[i] if _U8(columns[i] & bit) else zero
        total[i] = _U16(total[i] + value) if further else value
        bits = _U16(bits | value)
    return bits


@compiled
def _by_two(words, pedestal, use, out):  # type: ignore[no-untyped-def]
    """Two rows of words of two pixels; returns the bits set in any pixel."""
    scale, zero = np.float32(0.25), np.float32(0.0)
    bits = np.uint32(0)
    a, b = words[0], words[1]
    for i in range(out.size):
        total = (a[i] & _EVEN32) + (a[i] >> _HALF32) + (b[i] & _EVEN32) + (b[i] >> _HALF32)
        bits |= a[i] | b[i]
        count = np.int32(total) - pedestal
        out[i] = np.float32(count) * scale if use[i] else zero
    return _U16((bits | (bits >> _HALF32)) & _EVEN32)


# Each of the next four has the highest value's bits of each row of bins put into ``highest``.


@compiled
def _plain_by_two(words, pedestal, usable, out, highest):  # type: ignore[no-untyped-def]
    for j in range(out.shape[0]):
        highest[j] = _by_two(words[2 * j : 2 * j + 2], pedestal, usable[j], out[j])


@compiled
def _plain_by_four(words, pedestal, usable, out, highest):  # type: ignore[no-untyped-def]
    total = np.empty(out.shape[1], np.uint64)
    for j in range(out.shape[0]):
        rows = words[4 * j : 4 * j + 4]
        highest[j] = _plain_four(rows, total, pedestal, usable[j], out[j])
        if highest[j] > _FOUR_FIT:
            _careful_four(rows, pedestal, usable[j], out[j])


@compiled
def _by_two_filled(frame, columns, filled, pedestal, band, words, usable, out, highest):  # type: ignore[no-untyped-def]
    width = frame.shape[1]
    for j in range(out.shape[0]):
        for k in range(2):
            row, into = frame[2 * j + k], band[k, :width]
            if filled[j]:
                _fill(row, columns[j], _U8(1 << k), into)
            else:
                for i in range(width):
                    into[i] = row[i]
        highest[j] = _by_two(words, pedestal, usable[j], out[j])


@compiled
def _by_four_filled(  # type: ignore[no-untyped-def]
    frame, frame_words, columns, filled, pedestal, band, words, usable, out, highest
):
    width = frame.shape[1]
    total = np.empty(out.shape[1], np.uint64)
    for j in range(out.shape[0]):
        if filled[j]:
            rows = frame[4 * j : 4 * j + 4]
            highest[j] = _filled_four(rows, columns[j], band[0, :width])
            if highest[j] <= _FOUR_FIT:
                _fold_four(words[0], pedestal, usable[j], out[j])
            else:
                for k in range(4):
                    _fill(rows[k], columns[j], _U8(1 << k), band[k, :width])
                _careful_four(words, pedestal, usable[j], out[j])
        else:
            rows_of_words = frame_words[4 * j : 4 * j + 4]
            highest[j] = _plain_four(rows_of_words, total, pedestal, usable[j], out[j])
            if highest[j] > _FOUR_FIT:
                _careful_four(rows_of_words, pedestal, usable[j], out[j])


# ------------------------------------------------------------------ the pass


@dataclass(frozen=True, eq=False)
class Bins:
    """A frame's bins of the finest level.

    Parameters
    ----------
    mean
        float32 (y // factor, x // factor), less the pedestal, 0 where not usable.
    usable
        1 where a bin counts: the static array itself where the frame loses none.
    lost
        Places in the flat array of the bins that it does lose.
    highest
        For each row of bins a number that none of its valid pixels exceeds, where that comes for
        nothing.
    """

    mean: Float32
    usable: Flags
    lost: Indices
    highest: NDArray[np.uint16] | None


def bin_frame(
    frame: NDArray[Any], static: StaticBins, own: NDArray[np.bool_] | None, pedestal: float
) -> Bins:
    """Means of bins less a pedestal, lone invalid pixels filled in.

    Parameters
    ----------
    frame
        One frame (y, x), contiguous, any real dtype.
    static
        Valid pixels of all frames.
    own
        Those of this one (y, x), contiguous; a pixel counts where both are set.
    pedestal
        Whole number of counts.
    """
    factor, frame = static.factor, locked(frame)
    out: Float32 = np.empty(static.usable.shape, np.float32)
    packed = frame.dtype == np.uint16 and factor in _WORDS and frame.shape[1] % factor == 0
    if own is None and not static.filled:
        if not packed:
            total = np.empty(frame.shape[1], np.float32)
            _bin_plain(frame, _pedestal_of(frame, pedestal), factor, static.usable, total, out)
            return Bins(out, static.usable, _NO_PLACES, None)
        highest = np.empty(out.shape[0], np.uint16)
        by = _plain_by_two if factor == 2 else _plain_by_four
        level = np.int32(pedestal * factor**2)
        by(frame.view(_WORDS[factor]), level, static.usable, out, highest)
        return Bins(out, static.usable, _NO_PLACES, highest)
    columns, usable = static.columns, static.usable
    filled = np.ones(columns.shape[0], np.uint8)
    if own is not None:
        columns, filled, usable = own_columns(own.view(np.uint8), static)
        if static.filled:
            filled[:] = 1
    given = locked(columns), locked(filled), locked(usable)
    by_type = _filled_packed if packed else _filled_any
    found = by_type(frame, given, factor, pedestal, out)
    lost = _NO_PLACES if own is None else lost_bins(static.usable, usable)
    return Bins(out, usable if lost.size else static.usable, lost, found)


_NO_PLACES: Final = locked(np.empty(0, np.int64))
_WORDS: Final[dict[int, type]] = {2: np.uint32, 4: np.uint64}
_Given = tuple[Flags, Flags, Flags]


def _filled_packed(
    frame: NDArray[Any], given: _Given, factor: int, pedestal: float, out: Float32
) -> NDArray[np.uint16]:
    columns, filled, usable = given
    highest, band = np.empty(out.shape[0], np.uint16), _band(frame, factor)
    words: NDArray[Any] = band.view(_WORDS[factor])
    level = np.int32(pedestal * factor**2)
    rest = (columns, filled, level, band, words, usable, out, highest)
    if factor == 2:
        _by_two_filled(frame, *rest)
    else:
        _by_four_filled(frame, frame.view(_WORDS[factor]), *rest)
    return highest


def _filled_any(
    frame: NDArray[Any], given: _Given, factor: int, pedestal: float, out: Float32
) -> None:
    columns, _, usable = given
    total = np.empty(frame.shape[1], np.float32)
    band, level = _band(frame, factor), _pedestal_of(frame, pedestal)
    _filled(frame, columns, level, factor, band, total, usable, out)


def _band(frame: NDArray[Any], factor: int) -> NDArray[Any]:
    """Room for a row of bins. Rows 4096 bytes apart, what is written to one delays reads."""
    return np.empty((factor, -(-frame.shape[1] // 8) * 8 + 96), frame.dtype)


def _pedestal_of(frame: NDArray[Any], pedestal: float) -> NDArray[Any]:
    """The pedestal in the precision that holds a pixel exactly."""
    return np.array([pedestal], np.result_type(frame.dtype, np.float32))
