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

    Only the lowest bit of a flag counts: an image of 0 and 255 may have been viewed as flags.
    """
    if own.shape[0] == 4:
        a, b, c, d = own[0], own[1], own[2], own[3]
        for i in range(columns.size):
            lower = _U8(_U8(a[i] & 1) | _U8(_U8(b[i] << 1) & 2))
            upper = _U8(_U8(_U8(c[i] << 2) & 4) | _U8(_U8(d[i] << 3) & 8))
            columns[i] = _U8(_U8(lower | upper) & static[i])
    else:
        for i in range(columns.size):
            columns[i] = static[i]
        for k in range(own.shape[0]):
            row, others = own[k], _U8(0xFF ^ (1 << k))
            for i in range(columns.size):
                columns[i] = _U8(columns[i] & _U8(_U8(_U8(row[i] & 1) << k) | others))
    differing = _U8(0)
    for i in range(columns.size):
        differing = _U8(differing | _U8(columns[i] ^ static[i]))
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
        for i in range(use.size):
            use[i] &= _U8(_U8(known[2 * i] & known[2 * i + 1]) == every)
    elif factor == 4:
        for i in range(use.size):
            left = _U8(known[4 * i] & known[4 * i + 1])
            right = _U8(known[4 * i + 2] & known[4 * i + 3])
            use[i] &= _U8(_U8(left & right) == every)
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
def known_band(own, static, k, rows, factor, columns, known, use):  # type: ignore[no-untyped-def]
    """Valid columns of band k and its part of which bins count; False: they are the static ones.

    Without own valid pixels, ``own`` is empty.
    """
    if own.size == 0:
        always = static[k]
        # An assignment of the whole is forty times slower.
        for i in range(columns.size):
            columns[i] = always[i]
        return False
    if not _own_columns(own[k * rows : (k + 1) * rows], static[k], columns):
        return False
    _with_lone(columns, _U8(0xFF if factor > 1 else 0), known)
    _usable_row(known, _U8((1 << rows) - 1), factor, use)
    return True


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
