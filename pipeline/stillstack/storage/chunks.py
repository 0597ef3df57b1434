"""Chunks of whole frames under Blosc, coded and decoded in place, without Zarr's machinery.

Zarr passes each chunk through an event loop, threads and several fresh buffers, which costs about
as much as lz4 itself. Here a chunk is decoded straight to where its frames belong, and encoded on
its way to the file. The bytes are Zarr's, to which the tests hold them; an array of any other kind
is none of this module's business (`plain_chunks` is None), and is left to Zarr.
"""

from __future__ import annotations

import struct
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.storage import LocalStore

from stillstack.storage.cloud_store import CloudStore

_SHUFFLES: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_BLOSC_HEADER: Final = struct.Struct(
    "<4xI4xI"
)  # version and flags, bytes decoded, block size, bytes encoded
_CHECKSUM_BYTES: Final = 4
_KEPT_BYTES: Final = 32 * 2**20
_KINDS: Final = "uif"
_KEPT: Final = threading.local()


@dataclass(frozen=True, eq=False)
class PlainChunks:
    """Chunks of an array that hold whole frames, under Blosc alone or with a crc32c.

    Parameters
    ----------
    array
        The array, for its shape and the names of its chunks.
    folder
        Where it lies; None in an object store, from which Zarr reads.
    blosc
        Its compressor.
    checksum
        Whether a crc32c follows the compressed bytes.
    """

    array: zarr.Array[Any]
    folder: Path | None
    blosc: Blosc
    checksum: bool

    @property
    def chunk_frames(self) -> int:
        """Frames in a chunk."""
        return int(self.array.chunks[0])

    def key(self, chunk: int) -> str:
        """Where a chunk lies in the folder of the array."""
        return str(self.array.metadata.encode_chunk_key((chunk, *[0] * (self.array.ndim - 1))))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``; a chunk that is not there is all fill value.

        Raises
        ------
        ValueError, RuntimeError
            A chunk's checksum or length is wrong, or Blosc cannot decode it.
        """
        step, shape = self.chunk_frames, self.array.shape[1:]
        frames = np.empty((stop - start, *shape), self.array.dtype)
        for chunk in range(start // step, -(-stop // step)):
            first = chunk * step
            low, high = max(start, first), min(stop, first + step)
            place = frames[low - start : high - start]
            if high - low == step:
                self._decode(chunk, place)
            else:
                whole = np.empty((step, *shape), self.array.dtype)
                self._decode(chunk, whole)
                place[...] = whole[low - first : high - first]
        return frames

    def encode(self, images: NDArray[Any]) -> tuple[Any, ...]:
        """Bytes of one chunk, in parts, from its images; a last chunk is filled up."""
        missing = self.chunk_frames - len(images)
        if missing:
            rest = np.full((missing, *images.shape[1:]), self.array.fill_value, images.dtype)
            images = np.concatenate([images, rest])
        data = self.blosc.encode(np.ascontiguousarray(images))
        return (data, crc32c(data)) if self.checksum else (data,)

    def _decode(self, chunk: int, place: NDArray[Any]) -> None:
        if self.folder is None:
            msg = "chunks of an object store are read by Zarr"
            raise TypeError(msg)
        data = _content(self.folder / self.key(chunk))
        if data is None:
            place[...] = self.array.fill_value
            return
        if self.checksum:
            data, stored = data[:-_CHECKSUM_BYTES], bytes(data[-_CHECKSUM_BYTES:])
            if (found := crc32c(data)) != stored:
                raise ValueError(
                    f"the checksum of chunk {self.key(chunk)} is {found.hex()}, and {stored.hex()} "
                    "was stored with it"
                )
        # Blosc believes its header, however short the bytes or the place for the result are.
        lengths = _BLOSC_HEADER.unpack_from(data.data) if len(data) >= _BLOSC_HEADER.size else None
        if lengths != (place.nbytes, len(data)):
            raise ValueError(
                f"the {len(data)} bytes of chunk {self.key(chunk)} are not {place.nbytes} bytes "
                "under Blosc"
            )
        self.blosc.decode(data, place)


def plain_chunks(array: zarr.Array[Any]) -> PlainChunks | None:
    """Return what codes an array's chunks; None where that is left to Zarr."""
    return plain_chunks_of(array, getattr(array.metadata, "codecs", ()))


def plain_chunks_of(array: zarr.Array[Any], codecs: tuple[Any, ...]) -> PlainChunks | None:
    """Return what codes chunks under these codecs of format 3, or what format 2 has in place."""
    store, metadata = array.store, array.metadata
    if type(store) not in (LocalStore, CloudStore):
        return None
    if array.ndim < 2 or array.chunks[1:] != array.shape[1:]:
        return None
    dtype = np.dtype(array.dtype)
    if dtype.kind not in _KINDS or not dtype.isnative or array.fill_value is None:
        return None
    coders = _coders_of_3(codecs, dtype) if metadata.zarr_format == 3 else _coders_of_2(metadata)
    folder = store.root / array.path if isinstance(store, LocalStore) else None
    return coders and PlainChunks(array, folder, *coders)


def _coders_of_3(codecs: tuple[Any, ...], dtype: np.dtype[Any]) -> tuple[Blosc, bool] | None:
    match codecs:
        case (BytesCodec() as order, BloscCodec() as blosc):
            checksum = False
        case (BytesCodec() as order, BloscCodec() as blosc, Crc32cCodec()):
            checksum = True
        case _:
            return None
    native = order.endian is None or order.endian.value == sys.byteorder
    # without a typesize of its own Blosc takes that of the values it is given
    if not native or blosc.typesize != dtype.itemsize:
        return None
    shuffle = _SHUFFLES[blosc.shuffle.value]
    return Blosc(blosc.cname.value, blosc.clevel, shuffle, blosc.blocksize), checksum


def _coders_of_2(metadata: Any) -> tuple[Blosc, bool] | None:
    if metadata.filters or metadata.order != "C" or type(metadata.compressor) is not Blosc:
        return None
    return metadata.compressor, False


def crc32c(data: Any) -> bytes:
    """Checksum as it follows a chunk's bytes."""
    return int(google_crc32c.value(data)).to_bytes(_CHECKSUM_BYTES, "little")


def _content(file: Path) -> NDArray[np.uint8] | None:
    """Bytes of a file, valid until this thread reads the next; None where there is no file.

    They are read into memory that the thread keeps, because to get fresh memory from the system
    takes longer than to read.
    """
    try:
        with file.open("rb", buffering=0) as stream:
            length = stream.seek(0, 2)
            stream.seek(0)
            kept = getattr(_KEPT, "bytes", None)
            if kept is None or len(kept) < length:
                kept = np.empty(length + length // 8, np.uint8)
                if length <= _KEPT_BYTES:
                    _KEPT.bytes = kept
            n_read = 0
            while n_read < length and (more := stream.readinto(kept.data[n_read:length])):
                n_read += more
    except (FileNotFoundError, NotADirectoryError):
        return None
    return kept[:n_read]
