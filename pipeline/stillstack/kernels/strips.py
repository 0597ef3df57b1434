"""Compiled work on a strip of rows: load it, weigh it, mend it where pixels are invalid.

The loop over strips is compiled too: calls from Python, with all their arguments, took as long as
a third of the weighing. The weighing itself is in `tiles`; which pixels need mending is known
beforehand, from `footprints`.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

from typing import Final

import numpy as np

from stillstack.kernels.compiling import compiled, compiled_in_place, compiled_inner, fetch
from stillstack.kernels.footprints import PARTIAL, SHORT, WHOLE
from stillstack.kernels.tiles import (
    GROUP,
    HALF,
    TILE,
    TILE_ROW,
    load_row,
    put,
    weigh_across,
    weigh_down,
    weigh_one,
)

_LINE_BYTES: Final = 64
# From so many pixels on, they are made as vectors though most of what is weighed is not needed.
_LONG_RUN: Final = 64
ENOUGH: Final = 0.5 - 1e-9
"""Share of valid pixels that makes an output valid.

One half to rounding: weights of 0.3 and 0.7 need not sum to one exactly.
"""


@compiled
def move_frame(
    pixels, shape, origin, cell, rows, lost, along, footprints, valid, limits, fill, width, image
):
    """Resample a frame a strip of ``rows`` rows at a time; return how many pixels were clipped.

    Frame and image are one-dimensional here, row after row; ``shape`` is the frame's, ``width`` the
    image's. ``origin`` is the input pixel of the first output's first weight, ``along`` holds the
    weights along y and along x, ``valid`` the invalid runs and the isolated pixels. For the rest
    see `_make_strip`.
    """
    height, common = image.size // width, along[0][0].size - 1
    n_tiles = (width + TILE - 1) // TILE
    source = _aligned(n_tiles * (rows + common) * TILE_ROW, along[0][0].dtype)
    down = _aligned(GROUP * TILE_ROW, along[0][0].dtype)
    shorter = _aligned(GROUP * TILE_ROW, along[0][0].dtype)
    spans = (*footprints, _shares(along[0][3], along[1][3]))
    n_clipped = 0
    for y in range(0, height, rows):
        # Each strip keeps from the one before the rows that both need.
        kept = common if y else 0
        top = origin[0] + y + kept
        _load_strip(pixels, shape, top, origin[1], width, kept, rows + common, source)
        _mend_strip(pixels, shape, top, origin[1], width, kept, rows + common, source, valid)
        n_clipped += _make_strip(
            pixels,
            shape,
            (origin[0] + y + rows + common, origin[1]),
            source,
            rows + common,
            (down, shorter),
            (cell[0] + y, cell[1]),
            lost,
            along[0],
            along[1],
            spans,
            valid[1],
            limits,
            fill,
            width,
            y,
            min(y + rows, height),
            image,
        )
    return n_clipped


@compiled
def _aligned(n, dtype):
    """Return memory that begins with a line of the cache, so that vectors lie within lines."""
    room = np.empty(n + 16, dtype)
    start = (-room.ctypes.data % 64) // room.itemsize
    return room[start : start + n]


@compiled_inner
def _load_strip(pixels, shape, top, left, width, kept, n_rows, source):
    """Fill a strip's rows but for the ``kept`` first with the frame's from (top, left) on.

    ``source`` holds ``n_rows`` rows of a tile, TILE_ROW numbers each, then those of the next tile.
    The rows that are kept are taken from the end of the strip before.
    """
    for tile in range((width + TILE - 1) // TILE):
        to = tile * n_rows * TILE_ROW
        tail = np.uint64(to + (n_rows - kept) * TILE_ROW)
        for i in range(kept * TILE_ROW):
            source[np.uint64(to) + np.uint64(i)] = source[tail + np.uint64(i)]
    for r in range(kept, n_rows):
        y = top + r - kept
        # Of a row beyond the frame nothing is inside.
        there = shape[1] if 0 <= y < shape[0] else 0
        for tile in range((width + TILE - 1) // TILE):
            first, n = left + tile * TILE, min(TILE, width - tile * TILE)
            to = (tile * n_rows + r) * TILE_ROW
            load_row(pixels, y * shape[1], there, first, n, source, to)


@compiled_inner
def _bring(pixels, shape, y, first, n):
    """Have the processor bring the pixels of a row that ``n`` outputs of the next strip need."""
    if 0 <= y < shape[0]:
        for x in range(max(first, 0), min(first + n, shape[1]), _LINE_BYTES // pixels.itemsize):
            fetch(pixels, y * shape[1] + x)


@compiled_inner
def _mend_strip(pixels, shape, top, left, width, kept, n_rows, source, valid):
    """Put zero where pixels are invalid; isolated ones get what their neighbours say.

    That is half the sum of the four nearest less a quarter of that of the four diagonal ones: exact
    for every sum of a function of y and one of x, and as noisy as an ordinary pixel.
    """
    (hole_rows, holes), (dead_rows, dead) = valid
    zero = source.dtype.type(0)
    for y in range(max(top, 0), min(top + n_rows - kept, shape[0])):
        if hole_rows[y] == hole_rows[y + 1] and dead_rows[y] == dead_rows[y + 1]:
            continue
        for tile in range((width + TILE - 1) // TILE):
            at, first = (tile * n_rows + kept + y - top) * TILE_ROW, left + tile * TILE
            for i in range(hole_rows[y], hole_rows[y + 1]):
                begin, end = max(holes[i, 0] - first, 0), min(holes[i, 1] - first, TILE_ROW)
                if begin < end:
                    fill_run(source, at + (begin + 1) // 2, at + (end + 1) // 2, zero)
                    fill_run(source, at + HALF + begin // 2, at + HALF + end // 2, zero)
            for i in range(dead_rows[y], dead_rows[y + 1]):
                x = dead[i] - first
                if 0 <= x < TILE_ROW:
                    value = _stand_in(pixels, y * shape[1] + dead[i], shape[1])
                    source[at + (x & 1) * HALF + (x >> 1)] = value


@compiled_inner
def _stand_in(pixels, at, width):
    above, below = at - width, at + width
    nearest = np.float64(pixels[above]) + np.float64(pixels[below])
    nearest += np.float64(pixels[at - 1]) + np.float64(pixels[at + 1])
    diagonal = np.float64(pixels[above - 1]) + np.float64(pixels[above + 1])
    diagonal += np.float64(pixels[below - 1]) + np.float64(pixels[below + 1])
    return nearest / 2 - diagonal / 4


@compiled_inner
def _make_strip(
    pixels,
    shape,
    following,
    source,
    n_rows,
    scratch,
    cell,
    lost,
    along_y,
    along_x,
    footprints,
    dead,
    limits,
    fill,
    width,
    top,
    bottom,
    image,
):
    """Weigh, mend and store the rows of a strip; return how many valid pixels were clipped.

    Parameters
    ----------
    source, n_rows
        What `_load_strip` filled.
    scratch
        Two arrays for a group of rows of a tile: weighed by the kernel, and by the shorter one.
    cell
        (y, x) of the cell in which the first output pixel lies.
    lost
        The rows and columns from an output pixel's cell to the isolated invalid pixel of which it
        is more than half made; a third number is zero where there are none.
    along_y, along_x
        Four lists of weights: the kernel's, padded with zeros to four or eight, in the working
        precision, the same as they are, the shorter kernel's, padded to four, the linear ones,
        padded to two; and the length of the shorter kernel.
    footprints
        Rows, spans and corners of `Footprints`, and what `_shares` says.
    dead
        Of the isolated invalid pixels: where each row's begin, and the columns.
    limits
        Of an image of integers, as `put` takes them; None for floats.
    fill
        What invalid pixels hold.
    width, top, bottom, image
        The image, of which rows from top to bottom are written.
    """
    span_rows, spans, corners, shares = footprints
    dead_rows, columns = dead
    down, shorter = scratch
    # Rows and columns by which the shorter kernel begins later.
    skip_y = (along_y[1].size - 1) // 2 - (along_y[4] - 1) // 2
    skip_x = (along_x[1].size - 1) // 2 - (along_x[4] - 1) // 2
    n_clipped = 0
    for group in range(0, bottom - top, GROUP):
        for tile in range((width + TILE - 1) // TILE):
            left, rows = tile * TILE, (tile * n_rows + group) * TILE_ROW
            n, first = min(TILE, width - left), cell[1] + left
            weigh_down(source, rows, along_y[0], n, down)
            shorter_made = False
            for row in range(min(GROUP, bottom - top - group)):
                _bring(pixels, shape, following[0] + group + row, following[1] + left, n)
                near = _near(dead_rows, cell[0] + group + row, lost, first)
                at, done = (top + group + row) * width + left, 0
                span, last = _spans_of(span_rows, cell[0] + group + row)
                for i in range(span, last):
                    begin, end = max(spans[i, 0] - first, 0), min(spans[i, 1] - first, n)
                    if begin >= end:
                        continue
                    fill_run(image, at + done, at + begin, fill)
                    done = end
                    if spans[i, 2] == WHOLE:
                        n_clipped += _weigh_run(
                            down, row, along_x[0], limits, begin, end, image, at,
                            columns, near, fill, n_clipped > 0,
                        )  # fmt: skip
                    elif spans[i, 2] == SHORT and end - begin >= _LONG_RUN:
                        if not shorter_made:
                            weigh_down(source, rows + skip_y * TILE_ROW, along_y[2], n, shorter)
                            shorter_made = True
                        n_clipped += _weigh_run(
                            shorter, row, along_x[2], limits, begin + skip_x, end + skip_x,
                            image, at - skip_x, columns, (near[0], near[1], near[2] - skip_x), fill,
                            n_clipped > 0,
                        )  # fmt: skip
                    elif spans[i, 2] == SHORT:
                        n_clipped += _mend_short(
                            source, rows + (row + skip_y) * TILE_ROW, along_y[2], along_x[2],
                            limits, begin + skip_x, end + skip_x,
                            image, at - skip_x, columns, (near[0], near[1], near[2] - skip_x), fill,
                        )  # fmt: skip
                    else:
                        n_clipped += _mend_partial(
                            source, rows + row * TILE_ROW, along_y, along_x, limits, begin, end,
                            image, at, columns, near, fill,
                            shares, corners, spans[i, 3] + first - spans[i, 0],
                        )  # fmt: skip
                fill_run(image, at + done, at + n, fill)
    return n_clipped


@compiled_in_place
def fill_run(array, begin, end, value):
    """Set the elements from ``begin`` to ``end``."""
    for i in range(end - begin):
        array[np.uint64(begin) + np.uint64(i)] = value


@compiled_inner
def _weigh_run(
    down, row, taps, limits, begin, end, image, at, dead, near, fill, clipping
):  # fmt: skip
    """Weigh along x from column ``begin`` to ``end``, and fill what is lost with isolated pixels.

    Returns how many valid pixels were clipped.
    """
    n_clipped = weigh_across(down, row, taps, limits, begin, end, image, at, clipping)
    for i in range(near[0], near[1]):
        x = dead[i] - near[2]
        if begin <= x < end:
            # Only what is at a limit can have been clipped.
            if limits is not None and not limits[0] + 1 < image[at + x] < limits[1] - 1:
                n_clipped -= put(weigh_one(down, row, taps, x), limits, image, at + x)
            image[at + x] = fill
    return n_clipped


@compiled_in_place
def _is_lost(dead, near, x):
    for i in range(near[0], near[1]):  # noqa: SIM110  # compiled: no generators
        if dead[i] - near[2] == x:
            return True
    return False


@compiled_in_place
def _mend_short(source, row, along_y, along_x, limits, begin, end, image, at, dead, near, fill):
    """Do what `weigh_down` and `weigh_across` do with kernels of four, a few pixels of one row."""
    p, q, r, s = along_x[0], along_x[1], along_x[2], along_x[3]
    n_clipped = 0
    for x in range(begin, end):
        if _is_lost(dead, near, x):
            image[at + x] = fill
            continue
        # Even columns and odd ones are apart.
        a = _weigh_column(source, row + (x & 1) * HALF + (x >> 1), along_y)
        b = _weigh_column(source, row + (x + 1 & 1) * HALF + (x + 1 >> 1), along_y)
        c = _weigh_column(source, row + (x & 1) * HALF + (x >> 1) + 1, along_y)
        d = _weigh_column(source, row + (x + 1 & 1) * HALF + (x + 1 >> 1) + 1, along_y)
        n_clipped += put(p * a + q * b + r * c + s * d, limits, image, at + x)
    return n_clipped


@compiled_in_place
def _weigh_column(source, at, taps):
    a, b = source[at], source[at + TILE_ROW]
    c, d = source[at + 2 * TILE_ROW], source[at + 3 * TILE_ROW]
    return taps[0] * a + taps[1] * b + taps[2] * c + taps[3] * d


@compiled_in_place
def _mend_partial(
    source, row, along_y, along_x, limits, begin, end, image, at, dead, near, fill,
    shares, corners, corner,
):  # fmt: skip
    """Weigh linearly over the valid pixels around; ``corners[corner + x]`` says which they are."""
    linear_y, linear_x = along_y[3], along_x[3]
    p, q = linear_x[0], linear_x[1]
    top, left = row + (along_y[1].size - 1) // 2 * TILE_ROW, (along_x[1].size - 1) // 2
    n_clipped = 0
    for x in range(begin, end):
        share = shares[corners[corner + x]]
        if share < ENOUGH or _is_lost(dead, near, x):
            image[at + x] = fill
            continue
        a = top + (left + x & 1) * HALF + (left + x >> 1)
        b = top + (left + x + 1 & 1) * HALF + (left + x + 1 >> 1)
        # What is not valid is zero in a strip.
        value = linear_y[0] * p * source[a] + linear_y[0] * q * source[b]
        value += linear_y[1] * p * source[a + TILE_ROW] + linear_y[1] * q * source[b + TILE_ROW]
        n_clipped += put(source.dtype.type(value / share), limits, image, at + x)
    return n_clipped


@compiled
def find_valid(cell, lost, linear_y, linear_x, footprints, dead, valid):
    """Tell which output pixels are valid; the arguments are those of `make_strip`."""
    spans, shares = footprints[1], _shares(linear_y, linear_x)
    for y in range(valid.shape[0]):
        row = valid[y]
        row[:] = False
        span, last = _spans_of(footprints[0], cell[0] + y)
        for i in range(span, last):
            start, stop = max(spans[i, 0] - cell[1], 0), min(spans[i, 1] - cell[1], row.size)
            if spans[i, 2] != PARTIAL:
                row[start : max(stop, start)] = True
                continue
            at = spans[i, 3] + cell[1] - spans[i, 0]
            for x in range(start, stop):
                row[x] = shares[footprints[2][at + x]] >= ENOUGH
        near = _near(dead[0], cell[0] + y, lost, cell[1])
        for i in range(near[0], near[1]):
            x = dead[1][i] - near[2]
            if 0 <= x < row.size:
                row[x] = False


@compiled_inner
def _spans_of(rows, row):
    """Return the first span of a row of cells and the one after the last."""
    if row < -1 or row >= rows.shape[0] - 1:
        return 0, 0
    return rows[row + 1, 0], rows[row + 1, 1]


@compiled_inner
def _near(rows, row, lost, first):
    """Return which isolated invalid pixels outputs of a row may be lost with.

    The first, the one after the last, and what to take from their columns to get the output's, in
    a row whose first output lies in the cell of column ``first``.
    """
    y = row + lost[0]
    if lost[2] == 0 or y < 0 or y >= rows.size - 1:
        return 0, 0, 0
    return rows[y], rows[y + 1], first + lost[1]


@compiled
def _shares(linear_y, linear_x):
    """Return the sum of the linear weights of valid pixels for each set of valid corners."""
    shares = np.zeros(16)
    for corners in range(16):
        for i in range(linear_y.size):
            for j in range(linear_x.size):
                if corners >> (2 * i + j) & 1:
                    shares[corners] += linear_y[i] * linear_x[j]
    return shares
