"""How the noise of neighbouring pixels belongs together, in averages of interpolated frames.

A frame that is moved by a fraction of a pixel has less noise in each pixel and shares it between
neighbours. A single pixel's standard error is right; the error of a sum over many pixels, taken as
if they were independent, is too small.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.kernels.interpolation import INTERPOLATIONS, tap_weights
from stillstack.kernels.resampling import DEFAULT_INTERPOLATION

NOISE_CORRELATION: Final = "noise_correlation"
LAGS: Final = ("lag_y", "lag_x")
REACH_PX: Final = 3
# Shifts are taken to this part of a pixel: their fractions alone matter, and how often each occurs.
_PARTS: Final = 32


def noise_correlation(
    shift: NDArray[np.floating[Any]], interpolation: str = DEFAULT_INTERPOLATION
) -> xr.DataArray:
    """Correlation of the noise of pixels some lag apart, in the mean of frames moved so.

    Parameters
    ----------
    shift
        Shifts (frame, 2) with which the frames were moved, px; NaN where one was left out.
    interpolation
        How they were moved.

    Returns
    -------
    xr.DataArray (lag_y, lag_x) of float64, 7 x 7; 1 at lag 0. Where every frame moves by whole
    pixels it is 0 elsewhere. As the variable ``noise_correlation`` of a reduced Dataset it is
    heeded by `azimuthal_average`.

    Raises
    ------
    InputError
        If no frame has a shift, or the interpolation is not known.

    Examples
    --------
    >>> found = noise_correlation(np.array([[0.0, 0.5], [3.0, -1.5]]), "linear")
    >>> found.sel(lag_y=0).values[2:5]
    array([0.5, 1. , 0.5])
    """
    if interpolation not in INTERPOLATIONS:
        raise InputError(
            f"The interpolation is {interpolation!r}.",
            cure=f"Use one of {', '.join(INTERPOLATIONS)}.",
        )
    moved = np.asarray(shift, np.float64).reshape(-1, 2)
    moved = moved[np.isfinite(moved).all(axis=1)]
    if not len(moved):
        raise InputError(
            f"None of {len(np.atleast_2d(shift))} frames has a shift.",
            consequence="How interpolation correlates their noise cannot be known.",
            cure="Pass the shifts of the frames that were averaged, (frame, 2).",
        )
    fraction = np.rint((np.ceil(moved) - moved) * _PARTS).astype(int) % _PARTS
    often = np.zeros((_PARTS, _PARTS))
    np.add.at(often, (fraction[:, 0], fraction[:, 1]), 1.0)
    shared = np.stack([_shared(interpolation, k / _PARTS) for k in range(_PARTS)])
    total = shared.T @ often @ shared
    lags = np.arange(-REACH_PX, REACH_PX + 1)
    return xr.DataArray(
        total / total[REACH_PX, REACH_PX],
        dims=LAGS,
        coords={name: (name, lags, {"long_name": "lag", "units": "pixel"}) for name in LAGS},
        name=NOISE_CORRELATION,
        attrs={"long_name": "correlation of the noise of pixels some lag apart", "units": "1"},
    )


def _shared(interpolation: str, fraction: float) -> NDArray[np.float64]:
    """Sum of products of the taps with themselves some lag apart, for each lag."""
    taps = tap_weights(interpolation, fraction)
    product = np.convolve(taps, taps[::-1])
    padded = np.pad(product, REACH_PX)
    middle = padded.size // 2
    return padded[middle - REACH_PX : middle + REACH_PX + 1]
