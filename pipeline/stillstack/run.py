"""A run from beginning to end: open, plan, check, create, execute, verify, summarise."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import xarray as xr

from stillstack import storage
from stillstack.address import Location, located
from stillstack.cluster import (
    OnLink,
    check_performance_report,
    client_for,
    peak_bytes,
    performance_report,
    worker_peaks,
)
from stillstack.config import RunConfig
from stillstack.errors import disk_fault
from stillstack.execute import execute
from stillstack.interrupt import Interrupts
from stillstack.plan import Plan
from stillstack.plan import plan as make_plan
from stillstack.prepare import attempt_noted, is_done, job_for, note_plan, opened_store, verify
from stillstack.reduction.virtual import with_virtual_aligned
from stillstack.settle import finish, publish, rows_before
from stillstack.storage import RunStore, lock_run
from stillstack.watch.notebook import notebook_progress
from stillstack.watch.progress import OnProgress
from stillstack.watch.runlog import run_log

__all__ = ["open_run", "run"]

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """To whom a run tells what, and where the performance report goes."""

    progress: OnProgress | None
    on_link: OnLink | None
    performance: Path | None


def run(
    config: RunConfig | Plan | Mapping[str, Any] | str | Path,
    *,
    progress: OnProgress | None = None,
    on_link: OnLink | None = None,
    performance: str | Path | None = None,
) -> xr.Dataset:
    """Run a config, or finish the run that an earlier attempt began, and open the result.

    The active Dask Client is used where there is one, and left open.

    Parameters
    ----------
    config
        A config, its path, its sections as a mapping, or the plan that was just made of it.
    progress
        Called with a `Progress` whenever a block has finished. In a notebook it is shown under the
        cell where nothing is given.
    on_link
        Called with the address of the cluster's dashboard when the cluster is there.
    performance
        HTML file for Dask's report on what the cluster did; none where nothing is given.

    Returns
    -------
    xarray.Dataset, lazily loaded: what `open_run` opens.

    Raises
    ------
    InputError
        If something has to be mended first; all that was found is said at once, and nothing has
        been started.
    InterruptedRunError
        If the run was stopped by Ctrl-C or SIGTERM; the same call finishes it.
    RunFaultError
        If the disk or the cluster failed; what is done is kept.

    Examples
    --------
    >>> result = run("run7.yaml")
    >>> result.aligned.where(result.status == 0).mean("frame").dims
    ('y', 'x')
    """
    if performance is not None:
        check_performance_report()
    shown = notebook_progress() if progress is None else None
    told = Told(
        progress or shown,
        on_link or (shown.dashboard if shown else None),
        None if performance is None else Path(performance),
    )
    peak_before = peak_bytes()
    with Interrupts() as interrupts:
        plan = config if isinstance(config, Plan) else make_plan(config, calibrated=None)
        plan.refuse()
        place, began = plan.config.output.place, time.time()
        try:
            with lock_run(place) as lock, run_log(place):
                note_plan(plan)
                store = opened_store(plan, lock, told.progress)
                if not is_done(store, plan):
                    with attempt_noted(store, began) as attempt:
                        attempt.update(_execute(plan, store, interrupts, told))
                        # what the process had before is nothing that the run took
                        peak = peak_bytes()
                        attempt["coordinator_peak_bytes"] = peak if peak > peak_before else 0
                        verify(store, plan)
                        finish(store)
                _LOG.info("the run is complete")
        except OSError as error:
            raise disk_fault(error, plan.config.output.path) from error
    return open_run(plan.config.output.place)


def open_run(
    path: str | Path | Location, *, options: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Dataset of a run, lazily loaded, with aligned frames whether they were written or not.

    Where they were not (``output.aligned: false``), ``aligned`` is made of raw frames and shifts
    when it is asked for, each frame interpolated once, in floating point. Where the raw frames are
    gone, the run opens all the same, and who asks for ``aligned`` is told what is missing.

    Parameters
    ----------
    path, options
        The run, and how an address is reached: see `stillstack.storage.open_run`.

    Raises
    ------
    InputError
        There is nothing there, or not a run.

    Examples
    --------
    >>> run = open_run("run7.zarr")
    >>> run["shift"].sel(axis="y").attrs["units"]
    'pixel'
    """
    place = located(path, options)
    return with_virtual_aligned(storage.open_run(place), place)


def _execute(
    plan: Plan,
    store: RunStore,
    interrupts: Interrupts,
    told: Told,
) -> dict[str, Any]:
    """Pass over the frames as often as the plan says, on one cluster; what each pass took."""
    cluster = plan.config.cluster
    passes: list[dict[str, Any]] = []
    peaks: list[int] = []
    with (
        client_for(
            cluster,
            workers=plan.workers,
            memory_limit=plan.memory.limit,
            on_link=told.on_link,
            profiled=told.performance is not None,
        ) as client,
        performance_report(client, told.performance),
    ):
        for stage in plan.layout.stages:
            rows = rows_before(store, stage, plan.left_out)
            began = time.time()
            execute(
                client,
                job_for(plan, store, stage, rows),
                stage,
                store,
                rows,
                interrupts=interrupts,
                publish=functools.partial(publish, store, stage),
                progress=told.progress,
                most_workers=cluster.adapt[1] if cluster.adapt else 1,
            )
            peaks = worker_peaks(client)
            passes.append(
                {
                    "name": stage.name,
                    "began": began,
                    "ended": time.time(),
                    "worker_peak_bytes": max(peaks, default=0),
                }
            )
    return {
        "workers": len(peaks),
        "worker_peak_bytes": max(peaks, default=0),
        "passes": passes,
    }
