"""Sums over a frame and a reference's regressors: the whole cost of registering a frame.

A frame's bins m enter through their products with the regressors, m times root weight first (see
`Level`): the right-hand side of the least squares at one or several whole-pixel displacements. The
matrix of the regressors' own products depends on the displacement and on which bins are usable:
it is made once per displacement, and what a frame's further invalid bins contributed is taken out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.between import Between
from stillstack.kernels.compiling import compiled, compiled_sums, locked
from stillstack.kernels.levels import Array, Flags, Float32, Level, Pair

# Regressors, in order: image, constant, y, x, gradient along y, gradient along x.
N_REGRESSORS = 6
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LevelView:
    """A frame at one level of the pyramid.

    Parameters
    ----------
    mean
        Its bins less the frame's pedestal, 0 where not usable.
    usable
        1 for the bins that count.
    lost
        Places of the bins that count in other frames but not in this one, in the flat array.
    """

    mean: Float32
    usable: Flags
    lost: Indices


@dataclass(frozen=True, eq=False)
class Moments:
    """Normal equations of a frame at one displacement.

    Parameters
    ----------
    normal
        (6, 6).
    right
        (6,).
    squares
        Weighted sum of squares of the frame.
    n_bins
        Bins that count.
    """

    normal: Array
    right: Array
    squares: float
    n_bins: int


@compiled_sums
def _right_hands(frame, images, places, out):  # type: ignore[no-untyped-def]
    """For each place (bank y, bank x, bins y, bins x): six inner products and the squares."""
    n_y, n_x = frame.shape
    rows, columns = images.shape[3], images.shape[4]
    x = np.empty(n_x, np.float32)
    for i in range(n_x):
        x[i] = np.float32((i + 0.5) / n_x - 0.5)
    for j in range(n_y):
        y = (j + 0.5) / n_y - 0.5
        for p in range(places.shape[0]):
            row, q_x = j - places[p, 2], places[p, 3]
            first, last = max(0, q_x), min(n_x, columns + q_x)
            if row < 0 or row >= rows or last <= first:
                continue
            b_y, b_x, start, stop = places[p, 0], places[p, 1], first - q_x, last - q_x
            # Taken from the whole array each time: only so are they known to be contiguous.
            root = images[0, b_y, b_x, row, start:stop]
            image = images[1, b_y, b_x, row, start:stop]
            grad_y = images[2, b_y, b_x, row, start:stop]
            grad_x = images[3, b_y, b_x, row, start:stop]
            m, along = frame[j, first:last], x[first:last]
            one = slope = with_image = with_y = with_x = squares = np.float32(0.0)
            for i in range(m.size):
                white = m[i] * root[i]
                constant = white * root[i]
                squares += white * white
                one += constant
                slope += constant * along[i]
                with_image += white * image[i]
                with_y += white * grad_y[i]
                with_x += white * grad_x[i]
            total = out[p]
            total[0] += with_image
            total[1] += one
            total[2] += one * y
            total[3] += slope
            total[4] += with_y
            total[5] += with_x
            total[6] += squares


@compiled_sums
def _normal_sums(usable, images, place, a):  # type: ignore[no-untyped-def]
    """Products of the regressors with each other over the usable bins; returns how many."""
    n_y, n_x = usable.shape
    rows, columns = images.shape[3], images.shape[4]
    q_y, q_x = place[2], place[3]
    first, last = max(0, q_x), min(n_x, columns + q_x)
    number = 0
    if last <= first:
        return number
    x = np.empty(last - first, np.float32)
    for i in range(last - first):
        x[i] = np.float32((first + i + 0.5) / n_x - 0.5)
    for j in range(max(0, q_y), min(n_y, rows + q_y)):
        y = (j + 0.5) / n_y - 0.5
        root = images[0, place[0], place[1], j - q_y, first - q_x : last - q_x]
        image = images[1, place[0], place[1], j - q_y, first - q_x : last - q_x]
        grad_y = images[2, place[0], place[1], j - q_y, first - q_x : last - q_x]
        grad_x = images[3, place[0], place[1], j - q_y, first - q_x : last - q_x]
        use = usable[j, first:last]
        w1 = wx = wxx = wf = wfx = wff = np.float32(0.0)
        count = np.int32(0)
        for i in range(x.size):
            r = root[i] * np.float32(use[i])
            f = image[i] * np.float32(use[i])
            count += np.int32(r > 0.0)
            rx, rr, rf = r * x[i], r * r, r * f
            w1 += rr
            wx += rr * x[i]
            wxx += rx * rx
            wf += rf
            wfx += rf * x[i]
            wff += f * f
        if count == 0:
            continue
        sy = syx = syf = syy = np.float32(0.0)
        sx = sxx = sxf = sxg = syg = np.float32(0.0)
        for i in range(x.size):
            gy, gx = grad_y[i] * np.float32(use[i]), grad_x[i] * np.float32(use[i])
            ry, rx = gy * root[i], gx * root[i]
            sy += ry
            syx += ry * x[i]
            syf += gy * image[i]
            syy += gy * gy
            syg += gy * gx
            sx += rx
            sxx += rx * x[i]
            sxf += gx * image[i]
            sxg += gx * gx
        number += int(count)
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
    for k in range(6):
        for m in range(k):
            a[k, m] = a[m, k]
    return number


@compiled
def _lost_sums(lost, n_y, n_x, images, place, a):  # type: ignore[no-untyped-def]
    """As `_normal_sums`, over some bins given by their places in the flat array."""
    rows, columns = images.shape[3], images.shape[4]
    one = np.empty(6)
    number = 0
    b_y, b_x, q_y, q_x = place
    for k in range(lost.size):
        j, i = lost[k] // n_x, lost[k] % n_x
        row, column = j - q_y, i - q_x
        if row < 0 or row >= rows or column < 0 or column >= columns:
            continue
        root = np.float64(images[0, b_y, b_x, row, column])
        if root == 0.0:
            continue
        number += 1
        one[0], one[1] = images[1, b_y, b_x, row, column], root
        one[2], one[3] = root * ((j + 0.5) / n_y - 0.5), root * ((i + 0.5) / n_x - 0.5)
        one[4], one[5] = images[2, b_y, b_x, row, column], images[3, b_y, b_x, row, column]
        for m in range(6):
            for n in range(m, 6):
                a[m, n] += one[m] * one[n]
    for m in range(6):
        for n in range(m):
            a[m, n] = a[n, m]
    return number


def normal_matrix(level: Level, displacement: Pair, seen: LevelView) -> tuple[Array, int]:
    """Products of the regressors over a frame's usable bins, (6, 6), and how many bins count."""
    known = level.normals.get(displacement)
    if known is None:
        known = level.normals[displacement] = _products(level, displacement, level.usable)
    if not seen.lost.size:
        return known
    fewer, number = _lost_products(level, displacement, seen.lost)
    return known[0] - fewer, known[1] - number


