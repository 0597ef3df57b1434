"""From a coarse displacement to a fraction of a pixel, struck pixels left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels import levels, refinement
from stillstack.kernels.levels import Array, Float32, Level
from stillstack.kernels.observation import Observation, struck_pixels
from stillstack.kernels.reference import Reference
from stillstack.kernels.refinement import LinearFit, Residuals

MAX_STEPS = 8
# A step so short leaves nothing that matters: the next one would be a hundred times shorter.
STEP_PX = 0.03
STRUCK_SIGMA = 6.0
MAX_STRUCK_ROUNDS = 4
# Where a whole pixel changes the linear step by less, the frame does not follow the reference.
LEAST_SLOPE = 0.02


@dataclass(frozen=True, eq=False)
class Convergence:
    """A converged fit."""

    displacement: Array
    slope: Array
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
    found = _whole_pixel(mean, usable, reference, start)
    if found is None:
        return None
    near, slope = found
    struck = np.empty(0, np.int64)
    # Off the support no residual tells; what is brighter than any of the scene is struck there too.
    too_bright = seen.fine > mean
    for _ in range(MAX_STRUCK_ROUNDS):
        solved = _solve(mean, usable, reference, near, slope)
        if solved is None:
            return None
        u, fit, about = solved
        marks = np.zeros(mean.shape, bool)
        noise = _bin_noise(seen, reference)
        left = refinement.residuals(
            mean, usable, about, fit, noise, struck_limit=STRUCK_SIGMA, struck=marks
        )
        marks |= too_bright
        more = np.setdiff1d(struck_pixels(marks, seen, reference), struck)
        if not more.size:
            break
        struck = np.union1d(struck, more)
        mean, usable = seen.fine, usable.copy()
        y, x = np.unravel_index(more, seen.frame.shape)
        usable[y // level.factor, x // level.factor] = 0.0
    if np.any(np.abs(u - near) > 1.0):
        return None
    return Convergence(u, slope, fit, left, struck)


def _whole_pixel(
    mean: Float32, usable: Float32, reference: Reference, start: Array
) -> tuple[tuple[int, int], Array] | None:
    """The whole-pixel displacement from which the step is short, and the slope of steps there."""
    near = _nearest(start, 1)
    limit = reference.max_shift_px + 2 * reference.levels[0].factor
    for _ in range(MAX_STEPS):
        linear = _linear_step(mean, usable, reference, near)
        slope = _slope(mean, usable, reference, near)
        if linear is None or slope is None:
            return None
        step = np.linalg.solve(slope, linear)
        if np.all(np.abs(step) <= 0.6):
            return near, slope
        moved = np.array(near) + np.clip(step, -2.0, 2.0)
        if np.any(np.abs(moved) > limit):
            return None
        near = _nearest(moved, 1)
    return None


def _linear_step(
    mean: Float32, usable: Float32, reference: Reference, near: tuple[int, int]
) -> Array | None:
    fit = refinement.fit_linear(mean, usable, reference.levels[-1], near)
    return None if fit is None or not np.all(np.isfinite(fit.step)) else fit.step


def _slope(
    mean: Float32, usable: Float32, reference: Reference, near: tuple[int, int]
) -> Array | None:
    """Linear step per true displacement: as predicted, or measured between whole pixels."""
    if not reference.noisy:
        return reference.slope
    columns = []
    for axis in range(2):
        steps = []
        for sign in (-1, 1):
            beside = (near[0] + sign * (axis == 0), near[1] + sign * (axis == 1))
            steps.append(_linear_step(mean, usable, reference, beside))
        before, after = steps
        if before is None or after is None:
            return None
        columns.append(0.5 * (before - after))
    slope = np.stack(columns, axis=1)
    lowest = float(np.linalg.eigvalsh(0.5 * (slope + slope.T))[0])
    return slope if lowest > LEAST_SLOPE else None


def _solve(
    mean: Float32,
    usable: Float32,
    reference: Reference,
    near: tuple[int, int],
    slope: Array,
) -> tuple[Array, LinearFit, Level] | None:
    """Displacement, the fit about it, and the regressors of that fit."""
    level = reference.levels[-1]
    fit = refinement.fit_linear(mean, usable, level, near)
    if fit is None or not np.all(np.isfinite(fit.step)):
        return None
    step = np.clip(np.linalg.solve(slope, fit.step), -1.0, 1.0)
    # A slope measured between whole pixels has the cubic term in it already.
    step = step if reference.noisy else refinement.cubic_inverse(step, reference.cubic)
    u = np.array(near) + step
    if not reference.narrow:
        return u, fit, level
    for _ in range(MAX_STEPS):
        about = levels.displaced(level, u)
        fit = refinement.fit_linear(mean, usable, about, (0, 0))
        if fit is None or not np.all(np.abs(fit.step) < 1.0):
            return None
        step = np.linalg.solve(slope, fit.step)
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
