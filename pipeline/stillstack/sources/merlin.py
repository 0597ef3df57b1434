"""Merlin and Medipix detectors: .mib, with what the .hdr beside it and each frame's header say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.model import SCAN_X, SCAN_Y
from stillstack.sources.facts import plain_scalar
from stillstack.sources.guard import opening
from stillstack.sources.protocol import FileSource, Format
from stillstack.sources.records import RecordReader, Records
from stillstack.sources.rosetta import Found, doubts_refused, library, source_of

_KIND: Final = "a Merlin .mib file"
_START: Final = b"MQ1"
_PER_TRIGGER: Final = "Frames per Trigger (Number)"
_PLANNED: Final = "Frames in Acquisition (Number)"
_READERS, _AT_ONCE = 16, 2048


def open_mib(path: str, variable: str | None = None) -> FileSource:  # noqa: ARG001
    """Source for the frames of a .mib file, in the order in which they were recorded.

    Each frame's own time and exposure become coordinates. Where the .hdr says that each trigger
    took several frames, which is how a scan is recorded, a line of it a trigger, ``scan_y`` counts
    triggers and ``scan_x`` the frames of each. A frame at the end that is not whole is left away,
    and said in a note.
    """
    mib = library("quantumdetector")
    with opening(path, _KIND):
        with Path(path).open("rb") as file:
            if file.read(len(_START)) != _START:
                raise ValueError("it does not begin with MQ1, as every frame's header does")
        with doubts_refused():
            frames, headers = mib.load_mib_data(path, lazy=True, return_headers=True)
        n_frames = len(frames)
        if not n_frames:
            raise ValueError("it holds no whole frame")
        settings = _settings(path)
        step, begins = int(frames.strides[0]), _distance(headers, frames)
        # row 0 is stored last
        reader = RecordReader(
            folder=str(Path(path).parent),
            files=(Records(Path(path).name, begins + (frames.shape[1] - 1) * frames.strides[1],
                           n_frames),),
            strides=(step, -int(frames.strides[1]), int(frames.strides[2])),
            shape=(int(frames.shape[1]), int(frames.shape[2])),
            dtype=frames.dtype.str,
        )  # fmt: skip
        coords, attrs = _told(mib, path, n_frames, step, begins)
    coords |= _triggers(settings, n_frames)
    attrs |= {"detector": "Merlin (Medipix3)", **settings}
    return source_of(
        path,
        _KIND,
        Found(reader, n_frames, coords, attrs, _notes(path, settings, coords["time"], step)),
    )


def _distance(headers: NDArray[Any], frames: NDArray[Any]) -> int:
    """Bytes from the beginning of a record, and of the file, to the pixels in it."""
    return int(frames.__array_interface__["data"][0] - headers.__array_interface__["data"][0])


def _settings(path: str) -> dict[str, Any]:
    """What the .hdr beside a .mib says; nothing where there is none."""
    found = (Path(path).with_suffix(suffix) for suffix in (".hdr", ".HDR"))
    beside = next((each for each in found if each.is_file()), None)
    if beside is None:
        return {}
    settings: dict[str, Any] = {}
    for line in beside.read_text(errors="replace").splitlines():
        key, tab, value = line.partition("\t")
        if tab and key.rstrip(":") and plain_scalar(value.strip()):
            settings[key.rstrip(":").strip()] = value.strip()
    return settings


def _number(settings: Mapping[str, Any], key: str) -> int:
    text = str(settings.get(key, "")).strip()
    return int(text) if text.isdigit() else 0


def _triggers(settings: Mapping[str, Any], n_frames: int) -> dict[str, NDArray[Any]]:
    per_trigger = _number(settings, _PER_TRIGGER)
    if not 1 < per_trigger < n_frames:
        return {}
    rows, columns = np.divmod(np.arange(n_frames), per_trigger)
    return {SCAN_Y: rows, SCAN_X: columns}


def _told(
    mib: Any, path: str, n_frames: int, step: int, length: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Times and exposures of frames, as coordinates or, where all are the same, once.

    They are in front of each frame: a short read a frame, several at a time.
    """
    ranges = [range(n, min(n + _AT_ONCE, n_frames)) for n in range(0, n_frames, _AT_ONCE)]
    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(partial(_some_told, mib, path, step, length), ranges))
    times, exposures = (np.concatenate(each) for each in zip(*parts, strict=True))
    coords = {"time": times}
    known = ~np.isnat(times)
    attrs: dict[str, Any] = {"acquired": str(times[known][0])} if known.any() else {}
    if known.any() and (exposures[known] == exposures[known][0]).all():
        attrs["exposure_s"] = float(exposures[known][0])
    else:
        coords["exposure_s"] = exposures
    return coords, attrs


def _some_told(
    mib: Any, path: str, step: int, length: int, numbers: Sequence[int]
) -> tuple[NDArray[np.datetime64], NDArray[np.float64]]:
    """When these frames were taken, and for how many seconds."""
    handle = os.open(path, os.O_RDONLY)
    try:
        # no reading ahead: what follows a header is a frame
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        headers = [os.pread(handle, length, number * step) for number in numbers]
    finally:
        os.close(handle)
    told = [_one_told(mib, header) for header in headers]
    times = np.array([time for time, _ in told], "datetime64[ns]")
    return times, np.array([exposure for _, exposure in told])


def _one_told(mib: Any, header: bytes) -> tuple[str, float]:
    """Time and seconds that a header tells; NaT and NaN where it is damaged."""
    try:
        (time,), (exposure,) = mib.parse_timestamps(header), mib.parse_exposures(header)
        return str(np.datetime64(time.rstrip("Z"))), exposure / 1e3
    except (ValueError, IndexError):
        return "NaT", np.nan


def _notes(
    path: str, settings: Mapping[str, Any], times: NDArray[Any], step: int
) -> tuple[str, ...]:
    notes, n_frames = [], len(times)
    damaged = np.flatnonzero(np.isnat(times))
    if damaged.size:
        notes.append(
            f"The headers of {damaged.size} frames of {path} are damaged, that of frame "
            f"{damaged[0]} is the first: when they were taken is not known."
        )
    rest = Path(path).stat().st_size - n_frames * step
    if rest:
        notes.append(
            f"{path} ends in the middle of a frame: it is cut off, or still being written. The "
            f"{n_frames} whole frames are taken."
        )
    planned = _number(settings, _PLANNED)
    if planned > n_frames:
        notes.append(
            f"The .hdr file says that {planned} frames were to be taken, and there are {n_frames}."
        )
    return tuple(notes)


MIB: Final = Format("Merlin", (".mib",), open_mib)
