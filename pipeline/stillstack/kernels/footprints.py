"""Where a kernel's footprint holds valid pixels alone: found once for a static ``valid``.

An output pixel lies in a *cell*, the square between the input pixel (y, x) and the next ones. For
which cells the whole kernel may be used, for which the shorter one, and which have but some valid
corners depends on the valid pixels and the kernels' lengths, not on the frame and not on the shift:
a shift moves cells to output pixels. So each row of cells has a short list of spans, found once.
What lies beyond the frame is invalid, hence the frame's border needs no special case.
"""

# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, locked

__all__ = ["PARTIAL", "SHORT", "WHOLE", "Footprints", "ValidPixels"]

# What a span's cells are good for; cells in no span have no valid corner.
WHOLE: Final = 1
"""The whole kernel's footprint is valid."""
SHORT: Final = 2
"""That of the shorter kernel is."""
PARTIAL: Final = 3
"""Some of the four pixels around are."""

# Pixels whose flags are tested together before any is looked at.
_STRETCH: Final = 64
# Room at both ends of a row of flags, so that footprints may reach beyond the frame.
_MARGIN: Final = 8


@dataclass(frozen=True, eq=False)
class Footprints:
    """Spans of cells for kernels of one length along y and one along x.

    Parameters
    ----------
    rows
        (height + 1, 2) int64: the first span of the cells whose upper pixel is y - 1, and the one
        after the last. Many rows share their spans.
    spans
        (n, 4) int32, ascending in a row: first column, the one after the last, what the cells are
        good for, and where in ``corners`` those that are partly valid begin.
    corners
        uint8: of partly valid cells, one bit for each pixel that is valid, rows first.
    """

    rows: NDArray[np.int64]
    spans: NDArray[np.int32]
    corners: NDArray[np.uint8]

    @property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        """Rows, spans and corners, as compiled functions take them."""
        return self.rows, self.spans, self.corners


