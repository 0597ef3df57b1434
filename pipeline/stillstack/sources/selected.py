"""Chosen frames of a source, as a source of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError
from stillstack.sources.fingerprint import digest
from stillstack.sources.protocol import Source
from stillstack.sources.stretches import stretches


@dataclass(frozen=True)
class SelectedSource:
    """Chosen frames of a source, in the order given, with their coordinates.

    Parameters
    ----------
    whole
        The source that they are chosen from.
    numbers
        Frame ``i`` of the selection is frame ``numbers[i]`` of the whole: what is found out about
        the selection is put back with it.

    Raises
    ------
    InputError
        When there are no numbers, or one that the source does not have.

    Examples
    --------
    >>> import tempfile
    >>> from stillstack.sources import open_source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/frames.npy", np.arange(5, dtype="u2").repeat(4).reshape(5, 2, 2))
    ...     chosen = SelectedSource(open_source(f"{folder}/frames.npy"), (4, 1))
    ...     chosen.shape, chosen.read(0, 2)[:, 0, 0]
    ((2, 2, 2), array([4, 1], dtype=uint16))
    """

    whole: Source
    numbers: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers, n_frames = self.numbers, self.whole.shape[0]
        if not numbers or min(numbers) < 0 or max(numbers) >= n_frames:
            asked = f"frames {min(numbers)} to {max(numbers)}" if numbers else "no frames"
            raise InputError(
                f"A selection has {asked} of {self.whole.name}, which has frames 0 to "
                f"{n_frames - 1}.",
                cure="Choose frames that there are, one or more.",
            )

    @property
    def name(self) -> str:
        """Short name for messages."""
        return f"{len(self.numbers)} frames of {self.whole.name}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        _, height, width = self.whole.shape
        return (len(self.numbers), height, width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the frames."""
        dtype: np.dtype[Any] = np.dtype(self.whole.dtype)
        return dtype

    @property
    def chunk_frames(self) -> int:
        """As in the whole where the frames are neighbours, else 1."""
        return self.whole.chunk_frames if len(stretches(self.numbers)) == 1 else 1

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """Of the chosen frames."""
        chosen = np.array(self.numbers)
        return {name: np.asarray(values)[chosen] for name, values in self.whole.coords.items()}

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Of the whole."""
        return self.whole.attrs

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames of the selection; neighbours in the whole are read together."""
        frames = np.empty((stop - start, *self.shape[1:]), self.dtype)
        place = 0
        for first, last in stretches(self.numbers[start:stop]):
            frames[place : place + last - first] = self._stretch(first, last)
            place += last - first
        return frames

    def _stretch(self, start: int, stop: int) -> NDArray[Any]:
        """Frames of the whole."""
        return self.whole.read(start, stop)

    def fingerprint(self) -> str:
        """Of the source and the selection."""
        return digest([self.whole.fingerprint(), str(self.numbers)])

    @property
    def token(self) -> str:
        """Names the selection in graphs, without looking at the source again."""
        return digest([type(self).__name__, token_of(self.whole), str(self.numbers)])


def token_of(source: Source) -> str:
    """Name of a source in graphs; what has none is looked at."""
    return str(getattr(source, "token", None) or source.fingerprint())


def selected(source: Source, numbers: Sequence[int] | NDArray[np.integer[Any]]) -> SelectedSource:
    """Return chosen frames of a source; see `SelectedSource`."""
    return SelectedSource(source, tuple(int(number) for number in numbers))
