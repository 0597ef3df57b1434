"""What a run came to, how far it is, and what is wrong with it, in labelled lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillstack.model import Status
from stillstack.quantities import clock, duration
from stillstack.rows import Rows
from stillstack.summary import Summary, compact_ranges

if TYPE_CHECKING:
    from stillstack.demo import DemoResult
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
