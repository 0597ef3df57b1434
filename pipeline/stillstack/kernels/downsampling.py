"""Images of half the size, and half of that: means over the valid pixels of each bin.

Sums and counts are carried from level to level, not means, so that every pixel of the frame weighs
the same in each, and a whole number is rounded once.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, locked

SMALLEST_LEVEL: Final = 256
"""Pixels to a side from where on an image is not made smaller: a thumbnail's worth."""

# Rows of an image whose sums stay in the processor's cache.
_BAND_ROWS: Final = 64


def level_shapes(shape: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Shapes (y, x) of the smaller images of a frame, each half of the one before, rounded up.

    The last is the first that has no side longer than 256 pixels.

    Examples
    --------
    >>> level_shapes((2048, 1030))
    ((1024, 515), (512, 258), (256, 129))
    >>> level_shapes((256, 256))
    ()
    """
    shapes = []
    while max(shape) > SMALLEST_LEVEL:
        shape = (-(-shape[0] // 2), -(-shape[1] // 2))
        shapes.append(shape)
    return tuple(shapes)


def downsample(images: NDArray[Any], n_levels: int, fill: float) -> list[NDArray[Any]]:
    """Images of each smaller level, of the images' dtype.

    A pixel of level k is the mean over the valid ones of 2**k x 2**k pixels of the image, where
    these are half or more of those that lie in it; else it is ``fill``. Whole numbers are rounded,
    halves up.

    Parameters
    ----------
    images
        (frame, y, x), real numbers; not modified.
    n_levels
        How many smaller images are made of each.
    fill
        The value of invalid pixels; NaN is one whatever it is.

    Returns
    -------
    list of ndarray (frame, y, x), one for each level; a side is half of the one before, rounded up.

    Examples
    --------
    >>> image = np.array([[[1, 2, 9, 9], [3, 9, 9, 4], [5, 5, 5, 5], [5, 5, 5, 5]]], "uint16")
    >>> half, quarter = downsample(image, 2, fill=9)
    >>> half.tolist(), quarter.tolist()
    ([[[2, 9], [5, 5]]], [[[4]]])
    """
    dtype = images.dtype
    length, height, width = images.shape
    sides = [2**level for level in range(1, n_levels + 1)]
    levels = [np.empty((length, -(-height // s), -(-width // s)), dtype) for s in sides]
    band = max(_BAND_ROWS, 2**n_levels)
    totals = [np.empty((band // s, -(-width // s)), np.float64) for s in sides]
    counts = [np.empty((band // s, -(-width // s)), np.float32) for s in sides]
    nothing, whole = dtype.type(fill), dtype.kind != "f"
    for number, image in enumerate(locked(images)):
        for first in range(0, height, band):
            rows = image[first : first + band]
            for k, (side, level) in enumerate(zip(sides, levels, strict=True)):
                out = level[number, first // side :][: band // side]
                total, count = totals[k][: len(out)], counts[k][: len(out)]
                if k == 0:
                    _halve_image(rows, nothing, total, count)
                else:
                    n_before = -(-len(rows) // sides[k - 1])
                    before = totals[k - 1][:n_before], counts[k - 1][:n_before]
                    _halve_sums(*before, total, count)
                _means(total, count, rows.shape, side, nothing, whole, out)
    return levels


@compiled
def _halve_image(image, fill, total, count):  # type: ignore[no-untyped-def]
    """Sums over the valid pixels of bins of two by two, and how many these are."""
    height, width = image.shape
    one, none = np.float32(1.0), np.float32(0.0)
    for j in range(total.shape[0]):
        out, n = total[j], count[j]
        for k in range(min(2, height - 2 * j)):
            row = image[2 * j + k]
            for i in range(width // 2):
                left, right = row[2 * i], row[2 * i + 1]
                use_left = (left != fill) & (not np.isnan(left))
                use_right = (right != fill) & (not np.isnan(right))
                add = np.float64(left) if use_left else 0.0
                add += np.float64(right) if use_right else 0.0
                found = (one if use_left else none) + (one if use_right else none)
                out[i] = add if k == 0 else out[i] + add
                n[i] = found if k == 0 else n[i] + found
            if width % 2:
                last = row[width - 1]
                use = (last != fill) & (not np.isnan(last))
                add, found = np.float64(last) if use else 0.0, one if use else none
                out[width // 2] = add if k == 0 else out[width // 2] + add
                n[width // 2] = found if k == 0 else n[width // 2] + found


@compiled
def _halve_sums(total, count, half, n_half):  # type: ignore[no-untyped-def]
    """Sums over two by two sums, and over their counts."""
    height, width = total.shape
    for j in range(half.shape[0]):
        out, n = half[j], n_half[j]
        for k in range(min(2, height - 2 * j)):
            row, found = total[2 * j + k], count[2 * j + k]
            for i in range(width // 2):
                add, more = row[2 * i] + row[2 * i + 1], found[2 * i] + found[2 * i + 1]
                out[i] = add if k == 0 else out[i] + add
                n[i] = more if k == 0 else n[i] + more
            if width % 2:
                add, more = row[width - 1], found[width - 1]
                out[width // 2] = add if k == 0 else out[width // 2] + add
                n[width // 2] = more if k == 0 else n[width // 2] + more


@compiled
def _means(total, count, shape, step, fill, whole, out):  # type: ignore[no-untyped-def]
    """Means where half or more of a bin's pixels are valid; rounded to whole numbers."""
    height, width = shape
    half = 0.5 if whole else 0.0
    for j in range(out.shape[0]):
        rows = min(step, height - j * step)
        row, n, into = total[j], count[j], out[j]
        enough = np.float32(0.5 * rows * step)
        for i in range(width // step):
            mean = row[i] / n[i] + half
            good = n[i] >= enough
            into[i] = (np.floor(mean) if whole else mean) if good else fill
        if width % step:
            i = width // step
            good = n[i] >= 0.5 * rows * (width % step)
            mean = row[i] / n[i] + half
            into[i] = (np.floor(mean) if whole else mean) if good else fill
