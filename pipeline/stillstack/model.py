"""Names of dimensions and variables, the status bits, and what the per-frame table holds."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FRAME: Final = "frame"
Y: Final = "y"
X: Final = "x"
AXIS: Final = "axis"
GROUP: Final = "group"
SUM: Final = "sum"
SCAN_Y: Final = "scan_y"
SCAN_X: Final = "scan_x"
AXES: Final = ("y", "x")


class Status(enum.IntFlag):
    """Why a frame is rejected (low byte) or worth a look (high byte).

    A frame is *good* when no bit of the low byte is set. ``PENDING`` is what an unwritten
    table holds, so what has not been computed is never good.
    """

    PENDING = 1 << 0
    UNREADABLE = 1 << 1
    BLANK = 1 << 2
    LOW_OVERLAP = 1 << 3
    LOW_NCC = 1 << 4
    AMBIGUOUS = 1 << 5
    AT_LIMIT = 1 << 6
    NOT_CONVERGED = 1 << 7
    SATURATED = 1 << 8
    NON_FINITE = 1 << 9
    STRUCK = 1 << 10
    CLIPPED = 1 << 11
    OUTLIER = 1 << 12
    REPAIRED = 1 << 13
    EXCLUDED = 1 << 14


REJECTING: Final = 0x00FF

LEFT_OUT: Final = Status.EXCLUDED | Status.NOT_CONVERGED
"""Status of a frame that the config leaves out: it has no shift, and nobody looked at it."""


def is_good(status: Any) -> Any:
    """True where no rejecting bit is set.

    Parameters
    ----------
    status
        Status bits: an int, an array or an xarray object of integers.

    Examples
    --------
    >>> is_good(np.array([0, Status.STRUCK, Status.BLANK], dtype="uint16"))
    array([ True,  True, False])
    """
    return (status & REJECTING) == 0


def status_words(status: int) -> list[str]:
    """Lower-case names of the bits that are set, lowest first.

    Examples
    --------
    >>> status_words(Status.BLANK | Status.SATURATED)
    ['blank', 'saturated']
    """
    return [bit.name.lower() for bit in Status if status & bit and bit.name]


@dataclass(frozen=True)
class Column:
    """One variable of the per-frame table."""

    name: str
    dtype: str
    long_name: str
    units: str = "1"
    per_axis: bool = False
    fill: float = float("nan")
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions, ``(frame,)`` or ``(frame, axis)``."""
        return (FRAME, AXIS) if self.per_axis else (FRAME,)

    @property
    def xarray_attrs(self) -> dict[str, Any]:
        """Attributes for xarray and CF readers."""
        units = {"units": self.units} if self.units else {}  # flags have none
        return {"long_name": self.long_name, **units, **self.attrs}


_FLAGS: Final = {
    "flag_masks": [int(bit) for bit in Status],
    "flag_meanings": " ".join(bit.name.lower() for bit in Status if bit.name),
}

COLUMNS: Final[tuple[Column, ...]] = (
    Column(
        "shift",
        "f8",
        "displacement to apply to the frame so that it lands on the reference",
        "pixel",
        per_axis=True,
    ),
    Column("shift_std", "f4", "1-sigma uncertainty of shift", "pixel", per_axis=True),
    Column("shift_corr", "f4", "correlation of the y and x errors of shift"),
    Column("ncc", "f4", "masked normalized correlation coefficient at the answer"),
    Column("peak_ratio", "f4", "second separate correlation peak over the first"),
    Column("overlap", "f4", "fraction of the reference's valid pixels that the answer uses"),
    Column("chi2", "f4", "mean squared residual in units of the expected noise"),
    Column("intensity", "f4", "intensity of the frame relative to the reference"),
    Column("background", "f4", "background of the frame relative to the reference", "count"),
    Column("n_struck", "f4", "pixels hit by an X-ray, a cosmic ray or a discharge"),
    Column("n_clipped", "f4", "aligned values clipped to the output's integer range"),
    Column("status", "u2", "status bits", "", fill=int(Status.PENDING), attrs=_FLAGS),
)

TRAJECTORY_COLUMNS: Final[tuple[Column, ...]] = (
    Column("shift_raw", "f8", "shift as estimated, before the trajectory", "pixel", per_axis=True),
    Column("shift_raw_std", "f4", "1-sigma uncertainty of shift_raw", "pixel", per_axis=True),
    Column(
        "status_raw",
        "u2",
        "status bits as estimated, before the trajectory",
        "",
        fill=int(Status.PENDING),
        attrs=_FLAGS,
    ),
    Column("segment", "i4", "number of the stretch between gaps and jumps", fill=-1),
)
"""What a run keeps of each frame where a trajectory may have changed its shift."""

TABLE_DTYPE: Final = np.dtype(
    [(c.name, c.dtype, (2,)) if c.per_axis else (c.name, c.dtype) for c in COLUMNS]
)


Rows = NDArray[np.void]
"""Rows of the table, dtype ``TABLE_DTYPE``."""


def empty_table(n_frames: int, status: Status = Status.PENDING) -> NDArray[np.void]:
    """Rows of the table before anything is known: NaN, and ``status``.

    Parameters
    ----------
    n_frames
        Number of rows.
    status
        What the status column holds.

    Returns
    -------
    ndarray of shape (n_frames,), dtype ``TABLE_DTYPE``.
    """
    table = np.empty(n_frames, TABLE_DTYPE)
    for column in COLUMNS:
        table[column.name] = column.fill
    table["status"] = int(status)
    return table


def image_fill(dtype: np.dtype[Any]) -> float | int:
    """The value that invalid pixels of an aligned frame hold: NaN, or the type's largest value."""
    if np.issubdtype(dtype, np.integer):
        return int(np.iinfo(dtype).max)
    return float("nan")
