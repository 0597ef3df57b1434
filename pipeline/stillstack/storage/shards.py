"""Shards of whole frames: the chunks of one block in one object, with an index behind them.

To write a shard through Zarr, all images of a block are collected and copied once more, and pass
through its event loop. Here each chunk is encoded when its images are there, and only what is
encoded is kept until the shard is whole. The bytes are Zarr's, to which the tests hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from stillstack.storage.chunks import PlainChunks, crc32c, plain_chunks_of

# Offset and length of a chunk that is not there.
_ABSENT: Final = 2**64 - 1


@dataclass(frozen=True, eq=False)
class PlainShards:
    """Shards that are one block of whole frames each.

    Parameters
    ----------
    chunks
        Encodes the chunks inside them.
    shard_frames
        Frames in a shard.
    """

    chunks: PlainChunks
    shard_frames: int

    def key(self, start: int) -> str:
        """Where the shard that starts at a frame lies in the folder of the array."""
        return self.chunks.key(start // self.shard_frames)

    def index(self, lengths: Sequence[int]) -> bytes:
        """Index of a shard, from the lengths of its chunks in the order of their frames.

        Chunks beyond the end of the array are marked as not there.
        """
        n_chunks = self.shard_frames // self.chunks.chunk_frames
        index = np.full((n_chunks, 2), _ABSENT, "<u8")
        index[: len(lengths), 1] = lengths
        index[: len(lengths), 0] = np.cumsum([0, *lengths[:-1]])
        data = index.tobytes()
        return data + crc32c(data)


def plain_shards(array: zarr.Array[Any]) -> PlainShards | None:
    """Return what codes an array's shards; None where there are none, or that is left to Zarr."""
    metadata = array.metadata
    if array.shards is None or metadata.zarr_format != 3:
        return None
    match metadata.codecs:
        case (ShardingCodec() as sharding,) if sharding.index_location.value == "end":
            inner = sharding.codecs
        case _:
            return None
    match sharding.index_codecs:
        case (BytesCodec() as order, Crc32cCodec()) if order.endian and order.endian.value == (
            "little"
        ):
            chunks = plain_chunks_of(array, inner)
        case _:
            return None
    # frames lie in a shard in their own order only where it is cut along nothing else
    if chunks is None or array.shards[1:] != array.chunks[1:]:
        return None
    return PlainShards(chunks, int(array.shards[0]))
