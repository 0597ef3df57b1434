"""What files of electron microscopes know beside the frames, under one set of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SECONDS: Final = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    "min": 60.0,
    "h": 3600.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
}
_INSTRUMENT: Final = "Acquisition_instrument."
_KNOWN: Final = {
    "Acquisition_instrument.TEM.beam_energy": "voltage_kv",
    "Acquisition_instrument.SEM.beam_energy": "voltage_kv",
    "Acquisition_instrument.TEM.camera_length": "camera_length",
    "Acquisition_instrument.TEM.Detector.Camera.exposure": "exposure_s",
    "Acquisition_instrument.TEM.Camera.exposure": "exposure_s",
    "Acquisition_instrument.Detector.exposure_per_frame": "exposure_s",
    "Acquisition_instrument.TEM.detector": "detector",
    "Acquisition_instrument.dwell_time": "exposure_s",
    "General.title": "title",
    "General.notes": "notes",
    "Signal.signal_type": "signal_type",
}
_LONGEST: Final = 400

Axis = Mapping[str, Any]
"""``name``, ``scale``, ``offset``, ``units``, ``size`` of one dimension, as HyperSpy has them."""


def calibration(axes: Iterable[Axis], what: str) -> dict[str, Any]:
    """Return the length of a step along two axes, and its unit: of pixels, or of a scan.

    Parameters
    ----------
    axes
        Those of y and x.
    what
        First part of the names: ``"pixel_size"`` or ``"scan_step"``.

    Examples
    --------
    >>> axis = {"scale": 0.02, "units": "1/nm"}
    >>> calibration([axis, axis], "pixel_size")
    {'pixel_size': 0.02, 'pixel_size_units': '1/nm'}
    >>> calibration([{"scale": 1.0, "units": ""}] * 2, "pixel_size")
    {}
    """
    steps = [float(axis.get("scale") or 1.0) for axis in axes]
    units = [str(axis.get("units") or "") for axis in axes]
    if not any(units) and all(step == 1 for step in steps):
        return {}
    same = len(set(steps)) == 1
    found: dict[str, Any] = {what: steps[0] if same else steps}
    if any(units):
        found[f"{what}_units"] = units[0] if len(set(units)) == 1 else units
    return found


def seconds_of(units: str) -> float | None:
    """Return how many seconds a unit of time has; None for any other unit.

    Examples
    --------
    >>> seconds_of("ms"), seconds_of("nm")
    (0.001, None)
    """
    return _SECONDS.get(units.strip().lower())


def series(axis: Axis) -> dict[str, NDArray[Any]]:
    """Return the coordinate along the frames that a calibrated axis makes; times in seconds.

    Examples
    --------
    >>> series({"name": "time", "size": 3, "scale": 20.0, "offset": 0.0, "units": "ms"})
    {'time': array([0.  , 0.02, 0.04])}
    >>> series({"name": "z", "size": 3, "scale": 1.0, "units": ""})
    {}
    """
    units = str(axis.get("units") or "").strip()
    name = str(axis.get("name") or "").strip().lower()
    seconds = seconds_of(units)
    if not units or axis.get("scale") is None or (seconds is None and not name.isidentifier()):
        return {}
    numbers = np.arange(int(axis["size"]))
    values = float(axis.get("offset") or 0.0) + float(axis["scale"]) * numbers
    if seconds is not None:
        return {"time": values * seconds}
    return {"frame_position" if name in {"frame", "y", "x"} else name: values}


def told(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scalars of a tree of metadata laid out as HyperSpy's, under plain names.

    Examples
    --------
    >>> told({"Acquisition_instrument": {"TEM": {"beam_energy": 80.0, "Stage": {"x": 1.5}}}})
    {'voltage_kv': 80.0, 'stage_x': 1.5}
    """
    flat = flattened(metadata)
    found: dict[str, Any] = {}
    date, time = flat.pop("General.date", None), flat.pop("General.time", None)
    if date:
        found["acquired"] = f"{date}T{time}" if time else str(date)
    for path, value in flat.items():
        if path in _KNOWN:
            found[_KNOWN[path]] = value
        elif path.startswith(_INSTRUMENT):
            inside = path.removeprefix(_INSTRUMENT)
            place = inside.removeprefix("TEM.").removeprefix("SEM.")
            found[place.replace(".", "_").replace(" ", "_").lower()] = value
    return found


def flattened(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the scalars of nested mappings by their dotted paths; long text is left out.

    Examples
    --------
    >>> flattened({"a": {"b": np.float32(2), "c": b"text"}, "d": ""})
    {'a.b': 2.0, 'a.c': 'text'}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{before}{key}"
        if isinstance(value, Mapping):
            found |= flattened(value, f"{path}.")
        else:
            plain = plain_scalar(value)
            if plain is not None and plain != "":
                found[path] = plain
    return found


def plain_scalar(value: Any) -> Any:
    """Return a number or short text as Python's own; None for anything else.

    Examples
    --------
    >>> plain_scalar(np.array([300])), plain_scalar([1, 2])
    (300, None)
    """
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "buifSU":
        value = value.reshape(())[()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode(errors="replace").strip("\0 ")
    if isinstance(value, bool | int | float):
        return value
    return value.strip() if isinstance(value, str) and len(value) <= _LONGEST else None
