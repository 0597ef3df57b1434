"""Hot and dead pixels, found in a sample of frames by robust statistics.

A defect stands still and is one pixel wide; a scene is as smooth as its optics. So each pixel's
mean over the sample is held against what its valid neighbours predict, in three ways that must all
agree: counting noise, the scatter of the neighbourhood, and its shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Valid = NDArray[np.bool_]

# Standard deviations from the prediction: 3e-7 of the pixels lie that far by chance, one side.
_SIGMAS: Final = 5.0
# A spot of sigma s px rises exp(1 / (2 s^2)) times above its third neighbour: 1.5 is s = 1.1 px.
_STEEPEST: Final = 1.5
# The predicted value's own variance in units of one pixel's, by the number of pairs whose median it
# is (four: simulated); without a pair, at corners, it is one of the neighbours.
_PREDICTION_VARIANCE: Final = np.array([1.0, 0.5, 0.5, 0.5, 0.17], np.float32)
# The third quartile of |z| of a standard normal z.
_THIRD_QUARTILE: Final = 1.1503
_BAND_BYTES: Final = 2**25
# Odds that noise alone makes a pixel constant.
_ODDS: Final = 1e-5


def defect_pixels(sample: NDArray[Any], valid: Valid | None = None) -> Valid:
    """Return True where a pixel is hot, dead or stuck.

    *Hot* is far above, *dead* far below its valid neighbours, *stuck* does not change from frame
    to frame where its neighbours do. Spots with a sigma of 1.1 px and more are left alone, and so
    is what deviates by less than half the noise of one frame.

    Parameters
    ----------
    sample
        Frames of the run, (n, y, x), spread over it; or a single image (y, x). From 8 frames on,
        X-rays that struck one frame do not count, nor do blank or saturated frames.
    valid
        True where a pixel is looked at and used to predict others. Default: everywhere.

    Returns
    -------
    ndarray of bool, shape (y, x); False outside ``valid``.

    Notes
    -----
    With the mean ``m`` without the largest and smallest value, and the prediction ``p``, the median
    of the means of the four pairs of opposite neighbours (which follows any slope), the residual
    ``m - p`` is compared with the variance ``gain p + c``, fitted to the whole sample, by the
    signed square root of the Poisson deviance, so that few counts are judged as fairly as many.

    Examples
    --------
    >>> sample = np.random.default_rng(0).poisson(50, (8, 32, 32))
    >>> sample[:, 5, 7] = 900
    >>> np.argwhere(defect_pixels(sample)).tolist()
    [[5, 7]]
    """
    sample = sample[None] if sample.ndim == 2 else sample
    shape = sample.shape[1:]
    valid = np.ones(shape, bool) if valid is None else np.asarray(valid, bool)
    summary = _summarise(sample, _ordinary_frames(sample, valid))
    valid = valid & np.isfinite(summary.mean)
    mean = np.where(valid, summary.mean, np.float32(np.nan))
    predicted, own_variance = _prediction(mean)
    noise = _fit_noise(summary, mean - predicted, own_variance)
    whole_mean = np.where(valid, summary.whole_mean, np.float32(np.nan))
    found = _deviating(mean, whole_mean, predicted, own_variance, noise) | _stuck(
        summary, predicted, noise
    )
    return found & valid


@dataclass(frozen=True)
class _Summary:
    """Per pixel: mean without and with extremes, variance, whether it never changed."""

    mean: Image
    whole_mean: Image
    variance: Image
    constant: Valid
    n_frames: int


def _ordinary_frames(sample: NDArray[Any], valid: Valid) -> NDArray[np.bool_]:
    """Which frames are neither blank nor saturated: about as bright as the middle one."""
    if len(sample) < 4 or not valid.any():
        return np.ones(len(sample), bool)
    step = max(1, int(np.sqrt(valid.size / 1e5)))
    seen = valid[::step, ::step]
    levels = np.array([_finite_mean(frame[::step, ::step][seen]) for frame in sample])
    middle = np.median(levels)
    ordinary: NDArray[np.bool_] = (levels >= 0.5 * middle) & (levels <= 2.0 * middle)
    if middle <= 0.0:
        # a mean was taken off: how bright a frame is says nothing, how it varies does
        spread = 1.4826 * float(np.median(np.abs(levels - middle)))
        ordinary = np.abs(levels - middle) <= 6.0 * spread
    return ordinary


def _finite_mean(values: NDArray[Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean(dtype=np.float64)) if finite.size else 0.0


def _summarise(sample: NDArray[Any], kept: NDArray[np.bool_]) -> _Summary:
    n_frames, (rows, columns) = int(kept.sum()), sample.shape[1:]
    mean, whole, variance = np.empty((3, rows, columns), np.float32)
    constant = np.empty((rows, columns), bool)
    for start, stop in _bands(rows, 8 * n_frames * columns):
        band = sample[kept, start:stop].astype(np.float64)
        finite = np.isfinite(band)
        count = finite.sum(axis=0)
        band[~finite] = 0.0
        total = band.sum(axis=0)
        low = np.where(finite, band, np.inf).min(axis=0)
        high = np.where(finite, band, -np.inf).max(axis=0)
        centre = total / np.maximum(count, 1)
        squares = np.where(finite, (band - centre) ** 2, 0.0).sum(axis=0)
        trimmed = count >= 3
        with np.errstate(invalid="ignore"):  # inf - inf where no frame is finite
            total = np.where(trimmed, total - low - high, total)
            constant[start:stop] = low == high
        averaged = np.where(trimmed, count - 2, count)
        known = 2 * count > n_frames
        whole[start:stop] = centre
        mean[start:stop] = np.where(known, total / np.maximum(averaged, 1), np.nan)
        variance[start:stop] = squares / np.maximum(count - 1, 1)
    return _Summary(mean, whole, variance, constant, n_frames)


def _bands(rows: int, bytes_per_row: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BAND_BYTES // max(bytes_per_row, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _around(image: Image, radius: int, start: int, stop: int) -> Image:
    """Neighbours within a square, (number, stop - start, x); NaN where there is none."""
    rows, columns = image.shape
    padded = np.full((stop - start + 2 * radius, columns + 2 * radius), np.nan, np.float32)
    first, last = max(start - radius, 0), min(stop + radius, rows)
    offset = first - (start - radius)
    padded[offset : offset + last - first, radius : radius + columns] = image[first:last]
    size = 2 * radius + 1
    return np.stack(
        [
            padded[down : down + stop - start, across : across + columns]
            for down in range(size)
            for across in range(size)
            if (down, across) != (radius, radius)
        ]
    )


def _pick(ordered: Image, place: NDArray[np.intp]) -> Image:
    picked: Image = np.take_along_axis(ordered, place[None], axis=0)[0]
    return picked


def _prediction(mean: Image) -> tuple[Image, Image]:
    """Value that the neighbours predict for each pixel, and its variance, one pixel's being 1."""
    predicted, variance = np.empty((2, *mean.shape), np.float32)
    for start, stop in _bands(mean.shape[0], 4 * 24 * mean.shape[1]):
        here = slice(start, stop)
        eight = _around(mean, 1, start, stop)
        pairs: Image = (eight[:4] + eight[:3:-1]) / np.float32(2)  # opposite: any slope cancels
        variance[here] = _PREDICTION_VARIANCE[np.isfinite(pairs).sum(axis=0)]
        predicted[here] = _median(pairs)
        alone = np.isnan(predicted[here])
        predicted[here][alone] = _median(eight[:, alone])
    return predicted, variance


