"""Where a run came from and what it took: its config, versions, attempts, ledgers and source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from stillstack.address import Location, located
from stillstack.errors import StillstackError
from stillstack.quantities import byte_size, clock, duration
from stillstack.reduction.raw import source_of
from stillstack.report.expectation import Expected, expectations
from stillstack.sources import CorrectedSource, Source
from stillstack.storage import RunStore
from stillstack.storage.notes import ATTEMPTS_NOTE, PLAN_NOTE
from stillstack.versions import version_differences

STAGES = ("align", "estimate", "apply")


@dataclass(frozen=True)
class StageCost:
    """What one pass over the frames took.

    Attributes
    ----------
    name, frames, blocks, workers, written_bytes
        The pass, what it did, and how many processes did it.
    worker_seconds
        Time that all workers were busy with blocks.
    seconds
        How long the pass took; None where an attempt does not say.
    worker_peak_bytes
        The largest memory that a worker had up to its end; 0 where that is not known.
    """

    name: str
    frames: int
    blocks: int
    worker_seconds: float
    workers: int
    written_bytes: int
    seconds: float | None = None
    worker_peak_bytes: int = 0


@dataclass(frozen=True)
class Provenance:
    """What is known of a run beside its result.

    Attributes
    ----------
    name, path, title
        Of the run.
    frame_shape
        Rows and columns of the frames.
    config_yaml
        A config that makes the same run again.
    versions
        Of the packages that made it.
    attempts
        When and where it was worked on, and how that ended.
    stages
        What each pass took.
    set_aside
        Why frames could not be read.
    notes
        How the reference was made, step by step.
    gain
        Counts per detected event that the error bars rest on.
    raw, raw_missing
        The source; why it cannot be read any more.
    raw_bytes
        Size of the frames when they are not compressed.
    planned
        What the run was expected to take; empty where that is not known.
    """

    name: str
    path: str
    title: str = "Registered by stillstack"
    frame_shape: tuple[int, int] = (0, 0)
    config_yaml: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    attempts: tuple[dict[str, Any], ...] = ()
    stages: tuple[StageCost, ...] = ()
    set_aside: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    gain: float | None = None
    raw: Source | None = None
    raw_missing: str = ""
    raw_bytes: int = 0
    planned: dict[str, Any] = field(default_factory=dict)

    @property
    def expectations(self) -> tuple[Expected, ...]:
        """What the plan expected beside what the run took."""
        return expectations(self.planned, self.attempts, self.written_bytes)

    @property
    def seconds(self) -> float | None:
        """Time that all attempts took together; None where it is not known."""
        spans = [a["ended"] - a["began"] for a in self.attempts if "ended" in a and "began" in a]
        return float(sum(spans)) if spans else None

    @property
    def preparing_seconds(self) -> float | None:
        """Time before the first pass, of all attempts together; None where it is not known."""
        spans = [
            attempt["passes"][0]["began"] - attempt["began"]
            for attempt in self.attempts
            if attempt.get("passes") and "began" in attempt
        ]
        return float(sum(spans)) if spans else None

    @property
    def written_bytes(self) -> int:
        """Size of all aligned frames on the disk."""
        return sum(stage.written_bytes for stage in self.stages)

    @property
    def attempt_rows(self) -> list[dict[str, str]]:
        """Attempts in words."""
        return [
            {
                "began": clock(attempt.get("began")),
                "took": (
                    duration(attempt["ended"] - attempt["began"])
                    if "ended" in attempt and "began" in attempt
                    else "not known"
                ),
                "host": str(attempt.get("host", "")),
                "worker": _size(attempt.get("worker_peak_bytes")),
                "coordinator": _size(attempt.get("coordinator_peak_bytes")),
                "outcome": self._outcome(attempt),
            }
            for attempt in self.attempts
        ]

    def _outcome(self, attempt: Mapping[str, Any]) -> str:
        """How an attempt ended, and what it had other versions of than the first."""
        told = version_differences(
            self.versions, attempt.get("versions") or self.versions, self.versions
        )
        return str(attempt.get("outcome", "")) + (f"; with {told}" if told else "")


def _size(count: int | None) -> str:
    return byte_size(count) if count else "not known"


def read_provenance(path: str | Location) -> Provenance:
    """Collect what is known of a run from its store.

    Parameters
    ----------
    path
        What ``stillstack run`` wrote.
    """
    place = located(path).absolute()
    store = RunStore.view(place)
    attributes = store.attributes
    config = attributes.get("config") or {}
    raw, missing = _source(store)
    attempts = tuple(store.read_note(ATTEMPTS_NOTE) or ())
    return Provenance(
        name=place.name.removesuffix(".zarr"),
        path=str(place),
        title=str(attributes.get("title", Provenance.title)),
        frame_shape=store.frame_shape,
        config_yaml=_config_yaml(config, place),
        versions={str(k): str(v) for k, v in (attributes.get("versions") or {}).items()},
        attempts=attempts,
        stages=tuple(_stage_costs(store, attempts)),
        set_aside=store.set_aside(),
        notes=tuple(str(note) for note in attributes.get("reference_notes") or ()),
        gain=(attributes.get("registration") or {}).get("gain"),
        raw=raw,
        raw_missing=missing,
        raw_bytes=_raw_bytes(raw),
        planned=store.read_note(PLAN_NOTE) or {},
    )


def _source(store: RunStore) -> tuple[Source | None, str]:
    """Frames as the run read them: what is compared with aligned ones has to be alike."""
    try:
        return source_of(store), ""
    except StillstackError as error:
        return None, error.what


def _raw_bytes(raw: Source | None) -> int:
    if raw is None:
        return 0
    recorded = raw.recorded if isinstance(raw, CorrectedSource) else raw
    return int(np.prod(recorded.shape)) * np.dtype(recorded.dtype).itemsize


def _stage_costs(store: RunStore, attempts: Sequence[Mapping[str, Any]]) -> list[StageCost]:
    costs = []
    for name in STAGES:
        records = store.ledger(name).records().values()
        if not records:
            continue
        took = [one for a in attempts for one in a.get("passes") or () if one["name"] == name]
        told = bool(took) and all("passes" in attempt for attempt in attempts)
        costs.append(
            StageCost(
                name=name,
                frames=sum(record.stop - record.start for record in records),
                blocks=len(records),
                worker_seconds=sum(record.seconds for record in records),
                workers=len({record.worker for record in records}),
                written_bytes=sum(o.size for record in records for o in record.objects),
                seconds=sum(one["ended"] - one["began"] for one in took) if told else None,
                worker_peak_bytes=max((one["worker_peak_bytes"] for one in took), default=0),
            )
        )
    return costs


def _config_yaml(config: dict[str, Any], path: Location) -> str:
    complete = {**config, "output": {"path": str(path), **config.get("output", {})}}
    order = [key for key in ("input", "output") if key in complete]
    ordered = {key: complete[key] for key in [*order, *(k for k in complete if k not in order)]}
    return str(yaml.safe_dump(_without_none(ordered), sort_keys=False, allow_unicode=True))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
