"""Images binned by the distance from a centre: each pixel, whole, in the bin of its own middle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sector = tuple[float, float]


def radial_profiles(
    value: Array,
    error: Array,
    weight: Array,
    valid: NDArray[np.bool_],
    *,
    centre: tuple[float, float],
    step_px: float,
    n_bins: int,
    sector: Sector | None,
    correlation: tuple[tuple[float, ...], ...] | None,
) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    """Average, error, mean radius and number of pixels in each bin, for images (..., y, x).

    Parameters
    ----------
    value, error, weight
        Images (..., y, x) that broadcast: values, their standard errors, and weights. Pixels that
        are not finite, or of weight 0, do not count.
    valid
        Pixels (y, x) that may count.
    centre, step_px, n_bins, sector
        Which bin a pixel belongs to.
    correlation
        Of the noise of pixels some lag apart, lag 0 in the middle; None if independent.
    """
    # Made anew in each task: to send it along would cost more.
    radius, inside = _places(valid.shape, centre, sector)
    bins = np.floor(radius / step_px + 0.5).astype(np.int64)
    pairs = None if correlation is None else np.array(correlation)
    leading = np.broadcast_shapes(value.shape, error.shape, weight.shape)[:-2]
    images = [np.broadcast_to(one, leading + valid.shape) for one in (value, error, weight)]
    found = [np.empty((*leading, n_bins)) for _ in range(3)]
    number = np.empty((*leading, n_bins), np.int64)
    for place in np.ndindex(leading):
        one, doubt, counts = (image[place] for image in images)
        counted = valid & inside & np.isfinite(one) & np.isfinite(doubt) & (counts > 0)
        w = np.where(counted, counts, 0.0)
        kept = bins[counted]
        total = np.bincount(kept, w[counted], n_bins)
        scale = np.divide(1.0, total, out=np.full(n_bins, np.nan), where=total > 0)
        noise = np.where(counted, w * doubt, 0.0)
        squares = np.bincount(kept, noise[counted] ** 2, n_bins).astype(np.float64)
        if pairs is not None:
            squares = squares + _shared_noise(noise, bins, n_bins, pairs)
        found[0][place] = np.bincount(kept, w[counted] * one[counted], n_bins) * scale
        found[1][place] = np.sqrt(np.maximum(squares, 0.0)) * scale
        found[2][place] = np.bincount(kept, w[counted] * radius[counted], n_bins) * scale
        number[place] = np.bincount(kept, minlength=n_bins)
    return found[0], found[1], found[2], number


def _places(
    shape: tuple[int, ...], centre: tuple[float, float], sector: Sector | None
) -> tuple[Array, NDArray[np.bool_]]:
    """Distance of each pixel from the centre, and whether it lies in the sector."""
    y, x = np.indices(shape, dtype=np.float64)
    down, across = y - centre[0], x - centre[1]
    if sector is None:
        return np.hypot(down, across), np.ones(shape, bool)
    width = (sector[1] - sector[0]) % 360.0 or 360.0
    angle = np.degrees(np.arctan2(down, across))
    return np.hypot(down, across), (angle - sector[0]) % 360.0 < width


def _shared_noise(noise: Array, bins: NDArray[np.int64], n_bins: int, pairs: Array) -> Array:
    """Sum over different pixels of one bin of the products of their noise and its correlation."""
    reach_y, reach_x = (length // 2 for length in pairs.shape)
    n_y, n_x = noise.shape
    total = np.zeros(n_bins)
    for lag_y in range(reach_y + 1):
        for lag_x in range(-reach_x, reach_x + 1):
            belongs = pairs[reach_y + lag_y, reach_x + lag_x]
            # Each pair is met once; it counts twice.
            if (lag_y == 0 and lag_x <= 0) or abs(belongs) < 1e-3:
                continue
            here = (slice(0, n_y - lag_y), slice(max(0, -lag_x), n_x - max(0, lag_x)))
            there = (slice(lag_y, n_y), slice(max(0, lag_x), n_x - max(0, -lag_x)))
            same = bins[here] == bins[there]
            product = noise[here][same] * noise[there][same]
            total += 2.0 * belongs * np.bincount(bins[here][same], product, n_bins)
    return total
