"""The area that all frames share after alignment, over which their sums are compared."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stillstack.address import Address
from stillstack.errors import InputError
from stillstack.storage import RunStore

Drift = tuple[int, int, int, int]
"""Whole pixels that enclose all shifts: (lowest y, highest y, lowest x, highest x)."""


def drift_of(shift: NDArray[np.float64]) -> Drift:
    """Whole-pixel shifts that enclose all shifts of good frames, shape (frame, 2).

    Examples
    --------
    >>> drift_of(np.array([[0.5, -1.0], [2.0, 0.25]]))
    (0, 2, -1, 1)
    """
    low, high = np.floor(shift.min(axis=0)), np.ceil(shift.max(axis=0))
    return int(low[0]), int(high[0]), int(low[1]), int(high[1])


def shared_area(
    valid: NDArray[np.bool_], reference_valid: NDArray[np.bool_], drift: Drift
) -> NDArray[np.bool_]:
    """True where the reference counts, and every frame does wherever the drift has carried it.

    Single dead pixels are not held against it: resampling fills them in, and what single frames
    lack is left out of the reference's sum as well.

    Parameters
    ----------
    valid
        (y, x), pixels that count in every frame.
    reference_valid
        (y, x), pixels that count in the reference.
    drift
        From :func:`drift_of`.

    Returns
    -------
    ndarray of bool, (y, x).
    """
    around = ndimage.convolve((~valid).astype(np.uint8), np.ones((3, 3), np.uint8), mode="constant")
    filled = valid | (around == 1)
    y_low, y_high, x_low, x_high = drift
    # aligned(p) = frame(p - shift): p counts if all of p - high ... p - low do
    for axis, low, high in ((0, y_low, y_high), (1, x_low, x_high)):
        filled = _window_all(filled, low, high, axis)
    return np.asarray(filled & reference_valid, bool)


def _window_all(image: NDArray[np.bool_], low: int, high: int, axis: int) -> NDArray[np.bool_]:
    """True where all of ``image[p - high]`` to ``image[p - low]`` along one axis are."""
    length = image.shape[axis]
    bad = np.cumsum(~np.moveaxis(image, axis, 0), axis=0, dtype=np.int32)
    bad = np.concatenate((np.zeros_like(bad[:1]), bad))
    first, last = np.arange(length) - high, np.arange(length) - low
    inside = (first >= 0) & (last < length)
    first, last = np.clip(first, 0, length - 1), np.clip(last, 0, length - 1)
    found = (bad[last + 1] == bad[first]) & inside[:, None]
    return np.moveaxis(found, 0, axis)


@functools.lru_cache(maxsize=1)
def normalising_images(
    store_path: str | Address, digest: str, drift: Drift
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Reference of a run, and the area over which its sum and the frames' are compared.

    Made once in each process.

    Parameters
    ----------
    store_path
        The run.
    digest
        Of its reference; part of what is remembered.
    drift
        Of the frames that are used.

    Raises
    ------
    InputError
        If the frames share no area, or the reference sums to nothing there.
    """
    del digest
    store = RunStore.view(store_path)
    reference, counts, valid = (
        # of several references the first: the others are registered to it
        np.asarray(image.reshape(-1, *image.shape[-2:])[0])
        for image in (store.read(name) for name in ("reference", "reference_valid", "valid"))
    )
    area = shared_area(valid.astype(bool), counts.astype(bool), drift)
    if not area.any():
        raise InputError(
            f"The frames share no valid pixel: their shifts go from {drift[0]} to {drift[1]} px "
            f"in y and from {drift[2]} to {drift[3]} px in x.",
            consequence="They cannot be normalised by their sums.",
            cure="Normalise by the fitted intensity or a monitor, or leave out what drifted most.",
        )
    if not float(reference[area].sum(dtype=np.float64)) > 0:
        raise InputError(
            f"The reference sums to {float(reference[area].sum()):.3g} over the {int(area.sum())} "
            "pixels that all frames share.",
            consequence="Sums cannot be compared with it.",
            cure="Normalise by the fitted intensity or a monitor.",
        )
    return reference, area
