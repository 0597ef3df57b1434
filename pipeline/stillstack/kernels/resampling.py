"""The one interpolation: a raw frame is moved by its shift, its valid pixels are carried along.

An output pixel is made of the input pixels around the point it came from. It is *valid* where the
linear weights of valid input pixels sum to one half or more, whatever the method. Its value is the
method's where the method's whole footprint is valid, else Catmull-Rom's where that one's is, else
the linear one over the valid pixels: normalising negative lobes could divide by almost nothing.
Isolated invalid pixels are first filled in from their eight neighbours, so that a dead pixel costs
one output pixel at most and not a footprint of them.

Frames are worked on in strips of rows that stay in the processor's cache: loaded into floating
point, weighted along y, then along x, mended where pixels are invalid, rounded and stored. Only the
loading is compiled for the input's type and only the storing for the output's.

The default is the B-spline. Its rms error, in counts of a mean of 60, noise-free:

====================  ===========  =========  =========  =========
rings of (sigma)           1.5 px       2 px       3 px       9 px
====================  ===========  =========  =========  =========
bspline                     0.011      0.002     0.0004  < 0.00001
catmull-rom                  0.15      0.061      0.017     0.0005
lanczos                      0.11      0.088      0.072      0.031
linear                       0.81       0.51       0.24      0.030
SciPy, cubic spline         0.026      0.007      0.001    0.00002
====================  ===========  =========  =========  =========

Catmull-Rom's error is below the photon noise of one frame, but it follows the fraction of a pixel,
so it does not average out: a mean of ten thousand frames would show it. The B-spline takes half
as much time again, little beside reading and writing the frame.
``tests/benchmarks/resampling.py`` prints the errors and times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stillstack.kernels.interpolation import INTERPOLATIONS, split_shift, tap_weights
from stillstack.kernels.strips import (
    interpolate_strip,
    isolated_pixels,
    load_strip,
    patch_strip,
    store_floats,
    store_integers,
    uncover,
)
from stillstack.model import image_fill

__all__ = ["DEFAULT_INTERPOLATION", "INTERPOLATIONS", "Resampled", "resample_frame"]

DEFAULT_INTERPOLATION: Final = "bspline"

_INPUT_TYPES: Final = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")
# Pixels of a strip: with its flags and results about a megabyte, what a core has for itself.
_STRIP_PIXELS: Final = 2**17


@dataclass(frozen=True, eq=False)
class Resampled:
    """One frame moved by its shift.

    Parameters
    ----------
    image
        (y, x), the fill value where not valid.
    valid
        (y, x) bool, True where a pixel counts.
    n_clipped
        Valid pixels that were clipped to the integer type's range.
    """

    image: NDArray[Any]
    valid: NDArray[np.bool_]
    n_clipped: int


def resample_frame(
    frame: NDArray[Any],
    shift: Any,
    *,
    valid: NDArray[np.bool_] | None = None,
    interpolation: str = DEFAULT_INTERPOLATION,
    dtype: DTypeLike = np.float32,
    fill: float | None = None,
    canvas: tuple[int, int, int, int] | None = None,
) -> Resampled:
    """Return the frame moved by its shift: ``output(x) = frame(x - shift)``.

    Parameters
    ----------
    frame
        (y, x), integers of up to 32 bits or floats; not modified. Non-finite pixels are invalid.
    shift
        (y, x) in pixels, what registration returns. Whole shifts copy pixels exactly.
    valid
        (y, x) bool, True where a pixel counts; None means everywhere.
    interpolation
        "bspline", "catmull-rom", "lanczos" or "linear".
    dtype
        Of the image. Integers are rounded and clipped to their range short of the largest value,
        which is kept for invalid pixels.
    fill
        What invalid pixels hold: by default NaN, or the integer type's largest value.
    canvas
        (y0, y1, x0, x1), the window to make, in pixels of the input; by default the input's own.

    Returns
    -------
    Resampled

    Raises
    ------
    ValueError
        For a shift that is not finite, shapes or types that do not fit, an unknown method.

    Examples
    --------
    >>> frame = np.arange(12, dtype="uint16").reshape(3, 4)
    >>> resample_frame(frame, (0, 1), dtype="uint16").image
    array([[65535,     0,     1,     2],
           [65535,     4,     5,     6],
           [65535,     8,     9,    10]], dtype=uint16)
    """
    pixels = _native(frame)
    usable = _usable(pixels, valid)
    out_dtype = np.dtype(dtype).newbyteorder("=")
    fill_value = _fill(out_dtype, fill)
    offset = np.asarray(shift, np.float64)
    if offset.shape != (2,) or not np.isfinite(offset).all():
        raise ValueError(f"shift is {shift!r}, not two finite numbers (y, x)")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation is {interpolation!r}, not one of {', '.join(INTERPOLATIONS)}"
        )
    y0, y1, x0, x1 = canvas if canvas is not None else (0, pixels.shape[0], 0, pixels.shape[1])
    if y1 <= y0 or x1 <= x0:
        raise ValueError(f"canvas is {canvas}, not (y0, y1, x0, x1) with y0 < y1 and x0 < x1")
    axes = (_Axis.of(float(offset[0]), interpolation), _Axis.of(float(offset[1]), interpolation))
    return _by_strips(pixels, usable, axes, (y0, y1, x0, x1), fill_value)


def _native(frame: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous, read-only view (or copy) in the machine's byte order."""
    pixels = np.asarray(frame)
    if pixels.dtype.kind == "f" and pixels.dtype.itemsize == 2:
        pixels = pixels.astype(np.float32)
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype.str[1:] not in _INPUT_TYPES:
        raise ValueError(
            f"frame is {pixels.dtype} of shape {pixels.shape}, not two-dimensional and of integers "
            "of up to 32 bits or floats"
        )
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")).view()
    # Read-only to numba too, so that writeable and read-only frames share one compilation.
    pixels.setflags(write=False)
    return pixels


