"""Static plots of a run, for papers: drift with error bars, status, a frame.

Every function returns a `matplotlib.figure.Figure` that belongs to no window and no global
state, so it is the same in a notebook, in the report and on a machine without a display.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.model import AXES, FRAME, REJECTING, Status, is_good
from stillstack.pictures import (
    DIFFERENCE_COLOURS,
    difference_norm,
    display_image,
    draw_image,
    image_norm,
)

if TYPE_CHECKING:
    from stillstack.explore.frames import Frames

COLOURS: Final = {"y": "#0b6e99", "x": "#d1603d"}
REJECT_COLOUR: Final = "#b3261e"
INFORM_COLOUR: Final = "#8a6d1f"
MAX_BARS: Final = 5000
ENVELOPE_BINS: Final = 1000
TREND_FRAMES: Final = 15


def envelope(values: NDArray[Any], bins: int = ENVELOPE_BINS) -> NDArray[np.float64]:
    """Centre, least, median and largest value of each of `bins` runs of neighbouring samples.

    Parameters
    ----------
    values
        Samples in order, shape (n,); NaN where there is none.
    bins
        Number of runs; they differ in length by one sample at most.

    Returns
    -------
    ndarray of shape (4, bins): index of the centre, min, median, max. NaN for a run of NaN.

    Examples
    --------
    >>> envelope(np.array([0.0, 2.0, 1.0, 5.0, 5.0, 8.0]), bins=2)
    array([[1., 4.],
           [0., 5.],
           [1., 5.],
           [2., 8.]])
    """
    edges = np.linspace(0, len(values), bins + 1).round().astype(int)
    rows = np.full((4, bins), np.nan)
    for k, (start, stop) in enumerate(itertools.pairwise(edges)):
        part = values[start:stop]
        part = part[np.isfinite(part)]
        rows[0, k] = (start + stop - 1) / 2
        if part.size:
            rows[1:, k] = part.min(), np.median(part), part.max()
    return rows


def trend(values: NDArray[Any], frames: int = TREND_FRAMES) -> NDArray[np.float64]:
    """Follow the slow part: a running median over `frames` samples that ignores NaN.

    Parameters
    ----------
    values
        Samples in order, shape (n,).
    frames
        Length of the window, odd; at the ends the window is cut off. The answer is NaN where
        the window holds nothing.

    Examples
    --------
    >>> trend(np.array([0.0, 0.0, 9.0, 0.0, np.nan]), frames=3)
    array([0. , 0. , 0. , 4.5, 0. ])
    """
    half = frames // 2
    padded = np.pad(np.asarray(values, float), half, constant_values=np.nan)
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    known = np.isfinite(windows).sum(axis=1)
    rows = np.arange(len(windows))
    middle = (windows[rows, np.maximum(known - 1, 0) // 2] + windows[rows, known // 2]) / 2
    return np.where(known > 0, middle, np.nan)


def plot_drift(run: xr.Dataset) -> Figure:
    """Figure of the drift in y and x with error bars, of its fast part, and of the bars alone.

    The error bars are one sigma and usually far smaller than the drift, so the middle panel shows
    the shifts less their running median over 15 frames, and the lowest the length of the bars.
    Above 5,000 frames each of 1,000 runs of frames is drawn as its median and range.

    Parameters
    ----------
    run
        What `stillstack.open_run` returns, or the result of `stillstack.register`.
    """
    good = np.asarray(is_good(run["status"].values), bool)
    shift = np.where(good[:, None], run["shift"].values, np.nan)
    deviation = np.where(good[:, None], run["shift_std"].values, np.nan)
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    upper, lower, least = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1.1))
    handles: list[Any] = []
    for k, axis in enumerate(AXES):
        handles.append(_draw_errorbars(upper, shift[:, k], deviation[:, k], axis))
        _draw_errorbars(lower, shift[:, k] - trend(shift[:, k]), deviation[:, k], axis)
        _draw_deviation(least, deviation[:, k], axis)
    rejected = np.flatnonzero(~good)
    if rejected.size:
        handles += upper.plot(
            rejected,
            np.full(rejected.size, 0.015),
            linestyle="none",
            marker="|",
            markersize=9,
            color=REJECT_COLOUR,
            transform=upper.get_xaxis_transform(),
            label="rejected",
        )
    upper.set_ylabel("shift (px)")
    upper.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        frameon=False,
        ncols=3,
        borderpad=0,
    )
    lower.set_ylabel("less running\nmedian (px)")
    lower.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    least.set(xlabel=FRAME, ylabel="1 sigma\n(px)")
    for axes in (upper, lower, least):
        _tidy(axes, len(good))
    least.set_ylim(bottom=0)
    return figure


def _draw_errorbars(axes: Axes, values: NDArray[Any], deviation: NDArray[Any], axis: str) -> Any:
    """Draw values with bars of one sigma, or their envelope where there are many."""
    colour = COLOURS[axis]
    if len(values) > MAX_BARS:
        index, least, middle, most = envelope(values)
        spread = np.nan_to_num(envelope(deviation)[2])
        axes.fill_between(
            index, least - spread, most + spread, color=colour, alpha=0.3, linewidth=0
        )
        return axes.plot(index, middle, color=colour, linewidth=1, label=axis)[0]
    return axes.errorbar(
        np.arange(len(values)),
        values,
        deviation,
        fmt="o",
        markersize=2.2 if len(values) <= 600 else 1.2,
        linewidth=0,
        elinewidth=0.8,
        color=colour,
        label=axis,
    )


def _draw_deviation(axes: Axes, deviation: NDArray[Any], axis: str) -> None:
    frames: NDArray[Any] = np.arange(len(deviation))
    if len(deviation) > MAX_BARS:
        frames, _, _, deviation = envelope(deviation)
    axes.plot(frames, deviation, ".", markersize=2, color=COLOURS[axis])


def plot_status(run: xr.Dataset) -> Figure:
    """Figure of the correlation coefficient of each frame, and of the status bits below it.

    Each row of the strip is one status bit that some frame has; red bits reject.
    """
    status = run["status"].values.astype(int)
    ncc = np.asarray(run["ncc"].values, float)
    bits = [bit for bit in Status if (status & bit).any()]
    figure = Figure(figsize=(9.6, 3.2 + 0.24 * len(bits)), layout="constrained")
    upper, lower = figure.subplots(
        2, 1, sharex=True, height_ratios=(2.6, 0.3 + 0.24 * max(1, len(bits)))
    )
    good = np.asarray(is_good(status), bool)
    frames = np.arange(len(status))
    if len(status) > MAX_BARS:
        index, least, middle, most = envelope(np.where(good, ncc, np.nan))
        upper.fill_between(index, least, most, color="#3c6e47", alpha=0.3, linewidth=0)
        upper.plot(index, middle, color="#3c6e47", linewidth=1, label="good")
    else:
        upper.plot(frames[good], ncc[good], ".", markersize=3, color="#3c6e47", label="good")
    shown = ~good & np.isfinite(ncc)
    floor, lowest = _floor(ncc[good])
    upper.plot(
        frames[shown],
        np.maximum(ncc[shown], lowest),
        linestyle="none",
        marker="x",
        markersize=5,
        color=REJECT_COLOUR,
        label="rejected (at the edge: lower)",
    )
    if shown.any() and np.isfinite(floor):
        upper.set_ylim(bottom=floor)
    upper.set_ylabel("ncc")
    if shown.any():
        upper.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=2, borderpad=0)
    _tidy(upper, len(status))
    for row, bit in enumerate(bits):
        colour = REJECT_COLOUR if bit & REJECTING else INFORM_COLOUR
        hit = np.flatnonzero(status & bit)
        lower.plot(hit, np.full(hit.size, row), "|", markersize=9, color=colour, rasterized=True)
    lower.set_yticks(range(len(bits)), [(bit.name or "").lower().replace("_", " ") for bit in bits])
    lower.set_ylim(max(1, len(bits)) - 0.4, -0.6)
    lower.set_xlabel(FRAME)
    _tidy(lower, len(status))
    if not bits:
        lower.text(0.5, 0.5, "no bit is set", ha="center", va="center", transform=lower.transAxes)
    return figure


def _floor(ncc: NDArray[Any]) -> tuple[float, float]:
    """End the scale a little below the good frames, so that bad ones do not flatten it.

    Returns the end, and the height just above it where what lies lower is drawn.
    """
    known = ncc[np.isfinite(ncc)]
    if not known.size:
        return -float("inf"), -float("inf")
    low, high = float(known.min()), float(known.max())
    margin = max(high - low, 0.02)
    return low - margin, low - 0.92 * margin


def _tidy(axes: Axes, n_frames: int) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.5 - 0.01 * n_frames, n_frames - 0.5 + 0.01 * n_frames)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def plot_frame(frames: Frames, number: int, *, other: int | None = None) -> Figure:
    """Figure of one frame before, after, and what is left of it: what `browse` shows of it.

    Parameters
    ----------
    frames
        Of a run, from `stillstack.explore.frames_of_run`.
    number
        Of the frame.
    other
        Another frame, that is taken away in place of the reference.

    Raises
    ------
    InputError
        There is no frame of that number.
    """
    n_frames = frames.shape[0]
    for wanted in (number, other or 0):
        if not 0 <= wanted < n_frames:
            raise InputError(
                f"There is no frame {wanted}: {frames.name} has {n_frames}.",
                cure=f"Choose one of 0 to {n_frames - 1}.",
            )
    figure = Figure(figsize=(14.4, 4.4), layout="compressed")
    before, after = frames.before(number), frames.after(number)
    less = "the reference" if other is None else f"frame {other}"
    pictures = {
        f"frame {number} before": before,
        "after": after,
        f"after, less {less}": frames.difference(number, "after", other),
    }
    seen = [display_image(p.pixels)[0] for p in (before, after) if p.pixels is not None]
    scale = image_norm(*seen) if seen else None
    for k, (axes, (title, picture)) in enumerate(
        zip(figure.subplots(1, 3), pictures.items(), strict=True)
    ):
        axes.set_title(title, fontsize="medium", loc="left")
        if picture.pixels is None:
            axes.text(0.5, 0.5, picture.why, ha="center", va="center", wrap=True,
                      transform=axes.transAxes)  # fmt: skip
            axes.set_axis_off()
        elif k < 2:
            draw_image(axes, picture.pixels, norm=scale, valid=frames.valid if k == 0 else None)
        else:
            norm = difference_norm(display_image(picture.pixels)[0])
            draw_image(axes, picture.pixels, norm=norm, colours=DIFFERENCE_COLOURS)
    return figure
