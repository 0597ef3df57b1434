"""Objects under keys: written beside, synced, and named by rename.

`LocalObjects` is the seam: everything else in this room speaks of keys, sizes and checksums, so
that an object store can stand here later. `StagingStore` lets Zarr write through it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import google_crc32c
import numpy as np
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

RUN_FOLDER: Final = "run"
METADATA: Final = "zarr.json"


class StoredObject(NamedTuple):
    """One object as it was written: its key, its size in bytes, and a checksum of its bytes."""

    key: str
    size: int
    checksum: str


class StagedObject(NamedTuple):
    """An object that is written, under a temporary name."""

    stored: StoredObject
    file: Path


class LocalObjects:
    """Objects in a folder of a local (or mounted) file system.

    Parameters
    ----------
    root
        The folder.
    durable
        Sync files and folders, so that what is committed survives a power failure.

    Notes
    -----
    Temporary files live in ``run/tmp``, never among the objects: a reader that lists the group
    does not see them, and what a killed process left is found in one place.
    """

    def __init__(self, root: str | Path, *, durable: bool = True) -> None:
        self.root = Path(root)
        self.durable = durable
        self._temporary = self.root / RUN_FOLDER / "tmp"

    def stage(self, key: str, *parts: Any) -> StagedObject:
        """Write bytes under a temporary name; safe to call from several threads.

        Parameters
        ----------
        key
            Where the object will appear.
        parts
            Its bytes: anything with the buffer protocol, one after the other. The last of several
            has four bytes or more.
        """
        views = [memoryview(part).cast("B") for part in parts]
        stored = StoredObject(key, sum(view.nbytes for view in views), checksum_of(*views))
        self._temporary.mkdir(parents=True, exist_ok=True)
        file = self._temporary / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with file.open("xb", buffering=0) as stream:
                for view in views:
                    remaining = view
                    while remaining.nbytes:
                        remaining = remaining[stream.write(remaining) :]
                if self.durable:
                    os.fsync(stream.fileno())
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return StagedObject(stored, file)

    def commit(self, staged: Iterable[StagedObject]) -> tuple[StoredObject, ...]:
        """Give staged objects their names, in the order given, and sync the folders.

        Each appears whole or not at all. Folders are synced once for all objects, after the
        renames, so that one commit of the file system's journal serves them together.
        """
        staged = tuple(staged)
        folders: set[Path] = set()
        try:
            for stored, file in staged:
                target = self.root / stored.key
                self._name(file, target)
                # Every level: a folder that another process made just now may not be synced yet.
                folders.update(f for f in target.parents if f.is_relative_to(self.root))
        except BaseException:
            self.discard(staged)
            raise
        if self.durable:
            for folder in sorted(folders, key=lambda f: len(f.parts), reverse=True):
                sync_folder(folder)
        return tuple(stored for stored, _ in staged)

    def _name(self, file: Path, target: Path) -> None:
        if target.name == METADATA and not target.parent.exists():
            # Zarr warns of a folder without metadata, so the folder appears with them in it.
            folder = self._temporary / uuid.uuid4().hex
            folder.mkdir()
            file = file.replace(folder / target.name).parent
            target = target.parent
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)

    def put(self, key: str, data: Any) -> StoredObject:
        """Write one object whole."""
        return self.commit((self.stage(key, data),))[0]

    def read(self, key: str) -> bytes | None:
        """Bytes of an object; None where there is none."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.root / key).read_bytes()
        return None

    def size(self, key: str) -> int | None:
        """Bytes that an object holds; None where there is none."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return os.stat(self.root / key).st_size  # noqa: PTH116 - called once per object of a run
        return None

    def stamp(self, key: str) -> str:
        """Text that changes when an object is replaced; empty where there is none."""
        with suppress(FileNotFoundError, NotADirectoryError):
            status = (self.root / key).stat()
            return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"
        return ""

    def fault(self, expected: StoredObject) -> str:
        """Return what is wrong with an object, in words; empty when it is as it was written."""
        size = self.size(expected.key)
        if size is None:
            return f"{expected.key} is missing"
        if size != expected.size:
            return f"{expected.key} holds {size} bytes instead of {expected.size}"
        data = self.read(expected.key)
        if data is None or checksum_of(data) != expected.checksum:
            return f"{expected.key} does not hold the bytes that were written"
        return ""

    def remove(self, prefix: str) -> None:
        """Remove all objects under a prefix."""
        gone = self._temporary / uuid.uuid4().hex
        with suppress(FileNotFoundError):
            (self.root / prefix).replace(gone)
            shutil.rmtree(gone)

    def discard(self, staged: Iterable[StagedObject]) -> None:
        """Remove staged objects that will not be committed."""
        for _, file in staged:
            file.unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what killed processes left; the count. Only for the holder of the run's lock."""
        if not self._temporary.is_dir():
            return 0
        left = list(self._temporary.iterdir())
        for file in left:
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink(missing_ok=True)
        return len(left)


def checksum_of(*parts: Any) -> str:
    """Checksum of an object's bytes: the crc32c of all but the last four, and those four.

    A chunk ends in its own crc32c, which makes the crc32c of the whole the same for every chunk of
    one length. zlib's crc32 tells them apart too, in six times the time.
    """
    *front, last = [np.frombuffer(part, np.uint8) for part in parts]
    crc = 0
    for part in (*front, last[:-4]):
        crc = google_crc32c.extend(crc, part)
    return f"{crc:08x}{last[-4:].tobytes().hex()}"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StagingStore(WrapperStore[LocalStore]):
    """A Zarr store whose writes are staged, to be committed together.

    Reads answer metadata only. Chunks are written whole, so nothing of an existing one is
    needed, and a damaged one must not keep its own replacement from being written.
    """

    def __init__(self, store: LocalStore, objects: LocalObjects | None = None) -> None:
        super().__init__(store)
        self._objects = objects if objects is not None else LocalObjects(store.root)
        self._staged: dict[str, StagedObject] = {}
        self._discarded = False

    @classmethod
    def on(cls, objects: LocalObjects) -> StagingStore:
        """Store on a folder of objects."""
        return cls(LocalStore(objects.root), objects)

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

    def _with_store(self, store: LocalStore) -> StagingStore:
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
