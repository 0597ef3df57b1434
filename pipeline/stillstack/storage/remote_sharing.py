"""Whether others can use an object store as this process can: every kind of request, tried."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Final

from stillstack.address import Address
from stillstack.errors import InputError, StillstackError
from stillstack.storage.cloud import again, client
from stillstack.storage.objects import RUN_FOLDER
from stillstack.storage.remote import TRIAL, RemoteObjects
from stillstack.storage.store_faults import store_faults

WORD: Final = "word"
# A store that shows a new object to others only later is no place for a run, but says so.
_PATIENCE_SECONDS: Final = 10.0


@contextlib.contextmanager
def store_meeting(output: Address) -> Iterator[Address]:
    """Place under an output's ``run/``, with a word in it; removed at the end.

    What a killed process leaves there is removed by the next run.

    Raises
    ------
    StillstackError
        If this process may not do there what a run does, or the store does not do what it is asked.
    """
    token = f"{TRIAL}{uuid.uuid4().hex}"
    place = Address(f"{output.url}/{RUN_FOLDER}/{token}", output.options)
    try:
        try:
            try_requests(place, WORD)
        except OSError as error:
            raise InputError(
                f"{output} is no place for a run: {error}.",
                consequence="Two runs could overwrite each other, or lose what the other wrote.",
                cure="Update the store's server, or choose an output elsewhere.",
            ) from error
        yield place
    finally:
        with contextlib.suppress(StillstackError):
            RemoteObjects(place).remove("")


def find_word(place: Address, name: str) -> float:
    """Seconds until a word is seen that another process left.

    Raises
    ------
    OSError
        If it is not seen, or something else is.
    """
    began = time.monotonic()
    while (found := _read(place, name)) != name.encode():
        if found is not None:
            msg = f"{place}/{name} holds something else than what was written"
            raise OSError(msg)
        if time.monotonic() - began > _PATIENCE_SECONDS:
            msg = f"{place}/{name} is not seen"
            raise FileNotFoundError(msg)
        time.sleep(0.1)
    return time.monotonic() - began


def words_not_seen(place: Address, names: Iterable[str]) -> list[str]:
    """Names that others left as words, and that are not seen from here."""
    return [name for name in names if _read(place, name) != name.encode()]


def try_requests(place: Address, name: str) -> None:
    """Leave a word; and write on condition, replace and delete an object, as a run does.

    Raises
    ------
    StillstackError
        If the store forbids it, or does not answer within seconds.
    OSError
        If it does something else than what it was asked.
    """
    _put(place, name, name.encode())
    if _read(place, name) != name.encode():
        msg = f"{place}/{name} does not hold what was just written"
        raise OSError(msg)
    key = f"{name}.once"
    first = _put(place, key, b"first", "create")
    if first is None or _put(place, key, b"second", "create") is not None:
        msg = "objects are written that were to be written only if there are none (If-None-Match)"
        raise OSError(msg)
    if _put(place, key, b"third", first) is None or _put(place, key, b"fourth", first) is not None:
        msg = "objects are not replaced just if they are what they were thought to be (If-Match)"
        raise OSError(msg)
    with store_faults(place, "be cleared"):
        import obstore

        again(lambda: obstore.delete(client(place, patient=False), key))
    if _read(place, key) is not None:
        msg = f"{place}/{key} is still there after it was deleted"
        raise OSError(msg)


def _put(place: Address, key: str, data: bytes, mode: Any = "overwrite") -> dict[str, Any] | None:
    """Version of what was written; None where the condition was not met."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    store = client(place, patient=False)
    try:
        with store_faults(place, "be written"):
            made = again(lambda: obstore.put(store, key, data, mode=mode, use_multipart=False))
            return {name: value for name, value in made.items() if value is not None}
    except (AlreadyExistsError, PreconditionError):
        # an answer that was lost makes the library ask again, and find what it wrote itself
        if _read(place, key) != data:
            return None
        with store_faults(place, "be read"):
            return {"e_tag": again(lambda: obstore.head(store, key))["e_tag"]}


def _read(place: Address, key: str) -> bytes | None:
    import obstore

    store = client(place, patient=False)
    try:
        with store_faults(place, "be read"):
            return again(lambda: bytes(obstore.get(store, key).bytes()))
    except FileNotFoundError:
        return None
