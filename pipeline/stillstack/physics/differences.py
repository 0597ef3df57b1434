"""What changes between groups: differences from a reference, and relative ones, with errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xarray as xr

from stillstack.errors import InputError
from stillstack.physics.averages import (
    COVERAGE,
    MEAN,
    STANDARD_ERROR,
    check_reduced,
    labels,
    units_of,
)

DIFFERENCE: Final = "difference"
RELATIVE_CHANGE: Final = "relative_change"
REFERENCE_COVERAGE: Final = "reference_coverage"

_NEEDS: Final = (MEAN, STANDARD_ERROR, COVERAGE)


def difference(reduced: xr.Dataset, dim: str = "delay", *, reference: Any) -> xr.Dataset:
    """Difference of every group's mean from that of the reference groups, with its error.

    Parameters
    ----------
    reduced
        Dataset with ``mean``, ``standard_error``, ``coverage`` and a coordinate ``dim``. May be
        lazy.
    dim
        Dimension along which groups are compared.
    reference
        Value of the coordinate, a list of values, or a slice of values, both ends included
        (``slice(None, 0.0)``: everything up to time zero). Several groups are averaged, each pixel
        of each weighted by its coverage.

    Returns
    -------
    xr.Dataset with ``difference``, ``standard_error``, ``coverage`` (of the group) and
    ``reference_coverage``; dimensions as before. A group that is part of the reference shares its
    noise: that is in its error, which is 0 for a single reference group. NaN where either was not
    covered; the error is NaN, too, where fewer than two frames of any used group counted.

    Raises
    ------
    InputError
        If a variable or the coordinate is missing, or the reference is none of the groups.

    Examples
    --------
    >>> images = xr.DataArray(np.full((2, 1, 1), 4.0), dims=("delay", "y", "x"))
    >>> two = xr.Dataset({"mean": images, "standard_error": images, "coverage": images})
    >>> two = two.assign_coords(delay=[-1.0, 2.0])
    >>> difference(two, reference=-1.0)["standard_error"].values.ravel().round(3)
    array([0.   , 5.657])
    """
    compared = _compare(reduced, dim, reference)
    noise = compared.variance + compared.reference_variance - 2.0 * compared.covariance
    found = xr.Dataset(
        {
            DIFFERENCE: compared["mean"] - compared.reference,
            STANDARD_ERROR: np.sqrt(noise.clip(min=0.0)),
        },
        attrs=reduced.attrs,
    )
    units = units_of(reduced)
    found[DIFFERENCE].attrs = {"long_name": "difference from the reference", "units": units}
    found[STANDARD_ERROR].attrs = {"long_name": "standard error of the difference", "units": units}
    return _with_coverage(found, reduced, compared, f"{dim} = {_spoken(reference)}")


def relative_change(
    reduced: xr.Dataset, dim: str = "delay", *, reference: Any, least_sigma: float = 5.0
) -> xr.Dataset:
    """Change of every group's mean as a fraction of the reference groups' mean, with its error.

    Parameters
    ----------
    reduced, dim, reference
        As for `difference`.
    least_sigma
        Where the reference's mean is less than so many of its standard errors the answer is NaN:
        a ratio to something that might be zero has neither mean nor error.

    Returns
    -------
    xr.Dataset with ``relative_change`` (mean / reference - 1), ``standard_error``, ``coverage``,
    ``reference_coverage``.

    Raises
    ------
    InputError
        As `difference`.

    Notes
    -----
    With q = mean / reference: variance = (var + q^2 var_reference - 2 q cov) / reference^2.

    Examples
    --------
    >>> images = xr.DataArray(np.array([4.0, 5.0])[:, None, None], dims=("delay", "y", "x"))
    >>> two = xr.Dataset({"mean": images, "standard_error": images / 40, "coverage": images})
    >>> two = two.assign_coords(delay=[-1.0, 2.0])
    >>> relative_change(two, reference=-1.0)["relative_change"].values.ravel()
    array([0.  , 0.25])
    """
    compared = _compare(reduced, dim, reference)
    known = compared.reference > least_sigma * np.sqrt(compared.reference_variance)
    level = compared.reference.where(known)
    quotient = compared["mean"] / level
    noise = (
        compared.variance
        + quotient**2 * compared.reference_variance
        - 2.0 * quotient * compared.covariance
    )
    found = xr.Dataset(
        {
            RELATIVE_CHANGE: quotient - 1.0,
            STANDARD_ERROR: np.sqrt(noise.clip(min=0.0)) / level,
        },
        attrs={**reduced.attrs, "least_sigma": float(least_sigma)},
    )
    found[RELATIVE_CHANGE].attrs = {"long_name": "change relative to the reference", "units": "1"}
    found[STANDARD_ERROR].attrs = {
        "long_name": "standard error of the relative change",
        "units": "1",
    }
    return _with_coverage(found, reduced, compared, f"{dim} = {_spoken(reference)}")


def _compare(reduced: xr.Dataset, dim: str, reference: Any) -> xr.Dataset:
    """Means, their variances, those of the reference, and what both share."""
    check_reduced(reduced, _NEEDS, dim)
    chosen = _reference_groups(reduced, dim, reference)
    number = reduced[COVERAGE].fillna(0).astype(np.float64)
    mean = reduced[MEAN].astype(np.float64).where(number > 0)
    variance = reduced[STANDARD_ERROR].astype(np.float64) ** 2
    belongs = xr.DataArray(np.isin(np.arange(reduced.sizes[dim]), chosen), dims=dim)
    total = number.isel({dim: chosen}).sum(dim)
    weight = number.where(belongs, 0.0) / total.where(total > 0)
    # A group that did not count has no share in the reference, nor may its NaN.
    there = weight > 0
    shares = weight.isel({dim: chosen})
    level = (shares * mean.isel({dim: chosen})).where(shares > 0, 0.0).sum(dim)
    noise = (shares**2 * variance.isel({dim: chosen})).where(shares > 0, 0.0)
    return xr.Dataset(
        {
            "mean": mean,
            "variance": variance.where(number > 0),
            "reference": level.where(total > 0),
            "reference_variance": noise.sum(dim, skipna=False).where(total > 0),
            "covariance": (weight * variance).where(there, 0.0),
            REFERENCE_COVERAGE: total.astype(np.int64),
        }
    )


def _reference_groups(reduced: xr.Dataset, dim: str, reference: Any) -> list[int]:
    """Places of the reference groups along the dimension."""
    if dim not in reduced.coords:
        raise InputError(
            f"The dimension {dim!r} has no coordinate.",
            consequence="Which groups are the reference cannot be said by value.",
            cure=f"Give it one: reduced.assign_coords({dim}=[...]).",
        )
    values = reduced[dim].values
    if isinstance(reference, slice):
        if reference.step is not None:
            raise InputError(
                f"The reference {reference} has a step.", cure="Use slice(first, last), or a list."
            )
        chosen = np.ones(values.shape, bool)
        if reference.start is not None:
            chosen &= values >= reference.start
        if reference.stop is not None:
            chosen &= values <= reference.stop
    else:
        wanted = reference if isinstance(reference, Sequence | np.ndarray) else [reference]
        wanted = [reference] if isinstance(reference, str) else list(wanted)
        absent = [one for one in wanted if not np.any(values == one)]
        if absent:
            raise InputError(
                f"There is no group at {dim} = {_spoken(absent)}; {_range(values)}.",
                cure="Choose one of these, or a slice that holds some of them.",
            )
        chosen = np.isin(values, wanted)
    if not chosen.any():
        raise InputError(
            f"No group lies in the reference {dim} = {_spoken(reference)}; {_range(values)}.",
            cure="Choose a slice that holds one or more of these; both its ends are included.",
        )
    return [int(place) for place in np.flatnonzero(chosen)]


def _with_coverage(
    found: xr.Dataset, reduced: xr.Dataset, compared: xr.Dataset, reference: str
) -> xr.Dataset:
    found[COVERAGE] = reduced[COVERAGE]
    found[COVERAGE].attrs = labels(COVERAGE, reduced)
    found[REFERENCE_COVERAGE] = compared[REFERENCE_COVERAGE]
    found[REFERENCE_COVERAGE].attrs = {
        "long_name": "frames of the reference that counted at the pixel",
        "units": "1",
    }
    return found.assign_attrs(reference_groups=reference)


def _spoken(reference: Any) -> str:
    if isinstance(reference, slice):
        return f"{reference.start} to {reference.stop}"
    if isinstance(reference, list) and len(reference) == 1:
        return str(reference[0])
    return str(reference)


def _range(values: np.ndarray[Any, Any]) -> str:
    shown = [str(value) for value in values]
    listed = ", ".join(shown) if len(shown) <= 8 else f"{shown[0]}, {shown[1]}, ..., {shown[-1]}"
    return f"there are {len(shown)} groups: {listed}"
