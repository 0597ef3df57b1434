"""Sums of a user's aligned frames, of which each event went into one of two.

Events are divided in the raw frames, before any interpolation, so that the two sums share no noise
at all: of one the reference of the trials is made, of the other the scene that is moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from stillstack import graph
from stillstack.assess.thinning import Noise, thin
from stillstack.kernels.registration import Reference, frame_validity
from stillstack.kernels.resampling import resample_frame
from stillstack.sampling import SpreadSource
from stillstack.simulation.scene import generator
from stillstack.sources import Source, stack_of

Compute = Callable[..., tuple[Any, ...]]
"""``dask.compute``, or the same bound to a scheduler."""

_FRAMES_PER_TASK: Final = 4
_TASKS_AT_ONCE: Final = 8
# Simulated frames draw from the streams of their own numbers.
_STREAM: Final = 2**60


@dataclass(frozen=True, eq=False)
class Halves:
    """Two sums of aligned frames.

    Parameters
    ----------
    reference_part, scene_part
        (y, x) float64, counts.
    reference_count, scene_count
        (y, x), frames that counted at each pixel.
    """

    reference_part: NDArray[np.float64]
    scene_part: NDArray[np.float64]
    reference_count: NDArray[np.int64]
    scene_count: NDArray[np.int64]

    def __add__(self, other: Halves) -> Halves:
        return Halves(
            self.reference_part + other.reference_part,
            self.scene_part + other.scene_part,
            self.reference_count + other.reference_count,
            self.scene_count + other.scene_count,
        )


@dataclass(frozen=True)
class Division:
    """How frames are divided.

    Parameters
    ----------
    share
        Part of the events that the reference gets.
    noise
        Counts per event, and read noise.
    seed
        Of the choice.
    as_they_lie
        Whether the reference's part is summed without aligning it.
    """

    share: float
    noise: Noise
    seed: int
    as_they_lie: bool = False


def register_spread(
    source: Source, numbers: tuple[int, ...], reference: Reference, compute: Compute
) -> xr.Dataset:
    """Table of shifts of chosen frames; those that cannot be read are blank."""
    step = _FRAMES_PER_TASK * _TASKS_AT_ONCE
    tables: list[xr.Dataset] = []
    for first in range(0, len(numbers), step):
        spread = SpreadSource(source, numbers[first : first + step])
        tables += compute(graph.register(stack_of(spread, chunk_frames=1), reference))
    return xr.concat(tables, "frame", combine_attrs="drop_conflicts")


def divided_sums(
    source: Source,
    numbers: tuple[int, ...],
    table: xr.Dataset,
    reference: Reference,
    division: Division,
    *,
    compute: Compute,
) -> Halves:
    """Add up frames, aligned by the shifts of a table, each event in one of two sums.

    Parameters
    ----------
    source
        Where the frames are.
    numbers
        Their numbers: all good.
    table
        Their rows: ``shift`` and ``status``.
    reference
        What they were registered to; it knows which of their pixels are valid.
    division
        How events are divided.
    compute
        ``dask.compute``, or the same bound to a scheduler.
    """
    held = delayed(reference, name=f"reference-{reference.digest}", traverse=False)
    shifts, status = table["shift"].values, table["status"].values
    task = delayed(_divided, pure=False)
    frames = delayed(source, name=f"{SpreadSource(source, numbers).token}-frames", traverse=False)
    groups = [
        range(first, min(first + _FRAMES_PER_TASK, len(numbers)))
        for first in range(0, len(numbers), _FRAMES_PER_TASK)
    ]
    total: Halves | None = None
    for first in range(0, len(groups), _TASKS_AT_ONCE):
        tasks = [
            task(frames, [(numbers[i], shifts[i], int(status[i])) for i in group], held, division)
            for group in groups[first : first + _TASKS_AT_ONCE]
        ]
        for part in compute(*tasks):
            total = part if total is None else total + part
    if total is None:
        raise ValueError("no frame to add up")
    return total


def _divided(
    source: Source,
    rows: list[tuple[int, NDArray[np.float64], int]],
    reference: Reference,
    division: Division,
) -> Halves:
    shape = reference.image.shape
    sums = np.zeros((2, *shape))
    counts = np.zeros((2, *shape), np.int64)
    for number, shift, status in rows:
        frame = source.read(number, number + 1)[0]
        valid = frame_validity(frame, reference, shift, status)
        raw = np.where(valid, frame, np.nan)
        part = thin(raw, division.share, division.noise, generator(division.seed, _STREAM + number))
        for k, image in enumerate((part, raw - part)):
            lies = division.as_they_lie and k == 0
            moved = image if lies else resample_frame(image, shift, valid=valid).image
            counted = np.isfinite(moved)
            sums[k] += np.where(counted, moved, 0.0)
            counts[k] += counted
    return Halves(*sums, *counts)
