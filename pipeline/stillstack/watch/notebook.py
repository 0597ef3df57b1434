"""Progress in a notebook: one line with a bar, which needs no widgets."""

from __future__ import annotations

import html
import sys
import time
from typing import Any, Final

from stillstack.watch.progress import Pace, Progress

_REFRESH_SECONDS: Final = 0.5


class NotebookProgress:
    """Shows where a run is under the cell that started it, each stage on a line of its own."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._handles: dict[str, Any] = {}
        self._shown = 0.0

    def __call__(self, progress: Progress) -> None:
        """Show it, unless the line was drawn just now."""
        now = time.monotonic()
        pace = self._pace.words(progress.stage, progress.frames_done, progress.n_frames)
        is_new = progress.stage not in self._handles
        is_last = progress.frames_done == progress.n_frames
        if not (is_new or is_last) and now - self._shown < _REFRESH_SECONDS:
            return
        self._shown = now
        self._show(progress.stage, _drawn(progress, pace))

    def dashboard(self, link: str) -> None:
        """Show where the cluster can be watched."""
        address = html.escape(link, quote=True)
        line = {
            "text/plain": f"Dashboard: {link}",
            "text/html": f'Dashboard: <a href="{address}" target="_blank">{address}</a>',
        }
        self._show("dashboard", line)

    def _show(self, name: str, line: dict[str, str]) -> None:
        if name in self._handles:
            self._handles[name].update(line, raw=True)
            return
        display = sys.modules["IPython"].display.display
        self._handles[name] = display(line, raw=True, display_id=True)


def notebook_progress() -> NotebookProgress | None:
    """Progress for the notebook that this process is the kernel of; None where it is none."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return NotebookProgress() if getattr(shell, "kernel", None) is not None else None


def _drawn(progress: Progress, pace: str) -> dict[str, str]:
    known = progress.n_blocks > 0
    count = f"{progress.frames_done:,} of {progress.n_frames:,} frames"
    text = f"{progress.words}: {count}{progress.notes}{pace}" if known else progress.words
    value = f' value="{progress.frames_done}" max="{progress.n_frames}"' if known else ""
    bar = f'<progress{value} style="width: 16em; vertical-align: middle"></progress>'
    return {"text/plain": text, "text/html": f"{bar} {html.escape(text)}"}
