"""Datasets in HDF5 and NeXus files, opened by path inside each task (extra ``hdf5``)."""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError, MissingExtraError
from stillstack.sources.chained import ChainedReader
from stillstack.sources.fingerprint import digest, stamp
from stillstack.sources.folding import Box, boxes
from stillstack.sources.guard import opening, read_or_name
from stillstack.sources.layouts import find_stack
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
        What else belongs to it: the files of a virtual or linked dataset, relative to ``path``'s
        folder where they are in it.
    order
        Its axes in the order frame, y, x; with four of them scan row, scan column, y, x.
    """

    path: str
    dataset: str
    plugins: bool = False
    files: tuple[str, ...] = ()
    order: tuple[int, ...] = (0, 1, 2)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``; the first one that cannot be decoded is named."""
        return read_or_name(self._read, start, stop, f"{self.path}::{self.dataset}")

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        with _open_file(self.path, plugins=self.plugins) as file:
            dataset = file[self.dataset]
            if dataset.ndim == 2:
                frames = dataset[...][np.newaxis]
            elif dataset.ndim == 3 and self.order != (0, 1, 2):
                return self._turned(dataset, start, stop)
            else:
                leading = [dataset.shape[axis] for axis in self.order[:-2]]
                parts = [self._piece(dataset, box) for box in boxes(start, stop, leading)]
                frames = parts[0] if len(parts) == 1 else np.concatenate(parts)
        values: NDArray[Any] = frames.astype(frames.dtype.newbyteorder("="), order="C", copy=False)
        return values

    def _turned(self, dataset: Any, start: int, stop: int) -> NDArray[Any]:
        """Frames that do not lie along the first axis, piece by piece of the file."""
        height, width = (dataset.shape[axis] for axis in self.order[1:])
        frames = np.empty((stop - start, height, width), dataset.dtype.newbyteorder("="))
        step = dataset.chunks[self.order[0]] if dataset.chunks else stop - start
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            frames[begin - start : end - start] = self._piece(dataset, (slice(begin, end),))
        return frames

    def _piece(self, dataset: Any, box: Box) -> NDArray[Any]:
        """Frames at ranges of the axes in front of y and x, in one line."""
        chosen = [slice(None)] * dataset.ndim
        for axis, place in zip(self.order, box, strict=False):
            chosen[axis] = place
        ordered: NDArray[Any] = dataset[tuple(chosen)].transpose(self.order)
        return ordered.reshape(-1, *ordered.shape[-2:])

    def narrow(self, start: int, stop: int) -> Hdf5Reader:  # noqa: ARG002
        """Itself: it is small whatever the range."""
        return self

    def fingerprint(self) -> str:
        """Digest of the dataset's name and the files' sizes and times."""
        folder = Path(self.path).parent
        return digest([self.dataset, stamp(self.path), *(stamp(folder / f) for f in self.files)])


def open_hdf5(path: str, variable: str | None = None) -> FileSource:
    """Source for a dataset of shape (frame, y, x), of a scan (row, column, y, x), or (y, x).

    Parameters
    ----------
    path
        The file.
    variable
        Name of the dataset or of the group that holds it, e.g. ``/entry/data``; may be left out
        where the file declares what its data are, as NeXus, EMD and HyperSpy do, or holds a single
        dataset of three or four dimensions and numbers.

    Raises
    ------
    MissingExtraError
        When h5py is not installed.
    InputError
        When there is no such dataset, or nothing to decode it with.
    """
    _h5py()
    with opening(path, "an HDF5 file"), _open_file(path) as file:
        found = find_stack(file, path, variable)
        parts, notes = _parts(file, path, found.names)
        dataset = next(iter(parts.values()))
        _refuse_other_dimensions(dataset, path)
        _refuse_unlike(parts, path)
        readers = tuple(_reader(part, path, name, found.order) for name, part in parts.items())
        leading = tuple(dataset.shape[axis] for axis in found.order[:-2])
        lengths = tuple(part.shape[0] for part in parts.values())
        n_frames = sum(lengths) if len(parts) > 1 else math.prod(leading)
        height, width = (dataset.shape[axis] for axis in found.order[-2:])
        attrs = {**_plain_attributes(dataset.attrs), **found.attrs, "source_format": found.layout}
        dtype, chunk_frames = dataset.dtype.newbyteorder("="), _chunk_frames(dataset, found.order)
    return FileSource(
        name=f"{Path(path).name}::{readers[0].dataset}",
        path=path,
        shape=(n_frames, height, width),
        dtype=dtype,
        chunk_frames=chunk_frames,
        reader=readers[0] if len(readers) == 1 else ChainedReader(readers, lengths),
        coords=found.coords,
        attrs=attrs,
        notes=notes,
    )


