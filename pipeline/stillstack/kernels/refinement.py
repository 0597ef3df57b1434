"""Sub-pixel displacement by weighted least squares on a fixed support, with its covariance.

On the support S, the bins that are wholly valid in the frame and well inside the valid area of
the reference, the frame is modelled as

    m(x + u) ~ a f(x) + b + c . x - a grad f(x) . d

for intensity ``a``, background ``b``, its slope ``c`` and the rest ``d`` of the displacement
about a whole-pixel one (inverse compositional Gauss-Newton with the intensities of digital image
correlation). The frame is not interpolated, so its noise stays white and the answer has no
sub-pixel bias: the reference's regressors are kept binned at each whole-pixel offset instead.

f and grad f come from a reference smoothed to its own noise level. That changes the expected
step by the matrix ``slope`` (below one where noise inflates the gradients, above one where
smoothing flattens them) and leaves a cubic term of the expansion; both are known beforehand and
undone in closed form. Where the features are narrow, a second step is made about the first answer,
with the reference moved there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled_sums, locked
from stillstack.kernels.levels import Array, Float32, Level, bank_of

# Regressors, in order: image, constant, y, x, gradient along y, gradient along x.
N_REGRESSORS = 6


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Solution of the linear model at one whole-pixel displacement."""

    displacement: tuple[int, int]
    theta: Array
    inverse: Array
    null_residual: float
    n_bins: int

    @property
    def step(self) -> Array:
        """The rest of the displacement as the linear model sees it, px (y, x)."""
        intensity = self.theta[0]
        return -self.theta[4:6] / intensity if intensity > 0.0 else np.full(2, np.nan)


@dataclass(frozen=True, eq=False)
class Residuals:
    """What the fit leaves, and what follows from it."""

    n_bins: int
    weighted: float
    chi2: float
    white: float
    ncc: float
    influence: Array
    suspects: int


@compiled_sums
def _normal_sums(frame, ok, image, grad_y, grad_x, weight, q_y, q_x):  # type: ignore[no-untyped-def]
    """Normal matrix, right-hand side, sum of squares and number of bins."""
    n_y, n_x = frame.shape
    first, last = max(0, q_x), min(n_x, image.shape[1] + q_x)
    a = np.zeros((N_REGRESSORS, N_REGRESSORS))
    b = np.zeros(N_REGRESSORS)
    squares = 0.0
    number = 0
    if last <= first:
        return a, b, squares, number
    x = np.empty(last - first, np.float32)
    for i in range(last - first):
        x[i] = np.float32((first + i + 0.5) / n_x - 0.5)
    for j in range(max(0, q_y), min(n_y, image.shape[0] + q_y)):
        y = (j + 0.5) / n_y - 0.5
        m, use = frame[j, first:last], ok[j, first:last]
        f = image[j - q_y, first - q_x : last - q_x]
        gy = grad_y[j - q_y, first - q_x : last - q_x]
        gx = grad_x[j - q_y, first - q_x : last - q_x]
        ww = weight[j - q_y, first - q_x : last - q_x]
        w1 = wx = wxx = wf = wfx = wff = np.float32(0.0)
        wm = wmx = wmf = wmm = np.float32(0.0)
        count = 0
        for i in range(x.size):
            w = ww[i] * use[i]
            count += w > 0.0
            wi = w * x[i]
            wfi = w * f[i]
            w1 += w
            wx += wi
            wxx += wi * x[i]
            wf += wfi
            wfx += wfi * x[i]
            wff += wfi * f[i]
            wmi = w * m[i]
            wm += wmi
            wmx += wmi * x[i]
            wmf += wmi * f[i]
            wmm += wmi * m[i]
        if count == 0:
            continue
        sy = syx = syf = syy = sym = np.float32(0.0)
        sx = sxx = sxf = sxg = sxm = syg = np.float32(0.0)
        for i in range(x.size):
            w = ww[i] * use[i]
            hy, hx = w * gy[i], w * gx[i]
            sy += hy
            syx += hy * x[i]
            syf += hy * f[i]
            syy += hy * gy[i]
            syg += hy * gx[i]
            sym += hy * m[i]
            sx += hx
            sxx += hx * x[i]
            sxf += hx * f[i]
            sxg += hx * gx[i]
            sxm += hx * m[i]
        number += count
        squares += float(wmm)
        a[0, 0] += wff
        a[0, 1] += wf
        a[0, 2] += wf * y
        a[0, 3] += wfx
        a[0, 4] += syf
        a[0, 5] += sxf
        a[1, 1] += w1
        a[1, 2] += w1 * y
        a[1, 3] += wx
        a[1, 4] += sy
        a[1, 5] += sx
        a[2, 2] += w1 * y * y
        a[2, 3] += wx * y
        a[2, 4] += sy * y
        a[2, 5] += sx * y
        a[3, 3] += wxx
        a[3, 4] += syx
        a[3, 5] += sxx
        a[4, 4] += syy
        a[4, 5] += syg
        a[5, 5] += sxg
        b[0] += wmf
        b[1] += wm
        b[2] += wm * y
        b[3] += wmx
        b[4] += sym
        b[5] += sxm
    for k in range(N_REGRESSORS):
        for m_ in range(k):
            a[k, m_] = a[m_, k]
    return a, b, squares, number


