"""Lazy registration and alignment: the kernels mapped over the blocks of a stack.

Everything here only builds a Dask graph. The graph holds module-level functions and small values;
the reference is one key of it, named by its digest, so two builds of the same plan have equal
names, and any Dask scheduler can compute it.
"""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed, delayed
from numpy.typing import ArrayLike, DTypeLike, NDArray

from stillstack.frameblock import (
    REGISTERED,
    Resampling,
    align_block,
    moved_counts,
    moved_images,
    register_block,
    table_field,
)
from stillstack.kernels.registration import Reference
from stillstack.kernels.resampling import DEFAULT_INTERPOLATION
from stillstack.model import (
    AXES,
    AXIS,
    FRAME,
    TABLE_DTYPE,
    Column,
    X,
    Y,
    image_fill,
)
from stillstack.stacks import (
    Canvas,
    checked_canvas,
    checked_valid,
    frame_coords,
    refuse_aligned,
    shift_rows,
    whole_frames,
)


def register(stack: xr.DataArray, reference: Reference) -> xr.Dataset:
    """Lazy table of shifts with error bars, one row per frame of the stack.

    Parameters
    ----------
    stack
        Dimensions ``frame, y, x``; chunked along ``frame`` or held in memory.
    reference
        What the frames are registered to, from :func:`stillstack.prepare_reference`.

    Returns
    -------
    xarray.Dataset with the variables of :data:`stillstack.model.COLUMNS`, chunked along ``frame``
    as the stack is. A frame that cannot be registered has NaN shifts and says why in ``status``.

    Raises
    ------
    InputError
        If the stack's dimensions, dtype or frame shape do not fit.

    Examples
    --------
    >>> from stillstack import open_stack, prepare_reference, register
    >>> stack = open_stack("frames.zarr")
    >>> reference = prepare_reference(stack[0].values, max_shift_px=16)
    >>> table = register(stack, reference)
    >>> table["shift"].compute().dims
    ('frame', 'axis')
    """
    table = register_rows(stack, reference)
    return xr.Dataset(
        {column.name: _column(table, column) for column in REGISTERED},
        coords={**frame_coords(stack), AXIS: list(AXES)},
        attrs={
            "reference_digest": reference.digest,
            "reference_std": [float(value) for value in reference.reference_std],
            "max_shift_px": int(reference.max_shift_px),
        },
    )


def align(
    stack: xr.DataArray,
    shifts: xr.Dataset | xr.DataArray | ArrayLike,
    *,
    reference: Reference | Delayed | None = None,
    valid: NDArray[np.bool_] | None = None,
    interpolation: str = DEFAULT_INTERPOLATION,
    dtype: DTypeLike = "float32",
    canvas: Canvas | None = None,
) -> xr.DataArray:
    """Lazy stack of frames moved by their shifts, each frame interpolated exactly once.

    ``aligned[i](x) = stack[i](x - shifts[i])``. Pixels that come from outside the frame or from
    invalid pixels hold NaN, or the largest value of an integer ``dtype``. A frame whose shift is
    not finite, or whose status is not good, is all fill, never unaligned.

    Parameters
    ----------
    stack
        Dimensions ``frame, y, x``.
    shifts
        What :func:`register` or a run made, or an array of shape (frame, 2), in pixels.
    reference
        Where given, its rules say which pixels of each frame are valid; a lazy one is made when
        the first frame is computed.
    valid
        (y, x), True where a pixel counts; combined (and) with the reference's.
    interpolation
        One of :data:`stillstack.kernels.resampling.INTERPOLATIONS`.
    dtype
        dtype of the result; ``"input"`` is the stack's own.
    canvas
        Window ``(y0, y1, x0, x1)`` to produce; all of the frame where not given.

    Returns
    -------
    xarray.DataArray, chunked along ``frame`` as the stack is, with the stack's coordinates.

    Raises
    ------
    InputError
        If shapes do not fit, or stack and shifts name different frames.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> stack = xr.DataArray(np.eye(8, dtype="f4")[None], dims=("frame", "y", "x"))
    >>> moved = align(stack, [[0.0, 2.0]])
    >>> float(moved[0, 3, 5])
    1.0
    """
    frames = whole_frames(stack, _shape_of(reference))
    wanted = np.dtype(stack.dtype if isinstance(dtype, str) and dtype == "input" else dtype)
    refuse_aligned(wanted)
    resampling = Resampling(
        interpolation,
        wanted.newbyteorder("=").str,
        checked_canvas(canvas, frames.shape[1:]),
    )
    rows = shift_rows(stack, shifts, frames.chunks[0])
    images, _ = align_rows(stack, rows, resampling, reference=reference, valid=valid)
    y0, y1, x0, x1 = resampling.canvas
    aligned = xr.DataArray(
        images,
        dims=(FRAME, Y, X),
        coords=stack.isel({Y: slice(y0, y1), X: slice(x0, x1)}).coords,
        name="aligned",
        attrs={
            **stack.attrs,
            "long_name": "frames moved onto the reference",
            "interpolation": interpolation,
        },
    )
    # xarray writes it, and then masks these pixels when it reads
    aligned.encoding["_FillValue"] = image_fill(images.dtype)
    return aligned


