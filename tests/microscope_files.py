"""Files of electron microscopes, written byte by byte as their formats are published."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[Any]

MIB_BEGAN = np.datetime64("2026-01-31T02:00:00.250000000")
MIB_STEP_NS = 1_500_000


def write_mib(
    path: Path,
    frames: Frames,
    *,
    exposures_ns: Sequence[int] | None = None,
    hdr: str | None = None,
    chips: Literal[1, 4] = 1,
) -> Path:
    """384 bytes of text, of four chips 768, in front of each big-endian frame, last row first."""
    height, width = frames.shape[1:]
    kind = {1: "U08", 2: "U16", 4: "U32"}[frames.dtype.itemsize]
    length, layout = {1: (384, "1x1"), 4: (768, "2x2")}[chips]
    with path.open("wb") as file:
        for number, frame in enumerate(frames):
            taken = MIB_BEGAN + np.timedelta64(number * MIB_STEP_NS, "ns")
            exposure = 1_000_000 if exposures_ns is None else exposures_ns[number]
            text = (
                f"MQ1,{number + 1:06d},{length:05d},{chips:02d},{width:04d},{height:04d},{kind},"
                f"   {layout},01,"
                f"{str(taken).replace('T', ' ')[:26]},{exposure / 1e9:.6f},0,0,0,"
                "1.200000E+1,5.110000E+2,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,"
                f"0.000000E+0,0.000000E+0,3RX,175,511,000,000,000,000,000,000,MQ1A,{taken}Z,"
                f"{exposure}ns,12,"
            )
            assert len(text) <= length
            file.write(text.encode().ljust(length, b"\0"))
            file.write(frame[::-1].astype(frame.dtype.newbyteorder(">")).tobytes())
    if hdr is not None:
        path.with_suffix(".hdr").write_text(hdr)
    return path


HDR = (
    "HDR,\t\nTime and Date Stamp (day, mnth, yr, hr, min, s):\t31/01/2026 02:00:00\n"
    "Chip ID:\tW529_F5,-,-,-\nFrames in Acquisition (Number):\t{n_frames}\n"
    "Frames per Trigger (Number):\t{per_trigger}\nBias Voltage (V):\t120\nEnd\t\n"
)


def write_mrc(path: Path, frames: Frames) -> Path:
    with mrcfile.new(path) as file:
        file.set_data(frames)
        file.voxel_size = 20.0  # Angstrom
    return path


def write_big_endian_mrc(path: Path, frames: Frames) -> Path:
    """Header of 1024 bytes, the machine stamp that says big-endian, sections."""
    header = bytearray(1024)
    n_frames, height, width = frames.shape
    struct.pack_into(">10i", header, 0, width, height, n_frames, 6, 0, 0, 0, width, height, 1)
    struct.pack_into(">3f", header, 40, 20.0 * width, 20.0 * height, 1.0)
    struct.pack_into(">3i", header, 64, 1, 2, 3)
    header[208:212], header[212:216] = b"MAP ", b"\x11\x11\0\0"
    path.write_bytes(bytes(header) + frames.astype(">u2").tobytes())
    return path


def write_empad(path: Path, frames: Frames, scan: tuple[int, int] | None = None) -> Path:
    """An .xml, and the .raw that it names: float32 frames of 128 rows and two of housekeeping."""
    raw = path.with_suffix(".raw")
    records = np.full((len(frames), 130, 128), -7.0, "<f4")
    records[:, :128] = frames
    records.tofile(raw)
    if scan is None:
        what = f"<scan_parameters><series_count>{len(frames)}</series_count></scan_parameters>"
    else:
        what = f"<pix_x>{scan[1]}</pix_x><pix_y>{scan[0]}</pix_y>"
    path.write_text(
        f'<?xml version="1.0"?><root><raw_file filename="{raw.name}"/>{what}'
        '<timestamp isoformat="2026-01-31T02:00:00"/>'
        "<iom_measurements><calibrated_pixelsize>2e7</calibrated_pixelsize></iom_measurements>"
        "</root>"
    )
    return path


def write_blo(path: Path, frames: Frames, scan: tuple[int, int]) -> Path:
    """Header of 240 bytes and a note, an overview image, six bytes in front of each frame."""
    n_y, n_x = scan
    side, note = frames.shape[1], b"chromium film"
    first = 4096
    second = first + n_y * n_x
    header = struct.pack(
        "<6sHIIIHHHHHddIHId", b"IMGBLO", 0x0102, first, second, 131141, side, 0, n_x, n_y, 0,
        4.0, 5.0, 80_000, 100, 2_000, 45_000.0,
    )  # fmt: skip
    with path.open("wb") as file:
        file.write((header.ljust(240, b"\0") + note).ljust(first, b"\0"))
        file.write(bytes(n_y * n_x))
        for number, frame in enumerate(frames):
            file.write(b"\xaa\x55" + struct.pack("<I", number) + frame.astype("u1").tobytes())
    return path


def write_rpl(path: Path, frames: Frames, *, order: Literal["<", ">"] = ">") -> Path:
    """A text of keys and values, and a .raw of nothing but pixels."""
    n_frames, height, width = frames.shape
    stored = frames.astype(frames.dtype.newbyteorder(order))
    stored.tofile(path.with_suffix(".raw"))
    endian = {"<": "little-endian", ">": "big-endian"}[order]
    rows = {
        "key": "value", "width": width, "height": height, "depth": n_frames, "offset": 0,
        "data-length": stored.dtype.itemsize, "data-type": "unsigned", "byte-order": endian,
        "record-by": "image", "ev-per-chan": 1,
    }  # fmt: skip
    path.write_text("".join(f"{key}\t{value}\n" for key, value in rows.items()))
    return path


TVIPS_BEGAN = 1_769_824_800  # 2026-01-31T02:00:00


def write_tvips(path: Path, parts: Sequence[Frames]) -> Path:
    """A general header in the first file, one in front of each frame; files are numbered."""
    height, width = parts[0].shape[1:]
    extra = 8
    frame_header = struct.Struct("<IIIIfIIfffffIff")
    general = struct.pack(
        "<13I", 256, 2, width, height, 16, 0, 0, 1, 1, 31, 200, 400, frame_header.size + extra
    ).ljust(256, b"\0")  # fmt: skip
    number = 0
    for place, frames in enumerate(parts):
        with path.with_name(f"{path.name}_{place:03d}.tvips").open("wb") as file:
            file.write(general if place == 0 else b"")
            for frame in frames:
                seconds, rest = divmod(number * 40, 1000)
                file.write(frame_header.pack(
                    number, TVIPS_BEGAN + seconds, rest, 0, 0.0, 400, 2, 0, 0, 0, 1.5, 0, number,
                    0.0, 0.0,
                ))  # fmt: skip
                file.write(bytes(extra) + frame.astype("<u2").tobytes())
                number += 1
    return path.with_name(f"{path.name}_000.tvips")


def write_ser(path: Path, frames: Frames, *, gaps: Sequence[int] | None = None) -> Path:
    """TIA series of version 0x220: images, last row first, with a tag for the time of each."""
    n_frames, height, width = frames.shape
    kind = {"uint8": 1, "uint16": 2, "uint32": 3, "int32": 6, "float32": 7}[frames.dtype.name]
    body, offsets, tags = b"", [], []
    start = 30 + 36
    for number, frame in enumerate(frames):
        body += bytes(gaps[number]) if gaps else b""
        offsets.append(start + len(body))
        body += struct.pack("<ddi", 0.0, 2e-10, 0) * 2
        body += struct.pack("<hii", kind, width, height) + frame[::-1].tobytes()
        tags.append(start + len(body))
        body += struct.pack("<ii", 0x4152, TVIPS_BEGAN + number)
    head = struct.pack("<hhhiiii", 0x4949, 0x0197, 0x0220, 0x4122, 0x4152, n_frames, n_frames)
    head += struct.pack("<qi", start + len(body), 1)
    head += struct.pack("<iddii", n_frames, 0.0, 1.0, 0, 0) + struct.pack("<i", 0)
    head = head.ljust(start, b"\0")
    path.write_bytes(head + body + struct.pack(f"<{2 * n_frames}q", *offsets, *tags))
    return path


class _Text(str):
    """Text in a DM file: an array of two-byte letters."""

    __slots__ = ()


def write_dm(
    path: Path,
    images: Sequence[Frames],
    *,
    version: int = 4,
    scales: Sequence[tuple[float, str]] = (),
    tags: Mapping[str, Any] | None = None,
) -> Path:
    """DM3 or DM4: a tree of tags, big-endian, whose values are little-endian.

    The first image is a thumbnail, as in files of DigitalMicrograph.
    """
    thumbnail = np.zeros((4, 4), "int32")
    entries = [_dm_image(each, scales, tags or {}) for each in (thumbnail, *images)]
    tree = {
        "ImageList": entries,
        "Thumbnails": [{"ImageIndex": np.uint32(0)}],
    }
    long = ">q" if version == 4 else ">i"
    body = _dm_group(tree, version)
    head = struct.pack(">i", version) + struct.pack(long, len(body)) + struct.pack(">i", 1)
    path.write_bytes(head + body + bytes(8))
    return path


_DM_ARRAYS = {"int16": 1, "float32": 2, "uint8": 6, "int32": 7, "int8": 9, "uint16": 10,
              "uint32": 11, "float64": 12}  # fmt: skip
_DM_TYPES = {"int16": 2, "int32": 3, "uint16": 4, "uint32": 5, "float32": 6, "float64": 7,
             "int8": 10, "uint8": 9}  # fmt: skip


def _dm_image(
    pixels: Frames, scales: Sequence[tuple[float, str]], tags: Mapping[str, Any]
) -> dict[str, Any]:
    each = [*scales][: pixels.ndim] if len(scales) >= pixels.ndim else [(1.0, "")] * pixels.ndim
    dimension = [
        {"Origin": np.float32(0), "Scale": np.float32(s), "Units": _Text(u)} for s, u in each
    ]
    return {
        "ImageData": {
            "Calibrations": {
                "Brightness": {
                    "Origin": np.float32(0), "Scale": np.float32(1), "Units": _Text("e-")
                },
                "Dimension": dimension[::-1],
            },
            "Data": pixels.ravel(),
            "DataType": np.uint32(_DM_ARRAYS[pixels.dtype.name]),
            "Dimensions": [np.uint32(length) for length in pixels.shape[::-1]],
            "PixelDepth": np.uint32(pixels.dtype.itemsize),
        },
        "ImageTags": dict(tags),
        "Name": _Text("drifting"),
    }  # fmt: skip


def _dm_group(tree: Mapping[str, Any] | Sequence[Any], version: int) -> bytes:
    items: list[tuple[str, Any]] = (
        list(tree.items()) if isinstance(tree, Mapping) else [("", each) for each in tree]
    )
    count = struct.pack(">q" if version == 4 else ">i", len(items))
    return b"\1\0" + count + b"".join(_dm_tag(name, value, version) for name, value in items)


def _dm_tag(name: str, value: Any, version: int) -> bytes:
    if isinstance(value, Mapping | list):
        kind, content = 20, _dm_group(value, version)
    else:
        kind, content = 21, _dm_value(value, version)
    letters = name.encode("latin1")
    size = struct.pack(">q", len(content)) if version == 4 else b""
    return struct.pack(">BH", kind, len(letters)) + letters + size + content


def _dm_value(value: Any, version: int) -> bytes:
    word = ">q" if version == 4 else ">i"
    if isinstance(value, str):
        value = np.frombuffer(value.encode("utf-16-le"), "<u2")
    if isinstance(value, np.ndarray):
        info = [20, _DM_TYPES[value.dtype.name], value.size]
    else:
        value = np.asarray(value)
        info = [_DM_TYPES[value.dtype.name]]
    words = b"".join(struct.pack(word, each) for each in (len(info), *info))
    pixels: bytes = value.astype(value.dtype.newbyteorder("<")).tobytes()
    return b"%%%%" + words + pixels


Writer = Callable[[Path, Frames], Path | str]
