"""Frames of a piece: read in order, aligned once in floating point, and what scales each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.address import Address
from stillstack.errors import RunFaultError, StillstackError
from stillstack.frameblock import Resampling, align_frame
from stillstack.kept_references import KeptReference, reference_in
from stillstack.kernels.statistics import shared_sums
from stillstack.reduction.pieces import Piece, buffer_images
from stillstack.reduction.shared_area import Drift, normalising_images
from stillstack.sources import read_piece
from stillstack.stacks import SHIFT_DTYPE


@dataclass(frozen=True)
class Job:
    """What all tasks of a reduction have in common; small, and it pickles.

    Parameters
    ----------
    store_path
        The run, where workers find the reference.
    reference
        The one that they must find there.
    resampling
        How frames are moved.
    dtype
        Of the raw frames.
    drift
        Where frames are normalised by their sums, what encloses the shifts of all of them.
    """

    store_path: str | Address
    reference: KeptReference
    resampling: Resampling
    dtype: str
    drift: Drift | None = None


def aligned_images(
    job: Job, piece: Piece
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float64]]]:
    """Yield places in a piece, their aligned images and their scales, some frames at a time.

    The images are overwritten by the next ones. A frame whose scale is NaN has to be left out: it
    does not sum to a positive number.
    """
    dtype = np.dtype(job.resampling.dtype)
    shape = job.resampling.shape
    most = buffer_images(shape[0] * shape[1], dtype, len(piece.numbers))
    buffer = np.empty((most, *shape), dtype)
    places: list[int] = []
    for at, frame in frames_of(job, piece):
        align_into(buffer[len(places)], frame, piece, at, job)
        places.append(at)
        if len(places) == most:
            yield _scaled(job, piece, places, buffer)
            places = []
    if places:
        yield _scaled(job, piece, places, buffer[: len(places)])


def frames_of(job: Job, piece: Piece) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the place in the piece and the raw pixels of each frame that is wanted, in order."""
    y0, y1, x0, x1 = job.resampling.canvas
    for reader, start, stop in piece.reads:
        frames = read_piece((reader, start, stop, (y1 - y0, x1 - x0), job.dtype))
        first, end = np.searchsorted(piece.numbers, (start, stop))
        for at in range(int(first), int(end)):
            yield at, frames[piece.numbers[at] - start]


def align_into(
    out: NDArray[Any],
    frame: NDArray[Any],
    piece: Piece,
    at: int,
    job: Job,
    *,
    window: Resampling | None = None,
) -> None:
    """Write one frame of a piece, aligned; only a window of it where one is given."""
    row = np.zeros(1, SHIFT_DTYPE)
    row["shift"], row["status"] = piece.shift[at], piece.status[at]
    reference = reference_in(job.store_path, job.reference)
    try:
        align_frame(frame, row[0], window or job.resampling, out, reference=reference)
    except StillstackError:
        raise
    except Exception as error:
        raise RunFaultError(
            f"Frame {piece.numbers[at]} could not be aligned: {type(error).__name__}: {error}.",
            consequence="The reduction stopped; groups that are done are kept.",
            cure="Look at this frame; a rejecting bit in its status leaves it out.",
        ) from error


def _scaled(
    job: Job, piece: Piece, places: list[int], images: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float64]]:
    chosen = np.array(places)
    scale = piece.scale[chosen].copy()
    if job.drift is not None:
        reference, area = normalising_images(job.store_path, job.reference.digest, job.drift)
        for i, image in enumerate(images):
            own, expected = shared_sums(image, reference, area)
            scale[i] *= expected / own if own > 0 and expected > 0 else np.nan
    return chosen, images, scale
