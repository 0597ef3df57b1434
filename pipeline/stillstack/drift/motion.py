"""Drift and jitter told apart: a slow motion and a real jitter under known error bars.

A frame's real position is x = p + j: the drift p and the jitter j, independent from frame to frame.
The drift is a random walk, whose variance grows by q a second, on a speed that changes itself by a
random walk, of r a second: thermal drift is smooth, mechanical drift is not. Registration shows
z = x + e, where e has the covariance that registration gives for that frame. Slow motion is shared
by neighbours and jitter is not; by that q, r and the variance of j are found, along y and x each,
where the likelihood of all frames is largest. The variance of j is then the mean over all that are
likely, each standard deviation as likely as another beforehand. What remains to be said of a
frame's own position is the mean and covariance of p + j given all frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from stillstack.kernels.kalman import drift_log_likelihood, smooth_drift

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

# What the logarithms of variances are searched in, about the scatter from frame to frame, and below
# which there is nothing: a jitter or walk of a thousandth of the scatter.
_RANGE: Final = (-40.0, 8.0)
_NOTHING: Final = (-30.0, -40.0, -14.0)
_LAG: Final = 32
# Frames from which strengths are estimated: more would not change them by a percent.
_ENOUGH: Final = 200_000
_STRETCHES: Final = 8
_POINTS: Final = 33


@dataclass(frozen=True, eq=False)
class Positions:
    """What frames show of a segmented motion, in order of time.

    Parameters
    ----------
    interval
        (n,), seconds since the frame before.
    fresh
        (n,), whether a segment begins with the frame.
    seen
        (n,), whether the frame shows a position.
    shift
        (n, 2), px; looked at where `seen`.
    cov
        (n, 3: yy, yx, xx), of the error of `shift`, px^2.
    """

    interval: Floats
    fresh: Flags
    seen: Flags
    shift: Floats
    cov: Floats


@dataclass(frozen=True, eq=False)
class Motion:
    """How a sample moves.

    Parameters
    ----------
    walk
        (2,), variance by which the random walk grows, along y and x, px^2/s.
    bend
        (2,), variance by which that of the speed grows, px^2/s^3.
    speed
        (2,), variance of the speed where a segment begins, px^2/s^2.
    jitter
        (2,), variance of the jitter, px^2.
    least_jitter
        (2,), standard deviation of a jitter that could just be told, px.
    """

    walk: Floats
    bend: Floats
    speed: Floats
    jitter: Floats
    least_jitter: Floats


@dataclass(frozen=True, eq=False)
class _Axis:
    """What frames show along one axis; intervals in units of the mean one."""

    interval: Floats
    fresh: Flags
    value: Floats
    variance: Floats


def estimate_motion(positions: Positions) -> Motion:
    """Return the likely strength of the drift and variance of the jitter.

    Along y and x each, from the frames that are seen; of more than 200,000 from eight stretches of
    25,000.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> n = 4000
    >>> shift = rng.normal(0, 0.01, (n, 2)).cumsum(axis=0) + rng.normal(0, 0.5, (n, 2))
    >>> cov = np.tile([0.16, 0.0, 0.16], (n, 1))
    >>> fresh = np.arange(n) == 0
    >>> motion = estimate_motion(Positions(np.full(n, 2.0), fresh, np.ones(n, bool), shift, cov))
    >>> np.round(np.sqrt(motion.jitter), 2)
    array([0.29, 0.3 ])
    """
    kept = np.flatnonzero(positions.seen)
    segment = np.cumsum(positions.fresh)[kept]
    # What a frame follows is the last one seen of its segment.
    interval = np.diff(np.cumsum(positions.interval)[kept], prepend=0.0)
    fresh = np.diff(segment, prepend=-1) != 0
    pause = float(np.mean(interval[~fresh])) or 1.0
    some, begins = _stretches(len(kept))
    found = [
        _estimate_axis(
            _Axis(
                interval[some] / pause,
                fresh[some] | begins,
                positions.shift[kept[some], axis],
                positions.cov[kept[some], column],
            )
        )
        for axis, column in enumerate((0, 2))
    ]
    walk, bend, speed, jitter, least = np.array(found).T
    return Motion(walk / pause, bend / pause**3, speed / pause**2, jitter, least)


def _stretches(n: int) -> tuple[Indices, Flags]:
    """Return places in all of so many frames, or in stretches of them, and where these begin."""
    if n <= _ENOUGH:
        return np.arange(n), np.arange(n) == 0
    size = _ENOUGH // _STRETCHES
    first = np.linspace(0, n - size, _STRETCHES).astype(np.int64)
    some = (first[:, None] + np.arange(size)).ravel()
    return some, np.arange(some.size) % size == 0


def _estimate_axis(axis: _Axis) -> tuple[float, float, float, float, float]:
    """Return walk, bend, speed, jitter and the least jitter, in units of the mean interval."""
    inside = np.flatnonzero(~axis.fresh)
    scatter = 0.5 * float(np.mean((axis.value[inside] - axis.value[inside - 1]) ** 2)) + 1e-12
    walk, speed, jitter = _start(axis)
    columns = (axis.interval, axis.fresh, axis.value)

    def unlikeliness(logarithms: Floats) -> float:
        walk, bend, jitter = scatter * np.exp(np.clip(logarithms, *_RANGE))
        noise = axis.variance + jitter
        return -drift_log_likelihood(*columns, noise, (float(walk), float(bend), speed))

    start = np.log(np.array([walk, 1e-3 * walk, jitter]) / scatter)
    simplex = start + np.array([[0, 0, 0], [1.5, 0, 0], [0, 3.0, 0], [0, 0, -1.5]])
    options = {"initial_simplex": simplex, "xatol": 0.05, "fatol": 0.02, "maxiter": 300}
    found = minimize(unlikeliness, start, method="Nelder-Mead", options=options).x
    best = np.where(found > _NOTHING, scatter * np.exp(np.minimum(found, _RANGE[1])), 0.0)
    jitter, least = _expected_jitter(axis, float(best[0]), float(best[1]), speed, float(best[2]))
    return float(best[0]), float(best[1]), speed, jitter, least


def _expected_jitter(
    axis: _Axis, walk: float, bend: float, speed: float, likeliest: float
) -> tuple[float, float]:
    """Return the mean of the jitter's variance over all that are likely, and the least jitter.

    At low dose a jitter that matters can be too small to be told from the error bars: the likeliest
    variance is then often 0, and a frame's error bar would leave it out.
    """
    # A variance is known to the noise of a mean of squares.
    total = float(np.median(axis.variance)) + likeliest
    error = total * np.sqrt(2.0 / np.count_nonzero(~axis.fresh))
    low, high = np.sqrt(max(0.0, likeliest - 6.0 * error)), np.sqrt(likeliest + 6.0 * error)
    jitter = np.linspace(low, high, _POINTS) ** 2
    columns = (axis.interval, axis.fresh, axis.value)
    likely = np.array(
        [drift_log_likelihood(*columns, axis.variance + j, (walk, bend, speed)) for j in jitter]
    )
    weight = np.exp(likely - likely.max())
    return float(weight @ jitter / weight.sum()), float(np.sqrt(2.0 * error))


def _start(axis: _Axis) -> tuple[float, float, float]:
    """Return walk, speed and jitter from the scatter of steps of one frame and of many."""
    lag = max(1, min(_LAG, len(axis.value) // 4))
    segment, when = np.cumsum(axis.fresh), np.cumsum(axis.interval)
    same = np.flatnonzero(segment[lag:] == segment[:-lag])
    near = np.flatnonzero(~axis.fresh)
    short = float(np.mean((axis.value[near] - axis.value[near - 1]) ** 2))
    wide, spans = short, 1.0
    if same.size:
        wide = float(np.mean((axis.value[same + lag] - axis.value[same]) ** 2))
        spans = float(np.mean(when[same + lag] - when[same])) or 1.0
    noise = float(np.mean(axis.variance))
    walk = max(wide - short, 1e-3 * short, 1e-12) / spans
    # The noise of a step of many frames is in it, so it is rather too large.
    speed = 10.0 * max(wide, 1e-12) / spans**2
    jitter = max(0.5 * short - noise, 1e-2 * noise, 1e-12)
    return walk, speed, jitter


def drift_states(positions: Positions, motion: Motion) -> tuple[Floats, Floats]:
    """Return mean (n, 2) and covariance (n, 3) of the drift at each frame, given all frames."""
    noise = positions.cov + np.array([motion.jitter[0], 0.0, motion.jitter[1]])
    columns = (positions.interval, positions.fresh, positions.seen, positions.shift)
    strengths = np.stack([motion.walk, motion.bend, motion.speed])
    return smooth_drift(*columns, noise, strengths)


def real_positions(
    positions: Positions, motion: Motion, states: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Return mean (n, 2) and covariance (n, 3) of frames' real positions, drift and jitter.

    A frame that is seen keeps of its distance from the drift what jitter explains; of one that is
    not, the jitter is part of the error.
    """
    mean, cov = (state.copy() for state in states)
    jitter = np.array([motion.jitter[0], 0.0, motion.jitter[1]])
    seen = positions.seen
    own = _matrices(positions.cov[seen])
    j = np.diag(motion.jitter)
    gain = j @ np.linalg.inv(own + j)
    left = np.eye(2) - gain
    distance = positions.shift[seen] - mean[seen]
    mean[seen] += (gain @ distance[:, :, None])[:, :, 0]
    # J - J S^-1 J = J S^-1 R, which does not cancel.
    whole = left @ _matrices(cov[seen]) @ left.transpose(0, 2, 1) + gain @ own
    cov[~seen] += jitter
    cov[seen] = np.stack([whole[:, 0, 0], whole[:, 0, 1], whole[:, 1, 1]], axis=1)
    return mean, cov


def _matrices(cov: Floats) -> Floats:
    return cov[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
