"""NumPy's .npy files, by path: a memory map in a graph would carry all the data with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.scan import scan_coordinates
from stillstack.sources.fingerprint import stamp
from stillstack.sources.folding import boxes
from stillstack.sources.guard import opening, read_or_name
from stillstack.sources.protocol import FileSource, Format, FrameReader
from stillstack.sources.raw import RawReader

MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class FortranReader:
    """Reads frames of an array stored in Fortran order, pixels of one frame far apart."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``, gathered through a memory map opened here."""
        return read_or_name(self._gather, start, stop, self.path)

    def _gather(self, start: int, stop: int) -> NDArray[Any]:
        stored = np.dtype(self.dtype)
        mapped = np.memmap(
            self.path, stored, mode="r", offset=self.offset, shape=self.shape, order="F"
        )
        native = stored.newbyteorder("=")
        parts = [
            np.array(mapped[box], dtype=native, order="C").reshape(-1, *self.shape[-2:])
            for box in boxes(start, stop, self.shape[:-2])
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts)

    def narrow(self, start: int, stop: int) -> FortranReader:  # noqa: ARG002
        """Itself: it is small whatever the range."""
        return self

    def fingerprint(self) -> str:
        """Where the pixels begin, and the file's size and time."""
        return f"{self.offset} {stamp(self.path)}"


def read_header(path: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype and offset of the data of a .npy file."""
    with Path(path).open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"version {version} of the format is for structured data")
        shape, fortran, dtype = read(file)
        return shape, fortran, dtype, file.tell()


def open_npy(path: str, variable: str | None = None) -> FileSource:  # noqa: ARG001
    """Source for a .npy file of shape (frame, y, x), of a scan (row, column, y, x), or (y, x)."""
    with opening(path, "an .npy file"):
        shape, fortran, dtype, offset = read_header(path)
    if len(shape) not in (2, 3, 4):
        raise InputError(
            f"{path} holds an array of shape {shape}: a stack has the dimensions frame, y, x, and "
            "a scan row, column, y, x.",
            cure="Save one with three dimensions: array.reshape(-1, *array.shape[-2:]).",
        )
    *leading, height, width = shape
    reader: FrameReader
    if fortran:
        reader = FortranReader(path, offset, tuple(shape if leading else (1, *shape)), dtype.str)
    else:
        reader = RawReader(path, offset, (height, width), dtype.str)
    return FileSource(
        name=Path(path).name,
        path=path,
        shape=(math.prod(leading), height, width),
        dtype=dtype.newbyteorder("="),
        chunk_frames=1,
        reader=reader,
        coords=scan_coordinates((leading[0], leading[1])) if len(leading) == 2 else {},
        attrs={"source_format": "npy"},
    )


def _recognises(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


NPY = Format("NumPy array", (".npy",), open_npy, recognises=_recognises)
