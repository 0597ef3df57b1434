"""Frames that lie one after the other, uncompressed, in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.sources.fingerprint import stamp
from stillstack.sources.guard import reading, unreadable


@dataclass(frozen=True)
class RawReader:
    """Reads a range of frames with one contiguous read.

    Parameters
    ----------
    path
        The file.
    offset
        Byte at which frame 0 begins.
    shape
        (y, x) of a frame.
    dtype
        As stored, e.g. ``>u2``.
    """

    path: str
    offset: int
    shape: tuple[int, int]
    dtype: str

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``; a file that ends too early names the first one missing."""
        stored = np.dtype(self.dtype)
        pixels = self.shape[0] * self.shape[1]
        with reading(f"Frames {start} to {stop} of {self.path}"):
            flat = np.fromfile(
                self.path,
                dtype=stored,
                count=(stop - start) * pixels,
                offset=self.offset + start * pixels * stored.itemsize,
            )
        if flat.size < (stop - start) * pixels:
            size = Path(self.path).stat().st_size
            first = start + flat.size // pixels
            end = self.offset + (first + 1) * pixels * stored.itemsize
            raise unreadable(
                f"Frame {first} of {self.path}",
                f"it ends at byte {end}, and the file is cut off after {size} bytes",
            )
        frames = flat.reshape(stop - start, *self.shape)
        return frames.astype(stored.newbyteorder("="), copy=False)

    def narrow(self, start: int, stop: int) -> RawReader:  # noqa: ARG002
        """Itself: it is small whatever the range."""
        return self

    def fingerprint(self) -> str:
        """Where the frames begin, and the file's size and time."""
        return f"{self.offset} {stamp(self.path)}"
