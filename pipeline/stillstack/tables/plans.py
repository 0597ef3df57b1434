"""What a run will take, and who is to do it, in labelled lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stillstack.quantities import byte_size, duration
from stillstack.rows import Rows
from stillstack.summary import compact_ranges

if TYPE_CHECKING:
    from stillstack.doctor import Diagnosis
    from stillstack.forecast import Forecast
    from stillstack.plan import Plan
    from stillstack.scaling import Scale


def doctor_rows(found: Diagnosis) -> Rows:
    """Tell what was found of a cluster, check by check, and what speaks against the run itself."""
    rows = Rows([("cluster", found.kind)])
    rows += [("plan", f"{finding.level}: {finding}") for finding in found.plan_findings]
    for check in found.checks:
        said = [f"{finding.level}: {finding}" for finding in check.findings]
        rows += [(check.name, text) for text in said or [check.summary]]
    return rows


def plan_rows(plan: Plan, picture: Path | None = None) -> Rows:
    """Tell what a run will take and produce."""
    layout, memory = plan.layout, plan.memory
    n_frames, (height, width) = layout.n_frames, layout.frame_shape
    raw, dtype = n_frames * layout.recorded_bytes, layout.source_dtype
    if layout.recorded_dtype:
        dtype = f"{layout.recorded_dtype}, corrected to {dtype}"
    chunks = (
        f"{plan.source.chunk_frames} frames in the source, {layout.chunk_frames} in the output"
        f"{', shards of one block' if layout.sharded else ''}; {layout.n_objects:,} objects"
    )
    blocks = (
        f"{layout.n_blocks:,} of {layout.block_frames} frames; each frame is decoded "
        f"{plan.read_amplification:.3g} times"
    )
    output = (
        f"{plan.config.output.path} ({plan.output_state}), "
        f"{layout.aligned_dtype or 'table only'}, at most {byte_size(plan.output_bytes)}"
        + ("" if plan.free_bytes is None else f"; {byte_size(plan.free_bytes)} free")
    )
    rows = Rows(
        [
            ("input", plan.source.name),
            ("frames", f"{n_frames:,} of {height} x {width}, {dtype}, {byte_size(raw)}"),
            ("chunks", chunks),
            ("blocks", blocks),
            ("passes", ", ".join(layout.stage_names)),
            ("valid", f"{plan.valid.mean():.1%} of the pixels"),
            ("noise", f"{plan.gain:.3g} counts per event, {plan.read_noise:.3g} counts read noise"),
            ("memory", _memory(plan)),
            ("time", _time(plan)),
            ("output", output),
        ]
    )
    n_excluded = int(plan.left_out.sum())
    if n_excluded:
        listed = compact_ranges(np.flatnonzero(plan.left_out))
        rows.insert(2, ("excluded", f"{n_excluded:,} frames: {listed}"))
    if not memory.limit:
        rows.insert(-1, ("cluster", "a running one, with its own workers and memory limits"))
    if picture is not None:
        rows.append(("picture", str(picture)))
    return rows


def scale_rows(scale: Scale) -> Rows:
    """Tell what a run of another size would need."""
    layout = scale.layout
    objects = f"{layout.n_objects:,} objects"
    if scale.many_objects:
        objects += " (fewer with output.shards: auto)"
    memory = (
        f"a limit of {byte_size(scale.worker_limit)} for each worker, "
        f"{byte_size(scale.coordinator_bytes)} for the coordinator"
    )
    rows = Rows(
        [
            ("raw frames", byte_size(scale.source_bytes)),
            ("output", f"{byte_size(scale.output_bytes)}, {objects}"),
            ("blocks", f"{layout.n_blocks:,} of {layout.block_frames} frames"),
            ("memory", memory),
        ]
    )
    forecasts = [scale.chosen] if scale.chosen is not None else scale.steps
    rows += [(f"{step.workers:,} workers", _expected(step)) for step in forecasts]
    if forecasts:
        most = forecasts[-1].most_workers
        rows.append(("at most", f"{most:,} workers are of use: more would wait for the scheduler"))
        rows.append(("ledger", byte_size(forecasts[-1].ledger_bytes)))
    return rows


def _expected(step: Forecast) -> str:
    return (
        f"{duration(step.seconds)}; {step.tasks_per_second:.3g} blocks/s keep the scheduler "
        f"{step.coordinator_load:.0%} busy"
    )


def _memory(plan: Plan) -> str:
    memory = plan.memory
    each = (
        f"{byte_size(memory.task)} per task, {byte_size(memory.worker)} per worker, which needs a "
        f"limit of {byte_size(memory.needed_limit)}; {byte_size(memory.coordinator)} to make the "
        f"reference, {byte_size(memory.needed_coordinator)} where kernels are compiled first"
    )
    if not memory.available:
        return each
    return (
        f"{each}; {byte_size(memory.total)} for {plan.workers} workers of "
        f"{byte_size(memory.available)}"
    )


def _time(plan: Plan) -> str:
    expected, measured = plan.forecast, plan.calibration
    if expected is None or measured is None:
        return "not known: the first block was not tried"
    rate = plan.layout.n_frames / expected.seconds
    frame = 1e3 / measured.frames
    stages = (
        f"read {frame * (measured.read + measured.cold_read):.3g}, "
        f"register {frame * measured.register:.3g}, align {frame * measured.align:.3g}, "
        f"write {frame * measured.write:.3g} ms a frame"
    )
    return (
        f"about {duration(expected.seconds)}, {rate:.3g} frames/s, with {expected.workers} workers "
        f"({duration(expected.starting)} to start; {stages})"
    )
