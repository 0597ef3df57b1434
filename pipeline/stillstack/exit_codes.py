"""What a command's end means to the shell, and errors as one paragraph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import typer

FAULT: Final = 1
MEND_INPUT: Final = 2
SET_ASIDE: Final = 3
INTERRUPTED: Final = 130

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")


def guarded(command: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """Turn errors into one paragraph on stderr and an exit code; tracebacks with --debug."""

    @functools.wraps(command)
    def run_command(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            from stillstack.terminal import say

            say("Interrupted. The same command goes on where this one stopped.")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if kwargs.get("debug"):
                raise
            raise typer.Exit(_tell(error)) from None

    return run_command


def _tell(error: Exception) -> int:
    """Show an error; its exit code."""
    from stillstack.errors import StillstackError
    from stillstack.terminal import show_error

    if not isinstance(error, StillstackError):
        error = StillstackError(
            f"{type(error).__name__}: {str(error).rstrip('.')}.",
            consequence="This was not foreseen; what was written before is kept.",
            cure="Run the command again with --debug to see where it happened, and report it.",
        )
    show_error(error)
    return error.exit_code
