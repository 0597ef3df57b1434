"""Stacks that are already an xarray.DataArray."""

from __future__ import annotations

from collections.abc import Hashable

import dask.array as da
import numpy as np
import xarray as xr

from stillstack.errors import InputError
from stillstack.model import FRAME, X, Y
from stillstack.scan import scan_coordinates
from stillstack.sources.zarr_source import SOURCE_FRAME

_ROLES = (FRAME, Y, X)
_DEFAULT_CHUNK_BYTES = 32 * 2**20


def stack_from(array: xr.DataArray, chunk_frames: int | None = None) -> xr.DataArray:
    """Bring an array of three or four dimensions into the form of a stack, without computing it.

    Dimensions called frame, y and x keep their roles; others take the roles that are left, in
    order. So ``(time, row, column)`` is frame, y, x, and of ``(x, y, time)`` it is time that
    becomes frame. Coordinates stay; the old coordinate of the frame dimension becomes one along
    ``frame``. Of a scan (row, column, y, x) each position is a frame, with the coordinates
    ``scan_y`` and ``scan_x``. ``frame`` counts from 0 unless the array has whole, distinct numbers
    there, which are kept (a selection from another stack); anything else there is renamed to
    ``source_frame``.

    Parameters
    ----------
    array
        Lazy or in memory; what is in memory goes into the graph with its pixels.
    chunk_frames
        Frames of one Dask chunk; by default as they are, or about 32 MiB.

    Raises
    ------
    InputError
        When it has not three or four dimensions, or no frames.
    """
    if array.ndim == 4:
        array = _in_line(array)
    roles = _roles(array)
    spatial = {dim: role for dim, role in roles.items() if role not in {FRAME, dim}}
    frame_dim = next(dim for dim, role in roles.items() if role == FRAME)
    stack = array.rename(spatial) if spatial else array
    stack = _numbered(stack, frame_dim).transpose(*_ROLES)
    if not stack.dtype.isnative:
        stack = stack.astype(stack.dtype.newbyteorder("="))
    if stack.chunks is None:
        frame_bytes = stack.sizes[Y] * stack.sizes[X] * stack.dtype.itemsize
        step = chunk_frames or max(1, _DEFAULT_CHUNK_BYTES // max(1, frame_bytes))
        return stack.chunk({FRAME: step, Y: -1, X: -1})
    wanted: dict[Hashable, int] = {Y: -1, X: -1}
    if chunk_frames is not None:
        wanted[FRAME] = chunk_frames
    return stack.chunk(wanted)


def _in_line(array: xr.DataArray) -> xr.DataArray:
    """Frames of a scan one after the other, row after row; a lazy array stays in its chunks."""
    image = (Y, X) if {Y, X} <= set(array.dims) else array.dims[-2:]
    slow, fast = (dim for dim in array.dims if dim not in image)
    array = array.transpose(slow, fast, *image)
    rows, columns = array.sizes[slow], array.sizes[fast]
    data = array.data
    line = (
        da.concatenate([data[row] for row in range(rows)])
        if isinstance(data, da.Array)
        else data.reshape(-1, *data.shape[2:])
    )
    coords = {name: (FRAME, v) for name, v in scan_coordinates(
        (rows, columns), (str(slow), str(fast))).items()}  # fmt: skip
    kept = {name: c for name, c in array.coords.items() if not {slow, fast} & set(c.dims)}
    return xr.DataArray(line, {**kept, **coords}, (FRAME, *image), array.name, array.attrs)


def _roles(array: xr.DataArray) -> dict[Hashable, str]:
    if array.ndim != 3:
        raise InputError(
            f"The array has the dimensions {tuple(array.dims)}: a stack has frame, y, x.",
            cure="Add one with array.expand_dims('frame'), or bring several together with "
            "array.stack(frame=[...]).",
        )
    left = [role for role in _ROLES if role not in array.dims]
    return {dim: str(dim) if dim in _ROLES else left.pop(0) for dim in array.dims}


def _numbered(stack: xr.DataArray, frame_dim: Hashable) -> xr.DataArray:
    numbers = np.arange(stack.sizes[frame_dim])
    if FRAME in stack.coords:
        own = stack.coords[FRAME]
        usable = own.dims == (frame_dim,) and own.dtype.kind in "iu"
        if usable and frame_dim == FRAME and np.unique(own.values).size == own.size:
            return stack
        stack = stack.rename({FRAME: SOURCE_FRAME}) if frame_dim != FRAME else _set_aside(stack)
    stack = stack.assign_coords({FRAME: (frame_dim, numbers)})
    return stack if frame_dim == FRAME else stack.swap_dims({frame_dim: FRAME})


def _set_aside(stack: xr.DataArray) -> xr.DataArray:
    """Give the ``frame`` coordinate another name, and leave the dimension its own."""
    own = stack.coords[FRAME]
    return stack.drop_vars(FRAME).assign_coords({SOURCE_FRAME: (own.dims, own.values)})
