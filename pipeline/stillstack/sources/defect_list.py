"""Defects of a detector: a list of pixels, or an image, from a config or a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.sources.guard import opening
from stillstack.sources.image import image_of

LIST_SUFFIXES: Final = (".csv", ".txt", ".dat", ".tsv")
_SEPARATORS: Final = re.compile(r"[,;\s]+")

Defects = NDArray[np.bool_]


def defects_of(given: str | Sequence[tuple[int, int]], shape: tuple[int, int]) -> Defects:
    """Return where a detector has defects: True for a pixel that never counts.

    Parameters
    ----------
    given
        Pixels (y, x); or a file: an image of the frames' shape that is not zero where a defect
        is, or a list of two columns, y and x, in text or as a .npy array of whole numbers. A line
        of names, ``y,x`` or ``x,y``, says their order; what follows a ``#`` is a remark.
    shape
        Rows and columns of the frames.

    Returns
    -------
    ndarray of bool, shape (y, x).

    Raises
    ------
    InputError
        When the file is neither, or a pixel lies outside the frames.

    Examples
    --------
    >>> np.argwhere(defects_of([(1, 2)], (3, 4))).tolist()
    [[1, 2]]
    """
    if not isinstance(given, str):
        return _marked(np.array(given, np.float64).reshape(-1, 2), shape, "correction.defects")
    is_text = Path(given).suffix.lower() in LIST_SUFFIXES
    found = _text_of(given) if is_text else image_of(given)
    if found.shape == shape:
        return np.asarray((found != 0) | np.isnan(found))
    if found.ndim == 2 and found.shape[1] == 2:
        return _marked(found, shape, given)
    raise InputError(
        f"The defects in {given} have shape {found.shape}: neither an image of the frames' "
        f"{shape[0]} x {shape[1]} pixels nor a list of two columns, y and x.",
        consequence="Which pixels are meant cannot be told.",
        cure="Save one of the two.",
    )


def _marked(places: NDArray[Any], shape: tuple[int, int], where: str) -> Defects:
    """Mark pixels; each row of ``places`` is one, (y, x)."""
    whole = np.rint(places)
    wrong = ~((whole == places) & (whole >= 0) & (whole < shape)).all(axis=1)
    if wrong.any():
        y, x = places[wrong][0]
        raise InputError(
            f"{where} has the pixel y = {y:g}, x = {x:g}, and frames have rows 0 to "
            f"{shape[0] - 1} and columns 0 to {shape[1] - 1}.",
            consequence="Another pixel may have been meant.",
            cure="Give y before x, in whole pixels from 0.",
        )
    marked = np.zeros(shape, bool)
    marked[tuple(whole.astype(np.int64).T)] = True
    return marked


def _text_of(path: str) -> NDArray[np.float64]:
    """Numbers of a text file as rows and columns; the columns y and x where they are named."""
    with opening(path, "a list of pixels"):
        lines = [line.partition("#")[0].strip() for line in Path(path).read_text().splitlines()]
        words = [_SEPARATORS.split(line.strip(",;")) for line in lines if line]
        names = [word.strip("\"'").lower() for word in words[0]] if words else []
        columns = {"y": 0, "x": 1}
        if any(name.isalpha() and name != "nan" for name in names):
            columns = {name: names.index(name) for name in ("y", "x")}
            words = [[row[columns["y"]], row[columns["x"]]] for row in words[1:]]
        return np.array(words, np.float64).reshape(len(words), -1)
