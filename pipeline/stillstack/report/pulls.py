"""Whether error bars are right, as far as a run can know it without knowing the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stillstack.explore import COLOURS
from stillstack.model import AXES, FRAME, SUM, is_good

Floats = NDArray[np.float64]

FEWEST: Final = 20
ONE_SIGMA: Final = 0.6827
"""Share of a normal distribution within one sigma."""
# Of `width` over n^-1/2: pulls of successive frames share shifts. Found by simulation.
_WIDTH_STD: Final = 1.17
_RIGHT: Final = (0.9, 1.1)
_JITTER: Final = 3.0
_SHOWN_SIGMAS: Final = 4.5
_BINS: Final = 45


@dataclass(frozen=True, eq=False)
class Pulls:
    """How far shifts lie from those of their neighbours, in units of their error bars.

    Parameters
    ----------
    pull
        (n, 2), each frame's shift less the mean of those before and after it, over the error that
        the three error bars predict. Normal with a width of 1 where the error bars are right and
        the drift is slow. Frames that move on their own, and bars that are too short, make it
        wider; errors that neighbours share make it narrower.
    chi2
        (n,), chi2 of good frames: 1 where the frames differ from the reference by shift and noise.
    typical_std
        (2,), median error bar of the frames that were compared, px.
    """

    pull: Floats
    chi2: Floats
    typical_std: Floats

    @property
    def width(self) -> Floats:
        """Half the width that holds 68 % of the pulls, (2,); 1 is expected. NaN if too few."""
        if len(self.pull) < FEWEST:
            return np.full(2, np.nan)
        return np.quantile(np.abs(self.pull), ONE_SIGMA, axis=0)

    @property
    def beyond(self) -> Floats:
        """Scatter of a frame that its error bar does not account for, (2,), px; 0 if none."""
        return np.sqrt(np.maximum(self.width**2 - 1, 0)) * self.typical_std

    @property
    def width_std(self) -> float:
        """1-sigma uncertainty of the width, in units of it."""
        return float(_WIDTH_STD / np.sqrt(max(1, len(self.pull))))


def pulls_of(run: xr.Dataset) -> Pulls:
    """Compare the shifts of a run with those of their neighbours.

    Shifts as estimated are compared where a trajectory has changed them, never across a gap, a jump
    or a change of group. There are none where sums of frames were registered.

    Parameters
    ----------
    run
        A run's Dataset.

    Examples
    --------
    >>> from stillstack.model import COLUMNS, Status, empty_table
    >>> rows = empty_table(2000, Status(0))
    >>> rows["shift"] = np.random.default_rng(0).normal(0, 0.02, (2000, 2))
    >>> rows["shift_std"] = 0.02
    >>> run = xr.Dataset({c.name: (c.dims, rows[c.name]) for c in COLUMNS})
    >>> pulls_of(run).width.round(1)
    array([1., 1.])
    """
    good = np.asarray(is_good(run["status"].values), bool)
    chi2 = np.asarray(run["chi2"].values, float)[good]
    chi2 = chi2[np.isfinite(chi2)]
    if SUM in run.dims:
        return Pulls(np.zeros((0, 2)), chi2, np.full(2, np.nan))
    raw = "_raw" if "shift_raw" in run else ""
    shift = np.asarray(run[f"shift{raw}"].values, float)
    std_name = "shift_raw_std" if raw else "shift_std"
    var = np.asarray(run[std_name].values, float) ** 2
    known = np.asarray(is_good(run[f"status{raw}"].values), bool)
    known &= np.isfinite(shift).all(axis=1) & (var > 0).all(axis=1)
    together = known[:-2] & known[1:-1] & known[2:]
    for name in ("segment", "group_index"):
        if name in run:
            part = np.asarray(run[name].values)
            together &= (part[:-2] == part[1:-1]) & (part[1:-1] == part[2:])
    apart = shift[1:-1] - (shift[:-2] + shift[2:]) / 2
    expected = np.sqrt(var[1:-1] + (var[:-2] + var[2:]) / 4)
    pull = apart[together] / expected[together]
    typical = (
        np.sqrt(np.median(var[1:-1][together], axis=0)) if together.any() else np.full(2, np.nan)
    )
    return Pulls(pull, chi2, typical)


def pulls_sentences(pulls: Pulls) -> list[str]:
    """Say what the pulls and chi2 mean for the error bars."""
    said = []
    if np.isfinite(pulls.width).all():
        y, x = pulls.width
        said.append(
            "Each frame less the mean of its two neighbours, in units of its error bar, is spread "
            f"by {y:.3g} in y and {x:.3g} in x (± {pulls.width_std:.1%}), where error bars that "
            f"are right and a slow drift give 1. {_meaning(pulls)}"
        )
    else:
        said.append(
            "Too few frames with good neighbours: their scatter says nothing of the error bars."
        )
    if pulls.chi2.size:
        low, middle, high = np.percentile(pulls.chi2, [5, 50, 95])
        said.append(
            f"chi2 is {middle:.3g} for the median frame, {low:.3g} to {high:.3g} for nine of ten; "
            "1 is expected."
        )
    return said


def _meaning(pulls: Pulls) -> str:
    low, high = _RIGHT
    margin = 2 * pulls.width_std
    if pulls.width.max() > _JITTER:
        y, x = pulls.beyond
        return (
            f"That much is motion: from frame to frame the pattern jitters by {y:.2g} px in y and "
            f"{x:.2g} px in x, beside which errors of the size of the error bars cannot be seen."
        )
    if pulls.width.max() > high + margin:
        y, x = pulls.beyond
        return (
            f"More than 1: the pattern jitters by {y:.2g} px in y and {x:.2g} px in x from frame "
            "to frame, or the error bars are too short."
        )
    if pulls.width.min() < low - margin:
        return "Less than 1: neighbours share errors, or the error bars are too long."
    return "The error bars account for the scatter."


def plot_pulls(pulls: Pulls) -> Figure:
    """Figure of the distributions of pulls and of chi2, beside what is expected."""
    figure = Figure(figsize=(9.6, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_pulls(left, pulls.pull)
    _draw_chi2(right, pulls.chi2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks([])
    left.set_ylabel(FRAME + "s")
    return figure


def _draw_pulls(axes: Axes, pull: Floats) -> None:
    enough = len(pull) >= FEWEST
    widest = float(np.quantile(np.abs(pull), 0.99)) if enough else 0.0
    end = max(_SHOWN_SIGMAS, 1.1 * widest)
    at = np.linspace(-end, end, 10 * _BINS + 1)
    edges = at[::10].tolist()
    inside = np.clip(pull, -end, end)
    if enough:
        for k, axis in enumerate(AXES):
            colour = COLOURS[axis]
            axes.hist(inside[:, k], edges, density=True, histtype="step", color=colour, label=axis)
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])  # the curve may be higher than that
    normal = np.exp(-(at**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(at, normal, color="#8a8f98", linewidth=1, linestyle="dashed", label="expected")
    axes.set(xlabel="frame less mean of its neighbours, in error bars", xlim=(-end, end))
    axes.legend(frameon=False, fontsize="small", loc="upper left")


def _draw_chi2(axes: Axes, chi2: Floats) -> None:
    axes.axvline(1, color="#8a8f98", linewidth=1, linestyle="dashed")
    axes.set_xlabel("chi2")
    if not chi2.size:
        return
    low, high = np.percentile(chi2, [0.5, 99.5])
    margin = max(0.15 * (high - low), 0.01)
    first, last = min(low - margin, 1 - margin), max(high + margin, 1 + margin)
    edges = np.linspace(first, last, _BINS + 1).tolist()
    axes.hist(np.clip(chi2, first, last), edges, histtype="step", color="#3c6e47")
