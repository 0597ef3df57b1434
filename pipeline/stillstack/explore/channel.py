"""Messages from the browser: what a script there found out, as a value of Python.

Gestures are followed in the browser and told when they end, so that a slow connection does not
make a brush stutter. A column of a data source carries them, because that arrives both at a server
and in a notebook's kernel.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from bokeh.models import ColumnDataSource, CustomJS

_SEND: Final = "const send = (value) => {channel.data = {message: [JSON.stringify(value)]}};\n"
_VIEW: Final = """
clearTimeout(channel.timer);
channel.timer = setTimeout(
  () => send({x: [x_range.start, x_range.end], y: [y_range.start, y_range.end]}), 150);
"""


class Channel:
    """Carries messages of one kind from the browser.

    Parameters
    ----------
    receive
        Called with each message.
    """

    def __init__(self, receive: Callable[[Any], None]) -> None:
        self._receive = receive
        self.source = ColumnDataSource({"message": [""]})
        self.source.on_change("data", self._arrived)

    def script(self, code: str, **models: Any) -> CustomJS:
        """Script that may call ``send(value)``, with models by their names.

        Parameters
        ----------
        code
            JavaScript.
        models
            Bokeh models that it uses.
        """
        return CustomJS(args={"channel": self.source, **models}, code=_SEND + code)

    def _arrived(self, attr: str, old: Any, new: Any) -> None:
        del attr, old
        text = new["message"][0]
        if text:
            self._receive(json.loads(text))


def follow_view(figure: Any, receive: Callable[[Any], None]) -> None:
    """Tell when somebody has zoomed or moved a figure, once it has come to rest.

    Parameters
    ----------
    figure
        A Bokeh figure.
    receive
        Called with the ranges, ``{"x": [start, end], "y": [start, end]}``.
    """
    channel = Channel(receive)
    script = channel.script(_VIEW, x_range=figure.x_range, y_range=figure.y_range)
    figure.js_on_event("rangesupdate", script)
