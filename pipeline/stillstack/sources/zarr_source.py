"""Zarr arrays of format 2 and 3, read by path through the one place that knows Zarr."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.address import Address
from stillstack.errors import InputError
from stillstack.model import COLUMNS, FRAME, X, Y
from stillstack.scan import scan_coordinates
from stillstack.sources.fingerprint import digest
from stillstack.sources.folding import Leading
from stillstack.sources.guard import opening, read_or_name
from stillstack.sources.layouts.hyperspy import hyperspy_axes, hyperspy_facts
from stillstack.sources.ome import image_attributes, image_coordinates
from stillstack.sources.protocol import FileSource, Format
from stillstack.storage import finding, read_attributes, reading

SOURCE_FRAME = "source_frame"
ZARR_JSON: Final = "zarr.json"
_HYPERSPY: Final = re.compile(r"^Experiments/[^/]+/data$")
_PACKED = ("scale_factor", "add_offset")


@dataclass(frozen=True)
class ZarrReader:
    """Reads frames of one Zarr array.

    Parameters
    ----------
    path, variable
        Store, and array in it.
    single
        The array is one image of two dimensions, and the stack has one frame.
    leading
        Axes in front of y and x, where these are more than one.
    """

    path: str | Address
    variable: str | None
    single: bool = False
    leading: Leading | None = None

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``; the first one with a damaged chunk is named."""
        where = f"{self.path}::{self.variable}" if self.variable else str(self.path)
        return read_or_name(self._read, start, stop, where)

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        if self.single:
            return reading.read_image(self.path, self.variable)[np.newaxis]
        if self.leading is not None:
            return reading.read_boxes(self.path, self.variable, self.leading.boxes(start, stop))
        return reading.read_range(self.path, self.variable, start, stop)

    def narrow(self, start: int, stop: int) -> ZarrReader:  # noqa: ARG002
        """Itself: it is small whatever the range."""
        return self

    def fingerprint(self) -> str:
        """Digest of the metadata and of a sample of the chunks' sizes and times."""
        with opening(str(self.path), "a Zarr store"):
            return digest([self.variable or "", *reading.fingerprint(self.path, self.variable)])


def open_zarr(path: str | Address, variable: str | None = None) -> FileSource:
    """Source for a Zarr array, or for an array of a Zarr group.

    Arrays along its first dimension become per-frame coordinates, times decoded; a dimension
    coordinate called ``frame`` that is not 0, 1, 2 ... is kept as ``source_frame``. A group needs
    no ``variable`` where it holds a single array of three or four dimensions, or a single one
    along ``frame``, which is what ``stillstack ingest`` and ``stillstack run`` write. Whatever the
    dimensions are called, they are taken by order: frame, y, x, or scan row, column, y, x.

    Of an OME-Zarr image it is the largest level. The axes in front of y and x are folded into
    ``frame`` in the order of the array, and become coordinates.
    """
    with opening(str(path), "a Zarr store"):
        stored = finding.describe(path, variable)
        _refuse_layout(stored)
        *sizes, height, width = stored.shape
        scan = _scan(stored, sizes)
        names = [axis.name for axis in stored.image.axes] if stored.image else [*(scan or (FRAME,))]
        leading = Leading(tuple(names[: len(sizes)]), tuple(sizes))
        coords = _coordinates(stored) if leading.sizes == (leading.n_frames,) else scan
    attrs = {**_ingested(path), **stored.attrs, "source_format": "Zarr"}
    if stored.fill_value is not None:
        attrs["invalid_value"] = stored.fill_value
    if stored.image is not None:
        coords = {**image_coordinates(stored.image, leading), **coords}
        attrs |= image_attributes(stored.image, leading)
    if _HYPERSPY.match(stored.variable or ""):
        coords, facts = _hyperspy(stored)
        attrs |= facts
    one, single = len(sizes) == 1, not sizes
    return FileSource(
        name=_name_of(path) + (f"::{stored.variable}" if stored.variable else ""),
        path=str(path),
        shape=(leading.n_frames, height, width),
        dtype=stored.dtype.newbyteorder("="),
        chunk_frames=stored.chunks[0] if one else leading.chunk_frames(stored.chunks[:-2]),
        reader=ZarrReader(path, stored.variable, single, None if one or single else leading),
        coords=coords,
        attrs=attrs,
        notes=_notes(stored),
    )


