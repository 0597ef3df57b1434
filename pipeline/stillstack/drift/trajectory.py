"""The shifts of single frames as one motion: what stands out, what stays, what drifts, what shakes.

The order is: gaps in time; outliers against neighbours; jumps; then, with all of that known, drift
and jitter of all segments together, and what they say of each frame. Nothing is carried across a
gap or a jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillstack.config.trajectory import TrajectoryConfig
from stillstack.drift.clock import Clock, Gap, find_gaps, read_clock
from stillstack.drift.evidence import Evidence, errors_of, read_evidence
from stillstack.drift.jumps import find_jumps
from stillstack.drift.motion import (
    Motion,
    Positions,
    drift_states,
    estimate_motion,
    real_positions,
)
from stillstack.drift.outliers import FEWEST_FRAMES, find_outliers
from stillstack.drift.repair import repairable, repaired_status, within_reach

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

NOT_KNOWN: Final = -1
FIGURES: Final = ("walk_strength", "jitter_std", "speed_strength", "drift_rms")


@dataclass(frozen=True)
class Jump:
    """A step that stays.

    Parameters
    ----------
    frame
        First frame after it.
    size
        By how much the shift (y, x) changed, px.
    std
        1-sigma error of `size`, px.
    """

    frame: int
    size: tuple[float, float]
    std: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What the shifts of single frames say together.

    Parameters
    ----------
    shift
        (n, 2), to apply to the frames (y, x), px; NaN where a frame is not good.
    shift_std
        (n, 2), 1-sigma error of `shift`, px.
    shift_corr
        (n,), correlation of the y and x errors.
    status
        (n,), uint16.
    segment
        (n,), int32, number of the stretch between gaps and jumps that a frame is part of; -1 for a
        frame without a shift beside a jump, of which the side is not known.
    jumps
        In order of time.
    gaps
        In order of time.
    walk_strength
        (2,), variance by which the drift's random walk grows, px^2/s; NaN where there are too few
        frames.
    jitter_std
        (2,), real jitter from frame to frame, px rms; NaN likewise.
    speed_strength
        (2,), variance by which that of the drift's speed grows, px^2/s^3; NaN likewise.
    drift_rms
        (2,), drift about the mean of each segment, px rms; NaN likewise.
    notes
        What was assumed or could not be told, in sentences.
    """

    shift: Floats
    shift_std: Floats
    shift_corr: Floats
    status: NDArray[np.uint16]
    segment: NDArray[np.int32]
    jumps: tuple[Jump, ...]
    gaps: tuple[Gap, ...]
    walk_strength: Floats
    jitter_std: Floats
    speed_strength: Floats
    drift_rms: Floats
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Segmented:
    """Frames in order of time, outliers and jumps told.

    Parameters
    ----------
    clock
        When frames were taken.
    evidence
        What is known of each, in order of time.
    segment
        (n,), number of the stretch between gaps and jumps.
    unplaced
        (n,), without a shift beside a jump: of the segment before it or of that after it.
    starts
        Places of the first frames after jumps.
    gaps
        In order of time.
    """

    clock: Clock
    evidence: Evidence
    segment: Indices
    unplaced: Flags
    starts: Indices
    gaps: tuple[Gap, ...]

    @property
    def positions(self) -> Positions:
        """What the frames show of the motion."""
        seconds = self.clock.seconds[self.clock.order]
        return Positions(
            np.diff(seconds, prepend=seconds[:1]),
            np.diff(self.segment, prepend=NOT_KNOWN) != 0,
            self.evidence.used,
            self.evidence.shift,
            self.evidence.cov,
        )


def follow(
    time: ArrayLike | None, rows: NDArray[np.void], settings: TrajectoryConfig | None = None
) -> Trajectory:
    """Return the trajectory that the shifts of single frames make.

    With fewer than eight good frames nothing is called an outlier or a jump, nothing is smoothed or
    repaired, and a note says so. Frames without a shift stay so unless they are repaired.

    Parameters
    ----------
    time
        (n,), when frames were taken: dates or seconds; None: frame numbers stand for seconds.
    rows
        (n,), structured, with the fields ``shift``, ``shift_std``, ``shift_corr`` and ``status`` of
        the table of shifts.
    settings
        The section ``trajectory`` of a config.

    Raises
    ------
    InputError
        The times are not usable, see `read_clock`.

    Notes
    -----
    The smoothed shift is the mean of the frame's real position given all frames, for a drift of
    slowly changing speed plus white jitter, by Kalman's filter and the pass back of Rauch, Tung and
    Striebel (doi:10.2514/3.3166).

    Examples
    --------
    >>> from stillstack.model import Status, empty_table
    >>> rng = np.random.default_rng(0)
    >>> rows = empty_table(200, Status(0))
    >>> rows["shift"] = np.outer(np.arange(200), [0.01, 0.0]) + rng.normal(0, 0.2, (200, 2))
    >>> rows["shift_std"], rows["shift_corr"] = 0.2, 0.0
    >>> rows["shift"][50] = 9.0
    >>> found = follow(None, rows, TrajectoryConfig(smooth=True, repair=True))
    >>> np.flatnonzero(found.status & Status.REPAIRED), bool(found.shift_std.max() < 0.15)
    (array([50]), True)
    """
    settings = settings or TrajectoryConfig()
    clock = read_clock(time, len(rows), settings.order)
    frames = segmented(clock, rows, find_gaps(clock, settings.gap_intervals), settings)
    notes = [*clock.notes, *frames.evidence.notes]
    motion = told_motion(frames.positions, notes)
    if motion is None:
        return _unchanged(frames, notes)
    notes += _notes_on(motion)
    return _moved(frames, motion, settings, notes)


