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
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stillstack.kernels.compiling import rounded_bits
from stillstack.kernels.footprints import Footprints, ValidPixels
from stillstack.kernels.interpolation import INTERPOLATIONS, split_shift, tap_weights
from stillstack.kernels.strips import find_valid, move_frame
from stillstack.kernels.tiles import GROUP
from stillstack.model import image_fill

__all__ = ["DEFAULT_INTERPOLATION", "INTERPOLATIONS", "Resampled", "ValidPixels", "resample_frame"]

DEFAULT_INTERPOLATION: Final = "bspline"

_INPUT_TYPES: Final = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")
# Pixels of a strip: long enough that the rows which two strips share cost little to copy. More do
# not stay in the cache that a core has for itself.
_STRIP_PIXELS: Final = 2**16


@dataclass(frozen=True, eq=False)
class Resampled:
    """One frame moved by its shift.

    Parameters
    ----------
    image
        (y, x), the fill value where not valid.
    n_clipped
        Valid pixels that were clipped to the integer type's range.
    """

    image: NDArray[Any]
    n_clipped: int
    _move: _Move

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """(y, x) bool, True where a pixel counts; made when first asked for."""
        valid = np.empty(self.image.shape, np.bool_)
        move = self._move
        find_valid(
            move.cell, move.lost, *move.linear, move.footprints.arrays, move.pixels.isolated, valid
        )
        return valid


def resample_frame(
    frame: NDArray[Any],
    shift: Any,
    *,
    valid: NDArray[np.bool_] | ValidPixels | None = None,
    interpolation: str = DEFAULT_INTERPOLATION,
    dtype: DTypeLike = np.float32,
    fill: float | None = None,
    canvas: tuple[int, int, int, int] | None = None,
    out: NDArray[Any] | None = None,
) -> Resampled:
    """Return the frame moved by its shift: ``output(x) = frame(x - shift)``.

    Parameters
    ----------
    frame
        (y, x), integers of up to 32 bits or floats; not modified. Non-finite pixels are invalid.
    shift
        (y, x) in pixels, what registration returns. Whole shifts copy pixels exactly.
    valid
        (y, x) bool, True where a pixel counts; None means everywhere. For many frames with the
        same valid pixels, a :class:`ValidPixels` made once of them.
    interpolation
        "bspline", "catmull-rom", "lanczos" or "linear".
    dtype
        Of the image. Integers are rounded and clipped to their range short of the largest value,
        which is kept for invalid pixels.
    fill
        What invalid pixels hold: by default NaN, or the integer type's largest value.
    canvas
        (y0, y1, x0, x1), the window to make, in pixels of the input; by default the input's own.
    out
        Where to write the image: of the canvas' shape, contiguous, of the ``dtype``.

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
    out_dtype = np.dtype(dtype).newbyteorder("=")
    fill_value = _fill(out_dtype, fill)
    usable = _usable(pixels, valid)
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
    image = _image((y1 - y0, x1 - x0), out_dtype, out)
    axes = (_Axis.of(float(offset[0]), interpolation), _Axis.of(float(offset[1]), interpolation))
    move = _Move.of(axes, (y0, x0), usable)
    return Resampled(image, _by_strips(pixels, move, axes, (y0, x0), fill_value, image), move)


def _image(shape: tuple[int, int], dtype: np.dtype[Any], out: NDArray[Any] | None) -> NDArray[Any]:
    """Return the array to write to."""
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        layout = "" if out.flags.c_contiguous else ", not contiguous"
        raise ValueError(
            f"out is {out.dtype} of shape {out.shape}{layout}, not {dtype} of {shape}, contiguous"
        )
    return out


def holds_aligned(dtype: np.dtype[Any]) -> bool:
    """Whether aligned frames can be of this dtype."""
    return np.dtype(dtype).str[1:] in _INPUT_TYPES


def _native(frame: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous, read-only view (or copy) in the machine's byte order."""
    pixels = np.asarray(frame)
    if pixels.dtype.kind == "f" and pixels.dtype.itemsize == 2:
        pixels = pixels.astype(np.float32)
    elif pixels.dtype.kind in "iu" and pixels.dtype.itemsize == 8:
        pixels = pixels.astype(np.float64)
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype.str[1:] not in _INPUT_TYPES:
        raise ValueError(
            f"frame is {pixels.dtype} of shape {pixels.shape}, not two-dimensional and of integers "
            "or floats"
        )
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")).view()
    # Read-only to numba too, so that writeable and read-only frames share one compilation.
    pixels.setflags(write=False)
    return pixels


