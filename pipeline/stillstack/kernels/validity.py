"""Which pixels of one frame count: the static valid pixels less saturated, non-finite, excluded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.pyramid import n_outside

_COMPILABLE: Final = frozenset("bBhHiIlLqQfd")


@dataclass(frozen=True)
class ValueRules:
    """Values that make a frame's pixel invalid.

    Parameters
    ----------
    below, above
        A pixel with a smaller or a larger value is invalid. Without ``above``, a pixel of an
        integer frame that holds the type's largest value is saturated, hence invalid.
    equal
        A pixel with one of these values is invalid.
    """

    below: float | None = None
    above: float | None = None
    equal: tuple[float, ...] = ()

    def limits(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """Lowest and highest value that counts, for frames of ``dtype``."""
        low = -np.inf if self.below is None else self.below
        if self.above is not None:
            return low, self.above
        if np.issubdtype(dtype, np.integer):
            top = float(np.iinfo(dtype).max)
            # of 64 bits, one less is the same number
            return low, min(top - 1.0, float(np.nextafter(top, 0.0)))
        return low, np.inf


@dataclass(frozen=True)
class FrameValidity:
    """Valid pixels of one frame, and why others are not.

    ``valid`` is the static array itself, not a copy, when no pixel of the frame offends.
    """

    valid: NDArray[np.bool_]
    n_saturated: int
    n_non_finite: int
    is_static: bool


def value_validity(
    frame: NDArray[Any], static: NDArray[np.bool_], rules: ValueRules, *, grow_px: int = 0
) -> FrameValidity:
    """Valid pixels of a frame: static ones whose value is finite and within the rules.

    Parameters
    ----------
    frame
        One frame (y, x), any real dtype.
    static
        Pixels that may count (y, x).
    rules
        Values that do not count.
    grow_px
        Pixels so near a saturated one do not count either.

    Returns
    -------
    FrameValidity
        ``n_saturated`` and ``n_non_finite`` count statically valid pixels only.
    """
    low, high = rules.limits(frame.dtype)
    floating = np.issubdtype(frame.dtype, np.floating)
    # Fast reductions decide the common case; min and max of a frame with a NaN are NaN. Integers
    # are looked at once where any is large enough.
    largest = frame.max()
    smallest = frame.min() if floating or low > -np.inf else largest
    finite = bool(np.isfinite(smallest) and np.isfinite(largest))
    if finite and smallest >= low and largest <= high and not rules.equal:
        return FrameValidity(static, 0, 0, is_static=True)
    # Pixels that do not count may offend, as stuck ones do in every frame: nothing is made then.
    compilable = frame.dtype.isnative and frame.dtype.char in _COMPILABLE
    if compilable and not rules.equal and not n_outside(frame, static, static, (low, high)):
        return FrameValidity(static, 0, 0, is_static=True)
    offends = ~np.isfinite(frame) if floating else np.zeros(frame.shape, bool)
    n_non_finite = int(np.count_nonzero(offends & static))
    with np.errstate(invalid="ignore"):
        saturated = (frame > high) & ~offends & static
        offends |= grown(saturated, grow_px) | (frame > high) | (frame < low)
    for value in rules.equal:
        offends |= frame == value
    valid = static & ~offends
    unchanged = bool(np.array_equal(valid, static))
    return FrameValidity(
        static if unchanged else valid,
        int(np.count_nonzero(saturated & static)),
        n_non_finite,
        is_static=unchanged,
    )


def grown(chosen: NDArray[np.bool_], by_px: int) -> NDArray[np.bool_]:
    """``chosen`` and all pixels within a square of ``by_px`` around them."""
    if by_px == 0 or not chosen.any():
        return chosen
    padded = np.pad(chosen, by_px)
    n_y, n_x = chosen.shape
    rows = np.zeros((n_y, n_x + 2 * by_px), bool)
    for k in range(2 * by_px + 1):
        rows |= padded[k : k + n_y]
    grown = np.zeros_like(chosen)
    for k in range(2 * by_px + 1):
        grown |= rows[:, k : k + n_x]
    return grown
