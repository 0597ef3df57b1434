"""The figure that valid pixels are drawn on: gestures, the rubber band, the veil."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from bokeh.models import ColumnDataSource, LinearColorMapper
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from stillstack.explore.channel import Channel, follow_view
from stillstack.explore.image_panel import ImagePanel, window_of
from stillstack.explore.screen import Line, Window, outline, tile_of
from stillstack.pictures import IMAGE_COLOURS, display_image, image_norm

SENT_PIXELS: Final = 800
LOOK: Final = "look"
_VEIL: Final = ("rgba(0, 0, 0, 0)", "rgba(60, 0, 40, 0.55)")
_FIGURE_COLOURS: Final = {"exclude": "#ff8c1a", "include": "#35c4ff"}

_GESTURE: Final = """
const kind = mode.data.kind[0], radius = mode.data.radius[0];
const name = cb_obj.event_name, here = [cb_obj.y, cb_obj.x];
const brush = kind == "brush" || kind == "restore";
const show = (points) => {
  let line = points;
  if (points.length > 0 && kind == "rectangle") {
    const [y0, x0] = points[0], [y1, x1] = points[points.length - 1];
    line = [[y0, x0], [y0, x1], [y1, x1], [y1, x0], [y0, x0]];
  } else if (points.length > 0 && kind == "circle") {
    const [y0, x0] = points[0], [y1, x1] = points[points.length - 1];
    const r = Math.hypot(y1 - y0, x1 - x0);
    line = Array.from({length: 73}, (_, k) => k * Math.PI / 36)
      .map((t) => [y0 + r * Math.sin(t), x0 + r * Math.cos(t)]);
  }
  const px = plot.inner_width / Math.abs(x_range.end - x_range.start);
  glyph.line_width = brush ? Math.max(1, 2 * radius * px) : 2;
  glyph.line_alpha = brush ? 0.4 : 1;
  rubber.data = {xs: [line.map((p) => p[1])], ys: [line.map((p) => p[0])]};
};
const told = () => {
  send({kind, points: channel.points, count: (channel.count = (channel.count ?? 0) + 1)});
  channel.points = [];
};
channel.points ??= [];
if (channel.kind != kind) { channel.kind = kind; channel.points = []; show([]) }
if (kind == "polygon") {
  if (name == "tap") { channel.points.push(here); show(channel.points) }
  if (name == "mousemove" && channel.points.length > 0) show([...channel.points, here]);
  if (name == "doubletap") { told(); show([]) }
} else if (name == "panstart") {
  channel.at = [cb_obj.sx, cb_obj.sy];
  channel.points = [here];
} else if (name == "pan" && channel.points.length > 0) {
  if (kind == "look") {
    const step = (range, pixels, length) => {
      const by = -pixels * (range.end - range.start) / length;
      range.setv({start: range.start + by, end: range.end + by});
    };
    step(x_range, cb_obj.sx - channel.at[0], plot.inner_width);
    step(y_range, cb_obj.sy - channel.at[1], plot.inner_height);
    channel.at = [cb_obj.sx, cb_obj.sy];
  } else {
    if (brush) channel.points.push(here); else channel.points = [channel.points[0], here];
    show(channel.points);
  }
} else if (name == "panend" && channel.points.length > 0 && kind != "look") {
  if (!brush) channel.points = [channel.points[0], here];
  told(); show([]);
} else if (name == "tap" && brush) {
  channel.points = [here]; told();
}
"""


class Canvas:
    """An image to draw on.

    Parameters
    ----------
    shape
        Rows and columns.
    width
        Of the image, px of the screen.
    drawn
        Called with the kind of a finished gesture and its points (y, x).

    Attributes
    ----------
    figure : bokeh.plotting.figure
        The figure.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        width: int,
        drawn: Callable[[str, list[tuple[float, float]]], None],
    ) -> None:
        self._drawn = drawn
        self._image: NDArray[Any] = np.zeros(shape, np.float32)
        self._area = np.ones(shape, bool)
        self._window = Window.whole(shape)
        panel = ImagePanel(shape, width, "canvas")
        self._panel = panel
        self.figure = panel.figure
        self.figure.tools = [
            tool
            for tool in self.figure.tools
            if type(tool).__name__ in {"WheelZoomTool", "ResetTool"}
        ]
        veil = LinearColorMapper(palette=_VEIL, low=0, high=1)
        self._veil = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self.figure.image(
            image="image", x="x", y="y", dw="dw", dh="dh", source=self._veil, color_mapper=veil,
            level="glyph",
        )  # fmt: skip
        self._figures = ColumnDataSource({"xs": [], "ys": [], "colour": []})
        self.figure.multi_line(
            "xs", "ys", line_color="colour", line_width=2, line_dash="dashed", source=self._figures
        )
        self._mode = ColumnDataSource({"kind": [LOOK], "radius": [8.0]})
        self._follow_gestures()
        follow_view(self.figure, self._looked)

    def choose(self, kind: str, radius: float) -> None:
        """Say what gestures mean from now on.

        Parameters
        ----------
        kind
            ``look``, a kind of figure, ``brush``, ``restore`` or ``move``.
        radius
            Of the brush, px.
        """
        self._mode.data = {"kind": [kind], "radius": [radius]}

    def show_image(self, image: NDArray[Any], title: str) -> None:
        """Draw on another image.

        Parameters
        ----------
        image
            (y, x).
        title
            What it is.
        """
        self._image = image
        self._panel.say(title)
        self._draw_image()

    def show_area(self, area: NDArray[np.bool_], figures: Sequence[tuple[str, Line]]) -> None:
        """Veil what does not count.

        Parameters
        ----------
        area
            (y, x), True where a pixel counts.
        figures
            Outlines, with the name of their list.
        """
        self._area = area
        self._panel.draw_lines(outline(area))
        self._figures.data = {
            "xs": [line[:, 1] for _, line in figures],
            "ys": [line[:, 0] for _, line in figures],
            "colour": [_FIGURE_COLOURS[name] for name, _ in figures],
        }
        self._draw_veil()

    def _draw_image(self) -> None:
        tile = tile_of(self._image, self._window, limit=SENT_PIXELS)
        norm: Normalize = image_norm(display_image(self._image)[0])
        self._panel.show([tile], norm, IMAGE_COLOURS)

    def _draw_veil(self) -> None:
        tile = tile_of((~self._area).astype(np.float32), self._window, limit=SENT_PIXELS)
        self._veil.data = {
            "image": [(tile.pixels >= 0.5).astype(np.uint8)],
            "x": [tile.x],
            "y": [tile.y],
            "dw": [tile.width],
            "dh": [tile.height],
        }

    def _looked(self, ranges: dict[str, list[float]]) -> None:
        self._window = window_of(ranges)
        self._draw_image()
        self._draw_veil()

    def _follow_gestures(self) -> None:
        rubber = ColumnDataSource({"xs": [], "ys": []})
        band = self.figure.multi_line(
            "xs", "ys", source=rubber, line_color="#ffffff", line_width=2, line_cap="round",
            line_join="round",
        )  # fmt: skip
        self._gestures = Channel(self._received)
        script = self._gestures.script(
            _GESTURE,
            mode=self._mode,
            rubber=rubber,
            glyph=band.glyph,
            plot=self.figure,
            x_range=self.figure.x_range,
            y_range=self.figure.y_range,
        )
        for name in ("panstart", "pan", "panend", "tap", "doubletap", "mousemove"):
            self.figure.js_on_event(name, script)

    def _received(self, message: dict[str, Any]) -> None:
        self._drawn(message["kind"], [(float(y), float(x)) for y, x in message["points"]])
