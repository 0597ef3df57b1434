"""What the table of shifts says of each frame, made ready to be weighed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.model import Status, is_good

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Error bars below are taken for this one: a covariance has to be inverted.
_LEAST_STD_PX: Final = 1e-6
_LARGEST_CORRELATION: Final = 0.999
_FIELDS: Final = ("shift", "shift_std", "shift_corr", "status")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Shifts of frames and how they may be used.

    Parameters
    ----------
    shift
        (n, 2), px; NaN where not good.
    cov
        (n, 3: yy, yx, xx), px^2; NaN where not known.
    status
        (n,), uint16.
    used
        (n,), good, with a known error.
    notes
        What was found, in sentences.
    """

    shift: Floats
    cov: Floats
    status: NDArray[np.uint16]
    used: Flags
    notes: tuple[str, ...]

    def without(self, outlier: Flags) -> Evidence:
        """The same where some frames have lost their shift."""
        bits = np.uint16(Status.OUTLIER | Status.NOT_CONVERGED)
        return Evidence(
            np.where(outlier[:, None], np.nan, self.shift),
            np.where(outlier[:, None], np.nan, self.cov),
            np.where(outlier, self.status | bits, self.status),
            self.used & ~outlier,
            self.notes,
        )


def read_evidence(rows: NDArray[np.void]) -> Evidence:
    """Return what rows of the table say.

    A frame that is called good and has no finite shift is not converged. One without an error bar
    keeps its shift, and is not weighed with others. Both are told in the notes.

    Raises
    ------
    InputError
        The rows are not those of a table of shifts.
    """
    lacking = [name for name in _FIELDS if name not in (rows.dtype.names or ())]
    if lacking:
        raise InputError(
            f"The rows have no {', '.join(lacking)}.",
            consequence="There is no trajectory without.",
            cure="Give rows of the table that a run writes.",
        )
    shift, std = rows["shift"].astype(np.float64), rows["shift_std"].astype(np.float64)
    status = rows["status"].astype(np.uint16)
    notes = []
    good = np.asarray(is_good(status))
    lost = good & ~np.isfinite(shift).all(axis=1)
    if lost.any():
        status[lost] |= np.uint16(Status.NOT_CONVERGED)
        good = good & ~lost
        notes.append(f"{lost.sum()} frames are called good and have no shift: not converged.")
    weighed = good & (np.isfinite(std) & (std >= 0)).all(axis=1)
    if np.any(good & ~weighed):
        notes.append(
            f"{np.count_nonzero(good & ~weighed)} frames have a shift without an error bar: they "
            "keep it, and say nothing of others."
        )
    cov = _covariance(std, rows["shift_corr"].astype(np.float64))
    cov[~weighed] = np.nan
    shift[~good] = np.nan
    return Evidence(shift, cov, status, weighed, tuple(notes))


def _covariance(std: Floats, corr: Floats) -> Floats:
    std = np.maximum(std, _LEAST_STD_PX)
    corr = np.clip(np.nan_to_num(corr), -_LARGEST_CORRELATION, _LARGEST_CORRELATION)
    return np.stack([std[:, 0] ** 2, corr * std[:, 0] * std[:, 1], std[:, 1] ** 2], axis=1)


def errors_of(cov: Floats) -> tuple[Floats, Floats]:
    """Return standard deviations (n, 2) and correlation (n,) of covariances (n, 3: yy, yx, xx).

    Examples
    --------
    >>> errors_of(np.array([[4.0, 3.0, 9.0]]))
    (array([[2., 3.]]), array([0.5]))
    """
    std = np.sqrt(cov[:, [0, 2]])
    return std, cov[:, 1] / (std[:, 0] * std[:, 1])
