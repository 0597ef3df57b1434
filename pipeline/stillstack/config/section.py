"""What all sections of a config have in common."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


def unsigned_zero(value: float) -> float:
    """Number whose digest is that of its equals."""
    return value + 0.0  # -0.0 equals 0.0 but is spelt differently


class Section(BaseModel):
    """A frozen value that refuses keys which it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _yaml_oddities(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            message = "should not be true or false (YAML reads yes, no, on and off as these, too)"
            raise ValueError(message)
        if value is None and isinstance(annotation, type) and issubclass(annotation, Section):
            return {}  # a section whose every line is commented out
        return value