@compiled_sums
def _residual_sums(frame, ok, images, weight, q_y, q_x, theta, rows, noise, struck):  # type: ignore[no-untyped-def]
    """Sums over residuals. ``noise``: pedestal, variance per count, constant, smallest, limit."""
    n_y, n_x = frame.shape
    first, last = max(0, q_x), min(n_x, weight.shape[1] + q_x)
    sums = np.zeros(13)
    if last <= first:
        return sums
    n_row = last - first
    x = np.empty(n_row, np.float32)
    for i in range(n_row):
        x[i] = np.float32((first + i + 0.5) / n_x - 0.5)
    model, e = np.empty(n_row, np.float32), np.empty(n_row, np.float32)
    pedestal, gain = np.float32(noise[0]), np.float32(noise[1])
    constant, smallest, limit = np.float32(noise[2]), np.float32(noise[3]), np.float32(noise[4])
    one, zero = np.float32(1.0), np.float32(0.0)
    intensity, slope = np.float32(theta[0]), np.float32(theta[3])
    step_y, step_x = np.float32(theta[4] / theta[0]), np.float32(theta[5] / theta[0])
    for j in range(max(0, q_y), min(n_y, weight.shape[0] + q_y)):
        y = (j + 0.5) / n_y - 0.5
        m, use = frame[j, first:last], ok[j, first:last]
        ww = weight[j - q_y, first - q_x : last - q_x]
        part = images[:, j - q_y, first - q_x : last - q_x]
        gy, gx, f = part[1], part[2], part[0]
        for i in range(n_row):
            model[i] = f[i] + step_y * gy[i] + step_x * gx[i]
        background = np.float32(theta[1] + theta[2] * y)
        for i in range(n_row):
            inside = one if ww[i] * use[i] > 0.0 else zero
            e[i] = (m[i] - intensity * model[i] - background - slope * x[i]) * inside
        c0 = np.float32(rows[0, 1] + rows[0, 2] * y)
        c1 = np.float32(rows[1, 1] + rows[1, 2] * y)
        f0, f1 = np.float32(rows[0, 0]), np.float32(rows[1, 0])
        x0, x1 = np.float32(rows[0, 3]), np.float32(rows[1, 3])
        y0, y1 = np.float32(rows[0, 4]), np.float32(rows[1, 4])
        g0, g1 = np.float32(rows[0, 5]), np.float32(rows[1, 5])
        wee = chi = zyy = zyx = zxx = zero
        for i in range(n_row):
            w = ww[i] * use[i]
            we = w * e[i]
            z0 = we * (f0 * f[i] + c0 + x0 * x[i] + y0 * gy[i] + g0 * gx[i])
            z1 = we * (f1 * f[i] + c1 + x1 * x[i] + y1 * gy[i] + g1 * gx[i])
            wee += we * e[i]
            zyy += z0 * z0
            zyx += z0 * z1
            zxx += z1 * z1
        n = s_m = s_mm = s_f = s_ff = s_mf = zero
        for i in range(n_row):
            inside = one if ww[i] * use[i] > 0.0 else zero
            variance = max(gain * (m[i] - e[i] + pedestal), smallest) + constant
            normal = e[i] * e[i] / variance
            chi += normal
            n += inside
            mi, fi = m[i] * inside, model[i] * inside
            s_m += mi
            s_mm += mi * m[i]
            s_f += fi
            s_ff += fi * model[i]
            s_mf += mi * model[i]
        white = pairs = zero
        for i in range(n_row - 1):
            w0, w1 = ww[i] * use[i], ww[i + 1] * use[i + 1]
            w = min(w0, w1)
            d = e[i] - e[i + 1]
            white += w * d * d
            pairs += one if w > 0.0 else zero
        sums[0] += n
        sums[1] += wee
        sums[2] += chi
        sums[3] += zyy
        sums[4] += zyx
        sums[5] += zxx
        sums[6] += s_m
        sums[7] += s_mm
        sums[8] += s_f
        sums[9] += s_ff
        sums[10] += s_mf
        sums[11] += white
        sums[12] += pairs
        if limit > 0.0:
            for i in range(n_row):
                variance = max(gain * (m[i] - e[i] + pedestal), smallest) + constant
                struck[j, first + i] = e[i] > limit * np.sqrt(variance)
    return sums


