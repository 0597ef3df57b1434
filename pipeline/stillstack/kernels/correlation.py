"""Masked normalized cross-correlation (Padfield 2012): the exact full map, and a bounded search.

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

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stillstack.kernels.compiling import compiled, compiled_sums, locked

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


def _ncc(
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
    value = _ncc(
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


@dataclass(frozen=True, eq=False)
class Transforms:
    """Conjugate transforms of a reference's valid bins, image and squared image."""

    size: Pair
    valid: NDArray[np.complex64]
    image: NDArray[np.complex64]
    square: NDArray[np.complex64]


@dataclass(frozen=True, eq=False)
class Search:
    """A reference made ready for many searches within ``radius`` bins.

    ``overlap``, ``sums`` and ``squares`` are the terms that do not depend on a frame whose
    valid pixels are the static ones. ``image`` and ``valid`` are laid out for direct sums; a wide
    window is searched by ``transforms``.
    """

    radius: int
    shape: Pair
    image: NDArray[np.float32]
    valid: NDArray[np.float32]
    transforms: Transforms | None
    overlap: NDArray[np.float32]
    sums: NDArray[np.float32]
    squares: NDArray[np.float32]
    min_overlap: float


# Displacements at which direct sums take as long as transforms, for images of 64x64 to 320x320.
_DIRECT_LAGS = 300
# Single steps that take less time than the terms of all bins.
_FEW_PRODUCTS = 20_000
_PART = 2048


def prepare_search(
    image: NDArray[np.float32],
    valid: NDArray[np.bool_],
    frame_valid: NDArray[np.bool_],
    radius: int,
    overlap_ratio: float,
    *,
    direct: bool | None = None,
) -> Search:
    """Sums, and transforms where they pay, of a reference level for :func:`search`.

    Parameters
    ----------
    image
        Reference level (y, x), its own mean taken off, 0 where invalid.
    valid
        Its valid bins.
    frame_valid
        The frames' static valid bins, same shape.
    radius
        Largest displacement along each axis, bins.
    overlap_ratio
        Displacements with a smaller fraction of the largest overlap are not considered.
    direct
        Whether sums are made directly; None: whichever is faster.
    """
    if direct is None:
        direct = (2 * radius + 1) ** 2 <= _DIRECT_LAGS
    transforms = None if direct else _transforms(image, valid, radius)
    nothing = np.zeros((1, 1), np.float32)
    blank = Search(
        radius,
        (image.shape[0], image.shape[1]),
        _flat(image, radius),
        _flat(valid, radius),
        transforms,
        nothing,
        nothing,
        nothing,
        0.0,
    )
    overlap, sums, squares = _own_sums(frame_valid, blank)
    return replace(
        blank,
        overlap=overlap,
        sums=sums,
        squares=squares,
        min_overlap=overlap_ratio * float(overlap.max()),
    )


