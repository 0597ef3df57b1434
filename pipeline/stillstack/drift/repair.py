"""Which frames may be given a shift from their neighbours in time."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillstack.model import REJECTING, Status, is_good

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

NEVER_REPAIRED: Final = int(Status.PENDING | Status.UNREADABLE | Status.BLANK | Status.EXCLUDED)
"""Bits of frames that have no shift whatever their neighbours say."""


def repairable(status: NDArray[np.uint16]) -> Flags:
    """Return which frames have fine pixels and no shift.

    Unreadable, blank, pending and excluded frames are never repaired, nor those at the limit.

    Examples
    --------
    >>> bits = [0, Status.LOW_NCC, Status.BLANK, Status.EXCLUDED | Status.NOT_CONVERGED]
    >>> repairable(np.array(bits, "u2"))
    array([False,  True, False, False])
    """
    # A frame at the limit was seen elsewhere, as far as it could be seen: it is no gap to fill.
    never = NEVER_REPAIRED | int(Status.AT_LIMIT)
    return np.asarray(~is_good(status) & ((status & never) == 0))


def within_reach(used: Flags, segment: Indices, longest: int) -> Flags:
    """Return which frames lie in a run of at most ``longest`` that are not used.

    A run ends where the segment does. In a segment in which no frame is used none is in reach.

    Examples
    --------
    >>> used = np.array([True, False, False, True, False, False])
    >>> within_reach(used, np.array([0, 0, 0, 0, 0, 1]), 1)
    array([False, False, False, False,  True, False])
    """
    if not len(used):
        return np.zeros(0, bool)
    changes = (np.diff(segment) != 0) | (np.diff(used.astype(np.int8)) != 0)
    run = np.concatenate([[0], np.cumsum(changes)])
    told = np.isin(segment, np.unique(segment[used]))
    return np.asarray(~used & told & (np.bincount(run)[run] <= longest))


def repaired_status(status: NDArray[np.uint16], repaired: Flags) -> NDArray[np.uint16]:
    """Return the status of frames of which some were given a shift: these are good again.

    Examples
    --------
    >>> found = repaired_status(np.array([Status.LOW_NCC], "u2"), np.array([True]))
    >>> Status(int(found[0]))
    <Status.REPAIRED: 8192>
    """
    mended = (status & ~np.uint16(REJECTING)) | np.uint16(Status.REPAIRED)
    return np.where(repaired, mended, status)
