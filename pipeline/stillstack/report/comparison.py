"""Frames before and after alignment: means of spread frames, and first against last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stillstack.errors import InputError, StillstackError
from stillstack.model import FRAME, X, Y, is_good
from stillstack.physics.checks import Checks, Halves, Stretches, check_alignment
from stillstack.report.held_out import HeldOut
from stillstack.sources import CorrectedSource, Source, stretches
from stillstack.storage import RunStore

# Each is decoded twice. More would show the eye nothing new, and at 2048x2048 they cost more than
# all else that a short run does.
MOST_FRAMES: Final = 64
_MOST_AT_ONCE: Final = 16  # bounded in memory
# Of the run, each of which is looked at for what shift it is left with.
_STRETCHES: Final = 4
# Residual shifts are looked for in the middle of larger frames: in all of 2048x2048 they cost 8 s.
_RESIDUAL_PX: Final = 1024
_SMALL_PX: Final = 80

Image = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same frames before and after alignment; None for what cannot be had.

    Attributes
    ----------
    n_frames
        Frames in the means: good ones, evenly spread.
    raw_mean, aligned_mean
        Their means, (y, x); NaN where no frame counts.
    first, last
        Numbers of the first and the last good frame; None where there are fewer than two.
    difference_before, difference_after
        Last frame less first, (y, x); NaN where either is not valid.
    before
        What the frames before alignment are, in words.
    checks
        What independent checks of the same frames found; None where they cannot be made.
    small
        Small images (y, x) of the frames before alignment, by their numbers.
    rms_before, rms_after
        Of these differences, over the pixels that both have.
    """

    n_frames: int
    raw_mean: Image | None = None
    aligned_mean: Image | None = None
    first: int | None = None
    last: int | None = None
    difference_before: Image | None = None
    difference_after: Image | None = None
    rms_before: float = float("nan")
    rms_after: float = float("nan")
    before: str = "as recorded"
    checks: Checks | None = None
    small: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)


def compare(
    run: xr.Dataset,
    raw: Source | None,
    limit: int = MOST_FRAMES,
    *,
    store: RunStore | None = None,
) -> Comparison:
    """Compare good frames of a run before and after alignment.

    Parameters
    ----------
    run
        A run's Dataset.
    raw
        The frames as recorded; None where they are no longer there.
    limit
        Number of frames in the means at most.
    store
        Where the run's reference is, to register these frames again without a part of the image;
        without it that check is made on what the run itself aligned.
    """
    good = np.flatnonzero(np.asarray(is_good(run["status"].values), bool))
    if not good.size:
        return Comparison(0)
    numbers = spread(good, limit, raw.chunk_frames if raw is not None else 1)
    first, last = int(good[0]), int(good[-1])
    has_pair = first != last
    before = _raw_difference(run, raw, first, last) if raw is not None and has_pair else None
    after = None
    if "aligned" in run and has_pair:
        after = np.subtract(*(_aligned_frame(run, n) for n in (last, first)), dtype=np.float64)
    common = np.isfinite(before if before is not None else np.nan)
    common = common & np.isfinite(after if after is not None else np.nan)
    held = None if store is None or raw is None else _held_out(store, run, len(numbers))
    small: dict[int, NDArray[np.float32]] = {}
    recorded = None if raw is None else _raw_means(run, raw, numbers, held, small)
    aligned = _aligned_means(run, numbers) if "aligned" in run else None
    return Comparison(
        n_frames=len(numbers),
        raw_mean=None if recorded is None else recorded.mean(),
        aligned_mean=None if aligned is None else aligned.mean(),
        first=first if has_pair else None,
        last=last if has_pair else None,
        difference_before=before,
        difference_after=after,
        rms_before=_rms(before, common),
        rms_after=_rms(after, common),
        before="corrected" if isinstance(raw, CorrectedSource) else "as recorded",
        checks=None if aligned is None else _checks(run, recorded, aligned, held),
        small=small,
    )