def _usable(pixels: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Return flags of the pixels that count; a single row stands for all where all rows are set."""
    flags = np.ones((1, pixels.shape[1]), np.bool_)
    if valid is not None:
        flags = np.asarray(valid)
        if flags.dtype != np.bool_ or flags.shape != pixels.shape:
            raise ValueError(
                f"valid is {flags.dtype} of shape {flags.shape}, not bool of {pixels.shape}"
            )
    if np.issubdtype(pixels.dtype, np.floating):
        flags = flags & np.isfinite(pixels)
    bytes_ = np.ascontiguousarray(flags).view(np.uint8)
    bytes_.setflags(write=False)
    return bytes_


def _fill(dtype: np.dtype[Any], fill: float | None) -> Any:
    """Return what invalid pixels hold, a scalar of the image's type."""
    if dtype.kind == "f":
        return dtype.type(image_fill(dtype) if fill is None else fill)
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        raise ValueError(f"dtype is {dtype}, not an integer of up to 32 bits or a float")
    value = image_fill(dtype) if fill is None else fill
    limits = np.iinfo(dtype)
    if not limits.min <= value <= limits.max or value != int(value):
        raise ValueError(f"fill is {value}, which {dtype} cannot hold")
    return dtype.type(int(value))


@dataclass(frozen=True, eq=False)
class _Axis:
    """What a shift means along one axis: its whole part and fraction, and the weights."""

    whole: int
    fraction: float
    weights: NDArray[np.float64]
    shorter: NDArray[np.float64]
    linear: NDArray[np.float64]

    @classmethod
    def of(cls, shift: float, interpolation: str) -> _Axis:
        whole, fraction = split_shift(shift)
        weights = tap_weights(interpolation, fraction)
        shorter = tap_weights("catmull-rom", fraction) if weights.size > 4 else weights
        return cls(whole, fraction, weights, shorter, tap_weights("linear", fraction))

    def first(self, start: int) -> int:
        """Return the input pixel that the first weight of output pixel ``start`` belongs to."""
        return start - self.whole - (self.weights.size - 1) // 2

    def kernel(self, work: np.dtype[Any]) -> tuple[NDArray[Any], ...]:
        """Return the weights padded with zeros to four or eight, as they are, and the shorter two.

        The padded ones are in the working precision of the frame's body, the rest are doubles.
        """
        missing = -self.weights.size % 4
        padded = np.pad(self.weights, (0, missing)).astype(work)
        return padded, self.weights, self.shorter, self.linear

    def nearest(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the output pixels to which these input pixels give most."""
        return places + (self.whole - (self.fraction > 0.5))


def _by_strips(
    pixels: NDArray[Any],
    usable: NDArray[np.uint8],
    axes: tuple[_Axis, _Axis],
    canvas: tuple[int, int, int, int],
    fill: Any,
) -> Resampled:
    """Resample a strip of rows at a time: load, interpolate, store."""
    y0, y1, x0, x1 = canvas
    height, width = y1 - y0, x1 - x0
    # Single precision for 16 bits, double for more.
    work = np.result_type(pixels.dtype, np.float32, fill.dtype)
    image = np.empty((height, width), fill.dtype)
    valid = np.empty((height, width), np.bool_)
    along = (axes[0].kernel(work), axes[1].kernel(work))
    rows = min(height, max(16, _STRIP_PIXELS // width))
    source = np.empty((rows + along[0][0].size - 1, width + along[1][0].size - 1), work)
    flags = np.empty((3, *source.shape), np.uint8)
    values = np.empty((rows, width), work)
    covered = np.empty((rows, width), np.uint8)
    dead, stand_in = _stand_ins(pixels, isolated_pixels(usable), work)
    lost = _lost(dead, axes)
    n_clipped = 0
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        part, cover = values[: stop - start], covered[: stop - start]
        top, left = axes[0].first(y0 + start), axes[1].first(x0)
        inside = load_strip(pixels, usable, top, left, source, flags[0])
        patch_strip(dead, stand_in, top, left, source, flags[0])
        interpolate_strip(source, flags, inside, along[0], along[1], part, cover)
        uncover(lost, y0 + start, x0, cover)
        n_clipped += _store(part, cover, fill, image[start:stop], valid[start:stop])
    return Resampled(image, valid, n_clipped)


def _stand_ins(
    pixels: NDArray[Any], dead: NDArray[np.int64], work: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the isolated pixels and what their neighbours say they should hold.

    Half the sum of the four nearest less a quarter of that of the four diagonal ones: exact for
    every sum of a function of y and one of x, and as noisy as an ordinary pixel.
    """
    y, x = dead
    if y.size == 0:
        return dead, np.empty(0, work)

    def beside(down: int, across: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = pixels[y + down, x + across].astype(np.float64)
        return values

    nearest = beside(-1, 0) + beside(1, 0) + beside(0, -1) + beside(0, 1)
    diagonal = beside(-1, -1) + beside(-1, 1) + beside(1, -1) + beside(1, 1)
    return dead, (nearest / 2 - diagonal / 4).astype(work)


def _lost(dead: NDArray[np.int64], axes: tuple[_Axis, _Axis]) -> NDArray[np.int64]:
    """Return the output pixels that an isolated invalid pixel makes invalid, one each or none."""
    share = 1.0
    for axis in axes:
        share *= max(axis.fraction, 1 - axis.fraction)
    if share <= 0.5:
        return np.empty((2, 0), np.int64)
    return np.stack([axes[0].nearest(dead[0]), axes[1].nearest(dead[1])])


def _store(
    values: NDArray[Any],
    covered: NDArray[np.uint8],
    fill: Any,
    image: NDArray[Any],
    valid: NDArray[np.bool_],
) -> int:
    if image.dtype.kind == "f":
        store_floats(values, covered, fill, image, valid)
        return 0
    limits = np.iinfo(image.dtype)
    low, high = values.dtype.type(limits.min), values.dtype.type(limits.max - 1)
    return int(store_integers(values, covered, low, high, fill, image, valid))
