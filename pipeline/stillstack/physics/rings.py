"""Centre of concentric rings, also from arcs: the point about which the image depends on radius.

No radius is assumed. With P the profile about the present centre c, the image is P(|x - c|), and an
error e of the centre shows as P'(r) times the part of e along the radius. Of that, what is the same
all round a ring belongs to the profile. What is left is fitted by weighted least squares, from
coarse to fine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels import smoothing
from stillstack.physics.symmetry import (
    Image,
    NoSymmetry,
    Point,
    Valid,
    binned,
    block_sums,
    noise_gain,
)

# Of what noise does not explain, the profile has to explain this part.
LEAST_EXPLAINED: Final = 0.5
_COARSE_PX: Final = 96
_MOST_STEPS: Final = 30
_DONE_PX: Final = 1e-4
# A bin of fewer pixels has no mean worth the name; fewer bins make no profile.
_LEAST_PIXELS: Final = 8
_LEAST_BINS: Final = 6


@dataclass(frozen=True)
class RingFit:
    """Centre (y, x), its covariance (2, 2), and the part of the structure that rings explain."""

    centre: Point
    covariance: NDArray[np.float64]
    explained: float


def ring_centre(image: Image, valid: Valid, guess: Point | None = None) -> RingFit | NoSymmetry:
    """Centre of concentric rings, or why there is none.

    Parameters
    ----------
    image, valid
        Image (y, x), float64, and its valid pixels. The centre need not lie inside.
    guess
        Where the centre is thought to be, to the width of a ring or so; found by `gradient_centre`
        if None.
    """
    centre = np.array(gradient_centre(image, valid) if guess is None else guess)
    factors = [f for f in (16, 8, 4, 2, 1) if f == 1 or min(image.shape) / f >= _COARSE_PX]
    step = np.full(2, np.nan)
    for factor in factors:
        part, seen = binned(image, valid, factor)
        for _ in range(_MOST_STEPS):
            fitted = _fit(part, seen, (centre + 0.5) / factor - 0.5)
            if fitted is None:
                return NoSymmetry("nothing in the valid area varies with the radius")
            # Far from the answer the linear model promises too much.
            step = factor * np.clip(fitted.step, -2.0, 2.0)
            centre = centre + step
            if not np.all(np.abs(centre) < 10 * max(image.shape)):
                return NoSymmetry("the rings' centre ran away")
            if np.abs(step).max() < _DONE_PX * factor:
                break
    fitted = _fit(image, valid, centre)
    if fitted is None:
        return NoSymmetry("nothing in the valid area varies with the radius")
    explained = _explained(image, valid, fitted)
    if not explained >= LEAST_EXPLAINED:
        return NoSymmetry(f"rings explain {explained:.0%} of the structure, not half of it")
    # Pixels that change bins keep the last step from vanishing.
    if np.any(np.abs(step) > np.maximum(0.01, 0.3 * np.sqrt(np.diag(fitted.covariance)))):
        return NoSymmetry(
            f"the rings' centre did not settle (last step {np.abs(step).max():.2g} px)"
        )
    return RingFit((float(centre[0]), float(centre[1])), fitted.covariance, explained)


def gradient_centre(image: Image, valid: Valid) -> Point:
    """Point nearest to the lines along which the brightness changes.

    Notes
    -----
    Linear least squares, so it needs no start: R. Parthasarathy, Nat. Methods 9, 724 (2012),
    doi:10.1038/nmeth.2071.
    """
    factor = max(1, min(image.shape) // 128)
    part, seen = binned(image, valid, factor)
    filled = smoothing.fill_invalid(part, seen)
    value, slope = smoothing.smoothing_kernels(2.0)[:2]
    inside = smoothing.solid(seen, 2.0, 0.98)
    along_y = np.where(inside, smoothing.separable(filled, slope, value), 0.0)
    along_x = np.where(inside, smoothing.separable(filled, value, slope), 0.0)
    y, x = np.indices(part.shape)
    # sum w (1 - g g^T / g^2)(c - x) = 0, with weights w = g^2
    yy, xx, yx = along_x**2, along_y**2, -along_y * along_x
    normal = np.array([[yy.sum(), yx.sum()], [yx.sum(), xx.sum()]])
    right = np.array([(yy * y + yx * x).sum(), (yx * y + xx * x).sum()])
    if not np.linalg.cond(normal) < 1e10:
        return (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2
    found = (np.linalg.solve(normal, right) + 0.5) * factor - 0.5
    return float(found[0]), float(found[1])


@dataclass(frozen=True)
class _Fit:
    step: NDArray[np.float64]
    covariance: NDArray[np.float64]
    residual: Image
    weight: Image


@dataclass(frozen=True)
class _Bins:
    """Which bin of the radius each pixel is in, which pixels count, and how many each bin has."""

    bins: NDArray[np.int64]
    kept: Valid
    number: NDArray[np.float64]

    def mean(self, values: Image) -> NDArray[np.float64]:
        """Mean of the values over each bin; 0 where it is empty."""
        total = np.bincount(self.bins[self.kept], values[self.kept], self.number.size)
        filled = self.number > 0
        return np.divide(total, self.number, out=np.zeros_like(total), where=filled)


def _binned_radius(radius: Image, valid: Valid) -> _Bins | None:
    bins = np.rint(np.maximum(radius - radius[valid].min(), 0.0)).astype(np.int64)
    kept = valid & (radius > 0.5)
    kept &= (np.bincount(bins[kept], minlength=int(bins.max()) + 1) >= _LEAST_PIXELS)[bins]
    number = np.bincount(bins[kept], minlength=int(bins.max()) + 1).astype(np.float64)
    return _Bins(bins, kept, number) if np.count_nonzero(number) >= _LEAST_BINS else None


def _fit(image: Image, valid: Valid, centre: NDArray[np.float64]) -> _Fit | None:
    """Step of the centre, its covariance, and what the profile leaves."""
    y, x = np.indices(image.shape, dtype=np.float64)
    down, across = y - centre[0], x - centre[1]
    radius = np.hypot(down, across)
    rings = _binned_radius(radius, valid)
    if rings is None:
        return None
    known = rings.number > 0
    places, profile = rings.mean(radius)[known], rings.mean(image)[known]
    floor = 0.05 * max(float(image[valid].mean()), np.finfo(float).tiny)
    weight = np.where(rings.kept, 1.0 / np.maximum(rings.mean(image), floor)[rings.bins], 0.0)
    slope = np.interp(radius, places, np.gradient(profile, places))
    regressors = np.stack([-slope * part / np.maximum(radius, 0.5) for part in (down, across)])
    # What is the same all round a ring belongs to the profile.
    regressors -= np.stack([rings.mean(one)[rings.bins] for one in regressors])
    residual = np.where(rings.kept, image - np.interp(radius, places, profile), 0.0)
    residual = np.where(rings.kept, residual - rings.mean(residual)[rings.bins], 0.0)
    normal = np.einsum("iyx,jyx,yx->ij", regressors, regressors, weight)
    if not np.linalg.cond(normal) < 1e8:
        return None
    inverse = np.linalg.inv(normal)
    step = inverse @ np.einsum("iyx,yx,yx->i", regressors, weight, residual)
    left = residual - np.einsum("i,iyx->yx", step, regressors)
    scores = block_sums(regressors * weight * left)
    return _Fit(step, inverse @ (scores @ scores.T) @ inverse, left, weight)


def _explained(image: Image, valid: Valid, fit: _Fit) -> float:
    """Part of the structure that is no noise which the profile explains."""
    gain = noise_gain(image, valid)
    total = float(fit.weight.sum())
    mean = float((fit.weight * image).sum()) / total
    noise = gain * float((fit.weight * np.maximum(image, 0.0)).sum())
    structure = float((fit.weight * (image - mean) ** 2).sum()) - noise
    left = float((fit.weight * fit.residual**2).sum()) - noise
    return 1.0 - left / structure if structure > 0 else 0.0
