"""Which frames a run leaves out: by number, time, value or condition."""

from stillstack.exclusion.frames import excluded, kept_numbers

__all__ = ["excluded", "kept_numbers"]
