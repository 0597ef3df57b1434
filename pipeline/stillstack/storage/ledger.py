"""The ledger: one line for each block that is done, appended and synced by the coordinator alone.

A line is JSON with its own checksum, so that one that was torn by a crash, or damaged later, is
recognised and does not count; all others still do. `Ledger` is a file; `remote_ledger` keeps the
same lines in a store that cannot append.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from stillstack.model import TABLE_DTYPE
from stillstack.storage.objects import StoredObject, sync_folder

_LINE: Final = re.compile(rb'\{"check":"([0-9a-f]{8})","record":(\{.*\})\}', re.DOTALL)
_AFTER_HEAD: Final = b',"counts":'
_TABLE_CHECK: Final = f"{zlib.crc32(repr(TABLE_DTYPE.descr).encode()):08x}"


@dataclass(frozen=True, eq=False)
class BlockRecord:
    """What is known of a block that is done.

    Parameters
    ----------
    block
        Index of the block.
    start, stop
        Its frames.
    rows
        Its rows of the table, dtype ``TABLE_DTYPE``; None where the stage makes none.
    objects
        What was written for it.
    seconds
        How long it took.
    worker
        Who did it (host, process).
    finished
        When, in seconds since 1970.
    counts
        Anything else that is worth counting: bytes read, attempts.
    """

    block: int
    start: int
    stop: int
    rows: NDArray[np.void] | None = None
    objects: tuple[StoredObject, ...] = ()
    seconds: float = 0.0
    worker: str = ""
    finished: float = 0.0
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Glance:
    """A ledger, looked at quickly.

    Parameters
    ----------
    records
        By block, without rows and objects.
    n_earlier
        How many records before them were not read.
    """

    records: Mapping[int, BlockRecord]
    n_earlier: int = 0


class AnyLedger(ABC):
    """Append-only record of a stage's blocks, closed at the end of a ``with`` statement.

    Attributes
    ----------
    seconds_syncing : float
        Time spent so far in making records safe.
    """

    seconds_syncing: float

    @abstractmethod
    def append(self, record: BlockRecord) -> None:
        """Add a record; when this returns it survives a crash."""

    @abstractmethod
    def records(self) -> dict[int, BlockRecord]:
        """Return records by block; the last of several for one. Damaged ones do not count."""

    @abstractmethod
    def glance(self) -> Glance:
        """Return what is known without reading rows; of a long ledger in a store its end alone."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held; `append` takes it up again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Ledger(AnyLedger):
    """Append-only record of a stage's blocks. One writer: the holder of the run's lock.

    Parameters
    ----------
    path
        The file; made with the first record.
    durable
        Sync each record before `append` returns.

    Attributes
    ----------
    seconds_syncing : float
        Time spent in syncing so far.
    """

    def __init__(self, path: str | Path, *, durable: bool = True) -> None:
        self.path = Path(path)
        self.durable = durable
        self.seconds_syncing = 0.0
        self._descriptor: int | None = None
        self._tail_is_whole = False

    def append(self, record: BlockRecord) -> None:
        """Add a record; when this returns it survives a crash."""
        line = encode_record(record) + b"\n"
        descriptor = self._open()
        if not self._tail_is_whole:
            line = _missing_newline(self.path) + line
        self._tail_is_whole = False
        remaining = memoryview(line)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        self._sync(descriptor)
        self._tail_is_whole = True

    def records(self) -> dict[int, BlockRecord]:
        """Return records by block; the last of several for one. Damaged lines do not count."""
        return read_records(self.path)

    def glance(self) -> Glance:
        """Return what is known without reading rows."""
        return Glance(heads_of(_lines_of(self.path)))

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._tail_is_whole = False

    def _open(self) -> int:
        if self._descriptor is None:
            is_new = not self.path.exists()
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)
            if is_new and self.durable:
                sync_folder(self.path.parent)
        return self._descriptor

    def _sync(self, descriptor: int) -> None:
        if self.durable:
            before = time.perf_counter()
            os.fsync(descriptor)
            self.seconds_syncing += time.perf_counter() - before


def _missing_newline(path: Path) -> bytes:
    """Newline that a torn last line lacks; empty where nothing is torn."""
    with path.open("rb") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return b""
        stream.seek(-1, os.SEEK_END)
        return b"" if stream.read(1) == b"\n" else b"\n"


def records_of(lines: Iterable[bytes]) -> dict[int, BlockRecord]:
    """Records in lines, by block; the last of several for one. Damaged lines do not count."""
    decoded = (decode_record(line) for line in lines)
    return {record.block: record for record in decoded if record is not None}


def read_records(path: Path) -> dict[int, BlockRecord]:
    """Return the records in a ledger's file, by block; empty where there is no file."""
    return records_of(_lines_of(path))


def heads_of(lines: Iterable[bytes]) -> dict[int, BlockRecord]:
    """As `records_of`, without rows and objects: what takes the time is left unread."""
    decoded = (decode_head(line) for line in lines)
    return {record.block: record for record in decoded if record is not None}


def _lines_of(path: Path) -> Iterator[bytes]:
    with suppress(FileNotFoundError), path.open("rb") as stream:
        for line in stream:
            yield line.removesuffix(b"\n")


def encode_record(record: BlockRecord) -> bytes:
    """One line of a ledger, without the newline. Table rows are kept bit for bit."""
    body: dict[str, Any] = {
        "block": record.block,
        "start": record.start,
        "stop": record.stop,
        "seconds": record.seconds,
        "worker": record.worker,
        "finished": record.finished,
        "counts": dict(record.counts),
        "objects": [list(stored) for stored in record.objects],
    }
    if record.rows is not None:
        if record.rows.dtype != TABLE_DTYPE or record.rows.shape != (record.stop - record.start,):
            msg = (
                f"Rows of dtype {record.rows.dtype} and shape {record.rows.shape} are not the "
                f"table of frames {record.start} to {record.stop}."
            )
            raise ValueError(msg)
        body["table"] = _TABLE_CHECK
        body["rows"] = base64.b64encode(record.rows.tobytes()).decode("ascii")
    text = json.dumps(body, separators=(",", ":")).encode()
    return b'{"check":"%08x","record":%s}' % (zlib.crc32(text), text)


def decode_record(line: bytes) -> BlockRecord | None:
    """Record in a line; None where the line is torn, damaged, or of another table."""
    match = _LINE.fullmatch(line)
    if match is None or int(match[1], 16) != zlib.crc32(match[2]):
        return None
    body = json.loads(match[2])
    rows = None
    if "rows" in body:
        if body["table"] != _TABLE_CHECK:
            return None
        rows = np.frombuffer(base64.b64decode(body["rows"]), TABLE_DTYPE)
    objects = tuple(StoredObject(*stored) for stored in body["objects"])
    return replace(_head(body), rows=rows, objects=objects, counts=body["counts"])


def decode_head(line: bytes) -> BlockRecord | None:
    """Record in a line without its counts, objects and rows; None where the line is damaged."""
    match = _LINE.fullmatch(line)
    if match is None or int(match[1], 16) != zlib.crc32(match[2]):
        return None
    return _head(json.loads(match[2].partition(_AFTER_HEAD)[0] + b"}"))


def _head(body: Mapping[str, Any]) -> BlockRecord:
    return BlockRecord(
        block=body["block"],
        start=body["start"],
        stop=body["stop"],
        seconds=body["seconds"],
        worker=body["worker"],
        finished=body["finished"],
    )
