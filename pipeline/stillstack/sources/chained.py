"""Stacks that follow one another as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.sources.fingerprint import digest
from stillstack.sources.protocol import FrameReader


@dataclass(frozen=True)
class ChainedReader:
    """Reads frames of several readers, numbered on from one to the next.

    Parameters
    ----------
    readers
        In the order of their frames.
    lengths
        Frames of each.
    first
        Number of the frame with which the first one begins.
    """

    readers: tuple[FrameReader, ...]
    lengths: tuple[int, ...]
    first: int = 0

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``; the reader that fails names its own frame."""
        parts = [
            self.readers[place].read(max(start, begin) - begin, min(stop, end) - begin)
            for place, begin, end in self._parts(start, stop)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def narrow(self, start: int, stop: int) -> ChainedReader:
        """Return a reader that knows only the parts with these frames."""
        parts = list(self._parts(start, stop))
        return replace(
            self,
            readers=tuple(self.readers[place] for place, _, _ in parts),
            lengths=tuple(end - begin for _, begin, end in parts),
            first=parts[0][1],
        )

    def fingerprint(self) -> str:
        """Digest of those of all parts."""
        return digest([reader.fingerprint() for reader in self.readers])

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Parts that hold frames of a range: each with its first frame, and the one after it."""
        begin = self.first
        for place, length in enumerate(self.lengths):
            if begin < stop and start < begin + length:
                yield place, begin, begin + length
            begin += length
