"""The one writer of images: a block of frames, whole, by exactly one task."""

from __future__ import annotations

import contextlib
import functools
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from stillstack.address import Address
from stillstack.errors import RunFaultError
from stillstack.kernels.downsampling import downsample
from stillstack.storage.arrays import open_writable
from stillstack.storage.chunks import PlainChunks, plain_chunks
from stillstack.storage.objects import METADATA, Objects, StagedObject, StoredObject
from stillstack.storage.places import objects_at
from stillstack.storage.shards import PlainShards, plain_shards
from stillstack.storage.staging import StagingStore

CHUNKS_IN_FLIGHT: Final = 4
"""Encoded chunks of a block that may wait for the disk or the store."""


@dataclass(frozen=True)
class BlockWriter:
    """What a worker needs to write blocks of one array: small, and it pickles.

    Parameters
    ----------
    path
        Folder or address of the group.
    array
        Name of the array.
    block_frames
        Frames in each block but the last.
    durable
        Sync what is written before `write` returns.
    levels
        Names of arrays for smaller images, each half of the one before, which are written along.
    """

    path: str | Address
    array: str
    block_frames: int
    durable: bool = True
    levels: tuple[str, ...] = ()

    def write(self, start: int, images: NDArray[Any]) -> tuple[StoredObject, ...]:
        """Write one block, and what was stored for it.

        Each object appears whole: in a folder by rename, all after the last of them is complete.
        Two processes that write the same block, as when a lost worker was not dead, do no harm.

        Parameters
        ----------
        start
            First frame.
        images
            All frames of the block, in the array's dtype.

        Raises
        ------
        RunFaultError
            The images are not exactly one block. Anything less would share an object with
            another task, and lose frames without a word.
        """
        with contextlib.closing(self.begin(start)) as writing:
            writing.refuse_shape(images, writing.length)
            for first in range(0, writing.length, writing.chunk_frames):
                writing.put(images[first : first + writing.chunk_frames])
            return writing.commit()

    def begin(self, start: int) -> BlockWriting:
        """Begin the block that starts at a frame, to give its images piece by piece.

        Raises
        ------
        RunFaultError
            No block starts there.
        """
        objects = objects_at(self.path, durable=self.durable)
        key = f"{self.array}/{METADATA}"
        return BlockWriting(
            self, start, objects, _opened(self.path, self.array, objects.stamp(key))
        )


