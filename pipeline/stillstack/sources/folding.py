"""Several axes in front of y and x as one axis of frames, in the order in which they are stored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    >>> list(axes.runs(1, 5))
    [(0, 0, slice(1, 3, None)), (1, 0, slice(0, 2, None))]
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

    def runs(self, start: int, stop: int) -> Iterator[tuple[Any, ...]]:
        """Indices into these axes that give a range of frames, one slice in each."""
        # along the last axis that has several items; behind it there is one of each
        along = max((at for at, size in enumerate(self.sizes) if size > 1), default=0)
        size = self.sizes[along]
        behind = (0,) * (len(self.sizes) - along - 1)
        edges = [start, *range((start // size + 1) * size, stop, size), stop]
        for first, last in itertools.pairwise(edges):
            outer = np.unravel_index(first // size, self.sizes[:along]) if along else ()
            inside = slice(first % size, first % size + last - first)
            yield (*(int(at) for at in outer), inside, *behind)
