"""Levels of a reference's pyramid: its regressors, binned at each whole-pixel offset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, compiled_sums

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Level:
    """Regressors of the reference at one level of the pyramid.

    Parameters
    ----------
    factor
        Side of a bin, px.
    images
        float32 (3, banks, banks, y, x): the smoothed image less its mean, and its gradient in
        counts per px. ``images[:, r, s]`` is binned after moving the image by (r, s) px.
    weight
        float32 (banks, banks, y, x): inverse variance of a bin of one frame, 0 off the support.
    frame_count
        int32: pixels of each of the frame's bins that are valid in every frame.
    """

    factor: int
    images: Float32
    weight: Float32
    frame_count: NDArray[np.int32]

    @property
    def banks(self) -> int:
        """Whole-pixel offsets per axis for which regressors are kept."""
        return int(self.weight.shape[0])


def bank_of(level: Level, displacement: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Which bank holds a displacement, and by how many whole bins to move it."""
    (q_y, r_y), (q_x, r_x) = (divmod(u, level.factor) for u in displacement)
    if level.banks == 1:
        return (0, 0), (q_y, q_x)
    return (r_y, r_x), (q_y, q_x)


@compiled
def _bin_displaced(image, valid, factor, r_y, r_x, out, whole):  # type: ignore[no-untyped-def]
    n_y, n_x = image.shape
    scale = 1.0 / (factor * factor)
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            y0, x0 = j * factor - r_y, i * factor - r_x
            total = 0.0
            good = y0 >= 0 and x0 >= 0 and y0 + factor <= n_y and x0 + factor <= n_x
            if good:
                for k in range(factor):
                    for m in range(factor):
                        total += image[y0 + k, x0 + m]
                        good = good and valid[y0 + k, x0 + m]
            out[j, i] = np.float32(total * scale)
            whole[j, i] = good


def bin_banks(
    images: list[Array], solid: NDArray[np.bool_], factor: int, banks: int
) -> tuple[Float32, NDArray[np.bool_]]:
    """Images binned at each whole-pixel offset, and which bins are wholly solid.

    Parameters
    ----------
    images
        Full-resolution images (y, x), float64.
    solid
        Pixels that the support may use.
    factor
        Side of a bin, px.
    banks
        Offsets per axis: 1 or ``factor``.

    Returns
    -------
    float32 (image, banks, banks, y', x') and bool (banks, banks, y', x')
    """
    n_y, n_x = ((n + banks - 1) // factor for n in solid.shape)
    out = np.zeros((len(images), banks, banks, n_y, n_x), np.float32)
    whole = np.zeros((banks, banks, n_y, n_x), np.bool_)
    for r_y in range(banks):
        for r_x in range(banks):
            for k, image in enumerate(images):
                _bin_displaced(image, solid, factor, r_y, r_x, out[k, r_y, r_x], whole[r_y, r_x])
    return out, whole


def bin_weights(variance: Float32, whole: NDArray[np.bool_], factor: int) -> Float32:
    """Inverse variance of a bin of one frame, 0 where the bin is not on the support.

    Parameters
    ----------
    variance
        Mean variance of the bin's raw pixels, counts^2.
    whole
        Bins on the support.
    factor
        Side of a bin, px.
    """
    safe = np.where(whole, variance, 1.0)
    return np.where(whole, factor**2 / safe, 0.0).astype(np.float32)


@compiled_sums
def _add_displaced(images, q_y, q_x, tap, out):  # type: ignore[no-untyped-def]
    n_y, n_x = out.shape[1:]
    first, last = max(0, q_x), min(n_x, images.shape[2] + q_x)
    if last <= first:
        return
    for k in range(out.shape[0]):
        for j in range(max(0, q_y), min(n_y, images.shape[1] + q_y)):
            row = out[k, j, first:last]
            part = images[k, j - q_y, first - q_x : last - q_x]
            for i in range(row.size):
                row[i] += tap * part[i]


def displaced(level: Level, displacement: Array) -> Level:
    """The finest level moved by a fraction of a pixel too, on the frames' own bins.

    The smoothed reference is interpolated, six points a side, never the frame: a second step
    about the answer of the first then has nothing left to expand.

    Parameters
    ----------
    level
        The finest level of a reference.
    displacement
        Where the scene has moved, px (y, x).
    """
    whole = np.floor(displacement).astype(int)
    taps_y, taps_x = (_lagrange(t) for t in displacement - whole)
    shape = level.frame_count.shape
    images = np.zeros((level.images.shape[0], *shape), np.float32)
    for j, tap_y in enumerate(taps_y):
        for i, tap_x in enumerate(taps_x):
            tap = np.float32(tap_y * tap_x)
            if tap != 0.0:
                bank, bins = bank_of(level, (int(whole[0]) + j - 2, int(whole[1]) + i - 2))
                _add_displaced(level.images[:, bank[0], bank[1]], *bins, tap, images)
    # The weights have to move along: standing still, they would favour one side of each feature.
    weight, support = np.zeros((2, 1, *shape), np.float32)
    fraction = displacement - whole
    for j, tap_y in enumerate((1.0 - fraction[0], fraction[0])):
        for i, tap_x in enumerate((1.0 - fraction[1], fraction[1])):
            bank, bins = bank_of(level, (int(whole[0]) + j, int(whole[1]) + i))
            _add_displaced(level.weight[bank][None], *bins, np.float32(tap_y * tap_x), weight)
    nearest = np.rint(displacement).astype(int)
    bank, bins = bank_of(level, (int(nearest[0]), int(nearest[1])))
    _add_displaced(level.weight[bank][None], *bins, np.float32(1.0), support)
    weight[support == 0.0] = 0.0
    return Level(level.factor, images[:, None, None], weight[None], level.frame_count)


def _lagrange(t: float) -> Array:
    """Weights of six points at -2 ... 3 for the value at ``t`` in [0, 1)."""
    points = np.arange(-2.0, 4.0)
    return np.array(
        [np.prod([(t - q) / (p - q) for q in points if q != p]) for p in points], np.float64
    )
