"""The section ``exclude`` of a config: which frames are left out of a run."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from stillstack.config.section import Section, unsigned_zero

_RANGE = re.compile(r"^\s*(\d+)\s*-\s*(\d+)\s*$")
_SLICE = re.compile(r"^\s*(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?\s*)?$")


def _plain(value: Any) -> Any:
    """Spell one thing in one way: whole numbers as such, times as text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, str):
        text = value.strip()
        for kind in (int, float):
            try:
                number = kind(text)
            except ValueError:
                continue
            if str(number) == text:  # '007' is a name
                return _plain(number)
        return text
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sound_frames(value: int | str) -> int | str:
    if isinstance(value, int):
        if value < 0:
            raise ValueError("should be a frame number from 0 on")
        return value
    if found := _RANGE.match(value):
        first, last = (int(text) for text in found.groups())
        if first > last:
            raise ValueError(f"should go from the first to the last frame, not {first} to {last}")
        return f"{first}-{last}"
    if found := _SLICE.match(value):
        start, stop, step = ("" if text is None else str(int(text)) for text in found.groups())
        if step == "0":
            raise ValueError("should have a step other than 0")
        return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"
    raise ValueError("should be a frame number, '10-20' (both ends) or a slice '10:20:2'")


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a frame number, not true or false")  # noqa: TRY004  # pydantic
    return _plain(value)


def _sound_time(pair: tuple[float | str, float | str]) -> tuple[float | str, float | str]:
    begin, end = pair
    if type(begin) is not type(end):
        raise ValueError(f"should be two numbers or two times, not {begin} and {end}")
    if begin > end:  # type: ignore[operator]  # alike, as was just seen
        raise ValueError(f"should go from earlier to later, not {begin} to {end}")
    return pair


def _ordered(values: tuple[Any, ...]) -> tuple[Any, ...]:
    distinct = {(type(value).__name__, repr(value)): value for value in values}
    return tuple(distinct[key] for key in sorted(distinct))


Frames = Annotated[int | str, BeforeValidator(_no_flag), AfterValidator(_sound_frames)]
Moment = Annotated[Annotated[float, AfterValidator(unsigned_zero)] | str, BeforeValidator(_plain)]
Period = Annotated[tuple[Moment, Moment], AfterValidator(_sound_time)]
Value = Annotated[bool | int | float | str, BeforeValidator(_plain)]


class ExcludeConfig(Section):
    """Frames that are left out. Rules add up: a frame that one of them names is left out."""

    frames: Annotated[tuple[Frames, ...], AfterValidator(_ordered)] = Field(
        (),
        examples=["10-20"],
        description="Frame numbers from 0: 35, '10-20' (both ends), or a slice '100:200:2' "
        "(without its end).",
    )
    time: Annotated[tuple[Period, ...], AfterValidator(_ordered)] = Field(
        (),
        description="[[from, to], ...], both ends included, in the units of the coordinate time: "
        "seconds, or '2026-01-31T12:00'.",
    )
    values: dict[str, Annotated[tuple[Value, ...], AfterValidator(_ordered)]] = Field(
        default_factory=dict,
        description="Values of coordinates: {scan: [3, 7]} leaves out scans 3 and 7.",
    )
    expression: str | None = Field(
        None,
        description="Condition over coordinates and frame, such as 'delay > 5 and monitor < 100'.",
    )

    def __hash__(self) -> int:
        """Hash of a value that has a mapping."""
        return hash(self.model_dump_json())
