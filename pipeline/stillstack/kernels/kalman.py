"""A slow drift seen through noise: how likely it is, and where the sample was.

Along y and x each, the drift has a position p and a speed v. From one frame to the next p moves by
v times the interval and by an independent step, v changes by another: a random walk whose variance
grows by q a second, on a speed whose variance grows by r a second. A frame shows p + e, where e is
independent from frame to frame and has a known covariance. Kalman's filter goes forwards once for
the likelihood; the pass back of Rauch, Tung and Striebel then gives mean and covariance of the
drift from all frames (doi:10.2514/3.3166). Where a segment begins nothing is known of p: the first
frame that shows it counts as all there is. Of v its variance is known.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, compiled_inner, locked

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@compiled
def _log_likelihood(interval, fresh, value, variance, walk, bend, speed):  # type: ignore[no-untyped-def]
    total, product, terms = 0.0, 1.0, 0
    p = v = c_pp = c_pv = c_vv = 0.0
    for i in range(value.size):
        if fresh[i]:
            p, v = value[i], 0.0
            c_pp, c_pv, c_vv = variance[i], 0.0, speed
            continue
        t = interval[i]
        p += v * t
        c_pp += t * (2.0 * c_pv + t * c_vv + walk + bend * t * t / 3.0)
        c_pv += t * (c_vv + 0.5 * bend * t)
        c_vv += bend * t
        spread = c_pp + variance[i]
        surprise = value[i] - p
        over = 1.0 / spread
        total += surprise * surprise * over
        # One logarithm for ten frames: variances are neither so large nor so small that the
        # product of ten overflows or vanishes.
        product *= spread
        terms += 1
        if terms == 10:
            total += math.log(product)
            product, terms = 1.0, 0
        p += c_pp * over * surprise
        v += c_pv * over * surprise
        c_vv -= c_pv * c_pv * over
        c_pp *= variance[i] * over
        c_pv *= variance[i] * over
    return -0.5 * (total + math.log(product))


def drift_log_likelihood(
    interval: Floats,
    fresh: Flags,
    value: Floats,
    variance: Floats,
    strengths: tuple[float, float, float],
) -> float:
    """Return the log likelihood of what frames show along one axis, without its constant.

    Parameters
    ----------
    interval
        (n,), seconds since the frame before; not looked at where `fresh`.
    fresh
        (n,), whether a segment begins with the frame.
    value
        (n,), position along one axis, px.
    variance
        (n,), of everything in `value` that is not drift, px^2; between 1e-20 and 1e20.
    strengths
        Variance by which the walk grows in a second, px^2/s; that by which the speed's grows,
        px^2/s^3; that of the speed where a segment begins, px^2/s^2.

    Examples
    --------
    >>> fresh, variance = np.array([True, False]), np.full(2, 0.5)
    >>> found = drift_log_likelihood(np.ones(2), fresh, np.array([0, 2.0]), variance, (3.0, 0, 0))
    >>> round(found, 6)
    -1.193147
    """
    columns = (interval, fresh, value, variance)
    return float(_log_likelihood(*(locked(column) for column in columns), *strengths))


@compiled_inner
def _predict(mean, cov, t, walk, bend, sign):  # type: ignore[no-untyped-def]
    """Move a state (y, its speed, x, its speed) by t seconds on, or back with a sign of -1."""
    for axis in range(2):
        p, v = 2 * axis, 2 * axis + 1
        mean[p] += sign * t * mean[v]
        if sign < 0.0:
            _spread(cov, p, v, t, walk[axis], bend[axis])
        for k in range(4):
            cov[p, k] += sign * t * cov[v, k]
        for k in range(4):
            cov[k, p] += sign * t * cov[k, v]
        if sign > 0.0:
            _spread(cov, p, v, t, walk[axis], bend[axis])


@compiled_inner
def _spread(cov, p, v, t, walk, bend):  # type: ignore[no-untyped-def]
    cov[p, p] += t * (walk + bend * t * t / 3.0)
    cov[p, v] += 0.5 * bend * t * t
    cov[v, p] += 0.5 * bend * t * t
    cov[v, v] += bend * t


@compiled_inner
def _update(mean, cov, y, x, r_yy, r_yx, r_xx, gain):  # type: ignore[no-untyped-def]
    """Let a frame that shows (y, x) correct a state."""
    s_yy, s_yx, s_xx = cov[0, 0] + r_yy, cov[0, 2] + r_yx, cov[2, 2] + r_xx
    det = s_yy * s_xx - s_yx * s_yx
    for k in range(4):
        gain[k, 0] = (cov[k, 0] * s_xx - cov[k, 2] * s_yx) / det
        gain[k, 1] = (cov[k, 2] * s_yy - cov[k, 0] * s_yx) / det
    d_y, d_x = y - mean[0], x - mean[2]
    for k in range(4):
        mean[k] += gain[k, 0] * d_y + gain[k, 1] * d_x
    for k in range(4):
        for m in range(k, 4):
            # K S K^T taken off; for positions, K R, which is the same and does not cancel.
            t_0 = s_yy * gain[m, 0] + s_yx * gain[m, 1]
            t_1 = s_yx * gain[m, 0] + s_xx * gain[m, 1]
            left = cov[k, m] - gain[k, 0] * t_0 - gain[k, 1] * t_1
            if m == 0:
                left = gain[k, 0] * r_yy + gain[k, 1] * r_yx
            elif m == 2:
                left = gain[k, 0] * r_yx + gain[k, 1] * r_xx
            cov[k, m] = left
            cov[m, k] = left


@compiled
def _forwards(interval, fresh, seen, value, noise, walk, bend, speed, mean, cov, known):  # type: ignore[no-untyped-def]
    """Filtered means (n, 4) and covariances (n, 4, 4); whether anything is known yet."""
    gain = np.empty((4, 2))
    told = False
    for i in range(seen.size):
        if fresh[i]:
            told = False
        if told:
            mean[i] = mean[i - 1]
            cov[i] = cov[i - 1]
            _predict(mean[i], cov[i], interval[i], walk, bend, 1.0)
            if seen[i]:
                r_yy, r_yx, r_xx = noise[i, 0], noise[i, 1], noise[i, 2]
                _update(mean[i], cov[i], value[i, 0], value[i, 1], r_yy, r_yx, r_xx, gain)
        elif seen[i]:
            told = True
            mean[i, 0], mean[i, 2] = value[i, 0], value[i, 1]
            cov[i, 0, 0], cov[i, 2, 2] = noise[i, 0], noise[i, 2]
            cov[i, 0, 2], cov[i, 2, 0] = noise[i, 1], noise[i, 1]
            cov[i, 1, 1], cov[i, 3, 3] = speed[0], speed[1]
        known[i] = told


@compiled_inner
def _cholesky(a):  # type: ignore[no-untyped-def]
    """Replace the lower half of a 4x4 matrix by its root; what is known exactly has a root of 0."""
    for i in range(4):
        for j in range(i + 1):
            total = a[i, j]
            for k in range(j):
                total -= a[i, k] * a[j, k]
            if i == j:
                a[i, i] = math.sqrt(total) if total > 1e-14 * a[i, i] else 0.0
            else:
                a[i, j] = total / a[j, j] if a[j, j] > 0.0 else 0.0


@compiled_inner
def _solve(root, b):  # type: ignore[no-untyped-def]
    """Replace each row of b by what the matrix of that root makes it of; 0 for known parts."""
    for row in range(4):
        for i in range(4):
            total = b[row, i]
            for k in range(i):
                total -= root[i, k] * b[row, k]
            b[row, i] = total / root[i, i] if root[i, i] > 0.0 else 0.0
        for i in range(3, -1, -1):
            total = b[row, i]
            for k in range(i + 1, 4):
                total -= root[k, i] * b[row, k]
            b[row, i] = total / root[i, i] if root[i, i] > 0.0 else 0.0


@compiled
def _backwards(interval, fresh, known, walk, bend, mean, cov):  # type: ignore[no-untyped-def]
    """Turn filtered means and covariances into smoothed ones."""
    predicted, change = np.empty((4, 4)), np.empty((4, 4))
    root, gain = np.empty((4, 4)), np.empty((4, 4))
    ahead = np.empty(4)
    for i in range(known.size - 2, -1, -1):
        after = i + 1
        if fresh[after] or not known[after]:
            continue
        t = interval[after]
        if not known[i]:
            known[i] = True
            mean[i] = mean[after]
            cov[i] = cov[after]
            _predict(mean[i], cov[i], t, walk, bend, -1.0)
            continue
        ahead[:] = mean[i]
        predicted[:, :] = cov[i]
        _predict(ahead, predicted, t, walk, bend, 1.0)
        root[:, :] = predicted
        _cholesky(root)
        # P F^T, then times the inverse of what was predicted.
        gain[:, :] = cov[i]
        for k in range(4):
            gain[k, 0] += t * cov[i, k, 1]
            gain[k, 2] += t * cov[i, k, 3]
        _solve(root, gain)
        for k in range(4):
            for m in range(4):
                mean[i, k] += gain[k, m] * (mean[after, m] - ahead[m])
                total = 0.0
                for j in range(4):
                    total += gain[k, j] * (cov[after, j, m] - predicted[j, m])
                change[k, m] = total
        for k in range(4):
            for m in range(k, 4):
                total = cov[i, k, m]
                for j in range(4):
                    total += change[k, j] * gain[m, j]
                cov[i, k, m] = total
                cov[i, m, k] = total


def smooth_drift(
    interval: Floats,
    fresh: Flags,
    seen: Flags,
    value: Floats,
    noise: Floats,
    strengths: Floats,
) -> tuple[Floats, Floats]:
    """Return mean (n, 2) and covariance (n, 3: yy, yx, xx) of the drift given all frames.

    NaN for every frame of a segment in which no frame is seen.

    Parameters
    ----------
    interval
        (n,), seconds since the frame before; not looked at where `fresh`.
    fresh
        (n,), whether a segment begins with the frame.
    seen
        (n,), whether the frame shows a position; the others are only passed over.
    value
        (n, 2), position (y, x), px.
    noise
        (n, 3), covariance (yy, yx, xx) of everything in `value` that is not drift, px^2.
    strengths
        (3, 2), for y and x: variance by which the walk grows in a second, px^2/s; that by which the
        speed's grows, px^2/s^3; that of the speed where a segment begins, px^2/s^2.

    Examples
    --------
    >>> ends = np.array([True, False, True])
    >>> value = np.array([[0.0, 0.0], [np.nan, np.nan], [2.0, 4.0]])
    >>> noise = np.tile([1.0, 0.0, 1.0], (3, 1))
    >>> first, walk = np.array([True, False, False]), np.array([[1.0, 1.0], [0, 0], [0, 0]])
    >>> mean, cov = smooth_drift(np.ones(3), first, ends, value, noise, walk)
    >>> np.round(mean[1], 6), np.round(cov[1], 6)
    (array([1., 2.]), array([1., 0., 1.]))
    """
    n = len(seen)
    mean, cov = np.zeros((n, 4)), np.zeros((n, 4, 4))
    known = np.zeros(n, np.bool_)
    walk, bend, speed = (locked(np.ascontiguousarray(row, np.float64)) for row in strengths)
    columns = [locked(column) for column in (interval, fresh, seen, value, noise)]
    _forwards(*columns, walk, bend, speed, mean, cov, known)
    _backwards(columns[0], columns[1], known, walk, bend, mean, cov)
    drift = mean[:, [0, 2]]
    drift_cov = cov.reshape(n, 16)[:, [0, 2, 10]]
    drift[~known], drift_cov[~known] = np.nan, np.nan
    return drift, drift_cov
