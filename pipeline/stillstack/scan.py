"""Frames of a scan: positions on a grid, folded into one line of frames and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.model import FRAME, SCAN_X, SCAN_Y

Stack = TypeVar("Stack", xr.DataArray, xr.Dataset)

_NO_SCANS: Final = frozenset({"t", "time", "z", "c", "channel", "delay"})


def scan_coordinates(
    shape: tuple[int, int], names: tuple[str | None, ...] | None = None
) -> dict[str, NDArray[np.int64]]:
    """Position of each frame on the grid of a scan, row after row.

    Parameters
    ----------
    shape
        Rows and columns of the grid.
    names
        What the file calls the two dimensions. They are kept where they say that it is no scan
        but a series (``time``, ``z``, ``delay`` ...); else they become ``scan_y`` and ``scan_x``.

    Examples
    --------
    >>> scan_coordinates((2, 3))["scan_y"], scan_coordinates((2, 3))["scan_x"]
    (array([0, 0, 0, 1, 1, 1]), array([0, 1, 2, 0, 1, 2]))
    """
    rows, columns = (index.ravel() for index in np.indices(shape))
    series = names is not None and any(str(name).lower() in _NO_SCANS for name in names)
    if series and names is not None and all(names) and FRAME not in names:
        return {str(names[0]): rows, str(names[1]): columns}
    return {SCAN_Y: rows, SCAN_X: columns}


def unstack_scan(stack: Stack, dims: tuple[str, str] = (SCAN_Y, SCAN_X)) -> Stack:
    """Return a stack, or a run, with the grid of its scan as dimensions in place of ``frame``.

    Nothing is loaded: of a lazy array each chunk stays within a row of the scan.

    Parameters
    ----------
    stack
        What has two coordinates along ``frame`` that say where on the grid each frame lies: a
        stack of `stillstack.open_stack`, or a run of `stillstack.open_run`.
    dims
        Names of these coordinates, and of the dimensions that they become; the slow one first.

    Returns
    -------
    The same with the dimensions ``dims`` where ``frame`` was, e.g. (scan_y, scan_x, y, x).
    The numbers of the frames are kept as the coordinate ``frame``. Of a grid that has not all of
    its frames the others are NaN, and integers become floating point.

    Raises
    ------
    InputError
        When there are no such coordinates, or two frames at one place.

    Examples
    --------
    >>> frames = xr.DataArray(np.arange(6 * 4 * 5).reshape(6, 4, 5), dims=("frame", "y", "x"))
    >>> frames = frames.assign_coords(
    ...     {name: ("frame", index) for name, index in scan_coordinates((2, 3)).items()}
    ... )
    >>> unstack_scan(frames).sizes
    Frozen({'scan_y': 2, 'scan_x': 3, 'y': 4, 'x': 5})
    """
    slow, fast = dims
    _refuse_no_scan(stack, dims)
    rows, columns = (np.asarray(stack[name].values) for name in dims)
    height, width = np.unique(rows), np.unique(columns)
    whole = len(rows) == len(height) * len(width) and (
        np.array_equal(rows, np.repeat(height, len(width)))
        and np.array_equal(columns, np.tile(width, len(height)))
    )
    if not whole:
        numbered = stack.drop_vars(FRAME) if FRAME in stack.coords else stack
        placed = numbered.set_index(frame=[slow, fast]).unstack(FRAME)
        return placed.transpose(slow, fast, ...)
    grid = {slow: height, fast: width}
    if isinstance(stack, xr.DataArray):
        name = stack.name
        unstacked = _on_grid(stack.to_dataset(name="_stack"), grid)["_stack"].rename(name)
        return unstacked.transpose(slow, fast, ...)
    return _on_grid(stack, grid)


def _refuse_no_scan(stack: xr.DataArray | xr.Dataset, dims: tuple[str, str]) -> None:
    missing = [name for name in dims if name not in stack.coords]
    if missing or any(stack[name].dims != (FRAME,) for name in dims):
        there = ", ".join(str(n) for n, c in stack.coords.items() if c.dims == (FRAME,)) or "none"
        raise InputError(
            f"There are no coordinates {' and '.join(dims)} along frame; there are: {there}.",
            consequence="Where on the grid of a scan a frame belongs is not known.",
            cure="Name two coordinates that say so: unstack_scan(stack, dims=('row', 'column')).",
        )
    places = np.stack([np.asarray(stack[name].values) for name in dims], axis=1)
    distinct, counts = np.unique(places, axis=0, return_counts=True)
    if len(distinct) < len(places):
        twice = tuple(distinct[np.argmax(counts)].tolist())
        raise InputError(
            f"{counts.max()} frames lie at the same place of the scan, "
            f"{dims[0]}, {dims[1]} = {twice}.",
            consequence="The grid has room for one.",
            cure="Choose one frame of each place first, e.g. those of one repetition.",
        )


def _on_grid(stack: xr.Dataset, grid: Mapping[str, NDArray[Any]]) -> xr.Dataset:
    """Every variable along ``frame`` in the form of the grid, which all frames fill in order."""

    def placed(variable: xr.Variable) -> xr.Variable:
        if FRAME not in variable.dims:
            return variable
        along = variable.dims.index(FRAME)
        dims = (*variable.dims[:along], *grid, *variable.dims[along + 1 :])
        lengths = tuple(len(values) for values in grid.values())
        return xr.Variable(dims, _split(variable.data, along, lengths), variable.attrs)

    variables = {
        name: placed(variable)
        for name, variable in stack.variables.items()
        if name not in grid and name != FRAME
    }
    coords = {name: v for name, v in variables.items() if name in stack.coords}
    numbers = stack.variables.get(FRAME, xr.Variable((FRAME,), np.arange(stack.sizes[FRAME])))
    # not an index any more, so of the same name as the dimension that it had
    coords[FRAME] = placed(xr.Variable((FRAME,), numbers.values, numbers.attrs))
    coords |= {name: xr.Variable((name,), values) for name, values in grid.items()}
    others = {name: v for name, v in variables.items() if name not in stack.coords}
    return xr.Dataset(others, coords, stack.attrs)


def _split(values: Any, along: int, lengths: tuple[int, ...]) -> Any:
    shape = (*values.shape[:along], *lengths, *values.shape[along + 1 :])
    if not isinstance(values, da.Array):
        return np.asarray(values).reshape(shape)
    # a reshape of Dask's would first merge the frames of each row into one chunk
    width = lengths[1]
    before = (slice(None),) * along
    rows = [values[(*before, slice(k * width, (k + 1) * width))] for k in range(lengths[0])]
    return da.stack(rows, axis=along)
