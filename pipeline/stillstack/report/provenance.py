"""Where a run came from and what it took: its config, versions, attempts, ledgers and source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml

from stillstack.address import Location, located
from stillstack.errors import StillstackError
from stillstack.quantities import clock, duration
from stillstack.reduction.raw import source_of
from stillstack.report.expectation import Expected, expectations
from stillstack.sources import CorrectedSource, Source
from stillstack.storage import RunStore
from stillstack.storage.notes import PLAN_NOTE

STAGES = ("align", "estimate", "apply")


@dataclass(frozen=True)
class StageCost:
    """What one pass over the frames took, added up over its blocks."""

    name: str
    frames: int
    blocks: int
    worker_seconds: float
    workers: int
    written_bytes: int


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
                "outcome": str(attempt.get("outcome", "")),
            }
            for attempt in self.attempts
        ]


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
    return Provenance(
        name=place.name.removesuffix(".zarr"),
        path=str(place),
        title=str(attributes.get("title", Provenance.title)),
        frame_shape=store.frame_shape,
        config_yaml=_config_yaml(config, place),
        versions={str(k): str(v) for k, v in (attributes.get("versions") or {}).items()},
        attempts=tuple(store.read_note("attempts") or ()),
        stages=tuple(_stage_costs(store)),
        set_aside={int(k): str(v) for k, v in (store.read_note("set_aside") or {}).items()},
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


def _stage_costs(store: RunStore) -> list[StageCost]:
    costs = []
    for name in STAGES:
        records = store.ledger(name).records().values()
        if not records:
            continue
        costs.append(
            StageCost(
                name=name,
                frames=sum(record.stop - record.start for record in records),
                blocks=len(records),
                worker_seconds=sum(record.seconds for record in records),
                workers=len({record.worker for record in records}),
                written_bytes=sum(o.size for record in records for o in record.objects),
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
