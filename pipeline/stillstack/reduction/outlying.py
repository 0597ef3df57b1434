"""Which values are too far from the others to count in a sigma-clipped mean."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stillstack.reduction.sums import Limits, Sums

_ROUNDING: Final = 1e-6


def clip_limits(sums: Sums, clip_sigma: float) -> dict[int, Limits]:
    """Least and largest value of each pixel that agree with the other values of it.

    A value counts unless it is further from the mean of the *others* than Gaussian noise gets with
    the probability of ``clip_sigma`` standard deviations, in units of the others' own standard
    deviation (Student's t with n - 2 degrees of freedom). So one outlier is found among four values
    as among thousands, where a threshold on the deviation from the common mean could never be
    reached: that is at most (n - 1) / sqrt(n) of the common standard deviation.
    """
    found = {}
    for group, of_group in sums.items():
        moments = of_group.moments
        reach = _reach(int(moments.n.max(initial=0)), clip_sigma)[moments.n]
        half = reach * np.sqrt(moments.variance)
        # equal values must not be held against their mean's last digit
        half = np.where(moments.n > 2, np.maximum(half, _ROUNDING * abs(moments.mean)), np.inf)
        found[group] = (moments.mean - half, moments.mean + half)
    return found


def _reach(largest: int, clip_sigma: float) -> NDArray[np.float64]:
    """Largest deviation from the common mean in common standard deviations, for n = 0, 1, ..."""
    n = np.maximum(np.arange(largest + 1, dtype=np.float64), 3.0)
    tail = special.ndtr(-clip_sigma)
    t = -special.stdtrit(n - 2, tail)
    # deviation from the others' mean, in their standard deviations, as one from the common mean
    return np.asarray((n - 1) / np.sqrt(n) * t / np.sqrt(n - 2 + t**2))
