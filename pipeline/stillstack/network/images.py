"""Reference images of groups: what is known of one, whole-pixel moves, the mean of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.kernels.resampling import resample_frame
from stillstack.reference_image import ReferenceImage

# A pixel that fewer than half of the images saw is noisier than the one noise level says.
_MIN_COVERAGE: Final = 0.5


def moved(picture: ReferenceImage, shift: NDArray[np.float64]) -> ReferenceImage:
    """Image moved by a shift (y, x) in px, interpolated once."""
    found = resample_frame(picture.image, shift, valid=picture.valid, fill=0.0)
    return ReferenceImage(found.image, found.valid, picture.n_frames)


@dataclass
class MeanImage:
    """Sum of images that can be left out again, one at a time.

    Parameters
    ----------
    shape
        Rows and columns.
    """

    shape: tuple[int, int]

    def __post_init__(self) -> None:
        self._total = np.zeros(self.shape)
        self._weight = np.zeros(self.shape)
        self._seen = np.zeros(self.shape, np.int64)
        self._n_images = 0

    def add(self, picture: ReferenceImage, shift: NDArray[np.float64]) -> None:
        """Add an image, moved by its shift and weighted by its number of frames."""
        self._count(moved(picture, shift), 1)

    def without(self, picture: ReferenceImage, shift: NDArray[np.float64]) -> ReferenceImage | None:
        """Mean of all images but one that was added with this shift; None if there is no other."""
        if self._n_images < 2:
            return None
        rest = MeanImage(self.shape)
        rest._total, rest._weight = self._total.copy(), self._weight.copy()
        rest._seen, rest._n_images = self._seen.copy(), self._n_images
        rest._count(moved(picture, shift), -1)
        return rest.mean()

    def mean(self) -> ReferenceImage:
        """Mean of all images where half of them or more are valid."""
        valid = (self._seen >= max(1.0, _MIN_COVERAGE * self._n_images)) & (self._weight > 0)
        image = np.where(valid, self._total / np.where(valid, self._weight, 1.0), 0.0)
        n_frames = int(np.median(self._weight[valid])) if valid.any() else 1
        return ReferenceImage(image.astype(np.float32), valid, max(1, n_frames))

    def _count(self, picture: ReferenceImage, sign: int) -> None:
        weight = sign * picture.n_frames * picture.valid
        self._total += np.where(picture.valid, picture.image, 0.0) * weight
        self._weight += weight
        self._seen += sign * picture.valid
        self._n_images += sign


def mean_of(
    pictures: Sequence[ReferenceImage | None], shifts: NDArray[np.float64], shape: tuple[int, int]
) -> MeanImage:
    """Sum of the images that have a shift, each moved by it; one is in memory at a time."""
    total = MeanImage(shape)
    for number, shift in enumerate(shifts):
        picture = pictures[number]
        if picture is not None and np.all(np.isfinite(shift)):
            total.add(picture, shift)
    return total


def there(pictures: Sequence[ReferenceImage | None], number: int) -> ReferenceImage:
    """Image of a group that has one."""
    picture = pictures[number]
    if picture is None:
        raise InputError(
            f"Group {number} has an offset but no image.",
            cure="Give the images from which the offsets were found.",
        )
    return picture
