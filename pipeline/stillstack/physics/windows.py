"""Windows that let the valid area end softly, so that its edge does not correlate with itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stillstack.errors import InputError
from stillstack.kernels import smoothing

Image = NDArray[np.float64]
AnyImage = NDArray[np.floating[Any]]
Valid = NDArray[np.bool_]

# Holes no wider than this are filled from around; wider ones end the valid area.
_HOLE_PX = 5


def common_area(*images: AnyImage, valid: NDArray[np.bool_] | None = None) -> Valid:
    """Pixels that are finite in all images, and valid.

    Raises
    ------
    InputError
        If shapes differ or hardly any pixel is left.

    Examples
    --------
    >>> int(common_area(np.ones((20, 20)), np.full((20, 20), 2.0)).sum())
    400
    """
    shapes = {np.shape(image) for image in images}
    if valid is not None:
        shapes.add(np.shape(valid))
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise InputError(
            f"The images have the shapes {', '.join(map(str, sorted(shapes)))}.",
            consequence="They cannot be compared pixel by pixel.",
            cure="Give two-dimensional arrays (y, x) of equal shape.",
        )
    area = np.ones(next(iter(shapes)), bool) if valid is None else np.asarray(valid, bool).copy()
    for image in images:
        area &= np.isfinite(image)
    if np.count_nonzero(area) < 100:
        raise InputError(
            f"Only {np.count_nonzero(area)} pixels of {area.size} are known in all images.",
            consequence="Nothing can be said of how they agree.",
            cure="Check valid (True where a pixel counts) and that no image is all NaN.",
        )
    return area


def soft_window(area: Valid, rise_px: float) -> Image:
    """Weights (y, x) that rise from 0 at the edge of an area to 1 ``rise_px`` inside it.

    Small holes (dead pixels) do not count as edges; they are to be filled.

    Examples
    --------
    >>> soft_window(np.ones((1, 7), bool), 3.0).round(2)
    array([[0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25]])
    """
    inside = closed(area)
    padded = np.pad(inside, 1)
    depth = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
    rise = np.clip(depth / rise_px, 0.0, 1.0)
    return np.asarray(np.sin(0.5 * np.pi * rise) ** 2)


def filled(image: AnyImage, area: Valid) -> Image:
    """Image in which pixels outside the area are filled smoothly from those inside."""
    known = np.where(area, image, 0.0).astype(np.float64)
    return smoothing.fill_invalid(known, area)


def high_passed(image: AnyImage, area: Valid, sigma_px: float) -> Image:
    """What is left of an image without what is wider than ``sigma_px``; filled outside the area."""
    whole = filled(image, area)
    return np.asarray(whole - ndimage.gaussian_filter(whole, sigma_px, mode="nearest"))


def closed(area: Valid) -> Valid:
    """Area together with its small holes."""
    around = np.pad(area, _HOLE_PX, mode="edge")
    whole = ndimage.binary_closing(around, np.ones((_HOLE_PX, _HOLE_PX)))
    return np.asarray(area | whole[_HOLE_PX:-_HOLE_PX, _HOLE_PX:-_HOLE_PX])
