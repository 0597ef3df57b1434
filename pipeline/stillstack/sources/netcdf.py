"""netCDF files, and whatever else xarray opens, by path inside each task.

xarray knows the format (its *engine*), what the dimensions are called, what counts as missing and
how times are written; here it is asked for one range of frames at a time. Missing values become NaN
and packed numbers are unpacked, as xarray does it. A file is opened, read and closed by each task:
nothing that is open travels between processes, and inside one the engines take turns under xarray's
locks, without which the HDF5 and netCDF libraries are not safe.

Source: https://docs.unidata.ucar.edu/netcdf-c/current/file_format_specifications.html
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.errors import InputError, MissingExtraError
from stillstack.model import FRAME, X, Y
from stillstack.sources.fingerprint import digest, stamp
from stillstack.sources.folding import Leading
from stillstack.sources.guard import opening, read_or_name, reason
from stillstack.sources.protocol import FileSource, Format
from stillstack.sources.steps import PIXEL_SIZE, PIXEL_SIZE_UNITS, even_step
from stillstack.sources.zarr_source import SOURCE_FRAME

_CLASSIC: Final = (b"CDF\x01", b"CDF\x02")
_CLASSIC_64: Final = b"CDF\x05"
_SHORT: Final = 200
# What of a variable xarray keeps apart from its attributes, for writing it again.
_PLAIN: Final = {"decode_times": False, "decode_timedelta": False, "decode_coords": False}


@dataclass(frozen=True)
class XarrayReader:
    """Reads frames of one variable through xarray.

    Parameters
    ----------
    path, variable, engine
        File or folder, name of the variable with its groups, and what opens it.
    leading
        Axes in front of y and x; none of an image.
    """

    path: str
    variable: str
    engine: str
    leading: Leading

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``; the first one that cannot be read is named."""
        return read_or_name(self._read, start, stop, f"{self.path}::{self.variable}")

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        group, _, name = self.variable.rpartition("/")
        with _opened(self.path, self.engine, group, **_PLAIN) as dataset:
            variable = dataset.variables[name]
            if not self.leading.sizes:
                return _native(variable.values)[np.newaxis]
            shape = variable.shape[-2:]
            boxes = self.leading.boxes(start, stop)
            parts = [variable[box].values.reshape(-1, *shape) for box in boxes]
            return _native(np.concatenate(parts))

    def narrow(self, start: int, stop: int) -> XarrayReader:  # noqa: ARG002
        """Itself: it is small whatever the range."""
        return self

    def fingerprint(self) -> str:
        """Digest of the variable's name and of the file's size and time, or its files'."""
        path = Path(self.path)
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        named = (f"{file.relative_to(path).as_posix()} {stamp(file)}" for file in files)
        return digest([self.variable, *named])


def open_netcdf(path: str, variable: str | None = None) -> FileSource:
    """Source for a variable of a netCDF file, format 3 or 4.

    Parameters
    ----------
    path, variable
        As of `open_by_xarray`.

    Raises
    ------
    MissingExtraError
        When the package that reads netCDF 4 is not installed.
    InputError
        When there is no such variable, or the file is damaged.
    """
    with opening(path, "a netCDF file"):
        engine = _engine_of(path)
    return open_by_xarray(path, variable, engine)


def open_by_xarray(path: str, variable: str | None, engine: str) -> FileSource:
    """Source for a variable of anything that an engine of xarray opens.

    Coordinates along the frames come along, times decoded by the CF conventions. Where several
    dimensions lie in front of y and x they are folded into ``frame`` in the order of the file. The
    last two are y and x, whatever they are called.

    Parameters
    ----------
    path
        File or folder.
    variable
        Its name, with the groups that it is in: ``scan/frames``; may be left out where there is
        a single one of three dimensions and numbers, or a single such along ``frame``.
    engine
        One of `xarray.backends.list_engines`.

    Raises
    ------
    InputError
        When there is no such engine or variable, or it could be one of several.
    """
    _refuse_engine(engine)
    _refuse_blind(path, engine)
    group, _, name = (variable or "").strip("/").rpartition("/")
    with opening(path, _title(engine)), _opened(path, engine, group, **_PLAIN) as dataset:
        chosen = _chosen(dataset, path, name or None)
        found = dataset[chosen]
        _refuse_order(found, path)
        *dims, _, _ = (str(dim) for dim in found.dims)
        *sizes, height, width = found.shape
        leading = Leading(tuple(dims), tuple(sizes))
        coords, units, notes = _coordinates(dataset, found, leading)
        attrs = {**_plain(dataset.attrs), **_plain(found.attrs), **units, **_pixel_size(found)}
        chunks = _chunks(found)
        dtype = found.dtype.newbyteorder("=")
    whole = f"{group}/{chosen}" if group else chosen
    return FileSource(
        name=f"{Path(path).name}::{whole}",
        path=path,
        shape=(leading.n_frames, height, width),
        dtype=dtype,
        chunk_frames=leading.chunk_frames(chunks),
        reader=XarrayReader(path, whole, engine, leading),
        coords=coords,
        attrs={**attrs, "source_format": _title(engine)},
        notes=notes,
    )


