"""EMD of Velox: frames along the last axis, and a JSON text for each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.sources.facts import calibration
from stillstack.sources.layouts.nodes import Stack, could_be_stack, datasets_of

_VELOX: Final = re.compile(r"^/Data/Image/[^/]+/Data$")
_VELOX_ONCE: Final = 256


def declared(file: Any) -> list[tuple[str, ...]]:
    """Return the names of datasets of images."""
    return [
        (node.name,)
        for node in datasets_of(file)
        if _VELOX.match(node.name) and could_be_stack(node) and "Metadata" in node.parent
    ]


def describe(file: Any, names: tuple[str, ...]) -> Stack:
    """Say what the text of each frame tells of it."""
    dataset = file[names[0]]
    texts = dataset.parent["Metadata"]
    n_frames = dataset.shape[2]
    about = list(_velox_texts(texts, min(n_frames, texts.shape[1])))
    first = about[0] if about else {}
    attrs = _velox_facts(first)
    coords: dict[str, NDArray[Any]] = {}
    times = [_velox_time(each) for each in about]
    if len(times) == n_frames and None not in times and len(set(times)) > 1:
        since = np.array(times, float)
        coords["time"] = (since * 1e6).round().astype("datetime64[us]").astype("datetime64[ns]")
    return Stack(names, "EMD (Velox)", (2, 0, 1), coords, attrs)


def _velox_texts(texts: Any, n_frames: int) -> Iterator[Mapping[str, Any]]:
    """JSON of each frame; a column each, filled up with zeros."""
    for start in range(0, n_frames, _VELOX_ONCE):
        columns = texts[:, start : start + _VELOX_ONCE]
        for column in columns.T:
            yield json.loads(column.tobytes().partition(b"\0")[0].decode() or "{}")


def _velox_time(about: Mapping[str, Any]) -> float | None:
    """Seconds since 1970 at which a frame was taken."""
    properties = about.get("CustomProperties", {})
    stamps = [v for k, v in properties.items() if k.endswith(".TimeStamp")]
    if len(stamps) == 1:
        return float(stamps[0]["value"]) * 1e-6
    begun = about.get("Acquisition", {}).get("AcquisitionStartDatetime", {}).get("DateTime")
    return None if begun is None else float(begun)


def _velox_facts(about: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    result, optics = about.get("BinaryResult", {}), about.get("Optics", {})
    size = result.get("PixelSize", {})
    if size.get("height") and size.get("width"):
        axes = [
            {"scale": float(size[key]), "units": result.get(f"PixelUnit{axis}", "")}
            for key, axis in (("height", "Y"), ("width", "X"))
        ]
        found |= calibration(axes, "pixel_size")
    if optics.get("AccelerationVoltage"):
        found["voltage_kv"] = float(optics["AccelerationVoltage"]) / 1e3
    if optics.get("CameraLength"):
        found["camera_length"] = float(optics["CameraLength"])
    if result.get("Detector"):
        found["detector"] = str(result["Detector"])
    exposures = {
        float(each["ExposureTime"])
        for each in about.get("Detectors", {}).values()
        if each.get("ExposureTime") and each.get("DetectorName") in (None, result.get("Detector"))
    }
    if len(exposures) == 1:
        found["exposure_s"] = exposures.pop()
    dwell = about.get("Scan", {}).get("DwellTime")
    return {**found, "dwell_time_s": float(dwell)} if dwell else found


def has(node: Any) -> bool:
    """Whether a dataset lies where Velox has its images."""
    return bool(_VELOX.match(node.name)) and node.ndim == 3 and "Metadata" in node.parent
