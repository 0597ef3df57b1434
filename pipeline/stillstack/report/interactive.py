"""Plots of a run that answer to the mouse: linked, and light for any number of frames."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.explore import (
    COLOURS,
    ENVELOPE_BINS,
    INFORM_COLOUR,
    MAX_BARS,
    REJECT_COLOUR,
    envelope,
    trend,
)
from stillstack.model import AXES, REJECTING, Status, is_good, status_words
from stillstack.report.flags import intervals

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, HoverTool, Range1d
    from bokeh.plotting import figure

EXTRA: Final = "dashboard"
MOST_FLAGGED: Final = 10_000
"""Flagged frames that are drawn one by one, where so many more say little and weigh much."""
_OLDEST: Final = (3, 8)  # tooltips of one frame where many lie under the pointer
_NCC_COLOUR: Final = "#3c6e47"
_LEFT_PX: Final = 74  # so that panels stand below each other whatever their numbers

_TOLD: Final = """
<b>Frame @frame</b>: @status<br>
shift y @y{0.0000} ± @y_std{0.0000} px<br>
shift x @x{0.0000} ± @x_std{0.0000} px<br>
ncc @ncc{0.0000}, chi2 @chi2{0.000}
"""
_TOLD_REJECTED: Final = """
<b>Frame @frame</b>: @status<br>
no shift; ncc @ncc{0.0000}
"""
# Each picture is in the page once, however many points show it.
_PICTURE: Final = """
<div style="width: 120px; height: 120px; margin: 4px 0; image-rendering: pixelated;
  background: var(--frame-@nearest) center / contain no-repeat"></div>
picture: frame @nearest
"""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interactive:
    """What a page needs to draw plots.

    Attributes
    ----------
    script
        Bokeh's own script, in its element.
    plots
        What is drawn, as JSON.
    which
        Which frames are drawn one by one, in words; empty where all are.
    """

    script: str = field(repr=False)
    plots: str = field(repr=False)
    which: str


def kept_frames(run: xr.Dataset) -> NDArray[np.int64]:
    """Numbers of the frames that are drawn one by one.

    All of them up to 5,000. Of more, every flagged frame as long as those are no more than 10,000,
    else every rejected one as long as those are; and of each of 1,000 stretches the frames with the
    least, the middle and the largest shift along y and x, the largest error bar, and the least ncc.

    Parameters
    ----------
    run
        A run's Dataset.
    """
    status = np.asarray(run["status"].values).astype(int)
    if status.size <= MAX_BARS:
        return np.arange(status.size)
    good = np.asarray(is_good(status), bool)
    shift = np.where(good[:, None], run["shift"].values, np.nan)
    deviation = np.where(good, np.hypot(*np.asarray(run["shift_std"].values, float).T), np.nan)
    ncc = np.where(good, np.asarray(run["ncc"].values, float), np.nan)
    kept = {0, status.size - 1, *np.flatnonzero(_drawn_flags(status)[0]).tolist()}
    edges = np.linspace(0, status.size, ENVELOPE_BINS + 1).round().astype(int)
    for start, stop in itertools.pairwise(edges):
        for values in shift[start:stop].T:
            kept.update(start + place for place in _least_middle_most(values))
        kept.update(start + place for place in _least_middle_most(deviation[start:stop])[2:])
        kept.update(start + place for place in _least_middle_most(ncc[start:stop])[:1])
    return np.array(sorted(kept), np.int64)


def _drawn_flags(status: NDArray[np.int64]) -> tuple[NDArray[np.bool_], str]:
    """Flagged frames that are drawn one by one, and what they are."""
    for flagged, words in (
        (status != 0, "each flagged frame is drawn"),
        (np.asarray(~is_good(status), bool), "each rejected frame is drawn"),
    ):
        if np.count_nonzero(flagged) <= MOST_FLAGGED:
            return flagged, words
    return np.zeros(status.size, bool), "some are drawn"


def _least_middle_most(values: Floats) -> list[int]:
    order = np.argsort(values, kind="stable")[: np.count_nonzero(np.isfinite(values))]
    return order[[0, (order.size - 1) // 2, -1]].tolist() if order.size else []


def interactive(run: xr.Dataset, pictured: Sequence[int] = ()) -> Interactive | None:
    """Plots of every frame's shift, error bar, ncc and status; None without a Bokeh that can.

    Parameters
    ----------
    run
        A run's Dataset.
    pictured
        Frames of which the page has a small picture, in order, as a property ``--frame-NUMBER`` of
        its style: points show the nearest.
    """
    if find_spec("bokeh") is None or _release("bokeh") < _OLDEST:
        return None
    from bokeh.embed import json_item
    from bokeh.layouts import gridplot
    from bokeh.resources import Resources

    frames, source = _frames(run, np.asarray(pictured, np.int64))
    panels = [_drift(run, frames, source), _fast_part(run, frames, source)]
    panels.append(_likeness(run, frames, source))
    strip = _strip(run, frames)
    panels += [] if strip is None else [strip]
    panels[-1].xaxis.axis_label = "frame"
    grid = gridplot(
        [[panel] for panel in panels],
        merge_tools=True,
        toolbar_location="above",
        toolbar_options={"logo": None},
        sizing_mode="stretch_width",
    )
    # not `render_js`, which adds files that models of other libraries in this process ask for
    library = Resources(mode="inline", components=["bokeh"]).js_raw
    scripts = "\n".join(f"<script>{code}</script>" for code in library)
    # nothing that a run is called can end the element that holds it
    plots = json.dumps(json_item(grid)).replace("<", "\\u003c")
    status = np.asarray(run["status"].values).astype(int)
    which = _drawn_flags(status)[1] if status.size > MAX_BARS else ""
    return Interactive(scripts, plots, which)


def _release(package: str) -> tuple[int, ...]:
    """Release of an installed package, such as (3, 8)."""
    return tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])


def _frames(run: xr.Dataset, pictured: NDArray[np.int64]) -> tuple[Range1d, ColumnDataSource]:
    """The range that all panels share, and a row for each frame that is drawn."""
    from bokeh.models import ColumnDataSource, Range1d

    status = np.asarray(run["status"].values).astype(int)
    good = np.asarray(is_good(status), bool)[:, None]
    shift = np.where(good, run["shift"].values, np.nan)
    deviation = np.where(good, run["shift_std"].values, np.nan)
    kept = kept_frames(run)
    columns: dict[str, Any] = {"frame": kept.astype("u4")}
    for k, axis in enumerate(AXES):
        fast = shift[:, k] - trend(shift[:, k])
        columns[axis] = shift[kept, k].astype("f4")
        columns[f"{axis}_fast"] = fast[kept].astype("f4")
        columns[f"{axis}_std"] = deviation[kept, k].astype("f4")
        columns[f"{axis}_less"] = -columns[f"{axis}_std"]
    for name in ("ncc", "chi2"):
        columns[name] = np.asarray(run[name].values, "f4")[kept]
    columns["good"] = good[kept, 0]
    columns["ncc_good"] = np.where(columns["good"], columns["ncc"], np.float32("nan"))
    if pictured.size:
        columns["nearest"] = nearest(kept, pictured).astype("u4")
    columns["status"] = [", ".join(status_words(bits)) or "good" for bits in status[kept].tolist()]
    ends = -0.5 - 0.01 * status.size, status.size - 0.5 + 0.01 * status.size
    frames = Range1d(*ends, bounds=ends, name="frames")
    return frames, ColumnDataSource(columns, name="rows")


def nearest(numbers: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each number the nearest of some that are in order; the lower of two.

    Examples
    --------
    >>> nearest(np.array([0, 3, 5, 90]), np.array([1, 5, 9])).tolist()
    [1, 1, 5, 9]
    """
    above = np.clip(np.searchsorted(among, numbers), 0, among.size - 1)
    below = np.maximum(above - 1, 0)
    is_below = np.abs(numbers - among[below]) <= np.abs(numbers - among[above])
    return np.where(is_below, among[below], among[above])


