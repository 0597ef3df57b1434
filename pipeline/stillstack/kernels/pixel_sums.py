"""The loops of `statistics`: a strip of pixels at a time, all images of a block in turn.

A strip's sums stay in the processor's cache. A value that does not count is NaN, which alone is not
equal to itself.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from stillstack.kernels.compiling import compiled, compiled_inner

# Pixels of a strip: sums, counts and squares of so many stay in the cache beside the images' rows.
_STRIP: Final = 512


@compiled
def add_values(
    images: Any,
    scale: Any,
    n: Any,
    mean: Any,
    m2: Any,
    n_out: Any,
    mean_out: Any,
    m2_out: Any,
) -> None:
    """Add images to moments, pixel by pixel; see `statistics.add_images`."""
    n_images, size = images.shape
    near = np.empty(_STRIP)
    count = np.empty(_STRIP)
    total = np.empty(_STRIP)
    squares = np.empty(_STRIP)
    share = np.empty(_STRIP)
    for start in range(0, size, _STRIP):
        length = min(_STRIP, size - start)
        stop = start + length
        count[:], total[:], squares[:] = 0.0, 0.0, 0.0
        unknown = 0
        for j in range(length):
            near[j] = mean[start + j] if n[start + j] > 0 else np.nan
            unknown += 1 if n[start + j] == 0 else 0
        if unknown > 0:
            for i in range(n_images):
                _find_near(images[i, start:stop], scale[i], near)
        for i in range(0, n_images - n_images % 4, 4):
            rows = (
                images[i, start:stop],
                images[i + 1, start:stop],
                images[i + 2, start:stop],
                images[i + 3, start:stop],
            )
            scales = (scale[i], scale[i + 1], scale[i + 2], scale[i + 3])
            _sum_four(rows, scales, near, count, total, squares)
        for i in range(n_images - n_images % 4, n_images):
            _sum_one(images[i, start:stop], scale[i], near, count, total, squares)
        _settle(count[:length], total, squares)
        _merge_strip(
            (n[start:stop], mean[start:stop], m2[start:stop]),
            (count[:length], near, total, squares),
            (n_out[start:stop], mean_out[start:stop], m2_out[start:stop]),
            share,
        )


@compiled_inner
def _find_near(row: Any, factor: Any, near: Any) -> None:
    """Put a pixel's value where no value of it is known yet."""
    for j in range(row.size):
        near[j] = near[j] if near[j] == near[j] else row[j] * factor


@compiled_inner
def _sum_one(row: Any, factor: Any, near: Any, count: Any, total: Any, squares: Any) -> None:
    for j in range(row.size):
        off = row[j] * factor - near[j]
        counts = off == off  # noqa: PLR0124  # not NaN
        off = off if counts else 0.0
        count[j] += 1.0 if counts else 0.0
        total[j] += off
        squares[j] += off * off


@compiled_inner
def _sum_four(rows: Any, scales: Any, near: Any, count: Any, total: Any, squares: Any) -> None:
    """As `_sum_one` for four rows: sums are loaded and stored once for all of them."""
    row_a, row_b, row_c, row_d = rows
    scale_a, scale_b, scale_c, scale_d = scales
    for j in range(row_a.size):
        centre = near[j]
        a, b = row_a[j] * scale_a - centre, row_b[j] * scale_b - centre
        c, d = row_c[j] * scale_c - centre, row_d[j] * scale_d - centre
        n_a, n_b = 1.0 if a == a else 0.0, 1.0 if b == b else 0.0  # noqa: PLR0124
        n_c, n_d = 1.0 if c == c else 0.0, 1.0 if d == d else 0.0  # noqa: PLR0124
        a, b = a if a == a else 0.0, b if b == b else 0.0  # noqa: PLR0124
        c, d = c if c == c else 0.0, d if d == d else 0.0  # noqa: PLR0124
        count[j] += (n_a + n_b) + (n_c + n_d)
        total[j] += (a + b) + (c + d)
        squares[j] += (a * a + b * b) + (c * c + d * d)


@compiled_inner
def _settle(count: Any, total: Any, squares: Any) -> None:
    """From sums to the mean's distance from the value near by, and to M2."""
    for j in range(count.size):
        off = total[j] / (count[j] if count[j] > 0.0 else 1.0)
        within = squares[j] - total[j] * off
        # of equal values rounding may leave less than nothing
        squares[j] = within if within > 0.0 else 0.0
        total[j] = off


@compiled_inner
def _merge_strip(one: Any, other: Any, out: Any, share: Any) -> None:
    """Merge one strip of pixels. Each loop has few arrays: of many none is vectorised."""
    n, mean, m2 = one
    count, near, off, within = other
    n_out, mean_out, m2_out = out
    for j in range(n.size):
        both = n[j] + count[j]
        share[j] = count[j] / (both if both > 0.0 else 1.0)
    for j in range(n.size):
        step = (near[j] - mean[j]) + off[j]
        off[j] = step if count[j] > 0.0 else 0.0
    for j in range(n.size):
        within[j] += off[j] * off[j] * n[j] * share[j]
    for j in range(n.size):
        m2_out[j] = m2[j] + within[j]
    for j in range(n.size):
        mean_out[j] = mean[j] + off[j] * share[j]
    for j in range(n.size):
        n_out[j] = n[j] + np.uint32(count[j])


@compiled
def merge_values(
    n: Any,
    mean: Any,
    m2: Any,
    n_other: Any,
    mean_other: Any,
    m2_other: Any,
    n_out: Any,
    mean_out: Any,
    m2_out: Any,
) -> None:
    """Merge moments, pixel by pixel; see `statistics.merge_moments`."""
    count = np.empty(_STRIP)
    off = np.empty(_STRIP)
    within = np.empty(_STRIP)
    share = np.empty(_STRIP)
    for start in range(0, n.size, _STRIP):
        stop = min(start + _STRIP, n.size)
        length = stop - start
        count[:length] = n_other[start:stop]
        within[:length] = m2_other[start:stop]
        off[:] = 0.0
        _merge_strip(
            (n[start:stop], mean[start:stop], m2[start:stop]),
            (count[:length], mean_other[start:stop], off, within),
            (n_out[start:stop], mean_out[start:stop], m2_out[start:stop]),
            share,
        )


@compiled
def clip_values(images: Any, scale: Any, lower: Any, upper: Any, out: Any) -> None:
    """Write NaN for values that are not within limits; see `statistics.without_outside`."""
    n_images, size = images.shape
    for i in range(n_images):
        factor = scale[i]
        for at in range(size):
            value = images[i, at]
            scaled = value * factor
            inside = lower[at] <= scaled <= upper[at]
            out[i, at] = value if inside else np.nan


@compiled
def sum_shared(image: Any, other: Any, area: Any) -> Any:
    """Sums of two images where both count; see `statistics.shared_sums`."""
    first = second = 0.0
    for at in range(image.size):
        one, two = np.float64(image[at]), np.float64(other[at])
        if area[at] and one == one and two == two:  # noqa: PLR0124
            first += one
            second += two
    return first, second
