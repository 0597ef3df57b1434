"""Weights of the interpolation methods: how a shifted pixel is made of its neighbours.

A shift is the same for a whole frame, so each axis has one short list of weights. They are made in
double precision, sum to one, and are exactly one and zeros where the shift is whole.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]

INTERPOLATIONS: Final = ("bspline", "catmull-rom", "lanczos", "linear")

# The cubic B-spline prefilter's pole; its impulse response falls by this factor a pixel.
_POLE: Final = math.sqrt(3.0) - 2.0
_SPLINE_TAPS: Final = 8
_SPLINE_DEGREE: Final = 5
# |pole|^28 is below the rounding of doubles.
_PREFILTER_REACH: Final = 28


def split_shift(shift: float) -> tuple[int, float]:
    """Return ``(whole, fraction)`` with ``shift = whole - fraction`` and 0 <= fraction < 1.

    The output at x then lies between the input's pixels ``x - whole`` and ``x - whole + 1``, at
    ``fraction`` of the way.

    Examples
    --------
    >>> split_shift(2.75), split_shift(-2.0)
    ((3, 0.25), (-2, 0.0))
    """
    # Beyond any image: kept within what integers of 64 bits can add up.
    bounded = min(max(shift, -(2.0**40)), 2.0**40)
    whole = math.ceil(bounded)
    fraction = whole - bounded
    # 1e-17 has the ceiling 1 and, by rounding, the fraction 1.
    return (whole - 1, 0.0) if fraction >= 1.0 else (whole, fraction)


def tap_weights(interpolation: str, fraction: float) -> Weights:
    """Return the weights of the pixels around a point at a fraction of a pixel.

    Parameters
    ----------
    interpolation
        One of ``INTERPOLATIONS``.
    fraction
        0 <= fraction < 1, from the pixel at index ``(len - 1) // 2`` of the answer to the next.

    Returns
    -------
    ndarray of float64: 1 weight where the fraction is zero, else 2 (linear), 4 (Catmull-Rom),
    6 (Lanczos) or 8 (B-spline).

    Notes
    -----
    *catmull-rom* is Keys' cubic convolution with a = -1/2 (IEEE TASSP 29:1153, 1981,
    doi:10.1109/TASSP.1981.1163711). *lanczos* is the windowed sinc of three lobes, divided by its
    sum. *bspline* is the cubic spline that passes through the pixels (Unser, IEEE SPM 16(6):22,
    1999, doi:10.1109/79.799930) with its recursive prefilter folded into the weights; these are
    cut to eight, and changed by the smallest amount (least squares) that makes them keep every
    polynomial up to degree five. The cut alone would cost more than the method gains; so mended it
    is nearer to a band-limited truth than the uncut spline is.

    Examples
    --------
    >>> tap_weights("linear", 0.25)
    array([0.75, 0.25])
    >>> tap_weights("catmull-rom", 0.5)
    array([-0.0625,  0.5625,  0.5625, -0.0625])
    """
    if fraction == 0.0:
        return np.ones(1)
    t = fraction
    if interpolation == "linear":
        return np.array([1 - t, t])
    if interpolation == "catmull-rom":
        cubic = [-(t**3) + 2 * t**2 - t, 3 * t**3 - 5 * t**2 + 2]
        return 0.5 * np.array([*cubic, -3 * t**3 + 4 * t**2 + t, t**3 - t**2])
    if interpolation == "lanczos":
        away = np.arange(-2, 4) - t
        window = np.sinc(away) * np.sinc(away / 3)
        lanczos: Weights = window / window.sum()
        return lanczos
    if interpolation == "bspline":
        return _spline_weights(t)
    raise ValueError(f"interpolation is {interpolation!r}, not one of {', '.join(INTERPOLATIONS)}")


def _spline_weights(t: float) -> Weights:
    prefilter, moments, mending, powers = _spline_constants()
    basis = np.array([(1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3])
    cut = prefilter @ basis
    missing = ((t - 0.5) / (_SPLINE_TAPS / 2)) ** powers - moments @ cut
    mended: Weights = cut + mending @ missing
    return mended


@cache
def _spline_constants() -> tuple[Weights, Weights, Weights, Weights]:
    """Return what does not depend on the fraction.

    The prefilter's matrix, from the basis' four values to the eight cut weights; the moments'
    matrix; the smallest change of the weights for a change of the moments; the moments' powers.
    """
    reach = np.arange(-_PREFILTER_REACH, _PREFILTER_REACH + 1)
    response = -_POLE / (1 - _POLE**2) * _POLE ** np.abs(reach)
    # The basis begins one pixel before the point, so the folded kernel begins `reach` + 1 before.
    first = _PREFILTER_REACH + 1 - (_SPLINE_TAPS - 1) // 2
    places = first + np.arange(_SPLINE_TAPS)[:, None] - np.arange(4)
    # About the middle, in units of half the length, for the sake of conditioning.
    middle, half = (_SPLINE_TAPS - 1) / 2, _SPLINE_TAPS / 2
    powers = np.arange(_SPLINE_DEGREE + 1.0)
    moments = ((np.arange(_SPLINE_TAPS) - middle) / half) ** powers[:, None]
    mending = moments.T @ np.linalg.inv(moments @ moments.T)
    return response[places], moments, mending, powers