def search(
    mean: NDArray[np.float32],
    valid: NDArray[Any],
    prepared: Search,
    *,
    is_static: bool,
    lost: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Masked normalized correlation at every displacement of the window.

    Parameters
    ----------
    mean
        Frame level (y, x); its own mean over the valid bins is taken off.
    valid
        Its valid bins, 1 or True.
    prepared
        The reference, from :func:`prepare_search`.
    is_static
        True where ``valid`` is the static array that ``prepared`` was made with: half the terms
        are known then.
    lost
        Where known, the places in the flat array that are valid in the static array and not in
        this one, which lacks nothing else: a few are taken out of the static terms one by one.

    Returns
    -------
    ndarray, float64 (2 radius + 1, 2 radius + 1)
        NaN where the overlap is too small. Index ``i`` stands for u = i - radius.
    """
    overlap, sums, squares = prepared.overlap, prepared.sums, prepared.squares
    if not is_static:
        if lost is not None and lost.size * overlap.size <= _FEW_PRODUCTS:
            overlap, sums, squares = _sums_without(lost, prepared)
        else:
            overlap, sums, squares = _own_sums(valid, prepared)
    flat, frame = _margined(prepared.shape, prepared.radius, prepared.radius)
    _centre(locked(mean), locked(valid.view(np.uint8)), frame)
    if prepared.transforms is None:
        found = _lagged(prepared, flat, squared=False)
        product, frame_sums, frame_squares = found[0], found[1], found[2]
    else:
        own, radius = prepared.transforms, prepared.radius
        once, twice = (fft.rfft2(a, own.size) for a in (frame, frame * frame))
        product = _window(own.image, once, own.size, radius)
        frame_sums = _window(own.valid, once, own.size, radius)
        frame_squares = _window(own.valid, twice, own.size, radius)
    return _ncc(
        overlap, (sums, squares), (frame_sums, frame_squares), product, prepared.min_overlap
    )


@compiled
def _centre(mean, valid, out):  # type: ignore[no-untyped-def]
    """Values less their own mean over the valid bins, 0 elsewhere."""
    n_y, n_x = mean.shape
    total, number = 0.0, 0
    for j in range(n_y):
        part, count = np.float32(0.0), np.int32(0)
        for i in range(n_x):
            part += mean[j, i] if valid[j, i] else np.float32(0.0)
            count += np.int32(valid[j, i])
        total += np.float64(part)
        number += int(count)
    level = np.float32(total / number) if number > 0 else np.float32(0.0)
    for j in range(n_y):
        for i in range(n_x):
            out[j, i] = mean[j, i] - level if valid[j, i] else np.float32(0.0)


def _sums_without(
    lost: NDArray[np.int64], prepared: Search
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The static terms less what some bins contribute."""
    found = (prepared.overlap.copy(), prepared.sums.copy(), prepared.squares.copy())
    n_y, n_x = prepared.shape
    _take_out(locked(prepared.image), locked(prepared.valid), locked(lost), n_y, n_x, *found)
    return found


@compiled
def _take_out(image, valid, lost, n_y, n_x, overlap, sums, squares):  # type: ignore[no-untyped-def]
    radius = overlap.shape[0] // 2
    stride = n_x + radius
    for k in range(lost.size):
        j, i = lost[k] // n_x, lost[k] % n_x
        for dy in range(max(-radius, j - n_y + 1), min(radius, j) + 1):
            for dx in range(max(-radius, i - n_x + 1), min(radius, i) + 1):
                # Where the reference's bin lies that falls on this one.
                at = (j - dy) * stride + i - dx
                overlap[radius + dy, radius + dx] -= valid[at]
                sums[radius + dy, radius + dx] -= image[at]
                squares[radius + dy, radius + dx] -= image[at] * image[at]


def _own_sums(
    frame_valid: NDArray[Any], prepared: Search
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Overlap, and sums of the reference and its square over a frame's valid bins."""
    flat, q = _margined(prepared.shape, prepared.radius, prepared.radius)
    q[:] = frame_valid
    if prepared.transforms is None:
        found = _lagged(prepared, flat, squared=True)
        return np.rint(found[1]), found[0], found[2]
    own, radius = prepared.transforms, prepared.radius
    q_t = fft.rfft2(q, own.size)
    return (
        np.rint(_window(own.valid, q_t, own.size, radius)),
        _window(own.image, q_t, own.size, radius),
        _window(own.square, q_t, own.size, radius),
    )


def _transforms(image: NDArray[np.float32], valid: NDArray[np.bool_], radius: int) -> Transforms:
    # Padding by the radius is enough: what wraps around lies outside the window.
    size = (
        fft.next_fast_len(image.shape[0] + radius, real=True),
        fft.next_fast_len(image.shape[1] + radius, real=True),
    )
    conjugates = [
        np.conj(fft.rfft2(a.astype(np.float32), size)) for a in (valid, image, image * image)
    ]
    return Transforms(size, *conjugates)


def _window(
    a: NDArray[np.complex64], b: NDArray[np.complex64], size: Pair, radius: int
) -> NDArray[np.float32]:
    """The correlation at displacements from -radius to radius along each axis."""
    full = fft.irfft2(a * b, size)
    lags = np.arange(-radius, radius + 1)
    return full[np.ix_(lags, lags)]  # type: ignore[no-any-return]


def _margined(
    shape: Pair, across: int, around: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Room for an image, one row after the other with zeros between them and around the whole.

    A displacement is then an offset in the flat array: one long inner product each.

    Returns
    -------
    The flat array, and the image's place in it (y, x).
    """
    n_y, n_x = shape
    stride = n_x + across
    flat = np.zeros((n_y + 2 * around) * stride + 2 * around + 1, np.float32)
    first = around * stride + around
    return flat, flat[first : first + n_y * stride].reshape(n_y, stride)[:, :n_x]


def _flat(image: NDArray[Any], across: int) -> NDArray[np.float32]:
    flat, place = _margined((image.shape[0], image.shape[1]), across, 0)
    place[:] = image
    return flat[: image.shape[0] * (image.shape[1] + across)]


def _lagged(prepared: Search, frame: NDArray[np.float32], *, squared: bool) -> NDArray[np.float32]:
    """Sums (3, lags, lags) of f m, p m and p m^2, or of f^2 m where ``squared``."""
    radius = prepared.radius
    out = np.zeros((3, 2 * radius + 1, 2 * radius + 1), np.float32)
    stride = prepared.shape[1] + radius
    lag_sums = _lag_sums_squared if squared else _lag_sums
    lag_sums(locked(prepared.image), locked(prepared.valid), locked(frame), stride, radius, out)
    return out


@compiled_sums
def _lag_sums(image, valid, frame, stride, radius, out):  # type: ignore[no-untyped-def]
    origin = radius * stride + radius
    # A part at a time, so that it stays in the first cache for all displacements.
    for first in range(0, image.size, _PART):
        f, p = image[first : first + _PART], valid[first : first + _PART]
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1, 2):
                # Two at once: a processor reads less often than it multiplies.
                start = origin + first + dy * stride + dx
                m, q = frame[start : start + f.size], frame[start + 1 : start + 1 + f.size]
                product = total = square = np.float32(0.0)
                product1 = total1 = square1 = np.float32(0.0)
                for i in range(f.size):
                    product += f[i] * m[i]
                    weighted = p[i] * m[i]
                    total += weighted
                    square += weighted * m[i]
                    product1 += f[i] * q[i]
                    weighted1 = p[i] * q[i]
                    total1 += weighted1
                    square1 += weighted1 * q[i]
                at = radius + dx
                out[0, radius + dy, at] += product
                out[1, radius + dy, at] += total
                out[2, radius + dy, at] += square
                if dx < radius:
                    out[0, radius + dy, at + 1] += product1
                    out[1, radius + dy, at + 1] += total1
                    out[2, radius + dy, at + 1] += square1


@compiled_sums
def _lag_sums_squared(image, valid, frame, stride, radius, out):  # type: ignore[no-untyped-def]
    origin = radius * stride + radius
    for first in range(0, image.size, _PART):
        f, p = image[first : first + _PART], valid[first : first + _PART]
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                start = origin + first + dy * stride + dx
                m = frame[start : start + f.size]
                product = total = square = np.float32(0.0)
                for i in range(f.size):
                    weighted = f[i] * m[i]
                    product += weighted
                    square += weighted * f[i]
                    total += p[i] * m[i]
                out[0, radius + dy, radius + dx] += product
                out[1, radius + dy, radius + dx] += total
                out[2, radius + dy, radius + dx] += square


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
