"""Raw stacks that the program writes itself: `ingest` and `simulate`, restartable as runs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stillstack.address import Location, located
from stillstack.model import AXIS, FRAME, X, Y
from stillstack.storage.arrays import (
    Codec,
    coordinates_attribute,
    make_array,
    write_frame_coordinates,
)
from stillstack.storage.blockstore import BlockStore, create_group
from stillstack.storage.identity import read_attributes
from stillstack.storage.locking import RunLock
from stillstack.storage.reductionstore import ReductionStore
from stillstack.storage.runstore import RunStore
from stillstack.storage.staging import StagingStore
from stillstack.storage.template import FORMAT, check_blocks

FRAMES = "frames"


class StackStore(BlockStore):
    """A Zarr group with the variable ``frames`` (frame, y, x)."""

    kind: ClassVar[str] = "stack"
    images: ClassVar[str] = FRAMES


def create_stack(
    lock: RunLock,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any] | str,
    *,
    fingerprint: str,
    coords: Mapping[str, NDArray[Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    chunk_frames: int = 1,
    block_frames: int = 8,
    codec: Codec = "zstd",
    durable: bool = True,
) -> StackStore:
    """Make a stack, metadata only, to be filled by blocks.

    Parameters
    ----------
    lock
        Held lock on the output.
    shape, dtype
        Of the frames, (frame, y, x).
    fingerprint
        What it is made from; a stack with another is refused by `inspect_output` with
        ``kind="stack"`` and this as ``source_fingerprint``.
    coords
        Per-frame coordinates, (n,) or (n, 2) for one value per axis.
    attrs
        Attributes of the group.
    chunk_frames, block_frames
        Frames in a chunk; frames written at once, a multiple of it.
    codec
        Compression.
    durable
        Sync everything that is written.
    """
    check_blocks(shape[0], chunk_frames, block_frames)
    layout = {
        "format": FORMAT,
        "kind": StackStore.kind,
        "n_frames": shape[0],
        "frame_shape": list(shape[1:]),
        "chunk_frames": chunk_frames,
        "block_frames": block_frames,
    }
    attributes = {
        **(attrs or {}),
        "Conventions": "CF-1.12",
        "config_digest": "",
        "source_fingerprint": fingerprint,
        "layout": layout,
        "complete": False,
    }

    def stage(store: StagingStore) -> None:
        names = write_frame_coordinates(store, coords or {}, (FRAMES, "run", Y, X, AXIS))
        make_array(
            store,
            FRAMES,
            shape,
            np.dtype(dtype),
            dims=(FRAME, Y, X),
            chunks=(chunk_frames, *shape[1:]),
            codec=codec,
            attrs={
                "long_name": "frames as recorded",
                "units": "count",
                **coordinates_attribute(names),
            },
        )

    create_group(lock, attributes, stage, durable=durable)
    return StackStore(lock.path, durable=durable, lock=lock)


def open_block_store(path: str | Location) -> BlockStore:
    """Run, stack or reduction at a path, to look at.

    Raises
    ------
    InputError
        There is neither.
    """
    attributes = read_attributes(located(path))
    kind = (attributes or {}).get("layout", {}).get("kind")
    if kind == ReductionStore.kind:
        return ReductionStore.view(path)
    return StackStore.view(path) if kind == StackStore.kind else RunStore.view(path)
