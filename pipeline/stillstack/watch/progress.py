"""Where a run is, in numbers and in words: the same in a terminal, a notebook and the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from stillstack.quantities import byte_size, duration

STAGE_WORDS: Final = {
    "reference": "making the reference",
    "align": "registering and aligning",
    "estimate": "registering",
    "apply": "aligning",
    "ingest": "copying",
    "simulate": "simulating",
    "assess": "registering trials",
    "verify": "reading what was written",
    "reduce": "averaging",
}


@dataclass(frozen=True)
class Progress:
    """Where a run is; given to the caller whenever a block has finished.

    Parameters
    ----------
    stage
        ``"reference"``, or the name of the pass over the frames.
    frames_done, n_frames
        Frames that are done, and all frames.
    frames_flagged
        Frames among those done that are not good.
    blocks_done, n_blocks
        The same in blocks.
    resumed_frames
        Frames that an earlier attempt had done.
    n_workers
        Worker processes of the cluster; 0 where that is not known.
    memory_bytes, memory_limit
        What the largest worker's process holds, and may hold; 0 where that is not known.
    """

    stage: str
    frames_done: int
    n_frames: int
    frames_flagged: int = 0
    blocks_done: int = 0
    n_blocks: int = 0
    resumed_frames: int = 0
    n_workers: int = 0
    memory_bytes: int = 0
    memory_limit: int = 0

    @property
    def words(self) -> str:
        """What is being done."""
        return STAGE_WORDS.get(self.stage, self.stage)

    @property
    def notes(self) -> str:
        """Frames that are not good, and memory, with a comma before each; empty at first.

        Examples
        --------
        >>> Progress("align", 40, 100, frames_flagged=3, memory_bytes=4_100_000_000).notes
        ', 3 rejected, largest worker 4.1 GB'
        """
        parts = [f", {self.frames_flagged:,} rejected"] if self.frames_flagged else []
        if self.memory_bytes:
            limit = f" of {byte_size(self.memory_limit)}" if self.memory_limit else ""
            parts.append(f", largest worker {byte_size(self.memory_bytes)}{limit}")
        return "".join(parts)


OnProgress = Callable[[Progress], None]


class Pace:
    """Frames per second of each stage, from when it was first heard of.

    Parameters
    ----------
    now
        Clock, in seconds.

    Examples
    --------
    >>> pace = Pace(iter([0.0, 8.0]).__next__)
    >>> pace.words("align", 0, 100)
    ''
    >>> pace.words("align", 20, 100)
    ', 2.5 frames/s, 32.0 s left'
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun: dict[str, tuple[float, int]] = {}

    def words(self, stage: str, done: int, total: int) -> str:
        """Rate and time left, with a comma before each; empty while nothing has come."""
        now = self._now()
        began, first = self._begun.setdefault(stage, (now, done))
        if done <= first:
            return ""
        rate = (done - first) / max(now - began, 1e-9)
        left = f", {duration((total - done) / rate)} left" if done < total else ""
        return f", {rate:.3g} frames/s{left}"
