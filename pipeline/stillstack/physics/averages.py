"""What a reduced Dataset holds, and its averages as states that merge exactly.

A reduced Dataset has the dimensions (groups..., y, x) and, for each pixel of each group, the mean
of ``coverage`` frames, the variance of a single frame (ddof=1) and the standard error of the mean.
A *state* is the same as number, mean and sum of squared deviations (``squares``): two states make
the state of all their frames, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xarray as xr

from stillstack.errors import InputError
from stillstack.model import X, Y

MEAN: Final = "mean"
VARIANCE: Final = "variance"
STANDARD_ERROR: Final = "standard_error"
COVERAGE: Final = "coverage"
N_FRAMES: Final = "n_frames"

ATTRS: Final[dict[str, dict[str, str]]] = {
    MEAN: {"long_name": "mean of the frames", "units": "count"},
    VARIANCE: {"long_name": "variance of a single frame", "units": "count^2"},
    STANDARD_ERROR: {"long_name": "standard error of the mean", "units": "count"},
    COVERAGE: {"long_name": "frames that counted at the pixel", "units": "1"},
    N_FRAMES: {"long_name": "frames in the group", "units": "1"},
}
"""Labels of the variables; those that the input brings take precedence."""


def check_reduced(reduced: xr.Dataset, needs: Sequence[str], dim: str | None = None) -> None:
    """Raise InputError unless a Dataset holds what is needed.

    Parameters
    ----------
    reduced
        What is checked.
    needs
        Variables that have to be there, each with the dimensions y and x but ``n_frames``.
    dim
        Dimension that has to be there besides.
    """
    missing = [name for name in needs if name not in reduced.data_vars]
    if missing:
        there = ", ".join(str(name) for name in reduced.data_vars)
        raise InputError(
            f"The reduced data lack {', '.join(missing)}; there are {there or 'none'}.",
            consequence="Errors and merged averages cannot be had from what is left.",
            cure="Reduce with statistics mean and variance; coverage comes with them.",
        )
    for name in needs:
        if name != N_FRAMES and not {Y, X} <= set(reduced[name].dims):
            raise InputError(
                f"`{name}` has the dimensions {reduced[name].dims}.",
                consequence="Reduced data are images with the dimensions y and x.",
                cure="Pass what the reduction returned, with its last two dimensions whole.",
            )
    if dim is None:
        return
    groups = [str(name) for name in reduced[needs[0]].dims if name not in (Y, X)]
    if dim not in groups:
        raise InputError(
            f"The reduced data have no groups along {dim!r}; they have {groups or 'none'}.",
            cure=f"Choose one of these, or reduce again with by={dim!r} among the coordinates.",
        )


def state(reduced: xr.Dataset) -> xr.Dataset:
    """Number, mean and sum of squared deviations of each pixel, as float64.

    Parameters
    ----------
    reduced
        With ``mean``, ``variance`` and ``coverage``. Where nothing counted the mean is taken as 0;
        the variance of one frame is unknown and its sum of squares is 0.

    Returns
    -------
    xr.Dataset with ``number``, ``mean``, ``squares``, and ``n_frames`` where it was given.

    Examples
    --------
    >>> one = xr.Dataset({"mean": 5.0, "variance": 2.0, "coverage": 3})
    >>> float(state(one).squares)
    4.0
    """
    number = reduced[COVERAGE].fillna(0).astype(np.float64)
    counted = number > 0
    found = xr.Dataset(
        {
            "number": number,
            "mean": reduced[MEAN].astype(np.float64).where(counted, 0.0),
            "squares": (reduced[VARIANCE].astype(np.float64) * (number - 1)).where(number > 1, 0.0),
        }
    )
    if N_FRAMES in reduced:
        found[N_FRAMES] = reduced[N_FRAMES]
    return found


def merged(one: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """State of the frames of two states together.

    Notes
    -----
    With d the difference of the means, squares = squares_1 + squares_2 + d^2 n_1 n_2 / n (Chan,
    Golub and LeVeque, Am. Stat. 37, 242, 1983, doi:10.1080/00031305.1983.10483115).
    """
    number = one.number + other.number
    share = other.number / number.where(number > 0, 1.0)
    apart = other["mean"] - one["mean"]
    found = xr.Dataset(
        {
            "number": number,
            "mean": one["mean"] + apart * share,
            "squares": one.squares + other.squares + apart**2 * one.number * share,
        }
    )
    if N_FRAMES in one and N_FRAMES in other:
        found[N_FRAMES] = one[N_FRAMES] + other[N_FRAMES]
    return found


def from_state(merged_state: xr.Dataset, like: xr.Dataset) -> xr.Dataset:
    """Reduced Dataset of a state: the inverse of `state`.

    Parameters
    ----------
    merged_state
        With ``number``, ``mean``, ``squares``.
    like
        Reduced Dataset whose attributes are taken over.

    Returns
    -------
    xr.Dataset with ``mean`` (NaN where nothing counted), ``variance`` and ``standard_error`` (NaN
    where fewer than two frames counted), ``coverage`` (int64), ``n_frames``.
    """
    number = merged_state.number
    variance = merged_state.squares.where(number > 1) / (number - 1).where(number > 1, 1.0)
    found = xr.Dataset(
        {
            MEAN: merged_state["mean"].where(number > 0),
            VARIANCE: variance,
            STANDARD_ERROR: np.sqrt(variance / number.where(number > 0, 1.0)),
            COVERAGE: number.astype(np.int64),
        },
        attrs=like.attrs,
    )
    if N_FRAMES in merged_state:
        found[N_FRAMES] = merged_state[N_FRAMES]
    for name in found.data_vars:
        found[name].attrs = labels(str(name), like)
    return found


def labels(name: str, like: xr.Dataset) -> dict[str, Any]:
    """Attributes of a variable: as the input has them, else those of `ATTRS`."""
    given = like[name].attrs if name in like.data_vars else {}
    return {**ATTRS.get(name, {}), **given}


def units_of(reduced: xr.Dataset) -> str:
    """Units of the mean.

    Examples
    --------
    >>> units_of(xr.Dataset({"mean": 5.0}))
    'count'
    """
    return str(labels(MEAN, reduced)["units"])
