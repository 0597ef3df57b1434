"""Compiled work on a strip of rows: load it, weigh it, mend it where pixels are invalid.

The loop over strips is compiled too: calls from Python, with all their arguments, took as long as
a third of the weighing. The weighing itself is in `tiles`; which pixels need mending is known
beforehand, from `footprints`.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

from typing import Final

import numpy as np

from stillstack.kernels.compiling import compiled
from stillstack.kernels.footprints import PARTIAL, SHORT, WHOLE
from stillstack.kernels.tiles import (
    GROUP,
    HALF,
    TILE,
    TILE_ROW,
    load_rows,
    put,
    weigh_across,
    weigh_down,
)

ENOUGH: Final = 0.5 - 1e-9
"""Share of valid pixels that makes an output valid.

One half to rounding: weights of 0.3 and 0.7 need not sum to one exactly.
"""


@compiled
def move_frame(pixels, origin, cell, rows, lost, along, footprints, valid, limits, fill, image):
    """Resample a frame a strip of ``rows`` rows at a time; return how many pixels were clipped.

    ``origin`` is the input pixel of the first output's first weight, ``along`` holds the weights
    along y and along x, ``valid`` the invalid runs and the isolated pixels. For the rest see
    `make_strip`.
    """
    (height, width), common = image.shape, along[0][0].size - 1
    source = np.empty(((width + TILE - 1) // TILE, (rows + common) * TILE_ROW), along[0][0].dtype)
    n_clipped = 0
    for y in range(0, height, rows):
        # Each strip keeps from the one before the rows that both need.
        kept = common if y else 0
        load_strip(pixels, origin[0] + y + kept, origin[1], width, valid[0], valid[1], kept, source)
        n_clipped += make_strip(
            source,
            (cell[0] + y, cell[1]),
            lost,
            along[0],
            along[1],
            footprints,
            valid[1],
            limits,
            fill,
            image[y : y + rows],
        )
    return n_clipped


@compiled
def load_strip(pixels, top, left, width, invalid, isolated, start, source):
    """Fill a strip's rows from ``start`` on with the frame from (top, left) on.

    Zero where invalid or outside. Isolated invalid pixels get what their neighbours say they should
    hold: half the sum of the four nearest less a quarter of that of the four diagonal ones. That is
    exact for every sum of a function of y and one of x, and as noisy as an ordinary pixel.

    ``source`` has a line for each tile, of all its rows, TILE_ROW numbers each. The rows before
    ``start`` are taken from the end of the strip before.
    """
    (hole_rows, holes), (dead_rows, dead) = invalid, isolated
    zero, kept = source.dtype.type(0), start * TILE_ROW
    for tile in range(source.shape[0]):
        line = source[tile]
        head, tail = line[:kept], line[line.size - kept :]
        for i in range(kept):
            head[i] = tail[i]
    load_rows(pixels, top, left, width, source, start)
    for y in range(max(top, 0), min(top + source.shape[1] // TILE_ROW - start, pixels.shape[0])):
        if hole_rows[y] == hole_rows[y + 1] and dead_rows[y] == dead_rows[y + 1]:
            continue
        at = (start + y - top) * TILE_ROW
        for tile in range(source.shape[0]):
            into, first = source[tile, at : at + TILE_ROW], left + tile * TILE
            for i in range(hole_rows[y], hole_rows[y + 1]):
                begin, end = max(holes[i, 0] - first, 0), min(holes[i, 1] - first, TILE_ROW)
                if begin < end:
                    into[(begin + 1) // 2 : (end + 1) // 2] = zero
                    into[HALF + begin // 2 : HALF + end // 2] = zero
            for i in range(dead_rows[y], dead_rows[y + 1]):
                x = dead[i] - first
                if 0 <= x < TILE_ROW:
                    value = _stand_in(pixels[y - 1], pixels[y], pixels[y + 1], dead[i])
                    into[(x & 1) * HALF + (x >> 1)] = value


@compiled
def _stand_in(above, row, below, x):
    nearest = np.float64(above[x]) + np.float64(below[x])
    nearest += np.float64(row[x - 1]) + np.float64(row[x + 1])
    diagonal = np.float64(above[x - 1]) + np.float64(above[x + 1])
    diagonal += np.float64(below[x - 1]) + np.float64(below[x + 1])
    return nearest / 2 - diagonal / 4


@compiled
def make_strip(source, cell, lost, along_y, along_x, footprints, dead, limits, fill, image):
    """Weigh, mend and store the rows of a strip; return how many valid pixels were clipped.

    Parameters
    ----------
    source
        What `load_strip` filled.
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
        Rows, spans and corners of `Footprints`.
    dead
        Of the isolated invalid pixels: where each row's begin, and the columns.
    limits
        Lowest and highest value that an image of integers may hold; None for floats.
    fill
        What invalid pixels hold.
    image
        (rows, width), written.
    """
    n_rows, width = image.shape
    down = np.empty(GROUP * TILE_ROW, source.dtype)
    spans, shares = footprints[1], _shares(along_y[3], along_x[3])
    n_clipped = 0
    for group in range(0, n_rows, GROUP):
        for tile in range(source.shape[0]):
            rows, left = source[tile], tile * TILE
            n, first = min(TILE, width - left), cell[1] + left
            weigh_down(rows[group * TILE_ROW :], along_y[0], n, down)
            for y in range(group, min(group + GROUP, n_rows)):
                near = _near(dead, cell[0] + y, lost, first)
                into, done = image[y, left : left + n], 0
                span, last = _spans_of(footprints[0], cell[0] + y)
                while span < last:
                    begin, end = max(spans[span, 0] - first, 0), min(spans[span, 1] - first, n)
                    if begin >= end:
                        span += 1
                        continue
                    into[done:begin] = fill
                    done = end
                    if spans[span, 2] == WHOLE:
                        across = down[(y - group) * TILE_ROW : (y - group + 1) * TILE_ROW]
                        n_clipped += _weigh(
                            across, along_x[0], limits, fill, dead[1], near, begin, into[:end]
                        )
                    elif spans[span, 2] == SHORT:
                        n_clipped += _mend_short(
                            rows,
                            y,
                            along_y,
                            along_x,
                            limits,
                            fill,
                            dead[1],
                            near,
                            begin,
                            into[:end],
                        )
                    else:
                        n_clipped += _mend_partial(
                            rows, y, along_y, along_x, limits, fill, dead[1], near, begin,
                            into[:end], shares, footprints[2],
                            spans[span, 3] + first - spans[span, 0],
                        )  # fmt: skip
                    span += 1
                into[done:] = fill
    return n_clipped


@compiled
def _weigh(across, taps, limits, fill, dead, near, begin, into):
    """Weigh along x from ``begin`` on, but for pixels lost with an isolated invalid one."""
    n_clipped = 0
    for i in range(near[0], near[1]):
        x = dead[i] - near[2]
        if begin <= x < into.size:
            n_clipped += weigh_across(across, taps, limits, begin, into[begin:x])
            into[x] = fill
            begin = x + 1
    return n_clipped + weigh_across(across, taps, limits, begin, into[begin:])


@compiled
def _is_lost(dead, near, x):
    for i in range(near[0], near[1]):  # noqa: SIM110  # compiled: no generators
        if dead[i] - near[2] == x:
            return True
    return False


@compiled
def _mend_short(rows, y, along_y, along_x, limits, fill, dead, near, begin, into):
    """Weigh over the shorter kernel's footprint, from column ``begin`` on."""
    shorter_y, shorter_x = along_y[2], along_x[2]
    p, q, r, s = shorter_x[0], shorter_x[1], shorter_x[2], shorter_x[3]
    top = (y + (along_y[1].size - 1) // 2 - (along_y[4] - 1) // 2) * TILE_ROW
    left = (along_x[1].size - 1) // 2 - (along_x[4] - 1) // 2
    n_clipped = 0
    for x in range(begin, into.size):
        if _is_lost(dead, near, x):
            into[x] = fill
            continue
        # Even columns and odd ones are apart.
        a = top + (left + x & 1) * HALF + (left + x >> 1)
        b = top + (left + x + 1 & 1) * HALF + (left + x + 1 >> 1)
        value = 0.0
        for i in range(4):
            line = p * rows[a] + q * rows[b] + r * rows[a + 1] + s * rows[b + 1]
            value += shorter_y[i] * line
            a += TILE_ROW
            b += TILE_ROW
        n_clipped += put(rows.dtype.type(value), limits, into, x)
    return n_clipped


@compiled
def _mend_partial(
    rows, y, along_y, along_x, limits, fill, dead, near, begin, into, shares, corners, at
):
    """Weigh linearly over the valid ones of the pixels around; ``corners[at + x]`` says which."""
    linear_y, linear_x = along_y[3], along_x[3]
    p, q = linear_x[0], linear_x[1]
    top, left = (y + (along_y[1].size - 1) // 2) * TILE_ROW, (along_x[1].size - 1) // 2
    n_clipped = 0
    for x in range(begin, into.size):
        share = shares[corners[at + x]]
        if share < ENOUGH or _is_lost(dead, near, x):
            into[x] = fill
            continue
        a = top + (left + x & 1) * HALF + (left + x >> 1)
        b = top + (left + x + 1 & 1) * HALF + (left + x + 1 >> 1)
        # What is not valid is zero in a strip.
        value = linear_y[0] * p * rows[a] + linear_y[0] * q * rows[b]
        value += linear_y[1] * p * rows[a + TILE_ROW] + linear_y[1] * q * rows[b + TILE_ROW]
        n_clipped += put(rows.dtype.type(value / share), limits, into, x)
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
        near = _near(dead, cell[0] + y, lost, cell[1])
        for i in range(near[0], near[1]):
            x = dead[1][i] - near[2]
            if 0 <= x < row.size:
                row[x] = False


@compiled
def _spans_of(rows, row):
    """Return the first span of a row of cells and the one after the last."""
    if row < -1 or row >= rows.shape[0] - 1:
        return 0, 0
    return rows[row + 1, 0], rows[row + 1, 1]


@compiled
def _near(dead, row, lost, first):
    """Return which isolated invalid pixels outputs of a row may be lost with.

    The first, the one after the last, and what to take from their columns to get the output's, in
    a row whose first output lies in the cell of column ``first``.
    """
    rows = dead[0]
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
