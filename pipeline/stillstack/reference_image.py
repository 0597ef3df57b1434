"""An image that frames are registered to, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError


@dataclass(frozen=True, eq=False)
class ReferenceImage:
    """An image to register to, and what is known of it.

    Parameters
    ----------
    image
        (y, x) in counts.
    valid
        (y, x), True where it may be used.
    n_frames
        How many frames its noise is worth.
    notes
        How it was made, one remark each.
    """

    image: NDArray[np.float32]
    valid: NDArray[np.bool_]
    n_frames: int
    notes: tuple[str, ...] = ()

    def noted(self, note: str) -> ReferenceImage:
        """Return itself with one more remark."""
        return replace(self, notes=(*self.notes, note))

    def displaced(self, by: tuple[int, int]) -> ReferenceImage:
        """Return it moved by whole pixels (y, x): what comes in from outside is not valid.

        Examples
        --------
        >>> made = ReferenceImage(np.arange(4.0).reshape(2, 2), np.ones((2, 2), bool), 1)
        >>> made.displaced((1, 0)).image
        array([[0., 0.],
               [0., 1.]])
        """
        return replace(self, image=_moved(self.image, by), valid=_moved(self.valid, by))

    def refuse_blank(self) -> ReferenceImage:
        """Return itself, or raise InputError if it shows nothing to register to."""
        mean, spread = frame_statistics(self.image, self.valid)
        if not spread > 0:
            raise InputError(
                f"The reference is blank: its {np.count_nonzero(self.valid)} valid pixels "
                f"all have the value {mean:g}.",
                consequence="No frame can be registered to it.",
                cure="Choose another frame or image in the section reference of the config.",
            )
        return self


def frame_statistics(frame: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[float, float]:
    """Return mean and standard deviation of a frame's valid, finite pixels; NaN without any."""
    values = frame[valid].astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    return float(values.mean()), float(values.std())


def _moved(array: NDArray[Any], by: tuple[int, int]) -> NDArray[Any]:
    result = np.zeros_like(array)
    into, out_of = [], []
    for length, step in zip(array.shape, by, strict=True):
        into.append(slice(min(max(step, 0), length), max(length + min(step, 0), 0)))
        out_of.append(slice(min(max(-step, 0), length), max(length - max(step, 0), 0)))
    result[tuple(into)] = array[tuple(out_of)]
    return result
