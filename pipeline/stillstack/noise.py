"""Counts per detected electron or photon, estimated from the noise of single frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_TILE: Final = 16
_MIN_TILES: Final = 32
# Third difference along y and along x, (1, -3, 3, -1): what varies slowly along either axis
# cancels. Of white noise it makes 20 x 20 times the variance.
_STENCIL_POWER: Final = 400.0
# Median over mean of a chi-square variable (Wilson and Hilferty): the stencil's squares in a tile
# are worth 256 / 5.34 independent ones, 5.34 being the sum of its squared autocorrelations.
_MEDIAN_OVER_MEAN: Final = (1 - 2 / (9 * _TILE**2 / 5.34)) ** 3


def estimate_gain(
    frames: Iterable[NDArray[Any]], valid: NDArray[np.bool_], *, read_noise: float = 0.0
) -> float | None:
    """Gain, the noise's variance over its mean, or None where it cannot be told.

    The gain is the counts that one detected electron or photon makes. In each frame the mixed
    third difference ``D_y^3 D_x^3`` removes the pattern and keeps the noise. Tiles of 16 x 16
    valid pixels each give a variance and a mean; the median over tiles of
    ``(variance - read_noise^2) / mean`` is not moved by a minority of tiles with sharp edges or
    struck pixels. Noise that is correlated between neighbours, or a pedestal that has not been
    subtracted, shows as a smaller gain: what is found is the noise that single pixels have.

    Parameters
    ----------
    frames
        Raw frames (y, x), each used on its own.
    valid
        (y, x), True where a pixel counts.
    read_noise
        Noise of a dark pixel, counts rms.

    Examples
    --------
    >>> counts = np.random.default_rng(1).poisson(30, (128, 128))
    >>> round(estimate_gain([counts * 40], np.ones((128, 128), bool)) / 40, 1)
    1.0
    """
    means, variances = _tile_moments(frames, valid)
    bright = means > 0
    ratios = (variances[bright] - read_noise**2) / means[bright]
    if ratios.size < _MIN_TILES:
        return None
    gain = float(np.median(ratios)) / _MEDIAN_OVER_MEAN
    return gain if gain > 0 else None


def noise_near_zero(frames: Iterable[NDArray[Any]], valid: NDArray[np.bool_]) -> float | None:
    """Noise of single pixels where their mean is nearest to zero, or None where it cannot be told.

    Of frames whose dark has been subtracted this is the read noise.

    Parameters
    ----------
    frames, valid
        As in :func:`estimate_gain`.

    Examples
    --------
    >>> dark = np.random.default_rng(1).normal(0, 3, (128, 128))
    >>> round(noise_near_zero([dark], np.ones((128, 128), bool)))
    3
    """
    means, variances = _tile_moments(frames, valid)
    if means.size < _MIN_TILES:
        return None
    nearest = np.argsort(np.abs(means), kind="stable")[: max(_MIN_TILES, means.size // 10)]
    return float(np.sqrt(np.median(variances[nearest]) / _MEDIAN_OVER_MEAN))


def _whole_tiles(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tiles of which every pixel has a valid neighbourhood."""
    whole = np.ones((valid.shape[0] - 3, valid.shape[1] - 3), bool)
    for dy in range(4):
        for dx in range(4):
            whole &= valid[dy : dy + whole.shape[0], dx : dx + whole.shape[1]]
    return np.asarray(_tiles(whole).all(axis=(1, 3)), bool)


def _tile_moments(
    frames: Iterable[NDArray[Any]], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of all frames' usable tiles, and the variances of their noise."""
    usable, means, variances = _whole_tiles(valid), [np.empty(0)], [np.empty(0)]
    for frame in frames:
        values = frame.astype(np.float32)
        rough = np.diff(np.diff(values, n=3, axis=0), n=3, axis=1)
        variance = np.square(_tiles(rough), dtype=np.float64).mean(axis=(1, 3)) / _STENCIL_POWER
        mean = _tiles(values[1:-2, 1:-2]).mean(axis=(1, 3), dtype=np.float64)
        known = usable & np.isfinite(variance) & np.isfinite(mean)
        means.append(mean[known])
        variances.append(variance[known])
    return np.concatenate(means), np.concatenate(variances)


def _tiles(image: NDArray[Any]) -> NDArray[Any]:
    """View of an image as (tile row, y, tile column, x), the incomplete tiles left out."""
    rows, columns = image.shape[0] // _TILE, image.shape[1] // _TILE
    cut = image[: rows * _TILE, : columns * _TILE]
    return cut.reshape(rows, _TILE, columns, _TILE)
