"""The section ``valid`` of a config: figures and values that say which pixels count."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from stillstack.config.section import Section, unsigned_zero


def _plain_percentage(text: str) -> str:
    return f"{float(text.replace('%', '')):.12g}%"


def _distinct(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({value + 0.0 for value in values}))


Percentage = Annotated[
    str, Field(pattern=r"^-?\d+(\.\d*)?\s*%$"), AfterValidator(_plain_percentage)
]
Length = Annotated[float, AfterValidator(unsigned_zero)] | Percentage


class Figure(Section):
    """One rectangle, circle or polygon. Lengths in pixels, or as '61%' of the axis."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [kind]} for kind in ("rectangle", "circle", "polygon")]
        }
    )

    rectangle: tuple[Length, Length, Length, Length] | None = Field(
        None,
        description="[y0, y1, x0, x1], px: rows y0 to y1 and columns x0 to x1, "
        "without row y1 and column x1.",
    )
    circle: tuple[Length, Length, Length] | None = Field(
        None,
        description="[y, x, radius], px; pixel centres at whole numbers. "
        "A radius in % is of the shorter axis.",
    )
    polygon: Annotated[tuple[tuple[Length, Length], ...], Field(min_length=3)] | None = Field(
        None, description="[[y, x], ...], px; pixel centres at whole numbers. Closed by itself."
    )

    @model_validator(mode="after")
    def _one_sound_figure(self) -> Figure:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            raise ValueError(f"should be one of rectangle, circle and polygon, not {found}")
        if self.rectangle:
            for axis, start, stop in zip(
                "yx", self.rectangle[::2], self.rectangle[1::2], strict=True
            ):
                if _size(start) < 0 or (type(start) is type(stop) and _size(start) >= _size(stop)):
                    message = (
                        f"rectangle should be [y0, y1, x0, x1] with 0 <= {axis}0 < {axis}1, "
                        f"not {axis}0 = {start}, {axis}1 = {stop}"
                    )
                    raise ValueError(message)
        if self.circle and _size(self.circle[2]) <= 0:
            raise ValueError(f"circle should have a radius above 0, not {self.circle[2]}")
        return self


def _size(length: float | str) -> float:
    return float(length.rstrip("%")) if isinstance(length, str) else length


class ValidConfig(Section):
    """Which pixels count. Rules combine: a pixel is valid when none of them rejects it."""

    exclude: tuple[Figure, ...] = Field((), description="Figures whose pixels do not count.")
    include: tuple[Figure, ...] | None = Field(
        None, description="Figures outside of which no pixel counts. Default: the whole frame."
    )
    image: str | None = Field(
        None,
        description="Image file, non-zero where a pixel counts (white = valid). "
        "Relative to this file.",
    )
    below: float | None = Field(None, description="Values below this do not count, counts.")
    above: float | None = Field(
        None, description="Values above this do not count, counts (saturation)."
    )
    equal: Annotated[tuple[float, ...], AfterValidator(_distinct)] = Field(
        (), description="Values equal to one of these do not count, counts."
    )
    defects: bool = Field(
        False, description="Find hot and dead pixels in a sample of the frames and exclude them."
    )
    allow_small: bool = Field(
        False,
        description="Accept a valid area under 10 % of the frame, or one that looks inverted.",
    )

    @model_validator(mode="after")
    def _some_value_left(self) -> ValidConfig:
        if self.below is not None and self.above is not None and self.below > self.above:
            message = f"below ({self.below:g}) and above ({self.above:g}) leave no valid value"
            raise ValueError(message)
        if self.include == ():
            raise ValueError("include is an empty list, which leaves no pixel; leave it out")
        return self


class ValidSections(Section):
    """Valid pixels of the frames and of the reference."""

    frames: ValidConfig = Field(default_factory=ValidConfig, description="Of every raw frame.")
    reference: ValidConfig | None = Field(
        None, description="Of the reference. Default: the same as the frames."
    )
