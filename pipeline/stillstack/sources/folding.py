"""Several axes in front of y and x as one axis of frames, in the order in which they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Leading:
    """Axes in front of y and x, of which the last runs fastest.

    Parameters
    ----------
    names, sizes
        Of each.

    Examples
    --------
    >>> axes = Leading(("t", "c", "z"), (2, 1, 3))
    >>> axes.n_frames, axes.long, axes.positions("t").tolist()
    (6, ('t', 'z'), [0, 0, 0, 1, 1, 1])
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def n_frames(self) -> int:
        """Frames of all of them together."""
        return math.prod(self.sizes)

    @property
    def long(self) -> tuple[str, ...]:
        """Names of the axes with more than one item."""
        return tuple(n for n, size in zip(self.names, self.sizes, strict=True) if size > 1)

    def positions(self, name: str) -> NDArray[np.int64]:
        """Item of one axis that each frame is at, (frame,)."""
        at = self.names.index(name)
        return np.asarray(np.indices(self.sizes)[at].ravel(), np.int64)

    def chunk_frames(self, chunks: tuple[int, ...]) -> int:
        """Frames that are stored as one piece, by the chunks along these axes."""
        inner = self.n_frames
        for size, chunk in zip(self.sizes, chunks, strict=True):
            inner //= size
            if min(size, chunk) > 1:
                return min(size, chunk) * inner
        return 1

    def boxes(self, start: int, stop: int) -> Iterator[Box]:
        """Ranges of these axes that hold a range of frames in order."""
        return boxes(start, stop, self.sizes)


def boxes(start: int, stop: int, sizes: Sequence[int]) -> Iterator[Box]:
    """Ranges of some axes that hold a range of places, counted along the last one first.

    They come in order, and are as few as there can be: of two axes three at most, the end of a row,
    whole rows, the beginning of a row.

    Parameters
    ----------
    start, stop
        The range, 0 <= start < stop.
    sizes
        Of the axes.

    Examples
    --------
    >>> list(boxes(2, 9, (3, 4)))
    [(slice(0, 1, None), slice(2, 4, None)), (slice(1, 2, None), slice(0, 4, None)), \
(slice(2, 3, None), slice(0, 1, None))]
    """
    if len(sizes) < 2:
        yield (slice(start, stop),) if sizes else ()
        return
    inner = math.prod(sizes[1:])
    while start < stop:
        at, behind = divmod(start, inner)
        whole = (stop - start) // inner
        if behind or not whole:
            end = min(inner, behind + stop - start)
            for box in boxes(behind, end, sizes[1:]):
                yield (slice(at, at + 1), *box)
            start += end - behind
        else:
            yield (slice(at, at + whole), *(slice(0, size) for size in sizes[1:]))
            start += whole * inner
