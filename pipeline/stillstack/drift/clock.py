"""When frames were taken: seconds from any kind of time, and the gaps between frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillstack.errors import InputError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_SHOWN: Final = 5
_CURE: Final = (
    "Mend the coordinate, or set trajectory.coordinate: null so that frame numbers stand for time."
)


@dataclass(frozen=True)
class Gap:
    """A pause much longer than the typical interval.

    Parameters
    ----------
    frame
        First frame after it.
    seconds
        Its length.
    """

    frame: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Clock:
    """When frames were taken.

    Parameters
    ----------
    seconds
        (n,), since the first frame, by frame number.
    order
        (n,), frame numbers in the order of time.
    notes
        What was assumed, in sentences.
    """

    seconds: Floats
    order: Indices
    notes: tuple[str, ...] = ()


def read_clock(
    time: ArrayLike | None, n_frames: int, order: Literal["frame", "time"] = "frame"
) -> Clock:
    """Return when frames were taken, in seconds since the first.

    Repeated times are kept: between such frames there is no time in which the sample could drift.
    Missing times (NaN, NaT) are drawn straight between the times of the frames around. Both are
    told in the notes. Without times, frame numbers stand for seconds.

    Parameters
    ----------
    time
        (n_frames,), dates (datetime64) or seconds; None: not known.
    n_frames
        Number of frames.
    order
        ``"frame"``: as they are numbered; ``"time"``: sorted by time.

    Raises
    ------
    InputError
        The number of times is another, they are no numbers, none is known, all are the same, or
        they run backwards in ``"frame"`` order.

    Examples
    --------
    >>> clock = read_clock(np.array(["2024-05-01T10:00", "2024-05-01T10:02"], "M8[s]"), 2)
    >>> clock.seconds
    array([  0., 120.])
    """
    if time is None:
        note = "No time coordinate: frame numbers stand for seconds."
        numbers = np.arange(n_frames)
        return Clock(numbers.astype(float), numbers, (note,))
    seconds = _as_seconds(np.asarray(time), n_frames)
    notes: list[str] = []
    missing = ~np.isfinite(seconds)
    if missing.any():
        seconds = _filled(seconds, missing, order)
        notes.append(f"{_count(missing.sum())} no time: drawn between those of the frames around.")
    numbers = np.arange(n_frames)
    if order == "time":
        numbers = np.argsort(seconds, kind="stable")
    intervals = np.diff(seconds[numbers])
    backwards = np.flatnonzero(intervals < 0) + 1
    if backwards.size:
        shown = ", ".join(
            f"frame {i} ({intervals[i - 1]:.6g} s)" for i in backwards[:_SHOWN].tolist()
        )
        raise InputError(
            f"The time runs backwards at {_more(shown, backwards.size)}.",
            consequence="Which frames are neighbours in time is not known.",
            cure=f"{_CURE} Where frames are numbered by something else than time, "
            "set trajectory.order: time.",
        )
    if n_frames > 1 and not np.any(intervals > 0):
        raise InputError(
            f"All {n_frames} frames have the same time.",
            consequence="Drift per second cannot be told.",
            cure=_CURE,
        )
    repeated = int(np.count_nonzero(intervals == 0))
    if repeated:
        notes.append(
            f"{_count(repeated)} the time of the frame before: no drift is allowed between them."
        )
    return Clock(seconds - seconds[numbers[0]] if n_frames else seconds, numbers, tuple(notes))


def find_gaps(clock: Clock, gap_intervals: float | None) -> list[Gap]:
    """Return the pauses of more than ``gap_intervals`` typical intervals, in order of time.

    The typical interval is the median of those that are longer than nothing.

    Examples
    --------
    >>> find_gaps(read_clock([0.0, 1.0, 2.0, 3.0, 603.0, 604.0], 6), 20.0)
    [Gap(frame=4, seconds=600.0)]
    """
    intervals = np.diff(clock.seconds[clock.order])
    positive = intervals[intervals > 0]
    if gap_intervals is None or not positive.size:
        return []
    found = np.flatnonzero(intervals > gap_intervals * np.median(positive))
    return [Gap(int(clock.order[i + 1]), float(intervals[i])) for i in found]


def _as_seconds(time: NDArray[Any], n_frames: int) -> Floats:
    if time.shape != (n_frames,):
        raise InputError(
            f"The time has the shape {time.shape}, but there are {n_frames} frames.",
            consequence="Which frame was taken when is not known.",
            cure=_CURE,
        )
    if time.dtype.kind in "mM":
        since = time - time[~np.isnat(time)][0] if np.any(~np.isnat(time)) else time - time
        known = ~np.isnat(since)
        seconds = np.full(n_frames, np.nan)
        seconds[known] = since[known] / np.timedelta64(1, "s")
    elif time.dtype.kind in "iuf":
        seconds = time.astype(np.float64)
    else:
        raise InputError(
            f"The time is of type {time.dtype}, such as {time.tolist()[:1]}.",
            consequence="Intervals between frames cannot be told from it.",
            cure=f"Give dates (datetime64) or seconds. {_CURE}",
        )
    if n_frames and not np.any(np.isfinite(seconds)):
        raise InputError(
            f"None of the {n_frames} frames has a time.",
            consequence="Drift per second cannot be told.",
            cure=_CURE,
        )
    return seconds


def _filled(seconds: Floats, missing: NDArray[np.bool_], order: str) -> Floats:
    where = np.flatnonzero(missing)
    if order == "time":
        shown = ", ".join(str(i) for i in where[:_SHOWN].tolist())
        raise InputError(
            f"These frames have no time: {_more(shown, where.size)}.",
            consequence="They cannot be put in the order of time.",
            cure=_CURE,
        )
    known = np.flatnonzero(~missing)
    filled = seconds.copy()
    filled[where] = np.interp(where, known, seconds[known])
    return filled


def _count(number: int) -> str:
    return f"{number} frame has" if number == 1 else f"{number} frames have"


def _more(shown: str, number: int) -> str:
    return shown if number <= _SHOWN else f"{shown} and {number - _SHOWN} more"
