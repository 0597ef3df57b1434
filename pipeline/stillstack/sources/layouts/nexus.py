"""NeXus: the signal of an NXdata group, and what the instrument says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.sources.facts import calibration, plain_scalar, seconds_of
from stillstack.sources.layouts.nodes import (
    Stack,
    could_be_stack,
    folded,
    groups_of,
    text_of,
    values_of,
)

_DEEPEST: Final = 8
_PARTS: Final = re.compile(r"^data_\d+$")


def declared(file: Any) -> list[tuple[str, ...]]:
    """Signals of NXdata: the default one, where the file names one that is a stack, or all."""
    group = file
    for _ in range(_DEEPEST):
        default = text_of(group.attrs.get("default"))
        if not default or default not in group:
            break
        group = group[default]
    chosen = _signal(group) if group is not file else ()
    if chosen:
        return [chosen]
    found = (_signal(node) for node in groups_of(file) if _nx_class(node) == "NXdata")
    return list(dict.fromkeys(names for names in found if names))


def _nx_class(node: Any) -> str:
    return text_of(node.attrs.get("NX_class"))


def _signal(group: Any) -> tuple[str, ...]:
    """Name of the signal of an NXdata group, or the names of its parts; empty where no stack."""
    name = text_of(group.attrs.get("signal"))
    marked = [key for key in group if not name and _is_marked(group, key)]
    for key in [name, *marked]:
        node = group.get(key) if key else None
        if node is not None and could_be_stack(node):
            return (f"{group.name.rstrip('/')}/{key}",)
    parts = sorted(key for key in group if _PARTS.match(key))
    return tuple(f"{group.name.rstrip('/')}/{key}" for key in parts)


def _is_marked(group: Any, key: str) -> bool:
    # NeXus before 2014: the dataset itself says that it is the signal
    link = group.get(key, getlink=True)
    if type(link).__name__ == "ExternalLink":
        return False
    node = group.get(key)
    return node is not None and str(plain_scalar(node.attrs.get("signal"))) == "1"


def describe(file: Any, names: tuple[str, ...]) -> Stack:
    """Say what axes, detector, beam and entry tell of a signal."""
    dataset = file[names[0]]
    group = file[names[0].rpartition("/")[0] or "/"]
    n_frames = dataset.shape[0] if len(names) == 1 else 0  # of parts, the length is not known
    axes = _axes(group)
    entry = _above(file, group, "NXentry")
    detectors = [node for node in groups_of(entry) if _nx_class(node) == "NXdetector"]
    attrs = {**_nexus_facts(entry), **(_detector_facts(detectors[0]) if detectors else {})}
    coords: dict[str, NDArray[Any]] = {}
    if dataset.ndim == 4:
        coords = folded(dataset.shape, tuple(axes[:2]))
    elif n_frames > 1:
        for holder in (*detectors[:1], group):
            coords |= _along(holder, n_frames, set(axes[1:]))
    return Stack(names, "NeXus", tuple(range(dataset.ndim)), coords, attrs)


def _axes(group: Any) -> list[str]:
    axes = group.attrs.get("axes")
    if isinstance(axes, str | bytes):
        return [part.strip() for part in re.split("[:,]", text_of(axes).strip("[]"))]
    return [] if axes is None else [text_of(each) for each in np.atleast_1d(axes)]


def _above(file: Any, group: Any, kind: str) -> Any:
    while group.name != "/":
        if _nx_class(group) == kind:
            return group
        group = group.parent
    return file


def _along(group: Any, n_frames: int, others: set[str]) -> dict[str, NDArray[Any]]:
    """Every value a frame that a group holds; times in seconds."""
    found: dict[str, NDArray[Any]] = {}
    for key in group:
        node = group.get(key)
        if key in others or not hasattr(node, "dims") or node.shape != (n_frames,):
            continue
        if node.dtype.kind not in "uifOS":
            continue
        name = key if key not in {"frame", "y", "x"} else f"source_{key}"
        values = values_of(node)
        factor = seconds_of(text_of(node.attrs.get("units")))
        found[name] = values * factor if factor not in (None, 1.0) else values
    return found


_NEXUS_FACTS: Final = {
    "start_time": "acquired",
    "title": "title",
    "instrument/source/voltage": "voltage",
    "instrument/beam/incident_energy": "incident_energy",
    "instrument/beam/incident_wavelength": "incident_wavelength",
    "instrument/name": "instrument",
}
_DETECTOR_FACTS: Final = {
    "description": "detector",
    "count_time": "count_time",
    "frame_time": "frame_time",
    "detector_distance": "distance",
    "distance": "distance",
    "sensor_material": "sensor_material",
    "threshold_energy": "threshold_energy",
    "saturation_value": "saturation_value",
}


def _facts(group: Any, wanted: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, name in wanted.items():
        node = group.get(place)
        value = plain_scalar(node[()]) if hasattr(node, "dims") and node.size == 1 else None
        if value is not None and value != "":
            found[name] = value
            units = text_of(node.attrs.get("units"))
            if units:
                found[f"{name}_units"] = units
    return found


def _nexus_facts(entry: Any) -> dict[str, Any]:
    found = _facts(entry, _NEXUS_FACTS)
    per_kv = {"V": 1e-3, "kV": 1.0, "eV": 1e-3, "keV": 1.0}
    for name in ("voltage", "incident_energy"):
        factor = per_kv.get(str(found.get(f"{name}_units", "")))
        if name in found and factor is not None:
            found["voltage_kv"] = found.pop(name) * factor
            del found[f"{name}_units"]
    return found


def _detector_facts(detector: Any) -> dict[str, Any]:
    found = _facts(detector, _DETECTOR_FACTS)
    factor = seconds_of(str(found.get("count_time_units", "s")))
    if "count_time" in found and factor is not None:
        found["exposure_s"] = found.pop("count_time") * factor
        found.pop("count_time_units", None)
    sizes = [detector.get(f"{axis}_pixel_size") for axis in "yx"]
    if all(hasattr(size, "dims") and size.size == 1 for size in sizes):
        axes = [
            {"scale": float(np.ravel(s[()])[0]), "units": text_of(s.attrs.get("units"))}
            for s in sizes
        ]
        found |= calibration(axes, "pixel_size")
    return found


def has(node: Any) -> bool:
    """Whether a dataset lies where NeXus has its data."""
    return _nx_class(node.parent) == "NXdata"
