"""Who writes to an output at this moment, found out without a lock or a change."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stillstack.address import Address, Location
from stillstack.storage.lease import KEY, STALE_SECONDS
from stillstack.storage.locking import HOLDER
from stillstack.storage.places import objects_at
from stillstack.storage.process import is_alive
from stillstack.storage.remote import RemoteObjects


@dataclass(frozen=True)
class Writer:
    """The process that has an output locked, or had it and died.

    Parameters
    ----------
    host, pid
        Which one.
    since
        When it took the lock, in seconds since 1970.
    alive
        Whether it lives; None where that cannot be told from here.
    """

    host: str
    pid: int
    since: float
    alive: bool | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def find_writer(place: Location) -> Writer | None:
    """Process that has an output locked, or died without unlocking it; None where there is none.

    Parameters
    ----------
    place
        The output.
    """
    found = _read(place)
    if found is None:
        return None
    alive = is_alive(found)
    if alive is None and isinstance(place, Address):
        # of a store's clock and this machine's the difference is small against a minute
        alive = _seconds_old(place) <= STALE_SECONDS
    with suppress(KeyError, TypeError, ValueError):
        return Writer(str(found["host"]), int(found["pid"]), float(found["since"]), alive)
    return None


def _read(place: Location) -> dict[str, Any] | None:
    text = objects_at(place).read(KEY if isinstance(place, Address) else HOLDER)
    with suppress(ValueError, TypeError):
        found = json.loads(text or b"null")
        return found if isinstance(found, dict) else None
    return None


def _seconds_old(place: Address) -> float:
    written = RemoteObjects(place).modified(KEY)
    return float("inf") if written is None else time.time() - written