def _products(level: Level, displacement: Pair, usable: Flags) -> tuple[Array, int]:
    normal = np.zeros((N_REGRESSORS, N_REGRESSORS))
    place = level.place(displacement)
    return normal, int(_normal_sums(locked(usable), locked(level.images), place, normal))


def _lost_products(level: Level, displacement: Pair, lost: Indices) -> tuple[Array, int]:
    normal = np.zeros((N_REGRESSORS, N_REGRESSORS))
    place = level.place(displacement)
    shape = level.usable.shape
    return normal, int(_lost_sums(locked(lost), *shape, locked(level.images), place, normal))


def _right_sides(level: Level, displacements: list[Pair], mean: Float32) -> Array:
    places = np.array([level.place(u) for u in displacements], np.int64)
    sums = np.zeros((len(displacements), N_REGRESSORS + 1))
    _right_hands(locked(mean), locked(level.images), places, sums)
    return sums


def moments_at(level: Level, displacement: Pair, seen: LevelView) -> Moments:
    """Normal equations of a frame at a whole-pixel displacement.

    Parameters
    ----------
    level
        Of the reference.
    displacement
        Where the scene has moved, px (y, x). With a single bank, a multiple of the factor.
    seen
        The frame at that level.
    """
    (total,) = _right_sides(level, [displacement], seen.mean)
    normal, number = normal_matrix(level, displacement, seen)
    return Moments(normal, total[:N_REGRESSORS], float(total[N_REGRESSORS]), number)


