"""What there is to see of a run: one frame at a time, before, after, and what is left between.

Nothing here knows how it is shown. A frame is read when it is asked for, alone, and a few are kept;
what cannot be shown says why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import StillstackError
from stillstack.model import (
    AXES,
    COLUMNS,
    FRAME,
    TRAJECTORY_COLUMNS,
    Status,
    is_good,
    status_words,
)

Image = NDArray[np.float32]
ReadFrame = Callable[[int], NDArray[Any]]
Side = Literal["before", "after"]

KEPT_FRAMES: Final = 4
ALL: Final = "all"


@dataclass(frozen=True, eq=False)
class Picture:
    """An image in the detector's pixels, or the reason why there is none.

    Parameters
    ----------
    pixels
        float32 (y, x), NaN where a pixel does not count; None where there is no image.
    origin
        Row and column of the detector that its first pixel is.
    why
        Why there is none, or what is odd about it; else empty.
    """

    pixels: Image | None
    origin: tuple[int, int] = (0, 0)
    why: str = ""


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of a run, read one at a time.

    Parameters
    ----------
    name
        What a title calls them.
    shape
        (frame, y, x) of the raw frames.
    table
        Per-frame variables and coordinates, each of shape (frame,) or (frame, axis); at least
        ``shift`` and ``status``.
    valid
        (y, x), the frames' static valid pixels; None where it is not known.
    references
        Images (group, y, x) that frames were registered to, NaN where a pixel does not count; None
        where they are not known.
    raw, aligned
        Read the frame of a number: before, and after. What they raise is shown in its place.
    origin
        Row and column of the detector at which aligned frames begin.
    """

    name: str
    shape: tuple[int, int, int]
    table: Mapping[str, NDArray[Any]]
    valid: NDArray[np.bool_] | None
    references: Image | None
    raw: ReadFrame
    aligned: ReadFrame
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for side, read in (("raw", self.raw), ("aligned", self.aligned)):
            object.__setattr__(self, side, functools.lru_cache(KEPT_FRAMES)(read))

    @property
    def status(self) -> NDArray[np.uint16]:
        """Status bits of each frame."""
        return np.asarray(self.table["status"], np.uint16)

    def before(self, number: int) -> Picture:
        """Frame as it was recorded, corrected as the config says."""
        return _read(self.raw, number, (0, 0))

    def after(self, number: int) -> Picture:
        """Frame where its shift puts it; a frame that is not good has no such image.

        Parameters
        ----------
        number
            Of the frame.
        """
        bits = int(self.status[number])
        if bits & Status.PENDING:
            return Picture(None, self.origin, "This frame is not computed yet.")
        if not is_good(bits):
            words = ", ".join(word.replace("_", " ") for word in status_words(bits))
            return Picture(None, self.origin, f"Not aligned: {words}.")
        found = _read(self.aligned, number, self.origin)
        if found.pixels is not None and not np.isfinite(found.pixels).any():
            return replace(found, why="Good, and yet empty: look at it with stillstack verify.")
        return found

    def reference(self, number: int) -> Picture:
        """Image that a frame was registered to; of several, that of the frame's group."""
        if self.references is None:
            return Picture(None, why="There is no reference beside these frames.")
        group = int(self.table["group_index"][number]) if "group_index" in self.table else 0
        return Picture(self.references[group if 0 <= group < len(self.references) else 0])

    def difference(self, number: int, side: Side, other: int | None = None) -> Picture:
        """What is left of a frame when another image is taken away.

        Parameters
        ----------
        number
            Of the frame.
        side
            Whether the raw or the aligned frame is meant.
        other
            Another frame, of the same side; by default the reference, times the frame's
            ``intensity`` plus its ``background``, so that what is left is noise and what moved.
        """
        one = self.after(number) if side == "after" else self.before(number)
        if other is None:
            two, factor, level = self.reference(number), *self._brightness(number)
        else:
            two = self.after(other) if side == "after" else self.before(other)
            factor, level = 1.0, 0.0
        if one.pixels is None or two.pixels is None:
            return Picture(None, one.origin, one.why or two.why)
        left = one.pixels - (np.float32(factor) * _within(two, one) + np.float32(level))
        if side == "before" and self.valid is not None:
            left = np.where(self.valid, left, np.float32(np.nan))
        return Picture(left, one.origin)

    def _brightness(self, number: int) -> tuple[float, float]:
        """Intensity and background of a frame; where they are not known, those of the reference."""
        known = [float(self.table[n][number]) for n in _BRIGHTNESS if n in self.table]
        return (known[0], known[1]) if len(known) == 2 and np.isfinite(known).all() else (1.0, 0.0)


