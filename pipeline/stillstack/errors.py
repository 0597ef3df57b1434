"""The errors that a user can meet, each with what, values, consequence and cure."""

from __future__ import annotations

import errno


class StillstackError(Exception):
    """An error a user can act on: what happened, what follows from it, what to do.

    Parameters
    ----------
    what
        What was wrong, with the values.
    consequence
        What follows from it.
    cure
        What to do.
    """

    exit_code = 1

    def __init__(self, what: str, *, consequence: str = "", cure: str = "") -> None:
        self.what = what
        self.consequence = consequence
        self.cure = cure
        super().__init__(" ".join(part for part in (what, consequence, cure) if part))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.consequence, self.cure))


def _rebuild(
    kind: type[StillstackError], what: str, consequence: str, cure: str
) -> StillstackError:
    error = kind.__new__(kind)
    StillstackError.__init__(error, what, consequence=consequence, cure=cure)
    return error


class InputError(StillstackError):
    """The user's input has to be mended (exit code 2)."""

    exit_code = 2


class AccessError(InputError):
    """A store does not let one in: no credentials, no permission, no bucket (exit code 2)."""


class UnreadableFrameError(StillstackError):
    """One frame of a source cannot be read: the frame is set aside, the run goes on."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed.",
            cure=f"Install it with: pip install 'stillstack[{extra}]'.",
        )


class RunFaultError(StillstackError):
    """A run stopped by something other than its input: disk, cluster, programming (exit code 1)."""


def disk_fault(error: OSError, what: str) -> RunFaultError:
    """Return what to raise where something cannot be written, such as ``"out.zarr"``."""
    room = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return RunFaultError(
        f"{what} cannot be written: {error.strerror or error}.",
        consequence="The run stopped; frames that are done are kept.",
        cure=("Make room there" if room else "Mend that")
        + " and run the same command again: it goes on where this one stopped.",
    )


def said_by(error: Exception) -> str:
    """What an error says, in one sentence.

    Examples
    --------
    >>> said_by(ValueError("no such frame"))
    'ValueError: no such frame'
    """
    return error.what if isinstance(error, StillstackError) else f"{type(error).__name__}: {error}"


def lost_source(what: str, error: Exception) -> RunFaultError:
    """Return what to raise where frames cannot be read and none of them is to blame.

    Parameters
    ----------
    what
        Begins the sentence: ``"The source run7.zarr"``.
    error
        Says why.
    """
    return RunFaultError(
        f"{what} cannot be read any more: {said_by(error)}",
        consequence="The run stopped, and frames that are done are kept.",
        cure="Bring the source back and run the same command again.",
    )


def changed_source(name: str) -> RunFaultError:
    """Return what to raise where a source is not what it was when the run began."""
    return RunFaultError(
        f"The source {name}, or an image that the config names, has changed during the run.",
        consequence="The run stopped, and frames that are done are kept.",
        cure="Restore it and run the same command again, or choose another output.",
    )


class InterruptedRunError(StillstackError):
    """A run stopped on request; the same command finishes it."""

    def __init__(self, what: str, *, signal_number: int) -> None:
        super().__init__(what, cure="The same command finishes the run.")
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_interrupted, (self.what, self.exit_code - 128))


def _rebuild_interrupted(what: str, signal_number: int) -> InterruptedRunError:
    return InterruptedRunError(what, signal_number=signal_number)
