"""Which values of raw frames do not count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.validity import ValueRules


def offending(frame: NDArray[Any], rules: ValueRules) -> NDArray[np.bool_] | None:
    """Return where values of raw frames do not count; None where all do.

    Parameters
    ----------
    frame
        Raw counts, any shape and real dtype.
    rules
        Values that do not count. Without ``above``, the largest value of an integer type is
        saturated.

    Examples
    --------
    >>> offending(np.array([0, 7, 255], np.uint8), ValueRules(equal=(7.0,)))
    array([False,  True,  True])
    """
    low, high = rules.limits(frame.dtype)
    least, most = frame.min(), frame.max()  # NaN where a pixel is NaN
    finite = np.isfinite(least) and np.isfinite(most)
    if finite and low <= least and most <= high and not rules.equal:
        return None
    found = (frame < low) | (frame > high)
    if frame.dtype.kind == "f":
        found |= ~np.isfinite(frame)
    for value in rules.equal:
        found |= frame == value
    return found if found.any() else None
