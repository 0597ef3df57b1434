"""Memory of a reduction: what a task takes, and how many workers there is room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stillstack.cluster import PAUSE_FRACTION
from stillstack.config.cluster import ClusterConfig
from stillstack.errors import InputError
from stillstack.findings import Findings
from stillstack.memory import PREPARING_IMAGES, PROCESS_BYTES, REFERENCE_IMAGES
from stillstack.quantities import byte_size
from stillstack.reduction.pieces import READ_BYTES, STATE_BYTES_PER_PIXEL, buffer_images
from stillstack.sizing import room_for
from stillstack.sources import Source

# Sums that are merged at a time, those they are merged into, and those that wait elsewhere in the
# tree; results of a group while they are compressed.
_STATES: Final = 7
_MEDIAN_BYTES: Final = 2**30
# What the coordinator and everything else on the machine may take.
_WORKERS_SHARE: Final = 0.8


@dataclass(frozen=True)
class Workers:
    """What workers a reduction is given.

    Parameters
    ----------
    count
        Worker processes to start; 0 where a cluster is running already.
    limit
        Memory limit of each, bytes; None where it is set elsewhere.
    median_bytes
        What one task may take for a median.
    """

    count: int
    limit: int | None
    median_bytes: int


def worker_bytes(source: Source, work: np.dtype[Any], groups_at_once: int) -> int:
    """Bytes that one worker process takes at most, medians apart.

    Parameters
    ----------
    source
        Shape, dtype and chunks of the raw frames.
    work
        dtype of aligned frames.
    groups_at_once
        Groups that are reduced together.

    Returns
    -------
    int
        It grows with the pixels of a frame, not with the number of frames or groups.
    """
    n_frames, height, width = source.shape
    pixels = height * width
    frame = pixels * np.dtype(source.dtype).itemsize
    reading = max(READ_BYTES, min(source.chunk_frames, n_frames) * frame)
    adding = buffer_images(pixels, work, n_frames) * pixels * work.itemsize
    states = _STATES * STATE_BYTES_PER_PIXEL * pixels * groups_at_once
    image = 4 * pixels
    return PROCESS_BYTES + max(
        PREPARING_IMAGES * image, REFERENCE_IMAGES * image + reading + adding + states
    )


def workers_for(config: ClusterConfig, needed: int, median: bool) -> Workers:
    """Workers that fit into the memory there is.

    Parameters
    ----------
    config
        The ``cluster`` section.
    needed
        From :func:`worker_bytes`.
    median
        Whether medians are wanted, which take what there is.

    Raises
    ------
    InputError
        If not even one fits.
    """
    room = room_for(config, Findings())
    if room.running:
        return Workers(0, None, _MEDIAN_BYTES)
    limit = int(needed / PAUSE_FRACTION)
    if not room.available:  # of another machine
        given = room.given or limit + (2 * _MEDIAN_BYTES if median else 0)
        return Workers(room.wanted or 1, given, max(0, given - limit))
    available = int(_WORKERS_SHARE * room.available)
    most = max(1, available // limit)
    if limit > room.available or (room.given and room.given < limit):
        raise InputError(
            f"A worker of this reduction takes {byte_size(limit)}, and "
            f"{byte_size(room.given or room.available)} are allowed.",
            consequence="It would be stopped for want of memory.",
            cure="Use a machine or a memory_limit with more, or the address of a cluster.",
        )
    count = max(1, min(room.wanted or room.cores, most))
    share = room.given or max(limit, available // count)
    return Workers(count, share, max(0, share - limit))
