"""Vector loops over one tile of a strip: load, weigh along y, weigh along x, store.

A tile is a fixed number of columns, and keeps its even and its odd columns apart: the nine pixels
that two neighbours are made of are then nine loads, not sixteen, and weighing along x takes little
more than weighing along y. All that is in a tile lies at distances known to the compiler, which
otherwise has to check whether stores overwrite what is still to be loaded, and gives up. Four rows
are weighed along y at once, for the same reason: eleven loads, not thirty-two. Each function does a
group of rows, so that calls and slices cost little.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

from typing import Final

import numpy as np

from stillstack.kernels.compiling import compiled

TILE: Final = 1024
"""Output columns of a tile."""
GROUP: Final = 4
"""Rows weighed at once."""
HALF: Final = TILE // 2 + 16
"""Even columns of a tile, and its odd ones: what its outputs need, in whole vectors."""
TILE_ROW: Final = 2 * HALF
"""Numbers that a row of a tile holds: its even columns, then its odd ones."""
_VECTOR: Final = 16
# As unsigned numbers: an index that could be negative keeps the compiler from vectors.
_U: Final = np.uint64
_ROW: Final = tuple(np.uint64(k * TILE_ROW) for k in range(11))
_ODD: Final = tuple(np.uint64(HALF + k) for k in range(4))


@compiled
def load_rows(pixels, top, left, width, source, start):
    """Fill a strip's rows from ``start`` on with the frame from (top, left) on, zero outside.

    ``source`` has a line for each tile, of all its rows, TILE_ROW numbers each.
    """
    height = pixels.shape[0]
    zero = source.dtype.type(0)
    for r in range(start, source.shape[1] // TILE_ROW):
        y = top + r - start
        for tile in range(source.shape[0]):
            into = source[tile, r * TILE_ROW : (r + 1) * TILE_ROW]
            if y < 0 or y >= height:
                into[:] = zero
                continue
            # What the tile's outputs need, in whole vectors.
            needed = min(TILE, width - tile * TILE) // 2 + 4
            half = (needed + _VECTOR - 1) // _VECTOR * _VECTOR
            even, odd = into[:half], into[HALF : HALF + half]
            first, row = left + tile * TILE, pixels[y]
            begin = min(max(-first, 0), 2 * half)
            end = max(min(row.size - first, 2 * half), begin)
            # The pairs of which both are there.
            low = (begin + 1) // 2
            high = max(end // 2, low)
            even[: min(low, half)] = zero
            odd[: min(low, half)] = zero
            even[high:] = zero
            odd[high:] = zero
            if high > low:
                pairs, even, odd = row[first + 2 * low :], even[low:high], odd[low:high]
                for i in range(high - low):
                    x = _U(i)
                    even[x] = pairs[_U(2) * x]
                    odd[x] = pairs[_U(2) * x + _U(1)]
            if begin & 1 and begin < end:
                into[HALF + begin // 2] = row[first + begin]
            if end & 1 and begin < end:
                into[end // 2] = row[first + end - 1]


@compiled
def weigh_down(rows, taps, n, down):
    """Weigh a tile's rows along y, for the columns that ``n`` outputs need.

    The taps are four or eight; zeros fill up shorter kernels. They come before the first output
    row's own: rows r to r + taps.size - 1 make row r.
    """
    half = (n // 2 + 4 + _VECTOR - 1) // _VECTOR * _VECTOR
    p, q, r, s = taps[0], taps[1], taps[2], taps[3]
    if taps.size == 4:
        for start in (0, HALF):
            source, into = rows[start:], down[start:]
            for i in range(half):
                x = _U(i)
                a, b, c = source[x], source[x + _ROW[1]], source[x + _ROW[2]]
                d, e, f = source[x + _ROW[3]], source[x + _ROW[4]], source[x + _ROW[5]]
                g = source[x + _ROW[6]]
                into[x] = p * a + q * b + r * c + s * d
                into[x + _ROW[1]] = p * b + q * c + r * d + s * e
                into[x + _ROW[2]] = p * c + q * d + r * e + s * f
                into[x + _ROW[3]] = p * d + q * e + r * f + s * g
        return
    t, u, v, w = taps[4], taps[5], taps[6], taps[7]
    for start in (0, HALF):
        source, into = rows[start:], down[start:]
        for i in range(half):
            x = _U(i)
            a, b, c, d = source[x], source[x + _ROW[1]], source[x + _ROW[2]], source[x + _ROW[3]]
            e, f, g = source[x + _ROW[4]], source[x + _ROW[5]], source[x + _ROW[6]]
            h, j, k = source[x + _ROW[7]], source[x + _ROW[8]], source[x + _ROW[9]]
            m = source[x + _ROW[10]]
            into[x] = (p * a + q * b + r * c + s * d) + (t * e + u * f + v * g + w * h)
            into[x + _ROW[1]] = (p * b + q * c + r * d + s * e) + (t * f + u * g + v * h + w * j)
            into[x + _ROW[2]] = (p * c + q * d + r * e + s * f) + (t * g + u * h + v * j + w * k)
            into[x + _ROW[3]] = (p * d + q * e + r * f + s * g) + (t * h + u * j + v * k + w * m)


@compiled
def weigh_across(down, taps, limits, begin, into):
    """Weigh a row along x into the pixels from the tile's column ``begin`` on.

    With ``limits`` they are rounded, clipped and counted: returns how many were clipped.
    """
    p, q, r, s = taps[0], taps[1], taps[2], taps[3]
    # Ones are the outputs at begin, begin + 2, ..., others those between.
    ones = down[(begin & 1) * HALF + begin // 2 :]
    others = down[(1 - (begin & 1)) * HALF + (begin + 1) // 2 :]
    # Kept to 32 bits: a counter of 64 would halve the width of all vectors.
    clipped = np.int32(0)
    if taps.size == 4:
        for i in range(into.size // 2):
            x = _U(i)
            a, c, e = ones[x], ones[x + _U(1)], ones[x + _U(2)]
            b, d = others[x], others[x + _U(1)]
            one = p * a + q * b + r * c + s * d
            other = p * b + q * c + r * d + s * e
            if limits is None:
                into[_U(2) * x] = one
                into[_U(2) * x + _U(1)] = other
            else:
                low, high = limits
                one, other = np.rint(one), np.rint(other)
                # Written so that each is one instruction, and that a NaN, which only overflow can
                # make, is clipped too.
                first, second = one if one > low else low, other if other > low else low
                first, second = first if first < high else high, second if second < high else high
                clipped = np.int32(clipped + np.int32(first != one) + np.int32(second != other))
                into[_U(2) * x] = into.dtype.type(first)
                into[_U(2) * x + _U(1)] = into.dtype.type(second)
    else:
        t, u, v, w = taps[4], taps[5], taps[6], taps[7]
        for i in range(into.size // 2):
            x = _U(i)
            a, c, e, g = ones[x], ones[x + _U(1)], ones[x + _U(2)], ones[x + _U(3)]
            b, d, f, h = others[x], others[x + _U(1)], others[x + _U(2)], others[x + _U(3)]
            j = ones[x + _U(4)]
            one = (p * a + q * b + r * c + s * d) + (t * e + u * f + v * g + w * h)
            other = (p * b + q * c + r * d + s * e) + (t * f + u * g + v * h + w * j)
            if limits is None:
                into[_U(2) * x] = one
                into[_U(2) * x + _U(1)] = other
            else:
                low, high = limits
                one, other = np.rint(one), np.rint(other)
                first, second = one if one > low else low, other if other > low else low
                first, second = first if first < high else high, second if second < high else high
                clipped = np.int32(clipped + np.int32(first != one) + np.int32(second != other))
                into[_U(2) * x] = into.dtype.type(first)
                into[_U(2) * x + _U(1)] = into.dtype.type(second)
    if into.size & 1:
        x = into.size // 2
        last = p * ones[x] + q * others[x] + r * ones[x + 1] + s * others[x + 1]
        if taps.size == 8:
            t, u, v, w = taps[4], taps[5], taps[6], taps[7]
            a, b, c, d = ones[x], others[x], ones[x + 1], others[x + 1]
            e, f, g, h = ones[x + 2], others[x + 2], ones[x + 3], others[x + 3]
            last = (p * a + q * b + r * c + s * d) + (t * e + u * f + v * g + w * h)
        clipped += put(last, limits, into, into.size - 1)
    return clipped


@compiled
def put(value, limits, into, x):
    """Store one value as the rows of `weigh_across` are; return 1 where it was clipped."""
    if limits is None:
        into[x] = value
        return np.int32(0)
    low, high = limits
    value = np.rint(value)
    inside = value if value > low else low
    inside = inside if inside < high else high
    into[x] = into.dtype.type(inside)
    return np.int32(inside != value)
