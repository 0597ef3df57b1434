"""Times and sizes in the words that people read."""

from __future__ import annotations

import time


def duration(seconds: float) -> str:
    """Spell a time in the two units that matter.

    Examples
    --------
    >>> duration(7.32), duration(98), duration(7_500), duration(260_000)
    ('7.3 s', '1 min 38 s', '2 h 5 min', '3 d 0 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, small, length, part in (("min", "s", 60, 1), ("h", "min", 3600, 60)):
        if seconds < length * (60 if unit == "min" else 24):
            return f"{seconds // length:.0f} {unit} {seconds % length // part:.0f} {small}"
    return f"{seconds // 86400:.0f} d {seconds % 86400 // 3600:.0f} h"


def byte_size(count: float) -> str:
    """Spell a number of bytes.

    Examples
    --------
    >>> byte_size(512), byte_size(3_400_000), byte_size(2.5e11)
    ('512 B', '3.4 MB', '250 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def clock(seconds: float | None) -> str:
    """Write a moment, in seconds since 1970, as the local date and time."""
    if seconds is None:
        return "not known"
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))
