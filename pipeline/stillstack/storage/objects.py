"""Objects under keys: whole or not at all, whatever they are kept in.

`Objects` is the seam: everything else in this room speaks of keys, sizes and checksums.
`LocalObjects` keeps them in a folder, written beside, synced, and named by rename; in an object
store they are `remote.RemoteObjects`. `staging.StagingStore` lets Zarr
write through either.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import google_crc32c
import numpy as np
from zarr.abc.store import Store
from zarr.storage import LocalStore

from stillstack.address import Location

RUN_FOLDER: Final = "run"
METADATA: Final = "zarr.json"
_LARGE: Final = 2**20
LOG: Final = "log.txt"
"""Name of a run's log in ``run/``."""


class StoredObject(NamedTuple):
    """One object as it was written: its key, its size in bytes, and a checksum of its bytes."""

    key: str
    size: int
    checksum: str


class StagedObject(NamedTuple):
    """An object that is written under a temporary name, or held until it gets its own."""

    stored: StoredObject
    file: Path = Path()
    data: bytes | None = None


class Objects(Protocol):
    """Objects under keys, each whole or not at all. `LocalObjects` says more of each method."""

    n_writers: int
    """How many objects are best written at the same time."""

    @property
    def place(self) -> Location:
        """Where they are."""
        ...

    def zarr_store(self) -> Store:
        """Return what Zarr reads them through."""
        ...

    def stage(self, key: str, *parts: Any) -> StagedObject:
        """Write an object, or hold it, until it is committed."""
        ...

    def commit(self, staged: Iterable[StagedObject]) -> tuple[StoredObject, ...]:
        """Let staged objects appear under their keys, in the order given."""
        ...

    def discard(self, staged: Iterable[StagedObject]) -> None:
        """Give up staged objects."""
        ...

    def put(self, key: str, data: Any) -> StoredObject:
        """Write one object whole."""
        ...

    def read(self, key: str) -> bytes | None:
        """Bytes of an object; None where there is none."""
        ...

    def size(self, key: str) -> int | None:
        """Bytes that an object holds; None where there is none."""
        ...

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """Sizes of those objects that there are."""
        ...

    def stamp(self, key: str) -> str:
        """Text that changes when an object is replaced; empty where there is none."""
        ...

    def fault(self, expected: StoredObject) -> str:
        """Return what is wrong with an object, in words; empty when it is as it was written."""
        ...

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Names of objects and folders directly under a prefix, sorted."""
        ...

    def keys(self) -> tuple[str, ...]:
        """Keys of all objects, in the order of their parts."""
        ...

    def remove(self, prefix: str) -> None:
        """Remove all objects under a prefix."""
        ...

    def sweep(self) -> int:
        """Remove what killed processes left; the count. Only for the holder of the run's lock."""
        ...


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

    n_writers: int = 1

    def __init__(self, root: str | Path, *, durable: bool = True) -> None:
        self.root = Path(root)
        self.durable = durable
        self._temporary = self.root / RUN_FOLDER / "tmp"

    @property
    def place(self) -> Path:
        """The folder."""
        return self.root

    def zarr_store(self) -> LocalStore:
        """Return what Zarr reads them through."""
        return LocalStore(self.root, read_only=True)

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
                    _let_go(stream.fileno(), stored.size)
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
            for stored, file, _ in staged:
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
        return tuple(item.stored for item in staged)

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
            status = os.stat(self.root / key)  # noqa: PTH116 - called once per object of a run
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        return None

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """Sizes of those objects that there are."""
        return {key: size for key in keys if (size := self.size(key)) is not None}

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Names of objects and folders directly under a prefix, sorted; empty where it is not."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return tuple(sorted(entry.name for entry in (self.root / prefix).iterdir()))
        return ()

    def keys(self) -> tuple[str, ...]:
        """Keys of all objects, in the order of their parts."""
        files = (file for file in sorted(self.root.rglob("*")) if file.is_file())
        return tuple(file.relative_to(self.root).as_posix() for file in files)

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
        for _, file, _ in staged:
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


def _let_go(descriptor: int, size: int) -> None:
    """Tell the system that a synced file need not stay in memory, which the next one can have.

    Hundreds of gigabytes would push all else out of memory, the input too, and to find new memory
    for each frame took a tenth of a run's time.
    """
    if size >= _LARGE and hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # it is but a hint
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