def fit_linear(
    frame: Float32, usable: Float32, level: Level, displacement: tuple[int, int]
) -> LinearFit | None:
    """Weighted least squares of a frame on the reference at one whole-pixel displacement.

    Parameters
    ----------
    frame
        Bins of the frame less a pedestal (y, x).
    usable
        1 for the bins that count, else 0.
    level
        Regressors of the reference.
    displacement
        Where the scene has moved, px (y, x). With a single bank, a multiple of the factor.

    Returns
    -------
    LinearFit or None
        None where the support is too small or carries no signal.
    """
    bank, bins = bank_of(level, displacement)
    image, grad_y, grad_x = (locked(level.images[k][bank]) for k in range(3))
    a, b, squares, number = _normal_sums(
        locked(frame), locked(usable), image, grad_y, grad_x, locked(level.weight[bank]), *bins
    )
    if number < 4 * N_REGRESSORS:
        return None
    scale = np.sqrt(np.diag(a))
    if not np.all(scale > 0.0):
        return None
    normal = a / np.outer(scale, scale)
    if np.linalg.cond(normal) > 1e8:
        return None
    inverse = np.linalg.inv(normal) / np.outer(scale, scale)
    nothing = slice(1, 4)
    null = squares - b[nothing] @ np.linalg.solve(a[nothing, nothing], b[nothing])
    return LinearFit(displacement, inverse @ b, inverse, float(null), number)


def residuals(
    frame: Float32,
    usable: Float32,
    level: Level,
    fit: LinearFit,
    noise: tuple[float, float, float, float],
    *,
    struck_limit: float = 0.0,
    struck: NDArray[np.bool_] | None = None,
) -> Residuals:
    """What a fit leaves: chi2, ncc, and the covariance of the displacement that it implies.

    Parameters
    ----------
    frame, usable, level, fit
        As in :func:`fit_linear`.
    noise
        Pedestal of ``frame`` (counts), variance of a bin per count, its constant part, and the
        smallest variance to assume.
    struck_limit, struck
        Bins whose residual is above so many standard deviations are marked in ``struck``.

    Returns
    -------
    Residuals
        ``influence``: sum of squares of each bin's part in the linear step, px^2 (2, 2): the
        covariance of the step, from the residuals themselves (White's estimate).
    """
    bank, bins = bank_of(level, fit.displacement)
    images = level.images[:, bank[0], bank[1]]
    rows = fit.inverse[4:6] / fit.theta[0]
    marks = np.zeros(frame.shape, np.bool_) if struck is None else struck
    sums = _residual_sums(
        locked(frame),
        locked(usable),
        locked(images),
        locked(level.weight[bank]),
        *bins,
        fit.theta,
        rows,
        np.array([*noise, struck_limit]),
        marks,
    )
    n = max(float(sums[0]), 1.0)
    m_var = sums[7] - sums[6] ** 2 / n
    f_var = sums[9] - sums[8] ** 2 / n
    covariance = sums[10] - sums[6] * sums[8] / n
    ncc = covariance / np.sqrt(m_var * f_var) if m_var > 0.0 and f_var > 0.0 else 0.0
    return Residuals(
        n_bins=int(sums[0]),
        weighted=float(sums[1]),
        chi2=float(sums[2]) / n,
        white=0.5 * float(sums[11]) / max(float(sums[12]), 1.0),
        ncc=float(np.clip(ncc, -1.0, 1.0)),
        influence=np.array([[sums[3], sums[4]], [sums[4], sums[5]]]),
        suspects=int(np.count_nonzero(marks)) if struck_limit > 0.0 else 0,
    )


def cubic_inverse(step: Array, cubic: Array) -> Array:
    """Solve ``d + C(d) = step`` for d, where C holds the cubic terms (yyy, yyx, yxx, xxx).

    Parameters
    ----------
    step
        Step of the linear model after division by the slope, px (2,).
    cubic
        (2, 4), px^-2.
    """
    d = step.copy()
    for _ in range(4):
        y, x = d
        d = step - cubic @ np.array([y**3, y**2 * x, y * x**2, x**3])
    return d
