"""Fourier ring correlation: down to which size two independent halves of a run agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stillstack.physics.windows import AnyImage, Image, Valid, common_area, filled, soft_window

ONE_SEVENTH: Final = 1.0 / 7.0
# The window rises over this part of the smaller side.
_RISE_SHARE: Final = 1.0 / 12.0
_SMOOTHED_RINGS: Final = 3


@dataclass(frozen=True, eq=False)
class RingCorrelation:
    """Correlation of two images against spatial frequency.

    Parameters
    ----------
    frequency
        (ring,) middle of each ring, cycles per pixel, up to 0.5.
    correlation
        (ring,) of the two images' Fourier coefficients in the ring, -1 to 1.
    half_bit
        (ring,) what it is where each image holds half a bit of information per coefficient.
    resolution_half_bit_px, resolution_one_seventh_px
        Period, px, at which the correlation, once it is above half a bit, first falls below half a
        bit or 1/7; 2 (the smallest there is) where it does not, inf where it is never above.
    """

    frequency: NDArray[np.float64] = field(repr=False)
    correlation: NDArray[np.float64] = field(repr=False)
    half_bit: NDArray[np.float64] = field(repr=False)
    resolution_half_bit_px: float
    resolution_one_seventh_px: float


def ring_correlation(one: AnyImage, other: AnyImage, valid: Valid | None = None) -> RingCorrelation:
    """Fourier ring correlation of two images that share the scene but no noise.

    Parameters
    ----------
    one, other
        Images (y, x), such as the means of odd and of even frames; NaN where nothing counted.
    valid
        Valid pixels, in addition to being finite in both.

    Returns
    -------
    RingCorrelation

    Raises
    ------
    InputError
        If shapes differ or hardly any pixel is common.

    Notes
    -----
    The common valid area ends softly over a twelfth of the smaller side, and the mean over it is
    subtracted, lest the edge of a beam-block, which is the same in both, correlate at every
    frequency. Half a bit: M. van Heel and M. Schatz, J. Struct. Biol. 151, 250 (2005),
    doi:10.1016/j.jsb.2005.05.009, with the number of independent coefficients reduced by what the
    window leaves; 1/7: P. Rosenthal and R. Henderson, J. Mol. Biol. 333, 721 (2003),
    doi:10.1016/j.jmb.2003.07.013. The curve is smoothed over three rings before it is compared.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scene = rng.normal(size=(64, 64)).cumsum(axis=0).cumsum(axis=1)
    >>> same = ring_correlation(scene, scene)
    >>> same.resolution_half_bit_px
    2.0
    """
    area = common_area(one, other, valid=valid)
    window = soft_window(area, max(2.0, _RISE_SHARE * min(area.shape)))
    first, second = (_transform(image, area, window) for image in (one, other))
    ring, weight, n_rings = _rings(area.shape)
    sums = [
        np.bincount(ring, (weight * values).ravel(), n_rings + 1)[:n_rings]
        for values in (
            (first * second.conj()).real,
            np.abs(first) ** 2,
            np.abs(second) ** 2,
            np.ones(first.shape),
        )
    ]
    power = np.sqrt(sums[1] * sums[2])
    correlation = np.divide(sums[0], power, out=np.zeros(n_rings), where=power > 0)[1:]
    # Opposite coefficients are conjugate; the window ties neighbours together.
    independent = sums[3][1:] / 2.0 * (window**2).sum() ** 2 / (window**4).sum() / window.size
    root = np.sqrt(np.maximum(independent, 1.0))
    half_bit = np.minimum((0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root), 1.0)
    frequency = np.arange(1, n_rings) / min(area.shape)
    smooth = _smoothed(correlation)
    # A lattice has no power in the lowest rings: they say nothing of the higher ones.
    agree = np.flatnonzero(smooth > half_bit)
    first_ring = int(agree[0]) if agree.size else None
    return RingCorrelation(
        frequency,
        correlation,
        half_bit,
        _resolution(frequency, smooth, half_bit, first_ring),
        _resolution(frequency, smooth, np.full(n_rings - 1, ONE_SEVENTH), first_ring),
    )


def _transform(image: AnyImage, area: Valid, window: Image) -> NDArray[np.complex128]:
    whole = filled(image, area)
    level = float((whole * window).sum() / window.sum())
    return np.asarray(fft.rfft2((whole - level) * window))


def _rings(shape: tuple[int, ...]) -> tuple[NDArray[np.int64], Image, int]:
    """Ring of each coefficient of a real transform, how often it counts, and the rings' number."""
    n_y, n_x = shape
    frequency = np.hypot(fft.fftfreq(n_y)[:, None], fft.rfftfreq(n_x)[None])
    n_rings = min(shape) // 2 + 1
    ring = np.minimum(np.rint(frequency * min(shape)).astype(np.int64), n_rings)
    # Columns between the first and the last stand for their conjugates too.
    twice = np.full(n_x // 2 + 1, 2.0)
    twice[0] = 1.0
    if n_x % 2 == 0:
        twice[-1] = 1.0
    return ring.ravel(), np.broadcast_to(twice, ring.shape), n_rings


def _smoothed(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    ones = np.ones(_SMOOTHED_RINGS)
    number = np.convolve(np.ones(correlation.size), ones, "same")
    return np.convolve(correlation, ones, "same") / number


def _resolution(
    frequency: NDArray[np.float64],
    correlation: NDArray[np.float64],
    threshold: NDArray[np.float64],
    first: int | None,
) -> float:
    """Period at which the correlation first falls below a threshold, from a ring on."""
    if first is None:
        return float("inf")
    above = correlation - threshold
    below = np.flatnonzero(above[first:] < 0) + first
    if not below.size:
        return 2.0
    last = int(below[0])
    if last == 0 or above[last - 1] < 0:
        return float(1.0 / frequency[last])
    part = above[last - 1] / (above[last - 1] - above[last])
    return float(1.0 / (frequency[last - 1] + part * (frequency[last] - frequency[last - 1])))
