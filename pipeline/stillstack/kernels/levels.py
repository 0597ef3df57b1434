"""Levels of a reference's pyramid: its regressors, binned at each whole-pixel offset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, locked

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]
Flags = NDArray[np.uint8]
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Level:
    """Regressors of the reference at one level of the pyramid.

    Parameters
    ----------
    factor
        Side of a bin, px.
    images
        float32 (4, banks, banks, y, x), from `whitened`, binned after moving the reference by
        (r, s) px: the root of the weight (inverse variance of a bin of one frame), and that root
        times the smoothed image less its mean and times its gradient along y and x in counts per
        px. All 0 off the support. A frame's bins times the root have unit noise, so each product
        with them is one term of the least squares.
    usable
        uint8 (y, x): bins of a frame that count in every frame.
    inverse
        float32 (y, x): one over the number of the finest level's bins in each; 0 where not usable.
    scale
        True displacement per step of the linear model, along y and x: at a coarse level binning
        flattens the gradient.
    plain
        float32 (banks, banks, y, x): the smoothed image as it is, where it has to be interpolated.
    inner
        uint8 (banks, banks, y, x): bins on the support. Regressors reach a few
        pixels further, for interpolation.
    normals, patches
        Normal matrices that were needed so far: for frames whose bins are the usable ones they
        depend on the whole-pixel displacement alone.
    """

    factor: int
    images: Float32
    usable: Flags
    inverse: Float32
    scale: Array
    plain: Float32
    inner: Flags
    normals: dict[Pair, tuple[Array, int]] = field(default_factory=dict)
    patches: dict[Pair, tuple[Array, int]] = field(default_factory=dict)

    @property
    def banks(self) -> int:
        """Whole-pixel offsets per axis for which regressors are kept."""
        return int(self.images.shape[1])

    def place(self, displacement: Pair) -> tuple[int, int, int, int]:
        """Bank (y, x) that holds a whole-pixel displacement, and by how many bins to move it."""
        q_y, r_y = divmod(displacement[0], self.factor)
        q_x, r_x = divmod(displacement[1], self.factor)
        return (0, 0, q_y, q_x) if self.banks == 1 else (r_y, r_x, q_y, q_x)


@compiled
def _bin_displaced(image, factor, r_y, r_x, out):  # type: ignore[no-untyped-def]
    n_y, n_x = image.shape
    scale = 1.0 / (factor * factor)
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            y0, x0 = j * factor - r_y, i * factor - r_x
            total = 0.0
            if y0 >= 0 and x0 >= 0 and y0 + factor <= n_y and x0 + factor <= n_x:
                for k in range(factor):
                    for m in range(factor):
                        total += image[y0 + k, x0 + m]
            out[j, i] = np.float32(total * scale)


@compiled
def _whole_bins(valid, factor, r_y, r_x, whole):  # type: ignore[no-untyped-def]
    n_y, n_x = valid.shape
    for j in range(whole.shape[0]):
        for i in range(whole.shape[1]):
            y0, x0 = j * factor - r_y, i * factor - r_x
            good = y0 >= 0 and x0 >= 0 and y0 + factor <= n_y and x0 + factor <= n_x
            if good:
                for k in range(factor):
                    for m in range(factor):
                        good = good and valid[y0 + k, x0 + m]
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
            _whole_bins(locked(solid), factor, r_y, r_x, whole[r_y, r_x])
            for k, image in enumerate(images):
                _bin_displaced(locked(image), factor, r_y, r_x, out[k, r_y, r_x])
    return out, whole


def bin_moved(
    image: Array, solid: NDArray[np.bool_], factor: int, by: Pair
) -> tuple[Float32, NDArray[np.bool_]]:
    """Image moved by whole pixels, then binned; which bins are wholly solid."""
    shape = (solid.shape[0] // factor, solid.shape[1] // factor)
    out, whole = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    _bin_displaced(locked(image), factor, *by, out)
    _whole_bins(locked(solid), factor, *by, whole)
    return out, whole


def bin_weights(variance: NDArray[Any], whole: NDArray[np.bool_], factor: int) -> Float32:
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


def whitened(images: Float32, weight: Float32) -> Float32:
    """Regressors as a level keeps them: the root of the weight, and each image times it.

    Parameters
    ----------
    images
        (image, banks, banks, y, x).
    weight
        (banks, banks, y, x).

    Returns
    -------
    float32 (1 + images, banks, banks, y or one more, x)
        With an odd number of rows, the last of which may be 0: where images are a power of two of
        bytes apart, a processor keeps but one of them near, and of 2048x2048 bins all sums took
        two and a half times as long.
    """
    *banks, n_y, n_x = weight.shape
    out = np.zeros((1 + len(images), *banks, n_y | 1, n_x), np.float32)
    root = out[0, ..., :n_y, :]
    np.sqrt(weight, out=root)
    np.multiply(images, root, out=out[1:, ..., :n_y, :])
    return out
