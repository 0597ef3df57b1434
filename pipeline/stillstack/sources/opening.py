"""From a path, a pattern or an array to a source: which format reads what."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import xarray as xr

from stillstack.address import Address, is_address, located
from stillstack.errors import InputError
from stillstack.sources.dataarray import stack_from
from stillstack.sources.folder import PICTURE, is_pattern, open_folder, open_pattern
from stillstack.sources.guard import opening
from stillstack.sources.hdf5 import HDF5
from stillstack.sources.merlin import MIB
from stillstack.sources.mrc import MRC
from stillstack.sources.netcdf import NETCDF, open_by_xarray
from stillstack.sources.npy import NPY
from stillstack.sources.protocol import FileSource, Format
from stillstack.sources.rosetta import BLO, DM, EMPAD, RPL
from stillstack.sources.ser import SER
from stillstack.sources.stack import stack_of
from stillstack.sources.tiff import TIFF
from stillstack.sources.tvips import TVIPS
from stillstack.sources.zarr_source import ZARR, open_zarr

FORMATS: Final[tuple[Format, ...]] = (
    *(ZARR, TIFF, NPY, NETCDF, HDF5, PICTURE),
    *(MIB, DM, MRC, EMPAD, BLO, RPL, TVIPS, SER),
)
"""Asked in this order. A new format is a file with a reader, an opener and one entry here."""


def open_stack(
    path: str | os.PathLike[str] | xr.DataArray,
    *,
    variable: str | None = None,
    pattern: str | None = None,
    chunk_frames: int | None = None,
    options: Mapping[str, Any] | None = None,
    engine: str | None = None,
) -> xr.DataArray:
    """Lazy stack of frames, of dimensions frame, y, x, chunked along frame.

    Nothing is loaded, the graph carries no data, and it pickles to workers, which open the files
    by their paths.

    Parameters
    ----------
    path
        A Zarr store of format 2 or 3 (OME-Zarr too), a folder or a pattern such as ``scan*.tif`` of
        single-frame images, a TIFF (multi-page, BigTIFF, OME), .npy, netCDF or HDF5 file (NeXus,
        EMD, HyperSpy), a file of a microscope (MIB, DM3, DM4, MRC, EMPAD, BLO, RPL, TVIPS, SER), or
        a DataArray. A Zarr store may be at an address: ``s3://bucket/stack.zarr``, ``gs://...`` or
        ``https://...``. Of a scan (row, column, y, x) each position is a frame: see
        :func:`stillstack.unstack_scan`.
    variable
        Array of a Zarr group, variable of a netCDF file or dataset of an HDF5 file;
        ``file.h5::/entry/data`` says the same. Of a DM3 or DM4 file with several stacks, the number
        of one.
    pattern
        What file names say, e.g. ``scan{scan:d}_delay{delay:f}_{n:d}.tif``: each named field
        becomes a per-frame coordinate.
    chunk_frames
        Frames of one Dask chunk; by default about 32 MiB in whole pieces of the file.
    options
        How an address is to be reached: ``endpoint``, ``region``, ``anonymous`` ... Credentials are
        no options: every process takes them from its own environment.
    engine
        Let xarray open it, with this one of its engines: ``"cfgrib"`` for GRIB, ``"zarr"`` for a
        group with packed numbers ...

    Returns
    -------
    DataArray with a ``frame`` coordinate that counts from 0, and what coordinates the source has.

    Raises
    ------
    InputError
        When there is nothing there, or nothing that can be a stack of frames.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for scan in (10, 9):
    ...         np.save(f"{folder}/scan{scan}.npy", np.full((4, 6), scan, "uint16"))
    ...     stack = open_stack(folder, pattern="scan{scan:d}.npy")
    ...     stack.scan.values, stack[:, 0, 0].values
    (array([ 9, 10]), array([ 9, 10], dtype=uint16))
    """
    if isinstance(path, xr.DataArray):
        if variable is not None or pattern is not None:
            raise InputError(
                "A DataArray has no variable to choose and no file names.",
                cure="Leave out the options variable and pattern.",
            )
        _refuse_pixels(path.dtype.kind, path.dtype.name, "The array")
        _refuse_empty(path.shape, "The array")
        _refuse_chunk(chunk_frames)
        return stack_from(path, chunk_frames)
    return stack_of(
        open_source(path, variable=variable, pattern=pattern, options=options, engine=engine),
        chunk_frames=chunk_frames,
    )


def open_source(
    path: str | os.PathLike[str] | Address,
    *,
    variable: str | None = None,
    pattern: str | None = None,
    options: Mapping[str, Any] | None = None,
    engine: str | None = None,
) -> FileSource:
    """Look at a stack on disk: shape, dtype, coordinates, and how to read ranges of it.

    Parameters and errors are those of :func:`open_stack`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/frames.npy", np.zeros((20, 4, 6), "uint16"))
    ...     open_source(f"{folder}/frames.npy").read(3, 5).shape
    (2, 4, 6)
    """
    source = find_source(path, variable=variable, pattern=pattern, options=options, engine=engine)
    _refuse_empty(source.shape, source.path)
    _refuse_pixels(source.dtype.kind, source.dtype.name, source.path)
    return source


def find_source(
    path: str | os.PathLike[str] | Address,
    *,
    variable: str | None = None,
    pattern: str | None = None,
    options: Mapping[str, Any] | None = None,
    engine: str | None = None,
) -> FileSource:
    """Return the source at a path whatever its pixels are: for images such as valid areas."""
    if isinstance(path, Address) or is_address(path) or options:
        _refuse_with_engine(engine, str(path), "an address")
        return _at_address(path, variable, pattern, options)
    text = os.fspath(path)
    where = str(Path(text).expanduser().absolute())
    if not Path(where).exists() and "::" in text:
        _refuse_two_variables(variable, text)
        head, _, variable = text.partition("::")
        where = str(Path(head).expanduser().absolute())
    found = Path(where)
    with opening(where, "a file or folder"):
        exists = found.exists()
    if not exists and is_pattern(found.name if found.parent.exists() else where):
        _refuse_with_engine(engine, where, "a pattern for the names of images")
        _refuse_variable(variable, where)
        return open_pattern(where, pattern)
    if not exists:
        raise _no_such_file(found)
    if engine is not None:
        _refuse_pattern(pattern, where)
        return open_by_xarray(where, variable, engine)
    kind = _format_of(found)
    if kind is None:
        _refuse_variable(variable, where)
        return open_folder(where, pattern)
    if not kind.has_variables:
        _refuse_variable(variable, where)
    _refuse_pattern(pattern, where)
    return kind.open(where, variable)


def _refuse_with_engine(engine: str | None, where: str, what: str) -> None:
    if engine is not None:
        raise InputError(
            f"{where} is {what}, which the engine {engine} of xarray cannot open.",
            cure="Leave the engine out, or name one file or folder.",
        )


def _refuse_pattern(pattern: str | None, where: str) -> None:
    if pattern is not None:
        raise InputError(
            f"The pattern {pattern!r} is for the names of single-frame files, and {where} "
            "holds a whole stack.",
            cure="Leave the pattern out.",
        )


def _at_address(
    path: str | os.PathLike[str] | Address,
    variable: str | None,
    pattern: str | None,
    options: Mapping[str, Any] | None,
) -> FileSource:
    """Return the source at an address: Zarr alone is read from afar."""
    if isinstance(path, str) and "::" in path:
        _refuse_two_variables(variable, path)
        path, _, variable = path.partition("::")
    place = located(path, options)
    if pattern is not None:
        raise InputError(
            f"The pattern {pattern!r} is for the names of files, and {place} is an address.",
            cure="Leave the pattern out.",
        )
    return open_zarr(place if isinstance(place, Address) else str(place), variable)


def _refuse_two_variables(variable: str | None, text: str) -> None:
    if variable is not None:
        raise InputError(
            f"{text} names a variable, and the option variable ({variable}) another.",
            cure="Use one of the two.",
        )


def _format_of(path: Path) -> Format | None:
    """Return the format of an existing file or folder; None for a folder of images."""
    with opening(str(path), "a file or folder"):
        if path.is_dir():
            zarr = path.suffix.lower() in ZARR.suffixes or ZARR.recognises(path)
            return ZARR if zarr else None
    for kind in FORMATS:
        if kind is not ZARR and path.suffix.lower() in kind.suffixes:
            return kind
    with opening(str(path), "a stack"):
        for kind in FORMATS:
            if kind.recognises(path):
                return kind
    known = "; ".join(f"{kind.title} ({', '.join(kind.suffixes)})" for kind in FORMATS)
    raise InputError(
        f"{path} is of a kind that cannot be read: it has the suffix {path.suffix or 'none'!r}, "
        "and its first bytes are those of no known format.",
        cure=f"Supported are: a folder or a pattern of single-frame images; {known}.",
    )


def _no_such_file(path: Path) -> InputError:
    nearest = next((folder for folder in path.parents if folder.is_dir()), Path("/"))
    try:
        beside = [entry.name for entry in nearest.iterdir()] if nearest == path.parent else []
    except OSError:
        beside = []
    alike = difflib.get_close_matches(path.name, beside, n=1)
    return InputError(
        f"There is no file or folder {path}.",
        consequence="There is nothing to register.",
        cure=f"Did you mean {nearest / alike[0]}?"
        if alike
        else f"Of that path {nearest} exists; check what is in it.",
    )


def _refuse_variable(variable: str | None, path: str) -> None:
    if variable is not None:
        raise InputError(
            f"{path} has no variables to choose {variable!r} from.",
            cure="Leave the variable out; it is for Zarr groups, netCDF, HDF5, DM3 and DM4 files.",
        )


def _refuse_chunk(chunk_frames: int | None) -> None:
    if chunk_frames is not None and chunk_frames < 1:
        raise InputError(
            f"chunk_frames is {chunk_frames}.", cure="Choose one frame or more, or leave it out."
        )


def _refuse_empty(shape: tuple[int, ...], where: str) -> None:
    if 0 in shape:
        raise InputError(
            f"{where} has the shape {shape}: there are no pixels in it.",
            cure="Check that it was written to the end.",
        )


def _refuse_pixels(kind: str, name: str, where: str) -> None:
    """Raise InputError unless pixels are whole or real numbers."""
    if kind in "uif":
        return
    cure = {
        "c": "Save the magnitude, or whatever of it the detector counted.",
        "b": "Convert it: array.astype('uint8').",
    }.get(kind, "Save it as unsigned integers or floating-point numbers.")
    raise InputError(
        f"{where} has pixels of type {name}.",
        consequence="Frames are registered by their counts: whole or real numbers.",
        cure=cure,
    )
