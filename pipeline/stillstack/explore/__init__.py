"""What notebooks call to look at a run, and what ``stillstack explore`` serves.

`browse` shows frames before, after, and what is left between, beside the drift; `edit_valid` draws
valid pixels and writes them into a config. Both are made of Panel and Bokeh alone. hvplot,
HoloViews and datashader are not needed: frames are binned to a screen's pixels by the same function
as for the report, and to draw on an image with a circle and a brush one has to go down to
Bokeh's events anyway. Each has a twin that matplotlib draws, for papers: `plot_drift`,
`plot_status`, `plot_frame`, and `stillstack.pictures.plot_valid`.
"""

from __future__ import annotations

from stillstack.explore.browser import FrameBrowser, browse
from stillstack.explore.editor import ValidEditor, edit_valid
from stillstack.explore.frames import Frames
from stillstack.explore.opened import frames_of_run
from stillstack.explore.plots import (
    COLOURS,
    ENVELOPE_BINS,
    INFORM_COLOUR,
    MAX_BARS,
    REJECT_COLOUR,
    envelope,
    plot_drift,
    plot_frame,
    plot_status,
    trend,
)

__all__ = [
    "COLOURS",
    "ENVELOPE_BINS",
    "INFORM_COLOUR",
    "MAX_BARS",
    "REJECT_COLOUR",
    "FrameBrowser",
    "Frames",
    "ValidEditor",
    "browse",
    "edit_valid",
    "envelope",
    "frames_of_run",
    "plot_drift",
    "plot_frame",
    "plot_status",
    "trend",
]
