"""The editor of valid pixels: draw figures, brush, see what counts, write it into the config."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from stillstack.config.valid import Figure, ValidConfig
from stillstack.errors import InputError, StillstackError
from stillstack.explore.config_edit import reopened, section_of, section_text
from stillstack.explore.drawing import (
    KINDS,
    Drawing,
    brush_pixels,
    figure_at,
    figure_of,
    moved_figure,
    outline_of,
)
from stillstack.explore.needed import default_width, panel_here
from stillstack.explore.scenery import Scenery, scenery_of_config, scenery_of_stack
from stillstack.valid import check_valid

MODES: Final = {
    "Look": "look",
    "Rectangle": "rectangle",
    "Circle": "circle",
    "Polygon": "polygon",
    "Brush": "brush",
    "Restore": "restore",
    "Move": "move",
}
_HELP: Final = {
    "look": "Drag to move, turn the wheel to zoom.",
    "rectangle": "Drag from corner to corner.",
    "circle": "Drag from the centre to the rim.",
    "polygon": "Click on each corner; double-click on the last.",
    "brush": "Drag over what does not count.",
    "restore": "Drag over what counts after all. A figure that is brushed becomes painted pixels.",
    "move": "Drag a figure.",
}
MEAN: Final = "mean"
_BESIDE: Final = 610
"""Pixels that axes, colour bar, margins and the list of figures take beside the image."""


class ValidEditor:
    """Draws valid pixels on frames.

    Parameters
    ----------
    scenery
        Frames, and valid pixels to begin with.
    width
        Of all of it, px; by default that of a page, or of a notebook's output.

    Attributes
    ----------
    drawing : Drawing
        As it is now.
    view : panel.viewable.Viewable
        What is displayed.
    """

    def __init__(self, scenery: Scenery, width: int | None = None) -> None:
        self._pn = panel_here()
        from stillstack.explore.canvas import Canvas

        self.scenery = scenery
        self._file = scenery.file
        self._history = [scenery.drawing]
        self._place = 0
        self._counts = scenery.counts(scenery.drawing.spec)
        width = width or default_width()
        self._canvas_width = width - _BESIDE
        self.canvas = Canvas(scenery.drawing.shape, self._canvas_width, self.draw)
        self._make_widgets()
        self.view = self._laid_out(width)
        self.canvas.show_image(scenery.typical, "mean of a few frames")
        self._refresh()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """What a notebook displays."""
        return self.view._repr_mimebundle_(include, exclude)  # IPython's protocol

    @property
    def drawing(self) -> Drawing:
        """The drawing as it is now."""
        return self._history[self._place]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Pixels that count by figures and brush, (y, x)."""
        return self.drawing.area()

    def draw(self, kind: str, points: list[tuple[float, float]]) -> None:
        """Do what a gesture asks for.

        Parameters
        ----------
        kind
            One of `MODES`.
        points
            (y, x), px.
        """
        drawing, shape = self.drawing, self.drawing.shape
        changed: Drawing | None = None
        if kind in {"brush", "restore"}:
            pixels = brush_pixels(points, self.radius_box.value, shape)
            if pixels.any():
                changed = drawing.brushed(pixels) if kind == "brush" else drawing.restored(pixels)
        elif kind == "move":
            place = figure_at(drawing, points[0])
            if place is not None:
                by = (points[-1][0] - points[0][0], points[-1][1] - points[0][1])
                figure = moved_figure(drawing.listed()[place][1], by, shape)
                changed = drawing.with_other(place, figure) if figure else None
        else:
            known = next((name for name in KINDS if name == kind), None)
            figure = figure_of(known, points, shape) if known else None
            if figure:
                changed = drawing.with_figure(figure, keep=self.keep_box.value)
        if changed is None:
            self._say("Nothing was drawn: that covers no pixel.")
            self._push()
        else:
            self.change(changed)

    def change(self, drawing: Drawing) -> None:
        """Go on with another drawing; `undo` comes back to this one.

        Parameters
        ----------
        drawing
            The other one.
        """
        try:
            drawing.area()
        except InputError as error:
            self._say(str(error))
            self._push()
            return
        self._history = [*self._history[: self._place + 1], drawing]
        self._place += 1
        self._refresh()

    def undo(self) -> None:
        """Go one step back."""
        self._go(-1)

    def redo(self) -> None:
        """Go one step forward again."""
        self._go(1)

    def save(self) -> None:
        """Write the drawing into the config.

        Raises
        ------
        InputError
            There is no config, or it cannot be written into.
        """
        if self._file is None:
            raise InputError(
                "This drawing has no config to be written into.",
                cure="Give the path of one to edit_valid, or copy the section that is shown.",
            )
        saved = self._file.save(self.drawing)
        self._file = reopened(self._file)
        told = f"Saved to {saved.config}"
        if saved.image:
            told += f", painted pixels to {saved.image.name}"
        told += f". As it was: {saved.backup.name}."
        if Path(self._file.config.output.path).exists():
            told += (
                " The output of this config exists already and was made with other valid pixels: "
                "give another output.path, or move it away."
            )
        self._say(told, good=True)

    def _go(self, by: int) -> None:
        place = self._place + by
        if 0 <= place < len(self._history):
            self._place = place
            self._refresh()

    def _refresh(self) -> None:
        drawing = self.drawing
        area = drawing.area() & self._counted(drawing)
        lines = [(name, outline_of(figure, drawing.shape)) for name, figure in drawing.listed()]
        self.canvas.show_area(area, lines)
        self.undo_button.disabled = self._place == 0
        self.redo_button.disabled = self._place == len(self._history) - 1
        self._say("")
        self.share.object = _share(area, self.scenery.typical, drawing)
        self._list_figures()
        self._show_section()
        self._push()

    def _counted(self, drawing: Drawing) -> NDArray[np.bool_]:
        rules = (drawing.spec.below, drawing.spec.above, drawing.spec.equal)
        if rules != getattr(self, "_rules", None):
            self._rules = rules
            self._counts = self.scenery.counts(drawing.spec)
        return self._counts

    def _show_section(self) -> None:
        painted = None if self.drawing.painted is None else "(a file of painted pixels)"
        text = section_text({"valid": {"frames": section_of(self.drawing, painted)}})
        self.section.object = (
            f"<pre style='margin: 0; font-size: 12px; max-height: 240px; overflow: auto'>"
            f"{html.escape(text)}</pre>"
        )

    def _list_figures(self) -> None:
        w, rows = self._pn.widgets, []
        for place, (name, figure) in enumerate(self.drawing.listed()):
            box = w.TextInput(label="", value=_line(figure), width=330)
            box.param.watch(lambda event, place=place: self._typed(place, event.new), "value")
            button = w.Button(label="✕", width=36)
            button.on_click(lambda _, place=place: self._dropped(place))
            label = self._pn.pane.HTML(name, width=55, align="center")
            rows.append(self._pn.Row(label, box, button, margin=0))
        self.figures.objects = rows

    def _dropped(self, place: int) -> None:
        self.change(self.drawing.without(place))

    def _typed(self, place: int, text: str) -> None:
        try:
            figure = Figure.model_validate(yaml.safe_load(text))
        except (ValidationError, yaml.YAMLError) as error:
            self._say(f"That is no figure: {error}")
            self._push()
            return
        if figure != self.drawing.listed()[place][1]:
            self.change(self.drawing.with_other(place, figure))

    def _make_widgets(self) -> None:
        w, spec = self._pn.widgets, self.drawing.spec
        self.mode_box = w.RadioButtonGroup(options=MODES, value="look", width=self._canvas_width)
        self.radius_box = w.IntSlider(
            label="brush radius (px)", start=1, end=max(2, min(self.drawing.shape) // 8),
            value=max(2, min(self.drawing.shape) // 64), width=200,
        )  # fmt: skip
        self.keep_box = w.Checkbox(label="figures say what counts (include)", value=False)
        last = self.scenery.n_frames - 1
        self.frame_box = w.IntInput(label="frame", start=0, end=last, value=0, width=90)
        self.image_box = w.Select(
            label="image", options={"mean of a few": MEAN, "one frame": "frame"}, width=130
        )
        self.below_box = w.FloatInput(label="no value below", value=spec.below, width=110)
        self.above_box = w.FloatInput(label="no value above", value=spec.above, width=110)
        self.undo_button = w.Button(label="Undo", width=70)
        self.redo_button = w.Button(label="Redo", width=70)
        self.save_button = w.Button(
            label="Save to config", color="primary", disabled=self._file is None, width=140
        )
        for box in (self.mode_box, self.radius_box):
            box.param.watch(lambda _: self._chosen(), "value")
        for box in (self.image_box, self.frame_box):
            box.param.watch(lambda _: self._show_image(), "value")
        for box in (self.below_box, self.above_box):
            box.param.watch(lambda _: self._ruled(), "value")
        self.undo_button.on_click(lambda _: self.undo())
        self.redo_button.on_click(lambda _: self.redo())
        self.save_button.on_click(lambda _: self._clicked_save())

    def _laid_out(self, width: int) -> Any:
        pn = self._pn
        self.help = pn.pane.HTML(_HELP["look"], styles={"color": "#555"}, width=self._canvas_width)
        self.share = pn.pane.HTML("", width=470)
        self.notice = pn.pane.HTML("", width=470)
        self.section = pn.pane.HTML("", width=470)
        self.figures = pn.Column(width=470, max_height=260, scroll=True)
        name = html.escape(self.scenery.name)
        side = pn.Column(
            pn.Row(self.undo_button, self.redo_button, self.save_button),
            self.notice,
            self.share,
            pn.Row(self.image_box, self.frame_box, self.below_box, self.above_box),
            pn.Row(self.radius_box, self.keep_box),
            self.figures,
            self.section,
            width=480,
        )
        left = pn.Column(self.mode_box, self.help, pn.pane.Bokeh(self.canvas.figure))
        title = pn.pane.HTML(f"<b style='font-size: 18px'>Valid pixels of {name}</b>")
        return pn.Column(title, pn.Row(left, side), width=width)

    def _chosen(self) -> None:
        self.help.object = _HELP[self.mode_box.value]
        self.canvas.choose(self.mode_box.value, self.radius_box.value)
        self._push()

    def _show_image(self) -> None:
        if self.image_box.value == MEAN:
            self.canvas.show_image(self.scenery.typical, "mean of a few frames")
        else:
            number = int(self.frame_box.value)
            try:
                self.canvas.show_image(self.scenery.read(number), f"frame {number}")
            except (StillstackError, OSError) as error:
                self._say(f"Frame {number} cannot be read: {error}")
        self._push()

    def _ruled(self) -> None:
        try:
            changed = self.drawing.with_rules(
                below=self.below_box.value, above=self.above_box.value
            )
        except ValidationError as error:
            self._say(str(error.errors()[0]["msg"]))
            self._push()
            return
        self.change(changed)

    def _clicked_save(self) -> None:
        try:
            self.save()
        except StillstackError as error:
            self._say(str(error))
        self._push()

    def _say(self, text: str, *, good: bool = False) -> None:
        colour = "#2c6e3f" if good else "#b3261e"
        self.notice.object = f"<span style='color: {colour}'>{html.escape(text)}</span>"

    def _push(self) -> None:
        self._pn.io.push_notebook(self.view)


def _line(figure: Figure) -> str:
    """One line of YAML for a figure."""
    values = section_of(Drawing(ValidConfig(exclude=(figure,)), (1, 1)), None)["exclude"][0]
    return yaml.safe_dump(values, default_flow_style=True, width=10**6).strip()[1:-1]


def _share(area: NDArray[np.bool_], typical: NDArray[Any], drawing: Drawing) -> str:
    """How much counts, and what is odd about it."""
    told = f"<b>{area.mean():.1%}</b> of {area.size:,} pixels count."
    if drawing.spec.defects:
        told += " Defects are found when it is run, and are not shown."
    try:
        warnings = check_valid(area, typical, "This", allow_small=drawing.spec.allow_small)
    except InputError as error:
        warnings = [str(error)]
    marked = "".join(f"<br><span style='color: #8a6d1f'>{html.escape(w)}</span>" for w in warnings)
    return told + marked


def edit_valid(config: str | Path | None = None, stack: xr.DataArray | None = None) -> ValidEditor:
    """Editor of valid pixels: rectangle, circle, polygon and brush, with a live preview.

    Parameters
    ----------
    config
        YAML config whose section ``valid`` is drawn and written; it need not have been run. The
        file as it was is kept beside it; comments inside the section are only there.
    stack
        Frames to draw on, lazy or in memory; by default those that the config names.

    Returns
    -------
    ValidEditor
        A notebook displays it; ``.valid`` is the array, ``.save()`` writes the config.

    Raises
    ------
    InputError
        Neither is given, the config is wrong, or its frames cannot be read.
    MissingExtraError
        Panel is not installed.

    Examples
    --------
    >>> editor = edit_valid("run7.yaml")
    >>> editor.draw("rectangle", [(0, 0), (47, 95)])  # as a drag from corner to corner does
    >>> float(editor.valid.mean())
    0.5
    """
    panel_here()
    if stack is not None:
        return ValidEditor(scenery_of_stack(stack, config))
    if config is None:
        raise InputError(
            "There is nothing to draw on.", cure="Give a config, a stack of frames, or both."
        )
    return ValidEditor(scenery_of_config(config))
