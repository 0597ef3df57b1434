"""Plan of a run: what it will take and produce, and everything that speaks against starting it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from dask.utils import format_bytes, parse_bytes
from numpy.typing import NDArray

from stillstack import cluster, inspection, storage
from stillstack.config import RunConfig, config_digest, result_settings
from stillstack.findings import Finding, Findings, refuse
from stillstack.layout import (
    Layout,
    Memory,
    fitting_workers,
    lay_out,
    read_amplification,
    task_bytes,
    worker_bytes,
)
from stillstack.reference import ReferenceMaker
from stillstack.sampling import aligned_dtype, ordinary_frames, take_sample
from stillstack.sources import Source, open_source

_TABLE_BYTES_PER_FRAME: Final = 100
_STORE_BYTES: Final = 4 * 2**20
_BEST_COMPRESSION: Final = 0.5
_ALLOWED_AMPLIFICATION: Final = 1.25


@dataclass(frozen=True)
class Plan:
    """What a run will do, in numbers, and what was found. Nothing has been written.

    Attributes
    ----------
    layout
        Frames, blocks, chunks and stages.
    memory
        Bytes of one worker, of all, and what there is.
    workers
        Worker processes; 0 where a running cluster has its own.
    output_bytes, free_bytes
        Upper bound of what is written, and what is free there; None for an object store.
    gain, read_noise
        Of the detector, counts per detected event and counts rms.
    output_state
        ``"new"``, ``"unfinished"`` or ``"complete"``.
    findings
        Errors and warnings.
    source, valid, reference_valid, typical, settings, fingerprint
        What was opened and found out for it: used by the run, left out of `to_json`.
    """

    config: RunConfig
    layout: Layout
    memory: Memory
    workers: int
    output_bytes: int
    free_bytes: int | None
    gain: float
    read_noise: float
    output_state: str
    findings: tuple[Finding, ...]
    source: Source = field(repr=False)
    valid: NDArray[np.bool_] = field(repr=False)
    reference_valid: NDArray[np.bool_] | None = field(repr=False)
    typical: NDArray[np.float32] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    fingerprint: str = field(repr=False)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that refuse the run."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings that do not."""
        return tuple(finding for finding in self.findings if finding.level == "warning")

    @property
    def read_amplification(self) -> float:
        """How often each frame of the source is decoded."""
        return read_amplification(self.layout, self.source.chunk_frames)

    def refuse(self) -> Plan:
        """Return itself, or raise InputError with every error that was found."""
        refuse(self.errors)
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "input": {
                "name": self.source.name,
                "frames": self.layout.n_frames,
                "frame_shape": list(self.layout.frame_shape),
                "dtype": str(np.dtype(self.source.dtype)),
                "chunk_frames": self.source.chunk_frames,
                "coordinates": sorted(self.source.coords),
                "valid_fraction": round(float(self.valid.mean()), 4),
            },
            "blocks": {
                "block_frames": self.layout.block_frames,
                "chunk_frames": self.layout.chunk_frames,
                "blocks": self.layout.n_blocks,
                "stages": list(self.layout.stage_names),
                "read_amplification": round(self.read_amplification, 2),
            },
            "memory": {**self.memory.to_json(), "workers": self.workers},
            "output": {
                "path": self.config.output.path,
                "state": self.output_state,
                "dtype": self.layout.aligned_dtype,
                "bytes_at_most": self.output_bytes,
                "bytes_free": self.free_bytes,
            },
            "noise": {"gain": round(self.gain, 4), "read_noise": self.read_noise},
            "config_digest": config_digest(self.config),
            "findings": [vars(finding) for finding in self.findings],
        }


def plan(config: RunConfig) -> Plan:
    """Plan of a run: sizes, memory, disk, and all findings at once. Writes nothing.

    A few frames are read, to see the noise, the brightness and the valid pixels.

    Raises
    ------
    InputError
        If the input cannot be opened at all, together with what else was found by then.
    """
    found = Findings()
    place = config.output.place
    found.check(lambda: storage.check_writable(place))
    source = found.need(
        lambda: open_source(
            config.input.path,
            variable=config.input.variable,
            pattern=config.input.pattern,
            options=config.input.options,
        )
    )
    found.check(lambda: inspection.check_frames(config, source))
    sample = found.need(lambda: take_sample(source))
    valid, reference_valid = inspection.valid_pixels(config, sample, found)
    kept = ordinary_frames(sample.frames, valid)
    inspection.note_sample(sample, kept, found)
    typical = sample.frames[kept if kept.any() else slice(None)].mean(axis=0, dtype=np.float64)
    gain = inspection.gain_of(config, sample.frames[kept], valid, found)
    layout = lay_out(
        config,
        source,
        aligned_dtype(config.alignment.dtype, np.dtype(source.dtype), typical, valid)
        if valid.any()
        else np.dtype(np.float32),
    )
    settings = inspection.settings_of(config, gain)
    fingerprint = inspection.fingerprint_of(config, source)
    workers, memory = _memory(config, layout, source, found)
    output_bytes, free_bytes = _disk(config, layout, found)
    state = found.check(lambda: _output_state(config, fingerprint)) or "new"
    if not found.errors:
        maker = ReferenceMaker(source, config.reference, valid, reference_valid, settings)
        found.check(lambda: inspection.check_reference(maker, kept))
    _note_sizes(config, layout, source, found)
    return Plan(
        config=config,
        layout=layout,
        memory=memory,
        workers=workers,
        output_bytes=output_bytes,
        free_bytes=free_bytes,
        gain=gain,
        read_noise=config.registration.read_noise,
        output_state=state,
        findings=tuple(found.items),
        source=source,
        valid=valid,
        reference_valid=reference_valid,
        typical=typical.astype(np.float32),
        settings=settings,
        fingerprint=fingerprint,
    )


