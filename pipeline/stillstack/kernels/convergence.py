"""From a coarse displacement to a fraction of a pixel, struck pixels left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels import refinement
from stillstack.kernels.between import Between
from stillstack.kernels.columns import lost_bins
from stillstack.kernels.levels import Array, Level, Pair
from stillstack.kernels.moments import LevelView, patch_around
from stillstack.kernels.observation import Observation, struck_pixels
from stillstack.kernels.reference import Reference
from stillstack.kernels.refinement import LinearFit
from stillstack.kernels.residuals import Residuals, residuals

MAX_STEPS = 8
STEP_PX = 1e-4
# A longer linear step is made again from the nearer whole pixel.
LARGEST_STEP_PX = 0.6
SAME_SIDE_PX = 0.05
STRUCK_SIGMA = 6.0
MAX_STRUCK_ROUNDS = 4
# Where more bins are far darker than the model, it is the model that does not hold.
MAX_UNLIKE = 0.01
# Where a whole pixel changes the linear step by less, the frame does not follow the reference.
LEAST_SLOPE = 0.02


Solved = tuple[Array, Array, LinearFit, LevelView]


@dataclass(frozen=True, eq=False)
class Convergence:
    """A converged fit.

    Parameters
    ----------
    displacement
        Where the scene has moved, px (y, x).
    slope
        Change of the linear step per displacement, (2, 2).
    fit, left
        About the nearest whole pixel, and what it leaves.
    expected
        Weighted sum of squares that noise alone would leave.
    struck
        Struck pixels, places in the flat frame.
    """

    displacement: Array
    slope: Array
    fit: LinearFit
    left: Residuals
    expected: float
    struck: NDArray[np.int64]


def converge(seen: Observation, reference: Reference, start: Array) -> Convergence | None:
    """From coarse to fine: each level halves what the one before leaves."""
    u = start
    for level, view in zip(reference.levels[:-1], seen.levels[:-1], strict=True):
        for _ in range(2):
            near = _nearest(u, level.factor)
            fit = refinement.fit_linear(level, near, view)
            if fit is None:
                break
            # A handful of numbers: plain floats are faster than arrays of two.
            scaled = (fit.step * level.scale).tolist()
            y, x = (min(max(s, -level.factor), level.factor) for s in scaled)
            u = np.array([near[0] + y, near[1] + x])
            if max(abs(y), abs(x)) < 0.6 * level.factor:
                break
    return settle(seen, reference, u)


def _nearest(u: Array, factor: int) -> Pair:
    y, x = u.tolist()
    return round(y / factor) * factor, round(x / factor) * factor


def settle(seen: Observation, reference: Reference, start: Array) -> Convergence | None:
    """Least squares at the finest level, struck pixels left out."""
    level, view = reference.levels[-1], seen.levels[-1]
    between = reference.between
    struck, unlike = np.empty(0, np.int64), np.empty(0, np.int64)
    for _ in range(MAX_STRUCK_ROUNDS):
        solved = _solve(view, reference, start)
        if solved is None:
            return None
        u, slope, fit, inside = solved
        noise = expected_residual(fit, seen, reference)
        limit = STRUCK_SIGMA * math.sqrt(noise / max(fit.moments.n_bins, 1))
        left = residuals(level, fit, inside, limit=limit, between=between)
        if not left.n_marked and not seen.brighter:
            break
        marks = np.zeros(view.mean.shape, np.int8)
        residuals(level, fit, inside, limit=limit, marks=marks, between=between)
        # Off the support no residual tells; what is brighter than any of the scene is struck there.
        bright = (marks > 0) | (seen.fine > seen.levels[-1].mean)
        more = np.setdiff1d(struck_pixels(bright, seen, reference), struck)
        # Hot in the reference, or dead in the frame: nobody's shift.
        darker = np.setdiff1d(np.flatnonzero(marks < 0), unlike)
        if unlike.size + darker.size > MAX_UNLIKE * left.n_bins:
            darker = darker[:0]
        if not more.size and not darker.size:
            break
        struck, unlike = np.union1d(struck, more), np.union1d(unlike, darker)
        view, start = _without(view, struck, unlike, seen, level), u
    return Convergence(u, slope, fit, left, noise, struck)


def _without(
    view: LevelView,
    struck: NDArray[np.int64],
    unlike: NDArray[np.int64],
    seen: Observation,
    level: Level,
) -> LevelView:
    """The finest level without some bins, and with what had been cut down where pixels are struck.

    ``struck``: pixels, places in the flat frame; ``unlike``: bins, places in the flat level.
    """
    y, x = np.unravel_index(struck, seen.frame.shape)
    inside = (y < view.mean.shape[0] * level.factor) & (x < view.mean.shape[1] * level.factor)
    bins = (y[inside] // level.factor, x[inside] // level.factor)
    mean = (seen.fine if struck.size else view.mean).copy()
    usable = view.usable.copy()
    usable[bins] = 0
    usable.ravel()[unlike] = 0
    mean[usable == 0] = 0.0
    return LevelView(mean, usable, lost_bins(level.usable, usable))


def _solve(view: LevelView, reference: Reference, start: Array) -> Solved | None:
    """Displacement, slope of steps, the fit about the nearest whole pixel, the bins it used."""
    u = start
    limit = reference.max_shift_px + 2 * reference.levels[0].factor
    for _ in range(MAX_STEPS):
        near = _nearest(u, 1)
        fit = refinement.fit_linear(reference.levels[-1], near, view)
        if fit is None:
            return None
        step = reference.unslope @ fit.step
        y, x = step.tolist()
        if max(abs(y), abs(x)) <= LARGEST_STEP_PX:
            if reference.between is not None:
                return _between(view, reference, reference.between, near + step)
            u = near + refinement.cubic_inverse(step, reference.cubic)
            return u, reference.slope, fit, view
        u = near + np.clip(step, -2.0, 2.0)
        if np.abs(u).max() > limit:
            return None
    return None


def _between(
    view: LevelView, reference: Reference, between: Between, start: Array
) -> Solved | None:
    """Where the step vanishes between whole pixels."""
    u, patch = start, None
    for _ in range(MAX_STEPS):
        corner = (int(np.floor(u[0])), int(np.floor(u[1])))
        # An answer on a whole pixel may be interpolated from either side.
        if patch is None or np.abs(u - patch.corner - 0.5).max() > 0.5 + SAME_SIDE_PX:
            patch = patch_around(reference.levels[-1], corner, between, view)
        fit, slope = refinement.solve(patch.at(u), corner), refinement.slope_at(patch, u)
        if fit is None or slope is None:
            return None
        if np.linalg.eigvalsh(0.5 * (slope + slope.T))[0] < LEAST_SLOPE:
            return None
        move = np.clip(np.linalg.solve(slope, fit.step), -1.0, 1.0)
        if np.abs(move).max() < STEP_PX:
            near = _nearest(u, 1)
            theta = fit.theta.copy()
            theta[4:6] = -theta[0] * (u - near)
            return u, slope, replace(fit, displacement=near, theta=theta), patch.seen
        u = u + move
        if np.abs(u - start).max() > 2.0:
            return None
    return None


def expected_residual(fit: LinearFit, seen: Observation, reference: Reference) -> float:
    """Weighted sum of squared residuals that noise alone would leave."""
    gain, read_noise = reference.settings.noise
    pixels = reference.levels[-1].factor ** 2
    # What of the frame's mean brings photon noise is known where the reference has no pedestal.
    counted = reference.offset - reference.pedestal if reference.pedestal > 0.0 else seen.pedestal
    weights = fit.moments.normal[1].tolist()
    scene = sum(t * w for t, w in zip(fit.theta[:4].tolist(), weights[:4], strict=True))
    typical = gain * max(counted, 0.0) + read_noise**2
    variance = gain * (scene + counted * weights[1]) + read_noise**2 * weights[1]
    return float(max(variance, 0.05 * typical * weights[1], 1e-30)) / pixels
