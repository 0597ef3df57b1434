"""The lock of a run in an object store: an object that one writer alone can make, kept alive.

A kernel frees the lock of a process that dies; a store does not. So the holder says who it is and
writes the object again every few seconds. It is stale when its process is known to be dead, or when
the store has not seen it for a minute, by the store's own clock. Whoever takes it over replaces
just the version that was found stale, so that of several one succeeds; and a holder that was only
asleep finds that out before it writes anything more.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from contextlib import suppress
from typing import Any, Final

from stillstack.address import Address
from stillstack.errors import InputError, RunFaultError, StillstackError
from stillstack.storage.cloud import again, client
from stillstack.storage.objects import RUN_FOLDER
from stillstack.storage.process import is_alive, this_process
from stillstack.storage.remote import PROBE
from stillstack.storage.store_faults import store_faults

KEY: Final = f"{RUN_FOLDER}/lock.json"
BEAT_SECONDS: Final = 10.0
STALE_SECONDS: Final = 60.0
# The holder stops writing well before others may think it dead.
_SURE_SECONDS: Final = 30.0
_RELEASE_SECONDS: Final = 20.0


class Lease:
    """Held from `take_lease` until `release`, or until it is lost to another process.

    Attributes
    ----------
    address : Address
        The output.
    """

    def __init__(self, address: Address, version: dict[str, Any], holder: dict[str, Any]) -> None:
        self.address = address
        self._version = version
        self._holder = holder
        self._confirmed = _now()
        self._lost = False
        self._ended = threading.Event()
        self._beating = threading.Lock()
        self._thread = threading.Thread(
            target=self._keep_alive, name="stillstack-lease", daemon=True
        )
        self._thread.start()

    @property
    def is_locked(self) -> bool:
        """Whether it is still held, as far as is known."""
        return not (self._lost or self._ended.is_set())

    def assure(self) -> None:
        """Raise RunFaultError unless it is certain that no other process may write."""
        if self.is_locked and _now() - self._confirmed > _SURE_SECONDS:
            self._beat()
        if not self.is_locked:
            raise RunFaultError(
                f"The lock on {self.address} is not held any more"
                + (": another process has taken it over." if self._lost else "."),
                consequence="This run stopped, so that two do not write to one output.",
                cure="See who writes there before you run the same command again.",
            )

    def release(self) -> None:
        """Let others run on this output."""
        self._ended.set()
        self._thread.join(_RELEASE_SECONDS)
        if self._lost or self._thread.is_alive():
            return  # it belongs to someone else, or the store does not answer
        with suppress(StillstackError, FileNotFoundError):
            # Only the version that is ours: one that was taken over belongs to someone else.
            if read_lock(self.address)[1] == self._version.get("e_tag"):
                _remove(self.address)

    def _keep_alive(self) -> None:
        while not self._ended.wait(BEAT_SECONDS) and not self._lost:
            # A store that does not answer is asked again at the next beat; `assure` decides.
            with suppress(StillstackError, FileNotFoundError):
                self._beat()

    def _beat(self) -> None:
        with self._beating:
            if not self.is_locked:
                return
            began = _now()
            version = _replace(self.address, _content(self._holder), self._version)
            if version is None:
                self._lost = True
            else:
                self._version, self._confirmed = version, began


def take_lease(address: Address) -> Lease:
    """Lock on an output, taken at once or refused.

    Raises
    ------
    InputError
        A run that lives holds it, or the store would let two have it.
    """
    holder = {**this_process(), "since": time.time(), "token": uuid.uuid4().hex}
    version = _create(address, _content(holder))
    if version is None:
        found, e_tag, seen_for = _look_at(address)
        if e_tag is not None and not _is_stale(found, seen_for):
            raise _refusal(address, found)
        version = _take_over(address, e_tag, _content(holder))
    if version is None:
        raise _refusal(address, read_lock(address)[0])
    if _create(address, b"{}") is not None:
        _remove(address)
        raise InputError(
            f"The store of {address} writes objects that were to be written only if there are none "
            "(If-None-Match).",
            consequence="Two runs on one output could overwrite each other: nothing was started.",
            cure="Update the store's server, or choose an output elsewhere.",
        )
    return Lease(address, version, holder)


def read_lock(address: Address) -> tuple[dict[str, Any], str | None]:
    """Return what the lock says of its holder, and its version; None where there is none."""
    import obstore

    try:
        with store_faults(address, "be read"):
            answer = again(lambda: obstore.get(client(address), KEY))
            text, e_tag = bytes(answer.bytes()), str(answer.meta["e_tag"])
    except FileNotFoundError:
        return {}, None
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found, e_tag
    return {}, e_tag


def _look_at(address: Address) -> tuple[dict[str, Any], str | None, float]:
    """Return what the lock says, its version, and its age in seconds by the store's clock."""
    import obstore

    found, e_tag = read_lock(address)
    probe = f"{RUN_FOLDER}/{PROBE}{uuid.uuid4().hex}"
    store = client(address)
    try:
        with store_faults(address, "be written"):
            again(lambda: obstore.put(store, probe, b"now", use_multipart=False))
            now = again(lambda: obstore.head(store, probe))["last_modified"]
            again(lambda: obstore.delete(store, probe))
            written = again(lambda: obstore.head(store, KEY))["last_modified"]
    except FileNotFoundError:
        return {}, None, 0.0
    return found, e_tag, float((now - written).total_seconds())


