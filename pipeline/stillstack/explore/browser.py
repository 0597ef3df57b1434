"""The frame browser: before, after, what is left between, and the drift, all linked."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
from matplotlib.colors import LogNorm, Normalize

from stillstack.address import Location
from stillstack.explore.frames import (
    Frames,
    Picture,
    caption,
    choices,
    nearest,
)
from stillstack.explore.needed import default_width, panel_here
from stillstack.explore.opened import frames_of_run, frames_of_table
from stillstack.explore.screen import Tile, Window, outline, tile_of
from stillstack.graph import align
from stillstack.pictures import DIFFERENCE_COLOURS, IMAGE_COLOURS, difference_norm, image_norm

if TYPE_CHECKING:
    from stillstack.kernels.registration import Reference

_BESIDE: Final = 101
"""Pixels that axis, colour bar and margins take beside an image."""

_BLINK: Final = """
clearInterval(button.timer);
const seen = (k) => {first.visible = k == 0; second.visible = k == 1};
if (button.active) {
  let k = 0;
  button.timer = setInterval(() => {k = 1 - k; seen(k)}, 500);
} else { seen(0) }
"""
THIRD: Final = (
    "difference after",
    "difference before",
    "reference",
    "before / after",
    "after / reference",
    "difference before / after",
)
"""What the third panel can show; of two images the button blinks between them."""


class FrameBrowser:
    """Frames of a run in the browser, one at a time.

    Parameters
    ----------
    frames
        Of the run.
    width
        Of all of it, px; by default that of a page, or of a notebook's output.

    Attributes
    ----------
    number : int
        Of the frame that is shown.
    numbers : ndarray
        Frames among which the slider moves.
    view : panel.viewable.Viewable
        What is displayed.
    """

    def __init__(self, frames: Frames, width: int | None = None) -> None:
        pn = panel_here()
        from stillstack.explore.channel import follow_view
        from stillstack.explore.drift_panel import DriftPanel
        from stillstack.explore.image_panel import ImagePanel

        self._pn = pn
        self.frames = frames
        self.window = Window.whole(frames.shape[1:])
        self._choices = choices(frames.status)
        self.numbers = self._choices["all"]
        self.number = int(self.numbers[0])
        self._lines = [] if frames.valid is None else outline(frames.valid)

        panel = (width or default_width()) // 3 - _BESIDE
        self._width = 3 * (panel + _BESIDE)
        self.before = ImagePanel(frames.shape[1:], panel, "before")
        self.after = ImagePanel(frames.shape[1:], panel, "after", like=self.before)
        self.third = ImagePanel(frames.shape[1:], panel, "third", like=self.before)
        self.drift = DriftPanel(frames.table, self.choose_near, self._width - 25)
        follow_view(self.before.figure, self._looked)
        self._make_widgets()
        self.view = self._laid_out()
        self.show()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """What a notebook displays."""
        return self.view._repr_mimebundle_(include, exclude)  # IPython's protocol

    def choose_near(self, place: float) -> None:
        """Show the frame nearest to a place, among those that the filter leaves.

        Parameters
        ----------
        place
            In frames.
        """
        if len(self.numbers):
            self.slider.value = nearest(self.numbers, place)

    def filter(self, name: str) -> None:
        """Move among the frames of a status alone.

        Parameters
        ----------
        name
            ``all``, ``good``, ``rejected`` or the name of a bit that some frame has.
        """
        self.filter_box.value = name

    def show(self) -> None:
        """Draw the frame that is chosen."""
        frames, number = self.frames, self.number
        before, after = frames.before(number), frames.after(number)
        tiles = [self._tile(before), self._tile(after)]
        norm = self._scale(image_norm, [*tiles, self._tile(frames.reference(number))])
        self.before.show(tiles[:1], norm, IMAGE_COLOURS)
        self.after.show(tiles[1:], norm, IMAGE_COLOURS)
        self.before.say(before.why or "before")
        self.after.say(after.why or "after")
        shift = frames.table["shift"][number]
        self.before.draw_lines(self._lines)
        moved = after.pixels is not None and np.isfinite(shift).all()
        self.after.draw_lines(self._lines if moved else [], shift if moved else (0, 0))
        self._show_third(norm)
        self.drift.mark(number)
        self._tell()
        self._pn.io.push_notebook(self.view)

    def _show_third(self, norm: Normalize) -> None:
        wanted = self.third_box.value
        other = self.other_box.value if self.against_box.value == "another frame" else None
        pictures = _pictures(self.frames, self.number, wanted, other)
        tiles = [self._tile(picture) for picture in pictures]
        if wanted.startswith("difference"):
            norm, colours = self._scale(difference_norm, tiles), DIFFERENCE_COLOURS
        else:
            colours = IMAGE_COLOURS
        self.third.show(tiles, norm, colours)
        why = next((picture.why for picture in pictures if picture.why), "")
        self.third.say(why or (wanted if other is None else f"{wanted}, less frame {other}"))
        self.third.draw_lines([])
        self.blink_button.disabled = len(tiles) < 2
        if len(tiles) < 2:
            self.blink_button.value = False

    def _scale(self, make: Any, tiles: Sequence[Tile | None]) -> Normalize:
        norm: Normalize = make(*[t.pixels for t in tiles if t is not None] or [_EMPTY])
        wanted = self.scale_box.value
        if make is difference_norm or wanted == "auto" or norm.vmax is None or norm.vmax <= 0:
            return norm
        if wanted == "linear":
            return Normalize(norm.vmin, norm.vmax)
        return LogNorm(max(float(norm.vmin or 0), norm.vmax / 1e4), norm.vmax, clip=True)

    def _tile(self, picture: Picture) -> Tile | None:
        if picture.pixels is None:
            return None
        return tile_of(picture.pixels, self.window, origin=picture.origin)

    def _make_widgets(self) -> None:
        w = self._pn.widgets
        n_frames = self.frames.shape[0]
        options = {
            f"{name.replace('_', ' ')} ({len(numbers):,})": name
            for name, numbers in self._choices.items()
        }
        self.slider = w.IntSlider(
            start=0, end=max(1, n_frames - 1), value=0, width=560, show_value=False
        )
        self.slider.disabled = n_frames < 2
        self.number_box = w.IntInput(
            label="frame", start=0, end=n_frames - 1, value=self.number, width=90
        )
        self.filter_box = w.Select(label="frames", options=options, width=190)
        self.third_box = w.Select(label="third image", options=list(THIRD), width=190)
        self.blink_button = w.Toggle(label="Blink", width=70, disabled=True, margin=(25, 10, 5, 10))
        self.against_box = w.Select(
            label="difference to", options=["reference", "another frame"], width=130
        )
        self.other_box = w.IntInput(label="which", start=0, end=n_frames - 1, value=0, width=80)
        self.other_box.visible = False
        self.scale_box = w.Select(label="scale", options=["auto", "linear", "log"], width=80)
        self.quantity_box = w.Select(
            label="below", options={v: k for k, v in self.drift.quantities.items()}, width=150
        )
        self.slider.param.watch(self._slid, "value")
        self.number_box.param.watch(lambda event: self.choose_near(event.new), "value")
        self.filter_box.param.watch(self._filtered, "value")
        for box in (self.third_box, self.against_box, self.other_box, self.scale_box):
            box.param.watch(self._changed, "value")
        self.quantity_box.param.watch(self._quantity_chosen, "value")
        first, second = self.third.renderers
        self.blink_button.jscallback(
            value=_BLINK.replace("button.active", "cb_obj.active").replace("button.", "cb_obj."),
            args={"first": first, "second": second},
        )

    def _laid_out(self) -> Any:
        pn = self._pn
        self.words = pn.pane.HTML("", width=self._width - 25, styles={"font-size": "14px"})
        self.notice = pn.pane.HTML("", styles={"color": "#b3261e"})
        name = html.escape(self.frames.name)
        title = pn.pane.HTML(f"<b style='font-size: 18px'>{name}</b>")
        return pn.Column(
            pn.Row(title, self.notice),
            pn.FlexBox(
                self.filter_box, self.number_box, self.third_box, self.blink_button,
                self.against_box, self.other_box, self.scale_box, self.quantity_box,
            ),
            self.slider,
            self.words,
            pn.Row(*(pn.pane.Bokeh(p.figure) for p in (self.before, self.after, self.third))),
            pn.pane.Bokeh(self.drift.figure),
            width=self._width,
        )  # fmt: skip

    def _slid(self, event: Any) -> None:
        number = int(self.numbers[min(event.new, len(self.numbers) - 1)])
        if number != self.number:
            self.number = number
            self.show()

    def _filtered(self, event: Any) -> None:
        numbers = self._choices[event.new]
        if not len(numbers):
            self.filter_box.value = event.old
            self.notice.object = f"No frame is {html.escape(event.new)}; the filter is as it was."
            return
        self.notice.object = ""
        self.numbers = numbers
        place = nearest(numbers, self.number)
        self.slider.param.update(end=max(1, len(numbers) - 1), value=place)
        self.slider.disabled = len(numbers) < 2
        if self.number != int(numbers[place]):
            self.number = int(numbers[place])
            self.show()

    def _changed(self, event: Any) -> None:
        del event
        self.other_box.visible = self.against_box.value == "another frame"
        self.show()

    def _quantity_chosen(self, event: Any) -> None:
        self.drift.choose_quantity(event.new)
        self._pn.io.push_notebook(self.view)

    def _looked(self, ranges: dict[str, list[float]]) -> None:
        from stillstack.explore.image_panel import window_of

        self.window = window_of(ranges)
        self.show()

    def _tell(self) -> None:
        told = " &nbsp; ".join(
            f"<span style='color: #666'>{html.escape(label)}</span> {html.escape(value)}"
            for label, value in caption(self.frames, self.number)
        )
        self.words.object = (
            f"<b>frame {self.number:,}</b> of {self.frames.shape[0]:,} &nbsp; {told}"
        )
        self.number_box.value = self.number
        place = nearest(self.numbers, self.number)
        self.slider.label = f"{place + 1:,} of {len(self.numbers):,}"


_EMPTY: Final = np.empty(0, np.float32)


def _pictures(frames: Frames, number: int, wanted: str, other: int | None) -> list[Picture]:
    """Images of the third panel."""
    kind, _, sides = wanted.partition(" ") if wanted.startswith("difference") else ("", "", wanted)
    found = []
    for side in sides.split(" / "):
        if kind:
            found.append(frames.difference(number, "after" if side == "after" else "before", other))
        elif side == "reference":
            found.append(frames.reference(number))
        else:
            found.append(frames.after(number) if side == "after" else frames.before(number))
    return found


def browse(
    run: xr.Dataset | str | Path | Location,
    stack: xr.DataArray | None = None,
    *,
    reference: Reference | None = None,
    width: int | None = None,
) -> FrameBrowser:
    """Frame browser of a run: before, after, difference, blinking, and the drift to click on.

    Only the frame that is shown is read, and no more than a screen's pixels go to the browser.

    Parameters
    ----------
    run
        The path of a run, finished or not, what `stillstack.open_run` made of it; or, with
        ``stack``, the table that `stillstack.register` gives.
    stack
        The raw frames of a table that is in no store, lazy or in memory.
    reference
        What they were registered to: says which of their pixels count.
    width
        Of what is shown, px; by default that of a page, or of a notebook's output.

    Returns
    -------
    FrameBrowser
        A notebook displays it; ``.view`` is a Panel of Panel, to be put beside others.

    Raises
    ------
    InputError
        It is not a run, or its frames are not in the order of the store any more.
    MissingExtraError
        Panel is not installed.

    Examples
    --------
    >>> browser = browse("run7.zarr")
    >>> browser.choose_near(12.3)
    >>> browser.number
    12
    """
    panel_here()
    if stack is None:
        frames = frames_of_run(run)
    elif isinstance(run, xr.Dataset):
        table = run.compute()
        frames = frames_of_table(table, stack, align(stack, table, reference=reference))
    else:
        frames = frames_of_run(run)
    return FrameBrowser(frames, width)
