"""Groups of a reduced Dataset put together, or left out one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import xarray as xr

from stillstack.errors import InputError
from stillstack.physics.averages import (
    COVERAGE,
    MEAN,
    N_FRAMES,
    VARIANCE,
    check_reduced,
    from_state,
    merged,
    state,
)

_NEEDS: Final = (MEAN, VARIANCE, COVERAGE)


def combine(reduced: xr.Dataset, dim: str) -> xr.Dataset:
    """Reduced Dataset of all groups along a dimension together, as if reduced so from the start.

    Parameters
    ----------
    reduced
        Dataset with ``mean``, ``variance``, ``coverage``; other statistics (a median, a clipped
        mean) cannot be merged and are left out. May be lazy.
    dim
        Dimension that goes: ``"scan"``.

    Returns
    -------
    xr.Dataset with ``mean``, ``variance``, ``standard_error``, ``coverage``, ``n_frames`` without
    ``dim``, which is added to the attribute ``combined_over``. Exact to rounding: the variance
    holds what differs between groups too.

    Raises
    ------
    InputError
        If a variable or the dimension is missing.

    Notes
    -----
    mean = sum(n_i mean_i) / n, squares = sum(squares_i + n_i (mean_i - mean)^2).

    Examples
    --------
    >>> values = np.array([1.0, 3.0])[:, None, None]
    >>> two = xr.Dataset(
    ...     {name: (("scan", "y", "x"), values) for name in ("mean", "variance", "coverage")}
    ... )
    >>> combine(two, "scan")["mean"].item()
    2.5
    """
    check_reduced(reduced, _NEEDS, dim)
    groups = state(reduced)
    number = groups.number.sum(dim)
    mean = (groups.number * groups["mean"]).sum(dim) / number.where(number > 0, 1.0)
    between = (groups.number * (groups["mean"] - mean) ** 2).sum(dim)
    whole = xr.Dataset(
        {"number": number, "mean": mean, "squares": groups.squares.sum(dim) + between}
    )
    if N_FRAMES in groups:
        n_frames = groups[N_FRAMES]
        whole[N_FRAMES] = n_frames.sum(dim) if dim in n_frames.dims else n_frames
    found = from_state(whole, reduced)
    over = [*np.atleast_1d(reduced.attrs.get("combined_over", [])).tolist(), dim]
    return found.assign_attrs(combined_over=over)


def leave_one_out(reduced: xr.Dataset, dim: str) -> xr.Dataset:
    """Reduced Dataset in which each place along a dimension holds all groups but that one.

    Parameters
    ----------
    reduced, dim
        As for `combine`.

    Returns
    -------
    xr.Dataset of the same dimensions; the coordinate ``dim`` names the group that was left out.

    Raises
    ------
    InputError
        If there are fewer than two groups, or as `combine`.

    Examples
    --------
    >>> values = np.array([1.0, 3.0])[:, None, None]
    >>> two = xr.Dataset(
    ...     {name: (("scan", "y", "x"), values) for name in ("mean", "variance", "coverage")}
    ... )
    >>> leave_one_out(two, "scan")["mean"].values.ravel()
    array([3., 1.])
    """
    check_reduced(reduced, _NEEDS, dim)
    without = xr.concat(list(_each_without_one(reduced, dim)), dim, coords="minimal")
    if dim in reduced.coords:
        kept = reduced[dim].attrs
        without = without.assign_coords({dim: reduced[dim]})
        without[dim].attrs = {**kept, "long_name": f"{kept.get('long_name', dim)} left out"}
    return without.transpose(*reduced[MEAN].dims)


def jackknife(
    reduced: xr.Dataset, dim: str, function: Callable[[xr.Dataset], xr.DataArray]
) -> xr.Dataset:
    """Estimate and standard error of anything computed from averages, from what groups differ by.

    It needs no error of a single pixel to be known or independent: what noise, drift of the source
    and interpolation do to ``function`` shows in how it changes when a group is left out.

    Parameters
    ----------
    reduced
        As for `combine`; each group an independent measurement of the same, such as a scan.
    dim
        Dimension of the groups.
    function
        Makes a DataArray of a reduced Dataset without ``dim``. It is called once for each group and
        once for all, with one merged Dataset in memory at a time.

    Returns
    -------
    xr.Dataset with ``estimate``, that of all groups, and ``standard_error``. The error of k groups
    is itself known to one part in sqrt(2 (k - 1)).

    Raises
    ------
    InputError
        If there are fewer than two groups, or as `combine`.

    Notes
    -----
    Groups of unequal size count as in F. Busing, E. Meijer and R. van der Leeden, Stat. Comput. 9,
    3 (1999), doi:10.1023/A:1008800423698; the size is the number of frames (``n_frames``; else the
    largest coverage). With k equal groups: variance = (k - 1) / k sum (t_i - mean t)^2.

    Examples
    --------
    >>> values = np.array([1.0, 3.0])[:, None, None]
    >>> two = xr.Dataset({"mean": (("scan", "y", "x"), values)})
    >>> two = two.assign(variance=two["mean"], coverage=xr.ones_like(two["mean"]))
    >>> jackknife(two, "scan", lambda averages: averages["mean"])["standard_error"].item()
    1.0
    """
    check_reduced(reduced, _NEEDS, dim)
    estimate = function(combine(reduced, dim))
    without = [function(averages) for averages in _each_without_one(reduced, dim)]
    times = _whole_over_group(reduced, dim)
    pseudo = [h * estimate - (h - 1) * one for h, one in zip(times, without, strict=True)]
    centre = sum((p / h for p, h in zip(pseudo, times, strict=True)), xr.zeros_like(pseudo[0]))
    spread = sum(
        ((p - centre) ** 2 / (h - 1) for p, h in zip(pseudo, times, strict=True)),
        xr.zeros_like(pseudo[0]),
    )
    error: xr.DataArray = (spread / len(pseudo)) ** 0.5
    error.attrs = {
        **estimate.attrs,
        "long_name": f"jackknife standard error over {dim}",
        "n_groups": len(pseudo),
    }
    return xr.Dataset({"estimate": estimate, "standard_error": error}, attrs=reduced.attrs)


def _each_without_one(reduced: xr.Dataset, dim: str) -> Iterator[xr.Dataset]:
    """All groups but one, for each in turn; nothing is subtracted, so nothing cancels."""
    n_groups = reduced.sizes[dim]
    if n_groups < 2:
        raise InputError(
            f"There is {n_groups} group along {dim!r}.",
            consequence="Nothing is left when it is left out.",
            cure=f"Reduce two or more groups, with by={dim!r} among the coordinates.",
        )
    states = [state(reduced.isel({dim: k}, drop=True)) for k in range(n_groups)]
    after = [states[-1]]
    for one in reversed(states[1:-1]):
        after.append(merged(one, after[-1]))
    before: xr.Dataset | None = None
    for k in range(n_groups):
        rest = after.pop() if k < n_groups - 1 else None
        parts = [part for part in (before, rest) if part is not None]
        whole = parts[0] if len(parts) == 1 else merged(parts[0], parts[1])
        yield from_state(whole, reduced)
        before = states[k] if before is None else merged(before, states[k])


def _whole_over_group(reduced: xr.Dataset, dim: str) -> list[float]:
    """Frames of all groups over those of each; groups without any are refused."""
    counts = reduced[N_FRAMES] if N_FRAMES in reduced else reduced[COVERAGE].max(("y", "x"))
    counts = counts.sum([name for name in counts.dims if name != dim])
    sizes = np.broadcast_to(np.asarray(counts.values, np.float64), (reduced.sizes[dim],))
    if not np.all(sizes > 0):
        empty = np.flatnonzero(~(sizes > 0)).tolist()
        raise InputError(
            f"Groups {empty} along {dim!r} hold no frame.",
            consequence="To leave them out changes nothing, and tells nothing about the error.",
            cure=f"Drop them: reduced.drop_isel({dim}={empty}).",
        )
    return [float(sizes.sum() / size) for size in sizes]