class BlockWriting:
    """One block on its way to the disk; made by `BlockWriter.begin`.

    Images are compressed when they are given, and written and synced by a thread of its own
    meanwhile, or sent by several. In a folder nothing appears under its name before `commit`.

    Attributes
    ----------
    length : int
        Frames of the block.
    chunk_frames : int
        Frames that have to be given together.
    """

    def __init__(
        self,
        writer: BlockWriter,
        start: int,
        objects: Objects,
        opened: _Opened,
    ) -> None:
        array, plain, shards = opened
        self._writer = writer
        self._start = start
        self._levels = [replace(writer, array=n, levels=()).begin(start) for n in writer.levels]
        self._objects = objects
        self._array = array
        self._shards = shards
        self._plain = shards.chunks if shards else plain
        self._in_shard: list[tuple[Any, ...]] = []
        self.length = min(writer.block_frames, array.shape[0] - start)
        self._n_given = 0
        self._collected: list[NDArray[Any]] = []
        self._staged: list[Future[StagedObject]] = []
        self._thread = ThreadPoolExecutor(objects.n_writers)
        self.chunk_frames = self.length if self._plain is None else self._plain.chunk_frames
        self._refuse(_faults_of(writer, array, start))

    def put(self, images: NDArray[Any]) -> None:
        """Take the next images: ``chunk_frames`` of them, or what is left of the block.

        Raises
        ------
        RunFaultError
            They are not the next piece of the block.
        """
        self.refuse_shape(images, min(self.chunk_frames, self.length - self._n_given))
        if self._plain is None:
            self._collected.append(images)
        elif self._shards is not None:
            self._in_shard.append(self._plain.encode(images))
        else:
            chunk = (self._start + self._n_given) // self.chunk_frames
            key = f"{self._writer.array}/{self._plain.key(chunk)}"
            parts = self._plain.encode(images)
            if len(self._staged) >= CHUNKS_IN_FLIGHT:
                # A slow disk must not fill the memory. What went wrong there is raised by `commit`.
                self._staged[-CHUNKS_IN_FLIGHT].exception()
            self._staged.append(self._thread.submit(self._objects.stage, key, *parts))
        self._n_given += len(images)
        if self._levels:
            smaller = downsample(images, len(self._levels), self._array.fill_value)
            for level, means in zip(self._levels, smaller, strict=True):
                level.put(means)

    def commit(self) -> tuple[StoredObject, ...]:
        """Give everything its name, and return what was stored.

        Raises
        ------
        RunFaultError
            Not all images of the block were given.
        OSError
            Something could not be written; nothing has got its name.
        """
        missing = self.length - self._n_given
        self._refuse([missing and f"{missing} of its {self.length} frames are missing"])
        smaller = [stored for level in self._levels for stored in level.commit()]
        return (*self._commit_own(), *smaller)

    def _commit_own(self) -> tuple[StoredObject, ...]:
        if self._plain is None:
            return self._commit_by_zarr()
        if self._shards is not None:
            self._stage_shard(self._shards)
        staged = [future.result() for future in self._staged]
        self._staged = []
        self._thread.shutdown()
        return self._objects.commit(sorted(staged, key=lambda item: item.stored.key))

    def discard(self) -> None:
        """Remove what was written, and begin anew."""
        futures, self._staged = self._staged, []
        self._collected = []
        self._in_shard = []
        self._n_given = 0
        self._objects.discard(f.result() for f in futures if f.exception() is None)
        for level in self._levels:
            level.discard()

    def close(self) -> None:
        """Remove what was not committed, and end."""
        self.discard()
        self._thread.shutdown()
        for level in self._levels:
            level.close()

    def refuse_shape(self, images: NDArray[Any], n_images: int) -> None:
        """Raise RunFaultError unless these are so many images of the array."""
        wanted = (n_images, *self._array.shape[1:])
        self._refuse(
            [
                images.shape != wanted and f"images of shape {images.shape} instead of {wanted}",
                np.dtype(images.dtype) != self._array.dtype
                and f"images of {images.dtype} instead of {self._array.dtype}",
            ]
        )

    def _stage_shard(self, shards: PlainShards) -> None:
        """Write the block as one object: its chunks, and their index behind them."""
        chunks, self._in_shard = self._in_shard, []
        index = shards.index([sum(len(part) for part in parts) for parts in chunks])
        key = f"{self._writer.array}/{shards.key(self._start)}"
        parts = (*(part for parts in chunks for part in parts), index)
        self._staged.append(self._thread.submit(self._objects.stage, key, *parts))

    def _commit_by_zarr(self) -> tuple[StoredObject, ...]:
        store = StagingStore.on(self._objects)
        array = open_writable(store, self._writer.array)
        try:
            array[self._start : self._start + self.length] = np.concatenate(self._collected)
        except BaseException:
            store.discard()
            raise
        return store.commit()

    def _refuse(self, faults: list[Any]) -> None:
        found = [str(fault) for fault in faults if fault]
        if found:
            raise RunFaultError(
                f"Not a block of {self._writer.path}/{self._writer.array}: {'; '.join(found)}.",
                consequence="It was not written.",
                cure="This is a fault of the program: please report it.",
            )


def _faults_of(writer: BlockWriter, array: zarr.Array[Any], start: int) -> list[Any]:
    """Return what is wrong with a block's place in an array."""
    written_together = (array.shards or array.chunks)[0]
    block, n_frames = writer.block_frames, array.shape[0]
    return [
        (block % written_together != 0)
        and f"blocks of {block} frames cut objects of {written_together}",
        not (0 <= start < n_frames and start % block == 0)
        and f"frame {start} does not start a block of {block} in {n_frames}",
    ]


class _Opened(NamedTuple):
    """An array, and what codes its chunks or shards without Zarr, where that is possible."""

    array: zarr.Array[Any]
    plain: PlainChunks | None
    shards: PlainShards | None


@functools.lru_cache(maxsize=16)
def _opened(path: str | Address, name: str, stamp: str) -> _Opened:  # noqa: ARG001
    """Open an array for its metadata; ``stamp`` makes sure that one that was replaced is too."""
    store = objects_at(path).zarr_store()
    array = zarr.open_array(store, path=name, mode="r", zarr_format=3)
    return _Opened(array, plain_chunks(array), plain_shards(array))