def register_rows(stack: xr.DataArray, reference: Reference) -> da.Array:
    """Lazy rows of the table, dtype ``TABLE_DTYPE``, shape (frame, 1, 1).

    What :func:`register` makes its variables of. The dimensions of length one stand for y and x;
    to drop them, Dask would copy the frames.
    """
    frames = whole_frames(stack, reference.image.shape)
    rows: da.Array = da.map_blocks(
        register_block,
        frames,
        _reference_key(reference),
        _starts_key(frames),
        dtype=TABLE_DTYPE,
        meta=np.empty((0, 0, 0), TABLE_DTYPE),
        chunks=(frames.chunks[0], (1,), (1,)),
        name=f"register-{tokenize(frames.name, reference.digest)}",
    )
    return rows


def align_rows(
    stack: xr.DataArray,
    rows: da.Array,
    resampling: Resampling,
    *,
    reference: Reference | Delayed | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> tuple[da.Array, da.Array]:
    """Lazy aligned images, and how many values of each were clipped, shape (frame, 1, 1).

    Both come out of the same interpolation.

    Parameters
    ----------
    stack
        Dimensions ``frame, y, x``.
    rows
        Structured, shape (frame, 1, 1), with fields ``shift`` and ``status``.
    resampling
        How frames are moved.
    reference, valid
        As in :func:`align`.
    """
    frames = whole_frames(stack, _shape_of(reference))
    shared = {"reference": _reference_key(reference), "valid": _valid_key(valid, frames.shape[1:])}
    named = [_name(key) for key in shared.values()]
    token = tokenize(frames.name, rows.name, resampling, named)
    meta = np.empty((0, 0, 0), resampling.dtype)
    moved = da.map_blocks(
        align_block,
        frames,
        rows,
        _starts_key(frames),
        resampling=resampling,
        **shared,
        meta=meta,
        dtype=meta.dtype,
        chunks=(frames.chunks[0], *((length,) for length in resampling.shape)),
        name=f"align-{token}",
    )
    images = da.map_blocks(
        moved_images, moved, meta=meta, dtype=meta.dtype, name=f"aligned-{token}"
    )
    n_clipped = da.map_blocks(
        moved_counts,
        moved,
        meta=np.empty((0, 0, 0), "f4"),
        dtype="f4",
        chunks=(frames.chunks[0], (1,), (1,)),
        name=f"clipped-{token}",
    )
    return images, n_clipped


def _column(table: da.Array, column: Column) -> xr.Variable:
    """One variable of the table, as lazy as the table is."""
    chunks = (table.chunks[0], (2,)) if column.per_axis else (table.chunks[0],)
    values = da.map_blocks(
        table_field,
        table,
        column.name,
        meta=np.empty((0,) * len(chunks), column.dtype),
        dtype=column.dtype,
        drop_axis=(1, 2),
        new_axis=[1] if column.per_axis else None,
        chunks=chunks,
        name=f"{column.name}-{table.name}",
    )
    return xr.Variable(column.dims, values, attrs=column.xarray_attrs)


def _shape_of(reference: Reference | Delayed | None) -> tuple[int, ...] | None:
    """Shape that frames must have; None where that is not known yet."""
    return reference.image.shape if isinstance(reference, Reference) else None


def _reference_key(reference: Reference | Delayed | None) -> Delayed | None:
    """One key of the graph for the reference: every task names it, none carries it."""
    if reference is None or isinstance(reference, Delayed):
        return reference
    key: Delayed = delayed(reference, name=f"reference-{reference.digest}", traverse=False)
    return key


def _starts_key(frames: da.Array) -> Delayed:
    """Frame number at which each block starts, for error messages."""
    starts = np.concatenate(([0], np.cumsum(frames.chunks[0])[:-1])).astype(np.int64)
    key: Delayed = delayed(starts, name=f"starts-{tokenize(starts)}", traverse=False)
    return key


def _valid_key(valid: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> Delayed | None:
    if valid is None:
        return None
    valid = checked_valid(valid, shape)
    key: Delayed = delayed(valid, name=f"valid-{tokenize(valid)}", traverse=False)
    return key


def _name(key: Delayed | None) -> str:
    return "" if key is None else str(key.key)
