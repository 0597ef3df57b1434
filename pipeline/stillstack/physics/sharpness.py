"""How sharp a mean of frames is, without what noise adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from stillstack.physics.windows import AnyImage, Image, Valid, common_area

_BLOCK_PX: Final = 16
# Central differences share pixels: products of them are correlated at a lag of two.
_NEIGHBOURS: Final = 1.5


@dataclass(frozen=True)
class Sharpness:
    """Mean squared gradient over the squared mean, px^-2, and its 1-sigma uncertainty."""

    value: float
    std: float


def sharpness(one: AnyImage, other: AnyImage, valid: Valid | None = None) -> Sharpness:
    """Sharpness of the scene that two images with independent noise share.

    Parameters
    ----------
    one, other
        Images (y, x), such as the means of odd and of even frames; NaN where nothing counted.
    valid
        Valid pixels, in addition to being finite in both.

    Returns
    -------
    Sharpness
        The mean of grad(one) . grad(other) over the product of the means. The noise of the two is
        independent, so it adds nothing on average: neither dose nor interpolation, which smooths
        noise, passes for sharpness. The uncertainty is that
        of the noise, as the difference of the two images shows it.

    Raises
    ------
    InputError
        If shapes differ or hardly any pixel is common.

    Examples
    --------
    >>> ramp = 10.0 + np.arange(20.0) * np.ones((20, 1))
    >>> round(float(sharpness(ramp, ramp).value * ramp.mean() ** 2), 6)
    1.0
    """
    area = common_area(one, other, valid=valid)
    product, cross, noise = (np.zeros(area.shape) for _ in range(3))
    known = area.copy()
    for axis in (0, 1):
        (first, inside), (second, _) = (_slope(image, area, axis) for image in (one, other))
        known &= inside
        product += first * second
        cross += 0.25 * (first + second) * (first - second)
        noise += 0.25 * (first - second) ** 2
    count = np.count_nonzero(known)
    if not count:
        return Sharpness(float("nan"), float("nan"))
    level = float(np.mean(one[area])) * float(np.mean(other[area]))
    blocks = _block_sums(np.where(known, cross, 0.0))
    variance = 4.0 * (blocks**2).sum() + _NEIGHBOURS * (noise[known] ** 2).sum()
    return Sharpness(
        float(product[known].sum() / count / level), float(np.sqrt(variance) / count / abs(level))
    )


def _slope(image: AnyImage, area: Valid, axis: int) -> tuple[Image, Valid]:
    """Central difference along an axis, and where both neighbours are known."""
    values = np.where(area, image, 0.0)
    slope, known = np.zeros(area.shape), np.zeros(area.shape, bool)
    inner, ahead, behind = ([slice(None), slice(None)] for _ in range(3))
    inner[axis], ahead[axis], behind[axis] = slice(1, -1), slice(2, None), slice(None, -2)
    slope[tuple(inner)] = 0.5 * (values[tuple(ahead)] - values[tuple(behind)])
    known[tuple(inner)] = area[tuple(ahead)] & area[tuple(behind)]
    return slope, known


def _block_sums(image: Image) -> Image:
    rows, columns = (np.arange(0, length, _BLOCK_PX) for length in image.shape)
    return np.asarray(np.add.reduceat(np.add.reduceat(image, rows, axis=0), columns, axis=1))
