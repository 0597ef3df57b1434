"""A source whose frames come when the test says so; workers import it from here."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class HeldSource:
    """Frames of another source, which workers get late.

    Parameters
    ----------
    inner
        The other source.
    coordinator
        Process that is not held up.
    gates
        For some frames, a file that has to exist before they are read.
    pause
        Seconds that every reading takes.
    """

    inner: Any
    coordinator: int
    gates: tuple[tuple[int, Path], ...] = ()
    pause: float = 0.0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "narrow":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def read(self, start: int, stop: int) -> Any:
        if os.getpid() != self.coordinator:
            time.sleep(self.pause)
            for frame, file in self.gates:
                while start <= frame < stop and not file.exists():
                    time.sleep(0.05)
        return self.inner.read(start, stop)
