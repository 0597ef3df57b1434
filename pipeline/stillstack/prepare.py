"""From a plan to a store and a job: what is made once, before and between the passes."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from stillstack.address import portable
from stillstack.config import config_digest, result_settings
from stillstack.errors import (
    RunFaultError,
    StillstackError,
    changed_source,
    lost_source,
)
from stillstack.inspection import fingerprint_of
from stillstack.job import Job
from stillstack.kept_references import (
    KeptReference,
    refuse_other_reference,
    stored_reference,
)
from stillstack.kernels.resampling import DEFAULT_INTERPOLATION
from stillstack.layout import ESTIMATE, Stage
from stillstack.model import GROUP, TRAJECTORY_COLUMNS, Rows
from stillstack.plan import Plan
from stillstack.references import References, make_references
from stillstack.settle import SUM_RANGE, frame_order
from stillstack.sources import PIXEL_SIZE, PIXEL_SIZE_UNITS, frame_step, pixel_steps, selected
from stillstack.stacks import Canvas, common_canvas
from stillstack.storage import Axes, RunLock, RunStore, RunTemplate, display_window
from stillstack.storage.notes import ATTEMPTS_NOTE, INPUT_OPTIONS_NOTE, PLAN_NOTE
from stillstack.sums import sums_in
from stillstack.versions import deciding_versions
from stillstack.watch.progress import OnProgress, Progress

_LOG: Final = logging.getLogger(__name__)
# Attributes of a source that are those of its aligned frames too.
_KEPT: Final = (PIXEL_SIZE, PIXEL_SIZE_UNITS)


def note_plan(plan: Plan) -> None:
    """Write into the log what is about to be run, and where."""
    layout = plan.layout
    height, width = layout.frame_shape
    versions = ", ".join(f"{name} {version}" for name, version in deciding_versions().items())
    _LOG.info("process %d on %s: %s", os.getpid(), socket.gethostname(), versions)
    _LOG.info(
        "%s, %d frames of %d x %d, %s, in %d blocks of %d; passes: %s",
        *(plan.source.name, layout.n_frames, height, width, layout.source_dtype),
        *(layout.n_blocks, layout.block_frames, ", ".join(layout.stage_names)),
    )
    _LOG.info(
        "output %s (%s), %s; %d workers, %d MB at most each; config %s",
        *(plan.config.output.path, plan.output_state, layout.aligned_dtype or "table only"),
        *(plan.workers, plan.memory.limit // 10**6, config_digest(plan.config)),
    )
    for finding in plan.warnings:
        _LOG.warning("%s", finding)


def opened_store(plan: Plan, lock: RunLock, progress: OnProgress | None) -> RunStore:
    """Open the store that an earlier attempt began, or make the reference and a new one."""
    durable = plan.config.output.durable
    if plan.output_state != "new":
        store = RunStore.resume(lock, durable=durable)
        if plan.forecast is not None and not store.complete:
            store.write_note(PLAN_NOTE, _expected(plan))
        return store
    if progress is not None:
        progress(Progress("reference", 0, plan.layout.n_frames))
    began = time.monotonic()
    made = make_references(plan)
    notes = "; ".join(made.notes)
    _LOG.info("the reference is made, in %.1f s: %s", time.monotonic() - began, notes)
    store = RunStore.create(lock, _template(plan, made), durable=durable)
    store.prepared.keep(made.prepared)
    store.write_note(PLAN_NOTE, _expected(plan))
    if plan.config.input.options:
        # beside the result: the report looks at the raw frames again
        store.write_note(INPUT_OPTIONS_NOTE, plan.config.input.options)
    return store


def _expected(plan: Plan) -> dict[str, Any]:
    """What a plan expects of the run, for the report."""
    return {
        "workers": plan.workers,
        "memory": plan.memory.to_json(),
        "output_bytes_at_most": plan.output_bytes,
        "forecast": None if plan.forecast is None else plan.forecast.to_json(),
    }


def is_done(store: RunStore, plan: Plan) -> bool:
    """Whether nothing is left to do; else the store is marked unfinished."""
    if not store.complete:
        return False
    if not any(_missing_blocks(store, name) for name in plan.layout.stage_names):
        return True
    store.mark_unfinished()
    return False


def job_for(plan: Plan, store: RunStore, stage: Stage, table: Rows) -> Job:
    """Return what the blocks of one pass have in common.

    Two runs of one config on one cluster must not take each other's tasks for their own, so a job
    has a name that no other has.

    Raises
    ------
    RunFaultError
        If the source has changed since the run was planned.
    """
    refuse_changed(plan)
    canvas = _canvas(store, table) if stage.applies else None
    attributes, layout = store.attributes, store.layout
    job = Job(
        digest=f"{attributes['config_digest']}-{uuid.uuid4().hex}",
        source=plan.source,
        store_path=portable(store.path),
        reference=kept_reference(store),
        writer=store.writer() if stage.applies else None,
        aligned_dtype=layout["aligned_dtype"],
        interpolation=attributes["interpolation"],
        canvas=canvas,
        fingerprint=plan.source.fingerprint(),
    )
    if stage != ESTIMATE:
        return replace(job, unseen=store.has(SUM_RANGE))
    return _summed(plan, store, job) if store.has(SUM_RANGE) else _grouped(store, job)


def kept_reference(store: RunStore) -> KeptReference:
    """Name the reference for workers; it is prepared again where an earlier attempt left none.

    Raises
    ------
    RunFaultError
        If this version makes another reference of what the store holds.
    """
    digest = str(store.attributes["reference_digest"])
    sha256 = store.prepared.sha256_of(digest)
    if not sha256:
        reference = stored_reference(store)
        refuse_other_reference(reference, digest, portable(store.path))
        sha256 = store.prepared.keep(reference)
    return KeptReference(digest, sha256)


def _grouped(store: RunStore, job: Job) -> Job:
    """Return a job that goes through the frames group by group, each with its own reference."""
    order = frame_order(store)
    if order is None:
        return job
    source = selected(job.source, order)
    return replace(
        job,
        source=source,
        fingerprint=source.fingerprint(),
        groups=_kept_groups(store, job),
        group_of=store.read("group_index")[order],
    )


def _summed(plan: Plan, store: RunStore, job: Job) -> Job:
    """Return a job that registers sums of frames."""
    source = sums_in(plan, store.read(SUM_RANGE))
    return replace(
        job,
        source=source,
        fingerprint=source.fingerprint(),
        groups=_kept_groups(store, job),
        group_of=np.ones(source.shape[0], np.int32),
    )


def _kept_groups(store: RunStore, job: Job) -> tuple[KeptReference, ...]:
    n_groups = store.open_array(GROUP).shape[0]
    return tuple(KeptReference(f"{job.reference.digest}-{n}", group=n) for n in range(n_groups))


def verify(store: RunStore, plan: Plan) -> None:
    """Raise RunFaultError unless every block of every pass is done, of the source as it was."""
    for name in plan.layout.stage_names:
        missing = _missing_blocks(store, name)
        if missing:
            raise RunFaultError(
                f"{missing} of {len(store.blocks(name))} blocks of {store.path} are not what was "
                "written.",
                cure="Run the same command again: it does them again.",
            )
    refuse_changed(plan)


def refuse_changed(plan: Plan) -> None:
    """Raise RunFaultError where the source is not what it was when the run was planned."""
    try:
        now = fingerprint_of(plan.config, plan.source, plan.given)
    except StillstackError:
        raise  # a store that does not let one in says so itself
    except Exception as error:
        raise lost_source(f"The source {plan.source.name}", error) from error
    if now != plan.fingerprint:
        raise changed_source(plan.source.name)


def _missing_blocks(store: RunStore, stage: str) -> int:
    return len(store.blocks(stage)) - len(store.done_blocks(stage))


@contextlib.contextmanager
def attempt_noted(store: RunStore, began: float) -> Iterator[dict[str, Any]]:
    """Write down when and where the run is worked on, how that ended, and what is added to it."""
    attempts = store.read_note(ATTEMPTS_NOTE) or []
    attempt: dict[str, Any] = {
        "began": began,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "outcome": "killed",
        "versions": deciding_versions(),
    }
    store.write_note(ATTEMPTS_NOTE, [*attempts, attempt])
    try:
        yield attempt
        attempt["outcome"] = "complete"
    except BaseException as error:
        attempt["outcome"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        attempt["ended"] = time.time()
        # the reason for a failure must not be hidden by a full disk
        with contextlib.suppress(OSError, StillstackError):
            store.write_note(ATTEMPTS_NOTE, [*attempts, attempt])


def _template(plan: Plan, made: References) -> RunTemplate:
    """Everything that is known before the first block."""
    layout, config = plan.layout, plan.config
    chosen = config.alignment.interpolation
    followed = config.trajectory is not None or plan.given is not None
    return RunTemplate(
        n_frames=layout.n_frames,
        frame_shape=layout.frame_shape,
        config_digest=config_digest(config),
        source_fingerprint=plan.fingerprint,
        reference=made.image,
        reference_valid=made.valid,
        valid=plan.valid,
        aligned_dtype=layout.aligned_dtype,
        canvas=config.alignment.canvas,
        chunk_frames=layout.chunk_frames,
        block_frames=layout.block_frames,
        sharded=layout.sharded,
        codec=config.output.codec,
        coords=plan.source.coords,
        columns=TRAJECTORY_COLUMNS if followed else (),
        given=plan.given,
        groups=made.variables,
        stage_frames={} if made.sum_frames == 1 else {ESTIMATE.name: _n_sums(made)},
        axes=_axes(plan, made) if config.output.ome_zarr else None,
        attrs={
            **({} if made.sum_frames == 1 else {"sum_frames": made.sum_frames}),
            "title": f"{plan.source.name}, registered by stillstack",
            **{key: plan.source.attrs[key] for key in _KEPT if key in plan.source.attrs},
            "config": result_settings(config),
            "registration": {**plan.settings, "n_frames": made.n_frames},
            "interpolation": DEFAULT_INTERPOLATION if chosen == "auto" else chosen,
            "reference_digest": made.prepared.digest,
            "reference_std": [float(value) for value in made.prepared.reference_std],
            "reference_notes": list(made.notes),
            "versions": deciding_versions(),
        },
    )


def _axes(plan: Plan, made: References) -> Axes:
    """Axes of the aligned frames for viewers, by what the source says of itself."""
    (y, x), unit = pixel_steps(plan.source.attrs)
    time_step, time_unit = frame_step(plan.source.coords)
    window = display_window(made.image, made.valid)
    return Axes((time_step, y, x), (time_unit, unit, unit), window)


def _n_sums(made: References) -> int:
    return int(made.variables[SUM_RANGE].shape[0])


def _canvas(store: RunStore, table: Rows) -> Canvas | None:
    """Window that is written; the array for it is made here when it was not known before."""
    if store.layout["canvas"] == "input":
        return None
    y0, y1, x0, x1 = common_canvas(table["shift"], table["status"], store.frame_shape)
    store.create_aligned((y1 - y0, x1 - x0), origin=(y0, x0))
    return (y0, y1, x0, x1)
