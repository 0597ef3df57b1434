"""Sums per pixel that can be added to and merged in any order: n, mean, M2.

``n`` counts the values, ``M2`` is the sum of their squared distances from ``mean``. A whole block
of images is added at a time, a strip of pixels after the other that stays in the processor's cache.
Its own mean and M2 come from sums of distances, and of their squares, from a value near by: the
mean so far or, where there is none, the pixel's first value. They are merged into what there was by

    n = a + b
    mean = mean_a + (mean_b - mean_a) b / n
    M2 = M2_a + M2_b + (mean_b - mean_a)^2 a b / n

which is exact but for rounding, whatever was added first. Sums of squares of the values themselves
would lose all digits of a small variance on a large mean.

T. F. Chan, G. H. Golub, R. J. LeVeque, Am. Stat. 37:242 (1983), doi:10.1080/00031305.1983.10483115.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import locked
from stillstack.kernels.pixel_sums import add_values, clip_values, merge_values, sum_shared

Image = NDArray[np.float64]
Images = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, mean and M2 of the values of each pixel.

    Parameters
    ----------
    n
        (y, x) uint32, values that counted.
    mean
        (y, x) float64; 0 where none did.
    m2
        (y, x) float64, sum of squared distances from the mean.
    """

    n: NDArray[np.uint32]
    mean: Image
    m2: Image

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Moments:
        """Moments before anything was added."""
        return cls(np.zeros(shape, np.uint32), np.zeros(shape), np.zeros(shape))

    @classmethod
    def of_summary(
        cls, coverage: NDArray[np.integer[Any]], mean: Image, variance: Image
    ) -> Moments:
        """Moments out of what is stored of them, so that they can be merged again.

        Parameters
        ----------
        coverage, mean, variance
            As this class gives them.
        """
        n = np.asarray(coverage).astype(np.uint32)
        several = n > 1
        m2 = np.where(several, np.where(several, variance, 0.0) * (n.astype(np.float64) - 1), 0.0)
        return cls(n, np.where(n > 0, mean, 0.0), m2)

    @property
    def coverage(self) -> NDArray[np.int32]:
        """(y, x) int32, number of values that counted."""
        return self.n.astype(np.int32)

    @property
    def covered_mean(self) -> Image:
        """(y, x) float64, NaN where nothing counted."""
        return np.where(self.n > 0, self.mean, np.nan)

    @property
    def variance(self) -> Image:
        """(y, x) float64, of single values (divided by n - 1); NaN where fewer than two counted."""
        below = np.where(self.n > 1, self.n.astype(np.float64) - 1.0, np.nan)
        return self.m2 / below

    @property
    def standard_error(self) -> Image:
        """(y, x) float64, 1-sigma uncertainty of the mean; NaN where fewer than two counted."""
        return np.sqrt(self.variance / np.maximum(self.n, 1))


def add_images(
    moments: Moments,
    images: Images,
    scale: NDArray[np.float64] | None = None,
    out: Moments | None = None,
) -> Moments:
    """Return moments with a block of images added, each pixel where it is not NaN.

    Parameters
    ----------
    moments
        What there is already; not modified unless it is ``out``.
    images
        (image, y, x), float32 or float64, NaN where a pixel does not count.
    scale
        (image,) what each image is multiplied by, in double precision; 1 where not given.
    out
        Where the result is written, ``moments`` itself included; new arrays where not given.

    Raises
    ------
    ValueError
        If shapes do not fit.

    Examples
    --------
    >>> images = np.array([[[1.0, 5.0]], [[3.0, np.nan]]])
    >>> found = add_images(Moments.empty((1, 2)), images)
    >>> found.coverage, found.covered_mean, found.variance
    (array([[2, 1]], dtype=int32), array([[2., 5.]]), array([[ 2., nan]]))
    """
    if images.ndim != 3 or images.shape[1:] != moments.n.shape:
        msg = f"images are {images.shape}, the moments are of {moments.n.shape}"
        raise ValueError(msg)
    factors = np.ones(len(images)) if scale is None else np.asarray(scale, np.float64)
    if factors.shape != (len(images),):
        msg = f"scale is {factors.shape} for {len(images)} images"
        raise ValueError(msg)
    out = Moments.empty(moments.n.shape) if out is None else out
    add_values(
        _rows(images), locked(factors), *_flat(moments), *(a.reshape(-1) for a in _arrays(out))
    )
    return out


def merge_moments(one: Moments, other: Moments, out: Moments | None = None) -> Moments:
    """Return the moments of all values of both.

    Parameters
    ----------
    one, other
        Of the same shape; not modified unless one is ``out``.
    out
        Where the result is written; new arrays where not given.

    Examples
    --------
    >>> one = add_images(Moments.empty((1, 1)), np.array([[[1.0]]]))
    >>> other = add_images(Moments.empty((1, 1)), np.array([[[3.0]], [[5.0]]]))
    >>> float(merge_moments(one, other).mean[0, 0])
    3.0
    """
    if one.n.shape != other.n.shape:
        msg = f"moments of {one.n.shape} and of {other.n.shape}"
        raise ValueError(msg)
    out = Moments.empty(one.n.shape) if out is None else out
    written = (array.reshape(-1) for array in _arrays(out))
    merge_values(*_flat(one), *_flat(other), *written)
    return out


def without_outside(
    images: Images,
    lower: Image,
    upper: Image,
    scale: NDArray[np.float64] | None = None,
    out: Images | None = None,
) -> Images:
    """Return images with NaN where a value, once scaled, is not from ``lower`` to ``upper``.

    Parameters
    ----------
    images
        (image, y, x).
    lower, upper
        (y, x) limits; with NaN for one, nothing of a pixel is kept.
    scale
        (image,) as in :func:`add_images`. What is kept is not scaled.
    out
        Where the result is written, ``images`` itself included.

    Examples
    --------
    >>> limits = np.array([[0.0]]), np.array([[2.0]])
    >>> without_outside(np.array([[[1.0]], [[3.0]]]), *limits)[:, 0, 0]
    array([ 1., nan])
    """
    factors = np.ones(len(images)) if scale is None else np.asarray(scale, np.float64)
    out = np.empty_like(images) if out is None else out
    target = out.reshape(len(images), math.prod(out.shape[1:]))
    clip_values(_rows(images), locked(factors), _line(lower), _line(upper), target)
    return out


def shared_sums(image: Images, other: Images, area: NDArray[np.bool_]) -> tuple[float, float]:
    """Sums of two images over the pixels of an area that are not NaN in either.

    Parameters
    ----------
    image, other
        (y, x).
    area
        (y, x), True where a pixel counts.

    Examples
    --------
    >>> shared_sums(np.array([[1.0, np.nan, 4.0]]), np.full((1, 3), 2.0), np.ones((1, 3), bool))
    (5.0, 4.0)
    """
    first, second = sum_shared(_line(image), _line(other), _line(area))
    return float(first), float(second)


def _arrays(moments: Moments) -> tuple[NDArray[Any], ...]:
    return moments.n, moments.mean, moments.m2


def _flat(moments: Moments) -> tuple[NDArray[Any], ...]:
    return tuple(_line(array) for array in _arrays(moments))


def _line(array: NDArray[Any]) -> NDArray[Any]:
    return locked(np.ascontiguousarray(array).reshape(-1))


def _rows(images: NDArray[Any]) -> NDArray[Any]:
    pixels = math.prod(images.shape[1:])
    return locked(np.ascontiguousarray(images).reshape(len(images), pixels))
