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
undone in closed form.

Where half a pixel is far for the features, or the reference so noisy that its slope cannot be
predicted, the normal equations are made at the whole pixels around the answer too. As functions of
the displacement both sides are correlations with smooth images, hence smooth: interpolated between
whole pixels they hold at any fraction of one, and the step is brought to nothing there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stillstack.kernels.compiling import compiled
from stillstack.kernels.levels import Array, Level, Pair
from stillstack.kernels.moments import N_REGRESSORS, LevelView, Moments, Patch, moments_at

# Displacements between which steps change by a known amount: the slope of steps there.
SLOPE_PX = 0.25


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Solution of the linear model about one displacement.

    Parameters
    ----------
    displacement
        Whole-pixel displacement (y, x) at which the regressors stand.
    theta
        Parameters of the six regressors.
    inverse
        Inverse of the normal matrix.
    moments
        What was solved.
    """

    displacement: Pair
    theta: Array
    inverse: Array
    moments: Moments

    @property
    def step(self) -> Array:
        """The rest of the displacement as the linear model sees it, px (y, x)."""
        step: Array = -self.theta[4:6] / self.theta[0]
        return step

    def agreement(self) -> tuple[float, float]:
        """How well the frame agrees with the reference over the support, both weighted.

        Returns
        -------
        Correlation with the reference moved there, and what is left of the frame's squares with
        the background alone fitted.
        """
        m = self.moments
        ncc, left = _agreement(m.normal, m.right, m.squares, self.theta)
        return float(ncc), float(left)


@compiled
def _solve(a, b, theta, inverse):  # type: ignore[no-untyped-def]
    """Solve by Cholesky of the matrix scaled to a unit diagonal; whether it is well conditioned."""
    n = b.size
    scale, factor = np.empty(n), np.zeros((n, n))
    for i in range(n):
        if not a[i, i] > 0.0:
            return False
        scale[i] = 1.0 / np.sqrt(a[i, i])
    for i in range(n):
        for j in range(i + 1):
            total = a[i, j] * scale[i] * scale[j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            if i == j:
                if not total > 1e-8:
                    return False
                factor[i, i] = np.sqrt(total)
            else:
                factor[i, j] = total / factor[j, j]
    column = np.empty(n)
    for c in range(n):
        for i in range(n):
            total = 1.0 if i == c else 0.0
            for k in range(i):
                total -= factor[i, k] * column[k]
            column[i] = total / factor[i, i]
        for i in range(n - 1, -1, -1):
            total = column[i]
            for k in range(i + 1, n):
                total -= factor[k, i] * column[k]
            column[i] = total / factor[i, i]
        for i in range(n):
            inverse[i, c] = column[i] * scale[i] * scale[c]
    for i in range(n):
        total = 0.0
        for k in range(n):
            total += inverse[i, k] * b[k]
        theta[i] = total
        if not np.isfinite(total):
            return False
    return True


@compiled
def _agreement(normal, right, squares, theta):  # type: ignore[no-untyped-def]
    total = normal[1, 1]
    step_y, step_x = theta[4] / theta[0], theta[5] / theta[0]
    mean_f = (normal[0, 1] + step_y * normal[4, 1] + step_x * normal[5, 1]) / total
    mean_m = right[1] / total
    square = normal[0, 0] + step_y**2 * normal[4, 4] + step_x**2 * normal[5, 5]
    square += 2.0 * (step_y * normal[0, 4] + step_x * normal[0, 5] + step_y * step_x * normal[4, 5])
    f_var, m_var = square / total - mean_f**2, squares / total - mean_m**2
    product = right[0] + step_y * right[4] + step_x * right[5]
    ncc = 0.0
    if f_var > 0.0 and m_var > 0.0:
        ncc = (product / total - mean_f * mean_m) / np.sqrt(f_var * m_var)
    background, inverse = np.empty(3), np.empty((3, 3))
    left = squares
    if _solve(normal[1:4, 1:4].copy(), right[1:4].copy(), background, inverse):
        for k in range(3):
            left -= background[k] * right[1 + k]
    return min(max(ncc, -1.0), 1.0), left


def solve(moments: Moments, displacement: Pair) -> LinearFit | None:
    """The fit, or None where the support is too small, carries no signal, or none that agrees."""
    if moments.n_bins < 4 * N_REGRESSORS:
        return None
    theta, inverse = np.empty(N_REGRESSORS), np.empty((N_REGRESSORS, N_REGRESSORS))
    if not _solve(moments.normal, moments.right, theta, inverse) or not theta[0] > 0.0:
        return None
    return LinearFit(displacement, theta, inverse, moments)


def fit_linear(level: Level, displacement: Pair, seen: LevelView) -> LinearFit | None:
    """Weighted least squares of a frame on the reference at one whole-pixel displacement.

    Parameters
    ----------
    level
        Regressors of the reference.
    displacement
        Where the scene has moved, px (y, x). With a single bank, a multiple of the factor.
    seen
        The frame at that level.

    Returns
    -------
    LinearFit or None
        None where the support is too small or carries no signal.
    """
    return solve(moments_at(level, displacement, seen), displacement)


def slope_at(patch: Patch, displacement: Array) -> Array | None:
    """Change of the step per displacement, (2, 2)."""
    columns = []
    for axis in np.eye(2) * SLOPE_PX:
        before, after = (
            solve(patch.at(displacement + sign * axis), patch.corner) for sign in (-1.0, 1.0)
        )
        if before is None or after is None:
            return None
        columns.append((before.step - after.step) / (2.0 * SLOPE_PX))
    return np.stack(columns, axis=1)


@compiled
def cubic_inverse(step, cubic):  # type: ignore[no-untyped-def]
    """Solve ``d + C(d) = step`` for d, where C holds the cubic terms (yyy, yyx, yxx, xxx).

    Parameters
    ----------
    step
        Step of the linear model after division by the slope, px (2,).
    cubic
        (2, 4), px^-2.
    """
    y, x = step[0], step[1]
    for _ in range(4):
        a, b, c, d = y**3, y**2 * x, y * x**2, x**3
        off_y = cubic[0, 0] * a + cubic[0, 1] * b + cubic[0, 2] * c + cubic[0, 3] * d
        off_x = cubic[1, 0] * a + cubic[1, 1] * b + cubic[1, 2] * c + cubic[1, 3] * d
        y, x = step[0] - off_y, step[1] - off_x
    return np.array([y, x])