class ValidPixels:
    """Valid pixels of a frame, and what interpolation needs to know of them, found when needed.

    Frozen but for what it remembers. Make one for all frames with the same valid pixels.

    Parameters
    ----------
    valid
        (y, x) bool, True where a pixel counts; None means everywhere.
    shape
        Of the frames, (y, x).

    Attributes
    ----------
    isolated
        Invalid pixels with eight valid neighbours, which stand in for them: where each row's begin,
        and their columns, row after row.
    runs
        The other invalid pixels: where each row's runs begin, and the runs (first column, the one
        after the last), row after row.

    Raises
    ------
    ValueError
        If ``valid`` is not bool or not of that shape.
    """

    def __init__(self, valid: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> None:
        # One row stands for all where all are set.
        flags = np.ones((1, shape[1]), np.bool_)
        if valid is not None:
            flags = np.asarray(valid)
            if flags.dtype != np.bool_ or flags.shape != shape:
                raise ValueError(
                    f"valid is {flags.dtype} of shape {flags.shape}, not bool of {shape}"
                )
        self.shape = shape
        self.valid = None if valid is None else flags
        bytes_ = np.ascontiguousarray(flags).view(np.uint8)
        dead = isolated_pixels(locked(bytes_))
        if dead.size:
            bytes_ = bytes_.copy()
            bytes_[dead[0], dead[1]] = 1
        self._usable = locked(bytes_)
        starts = np.searchsorted(dead[0], np.arange(shape[0] + 1))
        self.isolated = locked(starts), locked(dead[1].astype(np.int32))
        rows, runs = invalid_runs(self._usable, shape[0])
        self.runs = locked(rows), locked(runs)
        self._found: dict[tuple[int, int], Footprints] = {}

    def footprints(self, n_y: int, n_x: int) -> Footprints:
        """Return the spans of cells for kernels of this many weights (1, 2, 4, 6 or 8)."""
        found = self._found.get((n_y, n_x))
        if found is None:
            arrays = find_spans(self._usable, self.runs[0], n_y, n_x)
            found = self._found[n_y, n_x] = Footprints(*(locked(array) for array in arrays))
        return found


@compiled
def isolated_pixels(usable):
    """Return (y, x) of the invalid pixels whose eight neighbours are all valid, row after row."""
    height, width = usable.shape
    # No two of them touch, so a quarter of the pixels is room enough; what is not used costs none.
    found = np.empty((2, ((height + 1) // 2) * ((width + 1) // 2)), np.int64)
    n = 0
    for y in range(1, height - 1):
        row, above, below = usable[y], usable[y - 1], usable[y + 1]
        for start in range(0, width, _STRETCH):
            # Neither where all are valid nor where none is.
            if _all_equal(row[start : start + _STRETCH]):
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
def invalid_runs(usable, height):
    """Return where each row's runs of unset flags begin, and (first, the one after the last)."""
    rows = np.zeros(height + 1, np.int64)
    width = usable.shape[1]
    found = np.empty((256, 2), np.int32)
    n = 0
    for y in range(min(height, usable.shape[0])):
        rows[y] = n
        row = usable[y]
        # A row has at most one run for every two pixels.
        found = _with_room(found, n + width // 2 + 1)
        x = 0
        while x < width:
            end = _end_of_run(row, x)
            if not row[x]:
                found[n, 0], found[n, 1] = x, end
                n += 1
            x = end
    rows[min(height, usable.shape[0]) :] = n
    return rows, found[:n].copy()


@compiled
def find_spans(usable, hole_rows, n_y, n_x):
    """Return the rows, spans and corners of `Footprints`."""
    height, width = hole_rows.size - 1, usable.shape[1]
    rows = np.zeros((height + 1, 2), np.int64)
    spans, corners = np.empty((256, 4), np.int32), np.empty(4 * (height + width), np.uint8)
    n, n_corners, plain = 0, 0, -1
    # Columns with all of the rows valid: for the kernel, the shorter one, each of the two rows.
    columns = np.zeros((4, width + 2 * _MARGIN), np.uint8)
    fours = np.zeros(width + 2 * _MARGIN, np.uint8)
    whole, short, bits, kinds = np.zeros((4, width + 1), np.uint8)
    for k in range(height + 1):
        y = k - 1
        top = y - (n_y - 1) // 2
        is_plain = top >= 0 and top + n_y <= height and hole_rows[top] == hole_rows[top + n_y]
        if is_plain and plain >= 0:
            rows[k] = rows[plain]
            continue
        if n_y == 1 and y < 0:
            continue
        _down(usable, height, top, n_y, columns[0, _MARGIN:-_MARGIN])
        _down(usable, height, y - (min(n_y, 4) - 1) // 2, min(n_y, 4), columns[1, _MARGIN:-_MARGIN])
        _down(usable, height, y, 1, columns[2, _MARGIN:-_MARGIN])
        _down(usable, height, y + 1, min(n_y, 2) - 1, columns[3, _MARGIN:-_MARGIN])
        _across(columns[0], n_x, fours, whole)
        _across(columns[1], min(n_x, 4), fours, short)
        upper, lower = columns[2, _MARGIN - 1 :], columns[3, _MARGIN - 1 :]
        _corners(upper, lower, upper[1:], lower[1:], n_x, bits)
        _kinds(whole, short, bits, kinds)
        spans = _with_room(spans, n + width + 1)
        rows[k, 0] = n
        x = 0
        while x <= width:
            end = _end_of_run(kinds, x)
            kind = kinds[x]
            if kind != 0:
                spans[n, 0], spans[n, 1], spans[n, 2], spans[n, 3] = x - 1, end - 1, kind, n_corners
                n += 1
            if kind == PARTIAL:
                corners = _with_room(corners, n_corners + end - x)
                corners[n_corners : n_corners + end - x] = bits[x:end]
                n_corners += end - x
            x = end
        rows[k, 1] = n
        if is_plain:
            plain = k
    return rows, spans[:n].copy(), corners[:n_corners].copy()


@compiled
def _with_room(array, n):
    """Return the array, or a longer copy where it holds fewer than ``n`` rows."""
    if array.shape[0] >= n:
        return array
    longer = np.empty((2 * n, *array.shape[1:]), array.dtype)
    longer[: array.shape[0]] = array
    return longer


@compiled
def _all_equal(row):
    every, some = np.uint8(255), np.uint8(0)
    for x in range(row.size):
        every &= row[x]
        some |= row[x]
    return every == some


@compiled
def _end_of_run(row, x):
    """Return the first place after ``x`` that holds something else, or the row's length."""
    value = row[x]
    while x < row.size:
        # Whole stretches are tested with vector instructions, then one pixel by pixel.
        stretch = row[x : x + _STRETCH]
        if stretch[0] == value and _all_equal(stretch):
            x += stretch.size
            continue
        while x < row.size and row[x] == value:
            x += 1
        break
    return x


@compiled
def _down(usable, height, top, n, into):
    """Tell which columns are valid in all of ``n`` rows from ``top`` on; of no row, none is."""
    if n == 0 or top < 0 or top + n > height:
        into[:] = 0
        return
    into[:] = usable[min(top, usable.shape[0] - 1)]
    for y in range(top + 1, top + n):
        row = usable[min(y, usable.shape[0] - 1)]
        for x in range(into.size):
            into[x] &= row[x]


@compiled
def _across(line, n, fours, into):
    """Tell which cells have all of ``n`` columns set. ``fours`` is scratch.

    Four, six and eight take two steps: four at once, then two of those, which may overlap.
    """
    first = _MARGIN - 1 - (n - 1) // 2
    if n >= 4:
        _all_four(line, line[1:], line[2:], line[3:], fours[: line.size - 3])
        _both(fours[first:], fours[first + n - 4 :], into)
    else:
        _both(line[first:], line[first + n - 1 :], into)


@compiled
def _all_four(a, b, c, d, into):
    for x in range(into.size):
        into[x] = a[x] & b[x] & c[x] & d[x]


@compiled
def _both(a, b, into):
    for x in range(into.size):
        into[x] = a[x] & b[x]


@compiled
def _corners(a, b, c, d, n_x, bits):
    """Gather the four corners' flags: upper left, upper right, lower left, lower right."""
    # A kernel of one weight has no right corners.
    right = np.uint8(n_x > 1)
    for x in range(bits.size):
        right_ones = (c[x] << 1 | d[x] << 3) * right
        bits[x] = a[x] | b[x] << 2 | right_ones


@compiled
def _kinds(whole, short, bits, kinds):
    for x in range(kinds.size):
        partial = PARTIAL if bits[x] else 0
        kinds[x] = WHOLE if whole[x] else (SHORT if short[x] else partial)
