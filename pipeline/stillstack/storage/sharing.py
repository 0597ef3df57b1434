"""Whether others see a folder as this process does: words that are left there and found."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from stillstack.errors import InputError
from stillstack.storage.objects import RUN_FOLDER, sync_folder

_WORD = "word"
# A network file system shows a new file to other machines when it has asked again.
_PATIENCE_SECONDS = 10.0


@contextlib.contextmanager
def meeting_folder(output: str | Path) -> Iterator[Path]:
    """Folder where a run will write, or beside it, with a word in it; removed at the end.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    output = Path(output).absolute()
    places = (output / RUN_FOLDER, *output.parents)
    place = next(folder for folder in places if folder.is_dir())
    folder = place / f".stillstack-doctor-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
        _leave(folder, _WORD)
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


def meet(folder: str | Path, name: str) -> float:
    """Find the word, and leave one as blocks are written: beside, synced, renamed, synced.

    Returns
    -------
    Seconds until the word could be seen.

    Raises
    ------
    OSError
        If it cannot be seen, or nothing can be left.
    """
    folder = Path(folder)
    seconds = _find(folder, _WORD)
    _leave(folder, name)
    return seconds


def unmet(folder: str | Path, names: Iterator[str] | list[str]) -> list[str]:
    """Names that were left by others and cannot be seen from here."""
    missing = []
    for name in names:
        try:
            _find(Path(folder), name)
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
