"""Frame numbers as ranges that are read in one go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from stillstack.sources.protocol import Source

_PIECE_BYTES: Final = 16 * 2**20


def stretches(numbers: Iterable[int], longest: int | None = None) -> list[tuple[int, int]]:
    """Ranges (start, stop) of neighbouring frames, in the order in which they are given.

    Parameters
    ----------
    numbers
        Frame numbers.
    longest
        Frames in a range at most.

    Examples
    --------
    >>> stretches([3, 4, 5, 9, 8], longest=2)
    [(3, 5), (5, 6), (9, 10), (8, 9)]
    """
    found: list[tuple[int, int]] = []
    for given in numbers:
        number = int(given)
        whole = longest is not None and found and found[-1][1] - found[-1][0] >= longest
        if found and found[-1][1] == number and not whole:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


def pieces(source: Source, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a range so that little is held at once and no stored piece is decoded twice.

    Parameters
    ----------
    source
        Its shape, dtype and ``chunk_frames``.
    start, stop
        The range.
    """
    _, height, width = source.shape
    frame_bytes = max(1, height * width * np.dtype(source.dtype).itemsize)
    chunk = max(1, source.chunk_frames)
    step = chunk * max(1, _PIECE_BYTES // (chunk * frame_bytes))
    edges = [start, *range((start // step + 1) * step, stop, step), stop]
    yield from pairwise(edges)
