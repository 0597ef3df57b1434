"""Checks of the place where a run will write, before anything starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from stillstack.address import Address, Location, located
from stillstack.errors import InputError
from stillstack.quantities import byte_size
from stillstack.storage.cloud import check_reachable


def check_writable(path: str | Location) -> None:
    """Raise InputError where an output cannot be made, RunFaultError where nothing answers."""
    found = located(path)
    if isinstance(found, Address):
        check_reachable(found, writing=True)
        return
    place = nearest_folder(found)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} cannot be written: {place} is not a folder that you may write to.",
            consequence="The run was not started.",
            cure="Choose another output, or change the permissions.",
        )


def free_bytes(path: str | Location) -> int | None:
    """Bytes that are free where an output will be, as the file system says (no quotas).

    None for an object store, which has no end that it would tell.
    """
    found = located(path)
    return None if isinstance(found, Address) else shutil.disk_usage(nearest_folder(found)).free


def check_space(path: str | Location, needed_bytes: int) -> None:
    """Raise InputError where fewer bytes are free than an output may need."""
    free = free_bytes(path)
    if free is not None and free < needed_bytes:
        raise InputError(
            f"{path} may need {byte_size(needed_bytes)}, and {byte_size(free)} are free there.",
            consequence="The run was not started: it would stop on a full disk.",
            cure="Free some space, or choose an output on another disk.",
        )


def nearest_folder(path: str | Path) -> Path:
    """Folder that exists and that an output will lie in, however deep."""
    path = Path(path).absolute()
    return next(place for place in (path, *path.parents) if place.exists())
