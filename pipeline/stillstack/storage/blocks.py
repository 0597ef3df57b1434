"""The one writer of images: a block of frames, whole, by exactly one task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from stillstack.errors import RunFaultError
from stillstack.storage.arrays import open_writable
from stillstack.storage.objects import LocalObjects, StagingStore, StoredObject


@dataclass(frozen=True)
class BlockWriter:
    """What a worker needs to write blocks of one array: small, and it pickles.

    Parameters
    ----------
    path
        Folder of the group.
    array
        Name of the array.
    block_frames
        Frames in each block but the last.
    durable
        Sync what is written before `write` returns.
    """

    path: str
    array: str
    block_frames: int
    durable: bool = True

    def write(self, start: int, images: NDArray[Any]) -> tuple[StoredObject, ...]:
        """Write one block, and what was stored for it.

        Each object appears under its name by rename, all after the last of them is complete.
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
        store = StagingStore.on(LocalObjects(self.path, durable=self.durable))
        array = open_writable(store, self.array)
        self._check(array, start, images)
        try:
            array[start : start + len(images)] = images
        except BaseException:
            store.discard()
            raise
        return store.commit()

    def _check(self, array: zarr.Array[Any], start: int, images: NDArray[Any]) -> None:
        written_together = (array.shards or array.chunks)[0]
        n_frames = array.shape[0]
        length = min(self.block_frames, n_frames - start)
        findings = [
            (self.block_frames % written_together != 0)
            and f"blocks of {self.block_frames} frames cut objects of {written_together}",
            not (0 <= start < n_frames and start % self.block_frames == 0)
            and f"frame {start} does not start a block of {self.block_frames} in {n_frames}",
            images.shape != (length, *array.shape[1:])
            and f"images of shape {images.shape} instead of {(length, *array.shape[1:])}",
            np.dtype(images.dtype) != array.dtype
            and f"images of {images.dtype} instead of {array.dtype}",
        ]
        if any(findings):
            raise RunFaultError(
                f"Not a block of {self.path}/{self.array}: "
                f"{'; '.join(finding for finding in findings if finding)}.",
                consequence="It was not written.",
                cure="This is a fault of the program: please report it.",
            )
