"""A look at a few frames spread over a stack, before anything large is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError, UnreadableFrameError
from stillstack.exclusion import kept_numbers
from stillstack.kernels.resampling import holds_aligned
from stillstack.reference_image import frame_statistics
from stillstack.sources import SelectedSource, Source
from stillstack.stacks import refuse_aligned

SAMPLE_FRAMES: Final = 16
_SAMPLE_BYTES: Final = 512 * 2**20
_ENOUGH_COUNTS: Final = 5.0


@dataclass(frozen=True, eq=False)
class Sample:
    """Frames that were read: their numbers, pixels, and why others could not be."""

    numbers: tuple[int, ...]
    frames: NDArray[Any]
    unreadable: Mapping[int, str]


@dataclass(frozen=True)
class SpreadSource(SelectedSource):
    """Chosen frames that are read for what they show.

    A frame that cannot be read is all zero here, so that it is found blank and set aside.
    """

    name = "spread frames"

    @property
    def chunk_frames(self) -> int:
        """One: each frame is looked at alone."""
        return 1

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """None."""
        return {}

    @property
    def attrs(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def _stretch(self, start: int, stop: int) -> NDArray[Any]:
        try:
            return self.whole.read(start, stop)
        except UnreadableFrameError:
            if stop - start > 1:
                return np.concatenate([self._stretch(i, i + 1) for i in range(start, stop)])
            return np.zeros((1, *self.shape[1:]), self.dtype)


def spread_numbers(start: int, stop: int, count: int) -> tuple[int, ...]:
    """Return at most ``count`` frame numbers, evenly spread, the ends included.

    Examples
    --------
    >>> spread_numbers(0, 100, 4)
    (0, 33, 66, 99)
    """
    numbers = np.rint(np.linspace(start, stop - 1, min(count, stop - start)))
    return tuple(int(number) for number in numbers)


def take_sample(
    source: Source, count: int = SAMPLE_FRAMES, left_out: NDArray[np.bool_] | None = None
) -> Sample:
    """Read a few frames, evenly spread over those that are not left out.

    Raises
    ------
    InputError
        If none of them can be read.
    """
    n_frames, height, width = source.shape
    frame_bytes = max(1, height * width * np.dtype(source.dtype).itemsize)
    count = max(1, min(count, _SAMPLE_BYTES // frame_bytes))
    numbers: list[int] = []
    frames: list[NDArray[Any]] = []
    unreadable: dict[int, str] = {}
    kept = kept_numbers(left_out, 0, n_frames)
    for number in (int(kept[place]) for place in spread_numbers(0, len(kept), count)):
        try:
            frames.append(source.read(number, number + 1)[0])
            numbers.append(number)
        except UnreadableFrameError as error:
            unreadable[number] = error.what
    if not frames:
        reason = next(iter(unreadable.values()))
        raise InputError(
            f"None of the {len(unreadable)} frames that were tried in {source.name} can be read: "
            f"{reason}",
            cure="Look at these files; nothing was started.",
        )
    return Sample(tuple(numbers), np.stack(frames), unreadable)


def ordinary_frames(frames: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which frames are neither blank nor far brighter or darker than most.

    Parameters
    ----------
    frames
        (n, y, x).
    valid
        (y, x), True where a pixel counts.
    """
    statistics = [frame_statistics(frame, valid) for frame in frames]
    return ordinary(statistics)


def ordinary(statistics: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Return which (mean, standard deviation) belong to frames that look like most others."""
    mean, spread = np.array(statistics, np.float64).reshape(-1, 2).T
    lively = np.isfinite(mean) & (spread > 0)
    if not lively.any():
        return lively
    found: NDArray[np.bool_] = lively.copy()
    for values in (mean, spread):
        middle = np.median(values[lively])
        deviation = np.abs(values - middle)
        robust_std = 1.4826 * np.median(deviation[lively])
        # The beam's intensity wanders; a frame is odd only if it also differs by a third.
        with np.errstate(invalid="ignore"):
            found &= deviation <= max(6 * robust_std, abs(middle) / 3)
    return found if found.any() else lively


def aligned_dtype(
    choice: str, source_dtype: np.dtype[Any], typical: NDArray[Any], valid: NDArray[np.bool_]
) -> np.dtype[Any]:
    """Return the dtype of aligned frames.

    ``auto`` keeps an integer type where 99 % of the valid pixels have a mean of 5 counts or more:
    below, rounding and clipping of resampled frames would change their mean. Integers of 64 bits
    become floats.

    Parameters
    ----------
    choice
        ``"auto"``, ``"float32"`` or ``"input"``.
    source_dtype
        Of the raw frames.
    typical
        (y, x), mean of sampled frames.
    valid
        (y, x), True where a pixel counts.

    Raises
    ------
    InputError
        If it is to be the input's, which frames cannot be resampled to.
    """
    dtype = np.dtype(source_dtype).newbyteorder("=")
    if choice == "input":
        refuse_aligned(dtype)
        return dtype
    if choice == "float32" or not np.issubdtype(dtype, np.integer) or not holds_aligned(dtype):
        return np.dtype(np.float32)
    bright = bool(np.quantile(typical[valid], 0.01) >= _ENOUGH_COUNTS)
    return dtype if bright else np.dtype(np.float32)