def _panel(frames: Range1d, label: str, height: int, rows: Range1d | None = None) -> figure:
    from bokeh.models import BoxZoomTool, DataRange1d, PanTool, ResetTool, WheelZoomTool
    from bokeh.plotting import figure

    zoom = BoxZoomTool(dimensions="width")
    panel = figure(
        height=height,
        x_range=frames,
        y_range=rows or DataRange1d(),
        window_axis="x",
        tools=[zoom, PanTool(dimensions="width"), WheelZoomTool(dimensions="width"), ResetTool()],
        active_drag=zoom,
        active_scroll=None,
        sizing_mode="stretch_width",
        min_border_left=_LEFT_PX,
        min_border_right=8,
        min_border_top=6,
        min_border_bottom=6,
        outline_line_color=None,
    )
    panel.yaxis.axis_label = label
    panel.axis.axis_label_text_font_style = "normal"
    panel.axis.axis_line_color = "#b9bec5"
    panel.axis.major_tick_line_color = "#b9bec5"
    panel.axis.minor_tick_line_color = None
    panel.grid.grid_line_color = "#e6e6e6"
    panel.xaxis.formatter.use_scientific = False
    return panel


def _hover(renderers: list[Any], source: ColumnDataSource, told: str = _TOLD) -> HoverTool:
    from bokeh.models import HoverTool

    shown = _PICTURE if "nearest" in source.data else ""
    return HoverTool(
        renderers=renderers,
        tooltips=told + shown,
        limit=1,
        point_policy="snap_to_data",
        visible=told == _TOLD,
    )


def _bars(panel: figure, source: ColumnDataSource, axis: str, column: str, legend: bool) -> Any:
    """Points with bars of one sigma."""
    from bokeh.core.properties import expr
    from bokeh.models.expressions import Stack

    is_long = len(source.data["frame"]) > MAX_BARS // 4
    low, high = (Stack(fields=[column, f"{axis}_{name}"]) for name in ("less", "std"))
    panel.segment(
        x0="frame",
        x1="frame",
        y0=expr(low),
        y1=expr(high),
        source=source,
        color=COLOURS[axis],
        alpha=0.4 if is_long else 1,
    )
    options = {"legend_label": axis} if legend else {}
    return panel.scatter(
        "frame",
        column,
        source=source,
        size=2 if is_long else 4,
        color=COLOURS[axis],
        line_color=None,
        **options,
    )