def _memory(
    config: RunConfig, layout: Layout, source: Source, found: Findings
) -> tuple[int, Memory]:
    """Workers, and the memory that they need."""
    task = task_bytes(layout, source.chunk_frames)
    worker = worker_bytes(layout, source.chunk_frames)
    active = found.check(cluster.active_client)
    if active is not None or config.cluster.kind == "address":
        return 0, Memory(task, worker, 0, 0, 0)
    cores, available = cluster.machine_size()
    chosen, needed = config.cluster.workers, int(worker / cluster.PAUSE_FRACTION)
    if config.cluster.kind != "local":
        return _memory_elsewhere(config, task, worker, cores if isinstance(chosen, str) else chosen)
    workers = fitting_workers(cores, available, needed) if isinstance(chosen, str) else chosen
    workers = min(workers, layout.n_blocks)
    given = config.cluster.memory_limit
    limit = available // workers if given == "auto" else int(parse_bytes(given))
    if limit < needed:
        found.error(
            f"A worker needs a memory limit of {format_bytes(needed)} for blocks of "
            f"{layout.block_frames} frames, and {workers} workers have {format_bytes(limit)} each.",
            "Workers would stop for lack of memory.",
            "Use fewer workers, a smaller output.block_frames, or a larger cluster.memory_limit.",
        )
    return workers, Memory(task, worker, limit, workers * worker, available)


def _memory_elsewhere(
    config: RunConfig, task: int, worker: int, workers: int
) -> tuple[int, Memory]:
    """Memory to ask other machines for: what is needed, unless the config says more or less."""
    given, needed = config.cluster.memory_limit, int(worker / cluster.PAUSE_FRACTION)
    limit = needed if given == "auto" else int(parse_bytes(given))
    return workers, Memory(task, worker, limit, workers * worker, 0)


def _disk(config: RunConfig, layout: Layout, found: Findings) -> tuple[int, int | None]:
    """Upper bound of what is written, and what is free there."""
    images = layout.n_frames * (layout.aligned_bytes + _TABLE_BYTES_PER_FRAME)
    output_bytes = images + 6 * layout.pixels + _STORE_BYTES
    path = config.output.place
    if not isinstance(path, Path):
        return output_bytes, None  # a store tells no end
    free = found.check(lambda: storage.free_bytes(path)) or 0
    missing = output_bytes - _written_bytes(path)
    if free < missing * _BEST_COMPRESSION:
        found.error(
            f"{path} may need {format_bytes(missing)} more, and {format_bytes(free)} are free.",
            "The run would stop on a full disk.",
            "Free some space, choose an output on another disk, or set output.aligned: false.",
        )
    elif free < missing:
        found.warn(
            f"{path} may need {format_bytes(missing)} more if the frames compress badly, and "
            f"{format_bytes(free)} are free.",
            "A run that fills the disk stops, and the same command finishes it.",
        )
    return output_bytes, free


def _written_bytes(path: Path) -> int:
    """Bytes of aligned frames that an unfinished run has written already."""
    folder = path / "aligned"
    if not folder.is_dir():
        return 0
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _output_state(config: RunConfig, fingerprint: str) -> str:
    return storage.inspect_output(
        config.output.place,
        config_digest=config_digest(config),
        source_fingerprint=fingerprint,
        config=result_settings(config),
    )


def _note_sizes(config: RunConfig, layout: Layout, source: Source, found: Findings) -> None:
    limit, smallest = config.registration.max_shift_px, min(layout.frame_shape)
    if limit < smallest and smallest - limit < smallest * config.registration.min_overlap:
        found.warn(
            f"registration.max_shift_px is {limit} for frames of {layout.frame_shape[0]} x "
            f"{layout.frame_shape[1]} pixels.",
            "Frames that far away overlap too little to be called good.",
        )
    passes = len(layout.stages)
    amplification = read_amplification(layout, source.chunk_frames)
    if amplification > passes * _ALLOWED_AMPLIFICATION:
        found.warn(
            f"Blocks of {layout.block_frames} frames and source chunks of {source.chunk_frames} "
            f"do not fit: each frame is decoded {amplification:.3g} times.",
            cure=f"Set output.block_frames to a multiple of {source.chunk_frames}, or bring the "
            "frames into smaller chunks with stillstack ingest.",
        )
