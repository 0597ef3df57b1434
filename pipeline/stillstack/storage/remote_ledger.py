"""The ledger in a store that cannot append: one numbered object for each line.

Each is written only if there is none of its number. So nothing is ever written over, two writers
cannot both have a number, and a gap in the numbers says that an object was lost.
"""

from __future__ import annotations

import re
import time
from typing import Final

from stillstack.address import Address
from stillstack.errors import RunFaultError
from stillstack.storage.ledger import (
    AnyLedger,
    BlockRecord,
    Glance,
    encode_record,
    heads_of,
    records_of,
)
from stillstack.storage.objects import RUN_FOLDER
from stillstack.storage.remote import RemoteObjects

# To read every object of a long ledger takes minutes, to list them seconds.
_GLANCED: Final = 256
_NUMBER: Final = re.compile(r".*/(\d{10})\.json")


class RemoteLedger(AnyLedger):
    """Append-only record of a stage's blocks. One writer: the holder of the run's lock.

    Parameters
    ----------
    objects
        Where the run is.
    stage
        Name of the stage.

    Attributes
    ----------
    seconds_syncing : float
        Time spent in writing so far.
    """

    def __init__(self, objects: RemoteObjects, stage: str) -> None:
        self._objects = objects
        self.folder = f"{RUN_FOLDER}/ledger-{stage}"
        self.seconds_syncing = 0.0
        self._next: int | None = None

    def append(self, record: BlockRecord) -> None:
        """Add a record; when this returns the store has it.

        Raises
        ------
        RunFaultError
            Another writer has added a record meanwhile.
        """
        began = time.perf_counter()
        line = encode_record(record)
        if self._next is None:
            numbers = [_number_of(key) for key in self._found()]
            self._next = max(numbers, default=-1) + 1
        key = f"{self.folder}/{self._next:010d}.json"
        if not self._objects.create(key, line):
            raise RunFaultError(
                f"Another process writes the ledger of {self._objects.place}: it has added number "
                f"{self._next}.",
                consequence="This run stopped; nothing of the other one was touched.",
                cure="See who writes there before you run the same command again.",
            )
        self._next += 1
        self.seconds_syncing += time.perf_counter() - began

    def records(self) -> dict[int, BlockRecord]:
        """Return records by block; the last of several for one. Damaged objects do not count."""
        found = self._found()
        lines = _lines(self._objects.address, found)
        return records_of(lines[key] for key in found if key in lines)

    def glance(self) -> Glance:
        """Return what is known without reading rows; of a long ledger its end alone."""
        found = self._found()
        keys = list(found)[-_GLANCED:]
        lines = _lines(self._objects.address, {key: found[key] for key in keys})
        records = heads_of(lines[key] for key in keys if key in lines)
        return Glance(records, len(found) - len(keys))

    def close(self) -> None:
        """Look again at the next `append` which number is free."""
        self._next = None

    def _found(self) -> dict[str, str]:
        """Keys of the ledger's objects in the order of their numbers, and their versions."""
        listed = self._objects.listed(self.folder)
        return {
            str(item["path"]): f"{item['e_tag']} {item['last_modified']}"
            for item in listed
            if _NUMBER.fullmatch(str(item["path"]))
        }


_KEPT: Final[dict[tuple[Address, str], tuple[str, bytes]]] = {}
_KEPT_BYTES: Final = 64 * 2**20


def _lines(address: Address, found: dict[str, str]) -> dict[str, bytes]:
    """Contents of objects, of which only those that are new to this process are read.

    A numbered object never changes, and its version would tell. What a long ledger holds is not
    kept, so that the memory of a run does not grow with its length.
    """
    lines = {
        key: kept[1]
        for key, version in found.items()
        if (kept := _KEPT.get((address, key))) is not None and kept[0] == version
    }
    read = RemoteObjects(address).read_many([key for key in found if key not in lines])
    lines.update(read)
    if sum(map(len, lines.values())) > _KEPT_BYTES:
        _KEPT.clear()
    else:
        for other in [at for at in _KEPT if at[0] != address]:
            del _KEPT[other]
        _KEPT.update({(address, key): (found[key], data) for key, data in read.items()})
    return lines


def _number_of(key: str) -> int:
    match = _NUMBER.fullmatch(key)
    return int(match[1]) if match else -1