@contextmanager
def _opened(path: str, engine: str, group: str, **decoding: Any) -> Iterator[xr.Dataset]:
    options: dict[str, Any] = {"group": group} if group else {}
    if engine == "h5netcdf":
        if importlib.util.find_spec("hdf5plugin"):  # registers the filters that it has
            importlib.import_module("hdf5plugin")
        # dimensions without a name get one; and where the file system cannot lock, reading works
        options |= {"phony_dims": "sort", "driver_kwds": {"locking": "best-effort"}}
    if engine == "zarr":
        options["consolidated"] = False
    try:
        dataset = xr.open_dataset(
            path, engine=engine, chunks=None, cache=False, **decoding, **options
        )
    except ValueError as error:
        if engine == "scipy":  # it says of an array that it has another shape
            raise ValueError(f"it ends before its last frame, or is damaged ({error})") from error
        raise
    with dataset:
        yield dataset


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _engine_of(path: str) -> str:
    """Return the engine for a netCDF file, by its first bytes."""
    if _head(path) in _CLASSIC:
        return "scipy"
    _refuse_blind(path, "netcdf4")
    for package, engine in (("h5netcdf", "h5netcdf"), ("netCDF4", "netcdf4")):
        if importlib.util.find_spec(package):
            return engine
    raise MissingExtraError("h5netcdf", "netcdf", "Reading netCDF 4 files")


def _head(path: str) -> bytes:
    if Path(path).is_dir():
        return b""
    with Path(path).open("rb") as file:
        return file.read(4)


def _refuse_blind(path: str, engine: str) -> None:
    """Refuse to read a file of classic format with the C library, which does not see its end."""
    if engine == "netcdf4" and _head(path) in (*_CLASSIC, _CLASSIC_64):
        kind = "in its 64-bit data format (CDF-5)" if _head(path) == _CLASSIC_64 else "3"
        raise InputError(
            f"{path} is netCDF {kind}, which the netCDF library reads.",
            consequence="Of a file that was cut off it reads the frames that are missing as zeros.",
            cure="Convert it to netCDF 4 (nccopy -k nc4 IN OUT), or leave input.engine out.",
        )


def _refuse_engine(engine: str) -> None:
    known = xr.backends.list_engines()
    if engine not in known:
        raise InputError(
            f"xarray has no engine {engine!r} here.",
            cure=f"It has {', '.join(sorted(known))}; others come with their packages (GRIB: "
            "pip install cfgrib).",
        )


def _title(engine: str) -> str:
    named = {"scipy": "netCDF 3", "h5netcdf": "netCDF 4", "netcdf4": "netCDF"}
    return named.get(engine, f"what {engine} reads")


def _chosen(dataset: xr.Dataset, path: str, name: str | None) -> str:
    numbers = {
        str(n): array
        for n, array in dataset.data_vars.items()
        if array.dtype.kind in "uif" and array.ndim >= 2
    }
    if name is not None:
        if name in numbers:
            return name
        raise InputError(
            f"{path} has no variable {name!r} of numbers and two dimensions or more.",
            cure=f"It has: {_listing(numbers) or 'no such variables at all'}.",
        )
    stacks = {n: array for n, array in numbers.items() if array.ndim >= 3}
    if len(stacks) > 1:
        framed = {n: array for n, array in stacks.items() if array.dims[0] == FRAME}
        stacks = framed if len(framed) == 1 else stacks
    if len(stacks) == 1:
        return next(iter(stacks))
    if stacks:
        raise InputError(
            f"{path} holds {len(stacks)} stacks: {_listing(stacks)}.",
            consequence="Which of them is meant is not for the program to guess.",
            cure="Name one: input.variable in the config, the option --variable, or the path with "
            "'::NAME' behind it.",
        )
    raise InputError(
        f"{path} holds no variable of three dimensions and numbers.",
        cure=f"It holds: {_listing(dataset.variables) or 'nothing'}. What lies in a group is named "
        "with it: GROUP/NAME.",
    )


