"""From sums to what is wanted of a group: images by name, and a few numbers beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.reduction.request import (
    CLIPPED,
    COVERAGE,
    MEAN,
    MEDIAN,
    NO_NORMALISATION,
    STANDARD_ERROR,
    VARIANCE,
    Request,
)
from stillstack.reduction.sums import GroupSums, Sums

N_FRAMES: Final = "n_frames"
N_DARK: Final = "n_dark"
FACTOR: Final = "normalisation"
FACTOR_SPREAD: Final = "normalisation_spread"
CLIPPED_COVERAGE: Final = "sigma_clipped_coverage"
CLIPPED_ERROR: Final = "sigma_clipped_standard_error"


@dataclass(frozen=True)
class Variable:
    """One variable of a reduction: an image, or a number, for each group."""

    name: str
    dtype: str
    long_name: str
    units: str = "count"
    is_image: bool = True

    @property
    def fill(self) -> float:
        """What stands where there is nothing."""
        return float("nan") if np.dtype(self.dtype).kind == "f" else 0

    @property
    def attrs(self) -> dict[str, str]:
        """Attributes for xarray and CF readers."""
        return {"long_name": self.long_name, "units": self.units}


_IMAGES: Final = {
    MEAN: (Variable(MEAN, "f8", "mean of aligned frames"),),
    VARIANCE: (Variable(VARIANCE, "f8", "variance of single aligned frames", "count2"),),
    STANDARD_ERROR: (Variable(STANDARD_ERROR, "f8", "1-sigma uncertainty of mean"),),
    COVERAGE: (Variable(COVERAGE, "i4", "frames that counted at each pixel", "1"),),
    MEDIAN: (Variable(MEDIAN, "f4", "median of aligned frames"),),
    CLIPPED: (
        Variable(CLIPPED, "f8", "mean of aligned frames without outlying values"),
        Variable(CLIPPED_ERROR, "f8", "1-sigma uncertainty of sigma_clipped_mean"),
        Variable(CLIPPED_COVERAGE, "i4", "frames that counted in sigma_clipped_mean", "1"),
    ),
}
_NUMBERS: Final = (
    Variable(N_FRAMES, "i4", "frames that were averaged", "1", is_image=False),
    Variable(N_DARK, "i4", "frames left out: they sum to no positive number", "1", is_image=False),
)
_FACTORS: Final = (
    Variable(FACTOR, "f8", "mean of what frames were divided by", "1", is_image=False),
    Variable(
        FACTOR_SPREAD,
        "f8",
        "standard deviation of what frames were divided by",
        "1",
        is_image=False,
    ),
)


def variables_of(request: Request) -> tuple[Variable, ...]:
    """Variables of the Dataset that a request leads to.

    Examples
    --------
    >>> [variable.name for variable in variables_of(Request(statistics=("mean", "coverage")))]
    ['mean', 'coverage', 'n_frames', 'n_dark']
    """
    images = tuple(v for name in request.statistics for v in _IMAGES[name])
    factors = () if request.normalise == NO_NORMALISATION else _FACTORS
    return (*images, *_NUMBERS, *factors)


def summarise_group(
    request: Request,
    group: int,
    sums: Sums,
    clipped: Sums | None = None,
    median: NDArray[Any] | None = None,
) -> dict[str, NDArray[Any]]:
    """Values of all variables for one group: images (y, x), and numbers as arrays without dims.

    Parameters
    ----------
    request
        What is asked for.
    group
        Which group.
    sums, clipped
        Sums of all values, and of those within limits.
    median
        Its median, where that is wanted.
    """
    of_group = sums[group]
    found = {**_of_moments(of_group), **_of_frames(of_group)}
    if clipped is not None:
        kept = clipped[group].moments
        found[CLIPPED] = kept.covered_mean
        found[CLIPPED_ERROR] = kept.standard_error
        found[CLIPPED_COVERAGE] = kept.coverage
    if median is not None:
        found[MEDIAN] = median
    return {v.name: np.asarray(found[v.name], v.dtype) for v in variables_of(request)}


def nothing(request: Request, shape: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Values of all variables for a group without frames."""
    return {
        v.name: np.full(shape if v.is_image else (), v.fill, v.dtype) for v in variables_of(request)
    }


def _of_moments(of_group: GroupSums) -> Mapping[str, NDArray[Any]]:
    moments = of_group.moments
    return {
        MEAN: moments.covered_mean,
        VARIANCE: moments.variance,
        STANDARD_ERROR: moments.standard_error,
        COVERAGE: moments.coverage,
    }


def _of_frames(of_group: GroupSums) -> Mapping[str, Any]:
    divisors = 1 / of_group.scale
    n_frames = len(divisors)
    return {
        N_FRAMES: n_frames,
        N_DARK: of_group.n_dark,
        FACTOR: divisors.mean() if n_frames else np.nan,
        FACTOR_SPREAD: divisors.std(ddof=1) if n_frames > 1 else np.nan,
    }
