"""Compiled loops over a strip of rows: load, interpolate, mend, store.

They run over one-dimensional slices taken beforehand: an index that is a sum keeps the compiler
from using vector instructions, at four times the cost. Flags are bytes, 1 where a pixel counts.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

from typing import Final

import numpy as np

from stillstack.kernels.compiling import compiled

# Pixels whose flags are tested together before any is looked at.
_STRETCH: Final = 64


@compiled
def isolated_pixels(usable):
    """Return (y, x) of the invalid pixels whose eight neighbours are all valid."""
    height, width = usable.shape
    # No two of them touch, so a quarter of the pixels is room enough; what is not used costs none.
    found = np.empty((2, ((height + 1) // 2) * ((width + 1) // 2)), np.int64)
    n = 0
    for y in range(1, height - 1):
        row, above, below = usable[y], usable[y - 1], usable[y + 1]
        for start in range(0, width, _STRETCH):
            if _all_set(row[start : start + _STRETCH]):
                continue
            for x in range(max(start, 1), min(start + _STRETCH, width - 1)):
                if row[x] or not (row[x - 1] and row[x + 1]):
                    continue
                over = above[x - 1] and above[x] and above[x + 1]
                if over and below[x - 1] and below[x] and below[x + 1]:
                    found[0, n], found[1, n] = y, x
                    n += 1
    return found[:, :n].copy()


@compiled
def load_strip(pixels, usable, top, left, source, flags):
    """Fill a strip with the frame from (top, left) on; zero and unset where invalid or outside.

    Returns the first column of the strip that lies in the frame, and the one after the last.
    """
    height, width = pixels.shape
    start = min(max(-left, 0), source.shape[1])
    stop = max(min(width - left, source.shape[1]), start)
    zero = source.dtype.type(0)
    for r in range(source.shape[0]):
        into, flag, y = source[r], flags[r], top + r
        if y < 0 or y >= height:
            into[:] = zero
            flag[:] = 0
            continue
        into[:start] = zero
        into[stop:] = zero
        flag[:start] = 0
        flag[stop:] = 0
        if stop > start:
            row = pixels[y, left + start : left + stop]
            good = usable[min(y, usable.shape[0] - 1), left + start : left + stop]
            into, flag = into[start:stop], flag[start:stop]
            if _all_set(good):
                flag[:] = 1
                for x in range(stop - start):
                    into[x] = source.dtype.type(row[x])
            else:
                for x in range(stop - start):
                    into[x] = source.dtype.type(row[x]) if good[x] else zero
                for x in range(stop - start):
                    flag[x] = good[x]
    return start, stop


@compiled
def patch_strip(dead, stand_in, top, left, source, flags):
    """Put the stand-ins of isolated pixels into a strip."""
    rows, columns = source.shape
    for i in range(stand_in.size):
        y, x = dead[0, i] - top, dead[1, i] - left
        if 0 <= y < rows and 0 <= x < columns:
            source[y, x] = stand_in[i]
            flags[y, x] = 1


@compiled
def uncover(lost, top, left, covered):
    """Unset the flags of output pixels that are more than half an invalid pixel."""
    rows, width = covered.shape
    for i in range(lost.shape[1]):
        y, x = lost[0, i] - top, lost[1, i] - left
        if 0 <= y < rows and 0 <= x < width:
            covered[y, x] = 0


@compiled
def interpolate_strip(source, flags, inside, along_y, along_x, values, covered):
    """Make the values and flags of a strip's output pixels.

    ``inside`` holds the first column of the source that lies in the frame and the one after the
    last. ``along_y`` and ``along_x`` hold four lists of weights: the kernel's in the working
    precision and padded with zeros to four or eight, the same as they are, the shorter kernel's,
    the linear ones.
    """
    n_y, n_x = along_y[1].size, along_x[1].size
    rows, width = values.shape
    if n_y == 1 and n_x == 1:
        for y in range(rows):
            for x in range(width):
                values[y, x] = source[y, x]
    else:
        _weigh(source, along_y[0], along_x[0], values)
    covered[:] = 1
    used = flags[0, : rows + n_y - 1]
    first, last = _span_of_invalid(used, inside[0], inside[1])
    if last > first:
        start, stop = max(first - n_x + 1, 0), min(last, width)
        if stop > start:
            _cover(flags, n_y, n_x, start, stop, covered)
            _mend(source, flags[0], along_y, along_x, start, stop, values, covered)
    # All that reaches beyond the frame to the left or to the right.
    for start, stop in ((0, min(inside[0], width)), (max(inside[1] - n_x + 1, 0), width)):
        if stop > start:
            covered[:, start:stop] = 0
            _mend(source, flags[0], along_y, along_x, start, stop, values, covered)


@compiled
def _span_of_invalid(flags, start, stop):
    """Return the first column with an unset flag and the one after the last, or twice ``stop``."""
    first, last = stop, start
    for r in range(flags.shape[0]):
        # Whole stretches are tested with vector instructions, then one row pixel by pixel.
        if not _all_set(flags[r, start:first]):
            first = start
            while flags[r, first]:
                first += 1
        if not _all_set(flags[r, max(last, first) : stop]):
            last = stop
            while not last <= first and flags[r, last - 1]:
                last -= 1
    return first, max(first, last)


@compiled
def _all_set(row):
    every = np.uint8(1)
    for x in range(row.size):
        every &= row[x]
    return every == 1


@compiled
def _weigh(source, taps_y, taps_x, values):
    """Weight along y, then along x. The taps are four or eight; zeros fill up shorter kernels."""
    rows, width = values.shape
    reach = width + taps_x.size - 1
    down = np.empty(reach, source.dtype)
    for y in range(rows):
        # A row's number and a range of columns: known to be contiguous.
        a, b, c, d = source[y, :reach], source[y + 1], source[y + 2], source[y + 3]
        if taps_y.size == 4:
            _weigh_four(a, b, c, d, taps_y, down)
        else:
            e, f, g, h = source[y + 4], source[y + 5], source[y + 6], source[y + 7]
            _weigh_eight(a, b, c, d, e, f, g, h, taps_y, down)
        a, b, c, d = down[:width], down[1:], down[2:], down[3:]
        if taps_x.size == 4:
            _weigh_four(a, b, c, d, taps_x, values[y])
        else:
            _weigh_eight(a, b, c, d, down[4:], down[5:], down[6:], down[7:], taps_x, values[y])


@compiled
def _weigh_four(a, b, c, d, taps, into):
    p, q, r, s = taps[0], taps[1], taps[2], taps[3]
    for x in range(a.size):
        into[x] = p * a[x] + q * b[x] + r * c[x] + s * d[x]


@compiled
def _weigh_eight(a, b, c, d, e, f, g, h, taps, into):
    p, q, r, s = taps[0], taps[1], taps[2], taps[3]
    t, u, v, w = taps[4], taps[5], taps[6], taps[7]
    for x in range(a.size):
        upper = p * a[x] + q * b[x] + r * c[x] + s * d[x]
        into[x] = upper + (t * e[x] + u * f[x] + v * g[x] + w * h[x])


@compiled
def _cover(flags, n_y, n_x, start, stop, covered):
    """Tell which output columns from start to stop have a footprint of n_y by n_x set flags.

    ``flags[1]`` and ``flags[2]`` are scratch. Lengths of four, six and eight take two steps: four
    flags at once, then two of those, which overlap where the length is six.
    """
    rows, width = covered.shape[0], stop - start
    across, fours = flags[1], flags[2]
    step = n_x - 4 if n_x >= 4 else n_x - 1
    for r in range(rows + n_y - 1):
        line = flags[0, r, start:]
        if n_x >= 4:
            _all_four(line, line[1:], line[2:], line[3:], fours[r, : width + step])
            _both(fours[r], fours[r, step:], across[r, :width])
        else:
            _both(line, line[step:], across[r, :width])
    step = n_y - 4 if n_y >= 4 else n_y - 1
    if n_y >= 4:
        for r in range(rows + step):
            _all_four(across[r], across[r + 1], across[r + 2], across[r + 3], fours[r, :width])
    whole = fours if n_y >= 4 else across
    for y in range(rows):
        _both(whole[y], whole[y + step], covered[y, start:stop])


@compiled
def _all_four(a, b, c, d, into):
    for x in range(into.size):
        into[x] = a[x] & b[x] & c[x] & d[x]


@compiled
def _both(a, b, into):
    for x in range(into.size):
        into[x] = a[x] & b[x]


@compiled
def _mend(source, good, along_y, along_x, start, stop, values, covered):
    """Do again, by shorter kernels, the output pixels whose footprint is not all valid."""
    base_y, base_x = (along_y[1].size - 1) // 2, (along_x[1].size - 1) // 2
    shorter_y, shorter_x, linear_y, linear_x = along_y[2], along_x[2], along_y[3], along_x[3]
    back_y, back_x = base_y - (shorter_y.size - 1) // 2, base_x - (shorter_x.size - 1) // 2
    next_y, next_x = linear_y.size - 1, linear_x.size - 1
    for y in range(values.shape[0]):
        row, upper, lower = covered[y], good[y + base_y], good[y + base_y + next_y]
        for part in range(start, stop, _STRETCH):
            end = min(part + _STRETCH, stop)
            if _all_set(row[part:end]):
                continue
            for x in range(part, end):
                at, to = x + base_x, x + base_x + next_x
                if row[x] or not (upper[at] or upper[to] or lower[at] or lower[to]):
                    continue
                top, left = y + back_y, x + back_x
                if _all_valid(good, top, left, shorter_y.size, shorter_x.size):
                    values[y, x] = _over_all(source, top, left, shorter_y, shorter_x)
                    row[x] = 1
                    continue
                value, share = _over_valid(source, good, y + base_y, at, linear_y, linear_x)
                # One half to rounding: weights of 0.3 and 0.7 need not sum to one exactly.
                if share >= 0.5 - 1e-9:
                    values[y, x] = value / share
                    row[x] = 1


@compiled
def _over_all(source, top, left, weights_y, weights_x):
    """Return the weighted sum over a footprint."""
    value = 0.0
    for i in range(weights_y.size):
        line = 0.0
        for j in range(weights_x.size):
            line += weights_x[j] * source[top + i, left + j]
        value += weights_y[i] * line
    return value


@compiled
def _over_valid(source, good, top, left, weights_y, weights_x):
    """Return the weighted sum over the valid pixels of a footprint, and the weights' sum."""
    value, share = 0.0, 0.0
    for i in range(weights_y.size):
        for j in range(weights_x.size):
            if good[top + i, left + j]:
                weight = weights_y[i] * weights_x[j]
                value += weight * source[top + i, left + j]
                share += weight
    return value, share


