"""Masked normalized cross-correlation (Padfield 2012): the formula, and the exact full map.

With reference f, frame m, valid arrays p and q, ``(a * b)(u) = sum_x a(x) b(x + u)`` and
``n = p * q``::

    num(u) = (pf * qm) - (pf * q)(p * qm) / n
    ncc(u) = num / sqrt([(pf^2 * q) - (pf * q)^2 / n] [(p * qm^2) - (p * qm)^2 / n])

Every term is a correlation of two images that are zero where invalid, hence a product of real
Fourier transforms. ``u`` is where the scene has moved; the registering shift is ``-u``.

References
----------
D. Padfield, IEEE Trans. Image Process. 21(5), 2706 (2012), doi:10.1109/TIP.2011.2181402.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stillstack.kernels.compiling import compiled, locked

Pair = tuple[int, int]


@compiled
def _combine(n, f_sum, f_square, m_sum, m_square, product, min_overlap, resolution, out):  # type: ignore[no-untyped-def]
    """The six masked sums into the coefficient; NaN where the overlap is too small."""
    floors = np.zeros(3)
    for i in range(n.size):
        if n[i] < min_overlap:
            continue
        f_var = max(f_square[i] - f_sum[i] ** 2 / n[i], 0.0)
        m_var = max(m_square[i] - m_sum[i] ** 2 / n[i], 0.0)
        floors[0] = max(floors[0], np.sqrt(f_var * m_var))
        floors[1] = max(floors[1], abs(f_square[i]))
        floors[2] = max(floors[2], abs(m_square[i]))
    # Rounding leaves a variance of a constant patch slightly above zero: it carries no signal.
    floors *= 1e3 * resolution
    for i in range(n.size):
        if n[i] < min_overlap:
            out[i] = np.nan
            continue
        f_var = max(f_square[i] - f_sum[i] ** 2 / n[i], 0.0)
        m_var = max(m_square[i] - m_sum[i] ** 2 / n[i], 0.0)
        scale = np.sqrt(f_var * m_var)
        value = 0.0
        if scale > floors[0] and f_var > floors[1] and m_var > floors[2]:
            value = (product[i] - f_sum[i] * m_sum[i] / n[i]) / scale
        out[i] = min(max(value, -1.0), 1.0)


def coefficient(
    n: NDArray[Any],
    ff: tuple[NDArray[Any], NDArray[Any]],
    mm: tuple[NDArray[Any], NDArray[Any]],
    fm: NDArray[Any],
    min_overlap: float,
) -> NDArray[np.float64]:
    """Combine the six masked sums; NaN where the overlap is too small, 0 where nothing varies."""
    out = np.empty(n.shape)
    sums = [locked(a.astype(np.float64, copy=False)).ravel() for a in (n, *ff, *mm, fm)]
    resolution = float(np.finfo(fm.dtype).eps)
    _combine(*sums, max(min_overlap, 1.0), resolution, out.ravel())
    return out


def correlate_masked(
    reference_image: NDArray[Any],
    frame: NDArray[Any],
    reference_valid: NDArray[np.bool_],
    frame_valid: NDArray[np.bool_],
    *,
    overlap_ratio: float = 0.3,
) -> NDArray[np.float64]:
    """Masked normalized correlation of two images at every displacement.

    Parameters
    ----------
    reference_image, frame
        Images (y, x) of any sizes, any real dtype. Values of invalid pixels do not matter.
    reference_valid, frame_valid
        Their valid pixels, True where a pixel counts.
    overlap_ratio
        Displacements at which fewer valid pixels overlap than this fraction of the largest
        overlap hold 0.

    Returns
    -------
    ndarray, float64 (y + y' - 1, x + x' - 1)
        Correlation in [-1, 1]. Index ``i`` stands for the scene moved by
        ``u = i - (reference_image.shape - 1)``.

    Raises
    ------
    ValueError
        If an image and its valid array differ in shape, or are not two-dimensional.

    References
    ----------
    D. Padfield, IEEE Trans. Image Process. 21(5), 2706 (2012), doi:10.1109/TIP.2011.2181402.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(8, 8))
    >>> valid = np.ones((8, 8), bool)
    >>> ncc = correlate_masked(image, np.roll(image, (1, 2), (0, 1)), valid, valid)
    >>> [int(i) - 7 for i in np.unravel_index(ncc.argmax(), ncc.shape)]
    [1, 2]
    """
    for image, valid in ((reference_image, reference_valid), (frame, frame_valid)):
        if image.ndim != 2 or image.shape != valid.shape:
            raise ValueError(
                f"an image of shape {image.shape} came with valid pixels of shape {valid.shape}; "
                "both must be two-dimensional and equal"
            )
    p, q = reference_valid.astype(bool), frame_valid.astype(bool)
    f, m = _centred(reference_image, p), _centred(frame, q)
    shape = tuple(a + b - 1 for a, b in zip(f.shape, m.shape, strict=True))
    size = tuple(fft.next_fast_len(n, real=True) for n in shape)

    def transform(image: NDArray[Any]) -> NDArray[np.complex128]:
        return fft.rfft2(image.astype(np.float64), size)  # type: ignore[no-any-return]

    def correlate(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
        full = fft.irfft2(np.conj(a) * b, size)
        # Displacements from -(reference.shape - 1) on: negative ones sit at the far end.
        full = np.roll(full, (f.shape[0] - 1, f.shape[1] - 1), (0, 1))
        return full[: shape[0], : shape[1]]  # type: ignore[no-any-return]

    p_t, f_t, ff_t = transform(p), transform(f), transform(f * f)
    q_t, m_t, mm_t = transform(q), transform(m), transform(m * m)
    n = np.rint(correlate(p_t, q_t))
    value = coefficient(
        n,
        (correlate(f_t, q_t), correlate(ff_t, q_t)),
        (correlate(p_t, m_t), correlate(p_t, mm_t)),
        correlate(f_t, m_t),
        overlap_ratio * float(n.max()),
    )
    return np.nan_to_num(value, nan=0.0)


def _centred(image: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Image less its own mean over the valid pixels, 0 where invalid."""
    number = np.count_nonzero(valid)
    if number == 0:
        return np.zeros(image.shape)
    mean = np.sum(image, where=valid, dtype=np.float64) / number
    return np.where(valid, image.astype(np.float64) - mean, 0.0)
