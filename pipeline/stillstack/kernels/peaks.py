"""Peaks of a correlation map: the highest, and the next one that a valley sets apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled

Pair = tuple[int, int]


@dataclass(frozen=True)
class Peak:
    """Highest point of a correlation map."""

    displacement: tuple[float, float]
    value: float
    second: float
    at_border: bool


def find_peak(ncc: NDArray[np.float64], *, min_prominence: float = 0.05) -> Peak | None:
    """Highest point of a map, refined by a parabola, and the second *separate* peak.

    A second maximum is separate when the lowest point on the best path between it and a higher
    one lies below it by ``min_prominence`` of the map's highest value: ripples on the flank of
    the first peak do not count.

    Parameters
    ----------
    ncc
        Map of odd sides, displacement 0 in its centre, NaN where unknown.
    min_prominence
        Depth of the saddle, as a fraction of the highest value.

    Returns
    -------
    Peak or None
        None where nothing correlates.
    """
    y, x, value, second, at_border = _peak_of(ncc, min_prominence)
    if value <= 0.0:
        return None
    return Peak((y, x), value, second, bool(at_border))


@compiled
def _vertex(left, middle, right):  # type: ignore[no-untyped-def]
    """Offset of the vertex of the parabola through three points about the middle one."""
    curvature = left - 2.0 * middle + right
    if min(left, right) < -1.0 or curvature >= 0.0:
        return 0.0
    return min(max(0.5 * (left - right) / curvature, -0.5), 0.5)


@compiled
def _peak_of(ncc, min_prominence):  # type: ignore[no-untyped-def]
    known, order = _descending(ncc)
    n_y, n_x = ncc.shape
    j, i = order[0] // n_x, order[0] % n_x
    value = known[j, i]
    if value <= 0.0:
        return 0.0, 0.0, value, 0.0, False
    second = max(_second_peak(known, order, min_prominence * value), 0.0)
    y, x = float(j - n_y // 2), float(i - n_x // 2)
    at_border = j == 0 or i == 0 or j == n_y - 1 or i == n_x - 1
    if not at_border:
        y += _vertex(known[j - 1, i], value, known[j + 1, i])
        x += _vertex(known[j, i - 1], value, known[j, i + 1])
    return y, x, value, second, at_border


@compiled
def _descending(ncc):  # type: ignore[no-untyped-def]
    """The map with -2 where unknown, and its places from the highest on."""
    known = np.where(np.isnan(ncc), -2.0, ncc)
    return known, np.argsort(-known.ravel(), kind="mergesort")


@compiled
def _find_root(parent, k):  # type: ignore[no-untyped-def]
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k


@compiled
def _second_peak(ncc, order, min_depth):  # type: ignore[no-untyped-def]
    """Flood from the top: where two hills meet, the lower one's depth is known."""
    n_y, n_x = ncc.shape
    flat = ncc.ravel()
    parent = np.full(flat.size, -1, np.int64)
    first = order[0]
    second = -2.0
    for index in order:
        level = flat[index]
        if level <= 0.0:
            break
        parent[index] = index
        j, i = index // n_x, index % n_x
        for dj in range(-1, 2):
            for di in range(-1, 2):
                jj, ii = j + dj, i + di
                if jj < 0 or jj >= n_y or ii < 0 or ii >= n_x:
                    continue
                neighbour = jj * n_x + ii
                if parent[neighbour] < 0 or neighbour == index:
                    continue
                a, b = _find_root(parent, index), _find_root(parent, neighbour)
                if a == b:
                    continue
                high, low = (a, b) if flat[a] >= flat[b] else (b, a)
                if low == first:
                    high, low = low, high
                if flat[low] - level >= min_depth and low != index:
                    second = max(second, flat[low])
                parent[low] = high
    # Hills that never met the first one are separate all the more.
    for index in order:
        if flat[index] <= 0.0:
            break
        if parent[index] == index and index != first:
            second = max(second, flat[index])
    return second