@compiled
def _all_valid(good, top, left, rows, columns):
    for i in range(rows):
        for j in range(columns):
            if not good[top + i, left + j]:
                return False
    return True


@compiled
def store_integers(values, covered, low, high, fill, image, valid):
    """Round and clip into the image; return how many valid pixels were clipped."""
    n_clipped = 0
    for y in range(values.shape[0]):
        row, flag, into, sound = values[y], covered[y], image[y], valid[y]
        clipped = np.int32(0)
        for x in range(row.size):
            value = np.rint(row[x])
            # Written so that a NaN, which only overflow can make, is clipped too.
            kept = min(value, high) if value >= low else low
            clipped += np.int32((kept != value) & (flag[x] != 0))
            into[x] = image.dtype.type(kept) if flag[x] else fill
        for x in range(row.size):
            sound[x] = flag[x] != 0
        n_clipped += clipped
    return n_clipped


@compiled
def store_floats(values, covered, fill, image, valid):
    """Copy into the image, with the fill value where a flag is not set."""
    for y in range(values.shape[0]):
        row, flag, into, sound = values[y], covered[y], image[y], valid[y]
        for x in range(row.size):
            into[x] = image.dtype.type(row[x]) if flag[x] else fill
        for x in range(row.size):
            sound[x] = flag[x] != 0
