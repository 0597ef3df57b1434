"""Centre of a pattern from its two-fold symmetry (Friedel's law), behind a beam-block too.

An image that is symmetric about c, turned by 180 degrees about the middle c0 of its array, is the
image moved by 2 (c0 - c): f(2 c0 - x) = f(x + 2 (c - c0)). So the turned image registered to the
image itself gives shift = 2 (c - c0). Both carry the same noise: it enters twice, coherently, and
error bars of a shift do not hold. The error is had from pairs of opposite pixels instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stillstack.errors import InputError
from stillstack.kernels import smoothing
from stillstack.kernels.correlation import correlate_masked
from stillstack.kernels.registration import prepare_reference, register_frame
from stillstack.model import status_words

Image = NDArray[np.float64]
Valid = NDArray[np.bool_]
Point = tuple[float, float]

# Side of the image in which the background is looked at, bins.
COARSE_PX: Final = 128
# The background is what no spot covers: low values within an eighth of the image.
BACKGROUND_PERCENTILE: Final = 20.0
# Friedel pairs of a tilted crystal are unequal; chance and textures correlate to less than 0.2.
LEAST_NCC: Final = 0.45
# Somewhere the blobs of a texture are alike by chance: their background reaches 0.92.
LEAST_BACKGROUND_NCC: Final = 0.93
# Fewer opposite pixels than this part of the image tell nothing safely.
LEAST_SHARE: Final = 0.05
_SMALLEST_PX: Final = 24


@dataclass(frozen=True)
class Symmetry:
    """Centre (y, x), its covariance (2, 2), and how the two halves correlate."""

    centre: Point
    covariance: NDArray[np.float64]
    ncc: float
    share: float


@dataclass(frozen=True)
class NoSymmetry:
    """Why there is no answer."""

    why: str


def symmetry_centre(
    image: Image, valid: Valid, guess: Point | None = None, reach_px: float | None = None
) -> Symmetry | NoSymmetry:
    """Centre of two-fold symmetry, or why there is none.

    Parameters
    ----------
    image, valid
        Image (y, x), float64, and its valid pixels.
    guess
        Where the centre is thought to be. If None, where the image's background is symmetric: the
        spots of a lattice are symmetric about many points, their background about one.
    reach_px
        How far from the guess it is looked for; a sixtieth of the smaller side, at least 3 px, if
        None.
    """
    near = background_centre(image, valid) if guess is None else guess
    if isinstance(near, NoSymmetry):
        return near
    reach = max(3.0, min(image.shape) / 60) if reach_px is None else reach_px
    window = _window(image.shape, near)
    if window is None:
        return NoSymmetry(f"around ({near[0]:.1f}, {near[1]:.1f}) no symmetric area is inside")
    share = np.count_nonzero(valid[window] & turned(valid[window])) / image.size
    if share < LEAST_SHARE:
        return NoSymmetry(
            f"pixels with a valid opposite about ({near[0]:.1f}, {near[1]:.1f}) are "
            f"{share:.1%} of the image"
        )
    found = _matched(image[window], valid[window], reach)
    if isinstance(found, NoSymmetry):
        return found
    inside, covariance, ncc = found
    return Symmetry(
        (float(inside[0]) + window[0].start, float(inside[1]) + window[1].start),
        covariance,
        ncc,
        float(share),
    )


def _matched(
    part: Image, seen: Valid, reach: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float] | NoSymmetry:
    """Centre, covariance and correlation of a part that is nearly symmetric about its middle."""
    limit = min(int(np.ceil(2 * reach)) + 1, min(part.shape) // 2)
    try:
        reference = prepare_reference(
            part,
            seen,
            max_shift_px=limit,
            gain=noise_gain(part, seen),
            min_ncc=LEAST_NCC,
            min_overlap=0.1,
            allow_small=True,
        )
    except InputError as refused:
        return NoSymmetry(refused.what.rstrip("."))
    found = register_frame(turned(part), reference, turned(seen))
    if not found.good:
        words = ", ".join(status_words(found.status)).replace("_", " ")
        return NoSymmetry(f"the image turned by 180 degrees does not match itself ({words})")
    inside = (np.array(part.shape) - 1) / 2 + found.shift / 2
    covariance = _covariance(part, seen, inside, reference.smoothing_px)
    if covariance is None:
        return NoSymmetry("the symmetric area has no structure along one of the axes")
    return inside, covariance, found.ncc


def background_centre(image: Image, valid: Valid) -> Point | NoSymmetry:
    """Point about which the background of an image is symmetric, to a bin or so.

    Parameters
    ----------
    image, valid
        As for `symmetry_centre`.
    """
    factor = max(1, round(max(image.shape) / COARSE_PX))
    small, seen = binned(image, valid, factor)
    filled = smoothing.fill_invalid(small, seen)
    low = ndimage.percentile_filter(filled, BACKGROUND_PERCENTILE, size=COARSE_PX // 8 + 1)
    low = ndimage.gaussian_filter(low, 3.0)
    ncc = correlate_masked(low, turned(low), seen, turned(seen), overlap_ratio=0.3)
    best = np.unravel_index(np.nanargmax(ncc), ncc.shape)
    if not ncc[best] >= LEAST_BACKGROUND_NCC:
        return NoSymmetry(f"the background is not symmetric about any point (ncc {ncc[best]:.2f})")
    moved = np.array(best) - (np.array(low.shape) - 1)
    centre = ((np.array(low.shape) - 1) / 2 - moved / 2 + 0.5) * factor - 0.5
    return float(centre[0]), float(centre[1])


def turned(image: NDArray[Any]) -> NDArray[Any]:
    """Image turned by 180 degrees about the middle of its array.

    Examples
    --------
    >>> turned(np.array([[1, 2], [3, 4]]))
    array([[4, 3],
           [2, 1]])
    """
    return np.ascontiguousarray(image[::-1, ::-1])


def noise_gain(image: Image, valid: Valid) -> float:
    """Variance of the noise over the mean, counts, as differences of neighbouring pixels show it.

    Notes
    -----
    J. Immerkaer, Comput. Vis. Image Underst. 64, 300 (1996), doi:10.1006/cviu.1996.0060, with the
    median in place of the mean: it is not moved by what few pixels hold.
    """
    stencil = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])
    rough = ndimage.convolve(np.where(valid, image, 0.0), stencil, mode="nearest")
    inside = ndimage.binary_erosion(valid, np.ones((3, 3))) & (image > 0)
    if not inside.any():
        return 1.0
    # 36 is the stencil's sum of squares, 0.455 the median of a squared standard normal number.
    gain = float(np.median(rough[inside] ** 2 / image[inside])) / (36.0 * 0.455)
    return max(gain, 1e-9)


def binned(image: Image, valid: Valid, factor: int) -> tuple[Image, Valid]:
    """Means over the valid pixels of bins, and the bins of which half or more is valid."""
    n_y, n_x = (n // factor for n in image.shape)
    tiles = (n_y, factor, n_x, factor)
    inner = (slice(n_y * factor), slice(n_x * factor))
    number = valid[inner].reshape(tiles).sum(axis=(1, 3))
    total = np.where(valid, image, 0.0)[inner].reshape(tiles).sum(axis=(1, 3))
    return total / np.maximum(number, 1), number >= factor**2 / 2


def _window(shape: tuple[int, ...], about: Point) -> tuple[slice, slice] | None:
    """Largest part of the image that is symmetric about a point, to half a pixel."""
    cuts = []
    for length, at in zip(shape, about, strict=True):
        twice = round(2 * at)
        first = max(0, twice - (length - 1))
        last = min(length - 1, twice)
        if last - first + 1 < _SMALLEST_PX:
            return None
        cuts.append(slice(first, last + 1))
    return cuts[0], cuts[1]


def _covariance(
    image: Image, valid: Valid, centre: NDArray[np.float64], smoothing_px: float
) -> NDArray[np.float64] | None:
    """Covariance of the centre from how opposite pixels differ; None where it is singular.

    To first order f(x) - f(2c - x) = -2 e . grad f for an error e of the centre. Both pixels of a
    pair tell the same, so each counts half. Neighbouring pixels may share noise (averages of
    interpolated frames do) and unequal pairs of spots differ all over: scores are summed over
    blocks before they are squared.
    """
    twice = np.rint(2 * centre).astype(int)
    window = _window(image.shape, (twice[0] / 2, twice[1] / 2))
    if window is None:
        return None
    part, both = image[window], valid[window] & turned(valid[window])
    filled = smoothing.fill_invalid(part, valid[window])
    value, slope = smoothing.smoothing_kernels(max(smoothing_px, 0.7))[:2]
    level = smoothing.separable(filled, value, value)
    level = 0.5 * (level + turned(level))
    gradients = [smoothing.separable(filled, *pair) for pair in ((slope, value), (value, slope))]
    odd = np.stack([0.5 * (g - turned(g)) for g in gradients])
    floor = 0.05 * max(float(np.abs(level[both]).mean()), np.finfo(float).tiny)
    weight = np.where(both, 1.0 / np.maximum(level, floor), 0.0)
    apart = np.where(both, part - turned(part), 0.0)
    normal = np.einsum("iyx,jyx,yx->ij", odd, odd, weight)
    if np.linalg.cond(normal) > 1e8:
        return None
    # What the error itself, or rounding 2c, leaves in the differences is no noise.
    fitted = np.linalg.solve(normal, np.einsum("iyx,yx,yx->i", odd, weight, apart))
    residual = apart - np.einsum("i,iyx->yx", fitted, odd)
    scores = block_sums(odd * weight * residual)
    inverse = np.linalg.inv(normal)
    return np.asarray(0.5 * inverse @ (scores @ scores.T) @ inverse)


def block_sums(images: Image) -> Image:
    """Sums of images (k, y, x) over square blocks, (k, blocks).

    Squares of such sums hold what pixels near to one another share.
    """
    side = int(np.clip(min(images.shape[1:]) // 24, 2, 32))
    rows, columns = (np.arange(0, length, side) for length in images.shape[1:])
    sums = np.add.reduceat(np.add.reduceat(images, rows, axis=1), columns, axis=2)
    return np.asarray(sums.reshape(len(images), -1))
