"""What speaks against a run, collected so that all of it is said at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from stillstack.errors import InputError, StillstackError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against a run, or that its user should know.

    Parameters
    ----------
    level
        An error refuses the run, a warning does not.
    what, consequence, cure
        What was found, with values; what follows from it; what to do.
    """

    level: Literal["error", "warning"]
    what: str
    consequence: str = ""
    cure: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.consequence, self.cure) if part)


def refuse(errors: tuple[Finding, ...]) -> None:
    """Raise one InputError for all errors, if there are any."""
    if len(errors) == 1:
        raise InputError(errors[0].what, consequence=errors[0].consequence, cure=errors[0].cure)
    if errors:
        listed = " ".join(f"({i}) {error}" for i, error in enumerate(errors, 1))
        raise InputError(
            f"The run has {len(errors)} faults. {listed}",
            consequence="Nothing was started.",
        )


class Findings:
    """Collects what is wrong instead of stopping at the first."""

    def __init__(self) -> None:
        self.items: list[Finding] = []

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Those that refuse the run."""
        return tuple(item for item in self.items if item.level == "error")

    def error(self, what: str, consequence: str = "", cure: str = "") -> None:
        """Add one that refuses the run."""
        self.items.append(Finding("error", what, consequence, cure))

    def warn(self, what: str, consequence: str = "", cure: str = "") -> None:
        """Add one that does not."""
        self.items.append(Finding("warning", what, consequence, cure))

    def check(self, step: Callable[[], Value]) -> Value | None:
        """Return what a step does, or None where it is refused."""
        try:
            return step()
        except StillstackError as error:
            self.items.append(Finding("error", error.what, error.consequence, error.cure))
            return None

    def need(self, step: Callable[[], Value]) -> Value:
        """Return what a step does; without it nothing else can be said."""
        value = self.check(step)
        if value is None:
            refuse(self.errors)
            raise AssertionError  # a refused step has left an error
        return value
