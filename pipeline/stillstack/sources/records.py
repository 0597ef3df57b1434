"""Frames at regular places of binary files, whatever lies between them and however they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.sources.fingerprint import digest, stamp
from stillstack.sources.guard import read_or_name, reading, unreadable

_PIECE_BYTES: Final = 8 * 2**20


@dataclass(frozen=True)
class Records:
    """Frames in one file.

    Parameters
    ----------
    name
        Of the file, relative to the reader's folder.
    offset
        Byte at which pixel (0, 0) of the first one begins.
    n_frames
        How many there are.
    """

    name: str
    offset: int
    n_frames: int


@dataclass(frozen=True)
class RecordReader:
    """Reads a range of frames with one contiguous read of each file that holds a part of it.

    Parameters
    ----------
    folder
        What the names of files are relative to.
    files
        In the order of their frames.
    strides
        Bytes from one frame, row and column to the next. Those of rows and columns are negative
        where the file counts from the other side.
    shape
        (y, x) of a frame.
    dtype
        As stored, e.g. ``>u2``.
    first
        Number of the frame with which the first file begins.
    """

    folder: str
    files: tuple[Records, ...]
    strides: tuple[int, int, int]
    shape: tuple[int, int]
    dtype: str
    first: int = 0

    @property
    def span(self) -> tuple[int, int]:
        """Bytes of one frame that lie before its pixel (0, 0), and all of them."""
        ends = [
            (length - 1) * step for length, step in zip(self.shape, self.strides[1:], strict=True)
        ]
        before = -sum(end for end in ends if end < 0)
        after = sum(end for end in ends if end > 0)
        return before, before + after + np.dtype(self.dtype).itemsize

    @property
    def interleaved(self) -> bool:
        """Whether pixels of other frames lie between those of one."""
        return self.strides[0] < self.span[1]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``; the first one that is cut off is named."""
        parts = [
            self._read_part(records, first, begin, end)
            for records, first, begin, end in self._parts(start, stop)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def narrow(self, start: int, stop: int) -> RecordReader:
        """Return a reader that knows only the files of these frames."""
        parts = list(self._parts(start, stop))
        files = tuple(records for records, *_ in parts)
        return replace(self, files=files, first=parts[0][1])

    def fingerprint(self) -> str:
        """Digest of where frames lie, and of the files' names, sizes and times."""
        names = {file.name for file in self.files}
        # the name of a lone file is no part of it, as for other formats
        stamps = [f"{name if len(names) > 1 else ''} {stamp(Path(self.folder, name))}"
                  for name in sorted(names)]  # fmt: skip
        stamps += [f"{file.offset} {file.n_frames}" for file in self.files]
        return digest([str(self.strides), self.dtype, *stamps])

    def _parts(self, start: int, stop: int) -> Iterator[tuple[Records, int, int, int]]:
        """Files that hold frames of a range: each with its first frame, and the range within."""
        first = self.first
        for records in self.files:
            begin, end = max(start, first), min(stop, first + records.n_frames)
            if begin < end:
                yield records, first, begin - first, end - first
            first += records.n_frames

    def _read_part(self, records: Records, first: int, start: int, stop: int) -> NDArray[Any]:
        path = str(Path(self.folder, records.name))
        if self.interleaved:

            def gather(start: int, stop: int) -> NDArray[Any]:
                return self._gather(path, records, start, stop)

            return read_or_name(gather, start, stop, path)
        stored = np.dtype(self.dtype)
        native = stored.newbyteorder("=")
        if self._contiguous and stored == native:
            return self._found(path, records, first, start, stop)
        # a few frames at a time: there is no second copy of the whole block
        frames = np.empty((stop - start, *self.shape), native)
        few = max(1, _PIECE_BYTES // self.strides[0])
        for begin in range(start, stop, few):
            end = min(begin + few, stop)
            frames[begin - start : end - start] = self._found(path, records, first, begin, end)
        return frames

    @property
    def _contiguous(self) -> bool:
        size = np.dtype(self.dtype).itemsize
        height, width = self.shape
        return self.strides == (height * width * size, width * size, size)

    def _found(
        self, path: str, records: Records, first: int, start: int, stop: int
    ) -> NDArray[Any]:
        """Frames of one file as they are stored, read in one go."""
        before, n_bytes = self.span
        begin = records.offset - before + start * self.strides[0]
        whole = (stop - start - 1) * self.strides[0] + n_bytes
        with reading(f"Frames {first + start} to {first + stop} of {path}"):
            found = np.fromfile(path, np.uint8, whole, offset=begin)
        if found.size < whole:
            intact = max(0, (found.size - n_bytes) // self.strides[0] + 1)
            lost = start + intact
            end = begin + intact * self.strides[0] + n_bytes
            raise unreadable(
                f"Frame {first + lost} of {path}",
                f"it ends at byte {end}, and the file is cut off after "
                f"{Path(path).stat().st_size} bytes",
            )
        return self._view(found, before, stop - start)

    def _gather(self, path: str, records: Records, start: int, stop: int) -> NDArray[Any]:
        mapped = np.memmap(path, np.uint8, mode="r")
        before, n_bytes = self.span
        begin = records.offset + start * self.strides[0]
        if begin + (stop - start - 1) * self.strides[0] + n_bytes - before > mapped.size:
            raise ValueError(f"the file is cut off after {mapped.size} bytes")
        return np.array(
            self._view(mapped, begin, stop - start),
            np.dtype(self.dtype).newbyteorder("="),
            order="C",
        )

    def _view(self, found: NDArray[np.uint8], offset: int, n_frames: int) -> NDArray[Any]:
        return np.ndarray(
            (n_frames, *self.shape), np.dtype(self.dtype), found.data, offset, self.strides
        )
