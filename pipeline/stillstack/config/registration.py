"""Sections on what frames are registered to, how, and how their shifts are applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from stillstack.config.section import Section, unsigned_zero

Share = Annotated[float, Field(gt=0, le=1)]
Amount = Annotated[float, Field(ge=0), AfterValidator(unsigned_zero)]

MOST_ROUNDS: Final = 10
# Of refinement that ends by itself: what simulated runs took, and one more.
_USUAL_ROUNDS: Final = 3


class ReferenceConfig(Section):
    """The image that frames are registered to."""

    kind: Literal["first", "index", "mean", "median", "image"] = Field(
        "mean",
        description="first frame, frame number index, mean or median of spread frames, "
        "or an image file.",
    )
    index: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Frame number, from 0 (kind: index)."
    )
    frames: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        32,
        description="How many frames, evenly spread from start to stop, are averaged "
        "and refined with.",
    )
    start: int = Field(0, ge=0, description="First frame of the range to take from.")
    stop: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Frame after the last of the range. Default: the end."
    )
    path: str | None = Field(None, description="Image file (kind: image). Relative to this file.")
    refine: Annotated[int, Field(ge=0, le=MOST_ROUNDS)] | Literal["auto"] = Field(
        1,
        description="Rounds of: register, average what is aligned and good. auto: until that "
        "changes the frames' shifts by less than a tenth of their errors. "
        "Default: 1 for mean and median, 0 for first, index and image.",
    )

    @property
    def most_rounds(self) -> int:
        """Rounds of refinement that are never exceeded."""
        return MOST_ROUNDS if self.refine == "auto" else self.refine

    @property
    def usual_rounds(self) -> int:
        """Rounds of refinement to reckon with."""
        return _USUAL_ROUNDS if self.refine == "auto" else self.refine

    @model_validator(mode="before")
    @classmethod
    def _refine_by_kind(cls, data: Any) -> Any:
        # Who names one particular image gets it; an average of drifted frames is blurred.
        if isinstance(data, Mapping) and data.get("kind") in ("first", "index", "image"):
            return {"refine": 0, **data}
        return data

    @model_validator(mode="after")
    def _complete(self) -> ReferenceConfig:
        for key, kind in (("index", "index"), ("path", "image")):
            given = getattr(self, key) is not None
            if given != (self.kind == kind):
                message = (
                    f"{key} belongs to kind: {kind}, but kind is {self.kind}"
                    if given
                    else f"kind: {kind} needs {key}"
                )
                raise ValueError(message)
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop ({self.stop}) should be greater than start ({self.start})")
        return self


class RegistrationConfig(Section):
    """How shifts are estimated and when an estimate is rejected."""

    max_shift_px: int = Field(
        32, ge=1, description="Largest shift along y or x that is searched, px."
    )
    min_overlap: Share = Field(
        0.3, description="Smallest share of the reference's valid pixels that must overlap, 0 to 1."
    )
    min_ncc: Annotated[float, Field(ge=-1, le=1), AfterValidator(unsigned_zero)] | None = Field(
        None,
        description="Smallest correlation coefficient of a good frame, -1 to 1. "
        "Default: what the noise allows.",
    )
    max_peak_ratio: Share = Field(
        0.95,
        description="Largest second correlation peak over the first, 0 to 1; "
        "above it a frame is ambiguous.",
    )
    gain: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto", description="Counts per detected electron or photon; auto: from the data."
    )
    read_noise: Amount = Field(0.0, description="Noise of a dark pixel, counts rms.")


class ShiftsConfig(Section):
    """Shifts from elsewhere."""

    path: str = Field(
        min_length=1,
        description="CSV file as stillstack shifts writes it, or a finished run. "
        "Relative to this file.",
    )


class AlignmentConfig(Section):
    """How shifts are applied."""

    interpolation: Literal["auto", "bspline", "catmull-rom", "lanczos", "linear"] = Field(
        "auto", description="Interpolation of sub-pixel shifts; whole pixels are copied exactly."
    )
    dtype: Literal["auto", "float32", "input"] = Field(
        "auto",
        description="Type of aligned frames; auto: the input's integer type "
        "where counts are high enough, else float32.",
    )
    canvas: Literal["input", "common"] = Field(
        "input", description="Area written: the input's, or what every good frame covers."
    )
