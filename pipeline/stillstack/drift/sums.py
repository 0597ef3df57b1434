"""Low dose: sums of neighbouring frames are registered, and their shifts drawn through to frames.

A running group of k frames is registered as one. Groups that share frames share noise: drift and
jitter are told from groups that share none, and of the others each counts in the measure in which
its frames are its own. Between the centres of the sums the drift is known
as well as it can be foretold from both sides; what jitter a frame has of its own, no sum shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillstack.config.trajectory import TrajectoryConfig
from stillstack.drift.clock import Clock, Gap, find_gaps, read_clock
from stillstack.drift.evidence import errors_of
from stillstack.drift.motion import Motion, Positions, drift_states
from stillstack.drift.repair import repairable, repaired_status, within_reach
from stillstack.drift.trajectory import (
    FIGURES,
    NOT_KNOWN,
    Jump,
    Segmented,
    Trajectory,
    drift_about_means,
    found_jumps,
    segmented,
    told_motion,
)
from stillstack.errors import InputError
from stillstack.model import Status, is_good

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

_IN_NO_SUM: Final = int(Status.UNREADABLE | Status.BLANK | Status.EXCLUDED)


def interpolate_sums(
    time: ArrayLike | None,
    status: NDArray[np.uint16],
    ranges: Indices,
    rows: NDArray[np.void],
    settings: TrajectoryConfig | None = None,
    *,
    jitter_std: tuple[float, float] | None = None,
) -> Trajectory:
    """Return the trajectory of frames of which only sums were registered.

    A frame is good where its own pixels are and a good sum holds it. A frame between the centres of
    two sums with a jump between them is of neither side: it is not converged, its segment -1.

    Parameters
    ----------
    time
        (n,), when frames were taken: dates or seconds; None: frame numbers stand for seconds.
    status
        (n,), of the frames' own pixels: unreadable, blank and excluded ones are in no sum.
    ranges
        (m, 2), rising: first frame of each sum and the one after its last, as `sum_ranges` gives.
    rows
        (m,), of the sums, as the table of shifts has them.
    settings
        The section ``trajectory`` of a config.
    jitter_std
        Jitter of frames along y and x, px, where it is known. Default: what the sums show of it.
        In them its variance is k times smaller: where it cannot be told, error bars allow for what
        it may be, and a note says so.

    Raises
    ------
    InputError
        The times are not usable, or the ranges are not those of the rows.

    Examples
    --------
    >>> from stillstack.drift.grouping import sum_ranges
    >>> from stillstack.model import empty_table
    >>> ranges = sum_ranges(None, 200, 10)
    >>> rows = empty_table(len(ranges), Status(0))
    >>> rows["shift"] = ranges.mean(axis=1, keepdims=True) * [0.01, 0.0]
    >>> rows["shift_std"], rows["shift_corr"] = 0.1, 0.0
    >>> found = interpolate_sums(None, np.zeros(200, "u2"), ranges, rows)
    >>> np.round(found.shift[100], 2), bool(found.shift_std[100, 0] < 0.1)
    (array([1., 0.]), True)
    """
    settings = settings or TrajectoryConfig()
    clock = read_clock(time, len(status))
    _check_ranges(ranges, len(rows), len(status))
    gaps = find_gaps(clock, settings.gap_intervals)
    frames = _Frames(clock.seconds, status, _pieces(len(status), gaps))
    sums = _segmented_sums(frames, ranges, rows, settings)
    notes = [*clock.notes, *sums.evidence.notes]
    shared = _shared(ranges, len(status))
    motion = told_motion(_apart(sums, ranges, shared), notes)
    segment = _segments_of_frames(frames, sums, ranges)
    if motion is None:
        return _nothing(frames, segment, tuple(gaps), notes)
    jitter = _jitter(jitter_std, motion, frames.seconds, ranges, notes)
    mean, cov, jumps = _drawn_through(frames, _jittering(sums, motion, shared), segment, motion)
    covered = _coverage(ranges[sums.evidence.used], len(status)) > 0
    shown = covered & (segment != NOT_KNOWN)
    bits = np.where(shown, status, status | np.uint16(Status.NOT_CONVERGED))
    given = shown & is_good(status)
    if settings.repair:
        near = within_reach(given, segment, settings.max_repair_frames)
        repaired = near & repairable(bits) & (segment != NOT_KNOWN)
        bits, given = repaired_status(bits, repaired), given | repaired
    mean[~given], cov[~given] = np.nan, np.nan
    std, corr = errors_of(cov + np.array([jitter[0], 0.0, jitter[1]]))
    drift_rms = drift_about_means(mean, given, segment)
    found = (motion.walk, np.sqrt(jitter), motion.bend, drift_rms)
    return Trajectory(
        mean,
        std,
        corr,
        bits,
        segment.astype(np.int32),
        jumps,
        tuple(gaps),
        notes=tuple(notes),
        **dict(zip(FIGURES, found, strict=True)),
    )


@dataclass(frozen=True, eq=False)
class _Frames:
    """When frames were taken, what is known of their pixels, and between which gaps they lie."""

    seconds: Floats
    status: NDArray[np.uint16]
    piece: Indices


def _pieces(n_frames: int, gaps: list[Gap]) -> Indices:
    first = np.isin(np.arange(n_frames), [gap.frame for gap in gaps])
    return first.cumsum(dtype=np.int64)


def _check_ranges(ranges: Indices, n_sums: int, n_frames: int) -> None:
    sound = ranges.shape == (n_sums, 2) and np.all(ranges[:, 0] < ranges[:, 1])
    if sound and n_sums:
        inside = ranges.min() >= 0 and ranges.max() <= n_frames
        sound = inside and np.all(np.diff(ranges, axis=0) >= 0)
    if not sound:
        raise InputError(
            f"{len(ranges)} ranges do not fit {n_sums} sums of {n_frames} frames.",
            consequence="Which frames a sum holds is not known.",
            cure="Give the ranges that sum_ranges returned for this stack, in their order.",
        )


def _coverage(ranges: Indices, n_frames: int) -> Indices:
    """Return how many sums hold each frame."""
    change = np.bincount(ranges[:, 0], minlength=n_frames + 1)
    change = change - np.bincount(ranges[:, 1], minlength=n_frames + 1)
    return np.asarray(change.cumsum()[:-1])


def _means(values: Floats, ranges: Indices) -> Floats:
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((total[ranges[:, 1]] - total[ranges[:, 0]]) / np.diff(ranges, axis=1)[:, 0])


def _shared(ranges: Indices, n_frames: int) -> Floats:
    """Return how many sums hold the frames of each, on average."""
    return _means(_coverage(ranges, n_frames).astype(float), ranges)


def _apart(sums: Segmented, ranges: Indices, shared: Floats) -> Positions:
    """Return what sums show that have no frames in common, with their own error bars."""
    seen, end = sums.evidence.used.copy(), -1
    for i in np.flatnonzero(seen).tolist():
        seen[i] = ranges[i, 0] >= end
        if seen[i]:
            end = int(ranges[i, 1])
    return replace(sums.positions, seen=seen, cov=sums.evidence.cov / shared[:, None])


def _jittering(sums: Segmented, motion: Motion, shared: Floats) -> Segmented:
    """Return sums of which the jitter that they share, too, counts once."""
    more = np.outer(shared - 1.0, [motion.jitter[0], 0.0, motion.jitter[1]])
    return replace(sums, evidence=replace(sums.evidence, cov=sums.evidence.cov + more))


def _segmented_sums(
    frames: _Frames, ranges: Indices, rows: NDArray[np.void], settings: TrajectoryConfig
) -> Segmented:
    """Return the sums with their outliers and jumps; noise that they share counts once."""
    held = (frames.status & _IN_NO_SUM) == 0
    share = np.maximum(_means(held.astype(float), ranges), 1e-12)
    centres = _means(np.where(held, frames.seconds, 0.0), ranges) / share
    empty = ~(_means(held.astype(float), ranges) > 0)
    centres[empty] = _means(frames.seconds, ranges)[empty]
    centres = np.maximum.accumulate(centres) if len(centres) else centres
    own = rows.copy()
    own["shift_std"] = own["shift_std"] * np.sqrt(_shared(ranges, len(held)))[:, None]
    piece = frames.piece[ranges[:, 0]]
    breaks = np.flatnonzero(np.diff(piece)) + 1
    pauses = [Gap(int(i), float(centres[i] - centres[i - 1])) for i in breaks]
    return segmented(Clock(centres, np.arange(len(rows))), own, pauses, settings)


def _segments_of_frames(frames: _Frames, sums: Segmented, ranges: Indices) -> Indices:
    """Return the segment of the sums before and after each frame; -1 where these are two."""
    used = np.flatnonzero(sums.evidence.used)
    segment = np.full(len(frames.seconds), NOT_KNOWN, np.int64)
    if not used.size:
        return segment
    piece, home = frames.piece[ranges[used, 0]], sums.segment[used]
    after = np.searchsorted(sums.clock.seconds[used], frames.seconds)
    before = after - 1
    last = np.minimum(after, used.size - 1)
    has_before = (before >= 0) & (piece[before] == frames.piece)
    has_after = (after < used.size) & (piece[last] == frames.piece)
    segment[has_after] = home[last[has_after]]
    segment[has_before] = home[before[has_before]]
    segment[has_before & has_after & (home[before] != home[last])] = NOT_KNOWN
    return segment


def _drawn_through(
    frames: _Frames, sums: Segmented, segment: Indices, motion: Motion
) -> tuple[Floats, Floats, tuple[Jump, ...]]:
    """Return drift (n, 2) and its covariance (n, 3) at the frames, and the jumps."""
    n = len(segment)
    seconds = np.concatenate([frames.seconds, sums.clock.seconds])
    both = np.concatenate([segment, sums.segment])
    order = np.lexsort((seconds, both))
    nothing = np.full((n, 5), np.nan)
    values = np.concatenate([nothing, np.hstack([sums.evidence.shift, sums.evidence.cov])])[order]
    positions = Positions(
        np.maximum(np.diff(seconds[order], prepend=seconds[order[:1]]), 0.0),
        np.diff(both[order], prepend=both[order[0]] - 1) != 0,
        np.concatenate([np.zeros(n, bool), sums.evidence.used])[order],
        values[:, :2],
        values[:, 2:],
    )
    mean, cov = np.empty((len(order), 2)), np.empty((len(order), 3))
    mean[order], cov[order] = drift_states(positions, motion)
    of_sums = found_jumps(sums, (mean[n:], cov[n:]))
    return mean[:n], cov[:n], tuple(_at_frames(of_sums, frames, sums))


def _at_frames(jumps: tuple[Jump, ...], frames: _Frames, sums: Segmented) -> list[Jump]:
    """Return jumps between sums as jumps before the frame in the middle of their centres."""
    centres, used = sums.clock.seconds, np.flatnonzero(sums.evidence.used)
    moved = []
    for jump in jumps:
        before = used[np.searchsorted(used, jump.frame) - 1]
        middle = 0.5 * (centres[before] + centres[jump.frame])
        moved.append(replace(jump, frame=int(np.searchsorted(frames.seconds, middle, "right"))))
    return moved


def _jitter(
    known: tuple[float, float] | None,
    motion: Motion,
    seconds: Floats,
    ranges: Indices,
    notes: list[str],
) -> Floats:
    """Return the variance of frames' jitter along y and x."""
    if known is not None:
        return np.square(np.asarray(known, np.float64))
    k = float(np.median(np.diff(ranges, axis=1)))
    # What the drift does within a sum looks like jitter of it.
    span = float(np.median(seconds[ranges[:, 1] - 1] - seconds[ranges[:, 0]]))
    within = motion.walk * span / 12.0
    jitter = k * np.maximum(motion.jitter - within, 0.0)
    for name, found, least in zip(
        "yx", np.sqrt(jitter), np.sqrt(k) * motion.least_jitter, strict=True
    ):
        if found < least:
            notes.append(
                f"Jitter of frames along {name} of less than about {least:.2g} px cannot be told "
                f"from sums of {k:g}; error bars allow for {found:.2g} px."
            )
    return np.asarray(jitter)


def _nothing(
    frames: _Frames, segment: Indices, gaps: tuple[Gap, ...], notes: list[str]
) -> Trajectory:
    """Return frames without shifts."""
    n = len(segment)
    status = np.asarray(frames.status | np.uint16(Status.NOT_CONVERGED))
    nothing = {name: np.full(2, np.nan) for name in FIGURES}
    empty = np.full((n, 2), np.nan)
    return Trajectory(
        empty,
        empty.copy(),
        np.full(n, np.nan),
        status,
        segment.astype(np.int32),
        (),
        gaps,
        notes=tuple(notes),
        **nothing,
    )
