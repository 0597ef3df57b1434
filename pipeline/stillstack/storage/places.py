"""What keeps the objects and ledgers of a place: a file system, or an object store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stillstack.address import Address, Location, located
from stillstack.storage.ledger import AnyLedger, Ledger
from stillstack.storage.objects import RUN_FOLDER, LocalObjects, Objects
from stillstack.storage.remote import RemoteObjects
from stillstack.storage.remote_ledger import RemoteLedger


def objects_at(
    place: str | Location, *, durable: bool = True, assure: Callable[[], None] | None = None
) -> Objects:
    """Objects of a place.

    Parameters
    ----------
    place
        A path or an address.
    durable
        Sync what is written; an object store always does.
    assure
        Raises where the lock on the place is lost; for its holder.
    """
    found = located(place)
    if isinstance(found, Address):
        return RemoteObjects(found, assure)
    return LocalObjects(found, durable=durable)


def ledger_of(objects: Objects, stage: str, *, durable: bool) -> AnyLedger:
    """Ledger of a stage."""
    if isinstance(objects, RemoteObjects):
        return RemoteLedger(objects, stage)
    return Ledger(Path(str(objects.place)) / RUN_FOLDER / f"ledger-{stage}.jsonl", durable=durable)


def stages_of(objects: Objects) -> tuple[str, ...]:
    """Names of the stages that have a ledger, sorted."""
    found = (name.partition(".")[0] for name in objects.names(RUN_FOLDER))
    return tuple(
        sorted(name.removeprefix("ledger-") for name in found if name.startswith("ledger-"))
    )


def file_beside(place: Location, ending: str) -> Path:
    """File beside a run, ``RUN<ending>`` for ``RUN.zarr``; in this folder for one at an address.

    Examples
    --------
    >>> file_beside(Path("data/monday.zarr"), ".html").as_posix()
    'data/monday.html'
    """
    folder = place.parent if isinstance(place, Path) else Path()
    return folder / f"{place.name.removesuffix('.zarr') or place.name}{ending}"
