"""What the metadata of an OME-TIFF say of each frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

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
