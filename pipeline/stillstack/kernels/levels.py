"""Levels of a reference's pyramid: its regressors, binned at each whole-pixel offset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, compiled_sums, locked

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
                _bin_displaced(
                    locked(image),
                    locked(solid),
                    factor,
                    r_y,
                    r_x,
                    out[k, r_y, r_x],
                    whole[r_y, r_x],
                )
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
def _displace(images, bank_y, bin_y, tap_y, bank_x, bin_x, tap_x, out):  # type: ignore[no-untyped-def]
    """Separable interpolation, row by row: along y once for each bank along x, then along x."""
    n_y, n_x = out.shape[1:]
    rows, columns = images.shape[3], images.shape[4]
    banks = images.shape[2]
    along_y = np.empty((banks, columns), np.float32)
    used = np.zeros(banks, np.bool_)
    for t in range(bank_x.size):
        used[bank_x[t]] = True
    for k in range(out.shape[0]):
        for j in range(n_y):
            for bank in range(banks):
                if not used[bank]:
                    continue
                total = along_y[bank]
                for i in range(columns):
                    total[i] = np.float32(0.0)
                for t in range(bank_y.size):
                    row = j - bin_y[t]
                    if row < 0 or row >= rows:
                        continue
                    tap = np.float32(tap_y[t])
                    source = images[k, bank_y[t], bank, row]
                    for i in range(columns):
                        total[i] += tap * source[i]
            target = out[k, j]
            for i in range(n_x):
                target[i] = np.float32(0.0)
            for t in range(bank_x.size):
                shift = bin_x[t]
                first, last = max(0, shift), min(n_x, columns + shift)
                tap = np.float32(tap_x[t])
                source = along_y[bank_x[t]]
                for i in range(first, last):
                    target[i] += tap * source[i - shift]


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
    fraction = displacement - whole
    six = range(-2, 4)
    images = _moved(level, level.images, whole, six, [_lagrange(t) for t in fraction])
    # The weights have to move along: standing still, they would favour one side of each feature.
    linear = [np.array([1.0 - t, t]) for t in fraction]
    weight = _moved(level, level.weight[None], whole, range(2), linear)
    nearest = np.rint(displacement).astype(int)
    one = [np.ones(1)] * 2
    support = _moved(level, level.weight[None], nearest, range(1), one)
    weight[support == 0.0] = 0.0
    return Level(level.factor, images[:, None, None], weight[None], level.frame_count)


def _moved(
    level: Level, images: Float32, whole: NDArray[np.int_], offsets: range, taps: list[Array]
) -> Float32:
    """Images interpolated at ``whole`` plus each of the offsets, weighted with the taps."""
    (q_y, r_y), (q_x, r_x) = (
        np.divmod(whole[axis] + np.arange(offsets.start, offsets.stop), level.factor)
        for axis in range(2)
    )
    out = np.empty((images.shape[0], *level.frame_count.shape), np.float32)
    _displace(locked(images), r_y, q_y, taps[0], r_x, q_x, taps[1], out)
    return out


def _lagrange(t: float) -> Array:
    """Weights of six points at -2 ... 3 for the value at ``t`` in [0, 1)."""
    points = np.arange(-2.0, 4.0)
    return np.array(
        [np.prod([(t - q) / (p - q) for q in points if q != p]) for p in points], np.float64
    )
