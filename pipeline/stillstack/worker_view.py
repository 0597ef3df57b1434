"""What one worker sees of a run's world, looked at in the worker and sent back as plain values."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import dask

from stillstack.address import Address
from stillstack.cluster import THREAD_CAPS, machine_size
from stillstack.errors import StillstackError
from stillstack.sources import Source
from stillstack.storage import meet

_LOOKING_SECONDS: Final = 120.0


@dataclass(frozen=True)
class InputView:
    """A source as one process sees it.

    Parameters
    ----------
    fingerprint
        Of the source, or why there is none.
    frame
        Digest of its first frame's pixels, or why that cannot be read.
    """

    fingerprint: str
    frame: str


@dataclass(frozen=True)
class WorkerView:
    """One worker.

    Parameters
    ----------
    host, name
        Its machine, and what its word in the meeting place is called.
    threads, cores
        Of the worker, and of its machine.
    memory_limit, pause, spill
        Bytes that it may use (0: no limit), the share of it at which it takes no further task (0:
        it never pauses), and whether it puts results on its disk.
    environment
        The thread caps that it was started with.
    scratch, scratch_free
        Its own folder, and bytes that are free there.
    seen
        The input.
    output_lag, output_fault
        Seconds until it saw what the coordinator wrote; why it cannot see it or write beside it.
    clock
        Its time, in seconds since 1970.
    """

    host: str
    name: str
    threads: int
    cores: int
    memory_limit: int
    pause: float
    spill: bool
    environment: Mapping[str, str]
    scratch: str
    scratch_free: int
    seen: InputView
    output_lag: float
    output_fault: str
    clock: float


def look_at_input(source: Source) -> InputView:
    """Look at a source from this process."""
    return InputView(_or_reason(source.fingerprint), _or_reason(lambda: _frame_digest(source)))


async def look_around(
    source: Source, place: str | Address | None, *, dask_worker: Any = None
) -> WorkerView:
    """Look at everything that a run needs of the worker in which this runs.

    A file system that hangs must not keep the worker from answering for ever.

    Raises
    ------
    TimeoutError
        If looking takes more than two minutes.
    """
    looking = asyncio.to_thread(_look_around, source, place, dask_worker)
    return await asyncio.wait_for(looking, _LOOKING_SECONDS)


def _look_around(source: Source, place: str | Address | None, worker: Any) -> WorkerView:
    host, (cores, _) = socket.gethostname(), machine_size()
    name = f"{host}-{os.getpid()}"
    lag, fault = 0.0, ""
    if place is not None:
        try:
            lag = meet(place, name)
        except StillstackError as error:
            fault = error.what.rstrip(".")
        except OSError as error:
            fault = f"{type(error).__name__}: {error}"
    spill = dask.config.get("distributed.worker.memory.spill")
    return WorkerView(
        host=host,
        name=name,
        threads=worker.state.nthreads,
        cores=cores,
        memory_limit=int(worker.memory_manager.memory_limit or 0),
        pause=float(dask.config.get("distributed.worker.memory.pause") or 0),
        spill=bool(spill),
        environment={cap: os.environ.get(cap, "") for cap in THREAD_CAPS},
        scratch=str(worker.local_directory),
        scratch_free=shutil.disk_usage(worker.local_directory).free,
        seen=look_at_input(source),
        output_lag=lag,
        output_fault=fault,
        clock=time.time(),
    )


def _frame_digest(source: Source) -> str:
    return hashlib.sha256(source.read(0, 1).tobytes()).hexdigest()


def _or_reason(step: Any) -> str:
    try:
        return str(step())
    except StillstackError as error:
        return error.what
    except Exception as error:  # noqa: BLE001  # whatever is wrong there, it is what was asked for
        return f"{type(error).__name__}: {error}"
