"""Which dose is tried next: a few around the data's own, then downwards to where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

OWN: Final = 1.0
FEW: Final = (OWN, 1 / 4, 1 / 16)
MORE: Final = 4.0
ENOUGH_LANDED: Final = 0.99
"""Part of the frames that has to be good and within a pixel of the truth."""

_LEAST: Final = 4.0**-8
_FINE: Final = 1.5


def next_factor(landed: Mapping[float, float], most: float) -> float | None:
    """Dose to try next, in units of the data's own; None when enough is known.

    Parameters
    ----------
    landed
        Part of the frames that landed at each dose that was tried.
    most
        Highest dose at which frames do not saturate.

    Examples
    --------
    >>> next_factor({}, 4.0), next_factor({1.0: 1.0, 0.25: 1.0, 0.0625: 0.5, 4.0: 1.0}, 4.0)
    (1.0, 0.125)
    """
    for factor in (*FEW, MORE):
        if factor not in landed and factor <= most:
            return factor
    lowest = smallest_factor(landed)
    if lowest is None:
        return None
    below = [factor for factor in landed if factor < lowest]
    if not below:
        return lowest / 4 if lowest / 4 >= _LEAST else None
    gap = lowest / max(below)
    return (lowest * max(below)) ** 0.5 if gap > _FINE else None


def smallest_factor(landed: Mapping[float, float]) -> float | None:
    """Lowest dose that was tried at which, and above which, enough frames landed; or None.

    Examples
    --------
    >>> smallest_factor({4.0: 1.0, 1.0: 0.995, 0.25: 0.9, 0.06: 1.0})
    1.0
    """
    lowest = None
    for factor in sorted(landed, reverse=True):
        if landed[factor] < ENOUGH_LANDED:
            break
        lowest = factor
    return lowest