def _scan(stored: finding.StoredArray, sizes: list[int]) -> dict[str, NDArray[Any]]:
    """Where on the grid of a scan each frame lies; nothing of a stack, or an OME-Zarr image."""
    if len(sizes) != 2 or stored.image is not None:
        return {}
    return dict(scan_coordinates((sizes[0], sizes[1]), (stored.dims or ())[:2] or None))


def _ingested(path: str | Address) -> dict[str, Any]:
    """What the files knew of which a stack of ours is a copy; nothing for other stores."""
    if isinstance(path, Address):  # of which every look is a round trip
        return {}
    attributes = read_attributes(Path(path)) if Path(path, ZARR_JSON).is_file() else None
    known = (attributes or {}).get("source_attributes")
    return (
        {k: v for k, v in known.items() if k != "invalid_value"} if isinstance(known, dict) else {}
    )


def _hyperspy(stored: finding.StoredArray) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Coordinates and attributes of HyperSpy's signal in a .zspy store."""
    with opening(str(stored.path), "a HyperSpy store"):
        tree = reading.read_tree(stored.path, (stored.variable or "").rpartition("/")[0])
        return hyperspy_facts(stored.shape, hyperspy_axes(tree), tree.get("metadata", {}))


def _name_of(path: str | Address) -> str:
    return path.name if isinstance(path, Address) else Path(path).name


def _refuse_layout(stored: finding.StoredArray) -> None:
    name = f"{stored.path}::{stored.variable}" if stored.variable else stored.path
    if len(stored.shape) not in (2, 3, 4) and stored.image is None:
        raise InputError(
            f"{name} has the shape {stored.shape}: a stack has the dimensions frame, y, x, and a "
            "scan row, column, y, x.",
            cure="Open it with xarray, stack the leading dimensions into one, and save that.",
        )
    if {FRAME, Y, X} == set(stored.dims or ()) and stored.dims != (FRAME, Y, X):
        raise InputError(
            f"{name} has its dimensions in the order {stored.dims}.",
            consequence="To read one frame the whole array would have to be decoded.",
            cure="Save it in the order frame, y, x.",
        )
    packed = [key for key in _PACKED if key in stored.attrs]
    if packed:
        raise InputError(
            f"{name} holds packed numbers ({', '.join(packed)}).",
            consequence="They are no counts.",
            cure="Open it with xarray, which unpacks them, and pass that or save it.",
        )


def _notes(stored: finding.StoredArray) -> tuple[str, ...]:
    if not stored.image_fault:
        return ()
    return (f"The OME-Zarr metadata of {stored.path} are not used: {stored.image_fault}.",)


def _coordinates(stored: finding.StoredArray) -> dict[str, NDArray[Any]]:
    # The table of a run lies along frame too; it says how frames were registered, and not what
    # they are.
    results = {column.name for column in COLUMNS}
    found = finding.read_coordinates(stored)
    variables = {
        name: xr.Variable((FRAME,), values, attrs)
        for name, (values, attrs) in found.items()
        if name not in results
    }
    decoded = xr.decode_cf(xr.Dataset(variables), decode_coords=False)
    coords = {str(name): _plain(variable.values) for name, variable in decoded.variables.items()}
    own = coords.pop(FRAME, None)
    if own is not None and not np.array_equal(own, np.arange(len(own))):
        coords[SOURCE_FRAME] = own
    return {name: values for name, values in coords.items() if name not in (Y, X)}


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Text as fixed-width Unicode, which every process and format understands."""
    return values.astype(str) if values.dtype.kind in "OTS" else values


ZARR = Format("Zarr", (".zarr", ".zspy"), open_zarr, recognises=finding.is_zarr, has_variables=True)
