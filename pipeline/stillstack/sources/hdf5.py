"""Datasets in HDF5 and NeXus files, opened by path inside each task (extra ``hdf5``)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError, MissingExtraError
from stillstack.sources.fingerprint import digest, stamp
from stillstack.sources.guard import opening, read_or_name
from stillstack.sources.protocol import FileSource, Format

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PLUGINS = "hdf5plugin"


@dataclass(frozen=True)
class Hdf5Reader:
    """Reads frames of one dataset.

    Parameters
    ----------
    path, dataset
        File, and full name of the dataset in it.
    plugins
        Whether a filter of the package hdf5plugin decodes it.
    files
        What else belongs to it: the files of a virtual dataset, relative to ``path``'s folder
        where they are in it.
    """

    path: str
    dataset: str
    plugins: bool = False
    files: tuple[str, ...] = ()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``; the first one that cannot be decoded is named."""
        return read_or_name(self._read, start, stop, f"{self.path}::{self.dataset}")

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        with _open_file(self.path, plugins=self.plugins) as file:
            dataset = file[self.dataset]
            frames = dataset[...][np.newaxis] if dataset.ndim == 2 else dataset[start:stop]
        values: NDArray[Any] = frames.astype(frames.dtype.newbyteorder("="), copy=False)
        return values

    def narrow(self, start: int, stop: int) -> Hdf5Reader:  # noqa: ARG002
        """Itself: it is small whatever the range."""
        return self

    def fingerprint(self) -> str:
        """Digest of the dataset's name and the files' sizes and times."""
        folder = Path(self.path).parent
        return digest([self.dataset, stamp(self.path), *(stamp(folder / f) for f in self.files)])


def open_hdf5(path: str, variable: str | None = None) -> FileSource:
    """Source for a dataset of shape (frame, y, x), or (y, x): one frame.

    Parameters
    ----------
    path
        The file.
    variable
        Name of the dataset, e.g. ``/entry/data/data``; may be left out where the file holds a
        single 3-D dataset of numbers. Its dimension scales become coordinates.

    Raises
    ------
    MissingExtraError
        When h5py is not installed.
    InputError
        When there is no such dataset, or nothing to decode it with.
    """
    _h5py()
    with opening(path, "an HDF5 file"), _open_file(path) as file:
        dataset = _chosen(file, path, variable)
        if dataset.ndim not in (2, 3):
            raise InputError(
                f"{path}::{dataset.name} has the shape {dataset.shape}: a stack has the "
                "dimensions frame, y, x.",
                cure="Reshape the leading dimensions into one, and save that.",
            )
        shape = dataset.shape if dataset.ndim == 3 else (1, *dataset.shape)
        chunk_frames = dataset.chunks[0] if dataset.chunks and dataset.ndim == 3 else 1
        reader = Hdf5Reader(
            path, dataset.name, _needs_plugins(dataset, path), _virtual_files(dataset, path)
        )
        coords = _scales(dataset) if dataset.ndim == 3 else {}
        attrs = _plain_attributes(dataset.attrs)
        dtype = dataset.dtype.newbyteorder("=")
    return FileSource(
        name=f"{Path(path).name}::{reader.dataset}",
        path=path,
        shape=shape,
        dtype=dtype,
        chunk_frames=chunk_frames,
        reader=reader,
        coords=coords,
        attrs={**attrs, "source_format": "HDF5"},
    )


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise MissingExtraError("h5py", "hdf5", "Reading HDF5 files") from error


def _open_file(path: str, *, plugins: bool = False) -> Any:
    if plugins:
        importlib.import_module(_PLUGINS)
    # Where the file system cannot lock, reading works without.
    return _h5py().File(path, "r", locking="best-effort")


