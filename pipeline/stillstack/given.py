"""Shifts that a run is given: those of another run, or of a table that a person has edited."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillstack.address import is_address, located
from stillstack.config import RunConfig
from stillstack.drift import read_shifts, write_shifts
from stillstack.errors import InputError
from stillstack.model import FRAME, LEFT_OUT, Rows, Status, empty_table, is_good
from stillstack.sources import Source
from stillstack.storage import RunStore, open_run

# What is known of pixels, where other pixels may have been looked at.
_OF_PIXELS: Final = int(Status.SATURATED | Status.NON_FINITE | Status.CLIPPED)


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
    if Path(path).is_file():
        rows = read_shifts(path, n_frames, tuple(source.coords)).rows
    else:
        rows = _of_run(path)
    if len(rows) != n_frames:
        raise InputError(
            f"{path} has shifts of {len(rows)} frames, and the input has {n_frames}.",
            consequence="It cannot be told which shift belongs to which frame.",
            cure="Give the shifts of exactly these frames, one row for each.",
        )
    rows = _shifts_alone(rows)
    rows[left_out] = empty_table(1, LEFT_OUT)
    if not is_good(rows["status"]).any():
        raise InputError(
            f"None of the {n_frames} frames has a shift in {path}.",
            cure="Look at the run or the file that the shifts are from.",
        )
    return rows


def save_shifts(run_path: str | Path, path: str | Path) -> int:
    """Write the shifts of a run as a CSV file that can be edited and given to a run; their number.

    Parameters
    ----------
    run_path
        What ``stillstack run`` wrote.
    path
        The file.

    Raises
    ------
    InputError
        If there is no such run, or the file exists.
    """
    if Path(path).exists():
        raise InputError(
            f"{path} exists.",
            consequence="It was left as it is: it may have been edited.",
            cure="Move it away, or choose another file.",
        )
    store = RunStore.view(located(run_path))
    rows = store.read_table()
    found = open_run(store.path)
    coords = {
        str(name): values.values
        for name, values in found.coords.items()
        if values.dims == (FRAME,) and name != FRAME
    }
    write_shifts(path, rows, coords)
    return len(rows)


def _shifts_alone(rows: Rows) -> Rows:
    """Rows without what holds only for the frames that were registered."""
    alone = empty_table(len(rows))
    good = is_good(rows["status"])
    alone["status"] = rows["status"] & ~np.uint16(_OF_PIXELS)
    for name in ("shift", "shift_std"):
        alone[name][good] = rows[name][good]
    return alone


def _of_run(path: str) -> Rows:
    """Rows of a finished run."""
    if not is_address(path) and not Path(path).exists():
        raise InputError(f"{path} does not exist.", cure="Correct shifts.path in the config.")
    store = RunStore.view(located(path))
    if not store.complete:
        raise InputError(
            f"{path} is a run that is not finished.",
            consequence="Some frames have no shift yet.",
            cure="Finish it first: stillstack run with its config.",
        )
    return store.read_table()
