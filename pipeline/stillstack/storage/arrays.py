"""Zarr arrays as this program makes them: codecs with a checksum, names of dimensions, CF fill."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from stillstack.model import AXIS, FRAME
from stillstack.storage.objects import METADATA, Objects
from stillstack.storage.staging import StagingStore

Codec = Literal["zstd", "lz4"]
LEVEL: Final[Mapping[str, int]] = {"zstd": 1, "lz4": 5}
# A bit plane of 16-bit counts is then one block of zstd's own, 128 KiB, and those that are noise
# are stored as they are: against Blosc's own choice of 32 KiB noisy counts take half the time, both
# ways, and 3 % fewer bytes. For lz4 it makes no difference.
BLOSC_BLOCK: Final[Mapping[str, int]] = {"zstd": 2 * 2**20, "lz4": 0}
FRAMES_PER_TABLE_CHUNK: Final = 1_000_000
PYRAMID: Final = "pyramid"
"""Group, in that of a run, of the smaller levels of its images."""


def compressors(dtype: np.dtype[Any], codec: Codec = "zstd") -> tuple[BytesBytesCodec, ...]:
    """Blosc on shuffled values, then crc32c: Blosc alone decodes most damaged chunks silently."""
    # Interpolated float32 is 13 % smaller with bytes shuffled than with bits, in the same time.
    shuffles = {"f": BloscShuffle.shuffle, "c": BloscShuffle.shuffle, "S": BloscShuffle.noshuffle}
    blosc = BloscCodec(
        typesize=dtype.itemsize,
        cname=codec,
        clevel=LEVEL[codec],
        shuffle=shuffles.get(dtype.kind, BloscShuffle.bitshuffle),
        blocksize=BLOSC_BLOCK[codec],
    )
    return (blosc, Crc32cCodec())


def make_array(
    store: StagingStore,
    name: str,
    shape: Sequence[int],
    dtype: np.dtype[Any] | type[str],
    *,
    dims: Sequence[str],
    chunks: Sequence[int],
    **options: Any,
) -> zarr.Array[Any]:
    """Array of a group, metadata only.

    Parameters
    ----------
    store
        Where it is staged.
    name, shape, dtype, dims, chunks
        What it is.
    **options
        ``codec``, ``shards``, ``fill`` and ``attrs``.
    """
    itemtype = np.dtype("S1") if dtype is str else np.dtype(dtype)
    fill = options.get("fill")
    return zarr.create_array(
        store=store,
        name=name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(chunks),
        shards=options.get("shards"),
        compressors=compressors(itemtype, options.get("codec", "zstd")),
        fill_value=("" if dtype is str else itemtype.type(0)) if fill is None else fill,
        attributes=plain_json(options.get("attrs", {})),
        dimension_names=list(dims),
        zarr_format=3,
        config={"write_empty_chunks": True},
    )


def write_array(
    store: StagingStore,
    name: str,
    values: NDArray[Any],
    *,
    dims: Sequence[str],
    attrs: Mapping[str, Any],
    fill: Any = None,
) -> None:
    """Small array with its values, in one chunk up to a million frames; or images, one in each."""
    dtype: Any = str if values.dtype.kind == "U" else values.dtype
    rows = 1 if values.ndim > 2 else min(values.shape[0], FRAMES_PER_TABLE_CHUNK)
    chunks = (rows, *values.shape[1:])
    array = make_array(
        store, name, values.shape, dtype, dims=dims, chunks=chunks, attrs=attrs, fill=fill
    )
    array[...] = values


def open_writable(store: StagingStore, name: str) -> zarr.Array[Any]:
    """Existing array, to be written whole chunks at a time.

    Empty chunks are written too: otherwise Zarr leaves them out, and a chunk that is not there
    could mean anything.
    """
    array = zarr.open_array(store=store, path=name, mode="r+", zarr_format=3)
    config = {"order": "C", "write_empty_chunks": True}
    # Array.with_config came after zarr 3.1.3.
    written = zarr.AsyncArray(array.metadata, array.store_path, config)  # type: ignore[call-overload]
    return zarr.Array(written)


def write_frame_coordinates(
    store: StagingStore, coords: Mapping[str, NDArray[Any]], taken: Sequence[str]
) -> tuple[str, ...]:
    """Write per-frame coordinates, times and strings included; the names they got.

    One whose name is ``taken`` gets ``source_`` in front.
    """
    names = []
    for coordinate, given in coords.items():
        name = f"source_{coordinate}" if coordinate in taken else str(coordinate)
        values = np.asarray(given)
        write_coordinate(store, name, values, dims=(FRAME, AXIS)[: values.ndim])
        names.append(name)
    return tuple(names)


def write_coordinate(
    store: StagingStore,
    name: str,
    values: NDArray[Any],
    *,
    dims: Sequence[str],
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Write a coordinate, times and strings included."""
    if values.dtype.kind == "O":
        values = values.astype(str)
    if values.dtype.kind == "T":  # NumPy's variable-length strings
        values = values.astype(np.str_)
    variable = xr.Variable(dims, values, attrs)
    if values.dtype.kind in "mM":
        variable = xr.conventions.encode_cf_variable(variable)
    write_array(store, name, np.asarray(variable.values), dims=dims, attrs=variable.attrs)


def coordinates_attribute(names: Sequence[str]) -> dict[str, str]:
    """CF attribute that makes readers treat these variables as coordinates."""
    named = [name for name in names if name != FRAME and not any(c.isspace() for c in name)]
    return {"coordinates": " ".join(named)} if named else {}


def cf_fill(dtype: np.dtype[Any], fill: float) -> dict[str, Any]:
    """Attribute ``_FillValue`` as xarray encodes it in Zarr v3: base64 for floating point."""
    if dtype.kind == "f":
        return {"_FillValue": base64.b64encode(struct.pack("<d", fill)).decode("ascii")}
    return {"_FillValue": int(fill)}


def plain_json(value: Any) -> Any:
    """Value that every JSON reader takes: no NumPy types or tuples, null for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain_json(value.tolist())
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def group_metadata(
    attributes: Mapping[str, Any], members: Mapping[str, Any] | None = None
) -> bytes:
    """Metadata of a group, consolidated where its members' are given."""
    group: dict[str, Any] = {"attributes": plain_json(attributes), "zarr_format": 3}
    if members is not None:
        group["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": {name: members[name] for name in sorted(members)},
        }
    group["node_type"] = "group"
    return json.dumps(group, indent=2, allow_nan=False).encode()


def member_metadata(objects: Objects) -> dict[str, Any]:
    """Metadata of each array in a group and of the smaller levels of images, by name."""
    members: dict[str, Any] = {}
    for name in (*objects.names(), *(f"{PYRAMID}/{name}" for name in objects.names(PYRAMID))):
        text = objects.read(f"{name}/{METADATA}")
        metadata = json.loads(text) if text is not None else {}
        if metadata.get("node_type") == "array" or (metadata and name == PYRAMID):
            members[name] = metadata
    return members
