"""What a fit leaves in each bin: how well it holds, what stands out, and how sure the step is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.between import Between
from stillstack.kernels.compiling import compiled, compiled_sums, locked
from stillstack.kernels.levels import Array, Level
from stillstack.kernels.moments import LevelView
from stillstack.kernels.refinement import LinearFit

# The reference may be wrong by this part of what stands above its mean, and by all that it bends on
# the way to a fraction of a pixel, before a bin stands out: between pixels, the peak of a spot that
# is hardly sampled is not known better.
MODEL_ERROR = 0.25


@dataclass(frozen=True, eq=False)
class Residuals:
    """What the fit leaves, and what follows from it.

    Parameters
    ----------
    n_bins
        Bins that count.
    weighted
        Weighted sum of squares.
    white
        The part of a bin's that differs from its neighbour's: noise, whatever the model misses.
    influence
        Sum of squares of each bin's part in the linear step, px^2 (2, 2): the covariance of the
        step, from the residuals themselves (White's estimate).
    n_marked
        Bins that stand out.
    """

    n_bins: int
    weighted: float
    white: float
    influence: Array
    n_marked: int


@compiled
def _six_rows(a, b, c, d, e, f, taps, into):  # type: ignore[no-untyped-def]
    t, u, v = np.float32(taps[0]), np.float32(taps[1]), np.float32(taps[2])
    w, x, y = np.float32(taps[3]), np.float32(taps[4]), np.float32(taps[5])
    for i in range(into.size):
        into[i] = (t * a[i] + u * b[i] + v * c[i]) + (w * d[i] + x * e[i] + y * f[i])


@compiled
def _bend(plain, images, place, along_y, along_x, offset, bend):  # type: ignore[no-untyped-def]
    """What moving the reference by interpolation adds to moving it by its gradient, weighted.

    Row by row: along y for each bank along x that is needed, then along x. ``along_y`` and
    ``along_x``: banks, bins and weights of six points; where any of them lies outside, 0.
    """
    banks, rows, columns = plain.shape[1], plain.shape[2], plain.shape[3]
    n_y, n_x = bend.shape
    b_y, b_x, q_y, q_x = place
    step_y, step_x = np.float32(offset[0]), np.float32(offset[1])
    bank_y, bin_y, tap_y = along_y
    bank_x, bin_x, tap_x = along_x
    first, last = max(0, q_x, bin_x.max()), min(n_x, columns + min(q_x, bin_x.min()))
    if last <= first:
        return
    down = np.zeros((banks, columns), np.float32)
    for j in range(max(0, q_y, bin_y.max()), min(n_y, rows + min(q_y, bin_y.min()))):
        for bank in range(banks):
            if not np.any(bank_x == bank):
                continue
            _six_rows(
                plain[bank_y[0], bank, j - bin_y[0]],
                plain[bank_y[1], bank, j - bin_y[1]],
                plain[bank_y[2], bank, j - bin_y[2]],
                plain[bank_y[3], bank, j - bin_y[3]],
                plain[bank_y[4], bank, j - bin_y[4]],
                plain[bank_y[5], bank, j - bin_y[5]],
                tap_y,
                down[bank],
            )
        part = bend[j, first:last]
        _six_rows(
            down[bank_x[0], first - bin_x[0] : last - bin_x[0]],
            down[bank_x[1], first - bin_x[1] : last - bin_x[1]],
            down[bank_x[2], first - bin_x[2] : last - bin_x[2]],
            down[bank_x[3], first - bin_x[3] : last - bin_x[3]],
            down[bank_x[4], first - bin_x[4] : last - bin_x[4]],
            down[bank_x[5], first - bin_x[5] : last - bin_x[5]],
            tap_x,
            part,
        )
        root = images[0, b_y, b_x, j - q_y, first - q_x : last - q_x]
        image = images[1, b_y, b_x, j - q_y, first - q_x : last - q_x]
        grad_y = images[2, b_y, b_x, j - q_y, first - q_x : last - q_x]
        grad_x = images[3, b_y, b_x, j - q_y, first - q_x : last - q_x]
        for i in range(part.size):
            linear = image[i] - step_y * grad_y[i] - step_x * grad_x[i]
            part[i] = root[i] * part[i] - linear


def _points(
    level: Level, between: Between, axis: int, displacement: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """The six whole-pixel displacements around one: bank, bins and weight of each."""
    below = int(np.floor(displacement))
    bins, banks = np.divmod(np.arange(below - 2, below + 4), level.factor)
    return banks, bins, between.image_taps(axis, displacement - below)


@compiled_sums
def _residual_sums(  # type: ignore[no-untyped-def]
    frame, usable, images, place, bend, theta, rows, limit, marks, sums
):
    """Sums over residuals; returns how many bins are marked."""
    n_y, n_x = frame.shape
    b_y, b_x, q_y, q_x = place
    first, last = max(0, q_x), min(n_x, images.shape[4] + q_x)
    n_out = 0
    if last <= first:
        return n_out
    zero = np.float32(0.0)
    trust = np.float32(MODEL_ERROR) * np.float32(theta[0])
    start, stop = first - q_x, last - q_x
    x, e = np.empty(last - first, np.float32), np.empty(last - first, np.float32)
    for i in range(last - first):
        x[i] = np.float32((first + i + 0.5) / n_x - 0.5)
    a, along = np.float32(theta[0]), np.float32(theta[3])
    step_y, step_x = np.float32(theta[4]), np.float32(theta[5])
    f0, f1 = np.float32(rows[0, 0]), np.float32(rows[1, 0])
    x0, x1 = np.float32(rows[0, 3]), np.float32(rows[1, 3])
    y0, y1 = np.float32(rows[0, 4]), np.float32(rows[1, 4])
    g0, g1 = np.float32(rows[0, 5]), np.float32(rows[1, 5])
    for j in range(max(0, q_y), min(n_y, images.shape[3] + q_y)):
        y = (j + 0.5) / n_y - 0.5
        background = np.float32(theta[1] + theta[2] * y)
        c0 = np.float32(rows[0, 1] + rows[0, 2] * y)
        c1 = np.float32(rows[1, 1] + rows[1, 2] * y)
        m, use = frame[j, first:last], usable[j, first:last]
        root = images[0, b_y, b_x, j - q_y, start:stop]
        image = images[1, b_y, b_x, j - q_y, start:stop]
        grad_y = images[2, b_y, b_x, j - q_y, start:stop]
        grad_x = images[3, b_y, b_x, j - q_y, start:stop]
        bent = bend[min(j, bend.shape[0] - 1), first:last]
        zyy = zyx = zxx = weighted = zero
        number, out = np.int32(0), np.int32(0)
        for i in range(m.size):
            flag = np.float32(use[i])
            left = (m[i] - background - along * x[i]) * root[i]
            left -= a * (image[i] + bent[i]) + step_y * grad_y[i] + step_x * grad_x[i]
            left *= flag
            e[i] = left
            p0 = f0 * image[i] + (c0 + x0 * x[i]) * root[i] + y0 * grad_y[i] + g0 * grad_x[i]
            p1 = f1 * image[i] + (c1 + x1 * x[i]) * root[i] + y1 * grad_y[i] + g1 * grad_x[i]
            z0, z1 = left * p0, left * p1
            zyy += z0 * z0
            zyx += z0 * z1
            zxx += z1 * z1
            weighted += left * left
            number += np.int32(left != zero)
            out += np.int32(abs(left) > limit + trust * max(image[i], zero) + a * abs(bent[i]))
        white = zero
        pairs = np.int32(0)
        # Nothing is left where no bin counts, and only there.
        here, beside = e[:-1], e[1:]
        for i in range(here.size):
            both = (here[i] != zero) & (beside[i] != zero)
            d = here[i] - beside[i] if both else zero
            white += d * d
            pairs += np.int32(both)
        sums[0] += number
        sums[1] += weighted
        sums[2] += zyy
        sums[3] += zyx
        sums[4] += zxx
        sums[5] += white
        sums[6] += pairs
        n_out += int(out)
        if out > 0 and marks.size > 0:
            for i in range(m.size):
                far = limit + trust * max(image[i], zero) + a * abs(bent[i])
                marks[j, first + i] = 1 if e[i] > far else (-1 if e[i] < -far else 0)
    return n_out


def residuals(
    level: Level,
    fit: LinearFit,
    seen: LevelView,
    *,
    limit: float = np.inf,
    marks: NDArray[np.int8] | None = None,
    between: Between | None = None,
) -> Residuals:
    """What a fit leaves, and the covariance of the displacement that it implies.

    Parameters
    ----------
    level, fit, seen
        As in :func:`fit_linear`.
    limit, marks
        Bins whose weighted residual is beyond the limit, and what the reference may be wrong by,
        are counted, and marked in ``marks``: 1 where it is positive, -1 where negative.
    between
        Weights by which the reference is moved between whole pixels; by its gradient, if None.
    """
    images = locked(level.images)
    bend = np.zeros((1, seen.mean.shape[1]), np.float32)
    if between is not None:
        bend = np.zeros(seen.mean.shape, np.float32)
        moved = (fit.displacement + fit.step).tolist()
        along = [_points(level, between, axis, u) for axis, u in enumerate(moved)]
        place = level.place(fit.displacement)
        _bend(locked(level.plain), images, place, *along, fit.step, bend)
    table = np.empty((0, 0), np.int8) if marks is None else marks
    sums = np.zeros(7)
    n_marked = _residual_sums(
        locked(seen.mean),
        locked(seen.usable),
        images,
        level.place(fit.displacement),
        bend,
        fit.theta,
        fit.inverse[4:6] / fit.theta[0],
        np.float32(limit),
        table,
        sums,
    )
    number, weighted, zyy, zyx, zxx, white, pairs = sums.tolist()
    return Residuals(
        n_bins=int(number),
        weighted=weighted,
        white=0.5 * white / max(pairs, 1.0),
        influence=np.array([[zyy, zyx], [zyx, zxx]]),
        n_marked=int(n_marked),
    )
