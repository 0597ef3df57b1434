"""Valid pixels as bits of columns, and which bins count.

A bin is *usable* when every pixel of it counts. One invalid pixel between a valid left and a valid
right neighbour is filled in with their mean: one pixel in a hundred out would otherwise cost one
bin of 4x4 in seven. Where bins are single pixels nothing is filled.

The valid pixels of all frames are kept as bits, one byte for a column of a bin's pixels. A frame's
own are packed the same way while they are read, so that all rows of a bin are compared, and lone
pixels found, at once, and of the static ones a fraction of the bytes is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, locked

Flags = NDArray[np.uint8]
Indices = NDArray[np.int64]

_U8 = np.uint8
# Rows of which a byte holds a column's valid pixels.
_ROWS = 8


@dataclass(frozen=True, eq=False)
class StaticBins:
    """Valid pixels of all frames, made ready for binning.

    Parameters
    ----------
    factor
        Side of a bin, px.
    columns
        uint8 (bands, x): bit k of a column is set where the pixel of the band's row k is valid. A
        band is a row of bins, or its k-th part where bins have more than eight rows.
    usable
        uint8 (y // factor, x // factor): bins that count.
    filled
        Whether some invalid pixels are filled in from their neighbours.
    """

    factor: int
    columns: Flags
    usable: Flags
    filled: bool


@compiled
def _pack(valid, rows, columns):  # type: ignore[no-untyped-def]
    for j in range(columns.shape[0]):
        column = columns[j]
        column[:] = 0
        for k in range(rows):
            row = valid[j * rows + k]
            for i in range(column.size):
                column[i] = _U8(column[i] | _U8(_U8(row[i] & 1) << k))


@compiled
def _own_columns(own, static, columns):  # type: ignore[no-untyped-def]
    """Columns of what is valid in a frame and static; whether any differs from the static.

    Only the lowest bit of a flag counts: an image of 0 and 255 may have been viewed as flags. Rows
    are read one after the other, as they lie in memory: it takes less than half the time.
    """
    first = own[0]
    for i in range(columns.size):
        columns[i] = _U8(first[i] & 1)
    for k in range(1, own.shape[0]):
        row, bit = own[k], _U8(1 << k)
        for i in range(columns.size):
            columns[i] = _U8(columns[i] | (bit if _U8(row[i] & 1) else _U8(0)))
    differing = _U8(0)
    for i in range(columns.size):
        both = _U8(columns[i] & static[i])
        differing = _U8(differing | _U8(both ^ static[i]))
        columns[i] = both
    return differing != 0


@compiled
def _with_lone(columns, fills, known):  # type: ignore[no-untyped-def]
    """Add the pixels that can be filled in to those that are valid."""
    n = columns.size
    for i in range(1, n - 1):
        known[i] = _U8(columns[i] | _U8(_U8(columns[i - 1] & columns[i + 1]) & fills))
    known[0], known[n - 1] = columns[0], columns[n - 1]


@compiled
def _usable_row(known, every, factor, use):  # type: ignore[no-untyped-def]
    """Take out of a row of bins those with a column that is not known in each row."""
    if factor == 1:
        for i in range(use.size):
            use[i] &= _U8(known[i] == every)
    elif factor == 2:
        pairs = known[: 2 * use.size].view(np.uint16)
        both_known = np.uint16(np.uint16(every) * np.uint16(0x0101))
        for i in range(use.size):
            use[i] &= _U8(pairs[i] == both_known)
    elif factor == 4:
        fours = known[: 4 * use.size].view(np.uint32)
        all_known = np.uint32(np.uint32(every) * np.uint32(0x01010101))
        for i in range(use.size):
            use[i] &= _U8(fours[i] == all_known)
    else:
        for i in range(use.size):
            both = known[i * factor]
            for k in range(1, factor):
                both = _U8(both & known[i * factor + k])
            use[i] &= _U8(both == every)


@compiled
def _usable(columns, rows, factor, usable):  # type: ignore[no-untyped-def]
    known = np.empty(columns.shape[1], _U8)
    fills, every = _U8(0xFF if factor > 1 else 0), _U8((1 << rows) - 1)
    parts = factor // rows
    for j in range(usable.shape[0]):
        usable[j, :] = 1
        for k in range(parts):
            _with_lone(columns[j * parts + k], fills, known)
            _usable_row(known, every, factor, usable[j])


@compiled
def _own_bands(own, static, rows, factor, columns, differs, usable):  # type: ignore[no-untyped-def]
    known = np.empty(columns.shape[1], _U8)
    fills, every = _U8(0xFF if factor > 1 else 0), _U8((1 << rows) - 1)
    parts = factor // rows
    for k in range(columns.shape[0]):
        differs[k] = _own_columns(own[k * rows : (k + 1) * rows], static[k], columns[k])
        if differs[k]:
            _with_lone(columns[k], fills, known)
            _usable_row(known, every, factor, usable[k // parts])


def own_columns(own: Flags, static: StaticBins) -> tuple[Flags, Flags, Flags]:
    """Valid pixels of one frame, packed, and which of its bins count.

    All flags are read before any pixel is: what reads a little of both by turns waits for each.

    Parameters
    ----------
    own
        uint8 (y, x): pixels valid in this frame.
    static
        Those valid in all frames.

    Returns
    -------
    columns
        uint8 (bands, x), as `StaticBins` has them.
    differs
        uint8 (bands): whether a band lacks a pixel that is valid in all frames.
    usable
        uint8 (y // factor, x // factor): bins that count.
    """
    columns = np.empty_like(static.columns)
    differs = np.empty(len(columns), np.uint8)
    usable = static.usable.copy()
    rows = _rows_of_band(static.factor)
    given = locked(own), locked(static.columns)
    _own_bands(*given, rows, static.factor, columns, differs, usable)
    return columns, differs, usable


def _rows_of_band(factor: int) -> int:
    return max(rows for rows in range(1, _ROWS + 1) if factor % rows == 0)


def static_bins(valid: NDArray[np.bool_], factor: int) -> StaticBins:
    """Valid pixels (y, x), made ready for bins of ``factor`` px."""
    rows = _rows_of_band(factor)
    shape = (valid.shape[0] // factor, valid.shape[1] // factor)
    columns = np.empty((shape[0] * factor // rows, valid.shape[1]), np.uint8)
    usable = np.empty(shape, np.uint8)
    _pack(locked(valid.view(np.uint8)), rows, columns)
    _usable(locked(columns), rows, factor, usable)
    for array in (columns, usable):
        array.flags.writeable = False
    lone = valid[:, :-2] & valid[:, 2:] & ~valid[:, 1:-1]
    return StaticBins(factor, columns, usable, factor > 1 and bool(lone.any()))


def usable_bins(valid: NDArray[np.bool_], factor: int) -> Flags:
    """Bins all of whose pixels count or can be filled in, 1 where usable."""
    return static_bins(valid, factor).usable.copy()


@compiled
def _find_lost(static, usable, words_static, words_usable, lost):  # type: ignore[no-untyped-def]
    """Eight bins a word: few words hold one, and only those are looked at."""
    found = 0
    for k in range(words_static.size):
        if words_static[k] & ~words_usable[k]:
            for i in range(8 * k, 8 * k + 8):
                if static[i] & ~usable[i]:
                    lost[found] = i
                    found += 1
    for i in range(8 * words_static.size, static.size):
        if static[i] & ~usable[i]:
            lost[found] = i
            found += 1
    return found


def lost_bins(static: Flags, usable: Flags) -> Indices:
    """Places in the flat array where ``static`` is set and ``usable`` is not."""
    flat, own = locked(static.ravel()), locked(usable.ravel())
    # Memory that is never written is never taken.
    lost = np.empty(flat.size, np.int64)
    whole = flat.size // 8 * 8
    words = (flat[:whole].view(np.uint64), own[:whole].view(np.uint64))
    return lost[: int(_find_lost(flat, own, *words, lost))].copy()
