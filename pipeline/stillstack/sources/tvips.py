"""TVIPS cameras: .tvips, a recording over one or several files."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.sources.guard import opening
from stillstack.sources.protocol import FileSource, Format
from stillstack.sources.records import RecordReader, Records

_KIND: Final = "a TVIPS recording"
_GENERAL: Final = struct.Struct("<13I")
_SHORT_HEADER: Final = 12  # bytes in front of a frame: number, seconds since 1970, milliseconds
_STAMP: Final = struct.Struct("<III")
_FIRST: Final = "_000"
_WORDS: Final = {8: "u1", 16: "<u2"}


@dataclass(frozen=True)
class Recording:
    """What the header of the first file says of all frames."""

    begins: int
    before: int
    shape: tuple[int, int]
    dtype: str
    attrs: dict[str, Any]

    @property
    def step(self) -> int:
        """Bytes from one frame to the next."""
        return self.before + self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize


def open_tvips(path: str, variable: str | None = None) -> FileSource:  # noqa: ARG001
    """Source for a recording, of which the first file (``NAME_000.tvips``) is named.

    The time in front of each frame becomes the coordinate ``time``, in UTC. A frame at the end that
    is not whole is left away, and said in a note.
    """
    first = Path(path)
    if not first.stem.endswith(_FIRST):
        raise InputError(
            f"{path} is not called NAME_000.tvips, as the first file of a recording is.",
            consequence="Only the first file says what the frames are.",
            cure="Name that one; the others are found beside it.",
        )
    with opening(path, _KIND):
        recording = _recording(first)
        files, notes = _files(first, recording)
        reader = RecordReader(
            folder=str(first.parent),
            files=files,
            strides=(
                recording.step,
                recording.shape[1] * np.dtype(recording.dtype).itemsize,
                np.dtype(recording.dtype).itemsize,
            ),
            shape=recording.shape,
            dtype=recording.dtype,
        )
        n_frames = sum(records.n_frames for records in files)
        if not n_frames:
            raise ValueError("it holds no whole frame")
        time = _times(reader, recording.before)
    return FileSource(
        name=first.name,
        path=path,
        shape=(n_frames, *recording.shape),
        dtype=np.dtype(recording.dtype).newbyteorder("="),
        chunk_frames=1,
        reader=reader,
        coords={"time": time},
        attrs={**recording.attrs, "source_format": "TVIPS"},
        notes=notes,
    )


def _recording(path: Path) -> Recording:
    with path.open("rb") as file:
        start = file.read(_GENERAL.size)
    if len(start) < _GENERAL.size:
        raise ValueError(f"it has {len(start)} bytes")
    size, version, width, height, bits, _, _, *more = _GENERAL.unpack(start)
    bin_x, bin_y, pixel, voltage, magnification, before = more
    if version not in (1, 2) or bits not in _WORDS or not 1 <= width * height <= 2**32:
        raise ValueError(
            f"its header speaks of version {version}, {height} x {width} pixels of {bits} bits"
        )
    if version == 1:
        before = _SHORT_HEADER
    if before < _SHORT_HEADER or size < _GENERAL.size:
        raise ValueError(f"its header is to have {size} bytes, and that of a frame {before}")
    attrs = {
        "pixel_size": pixel,
        "pixel_size_units": "nm",
        "voltage_kv": voltage,
        "magnification": magnification,
        "binning": [bin_y, bin_x],
        "detector": "TVIPS",
    }
    known = {name: value for name, value in attrs.items() if value}
    if "pixel_size" not in known:
        known.pop("pixel_size_units")
    return Recording(size, before, (height, width), _WORDS[bits], known)


def _files(first: Path, recording: Recording) -> tuple[tuple[Records, ...], tuple[str, ...]]:
    """Where the frames of each file begin; notes about those that end within a frame."""
    found: list[Records] = []
    notes: list[str] = []
    stem = first.stem.removesuffix(_FIRST)
    for number in count():
        path = first.with_name(f"{stem}_{number:03d}{first.suffix}")
        if not path.is_file():
            return tuple(found), tuple(notes)
        skipped = recording.begins if number == 0 else 0
        n_frames, rest = divmod(path.stat().st_size - skipped, recording.step)
        if rest:
            notes.append(
                f"{path} ends in the middle of a frame: it is cut off, or still being written. Its "
                f"{n_frames} whole frames are taken."
            )
        found.append(Records(path.name, skipped + recording.before, max(0, n_frames)))
    raise AssertionError


def _times(reader: RecordReader, before: int) -> NDArray[np.datetime64]:
    """When each frame was taken, from the header in front of it."""
    times = []
    for records in reader.files:
        with Path(reader.folder, records.name).open("rb", buffering=0) as file:
            for number in range(records.n_frames):
                file.seek(records.offset - before + number * reader.strides[0])
                _, seconds, milliseconds = _STAMP.unpack(file.read(_STAMP.size))
                times.append(1000 * seconds + milliseconds)
    return np.array(times, "datetime64[ms]").astype("datetime64[ns]")


TVIPS: Final = Format("TVIPS", (".tvips",), open_tvips)