def _median(values: Image) -> Image:
    """Median along the first axis, of what is not NaN; NaN where all is."""
    ordered = np.sort(values, axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    lower = _pick(ordered, np.maximum(count - 1, 0) // 2)
    upper = _pick(ordered, np.minimum(count // 2, len(ordered) - 1))
    middle: Image = np.where(count > 0, (lower + upper) / 2, np.float32(np.nan))
    return middle


@dataclass(frozen=True)
class _Noise:
    """Variance of one frame's pixel by its value, counts per quantum, frames averaged."""

    levels: NDArray[np.float64]
    variances: NDArray[np.float64]
    gain: float
    n_averaged: int

    def variance(self, value: Image) -> Image:
        found = np.interp(value, self.levels, self.variances)
        found += self.gain * np.maximum(value - self.levels[-1], 0)
        return found.astype(np.float32)

    def sigmas(self, mean: Image, predicted: Image, own_variance: Image) -> Image:
        """Signed deviation of a mean from its prediction in standard deviations."""
        variance = np.maximum(self.variance(predicted), np.float32(1e-30)).astype(np.float64)
        # Without a gain noise is normal: as with very many very small quanta.
        gain = np.maximum(self.gain, 1e-3 * np.sqrt(variance))
        # In quanta of `gain`, a Poisson variable of this expectation has this variance. Below half
        # a quantum in all frames together, the prediction itself is too poor to go by.
        expected = np.maximum(self.n_averaged * variance / gain**2, 0.5)
        found = np.maximum(expected + self.n_averaged * (mean - predicted) / gain, 0.0)
        excess = found - expected
        deviance = found * np.log1p(np.maximum(excess / expected, -1 + 1e-12)) - excess
        sigmas = np.sign(excess) * np.sqrt(2 * np.maximum(deviance, 0.0))
        scaled: Image = (sigmas / np.sqrt(1 + own_variance)).astype(np.float32)
        return scaled


def _fit_noise(summary: _Summary, residual: Image, own_variance: Image) -> _Noise:
    n_averaged = max(summary.n_frames - 2, 1) if summary.n_frames >= 3 else summary.n_frames
    if summary.n_frames >= 4:
        freedom = summary.n_frames - 1
        variance = summary.variance / np.float32((1 - 2 / (9 * freedom)) ** 3)  # median to mean
    else:
        variance = residual**2 * np.float32(n_averaged / 0.4549) / (1 + own_variance)
    known = np.isfinite(residual)
    level, spread = summary.mean[known], variance[known]
    if not level.size:
        return _Noise(np.zeros(1), np.zeros(1), 0.0, n_averaged)
    step = max(1, level.size // 200_000)
    level, spread = level[::step], spread[::step]
    bins = np.array_split(np.argsort(level, kind="stable"), min(24, max(1, level.size // 32)))
    levels = np.array([np.median(level[chosen]) for chosen in bins], float)
    spreads = np.array([np.median(spread[chosen]) for chosen in bins], float)
    # Median of the slopes of all pairs (Theil-Sen) in the darker half, where drift adds the least.
    one, other = np.triu_indices((levels.size + 1) // 2, 1)
    apart = levels[other] > levels[one]
    slopes = (spreads[other] - spreads[one])[apart] / (levels[other] - levels[one])[apart]
    gain = max(float(np.median(slopes)), 0.0) if slopes.size else 0.0
    return _Noise(levels, spreads, gain, n_averaged)


def _deviating(
    mean: Image, whole_mean: Image, predicted: Image, own_variance: Image, noise: _Noise
) -> Valid:
    residual = mean - predicted
    size = np.abs(residual)
    found = np.zeros(mean.shape, bool)
    for start, stop in _bands(mean.shape[0], 4 * 80 * mean.shape[1]):
        here = slice(start, stop)
        off = residual[here]
        scatter = np.sort(_around(size, 2, start, stop), axis=0)
        count = np.isfinite(scatter).sum(axis=0)
        typical = _pick(scatter, np.maximum(3 * count // 4 - 1, 0)) / _THIRD_QUARTILE
        value = noise.variance(predicted[here])
        counting = np.sqrt(value * (1 + own_variance[here]) / np.float32(noise.n_averaged))
        with np.errstate(invalid="ignore", divide="ignore"):
            # Fixed pattern and curvature of the scene, beyond what counting explains.
            ratio = typical / np.maximum(counting, np.float32(1e-30))
            beyond = np.sqrt(1 + 1.44 * np.maximum(ratio**2 - 1.7, 0))
            sigmas = noise.sigmas(mean[here], predicted[here], own_variance[here])
            far = np.abs(sigmas) > _SIGMAS * beyond
            far &= size[here] > 0.5 * np.sqrt(value)
        if far.any():
            found[here] = far & _sharp(whole_mean, off, start, stop)
    return found


def _sharp(mean: Image, residual: Image, start: int, stop: int) -> Valid:
    """Where a pixel sticks out more than a scene can, towards the side that it deviates to.

    The third of its neighbours is the yardstick, so that pairs and lines of defects stick out too;
    and the middle one must bear the deviation out, which pairs with a defect may have feigned. The
    mean is that of all frames: without the extremes a spot that drifts looks sharper than it is.
    """
    near = np.sort(_around(mean, 1, start, stop), axis=0)
    wide = np.sort(_around(mean, 2, start, stop), axis=0)
    n_near, n_wide = np.isfinite(near).sum(axis=0), np.isfinite(wide).sum(axis=0)
    third_high, third_low = _pick(near, np.maximum(n_near - 3, 0)), near[2]
    low, high = _pick(wide, n_wide // 4), _pick(wide, np.maximum(3 * n_wide // 4 - 1, 0))
    value = mean[start:stop]
    with np.errstate(invalid="ignore"):
        up = value - low > _STEEPEST * np.maximum(third_high - low, 0)
        down = high - value > _STEEPEST * np.maximum(high - third_low, 0)
        beyond = (value - _pick(near, n_near // 2)) * np.sign(residual) > 0.5 * np.abs(residual)
    sharp: Valid = (n_near >= 3) & beyond & np.where(residual > 0, up, down)
    return sharp


def _stuck(summary: _Summary, predicted: Image, noise: _Noise) -> Valid:
    """Pixels that never change, where the noise of those around makes that all but impossible."""
    found = np.zeros(predicted.shape, bool)
    if summary.n_frames < 8 or not summary.constant.any():
        return found
    n = summary.n_frames
    # n whole numbers of standard deviation s are all equal with odds of (s sqrt(2 pi))^(1 - n)
    least = max(1.0, _ODDS ** (-1 / (n - 1)) / np.sqrt(2 * np.pi))
    spread = np.where(np.isfinite(predicted), summary.variance, np.float32(np.nan))
    for start, stop in _bands(predicted.shape[0], 4 * 48 * predicted.shape[1]):
        here = slice(start, stop)
        around = np.sort(_around(spread, 2, start, stop), axis=0)
        count = np.isfinite(around).sum(axis=0)
        typical = _pick(around, np.maximum(count - 1, 0) // 2)
        with np.errstate(invalid="ignore"):
            found[here] = summary.constant[here] & (typical > least**2)
        if noise.gain > 0:
            # Not one quantum in n frames, where this many are expected: odds of exp(-n quanta).
            quanta = noise.variance(predicted[here]) / np.float32(noise.gain) ** 2
            empty = predicted[here] - np.float32(0.6 * noise.gain) * quanta
            with np.errstate(invalid="ignore"):
                silent = (summary.mean[here] <= empty) & (n * quanta > -np.log(_ODDS))
            found[here] |= summary.constant[here] & silent
    return found