_BRIGHTNESS: Final = ("intensity", "background")


def choices(status: NDArray[np.uint16]) -> dict[str, NDArray[np.int64]]:
    """Frames by what their status says: ``all``, ``good``, ``rejected``, and each bit that is set.

    Parameters
    ----------
    status
        Status bits, shape (frame,).

    Examples
    --------
    >>> found = choices(np.array([0, Status.STRUCK, Status.BLANK], "u2"))
    >>> {name: numbers.tolist() for name, numbers in found.items()}
    {'all': [0, 1, 2], 'good': [0, 1], 'rejected': [2], 'blank': [2], 'struck': [1]}
    """
    good = np.asarray(is_good(status), bool)
    found = {ALL: np.arange(len(status)), "good": np.flatnonzero(good)}
    found["rejected"] = np.flatnonzero(~good)
    for bit in Status:
        numbers = np.flatnonzero(status & bit)
        if numbers.size and bit.name:
            found[bit.name.lower()] = numbers
    return found


def nearest(numbers: NDArray[np.int64], wanted: float) -> int:
    """Place, among ascending frame numbers, of the one that is nearest to the wanted.

    Examples
    --------
    >>> nearest(np.array([0, 10, 20]), 14.0)
    1
    """
    return int(np.argmin(np.abs(numbers - wanted)))


def caption(frames: Frames, number: int) -> list[tuple[str, str]]:
    """What is known of a frame, as labels and values.

    Parameters
    ----------
    frames
        Of a run.
    number
        Of the frame.
    """
    table, bits = frames.table, int(frames.status[number])
    words = ", ".join(word.replace("_", " ") for word in status_words(bits))
    verdict = "good" if is_good(bits) else "pending" if bits & Status.PENDING else "rejected"
    rows = [("status", verdict if words in ("", verdict) else f"{verdict}: {words}")]
    errors = table["shift_std"][number] if "shift_std" in table else (np.nan, np.nan)
    for axis, value, error in zip(AXES, table["shift"][number], errors, strict=True):
        if np.isfinite(value):
            bar = f" ± {error:.2g}" if np.isfinite(error) else ""
            rows.append((f"shift {axis}", f"{value:.3f}{bar} px"))
    for name in [*_SHOWN, *(name for name in table if name not in _TABLE)]:
        if name not in table or np.ndim(table[name]) != 1:
            continue
        value = table[name][number]
        if not isinstance(value, np.floating):
            rows.append((name, str(value)))
        elif np.isfinite(value):
            rows.append((name, f"{value:.4g}"))
    return rows


_SHOWN: Final = ("ncc", "chi2", "intensity")
_TABLE: Final = {
    *(column.name for column in (*COLUMNS, *TRAJECTORY_COLUMNS)),
    *(FRAME, "group_index"),
}


def _read(read: ReadFrame, number: int, origin: tuple[int, int]) -> Picture:
    try:
        pixels = np.asarray(read(number))
    except StillstackError as error:
        return Picture(None, origin, error.what)
    except OSError as error:
        return Picture(None, origin, f"It cannot be read: {error}.")
    return Picture(np.asarray(pixels, np.float32), origin)


def _within(other: Picture, one: Picture) -> Image:
    """Pixels of another picture at the places of the one; NaN where it has none."""
    assert one.pixels is not None  # noqa: S101  # for the type checker
    assert other.pixels is not None  # noqa: S101
    if other.origin == one.origin and other.pixels.shape == one.pixels.shape:
        return other.pixels
    placed = np.full(one.pixels.shape, np.nan, np.float32)
    here, there = [], []
    for k in range(2):
        first = max(one.origin[k], other.origin[k])
        last = min(one.origin[k] + one.pixels.shape[k], other.origin[k] + other.pixels.shape[k])
        here.append(slice(first - one.origin[k], max(first, last) - one.origin[k]))
        there.append(slice(first - other.origin[k], max(first, last) - other.origin[k]))
    placed[tuple(here)] = other.pixels[tuple(there)]
    return placed
