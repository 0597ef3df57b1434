"""A table of shifts as a CSV file, to be looked at, edited by hand and read back.

One row for each frame: frame, shift_y, shift_x, shift_std_y, shift_std_x, shift_corr, status in
words, and the coordinates. Frames that are not good have no shift there. A person who blanks the
shift of a frame leaves the frame out; one who gives a shift to a frame that has none repairs it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillstack.drift.repair import NEVER_REPAIRED, repaired_status
from stillstack.errors import InputError
from stillstack.model import Status, empty_table, is_good, status_words

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_SHIFT: Final = ("shift_y", "shift_x")
_STD: Final = ("shift_std_y", "shift_std_x")
_NEEDED: Final = ("frame", *_SHIFT)
_OPTIONAL: Final = (*_STD, "shift_corr", "status")
_SHOWN: Final = 5
_NOTHING_DONE: Final = "No shift is applied."


@dataclass(frozen=True, eq=False)
class SharedShifts:
    """What a CSV file of shifts says.

    Parameters
    ----------
    rows
        (n,), dtype ``TABLE_DTYPE``: shift, its error and status; the rest NaN.
    excluded
        Frames whose shift a person has blanked.
    given
        Frames to which a person has given a shift: repaired.
    """

    rows: NDArray[np.void]
    excluded: tuple[int, ...]
    given: tuple[int, ...]


def write_shifts(
    path: str | Path, rows: NDArray[np.void], coords: Mapping[str, ArrayLike] | None = None
) -> None:
    """Write shifts as a CSV file that `read_shifts` reads back to the last bit.

    Parameters
    ----------
    path
        File to write; one that exists is replaced.
    rows
        (n,), with the fields ``shift``, ``shift_std``, ``shift_corr`` and ``status`` of the table.
    coords
        Coordinates of the frames by name, (n,) each: time, delay, scan.

    Raises
    ------
    InputError
        A coordinate has the name of a column, or is not one value a frame.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> rows = empty_table(2, Status(0))
    >>> rows["shift"], rows["shift_std"] = [[1.5, -2.0], [0.25, 0.0]], 0.125
    >>> with TemporaryDirectory() as folder:
    ...     write_shifts(f"{folder}/shifts.csv", rows, {"delay": [-0.5, 3.0]})
    ...     print(Path(folder, "shifts.csv").read_text())
    ...     back = read_shifts(f"{folder}/shifts.csv", 2, ["delay"])
    frame,shift_y,shift_x,shift_std_y,shift_std_x,shift_corr,status,delay
    0,1.5,-2.0,0.125,0.125,,,-0.5
    1,0.25,0.0,0.125,0.125,,,3.0
    <BLANKLINE>
    >>> back.rows["shift"].tolist()
    [[1.5, -2.0], [0.25, 0.0]]
    """
    import pandas as pd

    good = np.asarray(is_good(rows["status"]))
    columns: dict[str, Any] = {"frame": np.arange(len(rows))}
    for names, field in ((_SHIFT, "shift"), (_STD, "shift_std")):
        values = np.where(good[:, None], rows[field], np.nan)
        columns |= {name: values[:, axis] for axis, name in enumerate(names)}
    columns["shift_corr"] = np.where(good, rows["shift_corr"], np.nan)
    columns["status"] = ["|".join(status_words(int(bits))) for bits in rows["status"]]
    for name, coord in (coords or {}).items():
        along = np.asarray(coord)
        if name in columns or along.shape != (len(rows),):
            raise InputError(
                f"The coordinate {name} of shape {along.shape} cannot stand beside the shifts of "
                f"{len(rows)} frames.",
                consequence=f"{path} was not written.",
                cure="Give coordinates of one value a frame, with names of their own.",
            )
        columns[name] = along
    text = pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")
    Path(path).write_text(text, encoding="utf-8")


def read_shifts(path: str | Path, n_frames: int, coords: Sequence[str] = ()) -> SharedShifts:
    """Return the shifts that a CSV file gives for each of so many frames.

    Needed are the columns frame, shift_y and shift_x; the others may be missing. Rows may be in any
    order. A frame without a shift whose status gives no reason is excluded, and not converged; one
    with a shift whose status does is repaired.

    Parameters
    ----------
    path
        File to read.
    n_frames
        Frames of the stack that the shifts are for.
    coords
        Further columns that may be there; they are not read.

    Raises
    ------
    InputError
        The file cannot be read, columns are missing or not known, rows are missing, twice there or
        of no frame, a value is no number, half a shift is given, or a frame without usable pixels
        has a shift.
    """
    table = _read_text(path)
    _check_columns(path, list(table.columns), coords)
    order = _places(path, table, n_frames)
    table = table.iloc[order]
    values = {name: _numbers(path, table, name) for name in (*_SHIFT, *_STD, "shift_corr")}
    shift = np.stack([values[name] for name in _SHIFT], axis=1)
    given = np.isfinite(shift)
    whole = np.asarray(given.all(axis=1))
    half = np.asarray(given.any(axis=1)) & ~whole
    _refuse(path, half, "half a shift", "Give both shift_y and shift_x, or neither.")
    rows = empty_table(n_frames, Status(0))
    rows["shift"], rows["shift_corr"] = shift, values["shift_corr"]
    rows["shift_std"] = np.stack([values[name] for name in _STD], axis=1)
    wrong = np.asarray((rows["shift_std"] < 0).any(axis=1))
    _refuse(path, wrong, "a negative error", "Give errors of 0 or more, or leave them out.")
    status = _statuses(path, table)
    return _judged(path, rows, status, whole)


def _judged(
    path: str | Path, rows: NDArray[np.void], status: NDArray[np.uint16], given: Flags
) -> SharedShifts:
    """Return what the shifts that are there and those that are not make of the status."""
    good = np.asarray(is_good(status))
    blanked = good & ~given
    unusable = given & ((status & NEVER_REPAIRED) != 0)
    _refuse(
        path,
        unusable,
        "a shift, but a status of pending, unreadable, blank or excluded",
        "Take the shift out, or the word out of the status where it is wrong.",
    )
    mended = given & ~good
    status = repaired_status(status, mended)
    status[blanked] |= np.uint16(Status.EXCLUDED | Status.NOT_CONVERGED)
    rows = rows.copy()
    rows["status"] = status
    for name in ("shift", "shift_std", "shift_corr"):
        rows[name][~given] = np.nan
    places = (np.flatnonzero(flags) for flags in (blanked, mended))
    excluded, repaired = (tuple(place.tolist()) for place in places)
    return SharedShifts(rows, excluded, repaired)


def _read_text(path: str | Path) -> pd.DataFrame:
    """Return all cells as text, empty ones as such."""
    import pandas as pd

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        with warnings.catch_warnings():
            # Of rows that are all too long Pandas would drop the end with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                io.StringIO(text), dtype=str, keep_default_na=False, index_col=False
            )
        return table.fillna("")
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        # Pandas' errors of empty files and uneven rows are ValueErrors, as those of decoding are.
        raise InputError(
            f"{path} cannot be read: {' '.join(str(error).split())}.",
            consequence=_NOTHING_DONE,
            cure="Give a CSV file in UTF-8 with commas between the values and one row for each "
            "frame.",
        ) from error


def _check_columns(path: str | Path, columns: list[str], coords: Sequence[str]) -> None:
    missing = [name for name in _NEEDED if name not in columns]
    unknown = [name for name in columns if name not in (*_NEEDED, *_OPTIONAL, *coords)]
    if not missing and not unknown:
        return
    said = [f"lacks {', '.join(missing)}"] if missing else []
    said += [f"has columns that are not known: {', '.join(unknown[:_SHOWN])}"] if unknown else []
    semicolons = " They are parted by semicolons." if ";" in "".join(columns) else ""
    raise InputError(
        f"{path} {' and '.join(said)}.{semicolons}",
        consequence=_NOTHING_DONE,
        cure=f"Needed are {', '.join(_NEEDED)}; {', '.join((*_OPTIONAL, *coords))} may be there. "
        "Put commas between the values, and points in numbers.",
    )


def _places(path: str | Path, table: pd.DataFrame, n_frames: int) -> NDArray[np.int64]:
    """Return the row of each frame."""
    numbers = _numbers(path, table, "frame")
    strange = ~(np.isfinite(numbers) & (numbers == np.floor(numbers)))
    if strange.any():
        raise _cell_error(path, table, "frame", strange)
    frames, counts = np.unique(numbers, return_counts=True)
    faults = {
        "twice there": frames[counts > 1],
        "not in the stack": frames[(frames < 0) | (frames >= n_frames)],
        "missing": np.setdiff1d(np.arange(n_frames), frames),
    }
    found = [f"{_listed(places)} {what}" for what, places in faults.items() if places.size]
    if found:
        raise InputError(
            f"{path} has {len(table)} rows for {n_frames} frames: {'; '.join(found)}.",
            consequence=_NOTHING_DONE,
            cure=f"Give one row for each frame from 0 to {n_frames - 1}.",
        )
    return np.argsort(numbers)


def _numbers(path: str | Path, table: pd.DataFrame, name: str) -> Floats:
    """Return a column as numbers, NaN where a cell is empty or the column is not there."""
    import pandas as pd

    if name not in table:
        return np.full(len(table), np.nan)
    cells = table[name].str.strip()
    empty = (cells == "") | (cells.str.lower() == "nan")
    numbers = pd.to_numeric(cells.where(~empty), errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(numbers) & ~empty.to_numpy(bool)
    if wrong.any():
        raise _cell_error(path, table, name, wrong)
    return np.asarray(numbers)


def _statuses(path: str | Path, table: pd.DataFrame) -> NDArray[np.uint16]:
    if "status" not in table:
        return np.zeros(len(table), np.uint16)
    bits: dict[str, int] = {}
    for cell in table["status"].unique():
        words = [word.strip().upper() for word in cell.split("|") if word.strip()]
        if any(word not in Status.__members__ for word in words):
            wrong = (table["status"] == cell).to_numpy(bool)
            raise _cell_error(path, table, "status", wrong)
        bits[cell] = sum({int(Status[word]) for word in words})
    return np.asarray(table["status"].map(bits).to_numpy(np.uint16))


def _cell_error(path: str | Path, table: pd.DataFrame, name: str, wrong: Flags) -> InputError:
    where = np.flatnonzero(wrong)
    cells = table[name].to_numpy()
    frames = table["frame"].to_numpy()
    shown = [f"frame {frames[i]}: {cells[i]!r}" for i in where[:_SHOWN]]
    if name == "frame":
        shown = [f"line {table.index[i] + 2}: {cells[i]!r}" for i in where[:_SHOWN]]
    more = f" and {where.size - _SHOWN} more" if where.size > _SHOWN else ""
    what = {"status": "words of the status", "frame": "frame numbers"}.get(name, "numbers")
    known = ", ".join(bit.name.lower() for bit in Status if bit.name)
    cure = f"The words are {known}, with | between them." if name == "status" else "Mend them."
    return InputError(
        f"{path}, column {name}: these are no {what}: {', '.join(shown)}{more}.",
        consequence=_NOTHING_DONE,
        cure=cure,
    )


def _refuse(path: str | Path, wrong: Flags, what: str, cure: str) -> None:
    if wrong.any():
        raise InputError(
            f"{path}: {_listed(np.flatnonzero(wrong))} with {what}.",
            consequence=_NOTHING_DONE,
            cure=cure,
        )


def _listed(frames: NDArray[Any]) -> str:
    shown = ", ".join(f"{frame:.0f}" for frame in frames[:_SHOWN])
    more = f" and {len(frames) - _SHOWN} more" if len(frames) > _SHOWN else ""
    return f"frame{'s' if len(frames) > 1 else ''} {shown}{more}"
