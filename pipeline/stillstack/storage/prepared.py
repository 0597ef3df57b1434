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
    """References of one run, each under its digest.

    Parameters
    ----------
    objects
        Of the run's store. What is kept need not survive a power failure: it can be made again.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._known: dict[str, str] = {}

    def keep(self, reference: Reference) -> str:
        """SHA-256 of the object in which a reference is kept from now on, hexadecimal.

        For the coordinator alone.
        """
        parts = _packed(reference)
        sha256 = hashlib.sha256()
        for part in parts:
            sha256.update(part)
        staged = self._objects.stage(_key(reference.digest), sha256.digest(), *parts)
        self._objects.commit((staged,))
        self._known[reference.digest] = sha256.hexdigest()
        return self._known[reference.digest]

    def sha256_of(self, digest: str) -> str:
        """SHA-256 of the object with this digest; empty where there is none that is of use.

        Of use is what is whole and was made by these versions of the packages that decide.
        """
        if digest not in self._known:
            data = self._objects.read(_key(digest)) or b""
            sha256 = hashlib.sha256(memoryview(data)[_DIGEST_BYTES:])
            if len(data) <= _DIGEST_BYTES or sha256.digest() != data[:_DIGEST_BYTES]:
                return ""
            if _head(data)[0].get("versions") != deciding_versions():
                return ""
            self._known[digest] = sha256.hexdigest()
        return self._known[digest]

    def load(self, digest: str, sha256: str) -> Reference | None:
        """Reference with a digest; None where its object is not the one with this SHA-256.

        Its arrays are read-only.
        """
        data = self._objects.read(_key(digest))
        if data is None or len(data) <= _DIGEST_BYTES:
            return None
        if hashlib.sha256(memoryview(data)[_DIGEST_BYTES:]).hexdigest() != sha256:
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


def _key(digest: str) -> str:
    return f"{FOLDER}/{digest}"


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
