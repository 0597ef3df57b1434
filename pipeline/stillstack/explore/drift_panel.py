"""The drift in the browser: a click chooses the frame, zooming in shows single frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from bokeh.models import ColumnDataSource, GlyphRenderer, Range1d, Span, Whisker
from bokeh.plotting import figure
from numpy.typing import NDArray

from stillstack.explore.channel import Channel, follow_view
from stillstack.explore.plots import COLOURS, MAX_BARS, REJECT_COLOUR, envelope
from stillstack.model import AXES, FRAME, is_good

QUANTITIES: Final = {
    "shift": "shift (px)",
    "shift_std": "1 sigma (px)",
    "ncc": "ncc",
    "chi2": "chi2",
    "peak_ratio": "peak ratio",
    "overlap": "overlap",
    "intensity": "intensity",
    "background": "background (counts)",
}


class DriftPanel:
    """A per-frame quantity over the frames, and which of them is shown.

    Parameters
    ----------
    table
        Per-frame variables, each of shape (frame,) or (frame, axis).
    choose
        Called with the place that was clicked on, in frames.
    width
        Of the figure, px.
    """

    def __init__(
        self, table: Mapping[str, NDArray[Any]], choose: Callable[[float], None], width: int
    ) -> None:
        self._table = table
        self._good = np.asarray(is_good(table["status"]), bool)
        n_frames = len(self._good)
        self._range = (0, n_frames)
        self.quantities = {n: words for n, words in QUANTITIES.items() if n in table}
        self.quantity = "shift"
        margin = 0.5 + 0.01 * n_frames
        self.figure = figure(
            width=width,
            height=230,
            x_range=Range1d(-margin, n_frames - 1 + margin),
            tools="xpan,xwheel_zoom,box_zoom,reset",
            active_scroll="xwheel_zoom",
            toolbar_location="right",
            x_axis_label=FRAME,
            css_classes=["drift"],
        )
        self.figure.toolbar.logo = None
        self._points: dict[str, GlyphRenderer] = {}
        self._sources = {axis: self._add_series(axis) for axis in AXES}
        self._rejected = ColumnDataSource({"frame": []})
        self.figure.vspan(
            x="frame", source=self._rejected, line_color=REJECT_COLOUR, line_alpha=0.35,
            legend_label="rejected", level="underlay",
        )  # fmt: skip
        self._mark = Span(location=0, dimension="height", line_color="#222222", line_width=1.5)
        self.figure.add_layout(self._mark)
        self.figure.legend.orientation = "horizontal"
        self.figure.legend.spacing = 20
        self.figure.legend.background_fill_alpha = 0.6
        self.figure.add_layout(self.figure.legend[0], "above")
        self._clicks = Channel(choose)
        self.figure.js_on_event("tap", self._clicks.script("send(cb_obj.x)"))
        follow_view(self.figure, self._moved)
        self.draw()

    def mark(self, number: int) -> None:
        """Mark the frame that is shown.

        Parameters
        ----------
        number
            Of the frame.
        """
        self._mark.location = number

    def choose_quantity(self, name: str) -> None:
        """Draw another quantity.

        Parameters
        ----------
        name
            One of ``quantities``.
        """
        self.quantity = name
        self.draw()

    def draw(self) -> None:
        """Draw what lies in view: single frames, or medians and ranges where there are many."""
        first, last = self._range
        self.figure.yaxis.axis_label = self.quantities[self.quantity]
        values = np.asarray(self._table[self.quantity], float)
        bars = self.quantity == "shift" and "shift_std" in self._table
        for k, axis in enumerate(AXES):
            column = values[:, k] if values.ndim == 2 else values if k == 0 else values * np.nan
            error = np.asarray(self._table["shift_std"][:, k], float) if bars else column * 0
            shown = np.where(self._good, column, np.nan)
            self._sources[axis].data = _series(shown[first:last], error[first:last], first)
        self._points["x"].visible = values.ndim == 2
        self.figure.legend.items[0].label = {
            "value": AXES[0] if values.ndim == 2 else self.quantity.replace("_", " ")
        }
        self.figure.legend.items[1].visible = values.ndim == 2
        rejected = first + np.flatnonzero(~self._good[first:last])
        # as many as there are columns on a screen; more would be one red wall all the same
        step = max(1, len(rejected) // 2000)
        self._rejected.data = {"frame": rejected[::step]}

    def _moved(self, ranges: dict[str, list[float]]) -> None:
        first, last = sorted(ranges["x"])
        n_frames = len(self._good)
        begin = int(np.clip(np.floor(first), 0, n_frames - 1))
        wanted = (begin, int(np.clip(np.ceil(last) + 1, begin + 1, n_frames)))
        if n_frames > MAX_BARS and wanted != self._range:
            self._range = wanted
            self.draw()

    def _add_series(self, axis: str) -> ColumnDataSource:
        source = ColumnDataSource(_series(np.empty(0), np.empty(0), 0))
        colour = COLOURS[axis]
        self.figure.add_layout(
            Whisker(
                base="frame", lower="lower", upper="upper", source=source,
                line_color=colour, line_alpha=0.6, upper_head=None, lower_head=None,
            )
        )  # fmt: skip
        self._points[axis] = self.figure.scatter(
            "frame", "value", source=source, size=3.5, color=colour, legend_label=axis
        )
        return source


def _series(
    values: NDArray[np.float64], errors: NDArray[np.float64], first: int
) -> dict[str, NDArray[np.float64]]:
    """Points with bars; above `MAX_BARS` frames medians with bars over the whole range of each."""
    numbers = first + np.arange(len(values), dtype=float)
    lower, upper = values - errors, values + errors
    if len(values) > MAX_BARS:
        numbers, lower, values, upper = envelope(values)
        numbers = numbers + first
    return {"frame": numbers, "value": values, "lower": lower, "upper": upper}
