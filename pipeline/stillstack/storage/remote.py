"""Objects of an object store: every PUT is whole, so that nothing has to be renamed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from stillstack.address import Address
from stillstack.storage.cloud import again, client, listed, listed_names, listed_sizes
from stillstack.storage.cloud_store import CloudStore
from stillstack.storage.objects import (
    METADATA,
    RUN_FOLDER,
    StagedObject,
    StoredObject,
    checksum_of,
)
from stillstack.storage.store_faults import store_faults

_WRITERS: Final = 8
# Above this an object is sent in parts, side by side, each of which is retried alone.
_ONE_PUT_BYTES: Final = 16 * 2**20
_PART_BYTES: Final = 8 * 2**20
_KEYS_TO_ASK_FOR: Final = 64
PROBE: Final = "clock-"
"""What the names of objects begin with that are made to learn the store's time."""

TRIAL: Final = "doctor-"
"""What the names of folders begin with in which requests are tried before a run."""


class RemoteObjects:
    """Objects under an address.

    Parameters
    ----------
    address
        The folder.
    assure
        Called before anything is written: raises where the run's lock is lost. None for workers,
        whose objects count only when the ledger has them.

    Notes
    -----
    A chunk is sent when it is staged: it appears whole, and does not count before the ledger has
    it. Metadata are held until they are committed, because they have to appear in order.
    """

    n_writers: int = _WRITERS

    def __init__(self, address: Address, assure: Callable[[], None] | None = None) -> None:
        self.address = address
        self._assure = assure or (lambda: None)

    @property
    def place(self) -> Address:
        """The folder."""
        return self.address

    def zarr_store(self) -> CloudStore:
        """Return what Zarr reads them through."""
        return CloudStore(self.address)

    def stage(self, key: str, *parts: Any) -> StagedObject:
        """Send a chunk, or hold metadata; safe to call from several threads."""
        data = b"".join(memoryview(part).cast("B") for part in parts)
        stored = StoredObject(key, len(data), checksum_of(data))
        if key.endswith(METADATA):
            return StagedObject(stored, data=data)
        self._send(key, data)
        return StagedObject(stored)

    def commit(self, staged: Iterable[StagedObject]) -> tuple[StoredObject, ...]:
        """Send what was held, in the order given."""
        staged = tuple(staged)
        for stored, _, data in staged:
            if data is not None:
                self._send(stored.key, data)
        return tuple(item.stored for item in staged)

    def discard(self, staged: Iterable[StagedObject]) -> None:
        """Do nothing: what was sent does not count, and is written over when it is done again."""

    def put(self, key: str, data: Any) -> StoredObject:
        """Write one object whole."""
        content = bytes(data)
        self._send(key, content)
        return StoredObject(key, len(content), checksum_of(content))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; whether it holds these bytes now.

        An answer that was lost makes the library ask again, and find what it wrote itself. So that
        two writers are told apart, their bytes have to differ.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        self._assure()
        with store_faults(self.address, "be written"):
            try:
                again(lambda: obstore.put(client(self.address), key, data, mode="create"))
            except AlreadyExistsError:
                return self.read(key) == data
        return True

    def read(self, key: str) -> bytes | None:
        """Bytes of an object; None where there is none."""
        import obstore

        try:
            with store_faults(self.address, "be read"):
                return again(lambda: bytes(obstore.get(client(self.address), key).bytes()))
        except FileNotFoundError:
            return None

    def read_many(self, keys: Collection[str]) -> dict[str, bytes]:
        """Bytes of those objects that there are."""
        with ThreadPoolExecutor(_WRITERS) as pool:
            found = dict(zip(keys, pool.map(self.read, keys), strict=True))
        return {key: data for key, data in found.items() if data is not None}

    def size(self, key: str) -> int | None:
        """Bytes that an object holds; None where there is none."""
        head = self._head(key)
        return None if head is None else int(head["size"])

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """Sizes of those objects that there are: of many, as the store lists them."""
        wanted = set(keys)
        if len(wanted) <= _KEYS_TO_ASK_FOR:
            with ThreadPoolExecutor(_WRITERS) as pool:
                asked = dict(zip(wanted, pool.map(self.size, wanted), strict=True))
            return {key: size for key, size in asked.items() if size is not None}
        folders = {key.partition("/")[0] for key in wanted}
        found = {
            k: size for folder in folders for k, size in listed_sizes(self.address, folder).items()
        }
        return {key: found[key] for key in wanted & found.keys()}

    def stamp(self, key: str) -> str:
        """Text that changes when an object is replaced; empty where there is none."""
        head = self._head(key)
        if head is None:
            return ""
        # The time would tell the same object apart in two copies of a bucket.
        return f"{head['size']} {head['e_tag'] or head['last_modified']}"

    def modified(self, key: str) -> float | None:
        """When an object was written, in seconds since 1970; None where there is none."""
        head = self._head(key)
        return None if head is None else float(head["last_modified"].timestamp())

    def stamps(self, keys: Collection[str]) -> list[str]:
        """As `stamp`, of several."""
        with ThreadPoolExecutor(_WRITERS) as pool:
            return list(pool.map(self.stamp, keys))

    def fault(self, expected: StoredObject) -> str:
        """Return what is wrong with an object, in words; empty when it is as it was written."""
        data = self.read(expected.key)
        if data is None:
            return f"{expected.key} is missing"
        if len(data) != expected.size:
            return f"{expected.key} holds {len(data)} bytes instead of {expected.size}"
        if checksum_of(data) != expected.checksum:
            return f"{expected.key} does not hold the bytes that were written"
        return ""

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Names of objects and folders directly under a prefix, sorted."""
        return listed_names(self.address, prefix)

    def keys(self) -> tuple[str, ...]:
        """Keys of all objects, in the order of their parts."""
        return tuple(sorted(listed_sizes(self.address), key=lambda key: key.split("/")))

    def listed(self, prefix: str) -> list[Any]:
        """What the store says of all objects under a prefix, in the order of their keys."""
        return listed(self.address, prefix)

    def remove(self, prefix: str) -> None:
        """Remove all objects under a prefix."""
        self._delete(list(listed_sizes(self.address, prefix)))

    def _delete(self, found: list[str]) -> None:
        import obstore

        self._assure()
        with store_faults(self.address, "be cleared"):
            for first in range(0, len(found), 500):
                delete = partial(obstore.delete, client(self.address), found[first : first + 500])
                again(delete)

    def sweep(self) -> int:
        """Remove what killed processes left of trying the store; what else they sent is whole."""
        inside = self.names(RUN_FOLDER)
        left = [f"{RUN_FOLDER}/{name}" for name in inside if name.startswith(PROBE)]
        tried = [f"{RUN_FOLDER}/{name}" for name in inside if name.startswith(TRIAL)]
        left += [key for folder in tried for key in listed_sizes(self.address, folder)]
        self._delete(left)
        return len(left)

    def _send(self, key: str, data: bytes) -> None:
        import obstore

        self._assure()
        parts = len(data) > _ONE_PUT_BYTES
        with store_faults(self.address, "be written"):
            again(
                lambda: obstore.put(
                    client(self.address), key, data, use_multipart=parts, chunk_size=_PART_BYTES
                )
            )

    def _head(self, key: str) -> Any:
        import obstore

        try:
            with store_faults(self.address, "be read"):
                return again(lambda: obstore.head(client(self.address), key))
        except FileNotFoundError:
            return None
