"""Tells how a stage goes: to the caller as `Progress`, to the log in words."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from stillstack.cluster import WorkerMemory
from stillstack.watch.progress import OnProgress, Pace, Progress

_LOG: Final = logging.getLogger(__name__)
_LOOK_SECONDS: Final = 1.0
# A run of three days has then a thousand such lines.
_LOG_SECONDS: Final = 300.0

Look = Callable[[], Mapping[str, WorkerMemory] | None]


class Teller:
    """Keeps what is known of a stage, and tells it.

    Parameters
    ----------
    told
        Where the stage begins.
    look
        Asks for the memory of each worker, by address; None where there is no answer.
    progress
        Of the caller.
    """

    def __init__(self, told: Progress, look: Look, progress: OnProgress | None) -> None:
        self.told = told
        self._look = look
        self._progress = progress
        self._pace = Pace()
        self._workers: frozenset[str] | None = None
        self._look_again = -math.inf
        self._logged = time.monotonic()
        self._largest = 0

    def begin(self) -> None:
        """Tell what is done already."""
        told = self.told
        self._pace.words(told.stage, told.frames_done, told.n_frames)  # begins to count
        _LOG.info(
            "%s: %d of %d frames are done, %d blocks are to be done",
            told.words,
            told.frames_done,
            told.n_frames,
            told.n_blocks - told.blocks_done,
        )
        self._tell()

    def advance(self, frames: int, blocks: int, flagged: int) -> None:
        """Tell how many are done now, and how many of them are not good."""
        self.told = replace(
            self.told, frames_done=frames, blocks_done=blocks, frames_flagged=flagged
        )
        self._tell()
        if time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            _LOG.info("%s", self._words())

    def end(self) -> None:
        """Tell that the stage is done."""
        largest = replace(self.told, memory_bytes=self._largest)
        _LOG.info("%s", self._words(largest))

    def watch_workers(self) -> None:
        """Look at the workers now and then: never more than a twentieth of the time."""
        began = time.monotonic()
        if began < self._look_again:
            return
        seen = self._look()
        now = time.monotonic()
        self._look_again = now + max(_LOOK_SECONDS, 20 * (now - began))
        if seen is None:
            return
        self._note_changes(frozenset(seen))
        largest = max(seen.values(), default=WorkerMemory(0, 0))
        self._largest = max(self._largest, largest.held)
        self.told = replace(
            self.told,
            n_workers=len(seen),
            memory_bytes=largest.held,
            memory_limit=largest.limit,
        )

    def _note_changes(self, workers: frozenset[str]) -> None:
        before, self._workers = self._workers, workers
        if before is None:
            _LOG.info("%d workers: %s", len(workers), _listed(workers))
            return
        if before - workers:
            _LOG.warning("%s: gone; %d workers are left", _listed(before - workers), len(workers))
        if workers - before:
            _LOG.info("%s: new; there are %d workers", _listed(workers - before), len(workers))

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.told)

    def _words(self, told: Progress | None = None) -> str:
        told = told or self.told
        pace = self._pace.words(told.stage, told.frames_done, told.n_frames)
        return f"{told.words}: {told.frames_done} of {told.n_frames} frames{told.notes}{pace}"


def _listed(workers: frozenset[str], most: int = 8) -> str:
    more = f" and {len(workers) - most} more" if len(workers) > most else ""
    return ", ".join(sorted(workers)[:most]) + more