def _parts(file: Any, path: str, names: tuple[str, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Datasets by their names, and a note where the last ones are not there."""
    parts: dict[str, Any] = {}
    lost: list[str] = []
    for name in names:
        try:
            dataset = file[name]
        except (KeyError, OSError):
            lost.append(name)
            continue
        if lost:
            break
        parts[name] = dataset
    if lost and (not parts or lost[-1] != names[-1]):
        raise InputError(
            f"{path} links {lost[0]} to a file that is missing or cannot be opened.",
            consequence="Its frames, and the numbers of all after them, are not known.",
            cure="Put the file beside it.",
        )
    note = (
        f"{path} links {len(names)} parts, and the last {len(lost)} of them are not there: the "
        f"frames of the other {len(parts)} are taken."
    )
    return parts, (note,) if lost else ()


def _reader(dataset: Any, path: str, name: str, order: tuple[int, ...]) -> Hdf5Reader:
    files = [*_virtual_files(dataset)]
    if not os.path.samefile(dataset.file.filename, path):  # noqa: PTH121
        files.append(dataset.file.filename)
    folder = Path(path).parent
    relative = tuple(os.path.relpath(each, folder) for each in files)
    return Hdf5Reader(path, name, _needs_plugins(dataset, path), relative, order)


def _refuse_unlike(parts: Mapping[str, Any], path: str) -> None:
    (first_name, first), *others = parts.items()
    for name, part in others:
        if part.ndim != 3 or part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
            raise InputError(
                f"The parts of {path} are not alike: {first_name} is {first.shape} {first.dtype}, "
                f"{name} is {part.shape} {part.dtype}.",
                consequence="Frames of one stack have one shape and one dtype.",
                cure="Name the part that is meant: the path with '::/NAME' behind it.",
            )


def _refuse_other_dimensions(dataset: Any, path: str) -> None:
    if dataset.ndim not in (2, 3, 4):
        raise InputError(
            f"{path}::{dataset.name} has the shape {dataset.shape}: a stack has the dimensions "
            "frame, y, x, and a scan row, column, y, x.",
            cure="Reshape the leading dimensions into one, and save that.",
        )


def _chunk_frames(dataset: Any, order: tuple[int, ...]) -> int:
    """Frames that are decoded together: along the line in which the frames of a scan lie."""
    if not dataset.chunks or dataset.ndim == 2:
        return 1
    if dataset.ndim == 3:
        return int(dataset.chunks[order[0]])
    rows, columns = (int(dataset.chunks[axis]) for axis in order[:2])
    return rows * int(dataset.shape[order[1]]) if rows > 1 else columns


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


def _virtual_files(dataset: Any) -> tuple[str, ...]:
    """Files that a virtual dataset is made of; InputError where one is missing.

    HDF5 itself reads what is missing as zeros, without a word.
    """
    if not dataset.is_virtual:
        return ()
    folder = Path(dataset.file.filename).parent
    names = dict.fromkeys(piece.file_name for piece in dataset.virtual_sources())
    files = tuple(name for name in names if name != ".")
    lost = [name for name in files if not (folder / name).is_file()]
    if lost:
        raise InputError(
            f"{dataset.file.filename}::{dataset.name} is made of {len(files)} other files, and "
            f"{lost[0]} is missing" + (f", with {len(lost) - 1} more." if len(lost) > 1 else "."),
            consequence="HDF5 would read its frames as zeros.",
            cure="Put the files beside it.",
        )
    return tuple(str(folder / name) for name in files)


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
    "HDF5, NeXus, EMD, HyperSpy",
    (".h5", ".hdf5", ".hdf", ".nxs", ".nx5", ".emd", ".hspy", ".de5"),
    open_hdf5,
    recognises=_recognises,
    has_variables=True,
)
