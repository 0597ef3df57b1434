"""The chain of pages in a TIFF file, walked without reading what is on them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_CLASSIC, _BIG = 42, 43


def page_offsets(path: str) -> tuple[list[int], bool]:
    """Byte at which each page's directory begins, and whether the chain is whole.

    A file that was cut off, or that is still being written, has a chain that leads out of it: the
    pages so far are returned, and False. Walking costs two short reads a page; the structure is
    that of the TIFF 6.0 specification, section 2, and of BigTIFF.

    Raises
    ------
    ValueError
        When the file does not begin as a TIFF does.
    """
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        order, offset, count_code, entry_bytes, next_code = _read_start(file)
        count_bytes = struct.calcsize(count_code)
        offsets: list[int] = []
        seen: set[int] = set()
        while offset:
            if offset in seen or offset + count_bytes > size:
                return offsets, False
            seen.add(offset)
            file.seek(offset)
            (n_entries,) = struct.unpack(order + count_code, file.read(count_bytes))
            end = offset + count_bytes + n_entries * entry_bytes
            file.seek(end)
            following = file.read(struct.calcsize(next_code))
            if end + len(following) > size or len(following) < struct.calcsize(next_code):
                return offsets, False
            offsets.append(offset)
            (offset,) = struct.unpack(order + next_code, following)
    return offsets, True


def _read_start(file: BinaryIO) -> tuple[str, int, str, int, str]:
    """Byte order, first directory, and how its count, entries and successor are stored."""
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
        raise ValueError("it does not begin as a TIFF does")
    (version,) = struct.unpack(order + "H", start[2:4])
    if version == _CLASSIC:
        (offset,) = struct.unpack(order + "I", start[4:8])
        return order, offset, "H", 12, "I"
    if version == _BIG and len(start) == 16:
        (offset,) = struct.unpack(order + "Q", start[8:16])
        return order, offset, "Q", 20, "Q"
    raise ValueError(f"it is of the unknown TIFF version {version}")
