"""From a coarse displacement to a fraction of a pixel, struck pixels left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels import levels, refinement
from stillstack.kernels.levels import Array, Level
from stillstack.kernels.observation import Observation, struck_pixels
from stillstack.kernels.reference import Reference
from stillstack.kernels.refinement import LinearFit, Residuals

MAX_STEPS = 8
# A step so short leaves nothing that matters: the next one would be a hundred times shorter.
STEP_PX = 0.03
STRUCK_SIGMA = 6.0
MAX_STRUCK_ROUNDS = 4


@dataclass(frozen=True, eq=False)
class Convergence:
    """A converged fit."""

    displacement: Array
    fit: LinearFit
    left: Residuals
    struck: NDArray[np.int64]


def converge(seen: Observation, reference: Reference, start: Array) -> Convergence | None:
    """From coarse to fine: each level halves what the one before leaves."""
    u = start
    for level, (mean, usable) in zip(reference.levels[:-1], seen.clipped[:-1], strict=True):
        for _ in range(2):
            near = _nearest(u, level.factor)
            fit = refinement.fit_linear(mean, usable, level, near)
            if fit is None or not np.all(np.isfinite(fit.step)):
                break
            step = np.clip(fit.step, -level.factor, level.factor)
            u = np.array(near) + step
            if np.all(np.abs(step) < 0.6 * level.factor):
                break
    return settle(seen, reference, u)


def _nearest(u: Array, factor: int) -> tuple[int, int]:
    y, x = (int(np.rint(v / factor)) * factor for v in u)
    return y, x


def settle(seen: Observation, reference: Reference, start: Array) -> Convergence | None:
    """Least squares at the finest level about the nearest whole pixel, struck pixels left out."""
    level = reference.levels[-1]
    mean, usable = seen.clipped[-1]
    near = _whole_pixel(mean, usable, reference, start)
    if near is None:
        return None
    struck = np.empty(0, np.int64)
    for _ in range(MAX_STRUCK_ROUNDS):
        solved = _solve(mean, usable, reference, near)
        if solved is None:
            return None
        u, fit, about = solved
        marks = np.zeros(mean.shape, bool)
        noise = _bin_noise(seen, reference)
        left = refinement.residuals(
            mean, usable, about, fit, noise, struck_limit=STRUCK_SIGMA, struck=marks
        )
        more = struck_pixels(marks, seen, reference) if left.suspects else struck[:0]
        if not more.size:
            break
        struck = np.union1d(struck, more)
        mean, usable = seen.fine, usable.copy()
        y, x = np.unravel_index(more, seen.frame.shape)
        usable[y // level.factor, x // level.factor] = 0.0
    if np.any(np.abs(u - near) > 1.0):
        return None
    return Convergence(u, fit, left, struck)


def _whole_pixel(
    mean: NDArray[np.float32], usable: NDArray[np.float32], reference: Reference, start: Array
) -> tuple[int, int] | None:
    """The whole-pixel displacement from which the linear step is short."""
    level, near = reference.levels[-1], _nearest(start, 1)
    limit = reference.max_shift_px + 2 * reference.levels[0].factor
    for _ in range(MAX_STEPS):
        fit = refinement.fit_linear(mean, usable, level, near)
        if fit is None or not np.all(np.isfinite(fit.step)):
            return None
        step = np.linalg.solve(reference.slope, fit.step)
        if np.all(np.abs(step) <= 0.6):
            return near
        moved = np.array(near) + np.clip(step, -2.0, 2.0)
        if np.any(np.abs(moved) > limit):
            return None
        near = _nearest(moved, 1)
    return None


def _solve(
    mean: NDArray[np.float32],
    usable: NDArray[np.float32],
    reference: Reference,
    near: tuple[int, int],
) -> tuple[Array, LinearFit, Level] | None:
    """Displacement, the fit about it, and the regressors of that fit."""
    level = reference.levels[-1]
    fit = refinement.fit_linear(mean, usable, level, near)
    if fit is None or not np.all(np.isfinite(fit.step)):
        return None
    step = np.linalg.solve(reference.slope, fit.step)
    u = np.array(near) + refinement.cubic_inverse(np.clip(step, -1.0, 1.0), reference.cubic)
    if not reference.narrow:
        return u, fit, level
    for _ in range(MAX_STEPS):
        about = levels.displaced(level, u)
        fit = refinement.fit_linear(mean, usable, about, (0, 0))
        if fit is None or not np.all(np.abs(fit.step) < 1.0):
            return None
        step = np.linalg.solve(reference.slope, fit.step)
        u = u + step
        if np.all(np.abs(step) < STEP_PX):
            return u, fit, about
    return None


def _bin_noise(seen: Observation, reference: Reference) -> tuple[float, float, float, float]:
    gain, read_noise = reference.settings.noise
    pixels = reference.levels[-1].factor ** 2
    # What of the frame's mean brings photon noise is known where the reference has no pedestal.
    counted = reference.offset - reference.pedestal if reference.pedestal > 0.0 else seen.offset
    typical = gain * max(counted, 0.0) + read_noise**2
    smallest = max(0.05 * typical, 1e-30)
    return counted, gain / pixels, read_noise**2 / pixels, smallest / pixels
