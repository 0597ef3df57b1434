"""The reference smoothed to its own noise level, and what that does to the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.kernels import smoothing
from stillstack.kernels.compiling import compiled_sums, locked
from stillstack.kernels.levels import Array
from stillstack.kernels.reference import Settings

SMOOTHING_PX = (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
# Side of the middle part on which the smoothing is chosen.
SAMPLE_PX = 1024
NOISE_BLOCK_PX = 8
MIN_SLOPE = 0.5
# Gradients have to stand so many standard deviations of their noise above it.
SIGNAL_LIMIT = 5.0
PEDESTAL_PART = 0.8
_FOURTH = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / np.sqrt(70.0)
# Features are narrow where, half a pixel off, the cubic term is above this part of the standard
# deviation of a frame's shift, or curvature above this part of the photon noise.
CUBIC_LIMIT = 0.3
CURVATURE_LIMIT = 0.02
BIAS_LIMIT_PX = 2e-4


@dataclass(frozen=True, eq=False)
class Denoised:
    """The smoothed reference, its derivatives, and what smoothing did to the answer.

    Parameters
    ----------
    sigma
        Width of the smoothing, px.
    images
        The smoothed image, and its derivatives along y and x.
    solid
        Pixels that the support may use.
    variance
        Of a pixel of one frame, counts^2.
    slope, cubic, covariance
        See `Reference`; the covariance is that of one frame's shift, px^2.
    noise_part
        Part of the squared gradients that is noise.
    noise_share
        Variance of a pixel of the reference over that of a frame.
    """

    sigma: float
    images: list[Array]
    solid: NDArray[np.bool_]
    variance: Array
    slope: Array
    cubic: Array
    covariance: Array
    noise_part: float
    noise_share: float


@dataclass(frozen=True, eq=False)
class _Raw:
    """A reference as it is, and what no width of the smoothing changes.

    ``noise_share`` is the variance of a pixel of the reference over that of a frame. ``inner`` are
    the pixels whose plain gradients, ``raw``, see nothing that was filled in.
    """

    filled: Array
    valid: NDArray[np.bool_]
    variance: Array
    noise_share: float
    raw: tuple[Array, Array]
    inner: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Trial:
    """One width of the smoothing, and how large an error of the shift it predicts.

    ``weight`` is the inverse variance on the support, ``noise`` what white noise in the reference
    is expected to add to a sum of squares; ``inverse`` takes right hands to steps.
    """

    sigma: float
    gradient: tuple[Array, Array]
    solid: NDArray[np.bool_]
    weight: Array
    noise: float
    slope: Array
    inverse: Array
    covariance: Array
    noise_part: float


def denoise(filled: Array, valid: NDArray[np.bool_], offset: float, settings: Settings) -> Denoised:
    """The smoothing with the smallest predicted error of the shift."""
    variance = _variance(filled, valid, offset, settings)
    n_frames = max(settings.n_frames, 1.0)
    share = max(1.0, noise_excess(filled, valid, variance / n_frames)) / n_frames
    sigma = _best_width(filled, valid, variance, share)
    whole = _raw(filled, valid, variance, share)
    best = _tried(whole, sigma)
    if best is None:
        raise InputError(
            f"Of the {np.count_nonzero(valid)} valid pixels of the reference none is far enough "
            "from an invalid one, or the image has no structure above its noise along one axis.",
            consequence="No shift can be measured.",
            cure="Exclude fewer pixels, or choose another reference.",
        )
    return _denoised(whole, best)


def _best_width(
    filled: Array, valid: NDArray[np.bool_], variance: Array, noise_share: float
) -> float:
    """Width of the smoothing, chosen on a middle part: of a large image it decides as the whole."""
    y, x = (slice(max(0, (n - SAMPLE_PX) // 2), (n + SAMPLE_PX) // 2) for n in valid.shape)
    sample = _raw(filled[y, x], valid[y, x], variance[y, x], noise_share)
    tried = [
        (_noisy(trial), float(np.trace(trial.covariance)), sigma)
        for sigma in SMOOTHING_PX
        if (trial := _tried(sample, sigma))
    ]
    return min(tried)[-1] if tried else SMOOTHING_PX[-1]


def _raw(filled: Array, valid: NDArray[np.bool_], variance: Array, noise_share: float) -> _Raw:
    one = np.array([1.0])
    raw = (
        smoothing.separable(filled, smoothing.PLAIN_GRADIENT, one),
        smoothing.separable(filled, one, smoothing.PLAIN_GRADIENT),
    )
    return _Raw(filled, valid, variance, noise_share, raw, smoothing.solid(valid, 2.0, 0.99))


def _noisy(trial: _Trial) -> bool:
    """Whether so much of the gradients is noise that an error in its level would decide."""
    return float(np.diag(trial.slope).min()) < MIN_SLOPE


def pedestal_of(
    filled: Array, valid: NDArray[np.bool_], offset: float, settings: Settings
) -> float:
    """Counts without photon noise: a level far above zero that brings less noise than it should.

    A quiet image alone proves nothing, since a mean of interpolated frames or a simulated
    reference is quiet too.
    """
    lowest = float(np.quantile(filled[valid], 0.01)) + offset
    if not settings.gain > 0.0 or lowest < PEDESTAL_PART * offset:
        return 0.0
    variance = _variance(filled, valid, offset, settings)
    excess = noise_excess(filled, valid, variance / max(settings.n_frames, 1.0))
    return min(lowest, (1.0 - excess) * offset) if excess < 0.5 else 0.0


def noise_excess(filled: Array, valid: NDArray[np.bool_], variance: Array) -> float:
    """White noise that an image shows, over the variance that it is thought to have.

    Seen in fourth differences along both axes, which features wider than 1.5 px hardly enter;
    the median over small blocks leaves out those with sharper ones.
    """
    high = smoothing.separable(filled, _FOURTH, _FOURTH) ** 2
    inner = smoothing.solid(valid, 0.7, 0.999)
    count = _block_sums(inner.astype(np.float64))
    seen, expected = (
        _block_sums(np.where(inner, high, 0.0)),
        _block_sums(np.where(inner, variance, 0.0)),
    )
    whole = count >= 0.9 * NOISE_BLOCK_PX**2
    return float(np.median(seen[whole] / expected[whole])) if np.any(whole) else 1.0


def _block_sums(image: Array) -> Array:
    """Sums over blocks of ``NOISE_BLOCK_PX`` by ``NOISE_BLOCK_PX`` px."""
    side = NOISE_BLOCK_PX
    n_y, n_x = (n // side for n in image.shape)
    blocks = image[: n_y * side, : n_x * side].reshape(n_y, side, n_x, side)
    return np.asarray(blocks.sum(axis=(1, 3)), np.float64)


def pixel_variance(
    counts: NDArray[Any], where: NDArray[np.bool_], noise: tuple[float, float]
) -> Array:
    """Variance of one raw pixel, from its expected counts: gain times counts plus read noise.

    Nowhere less than a twentieth of its mean, so that no dark pixel outweighs all others.
    """
    gain, read_noise = noise
    variance = gain * np.maximum(counts.astype(np.float64), 0.0) + read_noise**2
    typical = float(variance[where].mean()) if where.any() else 1.0
    smallest = max(0.05 * typical, 1e8 * float(np.finfo(np.float32).tiny))
    return np.asarray(np.maximum(variance, smallest), np.float64)


def _variance(filled: Array, valid: NDArray[np.bool_], offset: float, settings: Settings) -> Array:
    """Variance of a raw pixel, from an image so smooth that its own noise hardly enters.

    Weights that follow the noise of the image they weight would bias every product of it.
    """
    sigma = 1.0
    if settings.gain > 0.0:  # else all noise is that of reading, the same everywhere
        events = max(offset, 1e-3 * settings.gain) / settings.gain * max(settings.n_frames, 1.0)
        sigma = float(np.clip(np.sqrt(200.0 / (4.0 * np.pi * events)), 1.0, 8.0))
    g0 = smoothing.gaussian_kernels(sigma)[0]
    smooth = smoothing.separable(filled, g0, g0)
    return pixel_variance(smooth + offset, valid, settings.noise)


def _tried(of: _Raw, sigma: float) -> _Trial | None:
    """Smoothing by ``sigma``, or None where no signal is left above the noise."""
    solid = smoothing.solid(of.valid, max(sigma, 1.0))
    if np.count_nonzero(solid) < 64:
        return None
    g0, g1 = smoothing.smoothing_kernels(sigma)[:2]
    gradient = (smoothing.separable(of.filled, g1, g0), smoothing.separable(of.filled, g0, g1))
    w = np.where(solid, 1.0 / of.variance, 0.0)
    # Noise of the reference enters products of two of its derivatives: expected, hence known.
    noise = float((w * of.variance).sum()) * of.noise_share
    own = products(gradient, gradient, w)
    d6 = np.zeros_like(g1)
    centre = d6.size // 2
    d6[centre - 3 : centre + 4] = smoothing.PLAIN_GRADIENT
    # Near invalid pixels the plain gradient sees filled values.
    inner = np.where(of.inner, w, 0.0)
    share = float((inner * of.variance).sum()) * of.noise_share
    chance = share * float(g1 @ d6) * float(g0[centre])
    cross = products(gradient, of.raw, inner) - chance * np.eye(2)
    chance = noise * float(g1 @ g1) * float(g0 @ g0)
    signal = own - chance * np.eye(2)
    # Smoothed noise has one independent value in about 4 pi sigma^2 pixels.
    fluctuation = chance * np.sqrt(8.0 * np.pi * max(sigma, 1.0) ** 2 / np.count_nonzero(solid))
    if np.linalg.eigvalsh(signal)[0] <= SIGNAL_LIMIT * fluctuation:
        return None
    if np.linalg.eigvalsh(0.5 * (cross + cross.T))[0] <= 0.0:
        return None
    slope = np.asarray(np.linalg.solve(products(gradient, gradient, inner), cross), np.float64)
    inverse = np.asarray(np.linalg.inv(own @ slope), np.float64)
    noise_part = 1.0 - float(np.linalg.eigvalsh(signal)[0] / np.linalg.eigvalsh(own)[0])
    return _Trial(
        sigma, gradient, solid, w, noise, slope, inverse, inverse @ own @ inverse.T, noise_part
    )


def _denoised(of: _Raw, best: _Trial) -> Denoised:
    """Everything that is wanted of the best smoothing."""
    kernels = smoothing.smoothing_kernels(best.sigma)
    cubic = _cubic_terms(of.filled, best.gradient, best.weight, best.noise, kernels)
    return Denoised(
        sigma=best.sigma,
        images=[smoothing.separable(of.filled, kernels[0], kernels[0]), *best.gradient],
        solid=best.solid,
        variance=of.variance,
        slope=best.slope,
        cubic=best.inverse @ cubic,
        covariance=best.covariance,
        noise_part=best.noise_part,
        noise_share=of.noise_share,
    )


def products(left: Sequence[NDArray[Any]], right: Sequence[NDArray[Any]], w: NDArray[Any]) -> Array:
    """Weighted sums of the products of each of ``left`` with each of ``right``."""
    weight = locked(w)
    return np.array(
        [[_sum_of_products(weight, locked(a), locked(b)) for b in right] for a in left], np.float64
    )


@compiled_sums
def _sum_of_products(weight, left, right):  # type: ignore[no-untyped-def]
    """One pass, without an array for what lies between; rows are added up one by one."""
    total = 0.0
    for j in range(weight.shape[0]):
        w, a, b = weight[j], left[j], right[j]
        part = 0.0
        for i in range(w.size):
            part += np.float64(w[i]) * np.float64(a[i]) * np.float64(b[i])
        total += part
    return total


def _cubic_terms(
    filled: Array,
    gradient: tuple[Array, Array],
    w: Array,
    noise: float,
    kernels: tuple[Array, Array, Array, Array],
) -> Array:
    """A sixth of the products of the gradient with the third derivatives, (2, 4)."""
    pairs = ((3, 0), (2, 1), (1, 2), (0, 3))
    terms = np.empty((2, 4))
    for k, (order_y, order_x) in enumerate(pairs):
        third = smoothing.separable(filled, kernels[order_y], kernels[order_x])
        sums = products(gradient, (third,), w)[:, 0]
        for axis, (by_y, by_x) in enumerate(((1, 0), (0, 1))):
            chance = float(kernels[by_y] @ kernels[order_y]) * float(
                kernels[by_x] @ kernels[order_x]
            )
            terms[axis, k] = sums[axis] - noise * chance
    terms *= np.array([1.0, 3.0, 3.0, 1.0]) / 6.0
    return terms


def is_narrow(denoised: Denoised) -> bool:
    """Whether half a pixel is far for the features: one linear step is then not enough."""
    plain, one = smoothing.PLAIN_GRADIENT, np.array([1.0])
    gradient_y, gradient_x = denoised.images[1:]
    second_yy = smoothing.separable(gradient_y, plain, one)
    second_yx = smoothing.separable(gradient_y, one, plain)
    second_xx = smoothing.separable(gradient_x, one, plain)
    w = np.where(denoised.solid, 1.0 / denoised.variance, 0.0)
    own = products((gradient_y, gradient_x), (gradient_y, gradient_x), w)
    deviation = float(np.sqrt(np.diag(denoised.covariance).min()))
    # The cubic term is undone to a tenth; the quadratic one cancels but for the support's edge.
    cubic = float(np.abs(denoised.cubic @ np.full(4, 0.125)).max())
    quadratic = 0.0
    for cross in (1.0, -1.0):
        bend = 0.125 * (second_yy + 2.0 * cross * second_yx + second_xx)
        step = np.linalg.solve(own, products((gradient_y, gradient_x), (bend,), w))
        quadratic = max(quadratic, float(np.abs(step).max()))
    if max(0.1 * cubic, quadratic) > BIAS_LIMIT_PX or cubic > CUBIC_LIMIT * deviation:
        return True
    bend = 0.125 * (second_yy + second_xx)
    information = w * (gradient_y**2 + gradient_x**2)
    # What curvature adds to the squared residual, where the information comes from.
    return bool((information * w * bend**2).sum() > CURVATURE_LIMIT * information.sum())
