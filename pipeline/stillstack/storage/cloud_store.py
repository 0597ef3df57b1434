"""Zarr's view of an object store or a web server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any, Final

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from stillstack.address import Address
from stillstack.errors import StillstackError
from stillstack.storage.cloud import (
    again_async,
    client,
    listed_names,
    listed_sizes,
    may_list,
)
from stillstack.storage.store_faults import PermissionMissingError, store_faults

METADATA_NAMES: Final = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


class CloudStore(ObjectStore[Any]):
    """Zarr's store on an address: read-only, and it pickles as the address and nothing else.

    Whoever unpickles it finds credentials in an environment of their own.
    """

    def __init__(self, address: Address, *, read_only: bool = True) -> None:
        super().__init__(client(address), read_only=read_only)
        self.address = address
        self.denied: StillstackError | None = None

    def with_read_only(self, read_only: bool = False) -> CloudStore:
        """Return the same store for another use."""
        return type(self)(self.address, read_only=read_only)

    def __getstate__(self) -> dict[Any, Any]:
        return {"address": self.address, "read_only": self.read_only}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.__init__(state["address"], read_only=state["read_only"])  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CloudStore) and (self.address, self.read_only) == (
            other.address,
            other.read_only,
        )

    def __hash__(self) -> int:
        return hash((self.address, self.read_only))

    def __str__(self) -> str:
        return str(self.address)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of an object, or None where there is none.

        Metadata that may not be read count as absent, because Zarr asks for files that another
        format would have, and a store that does not let one list calls what is missing forbidden.
        """
        try:
            with store_faults(self.address, "be read"):
                return await again_async(
                    lambda: super(CloudStore, self).get(key, prototype, byte_range)
                )
        except PermissionMissingError as error:
            if not key.endswith(METADATA_NAMES):
                raise
            self.denied = error
            return None

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """As `get`, for several."""
        return list(
            await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))
        )

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        with store_faults(self.address, "be read"):
            return await again_async(lambda: super(CloudStore, self).exists(key))

    @property
    def supports_listing(self) -> bool:
        """Whether one can ask what there is: a web server does not say, and a store may not."""
        return may_list(self.address)

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Names of what lies directly under a prefix."""
        for name in await asyncio.to_thread(listed_names, self.address, prefix):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        """Keys under a prefix."""
        for key in await asyncio.to_thread(listed_sizes, self.address, prefix):
            yield key

    def list(self) -> AsyncIterator[str]:  # type: ignore[override]
        """Keys of all objects."""
        return self.list_prefix("")
