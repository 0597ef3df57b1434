"""What the commands show: progress on stderr, results on stdout, errors as one paragraph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from stillstack.watch.progress import STAGE_WORDS, Pace

if TYPE_CHECKING:
    from stillstack.errors import StillstackError
    from stillstack.watch.progress import Progress as RunProgress

_LOG_SECONDS: Final = 10.0
_LABEL_WIDTH: Final = 11
_SIGNALLED: Final = 128


def console(*, stderr: bool = False) -> Console:
    """Make a console on the streams of this moment, which tests and pipes exchange."""
    return Console(stderr=stderr, highlight=False, emoji=False)


def show_error(error: StillstackError) -> None:
    """Write what was wrong, what follows from it and what to do as one paragraph to stderr."""
    stopped = error.exit_code >= _SIGNALLED
    paragraph = Text(
        "Stopped: " if stopped else "Error: ", style="bold yellow" if stopped else "bold red"
    )
    paragraph.append(error.what, style="not bold default")
    for part in (error.consequence, error.cure):
        if part:
            paragraph.append(f" {part}", style="not bold default")
    say(paragraph)


def say(message: str | Text) -> None:
    """Write a line to stderr; wrapped at words on a terminal, left whole elsewhere."""
    stream = console(stderr=True)
    text = Text(message) if isinstance(message, str) else message
    stream.print(text, soft_wrap=not stream.is_terminal)


def show_rows(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Write a title and labelled lines to stdout; long values are never cut."""
    stream = console()
    if title:
        stream.print(Text(title, style="bold"), soft_wrap=True)
    for label, value in rows:
        line = Text(f"  {label:<{_LABEL_WIDTH}} ", style="dim" if stream.is_terminal else "")
        line.append(value, style="not dim")
        stream.print(line, soft_wrap=True)


def show_text(text: str) -> None:
    """Write text to stdout as it is, for copying and for other programs."""
    console().print(Text(text), soft_wrap=True)


class _Rate(ProgressColumn):
    """Frames per second of this attempt."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g} frames/s" if speed else "")


class Display:
    """Progress of a command: a bar on a terminal, a log line now and then elsewhere.

    Parameters
    ----------
    stage
        Stage that `frames` reports on.
    """

    def __init__(self, stage: str = "ingest") -> None:
        self._stage = stage
        self._console = console(stderr=True)
        self._tasks: dict[str, TaskID] = {}
        self._logs: dict[str, float] = {}
        self._pace = Pace()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    @property
    def started(self) -> bool:
        """Whether there was anything to show."""
        return bool(self._tasks or self._logs)

    def run(self, progress: RunProgress) -> None:
        """Show where a run is."""
        known = progress.n_blocks > 0
        self._show(
            progress.stage,
            progress.frames_done if known else None,
            progress.n_frames,
            progress.resumed_frames,
            progress.notes,
        )

    def dashboard(self, link: str) -> None:
        """Say where the cluster can be watched."""
        plots = "" if find_spec("bokeh") else " (plots: pip install 'stillstack[dashboard]')"
        text = Text(f"Dashboard: {link}{plots}")
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    def frames(self, done: int, total: int, resumed: int) -> None:
        """Show where an ingest or a simulation is."""
        self._show(self._stage, done, total, resumed, "")

    def _show(self, stage: str, done: int | None, total: int, resumed: int, note: str) -> None:
        words = STAGE_WORDS.get(stage, stage)
        if self._console.is_terminal:
            self._show_bar(stage, words + note, done, total, resumed)
        else:
            self._log(stage, words, (done, total, resumed), note)

    def _show_bar(self, stage: str, words: str, done: int | None, total: int, resumed: int) -> None:
        if stage not in self._tasks:
            for task in self._tasks.values():
                self._finish(task)
            self._tasks[stage] = self._bars.add_task(
                words, total=None if done is None else total, completed=resumed
            )
        if done is not None:
            self._bars.update(self._tasks[stage], completed=done, total=total, description=words)

    def _finish(self, task: TaskID) -> None:
        """Stop the spinner of a stage whose length was never known."""
        if self._bars.tasks[task].total is None:
            self._bars.update(task, total=1, completed=1)

    def _log(self, stage: str, words: str, count: tuple[int | None, int, int], note: str) -> None:
        done, total, resumed = count
        now = time.monotonic()
        pace = self._pace.words(stage, resumed if done is None else done, total)
        if stage not in self._logs:
            self._logs[stage] = now
            begun = f", {resumed} frames were done before" if resumed else ""
            say(f"{words}: {total} frames{begun}")
            return
        if done is None or (now - self._logs[stage] < _LOG_SECONDS and done < total):
            return
        self._logs[stage] = now
        say(f"{words}: {done} of {total} frames{note}{pace}")


def as_json(value: Any) -> str:
    """JSON for other programs: indented, no NaN."""
    import json

    return json.dumps(value, indent=2, allow_nan=False, default=str)
