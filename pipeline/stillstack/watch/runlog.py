"""The log of a run, ``run/log.txt`` beside its result: what happened when, and nothing secret.

Whatever the package's loggers say in the thread of the coordinator goes there. It does not grow
beyond a few MB: the older half moves to ``log.txt.1``, and what was there before is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stillstack.address import Address, Location
from stillstack.errors import StillstackError
from stillstack.storage.objects import LOG, RUN_FOLDER
from stillstack.storage.places import objects_at

_KEY: Final = f"{RUN_FOLDER}/{LOG}"
_LOG: Final = logging.getLogger(__name__)
_PACKAGE: Final = "stillstack"
_MOST_BYTES: Final = 2 * 2**20
_SEND_SECONDS: Final = 60.0
_FORM: Final = "%(asctime)s %(levelname)-7s %(message)s"
_SECRET_NAMES: Final = re.compile("SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCESS_KEY", re.IGNORECASE)
_SECRET_VALUES: Final = (
    (re.compile(r"(://)[^/@\s]+@"), r"\1***@"),
    (
        re.compile(r"(?i)((?:signature|secret|token|password|credential|key)[\w-]*=)[^&\s'\"]+"),
        r"\1***",
    ),
)


@contextlib.contextmanager
def run_log(place: Location) -> Iterator[None]:
    """Keep a log in a run's folder as long as this lasts, the error that ends it included.

    In an object store, which cannot append, the log is written anew every minute and at the end.

    Parameters
    ----------
    place
        The output. Its ``run/`` exists.
    """
    handler = _RemoteLog(place) if isinstance(place, Address) else _LocalLog(place / _KEY)
    with _listening(handler):
        try:
            yield
        except BaseException as error:
            _LOG.error("stopped: %s: %s", type(error).__name__, error)  # one line
            raise


class _Line(logging.Formatter):
    """One line for each record, in UTC, with nothing secret in it."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record)).replace("\n", "\\n")


class _LocalLog(logging.handlers.RotatingFileHandler):
    """A file that is begun anew when it is too long, the old one kept once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_MOST_BYTES, backupCount=1, encoding="utf-8", delay=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Go on without: a disk that is full is said by those who write results."""


class _RemoteLog(logging.Handler):
    """An object that is written anew now and then."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self._address = address
        self._text: bytes | None = None
        self._sent = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line."""
        with contextlib.suppress(StillstackError, OSError):
            if self._text is None:
                self._text = objects_at(self._address).read(_KEY) or b""
            self._text = (self._text + self.format(record).encode() + b"\n")[-_MOST_BYTES:]
            if time.monotonic() - self._sent > _SEND_SECONDS:
                self._send()

    def close(self) -> None:
        """Write what has not been written yet."""
        with contextlib.suppress(StillstackError, OSError):
            self._send()
        super().close()

    def _send(self) -> None:
        if self._text is not None:
            self._sent = time.monotonic()
            objects_at(self._address).put(_KEY, self._text)


class _Onward(logging.Handler):
    """Gives records to whoever has set up logging and would have got them without us."""

    def __init__(self, parent: logging.Logger) -> None:
        super().__init__()
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        if self._parent.hasHandlers():
            self._parent.callHandlers(record)


class _Loudness:
    """The package's logger at the level of a log while one is kept, and as it was afterwards.

    For others the level does not change, and nothing is printed where nobody set up logging.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs = 0

    def raise_(self) -> None:
        """One log more."""
        with self._lock:
            self._logs += 1
            if self._logs > 1:
                return
            package = logging.getLogger(_PACKAGE)
            heard = package.getEffectiveLevel()
            self._before = package.level, package.propagate
            self._onward = _Onward(package.parent or logging.getLogger())
            self._onward.setLevel(heard)
            package.setLevel(min(heard, logging.INFO))
            if package.propagate:
                package.propagate = False
                package.addHandler(self._onward)

    def lower(self) -> None:
        """One log less."""
        with self._lock:
            self._logs -= 1
            if self._logs == 0:
                package = logging.getLogger(_PACKAGE)
                package.level, package.propagate = self._before
                package.setLevel(package.level)  # what loggers remember of levels is forgotten
                package.removeHandler(self._onward)


_LOUDNESS: Final = _Loudness()


@contextlib.contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """Let a handler hear the package's loggers in this thread; other runs have theirs."""
    package = logging.getLogger(_PACKAGE)
    thread = threading.get_ident()
    handler.setFormatter(_Line(_FORM))
    handler.addFilter(lambda record: record.thread == thread)
    _LOUDNESS.raise_()
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        _LOUDNESS.lower()
        handler.close()


def without_secrets(text: str) -> str:
    """Text without passwords in addresses, signatures, and secrets of this process's environment.

    Examples
    --------
    >>> without_secrets("tcp://me:hunter2@host, ?X-Amz-Signature=1f3a&x=1")
    'tcp://***@host, ?X-Amz-Signature=***&x=1'
    """
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    for found, put in _SECRET_VALUES:
        text = found.sub(put, text)
    return text