def told_motion(positions: Positions, notes: list[str]) -> Motion | None:
    """Return drift and jitter; None where there are too few frames, with a note."""
    n_used = int(np.count_nonzero(positions.seen))
    n_segments = np.unique(positions.fresh.cumsum()[positions.seen]).size
    if n_used - n_segments < FEWEST_FRAMES - 1:
        notes.append(
            f"{n_used} good shifts in {n_segments} segments are too few to tell drift from "
            "jitter: nothing is smoothed, repaired or drawn through."
        )
        return None
    return estimate_motion(positions)


def _notes_on(motion: Motion) -> list[str]:
    jitter = np.sqrt(motion.jitter)
    return [
        f"Jitter along {name} of less than about {least:.2g} px cannot be told from the error "
        f"bars; those of smoothed shifts allow for {found:.2g} px."
        for name, found, least in zip("yx", jitter, motion.least_jitter, strict=True)
        if found < least
    ]


def segmented(
    clock: Clock, rows: NDArray[np.void], gaps: Sequence[Gap], settings: TrajectoryConfig
) -> Segmented:
    """Return frames in order of time, with outliers and jumps told."""
    evidence = read_evidence(rows[clock.order])
    first = np.isin(clock.order, [gap.frame for gap in gaps])
    piece = first.cumsum(dtype=np.int64)
    used = np.flatnonzero(evidence.used)
    if settings.outlier_sigma is not None:
        seconds = clock.seconds[clock.order][used]
        shift, cov = evidence.shift[used], evidence.cov[used]
        found = find_outliers(seconds, shift, cov, piece[used], settings.outlier_sigma)
        outlier = np.zeros(len(rows), bool)
        outlier[used[found]] = True
        evidence = evidence.without(outlier)
        used = used[~found]
    starts, unplaced = np.zeros(0, np.int64), np.zeros(len(rows), bool)
    if settings.jump_sigma is not None:
        shift, cov = evidence.shift[used], evidence.cov[used]
        places = find_jumps(shift, cov, piece[used], settings.jump_sigma)
        starts = used[places]
        for before, after in zip(used[places - 1], starts, strict=True):
            unplaced[before + 1 : after] = True
        first[starts] = True
    segment = first.cumsum(dtype=np.int64)
    return Segmented(clock, evidence, segment, unplaced, starts, tuple(gaps))


def _unchanged(frames: Segmented, notes: list[str]) -> Trajectory:
    """Return what there is where drift and jitter are not known."""
    figures = {name: np.full(2, np.nan) for name in FIGURES}
    return _assembled(frames, frames.evidence, (), figures, notes)


def _moved(
    frames: Segmented, motion: Motion, settings: TrajectoryConfig, notes: list[str]
) -> Trajectory:
    """Return what drift and jitter make of the frames."""
    positions, evidence, segment = frames.positions, frames.evidence, frames.segment
    states = drift_states(positions, motion)
    mean, cov = real_positions(positions, motion, states)
    changed = evidence.used & settings.smooth
    status = evidence.status
    if settings.repair:
        near = within_reach(evidence.used, segment, settings.max_repair_frames)
        repaired = near & repairable(status) & ~frames.unplaced
        status = repaired_status(status, repaired)
        changed = changed | repaired
    answers = Evidence(
        np.where(changed[:, None], mean, evidence.shift),
        np.where(changed[:, None], cov, evidence.cov),
        status,
        evidence.used,
        (),
    )
    drift_rms = drift_about_means(states[0], evidence.used, segment)
    found = (motion.walk, np.sqrt(motion.jitter), motion.bend, drift_rms)
    figures = dict(zip(FIGURES, found, strict=True))
    return _assembled(frames, answers, found_jumps(frames, states), figures, notes)


def _assembled(
    frames: Segmented,
    answers: Evidence,
    jumps: tuple[Jump, ...],
    figures: dict[str, Floats],
    notes: list[str],
) -> Trajectory:
    """Return everything by frame number."""
    place = np.argsort(frames.clock.order)
    std, corr = errors_of(answers.cov[place])
    segment = np.where(frames.unplaced, NOT_KNOWN, frames.segment)[place].astype(np.int32)
    return Trajectory(
        answers.shift[place],
        std,
        corr,
        answers.status[place],
        segment,
        jumps,
        frames.gaps,
        notes=tuple(notes),
        **figures,
    )


def found_jumps(frames: Segmented, states: tuple[Floats, Floats]) -> tuple[Jump, ...]:
    """Return how far the drift's position after each jump is from that before."""
    mean, cov = states
    used = np.flatnonzero(frames.evidence.used)
    before = used[np.searchsorted(used, frames.starts) - 1]
    size = mean[frames.starts] - mean[before]
    std = np.sqrt(cov[frames.starts] + cov[before])[:, [0, 2]]
    numbers = frames.clock.order[frames.starts].tolist()
    return tuple(
        Jump(number, (float(y), float(x)), (float(std_y), float(std_x)))
        for number, (y, x), (std_y, std_x) in zip(numbers, size, std, strict=True)
    )


def drift_about_means(mean: Floats, used: Flags, segment: Indices) -> Floats:
    """Return the rms of the drift about the mean of each segment, (2,)."""
    if not used.any():
        return np.full(2, np.nan)
    number = np.unique(segment[used], return_inverse=True)[1]
    counts = np.bincount(number)
    both = []
    for axis in range(2):
        drift = mean[used, axis]
        about = drift - (np.bincount(number, drift) / counts)[number]
        both.append(np.sqrt(np.mean(about**2)))
    return np.array(both)
