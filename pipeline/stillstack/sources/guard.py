"""Errors of file formats, translated once: refused at opening, or an unreadable frame."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError, StillstackError, UnreadableFrameError, lost_source

# What a system says of a disk or a machine that is away; no frame is to blame.
_AWAY: Final = frozenset(
    {
        *(errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV, errno.EMFILE, errno.ENFILE),
        errno.ENOMEM,
    }
)


def reason(error: BaseException) -> str:
    """One short line that says what an exception said.

    Examples
    --------
    >>> reason(RuntimeError("error during decompression: -1"))
    'error during decompression: -1 (RuntimeError)'
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({type(error).__name__})"
    lines = str(error).strip().splitlines()
    text = lines[0][:200] if lines else "no reason given"
    # that a value was wrong says nothing that the text does not
    return text if type(error) is ValueError else f"{text} ({type(error).__name__})"


@contextmanager
def opening(path: str, kind: str) -> Iterator[None]:
    """Turn what goes wrong while a source is looked at into an InputError about ``path``."""
    try:
        yield
    except (StillstackError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"There is no file {path}.", cure="Check the path; it may be relative to elsewhere."
        ) from error
    except PermissionError as error:
        raise InputError(
            f"{path} may not be read: {reason(error)}.",
            cure="Ask for permission to read it (chmod u+r), or copy it to where you have it.",
        ) from error
    # Decoders raise whatever they like, down to bare Exception.
    except Exception as error:
        raise InputError(
            f"{path} cannot be opened as {kind}: {reason(error)}.",
            consequence="Nothing was read from it.",
            cure="Check that the file is complete and of that format.",
        ) from error


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what goes wrong while frames are read into an UnreadableFrameError about ``what``."""
    try:
        yield
    except (StillstackError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _AWAY:
            raise lost_source(what, error) from error
        raise unreadable(what, reason(error)) from error


def unreadable(what: str, why: str) -> UnreadableFrameError:
    """Make the error for frames that the source says it has and that cannot be read."""
    return UnreadableFrameError(
        f"{what} cannot be read: {why}.",
        consequence="Without it the frame has no shift and no aligned image.",
        cure="Restore the file from its origin to get the frame back.",
    )


def read_or_name(
    read: Callable[[int, int], NDArray[Any]], start: int, stop: int, where: str
) -> NDArray[Any]:
    """``read(start, stop)``; where that fails, again frame by frame, to name the one at fault.

    Parameters
    ----------
    read
        Returns frames of a range, raises anything.
    start, stop
        The range.
    where
        What the frames belong to, for the message.

    Raises
    ------
    UnreadableFrameError
        Naming the first frame that cannot be read.
    """
    try:
        return read(start, stop)
    except (StillstackError, MemoryError):
        raise
    # Not swallowed: what fails again is raised below, what does not was passing trouble.
    except Exception:  # noqa: BLE001
        frames = []
        for frame in range(start, stop):
            with reading(f"Frame {frame} of {where}"):
                frames.append(read(frame, frame + 1))
        return np.concatenate(frames)
