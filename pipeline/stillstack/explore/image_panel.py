"""One image in the browser: colours, the outline of the valid area, values under the pointer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from bokeh.models import (
    BoxZoomTool,
    ColorBar,
    ColumnDataSource,
    GlyphRenderer,
    HoverTool,
    LinearColorMapper,
    LogColorMapper,
    Range1d,
)
from bokeh.plotting import figure
from matplotlib.colors import Normalize, to_hex

from stillstack.explore.screen import Line, Tile, Window, limits
from stillstack.pictures import INVALID_COLOUR

OUTLINE_COLOUR: Final = "#ff4fa3"
_NOTHING: Final[dict[str, list[Any]]] = {
    "image": [], "x": [], "y": [], "dw": [], "dh": [],
}  # fmt: skip


def palette(name: str) -> list[str]:
    """256 colours of a matplotlib colour map.

    Parameters
    ----------
    name
        Of the map.

    Examples
    --------
    >>> palette("gray")[0], palette("gray")[-1]
    ('#000000', '#ffffff')
    """
    return [to_hex(colour) for colour in mpl.colormaps[name](np.linspace(0, 1, 256))]


class ImagePanel:
    """A figure with one image, or two that lie over each other to be blinked between.

    Parameters
    ----------
    shape
        Rows and columns of the detector.
    width
        Of the image on the screen, px.
    name
        Class of its element in the page.
    like
        Another panel, whose ranges this one shares.

    Attributes
    ----------
    figure : bokeh.plotting.figure
        The figure.
    """

    figure: Any

    def __init__(
        self, shape: tuple[int, int], width: int, name: str, *, like: ImagePanel | None = None
    ) -> None:
        rows, columns = shape
        ranges = (Range1d(-0.5, columns - 0.5), Range1d(rows - 0.5, -0.5))
        if like is not None:
            ranges = (like.figure.x_range, like.figure.y_range)
        tall = max(1, round(width * rows / columns))
        height = min(tall, 2 * width)
        self.figure = figure(
            frame_width=width if height == tall else round(width * height / tall),
            frame_height=height,
            x_range=ranges[0],
            y_range=ranges[1],
            tools="pan,wheel_zoom,reset",
            active_scroll="wheel_zoom",
            toolbar_location="above",
            background_fill_color=INVALID_COLOUR,
            title=" ",
            css_classes=[name],
            x_axis_label="x (px)",
            y_axis_label="y (px)",
        )
        self.figure.add_tools(BoxZoomTool(match_aspect=True))
        self.figure.toolbar.logo = None
        self.figure.grid.visible = False
        self._sources = [ColumnDataSource(_NOTHING) for _ in range(2)]
        self.renderers: list[GlyphRenderer] = []
        self._linear = LinearColorMapper(palette=palette("gray"), nan_color=INVALID_COLOUR)
        self._log = LogColorMapper(palette=palette("gray"), nan_color=INVALID_COLOUR)
        for source in self._sources:
            self.renderers.append(
                self.figure.image(
                    image="image", x="x", y="y", dw="dw", dh="dh",
                    source=source, color_mapper=self._linear,
                )
            )  # fmt: skip
        self.renderers[1].visible = False
        self._bar = ColorBar(color_mapper=self._linear, width=8, padding=4, bar_line_color=None)
        self.figure.add_layout(self._bar, "right")
        self.figure.add_tools(
            HoverTool(
                tooltips=[("x, y", "$x{0}, $y{0}"), ("value", "@image{0.0}")],
                renderers=self.renderers,
            )
        )
        self._lines = ColumnDataSource({"xs": [], "ys": []})
        self.figure.multi_line(
            "xs", "ys", source=self._lines, line_color=OUTLINE_COLOUR, line_width=1.5
        )

    def show(self, tiles: Sequence[Tile | None], norm: Normalize, colours: str) -> None:
        """Draw one image, or two to blink between; None leaves the place empty.

        Parameters
        ----------
        tiles
            One or two.
        norm
            Their common scale.
        colours
            Name of a matplotlib colour map.
        """
        low, high, logarithmic = limits(norm)
        mapper = self._log if logarithmic else self._linear
        mapper.update(low=low, high=high, palette=palette(colours))
        self._bar.color_mapper = mapper
        for source, renderer, tile in zip(
            self._sources, self.renderers, [*tiles, None], strict=False
        ):
            renderer.glyph.color_mapper = mapper
            source.data = _columns(tile)

    def draw_lines(self, lines: Sequence[Line], shift: tuple[float, float] = (0.0, 0.0)) -> None:
        """Draw the outline of an area, moved by a shift.

        Parameters
        ----------
        lines
            Of (y, x), px.
        shift
            (y, x), px.
        """
        self._lines.data = {
            "xs": [line[:, 1] + shift[1] for line in lines],
            "ys": [line[:, 0] + shift[0] for line in lines],
        }

    def say(self, title: str) -> None:
        """Write above the image.

        Parameters
        ----------
        title
            What to write.
        """
        self.figure.title.text = title or " "

    def sent_pixels(self) -> int:
        """Pixels that the browser has of this panel."""
        return sum(image.size for source in self._sources for image in source.data["image"])


def window_of(ranges: dict[str, list[float]]) -> Window:
    """Window that the ranges of a figure show.

    Parameters
    ----------
    ranges
        As `stillstack.explore.channel.follow_view` tells them.
    """
    y0, y1 = sorted(ranges["y"])
    x0, x1 = sorted(ranges["x"])
    return Window(y0, y1, x0, x1)


def _columns(tile: Tile | None) -> dict[str, list[Any]]:
    if tile is None:
        return dict(_NOTHING)
    return {
        "image": [tile.pixels],
        "x": [tile.x],
        "y": [tile.y],
        "dw": [tile.width],
        "dh": [tile.height],
    }
