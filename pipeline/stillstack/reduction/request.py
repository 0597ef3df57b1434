"""What is asked for: which averages, of which groups of frames, normalised by what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from stillstack.errors import InputError
from stillstack.model import AXIS, FRAME, X, Y

MEAN: Final = "mean"
VARIANCE: Final = "variance"
STANDARD_ERROR: Final = "standard_error"
COVERAGE: Final = "coverage"
MEDIAN: Final = "median"
CLIPPED: Final = "sigma_clipped_mean"
STATISTICS: Final = (MEAN, VARIANCE, STANDARD_ERROR, COVERAGE, MEDIAN, CLIPPED)
DEFAULT_STATISTICS: Final = (MEAN, VARIANCE, STANDARD_ERROR, COVERAGE)

NO_NORMALISATION: Final = "none"
BY_SUM: Final = "sum"
BY_INTENSITY: Final = "intensity"

DEFAULT_CLIP_SIGMA: Final = 4.0
_LEAST_CLIP_SIGMA: Final = 1.0


@dataclass(frozen=True)
class Request:
    """What a reduction is asked for; made by :func:`checked_request`.

    Parameters
    ----------
    by
        Names of the per-frame coordinates by which frames are grouped; none: all frames together.
    statistics
        Some of ``STATISTICS``, in their order. Coverage always comes along.
    normalise
        ``"none"``, ``"sum"``, ``"intensity"``, or the name of a per-frame coordinate.
    clip_sigma
        How far from the others a value may be, in their standard deviations, to count in the
        sigma-clipped mean.
    """

    by: tuple[str, ...] = ()
    statistics: tuple[str, ...] = DEFAULT_STATISTICS
    normalise: str = NO_NORMALISATION
    clip_sigma: float = DEFAULT_CLIP_SIGMA

    def to_json(self) -> dict[str, Any]:
        """Plain values for attributes."""
        asked = asdict(self)
        if CLIPPED not in self.statistics:
            del asked["clip_sigma"]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asked.items()}

    def digest(self, *more: str) -> str:
        """16 hex digits that change with what is asked for, and with what else is given."""
        text = json.dumps([self.to_json(), *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def checked_request(
    by: str | Iterable[str],
    statistics: str | Iterable[str],
    normalise: str,
    clip_sigma: float = DEFAULT_CLIP_SIGMA,
) -> Request:
    """Request made of what a person wrote.

    Raises
    ------
    InputError
        For statistics that there are not, dimensions named twice or taken, a senseless threshold.

    Examples
    --------
    >>> checked_request("delay", "mean", "none").statistics
    ('mean', 'coverage')
    """
    dims = (by,) if isinstance(by, str) else tuple(by)
    asked = {statistics} if isinstance(statistics, str) else set(statistics)
    unknown = sorted(asked - set(STATISTICS))
    if unknown or not asked:
        raise InputError(
            f"There is no statistic {', '.join(unknown)}."
            if unknown
            else "No statistic was named.",
            consequence="Nothing was read.",
            cure=f"Choose among {', '.join(STATISTICS)}.",
        )
    taken = sorted({Y, X, AXIS, *STATISTICS} & set(dims))
    if len(set(dims)) != len(dims) or taken:
        raise InputError(
            f"Frames cannot be grouped by {', '.join(dims)}.",
            consequence="Each name becomes a dimension of the result, and has to be its own.",
            cure=f"Name each once, and none of {', '.join(taken or (Y, X, AXIS))}.",
        )
    if not _LEAST_CLIP_SIGMA <= clip_sigma < float("inf"):
        raise InputError(
            f"clip_sigma is {clip_sigma}.",
            consequence="A value would have to agree with the others better than they with "
            "each other.",
            cure=f"Choose {_LEAST_CLIP_SIGMA:g} or more; {DEFAULT_CLIP_SIGMA:g} is usual.",
        )
    if normalise == FRAME:
        raise InputError(
            "Frames cannot be normalised by their numbers.",
            cure=f"Choose {NO_NORMALISATION}, {BY_SUM}, {BY_INTENSITY} or a monitor's coordinate.",
        )
    ordered = tuple(name for name in STATISTICS if name in asked or name == COVERAGE)
    return Request(dims, ordered, normalise, float(clip_sigma))