@dataclass(frozen=True, eq=False)
class Patch:
    """Normal equations as functions of the displacement, around a whole-pixel one.

    The same bins of the frame count at each displacement. Both sides are then correlations of
    smooth images, known at whole pixels and interpolated between them. The number of points is
    even: interpolated in the middle of them, an image is blurred but not moved.

    Parameters
    ----------
    corner
        Displacement (y, x) of the pixel that is interpolated from, upwards, px.
    seen
        The frame with only the bins that count.
    normal, right, squares
        (points, points, 6, 6), the same without one 6, without both: one pixel apart.
    n_bins
        Bins that count.
    between
        Weights for what lies between whole pixels.
    """

    corner: Pair
    seen: LevelView
    normal: Array
    right: Array
    squares: Array
    n_bins: int
    between: Between

    def at(self, displacement: Array) -> Moments:
        """Normal equations at a displacement, px (y, x)."""
        offset = (displacement - self.corner).tolist()
        taps = np.outer(*(self.between.taps(axis, t) for axis, t in enumerate(offset)))
        return Moments(
            np.tensordot(taps, self.normal, 2),
            np.tensordot(taps, self.right, 2),
            float((taps * self.squares).sum()),
            self.n_bins,
        )


def patch_around(level: Level, corner: Pair, between: Between, seen: LevelView) -> Patch:
    """Normal equations at the whole pixels around one."""
    inner = _inside(level, corner, seen)
    lost = inner.lost
    points = between.equations.shape[2]
    side = range(1 - points // 2, 1 + points // 2)
    displacements = [(corner[0] + j, corner[1] + i) for j in side for i in side]
    sums = _right_sides(level, displacements, inner.mean).reshape(points, points, -1)
    known = level.patches.get(corner)
    if known is None:
        static = _inside(level, corner, replace(seen, usable=level.usable)).usable
        found = [_products(level, u, static)[0] for u in displacements]
        normals = np.stack(found).reshape(points, points, N_REGRESSORS, N_REGRESSORS)
        known = level.patches[corner] = (normals, int(np.count_nonzero(static)))
    normal, number = known
    if lost.size:
        fewer = np.stack([_lost_products(level, u, lost)[0] for u in displacements])
        normal, number = normal - fewer.reshape(normal.shape), number - lost.size
    right, squares = sums[..., :N_REGRESSORS], sums[..., N_REGRESSORS]
    return Patch(corner, inner, normal, right, squares, number, between)


def _inside(level: Level, corner: Pair, seen: LevelView) -> LevelView:
    """A frame with only those bins that count and whose origin is on the support."""
    mean, usable = np.zeros(seen.mean.shape, np.float32), np.zeros(seen.mean.shape, np.uint8)
    _keep_inside(
        locked(seen.mean),
        locked(seen.usable),
        locked(level.inner),
        level.place(corner),
        mean,
        usable,
    )
    return LevelView(mean, usable, seen.lost[_flags_at(level, corner, seen.lost) > 0])


def _flags_at(level: Level, corner: Pair, places: Indices) -> Flags:
    """Whether the origin of some bins of a frame is on the support."""
    b_y, b_x, q_y, q_x = level.place(corner)
    inner = level.inner[b_y, b_x]
    y, x = np.divmod(places, level.usable.shape[1])
    y, x = y - q_y, x - q_x
    inside = (y >= 0) & (x >= 0) & (y < inner.shape[0]) & (x < inner.shape[1])
    found = np.zeros(places.size, np.uint8)
    found[inside] = inner[y[inside], x[inside]]
    return found


@compiled
def _keep_inside(mean, usable, inner, place, out, flags):  # type: ignore[no-untyped-def]
    b_y, b_x, q_y, q_x = place
    n_y, n_x = mean.shape
    first, last = max(0, q_x), min(n_x, inner.shape[3] + q_x)
    if last <= first:
        return
    for j in range(max(0, q_y), min(n_y, inner.shape[2] + q_y)):
        here = inner[b_y, b_x, j - q_y, first - q_x : last - q_x]
        use, values = usable[j, first:last], mean[j, first:last]
        flag, into = flags[j, first:last], out[j, first:last]
        for i in range(here.size):
            flag[i] = here[i] & use[i]
        for i in range(here.size):
            into[i] = values[i] if here[i] & use[i] else np.float32(0.0)
