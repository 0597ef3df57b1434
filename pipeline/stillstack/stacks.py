"""What a stack, its shifts and its valid pixels have to be before a graph is built on them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from stillstack.errors import InputError
from stillstack.kernels.resampling import holds_aligned
from stillstack.model import FRAME, X, Y, is_good

Canvas = tuple[int, int, int, int]
"""Window ``(y0, y1, x0, x1)`` of the input's pixels."""

SHIFT_DTYPE = np.dtype([("shift", "f8", (2,)), ("status", "u2")])

_NUMPY_BLOCK_BYTES = 64 * 2**20


def whole_frames(stack: xr.DataArray, reference_shape: tuple[int, ...] | None) -> da.Array:
    """One Dask array of whole frames, chunked along ``frame`` alone."""
    if not isinstance(stack, xr.DataArray) or set(stack.dims) != {FRAME, Y, X}:
        dims = getattr(stack, "dims", type(stack).__name__)
        raise InputError(
            f"A stack is an xarray.DataArray of dimensions frame, y, x; this one has {dims}.",
            cure="Rename or add dimensions, for example image.expand_dims('frame').",
        )
    if stack.dtype.kind not in "uif":
        raise InputError(
            f"The stack's dtype is {stack.dtype}.",
            consequence="Only integers and floating-point numbers can be registered.",
            cure="Convert it, for example stack.astype('float32').",
        )
    stack = stack.transpose(FRAME, Y, X)
    shape = stack.shape[1:]
    if reference_shape is not None and reference_shape != shape:
        raise InputError(
            f"The frames are {shape[0]} x {shape[1]} pixels, the reference is "
            f"{reference_shape[0]} x {reference_shape[1]}.",
            cure="Prepare the reference from an image of the frames' shape.",
        )
    if stack.chunks is None:
        frame_bytes = max(1, shape[0] * shape[1] * stack.dtype.itemsize)
        stack = stack.chunk({FRAME: max(1, _NUMPY_BLOCK_BYTES // frame_bytes)})
    frames: da.Array = stack.data.rechunk({1: -1, 2: -1})
    return frames


def refuse_aligned(dtype: np.dtype[Any]) -> None:
    """Raise InputError where frames cannot be resampled to a dtype."""
    if not holds_aligned(dtype):
        raise InputError(
            f"Aligned frames cannot be {dtype}.",
            consequence="They are integers of up to 32 bits, float32 or float64.",
            cure='Use the dtype "float32".',
        )


def shift_rows(
    stack: xr.DataArray, shifts: xr.Dataset | xr.DataArray | ArrayLike, chunks: tuple[int, ...]
) -> da.Array:
    """Rows with fields ``shift`` and ``status``, shape (frame, 1, 1), chunked as the frames are."""
    status: Any = None
    if isinstance(shifts, xr.Dataset):
        _refuse_other_frames(stack, shifts)
        status = shifts["status"].data if "status" in shifts else None
        shifts = shifts["shift"]
    if isinstance(shifts, xr.DataArray):
        _refuse_other_frames(stack, shifts)
        shifts = shifts.transpose(FRAME, ...).data
    n_frames = sum(chunks)
    shift = shifts if isinstance(shifts, da.Array) else np.asarray(shifts, np.float64)
    if shift.shape != (n_frames, 2):
        raise InputError(
            f"The shifts have shape {shift.shape}; {n_frames} frames need ({n_frames}, 2).",
            cure="Give one row (y, x) per frame of the stack.",
        )
    if status is None:
        status = np.zeros(n_frames, np.uint16)
    rows: da.Array = da.map_blocks(
        _joined,
        da.asarray(shift).rechunk((chunks, (2,))),
        da.asarray(status)[:, None].rechunk((chunks, (1,))),
        meta=np.empty((0, 0, 0), SHIFT_DTYPE),
        dtype=SHIFT_DTYPE,
        chunks=(chunks, (1,), (1,)),
        new_axis=2,
    )
    return rows


def _joined(shift: NDArray[Any], status: NDArray[Any]) -> NDArray[np.void]:
    rows = np.empty(len(shift), SHIFT_DTYPE)
    rows["shift"] = shift
    rows["status"] = status[:, 0]
    return rows[:, None, None]


def _refuse_other_frames(stack: xr.DataArray, shifts: xr.Dataset | xr.DataArray) -> None:
    """Raise unless both name the same frames in the same order, where both name them."""
    if FRAME not in shifts.dims:
        raise InputError(
            f"The shifts have dimensions {tuple(shifts.dims)}.",
            cure="Give shifts of dimensions (frame, axis), as register() makes them.",
        )
    if (
        FRAME in stack.coords
        and FRAME in shifts.coords
        and not np.array_equal(stack[FRAME].values, shifts[FRAME].values)
    ):
        raise InputError(
            "The stack and the shifts have different frame coordinates.",
            consequence="Shifts are applied by position, so they would go to the wrong frames.",
            cure="Select the same frames from both, for example shifts.sel(frame=stack.frame).",
        )


def checked_canvas(canvas: Canvas | None, shape: tuple[int, ...]) -> Canvas:
    """Window of the frame to produce; all of it where none is given."""
    height, width = shape
    if canvas is None:
        return (0, height, 0, width)
    y0, y1, x0, x1 = (int(edge) for edge in canvas)
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise InputError(
            f"The canvas rows {y0}:{y1}, columns {x0}:{x1} is not a window of a frame of "
            f"{height} x {width} pixels.",
            cure="Give (y0, y1, x0, x1) inside the frame.",
        )
    return (y0, y1, x0, x1)


def checked_valid(valid: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Boolean array of the frames' shape, True where a pixel counts."""
    valid = np.asarray(valid, bool)
    if valid.shape != shape:
        raise InputError(
            f"The array of valid pixels has shape {valid.shape}, the frames {shape}.",
            cure="Give one of the frames' shape, True where a pixel counts.",
        )
    return valid


def frame_coords(stack: xr.DataArray) -> Mapping[Hashable, xr.DataArray]:
    """Coordinates that do not belong to pixels."""
    return {name: c for name, c in stack.coords.items() if not {Y, X} & set(c.dims)}


def common_canvas(
    shift: NDArray[np.float64], status: NDArray[np.uint16], shape: tuple[int, int]
) -> Canvas:
    """Return the window of the frame that every good frame covers when it has been moved.

    Raises
    ------
    InputError
        If there is no such pixel.

    Examples
    --------
    >>> common_canvas(np.array([[2.5, 0.0], [0.0, -3.0]]), np.zeros(2, "u2"), (32, 32))
    (3, 32, 0, 29)
    """
    moved = shift[is_good(status)]
    if len(moved) == 0:
        return (0, shape[0], 0, shape[1])
    # frame(x - shift) needs 0 <= x - shift <= length - 1
    first = np.maximum(0, np.ceil(moved.max(axis=0))).astype(int)
    stop = np.floor(np.array(shape) - 1 + np.minimum(0, moved.min(axis=0))).astype(int) + 1
    if (first >= stop).any():
        raise InputError(
            f"No pixel is covered by all {len(moved)} good frames: their shifts go from "
            f"{moved.min(axis=0).round(1).tolist()} to {moved.max(axis=0).round(1).tolist()} px.",
            cure="Set alignment.canvas: input in the config.",
        )
    return (int(first[0]), int(stop[0]), int(first[1]), int(stop[1]))
