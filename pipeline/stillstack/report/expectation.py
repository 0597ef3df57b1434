"""What a plan expected of a run, beside what the run took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Expected:
    """One quantity, as planned and as taken.

    Parameters
    ----------
    what
        Its name, for people.
    unit
        ``"s"``, ``"B"`` or empty for a count.
    planned, taken
        Its values.
    """

    what: str
    unit: str
    planned: float
    taken: float

    @property
    def ratio(self) -> float:
        """Taken over planned."""
        return self.taken / self.planned


def expectations(
    planned: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]], written_bytes: int
) -> tuple[Expected, ...]:
    """Compare a plan with the attempts of a run, as far as both are known.

    Parameters
    ----------
    planned
        The note that a run keeps of its plan.
    attempts
        Notes of the attempts. Times and peaks of one that was killed are not known, so that a time
        is compared only where every attempt says how long it took.
    written_bytes
        Size of all aligned frames; 0 where none are written.

    Examples
    --------
    >>> plan = {"forecast": {"seconds": 50.0}, "memory": {"worker_bytes": 1000}}
    >>> took = [{"began": 0.0, "ended": 60.0, "outcome": "complete", "worker_peak_bytes": 800}]
    >>> [(e.what, e.ratio) for e in expectations(plan, took, 0)]
    [('time', 1.2), ('memory of a worker', 0.8)]
    """
    forecast, memory = planned.get("forecast") or {}, planned.get("memory") or {}
    found = [
        ("time", "s", forecast.get("seconds"), _seconds(attempts)),
        ("workers", "", planned.get("workers"), _most(attempts, "workers")),
        (
            "memory of a worker",
            "B",
            memory.get("worker_bytes"),
            _most(attempts, "worker_peak_bytes"),
        ),
        (
            "memory of the coordinator",
            "B",
            # it may have had to compile the kernels, which a plan counts with
            memory.get("needed_coordinator_bytes") or memory.get("coordinator_bytes"),
            _most(attempts, "coordinator_peak_bytes"),
        ),
        ("aligned frames", "B", forecast.get("output_bytes"), written_bytes),
    ]
    return tuple(
        Expected(what, unit, float(expected), float(taken))
        for what, unit, expected, taken in found
        if expected and taken
    )


def _seconds(attempts: Sequence[Mapping[str, Any]]) -> float | None:
    """Time of a run that is complete."""
    if not attempts or attempts[-1].get("outcome") != "complete":
        return None
    if any("ended" not in attempt or "began" not in attempt for attempt in attempts):
        return None
    return float(sum(attempt["ended"] - attempt["began"] for attempt in attempts))


def _most(attempts: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return max((attempt[name] for attempt in attempts if attempt.get(name)), default=None)
