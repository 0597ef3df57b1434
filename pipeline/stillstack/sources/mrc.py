"""MRC files, of either byte order."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from stillstack.sources.guard import opening
from stillstack.sources.protocol import FileSource, Format
from stillstack.sources.rosetta import doubts_refused, found_in, library, source_of

_KIND: Final = "an MRC file"
_HEADER: Final = 1024
_BIG_ENDIAN: Final = b"\x11\x11"
_BYTES: Final = 0
_MODES: Final = (0, 1, 2, 3, 4, 6, 12, 16, 101)


def open_mrc(path: str, variable: str | None = None) -> FileSource:  # noqa: ARG001
    """Source for the sections of an MRC file.

    Bytes (mode 0) are signed where the file follows the standard of 2014, or IMOD says so, and
    unsigned in older files.
    """
    mrc = library("mrc")
    with opening(path, _KIND):
        with Path(path).open("rb") as file:
            header = file.read(_HEADER)
        order = _byte_order(header)
        with doubts_refused():
            signal = mrc.file_reader(path, lazy=True, endianness=order, chunks=-1)[0]
        found = found_in(signal, path)
        stored = np.dtype(found.reader.dtype)
        if stored.itemsize == 1:  # which sign the library gives them depends on its version
            stored = np.dtype("i1" if _signed(header, order) else "u1")
        reader = replace(found.reader, dtype=stored.newbyteorder(order).str)
        attrs = {**found.attrs, **_exposure(signal)}
    return source_of(path, _KIND, replace(found, reader=reader, attrs=attrs))


def _byte_order(header: bytes) -> Literal["<", ">"]:
    """Byte order of a file; ValueError where its beginning is none of an MRC file."""
    if len(header) < _HEADER:
        raise ValueError(f"it has {len(header)} bytes, and a header {_HEADER}")
    order: Literal["<", ">"] = ">" if header[212:214] == _BIG_ENDIAN else "<"
    columns, rows, sections, mode = struct.unpack(f"{order}4i", header[:16])
    if min(columns, rows, sections) < 1 or mode not in _MODES:
        raise ValueError(
            f"its header speaks of {sections} sections of {rows} x {columns} pixels in mode {mode}"
        )
    return order


def _signed(header: bytes, order: str) -> bool:
    """Whether bytes are signed: by IMOD's flag where IMOD wrote it, else by the standard's year."""
    (imod,) = struct.unpack(f"{order}i", header[152:156])
    if imod == 1146047817:  # "IMOD"
        return bool(struct.unpack(f"{order}i", header[156:160])[0] & 1)
    (version,) = struct.unpack(f"{order}i", header[108:112])
    return bool(20140 <= version < 30000)


def _exposure(signal: dict[str, Any]) -> dict[str, Any]:
    """Exposure of FEI's extended header, where all sections have the same."""
    fei = signal["original_metadata"].get("fei_header")
    times = np.atleast_1d(fei["exp_time"]) if fei else np.zeros(1)
    return {"exposure_s": float(times[0])} if times[0] > 0 else {}


MRC: Final = Format("MRC", (".mrc", ".mrcs", ".ali"), open_mrc)
