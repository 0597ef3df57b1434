"""What file names say: the order of frames, and per-frame coordinates."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

import numpy as np
import parse
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.model import FRAME, X, Y

FILE = "file"
_RESERVED = (FRAME, Y, X, FILE)
_DIGITS = re.compile("[0-9]+")


def natural_key(name: str) -> tuple[str, str]:
    """Key that sorts numbers in names as numbers, and pays no heed to capitals.

    Each number gets its count of digits in front: text of equal length sorts as numbers do.

    Examples
    --------
    >>> sorted(["scan10.tif", "scan2.tif", "Scan1.tif"], key=natural_key)
    ['Scan1.tif', 'scan2.tif', 'scan10.tif']
    """
    return _DIGITS.sub(_with_length, name.casefold()), name


def _with_length(match: re.Match[str]) -> str:
    digits = match[0].lstrip("0")
    return f"{len(digits):04d}{digits}"


def coordinates_from_names(names: Sequence[str], pattern: str | None) -> dict[str, NDArray[Any]]:
    """Per-frame coordinates: the names themselves, and what a pattern finds in them.

    Parameters
    ----------
    names
        One a frame, relative, with ``/`` between folders.
    pattern
        In the syntax of the package parse, e.g. ``scan{scan:d}_delay{delay:f}_{n:d}.tif``. It has
        to match whole names; the folders in front count only when it has a ``/`` itself.

    Returns
    -------
    ``file``, and one array for each named field: int64, float64, datetime64 or text.

    Raises
    ------
    InputError
        When the pattern is no pattern, names no field or a reserved one, or misses a file.

    Examples
    --------
    >>> names = ["scan1_delay-0.5.tif", "scan2_delay1.5.tif"]
    >>> coordinates_from_names(names, "scan{scan:d}_delay{delay:f}.tif")["delay"]
    array([-0.5,  1.5])
    """
    coords: dict[str, NDArray[Any]] = {FILE: np.array(list(names))}
    if pattern is None:
        return coords
    parser = _compiled(pattern)
    with_folders = "/" in pattern
    found: dict[str, list[Any]] = {}
    for name in names:
        match = parser.parse(name if with_folders else name.rpartition("/")[2])
        if match is None:
            raise InputError(
                f"The file name {name!r} does not match the pattern {pattern!r}.",
                consequence="Its frame would have no coordinates.",
                cure="Mend the pattern, or leave the file out with a path such as 'scan*.tif'. "
                "In a pattern {n:d} is a whole number, {n:f} needs a decimal point, {n:g} "
                "takes both.",
            )
        for field, value in match.named.items():
            found.setdefault(field, []).append(value)
    return coords | {field: _as_coordinate(field, values) for field, values in found.items()}


def _compiled(pattern: str) -> parse.Parser:
    try:
        parser = parse.compile(pattern, case_sensitive=True)
        fields = list(parser.named_fields)
    # parse has exceptions of its own for some mistakes and lets those of re through for others
    except Exception as error:
        raise InputError(
            f"The pattern {pattern!r} cannot be understood: {error}.",
            cure="Write it like 'scan{scan:d}_delay{delay:f}_{n:d}.tif'.",
        ) from error
    if not fields:
        raise InputError(
            f"The pattern {pattern!r} has no named field, so it gives no coordinate.",
            cure="Name what it should find, as in 'scan{scan:d}_*.tif' -> 'scan{scan:d}_{}.tif'.",
        )
    for field in fields:
        if field in _RESERVED:
            raise InputError(
                f"The pattern {pattern!r} has a field called {field!r}, a name that is taken.",
                cure="Choose another, for example 'number'.",
            )
    return parser


def _as_coordinate(field: str, values: list[Any]) -> NDArray[Any]:
    first = values[0]
    if isinstance(first, datetime):
        # numpy has no time zones: all are brought to universal time
        return np.array([_universal(value) for value in values], dtype="datetime64[ns]")
    if isinstance(first, date):
        return np.array(values, dtype="datetime64[ns]")
    if isinstance(first, time):
        return np.array([value.isoformat() for value in values])
    try:
        coordinate = np.array(values)
    except (ValueError, OverflowError):
        coordinate = np.array([str(value) for value in values])
    if coordinate.ndim != 1 or coordinate.dtype.kind not in "iufbU":
        raise InputError(
            f"The field {field!r} of the pattern gives values like {first!r}, which are no "
            "coordinate.",
            cure="Use {name:d}, {name:f}, {name:g} or plain {name}.",
        )
    return coordinate


def _universal(value: datetime) -> datetime:
    offset = value.utcoffset()
    return value if offset is None else value.replace(tzinfo=None) - offset
