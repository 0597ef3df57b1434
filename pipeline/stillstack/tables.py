"""Results of the commands as labelled lines and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillstack.model import Status
from stillstack.quantities import byte_size, clock, duration
from stillstack.rows import Rows
from stillstack.summary import Summary, compact_ranges

if TYPE_CHECKING:
    import xarray as xr

    from stillstack.demo import DemoResult
    from stillstack.doctor import Diagnosis
    from stillstack.forecast import Forecast
    from stillstack.ingest import Written
    from stillstack.plan import Plan
    from stillstack.scaling import Scale
    from stillstack.sources.contents import Contents, Span
    from stillstack.verification import Verification
    from stillstack.watch.status import RunState, StageState


def summary_rows(summary: Summary) -> Rows:
    """Tell what a run came to: frames, flags, drift and error bars."""
    rows = Rows([("frames", _counts(summary.n_wanted, summary.n_good))])
    if summary.n_excluded:
        rows.append(("excluded", f"{summary.n_excluded:,}, as the config says"))
    if summary.n_rejected:
        rows.append(("rejected", compact_ranges(summary.rejected)))
    for bit, count in summary.flag_counts.items():
        if bit is Status.EXCLUDED:
            continue
        rows.append(("", f"{(bit.name or '').lower()}: {count:,}"))
    if summary.n_good:
        y, x = summary.drift_range
        rows.append(("drift", f"{y:.3g} px in y, {x:.3g} px in x"))
        y, x = summary.median_std
        rows.append(("error", f"{y:.2g} px in y, {x:.2g} px in x (1 sigma, median)"))
    return rows


def run_rows(
    summary: Summary,
    output: str,
    page: Path | None,
    seconds: float | None,
    checks: Mapping[str, Any] | None = None,
) -> Rows:
    """Tell what a run came to, and where; without `seconds`, that nothing was left to do."""
    rows = summary_rows(summary)
    rows += _check_rows(checks or {})
    took = "nothing was left to do"
    if seconds is not None:
        took = f"{duration(seconds)}, {summary.n_frames / max(seconds, 1e-9):.3g} frames/s"
    rows.append(("time", took))
    rows.append(("output", output))
    if page is not None:
        rows.append(("report", str(page)))
    return rows


def _check_rows(checks: Mapping[str, Any]) -> Rows:
    """Tell what independent checks found, from what `Checks.as_dict` gives, or its JSON."""
    said = []
    size = checks.get("resolution_half_bit_px")
    if size is not None and np.isfinite(size):
        said.append(f"odd and even frames agree down to {max(size, 2.0):.3g} px")
    for name, who in (("residual", "stretches of the run"), ("held_out", "held-out parts")):
        left, noise = checks.get(f"{name}_rms_px"), checks.get(f"{name}_noise_px")
        if left is not None and noise is not None and np.isfinite(left):
            said.append(f"{who} are left with {left:.2g} px rms (noise alone: {noise:.2g} px)")
    gain, std = checks.get("sharpness_gain"), checks.get("sharpness_gain_std")
    if gain is not None and std is not None and np.isfinite(gain):
        said.append(f"the mean is {gain:.3g} ± {std:.2g} times as sharp as recorded")
    return Rows(("checks" if not i else "", words) for i, words in enumerate(said))


def verification_rows(found: Verification) -> Rows:
    """Tell what is wrong with a store, block by block."""
    state = "complete" if found.complete else "unfinished"
    rows = Rows([("store", f"{state}, {found.n_frames:,} frames in {found.n_blocks:,} blocks")])
    rows += [("damaged", f"frames {d.start} to {d.stop - 1}: {'; '.join(d.faults)}")
             for d in found.damaged]  # fmt: skip
    if found.missing:
        rows.append(("missing", f"blocks {compact_ranges(found.missing)} are not in the ledger"))
    rows += [("damaged", text) for text in found.beside]
    if found.sound:
        rows.append(("found", "every object holds what was written"))
    return rows


_MOST_REASONS = 5


def status_rows(seen: RunState) -> Rows:
    """Tell how far a run has come."""
    rows = Rows([("state", f"{seen.state}, {_writer(seen)}")])
    rows += [(stage.name, _stage(stage, seen)) for stage in seen.stages]
    if seen.n_frames and seen.n_frames > seen.n_pending and (seen.n_good or seen.flags):
        known = seen.n_frames - seen.n_pending
        rows.append(("frames", f"{_counts(known, seen.n_good)}, when the table was last written"))
    rows += [("", f"{name}: {count:,}") for name, count in seen.flags.items()]
    if seen.set_aside:
        numbers = tuple(sorted(seen.set_aside))
        rows.append(("set aside", f"{len(numbers):,}: {compact_ranges(numbers)}"))
        rows += [("", f"frame {n}: {seen.set_aside[n]}") for n in numbers[:_MOST_REASONS]]
    rows += _check_rows(seen.checks)
    for attempt in seen.attempts[-3:]:
        rows.append(("attempt", _attempt(attempt)))
    return rows


def _writer(seen: RunState) -> str:
    writer = seen.writer
    if writer is None:
        again = "" if seen.state == "complete" else "; the same command goes on"
        return f"nobody writes to it{again}"
    if writer.alive is False:
        return f"nobody writes to it: {writer} died; the same command goes on"
    doubt = "" if writer.alive else ", if it still lives, which only that machine can tell"
    return f"being written by {writer} since {clock(writer.since)}{doubt}"


def _stage(stage: StageState, seen: RunState) -> str:
    done = f"{stage.frames_done:,} of {stage.n_frames:,} frames"
    if seen.is_written is False or seen.state == "complete":
        return done
    if seen.current is not stage or stage.rate is None:
        return done
    left = stage.seconds_left
    coming = "nothing has come for ten minutes" if left is None else f"{duration(left)} left"
    return f"{done}, {stage.rate:.3g} frames/s, {coming}"


def _attempt(attempt: Mapping[str, Any]) -> str:
    began, ended = attempt.get("began"), attempt.get("ended")
    took = f" for {duration(ended - began)}" if began is not None and ended is not None else ""
    outcome = str(attempt.get("outcome", "not known"))
    where = f"process {attempt.get('process')} on {attempt.get('host')}"
    return f"{clock(began)}{took}, {where}: {outcome}"


_MOST_ATTRIBUTES = 24


def info_rows(found: Contents) -> Rows:
    """Tell what lies at a path."""
    kinds = {
        "source": found.format,
        "stack": f"{found.format}, a stack of stillstack",
        "run": f"{found.format}, a run of stillstack",
    }
    finished = {None: "", True: ", complete", False: ", unfinished"}[found.complete]
    rows = Rows([("format", kinds[found.kind] + finished)])
    if found.shape is not None:
        n_frames, height, width = found.shape
        pieces = f"{found.chunk_frames:,} frames stored as one piece"
        rows += [
            ("frames", f"{n_frames:,} of {height} x {width} pixels, {found.dtype}"),
            ("size", f"{byte_size(n_frames * found.frame_bytes)} as pixels; {pieces}"),
        ]
    if found.scan is not None:
        rows.append(("scan", "{} x {} positions, scan_y and scan_x".format(*found.scan)))
    if found.kind != "run":
        rows.append(("pixel size", found.pixel_size or "not in the file"))
    rows += [("note", note) for note in found.notes]
    rows += [("coordinate", f"{name}: {_span(span)}") for name, span in found.coords.items()]
    rows += [("variable", f"{name}: {text}") for name, text in found.variables.items()]
    shown = list(found.attrs.items())[:_MOST_ATTRIBUTES]
    rows += [("attribute", f"{name}: {value}") for name, value in shown]
    if len(found.attrs) > len(shown):
        rows.append(("", f"and {len(found.attrs) - len(shown)} more: --json has them all"))
    return rows


def _span(span: Span) -> str:
    if not span.n_distinct:
        return f"no values ({span.dtype})"
    missing = f", missing in {span.n_missing:,} frames" if span.n_missing else ""
    first, last = (f"{v:.6g}" if isinstance(v, float) else repr(v) for v in (span.first, span.last))
    if span.n_distinct == 1:
        return f"{first} in all ({span.dtype}{missing})"
    return f"{first} to {last}, {span.n_distinct:,} values ({span.dtype}{missing})"


def doctor_rows(found: Diagnosis) -> Rows:
    """Tell what was found of a cluster, check by check, and what speaks against the run itself."""
    rows = Rows([("cluster", found.kind)])
    rows += [("plan", f"{finding.level}: {finding}") for finding in found.plan_findings]
    for check in found.checks:
        said = [f"{finding.level}: {finding}" for finding in check.findings]
        rows += [(check.name, text) for text in said or [check.summary]]
    return rows


def run_json(
    summary: Summary,
    output: str,
    page: Path | None,
    seconds: float,
    checks: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Give what a run came to as plain values."""
    return {
        "output": output,
        "report": None if page is None else str(page),
        "seconds": round(seconds, 3),
        "checks": checks,
        **summary.as_dict(),
    }


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


