"""Plan of a run: what it will take and produce, and everything that speaks against starting it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from dask.utils import format_bytes
from numpy.typing import NDArray

from stillstack import cluster, inspection, storage
from stillstack.calibration import Calibration, Trial, calibrate
from stillstack.config import RunConfig, as_config, config_digest, result_settings
from stillstack.errors import InputError, RunFaultError
from stillstack.exclusion import kept_numbers
from stillstack.findings import Finding, Findings, refuse
from stillstack.forecast import Forecast, forecast
from stillstack.given import given_shifts
from stillstack.layout import Layout, read_amplification
from stillstack.memory import Memory, prepared_bytes
from stillstack.reference import ReferenceMaker
from stillstack.sampling import aligned_dtype, ordinary_frames, take_sample
from stillstack.sizing import choose_sizes
from stillstack.sources import Source, corrected, open_source, selected
from stillstack.versions import deciding_versions, version_differences

_TABLE_BYTES_PER_FRAME: Final = 100
_STORE_BYTES: Final = 4 * 2**20
_BEST_COMPRESSION: Final = 0.5
# A run of so much takes minutes, to time its first block a few seconds.
_MANY_BYTES: Final = 10**11
_ALLOWED_AMPLIFICATION: Final = 1.25
# Enough for a reference that takes as long to work with as one of many frames.
_REFERENCE_FRAMES: Final = 8


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
    calibration, forecast
        What the first block took, and what the run is expected to take; None where that was not
        asked for, or not possible.
    source, valid, reference_valid, typical, settings, fingerprint, left_out, given
        What was opened and found out for it: used by the run, left out of `to_json`.
    """

    config: RunConfig = field(repr=False)
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
    left_out: NDArray[np.bool_] = field(repr=False)
    given: NDArray[np.void] | None = field(default=None, repr=False)
    calibration: Calibration | None = None
    forecast: Forecast | None = None

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

    @property
    def maker(self) -> ReferenceMaker:
        """What makes the reference of its frames."""
        return ReferenceMaker(
            self.source,
            self.config.reference,
            self.valid,
            self.reference_valid,
            self.settings,
            left_out=self.left_out,
        )

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
                "excluded_frames": int(self.left_out.sum()),
                "valid_fraction": round(float(self.valid.mean()), 4),
            },
            "blocks": {
                "block_frames": self.layout.block_frames,
                "chunk_frames": self.layout.chunk_frames,
                "blocks": self.layout.n_blocks,
                "stages": list(self.layout.stage_names),
                "sharded": self.layout.sharded,
                "objects": self.layout.n_objects,
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
            "time": None if self.forecast is None else self.forecast.to_json(),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "noise": {"gain": round(self.gain, 4), "read_noise": self.read_noise},
            "config_digest": config_digest(self.config),
            "findings": [vars(finding) for finding in self.findings],
        }


