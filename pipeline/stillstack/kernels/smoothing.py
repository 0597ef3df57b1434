"""Gaussian smoothing and derivatives of a reference, never across invalid pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.compiling import compiled, locked

Array = NDArray[np.float64]

# Sixth-order central difference: exact to 1 % up to a third of the Nyquist frequency.
PLAIN_GRADIENT = np.array([-1.0, 9.0, -45.0, 0.0, 45.0, -9.0, 1.0]) / 60.0


def smoothing_kernels(sigma: float) -> tuple[Array, Array, Array, Array]:
    """Smoothing of width ``sigma`` px and its first three derivatives, as correlation kernels.

    Fourth order: the value and the slope of a cubic come out exactly, so that narrow features
    keep their height where a plain Gaussian would lower them.
    """
    g0, g1, g2, g3 = gaussian_kernels(sigma)
    x = np.arange(-(g0.size // 2), g0.size // 2 + 1, dtype=np.float64)
    sharp0 = g0 - 0.5 * (g0 @ x**2) * g2
    sharp1 = g1 - (g1 @ x**3) / 6.0 * g3
    return sharp0, sharp1, g2, g3


def gaussian_kernels(sigma: float) -> tuple[Array, Array, Array, Array]:
    """Gaussian of width ``sigma`` px and its first three derivatives, as correlation kernels.

    Each is scaled so that polynomials of its own order come out exactly, whatever the sampling.
    """
    radius = max(3, int(np.ceil(4.0 * sigma)))
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    g0 = np.exp(-0.5 * (x / sigma) ** 2)
    g0 /= g0.sum()
    g1 = x * g0
    g1 /= (g1 * x).sum()
    g2 = (x**2 - (x**2 * g0).sum()) * g0
    g2 *= 2.0 / (g2 * x**2).sum()
    g3 = g1 * (x**2 - (x**3 * g1).sum())
    g3 *= 6.0 / (g3 * x**3).sum()
    return g0, g1, g2, g3


@compiled
def _correlate(image, kernel_y, kernel_x, out):  # type: ignore[no-untyped-def]
    """Both kernels, row by row: what lies between the two never leaves the first cache."""
    n_y, n_x = image.shape
    above, before = kernel_y.size // 2, kernel_x.size // 2
    padded = np.empty(n_x + 2 * before, np.float64)
    middle = padded[before : before + n_x]
    # Four weights at once: a processor adds faster than it stores. The order of the sum is kept.
    fours_y, fours_x = kernel_y.size // 4 * 4, kernel_x.size // 4 * 4
    for j in range(n_y):
        middle[:] = 0.0
        for k in range(0, fours_y, 4):
            at = j + k - above
            a, b = image[min(max(at, 0), n_y - 1)], image[min(max(at + 1, 0), n_y - 1)]
            c, d = image[min(max(at + 2, 0), n_y - 1)], image[min(max(at + 3, 0), n_y - 1)]
            w0, w1, w2, w3 = kernel_y[k], kernel_y[k + 1], kernel_y[k + 2], kernel_y[k + 3]
            for i in range(n_x):
                middle[i] = middle[i] + w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i]
        for k in range(fours_y, kernel_y.size):
            weight, part = kernel_y[k], image[min(max(j + k - above, 0), n_y - 1)]
            for i in range(n_x):
                middle[i] += weight * part[i]
        for i in range(before):
            padded[i], padded[n_x + before + i] = middle[0], middle[n_x - 1]
        row = out[j]
        row[:] = 0.0
        for k in range(0, fours_x, 4):
            a, b = padded[k : k + n_x], padded[k + 1 : k + 1 + n_x]
            c, d = padded[k + 2 : k + 2 + n_x], padded[k + 3 : k + 3 + n_x]
            w0, w1, w2, w3 = kernel_x[k], kernel_x[k + 1], kernel_x[k + 2], kernel_x[k + 3]
            for i in range(n_x):
                row[i] = row[i] + w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i]
        for k in range(fours_x, kernel_x.size):
            weight, part = kernel_x[k], padded[k : k + n_x]
            for i in range(n_x):
                row[i] += weight * part[i]


def separable(image: Array, kernel_y: Array, kernel_x: Array) -> Array:
    """Correlate with a kernel along y and another along x; edge pixels are repeated outside.

    Parameters
    ----------
    image
        Image (y, x), float64.
    kernel_y, kernel_x
        Kernels of odd length.
    """
    image = np.ascontiguousarray(image)
    out = np.empty_like(image)
    _correlate(locked(image), locked(kernel_y), locked(kernel_x), out)
    return out


def fill_invalid(image: Array, valid: NDArray[np.bool_], sigma: float = 2.0) -> Array:
    """Invalid pixels filled from the valid ones around them, wider and wider.

    Parameters
    ----------
    image
        Image (y, x), float64.
    valid
        Pixels that count.
    sigma
        Width of the first, narrowest neighbourhood, px; it doubles until all is filled.
    """
    filled = np.where(valid, image, 0.0)
    missing = ~valid
    if not missing.any() or not valid.any():
        return filled
    weight = valid.astype(np.float64)
    values = filled.copy()
    while missing.any() and sigma < 2.0 * max(image.shape):
        kernel = gaussian_kernels(sigma)[0]
        if kernel.size > 65:
            break
        near = _around(missing, kernel.size // 2)
        local = separable(values[near], kernel, kernel)
        total = separable(weight[near], kernel, kernel)
        ready = missing[near] & (total > 0.05)
        filled[near][ready] = local[ready] / total[ready]
        missing[near] &= ~ready
        sigma *= 2.0
    filled[missing] = image[valid].mean()
    return filled


def _around(there: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Smallest window that holds all of ``there`` and a margin around it, within the image."""
    found = (np.flatnonzero(there.any(axis=axis)) for axis in (1, 0))
    y, x = (slice(max(0, int(at[0]) - margin), int(at[-1]) + margin + 1) for at in found)
    return y, x


def solid(valid: NDArray[np.bool_], sigma: float, share: float = 0.9) -> NDArray[np.bool_]:
    """Valid pixels whose Gaussian neighbourhood is valid by ``share`` or more.

    Outside the image nothing is valid.
    """
    kernel = gaussian_kernels(sigma)[0]
    margin = kernel.size // 2
    weight = separable(np.pad(valid.astype(np.float64), margin), kernel, kernel)
    inner = weight[margin:-margin, margin:-margin]
    return valid & (inner >= share)