def _band(panel: figure, values: Floats, colour: str) -> None:
    """Range and middle of stretches of a long run, which single frames are drawn on."""
    if len(values) <= MAX_BARS:
        return
    index, least, middle, most = envelope(values).astype("f4")
    panel.varea(x=index, y1=least, y2=most, color=colour, alpha=0.25)
    panel.line(x=index, y=middle, color=colour)


def _add_rejected(panel: figure, source: ColumnDataSource) -> None:
    """Add ticks at the foot of a panel for rejected frames, which have no place in it."""
    from bokeh.models import CDSView, IndexFilter, Range1d

    rows = np.flatnonzero(~source.data["good"])
    if not rows.size:
        return
    panel.y_range.renderers = list(panel.renderers)  # what is good decides on the scale
    panel.extra_y_ranges = {"foot": Range1d(0, 1)}
    ticks = panel.scatter(
        "frame",
        0.04,
        source=source,
        view=CDSView(filter=IndexFilter(rows.tolist())),
        y_range_name="foot",
        marker="dash",
        angle=np.pi / 2,
        size=12,
        line_width=_tick_width(source.data["frame"].size),
        color=REJECT_COLOUR,
    )
    panel.add_tools(_hover([ticks], source, _TOLD_REJECTED))


def _tick_width(n_frames: int) -> int:
    """Width of the tick of a frame, px: few of them should be seen, many kept apart."""
    return 2 if n_frames <= MAX_BARS else 1


def _drift(run: xr.Dataset, frames: Range1d, source: ColumnDataSource) -> figure:
    panel = _panel(frames, "shift (px)", 300)
    good = np.asarray(is_good(run["status"].values), bool)
    for k, axis in enumerate(AXES):
        _band(panel, np.where(good, run["shift"].values[:, k], np.nan), COLOURS[axis])
    dots = [_bars(panel, source, axis, axis, legend=True) for axis in AXES]
    panel.add_tools(_hover(dots, source))
    _add_rejected(panel, source)
    legend = panel.legend[0]
    legend.orientation, legend.border_line_color, legend.padding = "horizontal", None, 2
    panel.add_layout(legend, "above")
    return panel


def _fast_part(run: xr.Dataset, frames: Range1d, source: ColumnDataSource) -> figure:
    panel = _panel(frames, "less median (px)", 210)
    good = np.asarray(is_good(run["status"].values), bool)
    for k, axis in enumerate(AXES):
        shift = np.where(good, run["shift"].values[:, k], np.nan)
        _band(panel, shift - trend(shift), COLOURS[axis])
    dots = [_bars(panel, source, axis, f"{axis}_fast", legend=False) for axis in AXES]
    panel.add_tools(_hover(dots, source))
    return panel


def _likeness(run: xr.Dataset, frames: Range1d, source: ColumnDataSource) -> figure:
    panel = _panel(frames, "ncc", 170)
    good = np.asarray(is_good(run["status"].values), bool)
    _band(panel, np.where(good, np.asarray(run["ncc"].values, float), np.nan), _NCC_COLOUR)
    size = 2 if len(good) > MAX_BARS // 4 else 4
    dots = panel.scatter(
        "frame", "ncc_good", source=source, size=size, color=_NCC_COLOUR, line_color=None
    )
    panel.add_tools(_hover([dots], source))
    _add_rejected(panel, source)
    return panel


def _strip(run: xr.Dataset, frames: Range1d) -> figure | None:
    """A row for each status bit that a frame has, exact for every frame; None where there is none.

    Frames in a row are one bar.
    """
    from bokeh.models import ColumnDataSource, HoverTool, Range1d

    status = np.asarray(run["status"].values).astype(int)
    bits = [bit for bit in Status if (status & bit).any()]
    if not bits:
        return None
    names = [status_words(bit)[0].replace("_", " ") for bit in bits]
    panel = _panel(frames, "", 50 + 22 * len(bits), Range1d(len(bits) - 0.4, -0.6))
    panel.yaxis.ticker = list(range(len(bits)))
    panel.yaxis.major_label_overrides = dict(enumerate(names))
    for row, bit in enumerate(bits):
        parts = intervals(np.flatnonzero(status & bit)).astype("i4")
        source = ColumnDataSource({"first": parts[:, 0], "last": parts[:, 1] - 1})
        colour = REJECT_COLOUR if bit & REJECTING else INFORM_COLOUR
        bars = panel.hbar(
            y=row, left="first", right="last", height=0.6, source=source, color=colour
        )
        hover = HoverTool(
            renderers=[bars], tooltips=[(names[row], "@first to @last")], limit=1, visible=False
        )
        panel.add_tools(hover)
    return panel
