"""Digest of what a run or a stack says: equal digests, equal results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from stillstack.storage.identity import read_attributes
from stillstack.storage.objects import METADATA, RUN_FOLDER


def digest_store(path: str | Path) -> str:
    """Hex digest of all arrays' metadata and stored bytes, and of the group's attributes.

    Leaves out ``run/``, where timings and places live, so that an interrupted run that was
    finished later has the digest of one that was not disturbed.
    """
    root = Path(path)
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*")):
        key = file.relative_to(root)
        if key.parts[0] == RUN_FOLDER or not file.is_file() or key == Path(METADATA):
            continue
        digest.update(f"{key.as_posix()}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    attributes = json.dumps(read_attributes(root), sort_keys=True)
    digest.update(attributes.encode())
    return digest.hexdigest()
