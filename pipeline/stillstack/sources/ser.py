"""TIA series: .ser, as ncempy reads them (extra ``rosetta``)."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import MissingExtraError
from stillstack.sources.facts import calibration, flattened
from stillstack.sources.guard import opening
from stillstack.sources.protocol import FileSource, Format
from stillstack.sources.records import RecordReader, Records
from stillstack.sources.rosetta import EXTRA, Found, source_of

_KIND: Final = "a TIA series"
_IMAGES: Final = 0x4122
_AT_PLACES: Final = 0x4142
_BEFORE_PIXELS: Final = 50  # bytes: two calibrations, the type, the shape
_TAG: Final = struct.Struct("<ii")
_PLACE: Final = struct.Struct("<dd")


def open_ser(path: str, variable: str | None = None) -> FileSource:  # noqa: ARG001
    """Source for the images of a series, as far as it was recorded.

    When each was taken (whole seconds, UTC) and, of a scan, where become coordinates.
    """
    ser = _library()
    with opening(path, _KIND), ser.fileSER(path) as file:
        head = file.head
        if head["DataTypeID"] != _IMAGES:
            raise ValueError("it holds spectra, and no images")
        offsets = [int(offset) for offset in head["DataOffsetArray"]]
        if not offsets:
            raise ValueError("it holds no image")
        image, about = file.getDataset(0)
        last, _ = file.getDataset(len(offsets) - 1)
        if (last.shape, last.dtype) != (image.shape, image.dtype):
            raise ValueError(
                f"the first image is {image.shape} {image.dtype}, the last {last.shape} "
                f"{last.dtype}"
            )
        coords = _coordinates(path, head)
        metadata = flattened(file.getMetadata())
    reader = _reader(path, offsets, image)
    axes = [{"scale": abs(c["CalibrationDelta"]), "units": "m"} for c in about["Calibration"][::-1]]
    attrs = {**metadata, **calibration(axes, "pixel_size")}
    return source_of(path, _KIND, Found(reader, len(offsets), coords, attrs))


def _library() -> Any:
    try:
        return importlib.import_module("ncempy.io.ser")
    except ImportError as error:
        raise MissingExtraError("ncempy", EXTRA, "Reading TIA series (.ser)") from error


def _reader(path: str, offsets: list[int], image: NDArray[Any]) -> RecordReader:
    """Return a reader of images at these places, whose last row is stored first."""
    height, width = image.shape
    row = width * image.dtype.itemsize
    steps = np.diff(offsets)
    regular = len(set(steps.tolist())) <= 1 and (steps > 0).all()
    step = int(steps[0]) if regular and len(steps) else _BEFORE_PIXELS + height * row
    starts = offsets[:1] if regular else offsets
    n_frames = len(offsets) if regular else 1
    first_row = _BEFORE_PIXELS + (height - 1) * row
    name = Path(path).name
    return RecordReader(
        folder=str(Path(path).parent),
        files=tuple(Records(name, start + first_row, n_frames) for start in starts),
        strides=(step, -row, image.dtype.itemsize),
        shape=(height, width),
        dtype=image.dtype.newbyteorder("<").str,
    )


def _coordinates(path: str, head: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Time and place of each image from the tag behind it; none where a tag is damaged."""
    times, places = [], []
    with Path(path).open("rb", buffering=0) as file:  # what follows is an image
        for offset in head["TagOffsetArray"]:
            file.seek(offset)
            tag = file.read(_TAG.size)
            if len(tag) < _TAG.size or _TAG.unpack(tag)[0] != head["TagTypeID"]:
                return {}
            times.append(_TAG.unpack(tag)[1])
            place = file.read(_PLACE.size)
            places.append(_PLACE.unpack(place) if len(place) == _PLACE.size else (0.0, 0.0))
    coords: dict[str, NDArray[Any]] = {
        "time": np.array(times, "datetime64[s]").astype("datetime64[ns]")
    }
    if head["TagTypeID"] == _AT_PLACES:
        coords |= {
            "position_x": np.array([x for x, _ in places]),
            "position_y": np.array([y for _, y in places]),
        }
    return coords


SER: Final = Format("TIA series", (".ser",), open_ser)
