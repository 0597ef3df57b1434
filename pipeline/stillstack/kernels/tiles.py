"""Vector loops over one tile of a strip: load, weigh along y, weigh along x, store.

A tile is a fixed number of columns, and keeps its even and its odd columns apart: the nine pixels
that two neighbours are made of are then nine loads, not sixteen, and weighing along x takes little
more than weighing along y. All that is in a tile lies at distances known to the compiler, which
otherwise has to check whether stores overwrite what is still to be loaded, and gives up. Four rows
are weighed along y at once, for the same reason: eleven loads, not thirty-two.

Arrays are one-dimensional and whole, with the place in them beside: a slice for each row and each
run of columns took as long as the work on some of them.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

from typing import Final

import numpy as np

from stillstack.kernels.compiling import (
    compiled_in_place,
    compiled_inner,
    put_halves,
    rounded_bits,
    wide_vectors,
)

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
# The values of 16 bits but for the largest, which is kept for what is not valid.
_ALL_HALVES: Final = np.uint32(0xFFFF)
_WORD: Final = np.int64(0xFFFFFFFF)
_1, _2, _3, _4 = (np.uint64(k) for k in range(1, 5))


@compiled_inner
def load_row(pixels, row, width, first, n, source, at):
    """Fill a tile's row at ``at`` with what ``n`` outputs need, zero outside the frame.

    ``row`` is the place of the frame's row in ``pixels``, ``width`` its length, ``first`` the
    column that the tile begins with.
    """
    zero = source.dtype.type(0)
    half = _needed(n)
    begin = min(max(-first, 0), 2 * half)
    end = max(min(width - first, 2 * half), begin)
    # The pairs of which both are there.
    low = (begin + 1) // 2
    high = max(end // 2, low)
    even, odd = _U(at), _U(at + HALF)
    for x in range(low):
        source[even + _U(x)] = zero
        source[odd + _U(x)] = zero
    for x in range(high, half):
        source[even + _U(x)] = zero
        source[odd + _U(x)] = zero
    if begin < end:
        # Vectors that are stored across the lines of the cache take twice as long. What is left
        # over at either end is loaded as a vector that overlaps, not one by one.
        line = (low + _VECTOR - 1) // _VECTOR * _VECTOR
        whole = max((high - line) // _VECTOR, 0) * _VECTOR
        start = row + first
        if whole:
            if low < line:
                _load_pairs(pixels, start + 2 * low, _VECTOR, source, at + low)
            _load_pairs(pixels, start + 2 * line, whole, source, at + line)
            if line + whole < high:
                last = high - _VECTOR
                _load_pairs(pixels, start + 2 * last, _VECTOR, source, at + last)
        else:
            _load_pairs(pixels, start + 2 * low, high - low, source, at + low)
        if begin & 1:
            source[odd + _U(begin // 2)] = pixels[row + first + begin]
        if end & 1:
            source[even + _U(end // 2)] = pixels[row + first + end - 1]


@compiled_in_place
def _load_pairs(pixels, start, n, source, at):
    wide_vectors()
    pair, even, odd = _U(start), _U(at), _U(at + HALF)
    for i in range(n):
        x = _U(i)
        source[even + x] = pixels[pair + _2 * x]
        source[odd + x] = pixels[pair + _2 * x + _1]


@compiled_inner
def _needed(n):
    """Return how many even columns, and odd ones, ``n`` outputs need, in whole vectors."""
    return (n // 2 + 4 + _VECTOR - 1) // _VECTOR * _VECTOR


@compiled_inner
def weigh_down(source, at, taps, n, down):
    """Weigh a tile's rows from ``at`` on along y, for the columns that ``n`` outputs need.

    The taps are four or eight; zeros fill up shorter kernels. They come before the first output
    row's own: rows r to r + taps.size - 1 make row r.
    """
    wide_vectors()
    half = _needed(n)
    p, q, r, s = taps[0], taps[1], taps[2], taps[3]
    if taps.size == 4:
        for start in (0, HALF):
            rows, into = _U(at + start), _U(start)
            for i in range(half):
                x, to = rows + _U(i), into + _U(i)
                a, b, c = source[x], source[x + _ROW[1]], source[x + _ROW[2]]
                d, e, f = source[x + _ROW[3]], source[x + _ROW[4]], source[x + _ROW[5]]
                g = source[x + _ROW[6]]
                down[to] = p * a + q * b + r * c + s * d
                down[to + _ROW[1]] = p * b + q * c + r * d + s * e
                down[to + _ROW[2]] = p * c + q * d + r * e + s * f
                down[to + _ROW[3]] = p * d + q * e + r * f + s * g
        return
    t, u, v, w = taps[4], taps[5], taps[6], taps[7]
    for start in (0, HALF):
        rows, into = _U(at + start), _U(start)
        for i in range(half):
            x, to = rows + _U(i), into + _U(i)
            a, b, c, d = source[x], source[x + _ROW[1]], source[x + _ROW[2]], source[x + _ROW[3]]
            e, f, g = source[x + _ROW[4]], source[x + _ROW[5]], source[x + _ROW[6]]
            h, j, k = source[x + _ROW[7]], source[x + _ROW[8]], source[x + _ROW[9]]
            m = source[x + _ROW[10]]
            down[to] = p * a + q * b + r * c + s * d + t * e + u * f + v * g + w * h
            down[to + _ROW[1]] = p * b + q * c + r * d + s * e + t * f + u * g + v * h + w * j
            down[to + _ROW[2]] = p * c + q * d + r * e + s * f + t * g + u * h + v * j + w * k
            down[to + _ROW[3]] = p * d + q * e + r * f + s * g + t * h + u * j + v * k + w * m


@compiled_inner
def weigh_across(down, row, taps, limits, begin, end, image, at, clipping):
    """Weigh a row of ``down`` along x into a tile's columns from ``begin`` to ``end``.

    They are stored from ``image[at + begin]`` on. With ``limits`` they are rounded, clipped and
    counted: returns how many were clipped. For limits see `put`. ``clipping`` says that some are
    likely to be, which changes nothing but the time.
    """
    wide_vectors()
    # Ones are the outputs at begin, begin + 2, ..., others those between.
    ones = row * TILE_ROW + (begin & 1) * HALF + begin // 2
    others = row * TILE_ROW + (1 - (begin & 1)) * HALF + (begin + 1) // 2
    n, into = (end - begin) // 2, at + begin
    left = n & (_VECTOR - 1) if n >= _VECTOR else 0
    clipped = np.int32(0)
    if limits is None:
        _floats(down, ones, others, taps, image, into, n - left)
    else:
        low, high, whole, least = limits
        clipped += _whole(
            down, ones, others, taps, low, high, whole, least, image, into, n - left, clipping
        )
    if left:
        # The last vector is moved back to end with the last output: one by one, what is left over
        # of each row would take a tenth of the time. What is made twice is counted once.
        i = n - _VECTOR
        if limits is None:
            _floats(down, ones + i, others + i, taps, image, into + 2 * i, _VECTOR)
        else:
            clipped += _clipped(
                down, ones + i, others + i, taps, low, high, whole, image, into + 2 * i,
                _VECTOR, _VECTOR - left,
            )  # fmt: skip
    if end - begin & 1:
        last = weigh_one(down, row, taps, end - 1)
        clipped += put(last, limits, image, at + end - 1)
    return clipped


@compiled_in_place
def _pair(down, ones, others, taps, i):
    """Return the ``i``-th pair of neighbours."""
    x, y = _U(ones) + _U(i), _U(others) + _U(i)
    p, q, r, s = taps[0], taps[1], taps[2], taps[3]
    a, c, e = down[x], down[x + _1], down[x + _2]
    b, d = down[y], down[y + _1]
    if taps.size == 4:
        return p * a + q * b + r * c + s * d, p * b + q * c + r * d + s * e
    t, u, v, w = taps[4], taps[5], taps[6], taps[7]
    g, j = down[x + _3], down[x + _4]
    f, h = down[y + _2], down[y + _3]
    one = p * a + q * b + r * c + s * d + t * e + u * f + v * g + w * h
    return one, p * b + q * c + r * d + s * e + t * f + u * g + v * h + w * j


@compiled_in_place
def _floats(down, ones, others, taps, image, at, n):
    """Make ``n`` pairs of neighbours as they are."""
    for i in range(n):
        image[_U(at) + _2 * _U(i)], image[_U(at) + _2 * _U(i) + _1] = _pair(
            down, ones, others, taps, i
        )


@compiled_in_place
def _whole(down, ones, others, taps, low, high, whole, least, image, at, n, clipping):
    """Make ``n`` pairs of neighbours whole, and tell how many were clipped.

    To clip them all, and to count, takes half as much time again. Where rounding is an addition,
    the few rows that have something to clip are found on the way, and done once more.
    """
    if least is not None and not clipping:
        furthest = np.uint32(0)
        for i in range(n):
            one, other = _pair(down, ones, others, taps, i)
            first, second = rounded_bits(one), rounded_bits(other)
            beyond = np.uint32(np.int64(first) - np.int64(least) & _WORD)
            furthest = beyond if beyond > furthest else furthest
            beyond = np.uint32(np.int64(second) - np.int64(least) & _WORD)
            furthest = beyond if beyond > furthest else furthest
            put_halves(image, _U(at) + _2 * _U(i), first, second)
        if furthest < _ALL_HALVES:
            return np.int32(0)
    return _clipped(down, ones, others, taps, low, high, whole, image, at, n, 0)


@compiled_in_place
def _clipped(down, ones, others, taps, low, high, whole, image, at, n, counted):
    """Make ``n`` pairs whole, clip them; return how many were from pair ``counted`` on."""
    # Kept to 32 bits: a counter of 64 would halve the width of all vectors.
    clipped = np.int32(0)
    for i in range(n):
        one, other = _pair(down, ones, others, taps, i)
        # Written so that each is one instruction, and that a NaN, which only overflow can make,
        # is clipped too.
        first, second = one if one > low else low, other if other > low else low
        first, second = first if first < high else high, second if second < high else high
        if np.int32(i) >= np.int32(counted):
            clipped = np.int32(clipped + np.int32(first != one) + np.int32(second != other))
        image[_U(at) + _2 * _U(i)] = type(whole)(np.rint(first))
        image[_U(at) + _2 * _U(i) + _1] = type(whole)(np.rint(second))
    return clipped


@compiled_inner
def weigh_one(down, row, taps, column):
    """Return what a row of ``down`` makes at one column of the tile."""
    value = taps.dtype.type(0)
    for k in range(taps.size):
        x = column + k
        value += taps[k] * down[row * TILE_ROW + (x & 1) * HALF + (x >> 1)]
    return value


@compiled_inner
def put(value, limits, image, at):
    """Store one value as `weigh_across` does; return 1 where it was clipped.

    ``limits`` are the least and the greatest value that round to one in range, a zero of the type
    by way of which numbers become whole, and what `rounded_bits` makes of the least, or None where
    it cannot be used; None for images of floats.
    """
    if limits is None:
        image[at] = value
        return np.int32(0)
    low, high, whole, _ = limits
    inside = value if value > low else low
    inside = inside if inside < high else high
    image[at] = type(whole)(np.rint(inside))
    return np.int32(inside != value)
