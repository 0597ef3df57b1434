"""The table of status bits: how many frames have each, and which."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.model import REJECTING, status_words
from stillstack.summary import MEANINGS, Summary

_MOST_LINKS: Final = 12


@dataclass(frozen=True)
class FrameLink:
    """A frame, or frames in a row, and whether the page shows the first as a thumbnail."""

    start: int
    stop: int
    shown: bool

    @property
    def words(self) -> str:
        """Such as ``17`` or ``17-21``."""
        last = self.stop - 1
        return f"{self.start}" if last == self.start else f"{self.start}-{last}"


@dataclass(frozen=True)
class FlagRow:
    """One status bit."""

    word: str
    meaning: str
    rejects: bool
    count: int
    links: tuple[FrameLink, ...]
    more: bool


def flag_rows(run: xr.Dataset, summary: Summary, shown: Collection[int]) -> list[FlagRow]:
    """Rows of the table, one for each bit that a frame has.

    Parameters
    ----------
    run
        A run's Dataset.
    summary
        What it came to.
    shown
        Frames of which the page has a thumbnail; of those in a row the first that is shown is
        linked to.
    """
    status = np.asarray(run["status"].values).astype(int)
    rows = []
    for bit, count in summary.flag_counts.items():
        stretches = intervals(np.flatnonzero(status & bit))
        links = [_link(int(start), int(stop), shown) for start, stop in stretches[:_MOST_LINKS]]
        links += [
            FrameLink(index, index + 1, shown=True)
            for index in sorted(shown)
            if len(stretches) > _MOST_LINKS
            and status[index] & bit
            and index >= stretches[_MOST_LINKS, 0]
        ]
        rows.append(
            FlagRow(
                word=status_words(bit)[0],
                meaning=MEANINGS[bit],
                rejects=bool(bit & REJECTING),
                count=count,
                links=tuple(links),
                more=len(stretches) > _MOST_LINKS,
            )
        )
    return rows


def intervals(indices: NDArray[np.integer]) -> NDArray[np.int64]:
    """Starts and stops (n, 2) of runs of successive numbers.

    Examples
    --------
    >>> intervals(np.array([3, 4, 5, 9])).tolist()
    [[3, 6], [9, 10]]
    """
    if not indices.size:
        return np.zeros((0, 2), np.int64)
    cuts = np.flatnonzero(np.diff(indices) > 1)
    starts = indices[np.concatenate([[0], cuts + 1])]
    stops = indices[np.concatenate([cuts, [indices.size - 1]])] + 1
    return np.stack([starts, stops], axis=1).astype(np.int64)


def _link(start: int, stop: int, shown: Collection[int]) -> FrameLink:
    return FrameLink(start, stop, shown=start in shown)
