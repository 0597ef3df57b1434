"""Ctrl-C and SIGTERM: a run stops at the next block boundary; a second request stops it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Final, Self

from stillstack.errors import InterruptedRunError

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Listens for requests to stop, from ``with`` to its end.

    Outside of `deferred` a request raises InterruptedRunError where the program is; inside, it is
    only noted, so that blocks in flight can be finished, and a second one raises.

    Attributes
    ----------
    received : int
        Number of the signal that came; 0 while none has.
    received_at : float
        When, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.received = 0
        self.received_at = 0.0
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python allows handlers in the main thread only; elsewhere the caller has them.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the first request while this lasts."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def error(self) -> InterruptedRunError:
        """Error that says which signal stopped the run."""
        name = signal.Signals(self.received or signal.SIGINT).name
        return InterruptedRunError(
            f"The run was stopped by {name}; what is done is kept.",
            signal_number=int(self.received or signal.SIGINT),
        )

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        again = self.received != 0
        self.received = number
        self.received_at = time.monotonic()
        if again or not self._deferred:
            raise self.error()
