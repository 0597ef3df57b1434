"""Frames whose shift stands out from those of their neighbours in time.

A frame stands out when it is far from the line through the frames on both sides, *and* from those
through the frames before and the frames after it alone: in units of its own error bar, the lines'
and the real jitter. So steady drift is never taken for an outlier, however fast, and neither is the
frame before or after a jump. Up to four frames in a row can stand out, up to six where error bars
are short; more are a jump to another place and back.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.lines import BOTH, LEFT, RIGHT, line_predictions

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

FEWEST_FRAMES: Final = 8
"""With fewer frames that have a shift, nothing is said about jitter, outliers or drift."""

_REACH: Final = 7
# Variance of a line's height for unit noise, before, after and at the middle of 7 and 14 points;
# medians are half as noisy again as least squares.
_LINE_VARIANCE: Final = np.array([1.07, 1.07, 0.11])
# Medians of the square of a normal number, and of the length of two of them.
_MEDIAN_CHI2: Final = 0.4549
_MEDIAN_LENGTH: Final = 1.1774
# Frames near a step of fewer sigma than this are looked at; 1 in 500 pairs without outliers are.
_LARGE_STEP: Final = 3.5
# A frame beside a jump is as far as this from the line on its own side once in thousands.
_ONE_SIDE: Final = 2.0 / 3.0
_SAMPLE: Final = 20_000
_BLOCK: Final = 64
_ROUNDS: Final = 3


def excess_variance(squares: Floats, variance: Floats, share: Floats | float = 1.0) -> float:
    """Return the variance that has to be added so that the scatter is what it should be.

    It is robust: a minority of the values may lie anywhere.

    Parameters
    ----------
    squares
        Squared residuals.
    variance
        What is known of their variance.
    share
        How often the unknown variance is in each residual.

    Examples
    --------
    >>> residual = np.random.default_rng(0).normal(0, 5.0, 100_000)
    >>> round(excess_variance(residual**2, np.full(100_000, 16.0)))
    9
    """
    # The scatter falls as the added variance grows: bisection, in the logarithm.
    if not squares.size or np.median(squares / variance) <= _MEDIAN_CHI2:
        return 0.0
    low, high = -40.0, float(np.log(squares.max() / np.min(share) / _MEDIAN_CHI2 + 1e-12)) + 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if np.median(squares / (variance + share * np.exp(middle))) > _MEDIAN_CHI2:
            low = middle
        else:
            high = middle
    return float(np.exp(high))


def lengths(residual: Floats, cov: Floats) -> Floats:
    """Return residuals (n, 2) in units of their covariance (n, 3: yy, yx, xx)."""
    determinant = cov[:, 0] * cov[:, 2] - cov[:, 1] ** 2
    y, x = residual[:, 0], residual[:, 1]
    squared = (cov[:, 2] * y**2 - 2 * cov[:, 1] * y * x + cov[:, 0] * x**2) / determinant
    return np.asarray(np.sqrt(squared))


def local_scale(length: Floats, block: int = _BLOCK) -> Floats:
    """Return how much longer than they should be the typical residuals around each are, at least 1.

    Where the sample shakes more for a while, more is allowed. It is the median of a
    ``block``, or of a neighbouring one where that is larger.
    """
    n = len(length)
    size = min(block, n)
    # The last block is whole, too, and overlaps the one before.
    whole = length[: n // size * size].reshape(-1, size)
    medians = np.append(np.median(whole, axis=1), np.median(length[n - size :]))
    scale = np.maximum(1.0, medians / _MEDIAN_LENGTH)
    padded = np.pad(scale, 1, mode="edge")
    scale = np.maximum(scale, np.maximum(padded[:-2], padded[2:]))
    return np.asarray(scale[np.arange(n) // size])


def find_outliers(
    seconds: Floats, shift: Floats, cov: Floats, piece: Indices, sigma: float
) -> Flags:
    """Return which frames stand out from their neighbours, (n,).

    None where there are fewer than eight frames.

    Parameters
    ----------
    seconds
        (n,), when, never falling.
    shift
        (n, 2), finite, px.
    cov
        (n, 3: yy, yx, xx), of shift, px^2.
    piece
        (n,), number of the piece between gaps and jumps.
    sigma
        How far an outlier is off, in units of everything that is expected.

    Examples
    --------
    >>> shift = np.outer(np.arange(30.0), [0.5, -0.2])
    >>> shift[12] += 3.0
    >>> cov, piece = np.tile([0.01, 0.0, 0.01], (30, 1)), np.zeros(30, int)
    >>> np.flatnonzero(find_outliers(np.arange(30.0), shift, cov, piece, 6.0))
    array([12])
    """
    outlier = np.zeros(len(shift), bool)
    for _ in range(_ROUNDS):
        kept = np.flatnonzero(~outlier)
        if kept.size < FEWEST_FRAMES:
            break
        found = _find_once(seconds[kept], shift[kept], cov[kept], piece[kept], sigma)
        if not found.any():
            break
        outlier[kept[found]] = True
    return outlier


def _find_once(seconds: Floats, shift: Floats, cov: Floats, piece: Indices, sigma: float) -> Flags:
    """Do so with all frames counted as neighbours."""
    _, step_length = step_noise(shift, cov, piece)
    scale = local_scale(step_length)
    large = np.flatnonzero(step_length > _LARGE_STEP)
    near = np.zeros(len(shift) + 1, bool)
    for offset in range(-_REACH, _REACH + 1):
        near[np.clip(large + offset, 0, len(shift) - 1)] = True
    which = np.flatnonzero(near[:-1])
    outlier = np.zeros(len(shift), bool)
    if not which.size:
        return outlier
    noise = cov + _jitter(seconds, shift, cov, piece)
    predicted = line_predictions(seconds, shift, piece, which, _REACH)
    around = _around(noise, which)
    left, right, both = (
        lengths(shift[which] - predicted[:, side], noise[which] + _LINE_VARIANCE[side] * around)
        for side in (LEFT, RIGHT, BOTH)
    )
    # At the ends of a piece there is a line on one side only.
    middle = np.where(np.isnan(both), np.fmax(left, right), both)
    sides = np.fmin(left, right)
    limit = sigma * scale[which]
    outlier[which] = (middle > limit) & (sides > _ONE_SIDE * limit)
    return outlier


def _around(noise: Floats, which: Indices) -> Floats:
    """Return the median covariance of the frames around some."""
    offsets = np.arange(-3, 4)
    places = np.clip(which[:, None] + offsets, 0, len(noise) - 1)
    return np.asarray(np.median(noise[places], axis=1))


def step_noise(shift: Floats, cov: Floats, piece: Indices) -> tuple[Floats, Floats]:
    """Return covariances (n, 3) with what steps from frame to frame show beyond them, and steps.

    The steps (n,) are in units of these covariances; 0 for the first frame of a piece.
    """
    step, inside = np.diff(shift, axis=0), np.diff(piece) == 0
    sample = np.flatnonzero(inside)
    if not sample.size:
        return cov, np.zeros(len(shift))
    some = sample[:: max(1, sample.size // _SAMPLE)]
    both, excess = cov[1:] + cov[:-1], np.zeros(3)
    for axis, column in enumerate((0, 2)):
        excess[column] = excess_variance(step[some, axis] ** 2, both[some, column])
    length = np.where(inside, lengths(step, both + excess), 0.0)
    return cov + 0.5 * excess, np.concatenate([[0.0], length])


def _jitter(seconds: Floats, shift: Floats, cov: Floats, piece: Indices) -> Floats:
    """Return the covariance (yy, 0, xx) of frames about lines that error bars do not explain."""
    n = len(shift)
    sample = np.arange(0, n, max(1, n // _SAMPLE))
    predicted = line_predictions(seconds, shift, piece, sample, _REACH)
    jitter = np.zeros(3)
    share = 1.0 + _LINE_VARIANCE[2]
    for axis, column in enumerate((0, 2)):
        squares = (shift[sample, axis] - predicted[:, 2, axis]) ** 2
        told = np.isfinite(squares)
        variance = cov[sample, column] + _LINE_VARIANCE[2] * _around(cov, sample)[:, column]
        jitter[column] = excess_variance(squares[told], variance[told], share)
    return jitter