def _is_stale(found: dict[str, Any], age_seconds: float) -> bool:
    alive = is_alive(found)
    return age_seconds > STALE_SECONDS if alive is None else not alive


def _take_over(address: Address, e_tag: str | None, content: bytes) -> dict[str, Any] | None:
    if e_tag is None:
        return _create(address, content)
    return _replace(address, content, {"e_tag": e_tag})


def _create(address: Address, content: bytes) -> dict[str, Any] | None:
    """Make the lock; its version, or None where there is one already."""
    return _put(address, content, "create")


def _replace(address: Address, content: bytes, version: dict[str, Any]) -> dict[str, Any] | None:
    """Replace one version of the lock; the new version, or None where that is gone."""
    return _put(address, content, {k: v for k, v in version.items() if v is not None})


def _put(address: Address, content: bytes, mode: Any) -> dict[str, Any] | None:
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    try:
        with store_faults(address, "be locked"):
            return dict(again(lambda: obstore.put(client(address), KEY, content, mode=mode)))
    except (AlreadyExistsError, PreconditionError, FileNotFoundError):
        # An answer that was lost makes the library ask again, and find what it wrote itself.
        found, e_tag = read_lock(address)
        return {"e_tag": e_tag} if found and _content(found, beat=False) == content else None


def _remove(address: Address) -> None:
    import obstore

    with store_faults(address, "be unlocked"):
        obstore.delete(client(address), KEY)


def _content(holder: dict[str, Any], *, beat: bool = True) -> bytes:
    """Bytes of the lock: others at each beat, so that no two versions have the same e-tag."""
    if beat:
        holder = {**holder, "beat": uuid.uuid4().hex}
    return json.dumps(holder, sort_keys=True).encode()


def _refusal(address: Address, found: dict[str, Any]) -> InputError:
    who = (
        f"process {found['pid']} on {found['host']}"
        if {"pid", "host"} <= found.keys()
        else "another process"
    )
    return InputError(
        f"{address} is being written by {who}.",
        consequence="Two runs on one output would overwrite each other: nothing was started.",
        cure=f"Wait for it to end, stop it, or choose another output. The lock of a run that died "
        f"on another machine is free after {STALE_SECONDS:.0f} s.",
    )


def _now() -> float:
    # Goes on while the machine sleeps, as the store's clock does.
    return time.clock_gettime(time.CLOCK_BOOTTIME)
