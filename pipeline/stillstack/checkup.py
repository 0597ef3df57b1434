"""What speaks against a cluster, judged from what its workers have said of themselves. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from dask.utils import format_bytes

from stillstack.address import Address, Location
from stillstack.cluster import PAUSE_FRACTION, THREAD_CAPS
from stillstack.findings import Finding, Findings
from stillstack.memory import Memory
from stillstack.versions import DECIDING_PACKAGES, version_differences
from stillstack.worker_view import InputView, WorkerView

PACKAGES: Final = (
    *DECIDING_PACKAGES,
    "numcodecs",
    "google-crc32c",
    "cloudpickle",
    "msgpack",
    "tornado",
)
"""Of which every process has to have the same version."""

_OF_SCHEDULER: Final = ("stillstack", "dask", "distributed", "cloudpickle", "msgpack", "tornado")
_ALLOWED_LAG_SECONDS: Final = 1.0
_ALLOWED_SKEW_SECONDS: Final = 1.0
_LEAST_SCRATCH: Final = 100 * 2**20
_NAMED_WORKERS: Final = 3

# What to do where workers cannot use an output, and where they see late what is written there.
_CURES: Final = {
    "folder": (
        "Mount the output's folder under the same path everywhere, writable for the workers' user.",
        "Shorten the file system's attribute caching (actimeo of NFS) if blocks are short.",
    ),
    "store": (
        "Start workers with the environment of this process (credentials, endpoint, region).",
        "Look at the network between them and the store.",
    ),
}

Views = Mapping[str, WorkerView]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Parameters
    ----------
    name
        What.
    summary
        What was found where nothing speaks against a run, with values.
    findings
        What does.
    """

    name: str
    summary: str
    findings: tuple[Finding, ...] = ()

    @property
    def state(self) -> str:
        """Return ``"good"``, ``"warning"`` or ``"error"``."""
        levels = {finding.level for finding in self.findings}
        return "error" if "error" in levels else "warning" if levels else "good"

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "summary": self.summary,
            "findings": [vars(finding) for finding in self.findings],
        }


def check_versions(
    own: Mapping[str, Any], scheduler: Mapping[str, Any], workers: Mapping[str, Mapping[str, Any]]
) -> Check:
    """Compare versions: each as Dask's ``get_versions`` tells them."""
    found, mine = Findings(), _versions(own)
    apart: dict[str, list[str]] = defaultdict(list)
    for address, theirs in workers.items():
        told = version_differences(mine, _versions(theirs), ("python", *PACKAGES))
        apart[told].append(address)
    for text, addresses in apart.items():
        if text:
            found.error(
                f"Other versions than here on {_workers(addresses)}: {text}.",
                "Tasks may fail there, or give other bits than elsewhere.",
                "Make the environments the same: the same lock file, container or folder.",
            )
    text = version_differences(mine, _versions(scheduler), ("python", *_OF_SCHEDULER))
    if text:
        found.error(
            f"Other versions than here in the scheduler: {text}.",
            "It unpacks the tasks that it hands on, and may fail to.",
            "Start it in the environment in which you start the run.",
        )
    machines = {str(each["host"]["machine"]) for each in (own, *workers.values())}
    if len(machines) > 1:
        found.warn(
            f"There are machines of several types: {', '.join(sorted(machines))}.",
            "The last bits of results differ between them, so that a run cannot be repeated.",
            "Use one type of machine where that matters.",
        )
    what = f"stillstack {mine['stillstack']}, Python {mine['python']}"
    return Check("versions", f"the same everywhere: {what}", tuple(found.items))


def _versions(told: Mapping[str, Any]) -> dict[str, str]:
    packages = {name: told["packages"].get(name) or "missing" for name in PACKAGES}
    return {"python": ".".join(str(told["host"]["python"]).split(".")[:2]), **packages}


def check_input(own: InputView, views: Views) -> Check:
    """Compare what workers see of the input with what this process sees."""
    found = Findings()
    for seen, addresses in _grouped(views, lambda view: view.seen).items():
        if seen == own:
            continue
        reasons = [text for text in (seen.fingerprint, seen.frame) if not _is_digest(text)]
        what = reasons[0] if reasons else "other files, or other pixels, are under its path"
        found.error(
            f"The input as {_workers(addresses)} would read it is not the one here: {what}.",
            "Their frames would be set aside as unreadable, or be those of another input.",
            "Mount the same folder under the same path everywhere, readable for the workers' user.",
        )
    return Check("input", "every worker sees the same files and pixels", tuple(found.items))


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def check_output(output: Location, views: Views, unmet: Sequence[str]) -> Check:
    """Judge whether workers and coordinator see what the other writes.

    Parameters
    ----------
    output
        The folder in which it was tried, or the output's address.
    views, unmet
        What workers found, and names of those whose words are not seen here.
    """
    found = Findings()
    remote = isinstance(output, Address)
    cure, faster = _CURES["store" if remote else "folder"]
    for fault, addresses in _grouped(views, lambda view: view.output_fault).items():
        if fault:
            found.error(
                f"{output} cannot be shared with {_workers(addresses)}: {fault}.",
                "The run would stop at their first block.",
                cure,
            )
    lost = [address for address, view in views.items() if view.name in unmet]
    if lost:
        found.error(
            f"What was written in {output} by {_workers(lost)} cannot be seen from here.",
            "Their blocks would be missing from the output.",
            cure,
        )
    slow = {a: v.output_lag for a, v in views.items() if v.output_lag > _ALLOWED_LAG_SECONDS}
    if slow:
        found.warn(
            f"What was written here was seen only {max(slow.values()):.1f} s later by "
            f"{_workers(list(slow))}.",
            "A run waits as long where one process needs what another wrote.",
            faster,
        )
    more = ", also on condition, and delete" if remote else ""
    return Check("output", f"every worker can write in {output}{more}", tuple(found.items))


