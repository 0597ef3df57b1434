"""Weights of whole pixels for what lies between them: equations, and the reference itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillstack.kernels.levels import Array

# Whole pixels between which equations, and the reference itself, are interpolated.
POINTS, IMAGE_POINTS = 4, 6
# Slopes need weights a little outside the middle pixel.
BEYOND_PX = 0.5
STEPS_PER_PX = 256


@dataclass(frozen=True, eq=False)
class Between:
    """Weights of whole pixels for what lies between them, along y and x.

    Parameters
    ----------
    equations
        (2, steps, points): for displacements from `BEYOND_PX` below a pixel to as much above the
        next, the weights of the whole pixels around for the normal equations.
    image
        (2, steps, 6): the same for the reference itself.
    doubt
        (2, steps): what is not known of the answer there, since the reference is not known above
        its Nyquist frequency; px.
    """

    equations: Array
    image: Array
    doubt: Array

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take, bytes."""
        return self.equations.nbytes + self.image.nbytes + self.doubt.nbytes

    def taps(self, axis: int, offset: float) -> Array:
        """Weights of the normal equations for an offset from the pixel below, px."""
        return _at(self.equations[axis], offset)

    def image_taps(self, axis: int, offset: float) -> Array:
        """Weights of the reference, six whole pixels of it, for an offset from the pixel below."""
        return _at(self.image[axis], offset)

    def doubt_at(self, displacement: Array) -> tuple[float, float]:
        """Standard deviation along y and x that no residual shows, px."""
        y, x = (u - np.floor(u) for u in displacement.tolist())
        return float(_at(self.doubt[0], y)), float(_at(self.doubt[1], x))


def _at(table: Array, offset: float) -> Array:
    place = (offset + BEYOND_PX) * STEPS_PER_PX
    below = min(max(int(place), 0), len(table) - 2)
    part = min(max(place - below, 0.0), 1.0)
    weights: Array = (1.0 - part) * table[below] + part * table[below + 1]
    return weights


def lagrange(t: float, points: int) -> Array:
    """Weights of ``points`` whole places, half of them up to 0, for the value at ``t``."""
    places = places_around(points)
    weights = np.ones(points)
    for k, p in enumerate(places):
        for q in places:
            if q != p:
                weights[k] *= (t - q) / (p - q)
    return weights


def places_around(points: int) -> Array:
    """So many whole places, half of them up to 0."""
    return np.arange(1.0 - points // 2, 1.0 + points // 2)


def offsets() -> Array:
    """Offsets from the pixel below for which weights are kept."""
    return np.linspace(-BEYOND_PX, 1.0 + BEYOND_PX, round((1 + 2 * BEYOND_PX) * STEPS_PER_PX) + 1)


def between_wide() -> Between:
    """Weights for features so wide that any do."""
    tables = [
        np.array([lagrange(t, points) for t in offsets()]) for points in (POINTS, IMAGE_POINTS)
    ]
    equations, image = (np.stack([table, table]) for table in tables)
    return Between(equations, image, np.zeros(equations.shape[:2]))
