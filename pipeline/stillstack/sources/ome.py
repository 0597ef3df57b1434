"""What the metadata of an OME-TIFF or an OME-Zarr image say of each frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from stillstack.sources.folding import Leading
from stillstack.sources.steps import PIXEL_SIZE, PIXEL_SIZE_UNITS, SECONDS, TIME
from stillstack.storage.ome_image import CHANNEL, SPACE, OmeAxis, OmeImage
from stillstack.storage.ome_image import TIME as TIME_AXIS

_SECONDS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "min": 60.0, "h": 3600.0}
_POSITIONS = {"T": "TheT", "Z": "TheZ", "C": "TheC"}


def ome_times(xml: str | None, leading: dict[str, int]) -> dict[str, NDArray[Any]]:
    """``time`` of each frame in seconds since the start (DeltaT), where every plane has one.

    Parameters
    ----------
    xml
        The OME metadata.
    leading
        Sizes of the axes in front of Y and X, by letter, in the order of the frames.
    """
    if not xml or not set(leading) <= set(_POSITIONS) or not leading:
        return {}
    times = np.full(tuple(leading.values()), np.nan)
    for plane in _planes(xml):
        place = tuple(int(plane.get(_POSITIONS[axis], 0)) for axis in leading)
        unit = _SECONDS.get(str(plane.get("DeltaTUnit", "s")))
        inside = all(0 <= at < size for at, size in zip(place, times.shape, strict=True))
        if unit is None or not inside or "DeltaT" not in plane:
            return {}
        times[place] = float(plane["DeltaT"]) * unit
    return {"time": times.ravel()} if np.isfinite(times).all() else {}


def _planes(xml: str) -> list[dict[str, Any]]:
    """Attributes of the planes of the first image; nothing where the metadata are not as usual."""
    try:
        images = tifffile.xml2dict(xml)["OME"]["Image"]
        image = images[0] if isinstance(images, list) else images
        planes = image["Pixels"].get("Plane", [])
    # Times are an extra: metadata that some program wrote in another way are no reason to stop.
    except Exception:  # noqa: BLE001
        return []
    planes = planes if isinstance(planes, list) else [planes]
    return [plane for plane in planes if isinstance(plane, dict)]


def image_coordinates(image: OmeImage, leading: Leading) -> dict[str, NDArray[Any]]:
    """Per-frame coordinates of an OME-Zarr image.

    ``time`` in seconds where the time axis has a unit; ``channel`` where channels have labels;
    positions along other axes of space that have a unit. Where several axes are longer than one,
    the others are counted, under their names in lower case.

    Parameters
    ----------
    image
        The metadata.
    leading
        Axes in front of y and x.
    """
    coords: dict[str, NDArray[Any]] = {}
    for axis in image.axes[:-2]:
        at, several = leading.positions(axis.name), len(leading.long) > 1
        if axis.kind == TIME_AXIS and axis.unit in SECONDS:
            coords[TIME] = (axis.first + at * axis.step) * SECONDS[axis.unit]
        elif axis.kind == CHANNEL and _labels(image, axis, leading):
            coords[CHANNEL] = np.array(image.channels)[at]
        elif axis.name in leading.long and axis.kind == SPACE and axis.unit:
            coords[axis.name.lower()] = axis.first + at * axis.step
        elif axis.name in leading.long and several:
            coords[axis.name.lower()] = at
    return coords


def image_attributes(image: OmeImage, leading: Leading) -> dict[str, Any]:
    """Return what an OME-Zarr image says of all of its frames: pixel size, units, its name."""
    y, x = image.axes[-2:]
    attrs: dict[str, Any] = {"source_format": f"OME-Zarr {image.version}"}
    if image.name:
        attrs["image_name"] = image.name
    if y.unit or x.unit or (y.step, x.step) != (1.0, 1.0):
        attrs[PIXEL_SIZE] = y.step if y.step == x.step else [y.step, x.step]
    if y.unit and y.unit == x.unit:
        attrs[PIXEL_SIZE_UNITS] = y.unit
    elif y.unit or x.unit:
        attrs[PIXEL_SIZE_UNITS] = f"{y.unit or 'pixel'}, {x.unit or 'pixel'}"
    for axis in image.axes[:-2]:
        if axis.name in leading.long and axis.kind == SPACE and axis.unit:
            attrs[f"{axis.name.lower()}_units"] = axis.unit
    return attrs


def _labels(image: OmeImage, axis: OmeAxis, leading: Leading) -> bool:
    """Whether every channel has a label of its own."""
    size = leading.sizes[leading.names.index(axis.name)]
    return len(image.channels) == size == len({*image.channels} - {""})