def _listing(variables: Mapping[Any, Any]) -> str:
    return ", ".join(
        f"{name} ({', '.join(f'{dim}: {size}' for dim, size in array.sizes.items())}) {array.dtype}"
        for name, array in sorted(variables.items(), key=lambda item: str(item[0]))
    )


def _refuse_order(found: xr.DataArray, path: str) -> None:
    ours = [dim for dim in found.dims if dim in (FRAME, Y, X)]
    if len(ours) == 3 and tuple(found.dims[-2:]) != (Y, X):
        raise InputError(
            f"{path}::{found.name} has its dimensions in the order {found.dims}.",
            consequence="To read one frame the whole array would have to be decoded.",
            cure="Save it in the order frame, y, x.",
        )


def _chunks(found: xr.DataArray) -> tuple[int, ...]:
    """Chunks along the dimensions in front of y and x; one frame where there are none."""
    stored = found.encoding.get("chunksizes")
    preferred = found.encoding.get("preferred_chunks") or {}
    steps = stored or [preferred.get(dim, 1) for dim in found.dims]
    return tuple(int(step) for step in steps[:-2])


def _coordinates(
    dataset: xr.Dataset, found: xr.DataArray, leading: Leading
) -> tuple[dict[str, NDArray[Any]], dict[str, str], tuple[str, ...]]:
    """Per-frame coordinates, their units, and what is to be said of them."""
    named = f"{found.attrs.get('coordinates', '')} {dataset.attrs.get('coordinates', '')}".split()
    coords: dict[str, NDArray[Any]] = {}
    units: dict[str, str] = {}
    notes = []
    for key, array in dataset.variables.items():
        name, along = str(key), [str(dim) for dim in array.dims]
        apart = bool(named) and name not in named and name not in leading.names
        if not along or not set(along) <= set(leading.names) or apart or name == found.name:
            continue
        try:
            decoded = xr.decode_cf(xr.Dataset({name: array}), decode_timedelta=False)[name]
            values = np.asarray(decoded.variable.values)
        # A calendar or a unit that nobody knows is no reason not to register the frames.
        except (ValueError, ImportError, OverflowError) as error:
            values = np.asarray(array.values)
            notes.append(f"{name} is kept as it is stored: {reason(error)}.")
        if array.attrs.get("units") and values.dtype.kind in "uif":
            units[f"{name}_units"] = str(array.attrs["units"])
        per_frame = _plain_values(values)[tuple(leading.positions(dim) for dim in along)]
        if name == FRAME:
            if np.array_equal(per_frame, np.arange(len(per_frame))):
                continue
            name = SOURCE_FRAME
        if name not in (Y, X):
            coords[name] = per_frame
    for dim in leading.long if len(leading.long) > 1 else ():
        coords.setdefault(SOURCE_FRAME if dim == FRAME else dim, leading.positions(dim))
    return coords, units, tuple(notes)


def _plain_values(values: NDArray[Any]) -> NDArray[Any]:
    """Text, and dates of other calendars, as fixed-width Unicode."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    return values.astype(str) if values.dtype.kind in "OT" else _native(values)


def _pixel_size(found: xr.DataArray) -> dict[str, Any]:
    """Pixel size by the coordinates of y and x, where these are evenly spaced."""
    axes = [found.coords.get(dim) for dim in found.dims[-2:]]
    steps = [None if axis is None else even_step(axis.values) for axis in axes]
    if any(step is None for step in steps):
        return {}
    units = {str(axis.attrs.get("units", "")) for axis in axes if axis is not None}
    unit = {PIXEL_SIZE_UNITS: units.pop()} if len(units) == 1 and units != {""} else {}
    sizes = [abs(step) for step in steps if step is not None]
    return {PIXEL_SIZE: sizes[0] if sizes[0] == sizes[1] else sizes, **unit}


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Numbers and short text; what only says how values are stored is left out."""
    plain: dict[str, Any] = {}
    for name, value in attrs.items():
        kept = value.item() if isinstance(value, np.generic) else value
        if isinstance(kept, bool | int | float | str) and len(str(kept)) <= _SHORT:
            plain[str(name)] = kept
    for internal in ("_FillValue", "missing_value", "coordinates", "_NCProperties"):
        plain.pop(internal, None)
    return plain


def _recognises(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (*_CLASSIC, _CLASSIC_64)


NETCDF = Format(
    "netCDF",
    (".nc", ".nc4", ".netcdf", ".cdf"),
    open_netcdf,
    recognises=_recognises,
    has_variables=True,
)
