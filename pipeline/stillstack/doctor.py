"""Examines a cluster before a run: starts it as a run would, asks every worker, and writes nothing.

All that is found is said at once, what speaks against the run itself included.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stillstack.address import Location, portable
from stillstack.checkup import (
    PACKAGES,
    Check,
    check_clocks,
    check_input,
    check_memory,
    check_output,
    check_scratch,
    check_threads,
    check_versions,
)
from stillstack.cluster import OnLink, client_for
from stillstack.config import RunConfig
from stillstack.errors import InputError, RunFaultError, StillstackError
from stillstack.findings import Finding, Findings
from stillstack.plan import Plan
from stillstack.plan import plan as make_plan
from stillstack.storage import meeting_place, unmet
from stillstack.worker_view import WorkerView, look_around, look_at_input

DEFAULT_WAIT_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Parameters
    ----------
    kind
        Of the cluster.
    plan_findings
        What speaks against the run itself.
    checks
        Of the cluster.
    """

    kind: str
    plan_findings: tuple[Finding, ...]
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0: start the run; 1: the cluster is at fault; 2: the config or the input is."""
        if any(finding.level == "error" for finding in self.plan_findings):
            return InputError.exit_code
        faults = [check for check in self.checks if check.state == "error"]
        if any(check.name == "config" for check in faults):
            return InputError.exit_code
        return RunFaultError.exit_code if faults else 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "cluster": self.kind,
            "sound": self.exit_code == 0,
            "plan_findings": [vars(finding) for finding in self.plan_findings],
            "checks": [check.to_json() for check in self.checks],
        }


def examine(
    config: RunConfig | Mapping[str, Any] | str | Path,
    *,
    wait: float = DEFAULT_WAIT_SECONDS,
    on_link: OnLink | None = None,
) -> Diagnosis:
    """Examine the cluster that a config asks for, or the active Dask Client's.

    Parameters
    ----------
    config
        Of the run: a config, its sections as a mapping, or its path.
    wait
        Seconds to wait for all workers that are asked for; those that have come are examined.
    on_link
        Called with the address of the cluster's dashboard.

    Raises
    ------
    InputError
        If the input cannot be opened at all.

    Examples
    --------
    >>> examine("run7.yaml").exit_code
    0
    """
    plan = make_plan(config)
    config = plan.config
    cluster, workers = config.cluster, plan.workers
    if cluster.adapt is not None:  # without work none would come
        workers = max(1, cluster.adapt[0])
        cluster = cluster.model_copy(update={"adapt": None})
    checks: tuple[Check, ...]
    try:
        with client_for(
            cluster,
            workers=workers,
            memory_limit=plan.memory.limit,
            on_link=on_link,
            wait=False,
        ) as client:
            present = _wait_for_all(client, max(1, workers), wait)
            checks = (present,) if present.state == "error" else (present, *_examined(client, plan))
    except StillstackError as error:
        name = "config" if isinstance(error, InputError) else "workers"
        finding = Finding("error", error.what, error.consequence, error.cure)
        checks = (Check(name, "", (finding,)),)
    return Diagnosis(config.cluster.kind, plan.findings, checks)


def _wait_for_all(client: Any, wanted: int, wait: float) -> Check:
    """Wait for workers, and count them: also those that pause, for which Dask does not wait."""
    deadline = time.monotonic() + wait
    while (here := len(client.nthreads())) < wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    found = Findings()
    cure = "Look at the batch system's queue and the workers' logs, or wait longer (--wait)."
    if here == 0:
        found.error(f"No worker has come in {wait:.0f} s.", "Nothing could be examined.", cure)
    elif here < wanted:
        found.warn(
            f"{here} of {wanted} workers have come in {wait:.0f} s.",
            "A run starts with those, and takes the others when they come.",
            cure,
        )
    return Check("workers", f"{here} are there", tuple(found.items))


def _examined(client: Any, plan: Plan) -> tuple[Check, ...]:
    versions: Any = client.get_versions(packages=list(PACKAGES))
    output, found = plan.config.output.place, Findings()
    with contextlib.ExitStack() as stack:
        place = found.check(lambda: stack.enter_context(meeting_place(output)))
        began = time.time()
        views, silent = _ask(client, plan, place)
        ended = time.time()
        missing = [] if place is None else unmet(place, [view.name for view in views.values()])
    outputs = Check("output", "not tried by the workers", tuple(found.items))
    if place is not None:
        tried = place.parent if isinstance(place, Path) else output
        outputs = check_output(tried, views, missing)
    return (
        check_versions(versions["client"], versions["scheduler"], versions["workers"]),
        silent,
        check_input(look_at_input(plan.source), views),
        outputs,
        check_threads(views),
        check_memory(plan.memory, views),
        check_scratch(views),
        check_clocks(views, began, ended),
    )


def _ask(client: Any, plan: Plan, place: Location | None) -> tuple[dict[str, WorkerView], Check]:
    """Views of all workers that can look, and what keeps the others from it."""
    given = None if place is None else portable(place)
    answers: dict[str, Any] = client.run(look_around, plan.source, given, on_error="return")
    found = Findings()
    views: dict[str, WorkerView] = {}
    for address, answer in answers.items():
        if isinstance(answer, WorkerView):
            views[address] = answer
            continue
        found.error(
            f"Worker {address} cannot look around: {type(answer).__name__}: {answer}.",
            "It could not do a block either.",
            "Start it where stillstack can be imported and its file systems answer.",
        )
    return views, Check("answers", f"all {len(views)} workers answer", tuple(found.items))
