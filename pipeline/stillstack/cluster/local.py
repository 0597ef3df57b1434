"""Workers on this machine: processes of one thread. The caller's environment stays as it is."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from typing import Any, Final

import dask
from distributed import Client, LocalCluster, WorkerPlugin

from stillstack.cluster import settings
from stillstack.cluster.adaptive import keep_workers
from stillstack.errors import RunFaultError

_WORK: Final = "stillstack.blockwork"
_TRIES: Final = 4
_LOG: Final = logging.getLogger(__name__)


@contextlib.contextmanager
def local_client(
    workers: int,
    memory_limit: int | None,
    adapt: tuple[int, int] | None = None,
    *,
    profiled: bool = False,
) -> Iterator[Client]:
    """Client of workers on this machine, closed with them at the end."""
    fewest, most = adapt or (workers, workers)
    with (
        settings.environment_kept() as restore_environment,
        _script_left_alone(),
        dask.config.set(settings.settings_of(profiled=profiled)),
        contextlib.ExitStack() as stack,
    ):
        cluster = stack.enter_context(_started(fewest, memory_limit))
        restore_environment()
        # also where their number is fixed: workers that are lost with their nanny are replaced
        keep_workers(cluster, fewest, most)
        client = stack.enter_context(Client(cluster, set_as_default=False))
        client.register_plugin(IgnoreInterrupts())
        yield client


def _started(workers: int, memory_limit: int | None) -> LocalCluster:
    """Cluster whose workers have all come; one that dies while it starts is no reason to give up.

    Raises
    ------
    RunFaultError
        If they die again and again.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                memory_limit=memory_limit or 0,
                # so that a worker takes no block before it has imported what blocks need
                preload=_WORK,
                # any free port; the scheduler's own default, 8787, may be in use
                dashboard_address="127.0.0.1:0",
                # what goes wrong in a task is raised, or ends up in the run's notes
                silence_logs=logging.CRITICAL,
            )
        except RuntimeError as error:
            if not tries_left:
                raise RunFaultError(
                    f"Worker processes die while they start: {error}",
                    consequence="No block was begun; what was done before is kept.",
                    cure="Look whether memory is short (fewer workers), and run the same command "
                    "again.",
                ) from error
            _LOG.warning("a worker process died while it started; the cluster is started again")
    raise AssertionError  # the last try returns or raises


@contextlib.contextmanager
def _script_left_alone() -> Iterator[None]:
    """Keep workers from running the caller's script again.

    A process that is spawned imports the script that its parent runs, which in one without
    ``if __name__ == "__main__"`` starts the run anew, in each worker. Workers need nothing of it,
    and multiprocessing leaves a program alone that is the ``__main__`` of a package. So it is
    called that as long as the cluster lives, also where it was started by ``python -m``.
    """
    script = sys.modules["__main__"]
    before = getattr(script, "__spec__", None)
    script.__spec__ = ModuleSpec("stillstack.__main__", None)
    try:
        yield
    finally:
        script.__spec__ = before


class IgnoreInterrupts(WorkerPlugin):
    """Leaves Ctrl-C to the coordinator: a terminal sends it to the workers as well."""

    name = "stillstack-ignore-interrupts"

    def setup(self, worker: Any) -> None:
        """Ignore SIGINT in a worker that has its process for itself."""
        del worker
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
