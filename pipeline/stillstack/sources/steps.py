"""How far it is from pixel to pixel and from frame to frame, by what a source says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PIXEL_SIZE: Final = "pixel_size"
PIXEL_SIZE_UNITS: Final = "pixel_size_units"
"""Attributes of a source: (y, x), or one number for both, and the unit's name or symbol."""

TIME: Final = "time"
SECOND: Final = "second"

# Steps of a clock that differ by no more than this part are one step.
_EVEN: Final = 1e-3

SECONDS: Final[Mapping[str, float]] = {
    "femtosecond": 1e-15,
    "picosecond": 1e-12,
    "nanosecond": 1e-9,
    "microsecond": 1e-6,
    "millisecond": 1e-3,
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
}
"""Seconds of the units of time that OME-Zarr names."""

_LENGTHS: Final[Mapping[str, str]] = {
    "fm": "femtometer",
    "pm": "picometer",
    "Å": "angstrom",
    "\u212b": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "\u03bcm": "micrometer",
    "micron": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
}


def unit_name(unit: Any) -> str:
    """Name of a unit of length as OME-Zarr has it; empty for what it has no name for.

    Examples
    --------
    >>> unit_name("nm"), unit_name("nanometer"), unit_name("1/nm")
    ('nanometer', 'nanometer', '')
    """
    text = str(unit or "").strip()
    known = {*_LENGTHS.values(), "decimeter", "kilometer", "inch", "foot", "attometer"}
    return text if text in known else _LENGTHS.get(text, "")


def pixel_steps(attrs: Mapping[str, Any]) -> tuple[tuple[float, float], str]:
    """Pixel size (y, x) and the name of its unit; 1 and none where they are not known.

    Examples
    --------
    >>> pixel_steps({"pixel_size": [0.2, 0.1], "pixel_size_units": "nm"})
    ((0.2, 0.1), 'nanometer')
    >>> pixel_steps({})
    ((1.0, 1.0), '')
    """
    try:
        given = np.broadcast_to(np.asarray(attrs[PIXEL_SIZE], np.float64), 2)
    except (KeyError, TypeError, ValueError):
        return (1.0, 1.0), ""
    if not (np.isfinite(given) & (given > 0)).all():
        return (1.0, 1.0), ""
    return (float(given[0]), float(given[1])), unit_name(attrs.get(PIXEL_SIZE_UNITS))


def frame_step(coords: Mapping[str, NDArray[Any]]) -> tuple[float, str]:
    """Time from frame to frame and its unit, where the frames are evenly spaced in time.

    Examples
    --------
    >>> frame_step({"time": np.arange(5) * 0.25})
    (0.25, 'second')
    >>> frame_step({"time": np.array([0.0, 1.0, 5.0])})
    (1.0, '')
    """
    times = np.asarray(coords.get(TIME, ()))
    if times.ndim != 1 or times.size < 2 or times.dtype.kind not in "iufmM":
        return 1.0, ""
    if times.dtype.kind in "mM":
        times = (times - times[0]) / np.timedelta64(1, "s")
    step = even_step(times)
    return (1.0, "") if step is None or step < 0 else (step, SECOND)


def even_step(values: NDArray[Any]) -> float | None:
    """Step of evenly spaced numbers; None where they are not.

    Examples
    --------
    >>> even_step(np.array([3.0, 2.5, 2.0])), even_step(np.array([0.0, 1.0, 5.0]))
    (-0.5, None)
    """
    if values.ndim != 1 or values.size < 2 or values.dtype.kind not in "iuf":
        return None
    steps = np.diff(values.astype(np.float64))
    step = float(steps.mean())
    even = np.isfinite(step) and step != 0 and np.abs(steps - step).max() <= _EVEN * abs(step)
    return step if even else None
