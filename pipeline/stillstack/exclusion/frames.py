"""From the section ``exclude`` of a config and the coordinates of a stack to frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.config import ExcludeConfig
from stillstack.errors import InputError
from stillstack.exclusion.expression import frames_where

Coords = Mapping[str, NDArray[Any]]
Frames = NDArray[np.bool_]

_NAMED_VALUES = 8


def excluded(config: ExcludeConfig, coords: Coords, n_frames: int) -> Frames:
    """Return which frames a config leaves out.

    The rules add up: a frame that one of them names is left out. A rule that cannot be followed to
    the letter is refused, lest frames stay in unseen: a number that there is not, a value that no
    frame has, a period without a frame. A condition that no frame meets leaves out none; where a
    coordinate is NaN, comparisons with it are not met.

    Parameters
    ----------
    config
        Section ``exclude``.
    coords
        Per-frame coordinates, each of shape (frame,).
    n_frames
        Number of frames.

    Returns
    -------
    ndarray of bool, shape (frame,), True for a frame that is left out.

    Raises
    ------
    InputError
        When a rule names what there is not, a condition cannot be evaluated, or no frame is left.

    Examples
    --------
    >>> config = ExcludeConfig(frames=("1-2",), values={"scan": (9,)}, expression="delay > 3.5")
    >>> coords = {"scan": np.array([1, 1, 1, 9, 2, 2]), "delay": np.array([0.0, 1, 2, 3, 3, 4])}
    >>> excluded(config, coords, 6)
    array([False,  True,  True,  True, False,  True])
    """
    left_out = np.zeros(n_frames, bool)
    for given in config.frames:
        left_out |= _numbered(given, n_frames)
    for begin, end in config.time:
        left_out |= _between(_coordinate(coords, "time", "exclude.time"), begin, end)
    for name, values in config.values.items():
        along = _coordinate(coords, name, f"exclude.values.{name}")
        for value in values:
            left_out |= _equal(along, value, name)
    if config.expression is not None:
        left_out |= frames_where(config.expression, coords, n_frames)
    if n_frames and left_out.all():
        raise InputError(
            f"The section exclude leaves out all {n_frames} frames.",
            consequence="There is nothing to register.",
            cure="Leave out fewer.",
        )
    return left_out


def kept_numbers(left_out: Frames | None, start: int, stop: int) -> NDArray[np.int64]:
    """Return the numbers of the frames of a range that are not left out.

    Parameters
    ----------
    left_out
        Boolean (frame,), True for a frame that is left out; None where none is.
    start, stop
        The range.

    Examples
    --------
    >>> kept_numbers(np.array([False, True, False, False]), 0, 3)
    array([0, 2])
    """
    numbers = np.arange(start, stop)
    return numbers if left_out is None else numbers[~left_out[start:stop]]


def _numbered(given: int | str, n_frames: int) -> Frames:
    """Frames of one entry of ``exclude.frames``."""
    chosen = np.zeros(n_frames, bool)
    if isinstance(given, str) and ":" in given:
        # as in Python a slice may reach over the end, but not lie wholly beyond it
        bounds = [int(text) if text else None for text in given.split(":")]
        chosen[slice(*bounds)] = True
        last = None
    else:
        ends = [int(text) for text in str(given).split("-")]
        last = ends[-1]
        if last < n_frames:
            chosen[ends[0] : last + 1] = True
    if not chosen.any():
        what = "no frame" if last is None else f"frame {last}"
        raise InputError(
            f"exclude.frames has {given}, and of frames 0 to {n_frames - 1} that is {what}."
            if last is None
            else f"exclude.frames names {what}, and the input has frames 0 to {n_frames - 1}.",
            cure="Count frames from 0, and leave out those that there are.",
        )
    return chosen


def _coordinate(coords: Coords, name: str, setting: str) -> NDArray[Any]:
    if name not in coords:
        known = ", ".join(sorted(coords)) or "none"
        raise InputError(
            f"{setting} needs the coordinate {name}, which the input does not have.",
            consequence="Which frames to leave out cannot be told.",
            cure=f"Name one of its coordinates ({known}), or leave out frames by number.",
        )
    return np.asarray(coords[name])


def _between(time: NDArray[Any], begin: float | str, end: float | str) -> Frames:
    """Frames of a period, both ends included."""
    is_clock = np.issubdtype(time.dtype, np.datetime64)
    if is_clock != isinstance(begin, str):
        have, example = ("dates", "'2026-01-31T12:00'") if is_clock else ("numbers", "3600")
        raise InputError(
            f"exclude.time has {begin} to {end}, and the coordinate time holds {have}.",
            cure=f"Write times as {example}.",
        )
    ends = [_clock(text) if is_clock else text for text in (begin, end)]
    chosen: Frames = (time >= ends[0]) & (time <= ends[1])
    if not chosen.any():
        raise InputError(
            f"exclude.time has {begin} to {end}, and no frame was taken then: they are from "
            f"{np.nanmin(time)} to {np.nanmax(time)}.",
            cure="Correct the times; the input's have no time zone.",
        )
    return chosen


def _clock(text: Any) -> np.datetime64:
    try:
        return np.datetime64(str(text).replace(" ", "T"), "ns")
    except ValueError as error:
        raise InputError(
            f"exclude.time has {text!r}, which is no time.", cure="Write '2026-01-31T12:00:00'."
        ) from error


def _equal(along: NDArray[Any], value: Any, name: str) -> Frames:
    """Frames with one value of a coordinate."""
    if along.dtype.kind in "OUS":
        wanted: Any = str(value)
        along = along.astype(str)
    elif along.dtype.kind == "M":
        wanted = _clock(value)
    else:
        wanted = value
    mixed = along.dtype.kind in "biuf" and isinstance(wanted, str)
    chosen: Frames = np.zeros(along.shape, bool) if mixed else np.asarray(along == wanted)
    if not chosen.any():
        there = np.unique(along)
        listed = ", ".join(str(one) for one in there[:_NAMED_VALUES])
        more = f" ... {there[-1]}" if len(there) > _NAMED_VALUES else ""
        raise InputError(
            f"exclude.values.{name} has {value!r}, which no frame has: there are {listed}{more}.",
            cure="Write values as the coordinate has them.",
        )
    return chosen
