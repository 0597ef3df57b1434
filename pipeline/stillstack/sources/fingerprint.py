"""Cheap evidence that files are still the same: sizes and times of modification."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def stamp(path: str | Path) -> str:
    """Size and time of modification of one file, or ``absent``.

    The path itself is no part of it.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # a Path takes longer to make than to look at
    except OSError:
        return "absent"
    return f"{status.st_size} {status.st_mtime_ns}"


def digest(parts: Iterable[str]) -> str:
    """Hex digest of a sequence of texts; where one ends and the next begins matters.

    Examples
    --------
    >>> digest(["ab", "c"]) == digest(["a", "bc"])
    False
    """
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode(errors="surrogateescape"))
        total.update(b"\0")
    return total.hexdigest()
