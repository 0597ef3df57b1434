"""Whether others see an output as this process does: words that are left there and found."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from stillstack.address import Address, Location, located
from stillstack.errors import InputError
from stillstack.storage.objects import RUN_FOLDER, sync_folder
from stillstack.storage.remote_sharing import (
    WORD,
    find_word,
    store_meeting,
    try_requests,
    words_not_seen,
)

# A network file system shows a new file to other machines when it has asked again.
_PATIENCE_SECONDS = 10.0


@contextlib.contextmanager
def meeting_place(output: str | Location) -> Iterator[Location]:
    """Place where a run will write, or beside it, with a word in it; removed at the end.

    Parameters
    ----------
    output
        A folder, or an address in an object store.

    Raises
    ------
    StillstackError
        If it cannot be made, or may not, or an object store does not do what it is asked.
    """
    found = located(output)
    meeting = store_meeting(found) if isinstance(found, Address) else meeting_folder(found)
    with meeting as place:
        yield place


@contextlib.contextmanager
def meeting_folder(output: Path) -> Iterator[Path]:
    """Folder where a run will write, or beside it; as `meeting_place`.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    output = output.absolute()
    places = (output / RUN_FOLDER, *output.parents)
    place = next(folder for folder in places if folder.is_dir())
    folder = place / f".stillstack-doctor-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        _leave(folder, WORD)
    except OSError as error:
        raise InputError(
            f"{place} cannot be written: {error.strerror or error}.",
            consequence="A run would stop before its first block.",
            cure="Choose another output, or change the permissions.",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def meet(place: str | Location, name: str) -> float:
    """Find the word, and leave one as a run writes; in an object store try all that a run does.

    In a folder that is beside, synced, renamed, synced.

    Returns
    -------
    Seconds until the word could be seen.

    Raises
    ------
    OSError
        If it cannot be seen, or nothing can be left.
    StillstackError
        If an object store forbids it or does not answer.
    """
    found = located(place)
    if isinstance(found, Address):
        seconds = find_word(found, WORD)
        try_requests(found, name)
        return seconds
    seconds = _find(found, WORD)
    _leave(found, name)
    return seconds


def unmet(place: str | Location, names: Iterable[str]) -> list[str]:
    """Names that were left by others and cannot be seen from here."""
    found = located(place)
    if isinstance(found, Address):
        return words_not_seen(found, names)
    missing = []
    for name in names:
        try:
            _find(found, name)
        except OSError:
            missing.append(name)
    return missing


def _leave(folder: Path, name: str) -> None:
    part = folder / f"{name}.part"
    with part.open("xb", buffering=0) as stream:
        stream.write(name.encode())
        os.fsync(stream.fileno())
    part.replace(folder / name)
    sync_folder(folder)


def _find(folder: Path, name: str) -> float:
    began = time.monotonic()
    while True:
        try:
            if (folder / name).read_text() != name:
                msg = f"{folder / name} holds something else than what was written"
                raise OSError(msg)
            return time.monotonic() - began
        except FileNotFoundError:
            if time.monotonic() - began > _PATIENCE_SECONDS:
                raise
            time.sleep(0.1)
