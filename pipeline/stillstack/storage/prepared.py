"""References made ready by the coordinator, kept beside a run's arrays for its workers.

To prepare a reference takes seconds and many times its memory; to read what came of it takes
neither. An object holds the SHA-256 of all that follows, a head (who made it, and the sizes of the
parts), a pickle, and the arrays of the reference, each where a processor likes it, so that they
are used as they were read, without a copy. Nothing but values is ever unpacked from it.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from stillstack.storage.objects import RUN_FOLDER, Objects
from stillstack.versions import deciding_versions

if TYPE_CHECKING:
    from stillstack.kernels.reference import Reference

FOLDER: Final = f"{RUN_FOLDER}/prepared"
HELD_REFERENCES: Final = 2
"""How many of them a worker holds at a time: blocks of one reference come one after the other."""

_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_ALIGNMENT: Final = 64
_VALUES: Final = {
    "stillstack.kernels.reference": {"Reference", "Settings"},
    "stillstack.kernels.validity": {"ValueRules"},
    "stillstack.kernels.levels": {"Level"},
    "stillstack.kernels.search": {"Search", "Transforms"},
    "stillstack.kernels.between": {"Between"},
    "numpy": {"ndarray", "dtype"},
    "numpy._core.numeric": {"_frombuffer"},
}
"""All that a prepared reference is made of, by module."""


class PreparedReferences:
    """References of one run, each under its digest or another name.

    Parameters
    ----------
    objects
        Of the run's store. What is kept need not survive a power failure: it can be made again.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._known: dict[str, str] = {}

    def keep(self, reference: Reference, name: str = "") -> str:
        """SHA-256 of the object in which a reference is kept from now on, hexadecimal.

        Parameters
        ----------
        reference
            What to keep.
        name
            Under which; its digest, if none is given.
        """
        name = name or reference.digest
        parts = _packed(reference)
        sha256 = hashlib.sha256()
        for part in parts:
            sha256.update(part)
        staged = self._objects.stage(_key(name), sha256.digest(), *parts)
        self._objects.commit((staged,))
        self._known[name] = sha256.hexdigest()
        return self._known[name]

    def sha256_of(self, name: str) -> str:
        """SHA-256 of the object of this name; empty where there is none that is of use.

        Of use is what is whole and was made by these versions of the packages that decide.
        """
        if name not in self._known:
            sha256 = _own_sha256(self._objects.read(_key(name)) or b"")
            if not sha256:
                return ""
            self._known[name] = sha256
        return self._known[name]

    def load(self, name: str, sha256: str = "") -> Reference | None:
        """Reference of a name, with read-only arrays; None where there is none.

        Parameters
        ----------
        name
            Under which it was kept.
        sha256
            Of the object that is wanted, and no other. If empty, any that is of use.
        """
        data = self._objects.read(_key(name)) or b""
        found = _sha256(data) if sha256 else _own_sha256(data)
        if not found or found != (sha256 or found):
            return None
        try:
            return _unpacked(data)
        except pickle.UnpicklingError:  # what holds more than values was made by something else
            return None

    def drop(self) -> None:
        """Remove them all: the run needs them no more. For the coordinator alone."""
        self._known.clear()
        if self._objects.names(FOLDER):
            self._objects.remove(FOLDER)


def _key(name: str) -> str:
    return f"{FOLDER}/{name}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(memoryview(data)[_DIGEST_BYTES:]).hexdigest()


def _own_sha256(data: bytes) -> str:
    """SHA-256 that an object says it has, if it has it and was made by these versions."""
    sha256 = _sha256(data)
    if len(data) <= _DIGEST_BYTES or sha256 != data[:_DIGEST_BYTES].hex():
        return ""
    return sha256 if _head(data)[0].get("versions") == deciding_versions() else ""


def _packed(reference: Reference) -> list[Any]:
    """Parts of an object, without its SHA-256: the size of the head, the head, and the rest."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(_bare(reference), protocol=5, buffer_callback=buffers.append)
    views: list[Any] = [pickled, *(buffer.raw() for buffer in buffers)]
    sizes = [memoryview(view).nbytes for view in views]
    head = json.dumps({"versions": deciding_versions(), "sizes": sizes}).encode()
    parts: list[Any] = [len(head).to_bytes(8, "little"), head]
    place = _DIGEST_BYTES + 8 + len(head)
    for view, size in zip(views, sizes, strict=True):
        gap = -place % _ALIGNMENT
        parts += [bytes(gap), view]
        place += gap + size
    # the last part of an object has some length, and no part has none
    return [part for part in (*parts, bytes(_ALIGNMENT)) if memoryview(part).nbytes]


def _bare(reference: Reference) -> Reference:
    """Return a reference without what was kept because it was needed: the same bytes always."""
    levels = tuple(replace(level, normals={}, patches={}) for level in reference.levels)
    return replace(reference, levels=levels)


def _head(data: bytes) -> tuple[dict[str, Any], int]:
    """Head of an object, and where it ends."""
    first = _DIGEST_BYTES + 8
    size = int.from_bytes(data[_DIGEST_BYTES:first], "little")
    head: dict[str, Any] = json.loads(data[first : first + size])
    return head, first + size


def _unpacked(data: bytes) -> Reference:
    pickled, *buffers = _views(data)
    reference: Reference = _Values(io.BytesIO(pickled), buffers=buffers).load()
    return reference


def _views(data: bytes) -> Iterator[memoryview]:
    head, place = _head(data)
    whole = memoryview(data)
    for size in head["sizes"]:
        place += -place % _ALIGNMENT
        yield whole[place : place + size]
        place += size


class _Values(pickle.Unpickler):
    """Unpickles values that a reference is made of, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _VALUES.get(module, ()):
            msg = f"{module}.{name} does not belong to a prepared reference"
            raise pickle.UnpicklingError(msg)
        return super().find_class(module, name)