def check_threads(views: Views) -> Check:
    """Judge whether cores are used once."""
    found = Findings()
    names = [name for name in THREAD_CAPS if not name.startswith("MALLOC")]
    unset = _grouped(views, lambda v: ", ".join(n for n in names if not v.environment[n]))
    for missing, alike in unset.items():
        if missing:
            found.warn(
                f"No {missing} in the environment of {_workers(alike)}.",
                "Libraries may start as many threads as there are cores, in each worker.",
                f"Start workers with {_exports(missing.split(', '))}.",
            )
    for host, here in _grouped(views, lambda view: view.host).items():
        threads, cores = sum(views[a].threads for a in here), min(views[a].cores for a in here)
        if threads > cores:
            found.warn(
                f"The workers on {host} have {threads} threads and {cores} cores.",
                "They wait for one another, and need more memory than fewer would.",
                "Start as many threads as there are cores.",
            )
    wasteful = [a for a, v in views.items() if _trims_early(v)]
    if wasteful:
        found.warn(
            f"Memory goes back to the system in steps of "
            f"{views[wasteful[0]].environment['MALLOC_TRIM_THRESHOLD_']} bytes on "
            f"{_workers(wasteful)}.",
            "Kernels take up to twice the time, as every array is cleared anew (Dask's default).",
            f"Start workers with {_exports(n for n in THREAD_CAPS if n.startswith('MALLOC'))}.",
        )
    total = sum(view.threads for view in views.values())
    return Check("threads", f"{total}, capped, on {_hosts(views)}", tuple(found.items))


def _trims_early(view: WorkerView) -> bool:
    value = view.environment["MALLOC_TRIM_THRESHOLD_"]
    return value.isdigit() and int(value) < int(THREAD_CAPS["MALLOC_TRIM_THRESHOLD_"])


def _exports(names: Iterable[str]) -> str:
    return " ".join(f"{name}={THREAD_CAPS[name]}" for name in names)


def check_memory(memory: Memory, views: Views) -> Check:
    """Hold the memory limit of each worker against what the plan says that it needs."""
    found = Findings()
    short: dict[str, tuple[int, int]] = {}
    for address, view in views.items():
        # the reference and the libraries are there once, whatever the number of threads
        needed = memory.worker + (view.threads - 1) * memory.task
        needed = int(needed / (view.pause or PAUSE_FRACTION))
        if 0 < view.memory_limit < needed:
            short[address] = (view.memory_limit, needed)
    if short:
        worst = min(short, key=lambda address: short[address])
        limit, needed = short[worst]
        blocks = f"{views[worst].threads} blocks" if views[worst].threads > 1 else "one block"
        found.error(
            f"{format_bytes(limit)} is the memory limit of {_workers(list(short))}, and "
            f"{format_bytes(needed)} are needed for {blocks} at a time.",
            "They would pause for ever, or be killed and started again.",
            "Give them more memory or fewer threads, or choose a smaller output.block_frames.",
        )
    least = min((view.memory_limit for view in views.values()), default=0)
    given = format_bytes(least) if least else "no limit"
    summary = f"{given} a worker; one block at a time needs {format_bytes(memory.worker)}"
    return Check("memory", summary, tuple(found.items))


def check_scratch(views: Views) -> Check:
    """Judge whether workers have room in their own folders."""
    found = Findings()
    full: dict[str, WorkerView] = {}
    for address, view in views.items():
        needed = max(_LEAST_SCRATCH, view.memory_limit if view.spill else 0)
        if view.scratch_free < needed:
            full[address] = view
    if full:
        worst = min(full.values(), key=lambda view: view.scratch_free)
        found.warn(
            f"Only {format_bytes(worst.scratch_free)} are free in {worst.scratch} of "
            f"{_workers(list(full))}.",
            "Workers that cannot write there die.",
            "Free some space there, or start workers with another local directory.",
        )
    free = min((view.scratch_free for view in views.values()), default=0)
    return Check("scratch", f"{format_bytes(free)} free or more", tuple(found.items))


def check_clocks(views: Views, began: float, ended: float) -> Check:
    """Compare the workers' clocks with the time between which they were asked."""
    found = Findings()
    skew = {
        address: view.clock - ended if view.clock > ended else min(0.0, view.clock - began)
        for address, view in views.items()
    }
    wrong = {address: by for address, by in skew.items() if abs(by) > _ALLOWED_SKEW_SECONDS}
    if wrong:
        worst = max(wrong.values(), key=abs)
        found.warn(
            f"The clock is off by up to {worst:+.0f} s on {_workers(list(wrong))}.",
            "The times in the run's ledger are off as much.",
            "Set them by NTP.",
        )
    return Check("clocks", "agree as far as one can see from here", tuple(found.items))


def _grouped(views: Views, key: Callable[[WorkerView], Key]) -> dict[Key, list[str]]:
    groups: dict[Key, list[str]] = defaultdict(list)
    for address, view in views.items():
        groups[key(view)].append(address)
    return groups


def _hosts(views: Views) -> str:
    hosts = {view.host for view in views.values()}
    return f"{len(hosts)} host{'s' if len(hosts) != 1 else ''}"


def _workers(addresses: Sequence[str]) -> str:
    """Name some workers, and count them."""
    named = ", ".join(sorted(addresses)[:_NAMED_WORKERS])
    more = f" and {len(addresses) - _NAMED_WORKERS} more" if len(addresses) > _NAMED_WORKERS else ""
    return f"worker{'s' if len(addresses) > 1 else ''} {named}{more}"