def plan(
    config: RunConfig | Mapping[str, Any] | str | Path, *, calibrated: bool | None = False
) -> Plan:
    """Plan of a run: sizes, memory, disk, and all findings at once.

    A few frames are read, to see the noise, the brightness and the valid pixels.

    Parameters
    ----------
    config
        What is wanted: a config, its sections as a mapping, or its path.
    calibrated
        Time the first block, and forecast the run's time. This takes as long as to prepare a
        reference, and writes a block into a folder beside the output that is removed again.
        Else nothing is written. If None, it is done where frames are so many that it is nothing.

    Raises
    ------
    InputError
        If the input cannot be opened at all, together with what else was found by then.

    Examples
    --------
    >>> made = plan("run7.yaml")
    >>> made.errors, made.valid.shape == made.layout.frame_shape
    ((), True)
    """
    began = time.monotonic()
    config = as_config(config)
    found = Findings()
    place = config.output.place
    found.check(lambda: storage.check_writable(place))
    raw = found.need(
        lambda: open_source(
            config.input.path,
            variable=config.input.variable,
            pattern=config.input.pattern,
            options=config.input.options,
            engine=config.input.engine,
        )
    )
    for note in raw.notes:
        found.warn(note)
    source = found.need(lambda: corrected(raw, config.correction, config.valid.frames))
    found.check(lambda: inspection.check_frames(config, source))
    left_out = inspection.left_out(config, source, found)
    found.check(lambda: inspection.check_groups(config, source))
    given = found.check(lambda: given_shifts(config, source, left_out))
    sample = found.need(lambda: take_sample(source, left_out=left_out))
    valid, reference_valid = inspection.valid_pixels(config, source, sample, found)
    kept = ordinary_frames(sample.frames, valid)
    inspection.note_sample(sample, kept, found)
    inspection.note_no_data(config, source, sample, found)
    typical = inspection.typical_frame(sample.frames[kept if kept.any() else slice(None)])
    inspection.note_correction(source, typical, valid, found)
    inspection.note_negative(config, sample.frames[kept], valid, found)
    gain = inspection.gain_of(config, sample.frames[kept], valid, found)
    choice = config.alignment.dtype
    dtype = np.dtype(np.float32)
    if valid.any():
        known = np.dtype(source.dtype)
        dtype = found.check(lambda: aligned_dtype(choice, known, typical, valid)) or dtype
    settings = inspection.settings_of(config, gain)
    fingerprint = inspection.fingerprint_of(config, source, given)
    state = found.check(lambda: _output_state(config, fingerprint)) or "new"
    _note_versions(config, state, found)
    sizes = choose_sizes(config, source, dtype, _stored_layout(config, state), found)
    output_bytes, free_bytes = _disk(config, sizes.layout, found)
    if not found.errors:
        maker = ReferenceMaker(
            source, config.reference, valid, reference_valid, settings, left_out=left_out
        )
        found.check(lambda: maker.numbers)
        found.check(lambda: inspection.check_reference(maker, kept))
    _note_sizes(config, sizes.layout, source, found)
    made = Plan(
        config=config,
        layout=sizes.layout,
        memory=sizes.memory,
        workers=sizes.workers,
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
        left_out=left_out,
        given=given,
    )
    if calibrated is None:
        calibrated = sizes.layout.n_frames * sizes.layout.source_bytes >= _MANY_BYTES
    if not calibrated or made.errors:
        return made
    return _calibrated(made, planning=time.monotonic() - began)


def _calibrated(made: Plan, planning: float) -> Plan:
    """Add what the first block took, and what follows for the run."""
    output, layout = made.config.output, made.layout
    kept = kept_numbers(made.left_out, 0, layout.n_frames)[: layout.block_frames]
    try:
        image = made.maker.like(_REFERENCE_FRAMES, made.given)
        trial = Trial(
            source=selected(made.source, kept) if made.left_out.any() else made.source,
            layout=replace(layout, n_frames=len(kept)),
            image=image.image,
            reference_valid=image.valid,
            valid=made.valid,
            settings={**made.settings, "n_frames": image.n_frames},
            interpolation=made.config.alignment.interpolation,
            codec=output.codec,
            durable=output.durable,
        )
        place = output.place
        at = storage.nearest_folder(place) if isinstance(place, Path) else tempfile.gettempdir()
        measured = replace(calibrate(trial, Path(at)), planning=planning)
    except (InputError, RunFaultError) as error:
        doubt = Finding("warning", str(error), "How long the run takes cannot be said.")
        return replace(made, findings=(*made.findings, doubt))
    chunk, reference = made.source.chunk_frames, made.config.reference
    cores = cluster.machine_size()[0] if made.config.cluster.kind == "local" else 0
    workers = made.workers or cores or 1
    return replace(
        made,
        calibration=measured,
        forecast=forecast(layout, measured, reference, workers, source_chunk=chunk, cores=cores),
    )


def _stored_layout(config: RunConfig, state: str) -> dict[str, Any] | None:
    """Layout of the run that is to be finished: it stays as it is."""
    return None if state == "new" else storage.RunStore.view(config.output.place).layout


def _note_versions(config: RunConfig, state: str, found: Findings) -> None:
    """Warn where a run is finished by other programs than it was begun with."""
    if state != "unfinished":
        return
    begun = storage.RunStore.view(config.output.place).attributes.get("versions") or {}
    told = version_differences(begun, deciding_versions(), begun)
    if told:
        found.warn(
            f"The run was begun with other versions than are here: {told}.",
            "Frames that are done from now on may differ from the others in the last bits.",
            "Finish it in the environment in which it was begun where that matters.",
        )


def _disk(config: RunConfig, layout: Layout, found: Findings) -> tuple[int, int | None]:
    """Upper bound of what is written, and what is free there."""
    images = layout.n_frames * (layout.written_bytes + _TABLE_BYTES_PER_FRAME)
    # reference and valid pixels; and the reference made ready, until the run is complete
    output_bytes = images + 6 * layout.pixels + prepared_bytes(layout) + _STORE_BYTES
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
    """Bytes of aligned frames and their levels that an unfinished run has written already."""
    folders = (path / name for name in ("aligned", storage.PYRAMID))
    files = (file for folder in folders if folder.is_dir() for file in folder.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


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
