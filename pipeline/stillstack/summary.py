"""What a run came to, in the numbers and words that people ask for: the faces share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.model import FRAME, REJECTING, Status, is_good, status_words

MEANINGS: Final = {
    Status.PENDING: "not processed yet",
    Status.UNREADABLE: "the frame could not be read",
    Status.BLANK: "nothing to register: no contrast, or every pixel saturated or invalid",
    Status.LOW_OVERLAP: "too little of the valid reference is covered",
    Status.LOW_NCC: "does not resemble the reference",
    Status.AMBIGUOUS: "a second place fits nearly as well",
    Status.AT_LIMIT: "the best place lies at the edge of the search range",
    Status.NOT_CONVERGED: "no stable sub-pixel answer",
    Status.SATURATED: "some pixels are saturated and were left out",
    Status.NON_FINITE: "some pixels are not finite and were left out",
    Status.STRUCK: "some pixels were hit by an X-ray or a discharge and were left out",
    Status.CLIPPED: "aligned values were clipped to the output's integer range",
    Status.OUTLIER: "the shift departs from its neighbours' and was cleared",
    Status.REPAIRED: "the shift was filled in from its neighbours",
    Status.EXCLUDED: "left out, as the config says",
}


@dataclass(frozen=True)
class Summary:
    """A run in numbers.

    Attributes
    ----------
    n_frames, n_good, n_pending, n_unreadable, n_excluded
        Frames in all, good ones, ones not processed yet, ones that could not be read, and ones
        that the config leaves out.
    flag_counts
        Number of frames for each status bit that occurs; frames that are left out are counted
        there and nowhere else.
    rejected
        Indices of the frames that were looked at and are not good.
    median_std, high_std
        Median and 95 percentile of the 1-sigma error of good frames' shifts, (y, x), px.
    drift_range
        Largest less smallest shift of good frames, (y, x), px.
    median_ncc, median_chi2
        Medians over good frames.
    """

    n_frames: int
    n_good: int
    n_pending: int
    n_unreadable: int
    flag_counts: dict[Status, int]
    rejected: tuple[int, ...]
    median_std: tuple[float, float]
    high_std: tuple[float, float]
    drift_range: tuple[float, float]
    median_ncc: float
    median_chi2: float
    n_excluded: int = 0

    @property
    def n_rejected(self) -> int:
        """Frames that were processed and are not good."""
        return self.n_wanted - self.n_good - self.n_pending

    @property
    def n_wanted(self) -> int:
        """Frames that the config does not leave out."""
        return self.n_frames - self.n_excluded

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "frames": self.n_frames,
            "good": self.n_good,
            "rejected": self.n_rejected,
            "pending": self.n_pending,
            "excluded": self.n_excluded,
            "unreadable": self.n_unreadable,
            "flags": {status_words(bit)[0]: n for bit, n in self.flag_counts.items()},
            "rejected_frames": list(self.rejected),
            "median_shift_std_px": _finite(self.median_std),
            "p95_shift_std_px": _finite(self.high_std),
            "drift_range_px": _finite(self.drift_range),
            "median_ncc": _finite((self.median_ncc,))[0],
            "median_chi2": _finite((self.median_chi2,))[0],
        }


def summarise(run: xr.Dataset) -> Summary:
    """Condense a run's table into a `Summary`.

    Parameters
    ----------
    run
        What `stillstack.open_run` returns, or the result of `stillstack.register`.
    """
    status = np.asarray(run["status"].values).astype(int)
    good = np.asarray(is_good(status), bool)
    std = np.asarray(run["shift_std"].values, float)[good]
    shift = np.asarray(run["shift"].values, float)[good]
    spread = np.ptp(shift, axis=0) if good.any() else np.full(2, np.nan)
    excluded = (status & Status.EXCLUDED) > 0
    flags = np.where(excluded, int(Status.EXCLUDED), status)
    unseen = excluded | ((status & Status.PENDING) > 0)
    return Summary(
        n_frames=status.size,
        n_good=int(good.sum()),
        n_pending=int((status & Status.PENDING > 0).sum()),
        n_unreadable=int((status & Status.UNREADABLE > 0).sum()),
        flag_counts={b: n for b in Status if (n := int((flags & b > 0).sum()))},
        rejected=tuple(np.flatnonzero(~good & ~unseen).tolist()),
        median_std=_percentile(std, 50),
        high_std=_percentile(std, 95),
        drift_range=(float(spread[0]), float(spread[1])),
        median_ncc=_median(run, "ncc", good),
        median_chi2=_median(run, "chi2", good),
        n_excluded=int(excluded.sum()),
    )


def compact_ranges(indices: tuple[int, ...] | NDArray[Any], limit: int = 12) -> str:
    """Write frame indices as ranges, the first `limit` of them.

    Examples
    --------
    >>> compact_ranges((3, 4, 5, 9, 11, 12), limit=2)
    '3-5, 9, ...'
    """
    values = np.sort(np.asarray(indices, int))
    if not values.size:
        return "none"
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    words = [f"{r[0]}" if r.size == 1 else f"{r[0]}-{r[-1]}" for r in runs]
    return ", ".join([*words[:limit], "..."] if len(words) > limit else words)


def worst_frames(run: xr.Dataset, limit: int = 12) -> list[int]:
    """Choose frames worth a look: rejected ones of every kind first, then the least certain.

    Frames that the config leaves out are not among them.

    Parameters
    ----------
    run
        A run's Dataset.
    limit
        Number of frames at most.
    """
    status = np.asarray(run["status"].values).astype(int)
    kinds: dict[int, list[int]] = {}
    seen = np.where(status & Status.EXCLUDED, 0, status)
    for index in np.flatnonzero((seen & REJECTING) & ~int(Status.PENDING)):
        kinds.setdefault(int(status[index] & REJECTING), []).append(int(index))
    chosen: list[int] = []
    depth = 0
    while len(chosen) < limit and any(depth < len(frames) for frames in kinds.values()):
        chosen += [frames[depth] for frames in kinds.values() if depth < len(frames)]
        depth += 1
    std = np.hypot(*np.asarray(run["shift_std"].values, float).T)
    good = np.flatnonzero(np.asarray(is_good(status), bool) & np.isfinite(std))
    by_error = good[np.argsort(-std[good], kind="stable")]
    return [*sorted(chosen[:limit]), *by_error[: max(0, limit - len(chosen))].tolist()][:limit]


def reason(run: xr.Dataset, index: int) -> str:
    """Say in words why a frame is rejected or among the least certain, with its values."""
    row = run[["status", "ncc", "peak_ratio", "overlap", "shift", "shift_std"]].isel({FRAME: index})
    status = int(row["status"])
    if status & Status.EXCLUDED:
        return MEANINGS[Status.EXCLUDED]
    values = {
        Status.LOW_NCC: f"ncc {float(row['ncc']):.3f}",
        Status.AMBIGUOUS: f"second peak at {float(row['peak_ratio']):.2f} of the first",
        Status.LOW_OVERLAP: f"overlap {float(row['overlap']):.2f}",
    }
    parts = [
        MEANINGS[bit] + (f" ({values[bit]})" if bit in values else "")
        for bit in Status
        if status & bit & REJECTING
    ]
    if parts:
        return "; ".join(parts)
    deviation = np.hypot(*np.asarray(row["shift_std"].values, float))
    return f"good, among the largest error bars: {deviation:.3g} px"


def _percentile(values: NDArray[Any], q: float) -> tuple[float, float]:
    columns = [column[np.isfinite(column)] for column in values.T]
    y, x = (float(np.percentile(c, q)) if c.size else float("nan") for c in columns)
    return y, x


def _median(run: xr.Dataset, name: str, good: NDArray[np.bool_]) -> float:
    if name not in run:
        return float("nan")
    values = np.asarray(run[name].values, float)[good]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else float("nan")


def _finite(values: tuple[float, ...]) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
