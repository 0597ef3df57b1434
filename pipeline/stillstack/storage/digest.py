"""Digest of what a run or a stack says: equal digests, equal results."""

from __future__ import annotations

import hashlib
import json

from stillstack.address import Location, located
from stillstack.storage.identity import read_attributes
from stillstack.storage.objects import METADATA, RUN_FOLDER
from stillstack.storage.places import objects_at


def digest_store(path: str | Location) -> str:
    """Hex digest of all arrays' metadata and stored bytes, and of the group's attributes.

    Leaves out ``run/``, where timings and places live, so that an interrupted run that was
    finished later has the digest of one that was not disturbed.
    """
    place = located(path)
    objects = objects_at(place)
    digest = hashlib.sha256()
    for key in objects.keys():  # noqa: SIM118  # a method, and no mapping
        if key.partition("/")[0] == RUN_FOLDER or key == METADATA:
            continue
        digest.update(f"{key}\n".encode())
        digest.update(hashlib.sha256(objects.read(key) or b"").digest())
    attributes = json.dumps(read_attributes(place), sort_keys=True)
    digest.update(attributes.encode())
    return digest.hexdigest()
