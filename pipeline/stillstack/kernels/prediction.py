"""How normal equations at whole pixels are interpolated, made for the reference's own spectrum.

The scalar product of a frame with a regressor, as a function of the displacement, is a correlation
of the scene with its own smoothed gradient. Its spectrum is the reference's, so the best weights
of the values at a few whole pixels are known beforehand: those with the smallest mean square error
for a signal of that spectrum (linear prediction, or kriging), which keep a straight line and let
the correlation of the reference with its own gradient vanish where it has to. Weights that serve
every spectrum alike (Lagrange's) are off by 0.01 px where features are hardly sampled.

What lies above the Nyquist frequency appears below it, folded over, and moves the other way. How
much that is cannot be seen, but expected: power falls on beyond the Nyquist frequency at least as
it fell towards it. Its mean effect is part of what the weights undo; as much is the doubt that is
left, since a shift that is wrong so leaves no trace in the residuals.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels import smoothing
from stillstack.kernels.between import (
    IMAGE_POINTS,
    POINTS,
    Between,
    between_wide,
    offsets,
    places_around,
)
from stillstack.kernels.compiling import compiled_sums, locked
from stillstack.kernels.denoising import SAMPLE_PX, Denoised
from stillstack.kernels.levels import Array

# Displacements at which correlations are taken, px; farther than NEAR they are faded out.
REACH, NEAR = 16, 5
N_WAVES = 128
# What the gradient misses counts so much more than the mean square error: no bias is left.
BIAS_WEIGHT = 1e3
# Of the power, lest the equations be singular for features that are wide.
FLOOR = 1e-9
# Power at the Nyquist frequency has to stand so many standard deviations above the noise.
SIGNAL_LIMIT = 4.0
_SECOND = np.array([1.0, -2.0, 1.0])
_ONE = np.array([1.0])

_WAVES = (np.arange(N_WAVES) + 0.5) * np.pi / N_WAVES
_LAGS = np.arange(-REACH, REACH + 1)
_FADE = 0.5 + 0.5 * np.cos(np.pi * np.clip((np.abs(_LAGS) - NEAR) / (REACH + 1.0 - NEAR), 0.0, 1.0))
_COSINES = np.cos(np.outer(_WAVES, _LAGS)) * _FADE
_SINES = np.sin(np.outer(_WAVES, _LAGS)) * _FADE


def predicted(filled: Array, denoised: Denoised, factor: int) -> Between:
    """Weights made for a reference.

    Parameters
    ----------
    filled
        The raw reference (y, x), less its mean, without invalid pixels.
    denoised
        The same smoothed to its own noise level.
    factor
        Side of the bins in which frames are compared with it, px.
    """
    window = _window(denoised.solid)
    raw = np.ascontiguousarray(filled[window])
    weight = np.where(denoised.solid, 1.0 / denoised.variance, 0.0)[window]
    made = [_along(axis, raw, weight, window, denoised, factor) for axis in (0, 1)]
    equations, image, doubt = (np.stack(tables) for tables in zip(*made, strict=True))
    return Between(equations, image, doubt)


def _window(solid: NDArray[np.bool_]) -> tuple[slice, slice]:
    """A middle part decides as well as the whole, if enough of it is solid."""
    y, x = (slice(max(0, (n - SAMPLE_PX) // 2), (n + SAMPLE_PX) // 2) for n in solid.shape)
    if np.count_nonzero(solid[y, x]) >= 0.25 * solid[y, x].size:
        return y, x
    return slice(None), slice(None)


def _along(
    axis: int,
    raw: Array,
    weight: Array,
    window: tuple[slice, slice],
    denoised: Denoised,
    factor: int,
) -> tuple[Array, Array, Array]:
    """Weights of the equations and of the image, and the doubt, along one axis."""
    g0, g1 = smoothing.smoothing_kernels(denoised.sigma)[:2]
    centre = float(g0[g0.size // 2])
    gradient = denoised.images[1 + axis][window]
    flat = (weight > 0.0).astype(np.float64)
    variance = denoised.variance[window] * denoised.noise_share
    bins = (np.sin(0.5 * factor * _WAVES) / (factor * np.sin(0.5 * _WAVES))) ** 2
    # Noise of the reference enters products of two of its derivatives: expected, hence known.
    noise = _centred(g1 * centre)
    weighted = _lag_sums(raw, weight * gradient, axis) - noise * (weight * variance).sum()
    unweighted = _lag_sums(raw, flat * gradient, axis) - noise * (flat * variance).sum()
    power = bins * (_SINES @ weighted)
    plain = bins * np.maximum(_SINES @ unweighted, 0.0)
    if not (power @ _WAVES > 0.0 and plain @ _WAVES > 0.0):
        wide = between_wide()
        return wide.equations[axis], wide.image[axis], wide.doubt[axis]
    share = _folded_share(raw, flat, variance, axis, g0)
    # Weights that follow the features blur their spectrum; what is folded shows without them.
    folded = plain * share * (power @ _WAVES) / (plain @ _WAVES)
    equations, doubt = _designed(power, folded, share, POINTS)
    image, _ = _designed(power, None, np.zeros_like(share), IMAGE_POINTS)
    return equations, image, doubt


def _folded_share(raw: Array, flat: Array, variance: Array, axis: int, g0: Array) -> Array:
    """Part of the power at each wave number that belongs to its mirror image beyond Nyquist.

    The logarithm of the power is taken to go on straight, as seen from the Nyquist frequency: with
    power P(k) + P(2 pi - k) seen at k, P(k) P(2 pi - k) = P(pi)^2.
    """
    sharp = (_SECOND, _ONE) if axis == 0 else (_ONE, _SECOND)
    smooth = (_ONE, g0) if axis == 0 else (g0, _ONE)
    high = smoothing.separable(raw, *sharp)
    sums = _lag_sums(high, flat * smoothing.separable(high, *smooth), axis)
    centre = float(g0[g0.size // 2])
    chance = float((flat * variance).sum()) * centre
    sums -= chance * _centred(np.convolve(_SECOND, _SECOND))
    power = (_COSINES @ sums) / (2.0 * np.sin(0.5 * _WAVES)) ** 4
    # Of white noise, from so many pixels at this resolution.
    pixels = max(np.count_nonzero(flat), 1)
    fluctuation = chance * np.sqrt(2.0 * (_FADE**2).sum() / pixels * float(g0 @ g0)) / centre
    last = float(power[-N_WAVES // 16 :].mean())
    if last <= SIGNAL_LIMIT * fluctuation:
        return np.zeros(N_WAVES)
    # Falling all the way: what noise leaves of the power is no sign of folding.
    seen = np.maximum(np.maximum.accumulate(power[::-1])[::-1], last)
    # Of low frequencies second differences tell nothing; nor is any of their power folded.
    share = 0.5 * (1.0 - np.sqrt(np.maximum(1.0 - (last / seen) ** 2, 0.0)))
    return np.where(0.3 * np.pi < _WAVES, share, 0.0)


def _designed(power: Array, folded: Array | None, share: Array, points: int) -> tuple[Array, Array]:
    """Best weights at each offset, and the effect of what is folded, px.

    Parameters
    ----------
    power
        Spectrum of the correlation of the scene with its gradient, odd.
    folded
        Part of it that is folded; None if its zero need not be kept.
    share
        Part of the power that is folded.
    points
        Number of whole pixels.
    """
    places, steps = places_around(points), offsets()
    known = np.maximum(power, 0.0)
    known /= known.sum()

    def covariance(u: Array) -> Array:
        inside = np.cos(np.multiply.outer(u, _WAVES)) @ (known * (1.0 - share))
        beyond = np.cos(np.multiply.outer(u, 2.0 * np.pi - _WAVES)) @ (known * share)
        return np.asarray(inside + beyond)

    apart = places - steps[:, None]
    system = np.zeros((steps.size, points + 2, points + 2))
    right = np.zeros((steps.size, points + 2))
    system[:, :points, :points] = covariance(places[:, None] - places) + FLOOR * np.eye(points)
    right[:, :points] = covariance(apart)
    # A constant and a straight line are kept.
    system[:, points, :points] = system[:, :points, points] = 1.0
    right[:, points] = 1.0
    system[:, points + 1, :points] = system[:, :points, points + 1] = apart
    wrong = np.zeros_like(apart)
    if folded is not None:
        sines = np.sin(np.multiply.outer(apart, _WAVES))
        slope = float(power @ _WAVES) - 2.0 * np.pi * float(folded.sum())
        slope = max(slope, 0.1 * float(power @ _WAVES))
        wrong = (np.sin(np.multiply.outer(apart, _WAVES - 2.0 * np.pi)) - sines) @ folded / slope
        odd = sines @ power / slope + wrong
        system[:, :points, :points] += BIAS_WEIGHT * odd[:, :, None] * odd[:, None, :]
    weights = np.linalg.solve(system, right[..., None])[:, :points, 0]
    return np.asarray(weights, np.float64), np.abs((weights * wrong).sum(axis=1))


def _centred(kernel: Array) -> Array:
    """A kernel at the displacements of `_LAGS`."""
    half = kernel.size // 2
    if half > REACH:
        return kernel[half - REACH : half + REACH + 1].copy()
    return np.pad(kernel, REACH - half)


@compiled_sums
def _lag_sums_along_y(image, other, sums):  # type: ignore[no-untyped-def]
    n_y = image.shape[0]
    reach = sums.size // 2
    for j in range(n_y):
        there = other[j]
        for lag in range(max(-reach, -j), min(reach, n_y - 1 - j) + 1):
            here = image[j + lag]
            total = 0.0
            for i in range(there.size):
                total += here[i] * there[i]
            sums[reach + lag] += total


@compiled_sums
def _lag_sums_along_x(image, other, sums):  # type: ignore[no-untyped-def]
    n_x = image.shape[1]
    reach = sums.size // 2
    for j in range(image.shape[0]):
        for lag in range(max(-reach, 1 - n_x), min(reach, n_x - 1) + 1):
            first, last = max(0, -lag), n_x - max(0, lag)
            here, there = image[j, first + lag : last + lag], other[j, first:last]
            total = 0.0
            for i in range(there.size):
                total += here[i] * there[i]
            sums[reach + lag] += total


def _lag_sums(image: Array, other: Array, axis: int) -> Array:
    """Sum of ``image(x + lag) other(x)`` for the displacements of `_LAGS` along one axis."""
    sums = np.zeros(_LAGS.size)
    loop = _lag_sums_along_y if axis == 0 else _lag_sums_along_x
    loop(locked(image), locked(np.ascontiguousarray(other)), sums)
    return sums
