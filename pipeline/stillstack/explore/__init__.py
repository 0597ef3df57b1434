"""What notebooks call to look at a run, and what ``stillstack explore`` serves.

`browse` shows frames before, after, and what is left between, beside the drift; `edit_valid` draws
valid pixels and writes them into a config. Both are made of Panel and Bokeh alone. hvplot,
HoloViews and datashader are not needed: frames are binned here to a screen's pixels
(`stillstack.explore.screen`), and drawing on an image with rectangle, polygon, circle and brush has
to go down to Bokeh's events anyway. Each plot has a twin that matplotlib draws, for papers:
`plot_drift`, `plot_status`, `plot_frame`, `plot_valid`.
"""

from __future__ import annotations

from stillstack.explore.plots import (
    COLOURS,
    ENVELOPE_BINS,
    envelope,
    plot_drift,
    plot_status,
    trend,
)

from stillstack.explore.browser import browse

__all__ = [
    "browse",
    "COLOURS",
    "ENVELOPE_BINS",
    "envelope",
    "plot_drift",
    "plot_status",
    "trend",
]
