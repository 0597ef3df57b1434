"""The section ``correction`` of a config: what the detector adds to and does with the counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from stillstack.config.section import Section

Place = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


def _distinct(given: str | tuple[Place, ...] | None) -> str | tuple[Place, ...] | None:
    return tuple(sorted(set(given))) if isinstance(given, tuple) else given


class CorrectionConfig(Section):
    """Frames are corrected as they are read: (frame - dark) * gain, in float32.

    Which values do not count (saturation, valid.frames.below, above and equal) is judged before.
    """

    dark: str | None = Field(
        None,
        description="Image file of the counts of a frame without beam; it is subtracted. "
        "Relative to this file.",
    )
    gain: str | None = Field(
        None,
        description="Image file that the frames, less the dark, are multiplied with: 1 where a "
        "pixel is as sensitive as most. Relative to this file.",
    )
    defects: Annotated[str | tuple[Place, ...] | None, AfterValidator(_distinct)] = Field(
        None,
        description="Pixels that never count: [[y, x], ...], or a file with such a list (.csv, "
        ".txt, .npy) or an image that is not zero there. Relative to this file.",
    )
