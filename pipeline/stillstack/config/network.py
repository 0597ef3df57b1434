"""The section of a config that says which frames have a reference of their own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillstack.config.section import Section


class NetworkConfig(Section):
    """Which frames share a reference, and how the references are tied to one another."""

    by: str | None = Field(
        None,
        min_length=1,
        examples=["delay"],
        description="Coordinate whose every value has a reference of its own: scan, delay, label.",
    )
    keyframe_frames: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="Frames in a row that share a reference, for runs in which the content "
        "changes.",
    )
    neighbours: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        "all",
        description="How far apart, in groups, references are registered to each other, besides "
        "to the mean of all; 0: to that mean alone.",
    )
    patterns: int = Field(
        4,
        ge=1,
        le=8,
        description="Most patterns that changing content may be made of; 1: the content is taken "
        "to be the same in all groups.",
    )
    max_groups: int = Field(
        10_000, ge=1, description="More groups than this are refused: a wrong coordinate."
    )

    @property
    def wanted(self) -> bool:
        """Whether frames are divided into groups at all."""
        return self.by is not None or self.keyframe_frames is not None

    @model_validator(mode="after")
    def _one_way(self) -> NetworkConfig:
        if self.by is not None and self.keyframe_frames is not None:
            raise ValueError(
                f"by ({self.by}) and keyframe_frames ({self.keyframe_frames}) are two ways to "
                "divide the frames: give one"
            )
        return self
