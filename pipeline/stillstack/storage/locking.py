"""One run per output: a lock that the kernel frees with its process, or a lease in a store."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from filelock import FileLock, Timeout

from stillstack.address import Address, Location, located
from stillstack.errors import InputError
from stillstack.storage.cloud import check_reachable
from stillstack.storage.identity import refuse_foreign
from stillstack.storage.lease import Lease, take_lease
from stillstack.storage.objects import RUN_FOLDER
from stillstack.storage.process import this_process

HOLDER: Final = f"{RUN_FOLDER}/holder.json"
"""Says who holds the lock on a folder."""


class RunLock:
    """Held from `lock_run` until `release`, or until the process ends in whatever way.

    Attributes
    ----------
    path : Path or Address
        The output it locks.
    """

    def __init__(self, path: Location, lock: FileLock | Lease) -> None:
        self.path: Any = path  # which of the two, whoever asked for the lock knows
        self._lock = lock

    @property
    def is_held(self) -> bool:
        """Whether this object still holds the lock."""
        return bool(self._lock.is_locked)

    def assure(self) -> None:
        """Raise RunFaultError where another process may have taken the lock over.

        The kernel does not do that; in an object store it can happen to a run that was asleep.
        """
        if isinstance(self._lock, Lease):
            self._lock.assure()

    def release(self) -> None:
        """Let others run on this output."""
        if self.is_held and isinstance(self.path, Path):
            _holder_file(self.path).unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def lock_run(path: str | Location) -> RunLock:
    """Lock on an output, taken at once or refused.

    Makes the output's folder and its ``run/`` where they are not there yet, and nothing else.

    Raises
    ------
    InputError
        Another process holds it, the folder belongs to something else, or it cannot be written.
    """
    path = located(path)
    if isinstance(path, Address):
        check_reachable(path, writing=True)
        refuse_foreign(path)
        return RunLock(path, take_lease(path))
    file = path / RUN_FOLDER / "lock"
    # Not thread_local: whoever finishes the run may release it from another thread.
    lock = FileLock(file, timeout=0, thread_local=False)
    try:
        refuse_foreign(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{path} is being written by {_holder(path)}.",
            consequence="Two runs on one output would overwrite each other: nothing was started.",
            cure="Wait for it to end, stop it, or choose another output.",
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}.",
            consequence="The run was not started.",
            cure="Choose an output in a folder that you may write to.",
        ) from error
    holder = {**this_process(), "since": time.time()}
    with suppress(OSError):  # it only tells others who writes
        _holder_file(path).write_text(json.dumps(holder))
    return RunLock(path, lock)


def _holder_file(path: Path) -> Path:
    return path / HOLDER


def _holder(path: Path) -> str:
    try:
        holder = json.loads(_holder_file(path).read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it holds the lock and has not said so yet
