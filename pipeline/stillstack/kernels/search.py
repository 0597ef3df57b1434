"""The bounded search: masked correlation at the displacements of a window, many times.

What depends on the reference alone is made once. A narrow window is searched by direct sums, a wide
one by transforms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stillstack.kernels.compiling import compiled, compiled_sums, locked
from stillstack.kernels.correlation import coefficient

Pair = tuple[int, int]


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
    return coefficient(
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
