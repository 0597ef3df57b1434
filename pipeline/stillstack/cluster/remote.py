"""Workers on other machines: jobs of a batch system, hosts over SSH, or any Dask cluster class.

What a run sets for Dask (see `settings`) travels to the workers in their environment. Workers that
end, because their time is up or because the batch system took them, are replaced: the cluster is
told to keep a number of workers, not to start one.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Final

import dask
from distributed.core import Status
from distributed.deploy.spec import SpecCluster

from stillstack.cluster import settings
from stillstack.cluster.adaptive import keep_workers
from stillstack.config.cluster import ClusterConfig
from stillstack.errors import InputError, MissingExtraError, RunFaultError, StillstackError

# A worker ends itself so long before its job's time is up: a part of that, within limits.
_LIFETIME_MARGIN: Final = 0.1
_LEAST_MARGIN_SECONDS: Final = 60.0
_MOST_MARGIN_SECONDS: Final = 600.0


@contextlib.contextmanager
def remote_cluster(
    config: ClusterConfig, workers: int, memory_limit: int | None, *, profiled: bool = False
) -> Iterator[Any]:
    """Cluster that a config asks for, closed at the end.

    Parameters
    ----------
    config
        Its kind is slurm, ssh or class.
    workers
        Worker processes.
    memory_limit
        Bytes of each; None: not known.
    profiled
        Whether workers note what they do, for a performance report.

    Raises
    ------
    MissingExtraError
        If the package that makes such clusters is not installed.
    InputError
        If the options do not fit.
    RunFaultError
        If the cluster cannot be started.
    """
    make = {"slurm": _slurm, "ssh": _ssh, "class": _any_class}[config.kind]
    with (
        settings.environment_kept(),
        dask.config.set(settings.settings_of(profiled=profiled)),
        contextlib.ExitStack() as stack,
    ):
        with _explained(config):
            cluster = make(config, workers, memory_limit)
            stack.callback(cluster.close)
            if config.kind != "ssh":
                _start_workers(cluster, config, workers)
        yield cluster


@contextlib.contextmanager
def _explained(config: ClusterConfig) -> Iterator[None]:
    """Say what a cluster that cannot be started means to its user."""
    try:
        yield
    except StillstackError:
        raise
    except Exception as error:
        reason = _first_cause(error)
        if isinstance(reason, TypeError | ValueError):
            raise InputError(
                f"The cluster cannot be made with cluster.options "
                f"{sorted(config.options)}: {reason}",
                cure="Options are those of the Dask cluster class; correct them.",
            ) from error
        raise RunFaultError(
            f"The cluster ({config.kind}) could not be started: {reason}",
            consequence="Nothing was run.",
            cure="Mend that and run the same command again.",
        ) from error


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _start_workers(cluster: Any, config: ClusterConfig, workers: int) -> None:
    """Ask for workers, so that a refusal is heard here, and have them replaced when they end."""
    fewest, most = config.adapt or (workers, workers)
    processes = config.options.get("processes", 1)
    fewest, most = (-(-number // processes) * processes for number in (fewest, most))
    if isinstance(cluster, SpecCluster):
        cluster.sync(_scaled, cluster, max(fewest, 1))
    else:
        cluster.scale(max(fewest, 1))
    keep_workers(cluster, fewest, most)


async def _scaled(cluster: SpecCluster, n_workers: int) -> None:
    # `scale` alone only logs why a worker cannot be started: nobody waits for what it begins
    cluster.scale(n_workers)
    try:
        await cluster._correct_state()
    except Exception:
        for worker in cluster.workers.values():
            if worker.status == Status.created:  # what never started need not be closed
                worker.status = Status.failed
        raise


def _slurm(config: ClusterConfig, workers: int, memory_limit: int | None) -> Any:
    del workers
    try:
        with _ctrl_c_kept():
            from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise MissingExtraError("dask-jobqueue", "slurm", "cluster.kind: slurm") from None
    chosen: dict[str, Any] = {"cores": 1, "processes": 1, **config.options}
    if "memory" not in chosen:
        chosen["memory"] = f"{(memory_limit or 2**30) * chosen['processes']}B"
    # any free port; Dask's own default, 8787, may be in use by another run
    scheduler = {"dashboard_address": ":0", **chosen.pop("scheduler_options", {})}
    given = list(chosen.pop("worker_extra_args", ()))
    prologue = [*environment_lines(), *chosen.pop("job_script_prologue", ())]
    return SLURMCluster(
        **chosen,
        walltime=config.walltime,
        scheduler_options=scheduler,
        worker_extra_args=[*lifetime_arguments(config.walltime), *given],
        job_script_prologue=prologue,
    )


@contextlib.contextmanager
def _ctrl_c_kept() -> Iterator[None]:
    """Undo that dask-jobqueue, when it is imported, has Ctrl-C end the process at once."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        # elsewhere Python does not let it be set, neither there nor here
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def lifetime_arguments(walltime: str) -> list[str]:
    """Arguments with which a worker ends itself, its work handed on, before its job is killed.

    Examples
    --------
    >>> lifetime_arguments("01:00:00")
    ['--lifetime', '3240s', '--lifetime-stagger', '180s']
    """
    seconds = walltime_seconds(walltime)
    margin = min(max(_LIFETIME_MARGIN * seconds, _LEAST_MARGIN_SECONDS), _MOST_MARGIN_SECONDS)
    margin = min(margin, seconds / 2)
    # never beyond the margin: Dask draws the end from both sides of the lifetime
    return ["--lifetime", f"{seconds - margin:.0f}s", "--lifetime-stagger", f"{margin / 2:.0f}s"]


