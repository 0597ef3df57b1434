"""What a source is, and what a format has to supply."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError


class Source(Protocol):
    """A stack of frames that is read in ranges: what everything downstream relies on."""

    @property
    def name(self) -> str:
        """Short name for messages."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frame, y, x)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the frames as read, in native byte order."""
        ...

    @property
    def chunk_frames(self) -> int:
        """Frames stored as one piece: reading fewer decodes the piece all the same."""
        ...

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """Per-frame coordinates, each of shape (frame,)."""
        ...

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What else the source says of itself."""
        ...

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``, read now; UnreadableFrameError where that fails."""
        ...

    def fingerprint(self) -> str:
        """Text that changes when the source changes."""
        ...


class FrameReader(Protocol):
    """What a format supplies: a few small values that find frames again, in any process.

    An implementation is a frozen dataclass of paths and numbers, holds nothing open, and opens
    its file inside ``read``. It, narrowed, is all that a task carries.
    """

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``, shape (stop - start, y, x), in native byte order.

        Raises
        ------
        UnreadableFrameError
            When one of them cannot be read; the frame or its file is named.
        """
        ...

    def narrow(self, start: int, stop: int) -> FrameReader:
        """Return a reader with the same numbering that knows only what these frames need."""
        ...

    def fingerprint(self) -> str:
        """Text that changes when the frames change, and not when they are moved as a whole."""
        ...


@dataclass(frozen=True, eq=False)
class FileSource:
    """A stack of frames on disk: what is known of it without reading a pixel.

    Parameters
    ----------
    name
        Short name for messages: the last part of the path, and the variable.
    path
        Where it is, absolute.
    shape
        (frame, y, x).
    dtype
        Of the frames as read, in native byte order.
    chunk_frames
        Frames that the file stores as one piece: reading fewer decodes the piece all the same.
    reader
        Reads ranges of frames; what tasks carry.
    coords
        Per-frame coordinates, each of shape (frame,): time, delay, file ...
    attrs
        Attributes that the source has, and ``source_format``. ``invalid_value`` is the pixel value
        that the source declares to mean "no data" (``_FillValue``), where there is one.
    """

    name: str
    path: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    chunk_frames: int
    reader: FrameReader
    coords: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``, read now.

        Parameters
        ----------
        start, stop
            Absolute frame numbers, 0 <= start < stop <= number of frames.

        Returns
        -------
        ndarray of shape (stop - start, y, x), native byte order.

        Raises
        ------
        InputError
            When the range is not inside the source.
        UnreadableFrameError
            When one of the frames cannot be read; it or its file is named.
        """
        self.check_range(start, stop)
        return self.reader.read(start, stop)

    def narrow(self, start: int, stop: int) -> FrameReader:
        """Return what a task that reads these frames has to carry, and no more."""
        return self.reader.narrow(start, stop)

    def fingerprint(self) -> str:
        """Hex digest that changes when the source changes; looked up afresh at each call.

        Made of relative names, sizes, times of modification and metadata, never of absolute
        paths (a folder moved as a whole is the same source) and never of pixels.
        """
        what = f"{self.shape} {self.dtype.str} {self.reader.fingerprint()}"
        return hashlib.sha256(what.encode()).hexdigest()

    @cached_property
    def token(self) -> str:
        """Names this source as it was when first asked: the same for two equal openings."""
        return hashlib.sha256(f"{self.path} {self.fingerprint()}".encode()).hexdigest()[:32]

    def __getstate__(self) -> dict[str, Any]:
        # The token travels, so that no worker has to look at every file for it again.
        return {**self.__dict__, "token": self.token}

    def check_range(self, start: int, stop: int) -> None:
        """Raise InputError unless 0 <= start < stop <= number of frames."""
        if not 0 <= start < stop <= self.shape[0]:
            raise InputError(
                f"Frames {start} to {stop} were asked of {self.name}, "
                f"which has frames 0 to {self.shape[0]}.",
                cure="Ask for a range inside it that holds one frame or more.",
            )


def recognises_none(path: Path) -> bool:  # noqa: ARG001
    """Answer False: the format is known by its suffix alone."""
    return False


@dataclass(frozen=True)
class Format:
    """One kind of file that can be opened.

    Parameters
    ----------
    title
        For the list of what is supported.
    suffixes
        Lower case, with the dot.
    open
        ``open(path, variable) -> FileSource``.
    recognises
        True where a file or folder is of this kind whatever it is called.
    has_variables
        Whether ``variable`` means something.
    """

    title: str
    suffixes: tuple[str, ...]
    open: Callable[[str, str | None], FileSource]
    recognises: Callable[[Path], bool] = recognises_none
    has_variables: bool = False
