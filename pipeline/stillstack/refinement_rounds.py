"""When rounds of refining a reference have come to rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr

from stillstack.model import is_good

SETTLED: Final = 0.1
"""A change under a tenth of the errors adds half a percent to them."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Frames, and the table of where they lie.

    Parameters
    ----------
    numbers
        Numbers of the frames.
    table
        Their shifts, errors and status.
    """

    numbers: tuple[int, ...]
    table: xr.Dataset

    def change(self, before: Placed) -> float:
        """Typical change of the frames' shifts in units of their errors, less what is common.

        NaN where fewer than two frames are good in both.
        """
        _, here, there = np.intersect1d(self.numbers, before.numbers, return_indices=True)
        now, then = self.table.isel(frame=here), before.table.isel(frame=there)
        good = is_good(now.status.values) & is_good(then.status.values)
        if np.count_nonzero(good) < 2:
            return float("nan")
        # One that jumps to another place is a matter of the frame, not of the reference.
        moved = (now["shift"].values - then["shift"].values)[good]
        moved = (moved - np.median(moved, axis=0)) / now["shift_std"].values[good]
        return float(1.4826 * np.median(np.abs(moved)))


def change_words(change: float) -> str:
    """Say how much the last round changed."""
    return f"the last one changed shifts by {change:.2g} of their errors"