def written_rows(written: Written, config: Path | None) -> Rows:
    """Tell what an ingest or a simulation came to."""
    n_frames, height, width = written.shape
    raw = int(np.prod(written.shape)) * np.dtype(written.dtype).itemsize
    rows = Rows(
        [
            ("frames", f"{n_frames:,} of {height} x {width} pixels, {written.dtype}"),
            ("chunks", f"{written.chunk_frames} frames"),
            ("size", f"{byte_size(written.written_bytes)} on the disk, {byte_size(raw)} as pixels"),
        ]
    )
    if written.set_aside:
        rows.append(("set aside", compact_ranges(tuple(written.set_aside))))
    if config is not None:
        rows.append(("config", f"{config}  (next: stillstack run {config})"))
    return rows


def reduction_json(result: xr.Dataset, output: str, seconds: float) -> dict[str, Any]:
    """Give what a reduction came to as plain values."""
    layout = result.attrs["layout"]
    reasons = dict(result.attrs["frames_left_out_because"])
    n_dark = int(result["n_dark"].sum())
    if n_dark:
        reasons["they do not sum to a positive number"] = n_dark
    n_frames = np.asarray(result["n_frames"].values)
    return {
        "output": output,
        "seconds": round(seconds, 3),
        "by": dict(zip(layout["by"], layout["shape"], strict=True)),
        "groups": int(n_frames.size),
        "groups_without_frames": int((n_frames == 0).sum()),
        "groups_of_one_frame": int((n_frames == 1).sum()),
        "frames_used": int(n_frames.sum()),
        "fewest_frames": int(n_frames.min()),
        "most_frames": int(n_frames.max()),
        "normalisation": result.attrs["normalisation"],
        "frames_left_out_because": reasons,
        "variables": [*layout["images"], *layout["numbers"]],
    }


