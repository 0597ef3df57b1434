"""Lets Zarr write through objects, so that what it writes appears together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from stillstack.storage.objects import METADATA, Objects, StagedObject, StoredObject


class StagingStore(WrapperStore[Store]):
    """A Zarr store whose writes are staged, to be committed together.

    Reads answer metadata only. Chunks are written whole, so nothing of an existing one is
    needed, and a damaged one must not keep its own replacement from being written.
    """

    def __init__(self, store: Store, objects: Objects) -> None:
        super().__init__(store)
        self._objects = objects
        self._staged: dict[str, StagedObject] = {}
        self._discarded = False

    @classmethod
    def on(cls, objects: Objects) -> StagingStore:
        """Store on objects."""
        return cls(objects.zarr_store().with_read_only(False), objects)

    def commit(self, *, metadata_first: bool = False) -> tuple[StoredObject, ...]:
        """Name everything that was staged, in the order of the keys.

        Metadata come last, so that an array appears with its values. In a group that exists they
        come first: Zarr warns of a folder that is not an array.
        """
        order = sorted(
            self._staged, key=lambda key: (key.endswith(METADATA) != metadata_first, key)
        )
        staged = [self._staged[key] for key in order]
        self._staged = {}
        return self._objects.commit(staged)

    def discard(self) -> None:
        """Remove everything that was staged, and what threads of a failed write still stage."""
        self._discarded = True
        staged, self._staged = self._staged, {}
        self._objects.discard(staged.values())

    def _with_store(self, store: Store) -> StagingStore:
        return type(self)(store, self._objects)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of a metadata object; None for a chunk."""
        if not key.endswith(METADATA):
            return None
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """As `get`, for several."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def set(self, key: str, value: Buffer) -> None:
        """Stage an object."""
        staged = await asyncio.to_thread(self._objects.stage, key, value.as_buffer_like())
        unwanted = staged if self._discarded else self._staged.get(key)
        if not self._discarded:
            self._staged[key] = staged
        if unwanted is not None:
            self._objects.discard([unwanted])

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Nothing: Zarr asks for the parents' metadata, which this room writes itself, last."""

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        """Refuse: nothing in a run is deleted through Zarr."""
        msg = f"{key} must not be deleted: it would read as fill without a word"
        raise PermissionError(msg)
