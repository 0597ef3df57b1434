"""Low dose: how many neighbouring frames are summed, and which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillstack.config.trajectory import TrajectoryConfig
from stillstack.drift.clock import find_gaps, read_clock
from stillstack.errors import InputError

Indices = NDArray[np.int64]

_ENOUGH_GOOD: Final = 0.99
_ENOUGH_PX: Final = 0.2
# A k this much too large is near enough to the smallest.
_NEAR: Final = 1.1


@dataclass(frozen=True)
class SumQuality:
    """How well sums of a number of frames can be registered.

    Parameters
    ----------
    share_good
        Part of the sums that are good, 0 to 1.
    median_std
        Median of the larger one of their error bars, px.
    """

    share_good: float
    median_std: float

    @property
    def enough(self) -> bool:
        """Whether at least 99 % are good, to 0.2 px or better."""
        return self.share_good >= _ENOUGH_GOOD and self.median_std <= _ENOUGH_PX


def choose_sum(measure: Callable[[int], SumQuality], most: int = 256) -> int:
    """Return the smallest number of frames whose sums register well, to a tenth.

    At least 99 % of them are good, and the median error bar is 0.2 px or less. Doubled until it is
    enough, then halved into; each number is measured once.

    Parameters
    ----------
    measure
        Registers some sums of so many frames.
    most
        Largest number that may be tried.

    Raises
    ------
    InputError
        Not even sums of ``most`` frames register well.

    Examples
    --------
    >>> choose_sum(lambda k: SumQuality(1.0, 0.9 / k**0.5))
    22
    """
    low, high = 0, 1
    quality = measure(high)
    while not quality.enough:
        if high >= most:
            raise InputError(
                f"Of sums of {high} frames {100 * quality.share_good:.3g} % are good, their median "
                f"error is {quality.median_std:.2g} px.",
                consequence="Shifts of single frames cannot be found from sums either.",
                cure="Mask what stands still, bin the frames, or take a reference of more counts.",
            )
        low, high = high, min(2 * high, most)
        quality = measure(high)
    while high - low > 1 and high > _NEAR * low:
        middle = (low + high) // 2
        if measure(middle).enough:
            high = middle
        else:
            low = middle
    return high


def sum_ranges(
    time: ArrayLike | None,
    n_frames: int,
    k: int,
    stride: int | None = None,
    settings: TrajectoryConfig | None = None,
) -> Indices:
    """Return first frames and frames after the last of running groups of k frames, (m, 2).

    No group reaches across a gap. The last group before a gap is moved back so that it is whole; a
    stretch of fewer than k frames is one group.

    Parameters
    ----------
    time
        (n_frames,), when frames were taken; None: not known.
    n_frames
        Number of frames.
    k
        Frames of a group.
    stride
        Frames from one group to the next, k or less. Default: half of k.
    settings
        The section ``trajectory`` of a config, for the gaps.

    Examples
    --------
    >>> sum_ranges(None, 10, 4).tolist()
    [[0, 4], [2, 6], [4, 8], [6, 10]]
    """
    stride = (k + 1) // 2 if stride is None else stride
    if not 1 <= stride <= k:
        raise InputError(
            f"Groups of {k} frames cannot begin every {stride} frames.",
            consequence="Frames would be left out.",
            cure="Give a stride of 1 to k.",
        )
    clock = read_clock(time, n_frames)
    gaps = find_gaps(clock, (settings or TrajectoryConfig()).gap_intervals)
    edges = [0, *(gap.frame for gap in gaps), n_frames]
    ranges = []
    for first, last in pairwise(edges):
        for start in range(first, max(first, last - k) + stride, stride):
            begin = max(first, min(start, last - k))
            if begin < last:
                ranges.append((begin, min(begin + k, last)))
    return np.array(sorted(set(ranges)), np.int64).reshape(-1, 2)