def reduction_rows(told: dict[str, Any]) -> Rows:
    """Tell what a reduction came to: what `reduction_json` gives, in words."""
    by = ", ".join(f"{count:,} of {name}" for name, count in told["by"].items())
    each = f"{told['fewest_frames']:,} to {told['most_frames']:,} frames in each"
    rows = Rows(
        [
            ("groups", f"{told['groups']:,} ({by}), {each}" if by else "one, of all frames"),
            ("frames", f"{told['frames_used']:,} were averaged"),
            ("divided by", told["normalisation"].replace("none", "nothing")),
            ("variables", ", ".join(told["variables"])),
            ("time", duration(told["seconds"])),
            ("output", told["output"]),
        ]
    )
    for count, what in (
        (told["groups_without_frames"], "no frame: NaN, with a coverage of 0"),
        (told["groups_of_one_frame"], "one frame only: no variance and no error"),
    ):
        if count and by:
            rows.insert(1, ("", f"{count:,} groups have {what}"))
    return rows


def demo_rows(result: DemoResult, page: Path, seconds: float) -> Rows:
    """Tell how the demo ended."""
    bad = result.n_frames - result.n_good
    verdict = "every planted bad frame was rejected, and no good one"
    if result.missed or result.wronged:
        verdict = f"{len(result.missed)} bad ones missed, {len(result.wronged)} good ones rejected"
    took = f"{duration(seconds)} in all; the run was complete already"
    if result.run_seconds is not None:
        rate = result.n_frames / max(result.run_seconds, 1e-9)
        took = (
            f"{duration(seconds)} in all; the run {duration(result.run_seconds)}, "
            f"{rate:.3g} frames/s"
        )
    return Rows(
        [
            ("frames", f"{result.n_frames:,}: {result.n_good:,} good, {bad:,} bad ({verdict})"),
            ("error", f"{result.rms_px:.4f} px rms against the simulated truth"),
            ("predicted", f"{result.predicted_px:.4f} px (error / predicted = {result.ratio:.2f})"),
            ("time", took),
            ("frames in", str(result.frames)),
            ("aligned in", str(result.aligned)),
            ("report", str(page)),
        ]
    )


def _counts(n_frames: int, n_good: int) -> str:
    return f"{n_frames:,}: {n_good:,} good, {n_frames - n_good:,} not"


def _memory(plan: Plan) -> str:
    memory = plan.memory
    each = (
        f"{byte_size(memory.task)} per task, {byte_size(memory.worker)} per worker, which needs a "
        f"limit of {byte_size(memory.needed_limit)}; {byte_size(memory.coordinator)} to make the "
        "reference"
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
