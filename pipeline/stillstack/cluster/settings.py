"""What every worker that is started here gets: thread caps, and how it treats memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

THREAD_CAPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "VECLIB_MAXIMUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
        "BLOSC_NTHREADS": "1",
        "ZARR_ASYNC__CONCURRENCY": "4",
        "ZARR_THREADING__MAX_WORKERS": "2",
        # Memory of a frame is used again for the next one, and what is free goes back to the
        # system in bounded steps. Dask's own 64 KiB doubled the CPU time of every kernel: each
        # array of a megabyte was asked for and cleared anew.
        "MALLOC_MMAP_THRESHOLD_": "33554432",
        "MALLOC_TRIM_THRESHOLD_": "67108864",
    }
)
"""Environment of every worker that is started here; what the user has set goes before."""

PAUSE_FRACTION: Final = 0.8
"""Share of its memory limit at which a worker takes no further task."""

SETTINGS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "distributed.nanny.pre-spawn-environ": dict(THREAD_CAPS),
        # A worker's death is blamed on every task it held. Blocks that were blamed too often are
        # submitted again, and then looked at alone (see execute.py), so that little patience
        # here harms no innocent block, and a frame that kills workers is soon found.
        "distributed.scheduler.allowed-failures": 2,
        # Tasks return small records, so there is nothing to spill.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": PAUSE_FRACTION,
        "distributed.worker.memory.terminate": 0.95,
        # A worker whose process was killed is started anew by its nanny. Dask closes the nanny of
        # a worker that is not back in time; its own 15 s are over on a busy machine before Python
        # has imported anything, and then there is no worker at all.
        "distributed.deploy.lost-worker-timeout": "60s",
        # Every process measures its event loop 50 times a second. Once tells as well that a loop
        # hangs, which Dask says after 3 s.
        "distributed.admin.tick.interval": "1s",
    }
)
"""Of Dask, as long as a cluster that was made here lives: workers are started later, too."""


def settings_of(*, profiled: bool) -> dict[str, Any]:
    """Settings of Dask for a cluster.

    Parameters
    ----------
    profiled
        Whether Dask looks 100 times a second at what each process does, for a performance report.
        With the ticks this took 4 % of a core in each worker, and as much in the coordinator.
    """
    return {**SETTINGS, "distributed.worker.profile.enabled": profiled}


@contextlib.contextmanager
def environment_kept() -> Iterator[Callable[[], None]]:
    """Undo what starting workers does to this process's environment.

    Nannies set the thread caps in their own process before they spawn a worker, which here is the
    user's session.
    """
    names = (*THREAD_CAPS, "PYTHONHASHSEED", "__DASK_PARENT_PID")
    before = {name: os.environ.get(name) for name in names}

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    try:
        yield restore
    finally:
        restore()
