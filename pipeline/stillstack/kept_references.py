"""References of a run as its processes come by them: from its store, prepared once if possible."""

from __future__ import annotations

import logging
import math
import socket
import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stillstack.address import Address
from stillstack.errors import RunFaultError
from stillstack.kernels.given import given_reference
from stillstack.kernels.registration import Reference, prepare_reference
from stillstack.storage import HELD_REFERENCES, RunStore

_LOG: Final = logging.getLogger(__name__)
_REFERENCES: Final[dict[str, Reference]] = {}
_REFERENCE_LOCK: Final = threading.Lock()


@dataclass(frozen=True)
class KeptReference:
    """Names one reference of a run's store.

    Parameters
    ----------
    digest
        Of the reference; of a group's, a name that no other has.
    sha256
        Of the object in which it is kept, made ready; empty where it is not.
    group
        Its place among several references; None where there is one.
    """

    digest: str
    sha256: str = ""
    group: int | None = None


def reference_in(store_path: str | Address, kept: KeptReference) -> Reference:
    """Reference of a run, as the coordinator prepared it, read once in each process.

    It is prepared here where what is kept is not what was named, which a run survives; and that of
    a group where no other worker has done so. A few are held: blocks of one come one after another.

    Raises
    ------
    RunFaultError
        If what is prepared here is not the reference of that name.
    """
    with _REFERENCE_LOCK:
        held = _REFERENCES.pop(kept.digest, None)
        while held is None and len(_REFERENCES) >= HELD_REFERENCES:
            # room is made before: the one that was not used for longest goes
            del _REFERENCES[next(iter(_REFERENCES))]
        _REFERENCES[kept.digest] = held or _read_or_prepared(store_path, kept)
        return _REFERENCES[kept.digest]


def _read_or_prepared(store_path: str | Address, kept: KeptReference) -> Reference:
    store = RunStore.view(store_path)
    found = None
    if kept.sha256 or kept.group is not None:
        found = store.prepared.load(kept.digest, kept.sha256)
    if found is not None:
        return found
    made = stored_reference(store, kept.group)
    if kept.group is not None:  # prepared by whichever worker needs it first, for the others
        store.prepared.keep(made, kept.digest)
        return made
    if kept.sha256:
        _LOG.warning("%s: the prepared reference is not there", store_path)
    refuse_other_reference(made, kept.digest, store_path)
    return made


def stored_reference(store: RunStore, group: int | None = None) -> Reference:
    """Prepare a reference of a run from what its store holds, and nothing else.

    Parameters
    ----------
    store
        Of the run.
    group
        Which of several references; the one that all shifts refer to, if None.
    """
    image, arguments = _reference_arguments(store, group)
    return prepare_reference(image, **arguments)


def stored_digest(store: RunStore) -> str:
    """Digest of the reference of a run, from what its store holds: without preparing it."""
    image, arguments = _reference_arguments(store, None)
    return given_reference(image, **arguments).digest


def _reference_arguments(store: RunStore, group: int | None) -> tuple[Any, dict[str, Any]]:
    """Image of a reference, and everything else that it is prepared with."""
    settings = dict(store.attributes["registration"])
    which: Any = ...
    if isinstance(settings["n_frames"], list):  # one for each reference, that one first
        which = group or 0
        settings["n_frames"] = settings["n_frames"][which]
        if which and "sum_frames" in store.attributes:
            settings = settings_of_sums(settings, int(store.attributes["sum_frames"]))
    image, valid = (
        np.asarray(store.open_array(name)[which]) for name in ("reference", "reference_valid")
    )
    return image, {"valid": valid, "frame_valid": store.read("valid"), **settings}


def settings_of_sums(settings: dict[str, Any], k: int) -> dict[str, Any]:
    """Keywords of `prepare_reference` for sums of k frames: rules have been followed in them."""
    read_noise = float(settings["read_noise"]) * math.sqrt(k)
    return {**settings, "read_noise": read_noise, "below": None, "above": None, "equal": []}


def refuse_other_reference(reference: Reference, digest: str, place: str | Address) -> None:
    """Raise RunFaultError unless a reference is the one that frames were registered to so far."""
    if reference.digest != digest:
        raise RunFaultError(
            f"The reference in {place} has the digest {reference.digest} on "
            f"{socket.gethostname()}, and {digest} where the run began.",
            consequence="Frames would be registered to another image.",
            cure="Use the same version of stillstack everywhere, or start a new output.",
        )
