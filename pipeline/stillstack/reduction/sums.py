"""What a task does with a piece of frames: add each to the sums of its group; and merge sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillstack.kernels.statistics import Moments, add_images, merge_moments, without_outside
from stillstack.reduction.aligned_frames import Job, aligned_images
from stillstack.reduction.pieces import Piece

Limits = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Least and largest value that counts, (y, x) each."""


@dataclass(frozen=True, eq=False)
class GroupSums:
    """What is known of one group's frames so far.

    Parameters
    ----------
    moments
        Of its pixels.
    numbers
        Frames that were added, ascending.
    scale
        What each was multiplied by.
    n_dark
        Frames that were left out because they do not sum to a positive number.
    """

    moments: Moments
    numbers: NDArray[np.int64]
    scale: NDArray[np.float64]
    n_dark: int = 0


Sums = Mapping[int, GroupSums]
"""By group."""


def add_piece(job: Job, piece: Piece, limits: Mapping[int, Limits] | None = None) -> Sums:
    """Sums of the frames of a piece, for each of its groups.

    Parameters
    ----------
    job, piece
        What is to be done.
    limits
        For each group, images of the least and the largest value that count; all where not given.
    """
    shape = job.resampling.shape
    moments = {int(group): Moments.empty(shape) for group in np.unique(piece.groups)}
    scales = np.full(len(piece.numbers), np.nan)
    for places, images, scale in aligned_images(job, piece):
        scales[places] = scale
        for group in np.unique(piece.groups[places]):
            mine = piece.groups[places] == group
            mine &= np.isfinite(scale)
            chosen = images if mine.all() else images[mine]
            if limits is not None:
                chosen = without_outside(chosen, *limits[int(group)], scale[mine], out=chosen)
            state = moments[int(group)]
            add_images(state, chosen, scale[mine], out=state)
    added = np.isfinite(scales)
    return {
        group: GroupSums(
            state,
            piece.numbers[added & (piece.groups == group)],
            scales[added & (piece.groups == group)],
            int((~added & (piece.groups == group)).sum()),
        )
        for group, state in moments.items()
    }


def merge_sums(*parts: Sums) -> Sums:
    """Sums of the frames of all parts, merged in the order given."""
    merged: dict[int, GroupSums] = {}
    own: dict[int, bool] = {}
    for part in parts:
        for group, sums in part.items():
            if group not in merged:
                merged[group], own[group] = sums, False
                continue
            before = merged[group]
            # the first merge makes new arrays, for what a task is given is not its own
            out = before.moments if own[group] else None
            merged[group] = GroupSums(
                merge_moments(before.moments, sums.moments, out=out),
                np.concatenate((before.numbers, sums.numbers)),
                np.concatenate((before.scale, sums.scale)),
                before.n_dark + sums.n_dark,
            )
            own[group] = True
    return merged
