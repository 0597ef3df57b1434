"""Shifts that a run is given: those of another run, or of a table that a person has edited."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillstack.address import is_address, located
from stillstack.blockwork import Rows
from stillstack.config import RunConfig
from stillstack.errors import InputError
from stillstack.model import LEFT_OUT, Status, empty_table, is_good
from stillstack.sources import Source
from stillstack.storage import RunStore

# What another run found out about its own pixels says nothing about these.
_KEPT: Final = int(Status.REPAIRED | Status.OUTLIER | Status.EXCLUDED)


def given_shifts(config: RunConfig, source: Source, left_out: NDArray[np.bool_]) -> Rows | None:
    """Rows of the table that a config gives; None where frames are to be registered.

    Parameters
    ----------
    config
        What is to be run.
    source
        The frames that the shifts are applied to.
    left_out
        (frame,), True for frames that the config leaves out.

    Raises
    ------
    InputError
        If there are no such shifts, they are not of so many frames, or none of them is good.
    """
    if config.shifts is None:
        return None
    path, n_frames = config.shifts.path, source.shape[0]
    rows = _of_run(path)
    if len(rows) != n_frames:
        raise InputError(
            f"{path} has shifts of {len(rows)} frames, and the input has {n_frames}.",
            consequence="It cannot be told which shift belongs to which frame.",
            cure="Give the shifts of exactly these frames, one row for each.",
        )
    rows[left_out] = empty_table(1, LEFT_OUT)
    if not is_good(rows["status"]).any():
        raise InputError(
            f"None of the {n_frames} frames has a shift in {path}.",
            cure="Look at the run or the file that the shifts are from.",
        )
    return rows


def _of_run(path: str) -> Rows:
    """Rows of a finished run, as far as they hold for any frames taken together with its own."""
    if not is_address(path) and not Path(path).exists():
        raise InputError(f"{path} does not exist.", cure="Correct shifts.path in the config.")
    store = RunStore.view(located(path))
    if not store.complete:
        raise InputError(
            f"{path} is a run that is not finished.",
            consequence="Some frames have no shift yet.",
            cure="Finish it first: stillstack run with its config.",
        )
    found = store.read_table()
    rows = empty_table(len(found))
    good = is_good(found["status"])
    rows["status"] = np.where(good, found["status"] & _KEPT, int(Status.NOT_CONVERGED))
    rows["status"][(found["status"] & int(Status.EXCLUDED)) != 0] = int(LEFT_OUT)
    for name in ("shift", "shift_std"):
        rows[name][good] = found[name][good]
    return rows