def small_image(frame: NDArray[Any]) -> NDArray[np.float32]:
    """Mean over squares of a frame (y, x), at most 80 of them a side; what is left over is cut off.

    Examples
    --------
    >>> small_image(np.ones((100, 161))).shape
    (33, 53)
    """
    factor = -(-max(frame.shape) // _SMALL_PX)
    height, width = (max(1, length // factor) for length in frame.shape)
    cells = frame[: height * factor, : width * factor].reshape(height, -1, width, factor)
    mean: NDArray[np.float32] = cells.mean(axis=(1, 3), dtype=np.float32)
    return mean


def spread(good: NDArray[np.integer[Any]], limit: int, chunk_frames: int = 1) -> list[int]:
    """Choose at most `limit` of the good frames, evenly spread, from few chunks of the source.

    Frames of one chunk are decoded together, so whole chunks are taken where they hold several.

    Examples
    --------
    >>> spread(np.arange(100), 4)
    [0, 33, 66, 99]
    >>> spread(np.arange(100), 4, chunk_frames=2)
    [0, 1, 98, 99]
    """
    if good.size <= limit:
        return [int(number) for number in good]
    chunks = np.unique(good // chunk_frames)
    count = max(1, min(chunks.size, limit // chunk_frames))
    chosen = chunks[np.linspace(0, chunks.size - 1, count).round().astype(int)]
    numbers = good[np.isin(good // chunk_frames, chosen)]
    return [int(number) for number in numbers[:limit]]


def _window(run: xr.Dataset) -> tuple[slice, slice]:
    """Part of a raw frame that the aligned frames show."""
    if "aligned" not in run or Y not in run.coords or X not in run.coords:
        return slice(None), slice(None)
    y, x = (np.asarray(run[dim].values, int) for dim in (Y, X))
    return slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)


class _Means:
    """Sums of a few spread frames, by stretch of the run, and within each by parity.

    Single precision holds them: of so few frames whole counts add up exactly.
    """

    def __init__(self, shape: tuple[int, ...], n_frames: int, n_stretches: int = 1) -> None:
        self.n_frames = n_frames
        self.total = np.zeros((n_stretches, 2, *shape), np.float32)
        self.count = np.zeros(self.total.shape, np.uint8)
        self.n_of = [0] * n_stretches

    def add(self, place: int, frame: NDArray[Any]) -> None:
        """Add a frame by its place among all."""
        known = np.isfinite(frame)
        stretch = place * len(self.total) // self.n_frames
        half = self.total[stretch, place % 2]
        np.add(half, frame, out=half, where=known)
        self.count[stretch, place % 2] += known
        self.n_of[stretch] += 1

    def mean(self) -> Image | None:
        """Mean of all; None where no frame counts."""
        total, count = self._summed(0, 1)
        return _divided(total, count) if count.any() else None

    def halves(self) -> Halves:
        """Means of every other frame, and of the others."""
        odd, even = (_divided(t, n) for t, n in zip(*self._summed(0), strict=True))
        return Halves(odd, even)

    def stretches(self) -> Stretches | None:
        """Means of successive stretches; None where there is one."""
        if len(self.total) == 1:
            return None
        total, count = self._summed(1)
        middle = (slice(None), *(_middle(length) for length in total.shape[1:]))
        return Stretches(_divided(total[middle], count[middle]), self.n_of)

    def _summed(self, *axes: int) -> tuple[Image, NDArray[np.int64]]:
        return (
            self.total.sum(axis=axes, dtype=np.float64),
            self.count.sum(axis=axes, dtype=np.int64),
        )


def _middle(length: int) -> slice:
    """Middle of an axis, as much of it as is looked at for residual shifts."""
    most = min(length, _RESIDUAL_PX)
    return slice((length - most) // 2, (length + most) // 2)


def _divided(total: Image, count: NDArray[np.integer[Any]]) -> Image:
    mean: Image = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def _held_out(store: RunStore, run: xr.Dataset, n_frames: int) -> HeldOut | None:
    places = []
    for part, length in zip(_window(run), run["valid"].shape[-2:], strict=True):
        first, last, _ = part.indices(length)
        middle = _middle(last - first)
        places += [first + middle.start, first + middle.stop]
    y0, y1, x0, x1 = places
    return HeldOut.of(store, run, (y0, y1, x0, x1), n_frames, _n_stretches(n_frames))


def _n_stretches(n_frames: int) -> int:
    return _STRETCHES if n_frames >= 4 * _STRETCHES else 1


def _checks(
    run: xr.Dataset, recorded: _Means | None, aligned: _Means, held: HeldOut | None
) -> Checks | None:
    """Independent checks; None where the frames show too little for them."""
    valid = run["valid"].isel(dict.fromkeys(run["valid"].dims[:-2], 0)).values[_window(run)]
    try:
        checks = check_alignment(
            aligned.halves(),
            recorded=None if recorded is None else recorded.halves(),
            stretches=aligned.stretches(),
            valid=np.asarray(valid, bool),
        )
    except InputError:
        return None
    return checks if held is None else replace(checks, held_out=held.residual())


def _raw_means(
    run: xr.Dataset,
    raw: Source,
    numbers: list[int],
    held: HeldOut | None,
    small: dict[int, NDArray[np.float32]],
) -> _Means | None:
    """Means of frames before alignment; their small images go into `small`."""
    window, shifts = _window(run), np.asarray(run["shift"].values, np.float64)
    means = _Means(np.empty(raw.shape[1:], np.bool_)[window].shape, len(numbers))
    place = 0
    for start, stop in stretches(numbers, _MOST_AT_ONCE):
        for number, frame in _readable(raw, start, stop):
            means.add(place, frame[window])
            small[number] = small_image(frame)
            if held is not None:
                held.add(place, frame, shifts[number])
            place += 1
    return means if means.count.any() else None


def _readable(raw: Source, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Frames of a range with their numbers, without those that cannot be read any more."""
    try:
        yield from enumerate(raw.read(start, stop), start)
    except StillstackError:
        if stop - start > 1:
            for number in range(start, stop):
                yield from _readable(raw, number, number + 1)


def _raw_difference(run: xr.Dataset, raw: Source, first: int, last: int) -> Image | None:
    try:
        frames = [raw.read(number, number + 1)[0].astype(np.float64) for number in (first, last)]
    except StillstackError:
        return None
    valid = run["valid"].isel(dict.fromkeys(run["valid"].dims[:-2], 0)).values
    difference = np.where(np.asarray(valid, bool), frames[1] - frames[0], np.nan)
    window: Image = difference[_window(run)]
    return window


def _aligned_frame(run: xr.Dataset, number: int) -> NDArray[np.floating[Any]]:
    return np.asarray(run["aligned"].isel({FRAME: number}).values)


def _aligned_means(run: xr.Dataset, numbers: list[int]) -> _Means:
    means = _Means(run["aligned"].shape[1:], len(numbers), _n_stretches(len(numbers)))
    for place, number in enumerate(numbers):
        means.add(place, _aligned_frame(run, number))
    return means


def _rms(image: Image | None, where: NDArray[np.bool_]) -> float:
    if image is None or not where.any():
        return float("nan")
    return float(np.sqrt(np.mean(image[where] ** 2)))