def walltime_seconds(walltime: str) -> float:
    """Seconds of a time as Slurm writes it: minutes, [days-]hours:minutes:seconds.

    Examples
    --------
    >>> walltime_seconds("30"), walltime_seconds("1-02:00:00")
    (1800.0, 93600.0)
    """
    days, _, clock = walltime.rpartition("-")
    parts = [float(part) for part in clock.split(":")]
    if days:
        parts += [0.0] * (3 - len(parts))
    elif len(parts) == 1:
        parts = [0.0, *parts, 0.0]
    elif len(parts) == 2:
        parts = [0.0, *parts]
    hours, minutes, seconds = parts
    return 86400 * float(days or 0) + 3600 * hours + 60 * minutes + seconds


def environment_lines() -> list[str]:
    """Lines of a job's script: the thread caps, and all that Dask is set to here."""
    caps = [f'export {name}="${{{name}:-{value}}}"' for name, value in settings.THREAD_CAPS.items()]
    inherited = dask.config.serialize(dask.config.global_config)
    return [*caps, f"export DASK_INTERNAL_INHERIT_CONFIG={inherited}"]


def _ssh(config: ClusterConfig, workers: int, memory_limit: int | None) -> Any:
    try:
        importlib.import_module("asyncssh")
    except ImportError:
        raise MissingExtraError("asyncssh", "ssh", "cluster.kind: ssh") from None
    from distributed import SSHCluster

    hosts = list(config.hosts)
    chosen = dict(config.options)
    of_workers = {
        "nthreads": 1,
        "n_workers": -(-workers // len(hosts)),
        "memory_limit": memory_limit or "auto",
        **chosen.pop("worker_options", {}),
    }
    # the first host has the scheduler beside its workers
    return SSHCluster(
        [hosts[0], *hosts],
        worker_options=of_workers,
        scheduler_options={
            "port": 0,
            "dashboard_address": ":0",
            **chosen.pop("scheduler_options", {}),
        },
        **chosen,
    )


def _any_class(config: ClusterConfig, workers: int, memory_limit: int | None) -> Any:
    """Make a cluster of a class by its import path. Untested, as the README says."""
    del workers, memory_limit
    module, _, name = str(config.class_).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"cluster.class is {config.class_}, which cannot be imported: {error}.",
            cure="Give the import path of a Dask cluster class, such as "
            "dask_kubernetes.operator.KubeCluster, and install its package.",
        ) from error
    return kind(**config.options)


__all__ = ["environment_lines", "lifetime_arguments", "remote_cluster", "walltime_seconds"]