def _usable(pixels: NDArray[Any], valid: NDArray[np.bool_] | ValidPixels | None) -> ValidPixels:
    """Return the pixels that count: those of ``valid`` that are finite."""
    found = valid if isinstance(valid, ValidPixels) else ValidPixels(valid, pixels.shape)
    if found.shape != pixels.shape:
        raise ValueError(f"valid is of shape {found.shape}, not of {pixels.shape}")
    if pixels.dtype.kind != "f":
        return found
    flags = np.isfinite(pixels)
    if found.valid is not None:
        flags &= found.valid
    counts = flags.size if found.valid is None else np.count_nonzero(found.valid)
    return found if np.count_nonzero(flags) == counts else ValidPixels(flags, pixels.shape)


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

    def kernel(self, work: np.dtype[Any]) -> tuple[Any, ...]:
        """Return the weights as `make_strip` takes them, for this working precision."""
        padded, shorter = (_padded(w, 4).astype(work) for w in (self.weights, self.shorter))
        return padded, self.weights, shorter, self.padded_linear, self.shorter.size

    @property
    def padded_linear(self) -> NDArray[np.float64]:
        """The linear weights, two always."""
        return _padded(self.linear, 2)


def _padded(weights: NDArray[np.float64], multiple: int) -> NDArray[np.float64]:
    """Return the weights and zeros up to a multiple; ``np.pad`` takes ten times as long."""
    padded = np.zeros(-(-weights.size // multiple) * multiple)
    padded[: weights.size] = weights
    return padded


@dataclass(frozen=True, eq=False)
class _Move:
    """What tells which output pixels are valid.

    Parameters
    ----------
    cell
        (y, x) of the input pixel above and left of the first output pixel.
    lost
        The rows and columns from that pixel to the one of which an output is more than half made;
        a third number is zero where there is none.
    linear
        The linear weights along both axes.
    pixels, footprints
        Of the input.
    """

    cell: tuple[int, int]
    lost: tuple[int, int, int]
    linear: tuple[NDArray[np.float64], NDArray[np.float64]]
    pixels: ValidPixels
    footprints: Footprints

    @classmethod
    def of(cls, axes: tuple[_Axis, _Axis], start: tuple[int, int], pixels: ValidPixels) -> _Move:
        share = 1.0
        for axis in axes:
            share *= max(axis.fraction, 1 - axis.fraction)
        return cls(
            (start[0] - axes[0].whole, start[1] - axes[1].whole),
            (int(axes[0].fraction > 0.5), int(axes[1].fraction > 0.5), int(share > 0.5)),
            (axes[0].padded_linear, axes[1].padded_linear),
            pixels,
            pixels.footprints(axes[0].weights.size, axes[1].weights.size),
        )


def _by_strips(
    pixels: NDArray[Any],
    move: _Move,
    axes: tuple[_Axis, _Axis],
    start: tuple[int, int],
    fill: Any,
    image: NDArray[Any],
) -> int:
    """Resample a strip of rows at a time: load it, then weigh, mend and store."""
    height, width = image.shape
    # Single precision for 16 bits, double for more.
    work = np.result_type(pixels.dtype, np.float32, fill.dtype)
    # Rows are weighed in groups, of which the last may be more than is wanted.
    rows = -(-min(height, max(16, _STRIP_PIXELS // width)) // GROUP) * GROUP
    limits = None
    if image.dtype.kind != "f":
        info = np.iinfo(image.dtype)
        whole = np.int32(0) if image.dtype.itemsize < 4 else np.int64(0)
        halves = image.dtype.itemsize == 2 and work == np.float32
        least = rounded_bits(np.float32(info.min)) if halves else None
        limits = (work.type(info.min - 0.5), work.type(info.max - 0.5), whole, least)
    return int(
        move_frame(
            pixels.reshape(-1),
            pixels.shape,
            (axes[0].first(start[0]), axes[1].first(start[1])),
            move.cell,
            rows,
            move.lost,
            (axes[0].kernel(work), axes[1].kernel(work)),
            move.footprints.arrays,
            (move.pixels.runs, move.pixels.isolated),
            limits,
            fill,
            width,
            image.reshape(-1),
        )
    )