def _chosen(file: Any, path: str, variable: str | None) -> Any:
    h5py = _h5py()
    if variable is not None:
        found = file.get(variable)
        if isinstance(found, h5py.Dataset):
            return found
        raise InputError(
            f"{path} has no dataset {variable!r}.",
            cure=f"It has: {_listing(_datasets(file)) or 'no datasets at all'}.",
        )
    datasets = _datasets(file)
    stacks = [each for each in datasets if each.ndim == 3 and each.dtype.kind in "uif"]
    if len(stacks) == 1:
        return stacks[0]
    if stacks:
        raise InputError(
            f"{path} holds {len(stacks)} stacks: {_listing(stacks)}.",
            consequence="Which of them is meant is not for the program to guess.",
            cure="Name one: the option variable, or the path with '::/NAME' behind it.",
        )
    raise InputError(
        f"{path} holds no dataset of three dimensions and numbers.",
        cure=f"It holds: {_listing(datasets) or 'nothing'}.",
    )


def _datasets(file: Any) -> list[Any]:
    h5py = _h5py()
    found: list[Any] = []

    def collect(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            found.append(node)

    file.visititems(collect)
    return found


def _listing(datasets: list[Any]) -> str:
    return ", ".join(f"{each.name} {each.shape} {each.dtype}" for each in datasets)


def _needs_plugins(dataset: Any, path: str) -> bool:
    """Whether hdf5plugin is needed to decode it; InputError where that is not there either."""
    h5z = _h5py().h5z
    filters = dataset.id.get_create_plist()
    kinds = [filters.get_filter(number) for number in range(filters.get_nfilters())]
    unknown = [kind for kind in kinds if not h5z.filter_avail(kind[0])]
    if unknown and importlib.util.find_spec(_PLUGINS):
        importlib.import_module(_PLUGINS)
        unknown = [kind for kind in unknown if not h5z.filter_avail(kind[0])]
    if unknown:
        named = ", ".join(f"{kind[3].decode(errors='replace')} ({kind[0]})" for kind in unknown)
        raise InputError(
            f"{path}::{dataset.name} is compressed with {named}, which h5py alone cannot decode.",
            cure="Install the usual filters with: pip install hdf5plugin.",
        )
    # Registered in this process by whoever imported it: a worker has to import it as well.
    return any(kind[0] >= 32000 for kind in kinds) and bool(importlib.util.find_spec(_PLUGINS))


def _virtual_files(dataset: Any, path: str) -> tuple[str, ...]:
    """Files that a virtual dataset is made of; InputError where one is missing.

    HDF5 itself reads what is missing as zeros, without a word.
    """
    if not dataset.is_virtual:
        return ()
    names = dict.fromkeys(piece.file_name for piece in dataset.virtual_sources())
    files = tuple(name for name in names if name != ".")
    lost = [name for name in files if not (Path(path).parent / name).is_file()]
    if lost:
        raise InputError(
            f"{path}::{dataset.name} is made of {len(files)} other files, and {lost[0]} is missing"
            + (f", with {len(lost) - 1} more." if len(lost) > 1 else "."),
            consequence="HDF5 would read its frames as zeros.",
            cure="Put the files beside it.",
        )
    return files


def _scales(dataset: Any) -> dict[str, NDArray[Any]]:
    """Dimension scales along the first axis, by name; netCDF files and h5py write them."""
    coords: dict[str, NDArray[Any]] = {}
    for scale in dataset.dims[0].values():
        mere_length = b"This is a netCDF dimension but not" in bytes(scale.attrs.get("NAME", b""))
        name = scale.name.rpartition("/")[2]
        if scale.shape == dataset.shape[:1] and not mere_length and name not in {"frame", "y", "x"}:
            values = scale[...]
            text = values.dtype.kind in "OS"
            coords[name] = scale.asstr()[...].astype(str) if text else values
    return coords


def _plain_attributes(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and short text: not the references and tables that HDF5 keeps among them."""
    plain: dict[str, Any] = {}
    for name, value in attrs.items():
        if isinstance(value, bytes):
            plain[name] = value.decode(errors="replace")
        elif isinstance(value, str):
            plain[name] = value
        elif isinstance(value, np.generic) and value.dtype.kind in "uif":
            plain[name] = value.item()
    for internal in ("CLASS", "NAME", "_FillValue", "_Netcdf4Dimid", "_Netcdf4Coordinates"):
        plain.pop(internal, None)
    return plain


def _recognises(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


HDF5 = Format(
    "HDF5, NeXus",
    (".h5", ".hdf5", ".hdf", ".nxs", ".nx5"),
    open_hdf5,
    recognises=_recognises,
    has_variables=True,
)
