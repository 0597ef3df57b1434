"""The section ``trajectory`` of a config: what is made of the shifts of single frames."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillstack.config.section import Section


class TrajectoryConfig(Section):
    """What is made of the shifts of single frames, before they are applied."""

    coordinate: str | None = Field(
        "time",
        description="Coordinate that tells when frames were taken: dates, or seconds. Where there "
        "is none, or null, frame numbers stand for time.",
    )
    order: Literal["frame", "time"] = Field(
        "frame",
        description="frame: frames were taken one after another, and a time that runs backwards is "
        "refused; time: neighbours are those in time, whatever their numbers.",
    )
    outlier_sigma: Annotated[float, Field(ge=3)] | None = Field(
        6.0,
        description="A frame further than this from the line through its neighbours, in units of "
        "its error and the real jitter, loses its shift. null: none does.",
    )
    jump_sigma: Annotated[float, Field(ge=4)] | None = Field(
        7.0,
        description="A step that stays and is larger than this, in units of its error, is a jump "
        "of the sample: nothing is smoothed or repaired across it. null: none is looked for.",
    )
    gap_intervals: Annotated[float, Field(gt=1)] | None = Field(
        20.0,
        description="A pause longer than this many typical intervals is a gap: nothing is smoothed "
        "or repaired across it. null: none is.",
    )
    smooth: bool = Field(
        False,
        description="Replace the shifts of good frames by what all frames together say of them. "
        "What was measured is kept too.",
    )
    repair: bool = Field(
        False,
        description="Give frames that could not be registered a shift from their neighbours in "
        "time, with its longer error bar; they are flagged repaired.",
    )
    sum_frames: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="Frames whose sums are registered, half of them shared with the next sum, "
        "where single frames have too few counts; shifts are drawn through to frames. auto: the "
        "smallest number whose sums register well.",
    )
    max_repair_frames: int = Field(
        10, ge=1, description="Longest run of frames without a shift that is repaired."
    )

    @model_validator(mode="after")
    def _needs_outliers(self) -> TrajectoryConfig:
        if self.smooth and self.outlier_sigma is None:
            # One wild shift would pull its neighbours with it.
            raise ValueError("smooth needs outlier_sigma")
        return self
