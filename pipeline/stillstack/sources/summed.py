"""Sums of neighbouring frames, as a source of their own: what few counts do not show, many do."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.errors import InputError, UnreadableFrameError
from stillstack.kernels.validity import ValueRules
from stillstack.sources.fingerprint import digest
from stillstack.sources.guard import unreadable
from stillstack.sources.protocol import Source
from stillstack.sources.selected import token_of
from stillstack.sources.stretches import pieces, stretches
from stillstack.sources.values import offending

_TIME: Final = "time"
_NO_RULES: Final = ValueRules()


@dataclass(frozen=True)
class SummedSource:
    """Sums of neighbouring frames: frame ``j`` is the sum of the raw frames of ``ranges[j]``.

    Sums of integers are exact; those of floating-point frames are added up in double precision and
    rounded once. A pixel that does not count in one of the frames (saturated, not finite, outside
    the rules) does not count in the sum: it has the type's largest value, or NaN, so that the sum
    is never too small there. Rules about values have been followed then, and do not apply to sums.

    A frame that cannot be read, or that is left out, is missing in its sums, and these are not
    scaled up: their noise is that of their counts, and registration fits the intensity.
    :meth:`read_counted` says how many frames each sum has; one without any is unreadable.

    Parameters
    ----------
    whole
        The raw frames.
    ranges
        First raw frame of each sum, and the one after its last; both ascending.
    left_out
        Numbers of raw frames that are not read.
    rules
        Values of raw frames that do not count.

    Raises
    ------
    InputError
        When there are no sums, or the source does not have their frames.

    Examples
    --------
    >>> import tempfile
    >>> from stillstack.sources import open_source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/frames.npy", np.arange(7, dtype="u2").repeat(4).reshape(7, 2, 2))
    ...     sums = SummedSource(open_source(f"{folder}/frames.npy"), ((0, 3), (2, 5), (4, 7)))
    ...     sums.read(0, 3)[:, 0, 0]
    array([ 3,  9, 15], dtype=uint32)
    """

    whole: Source
    ranges: tuple[tuple[int, int], ...]
    left_out: frozenset[int] = frozenset()
    rules: ValueRules = _NO_RULES

    def __post_init__(self) -> None:
        n_frames, ranges = self.whole.shape[0], self.ranges
        ascending = all(a <= c and b <= d for (a, b), (c, d) in itertools.pairwise(ranges))
        if not ranges or not ascending or not all(0 <= a < b <= n_frames for a, b in ranges):
            raise InputError(
                f"Sums over {len(ranges)} ranges of frames were asked of {self.whole.name}, which "
                f"has frames 0 to {n_frames - 1}.",
                cure="Give ascending ranges of frames that there are.",
            )

    @property
    def most(self) -> int:
        """Frames of the largest sum."""
        return max(stop - start for start, stop in self.ranges)

    @property
    def name(self) -> str:
        """Short name for messages."""
        return f"sums of {self.most} frames of {self.whole.name}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sums, rows, columns."""
        _, height, width = self.whole.shape
        return (len(self.ranges), height, width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Smallest type of 32 bits or more that holds every sum; float32 stays."""
        raw = np.dtype(self.whole.dtype)
        if raw.kind == "f":
            return np.dtype(np.float64 if raw.itemsize > 4 else np.float32)
        largest = self.most * int(np.iinfo(raw).max)
        small = np.dtype(np.uint32 if raw.kind == "u" else np.int32)
        # the type's largest value is kept for what is saturated
        return small if largest < np.iinfo(small).max else np.dtype(f"{raw.kind}8")

    @property
    def chunk_frames(self) -> int:
        """Sums that begin in one stored piece of the source."""
        steps = max(1, self.whole.shape[0] // len(self.ranges))
        return max(1, self.whole.chunk_frames // steps)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Frames that are not left out of each sum, shape (frame,): readable ones or not."""
        used = np.concatenate([[0], np.cumsum(self._used(), dtype=np.int64)])
        starts, stops = np.array(self.ranges).T
        return np.asarray(used[stops] - used[starts])

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """Mean ``time`` of the frames of each sum; others where all frames of each sum agree."""
        used = self._used()
        found: dict[str, NDArray[Any]] = {}
        for name, given in self.whole.coords.items():
            values = np.asarray(given)
            if name == _TIME and values.dtype.kind in "Mmiuf":
                means = [_mean_time(values[a:b], used[a:b]) for a, b in self.ranges]
                found[name] = np.array(means)
            elif all((values[a:b] == values[a]).all() for a, b in self.ranges):
                found[name] = values[[a for a, _ in self.ranges]]
        return found

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Of the source, and how many frames were added."""
        return {**self.whole.attrs, "summed_frames": self.most}

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Sums ``start`` to ``stop``; each raw frame is read once.

        Raises
        ------
        UnreadableFrameError
            When one of them has no frame that can be read.
        """
        return self.read_counted(start, stop)[0]

    def read_counted(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Sums as :meth:`read` returns them, and of how many frames each is."""
        floating = self.dtype.kind == "f"
        totals = np.zeros((stop - start, *self.shape[1:]), np.float64 if floating else self.dtype)
        spoilt = np.zeros(totals.shape, bool)
        counts = np.zeros(stop - start, np.int64)
        begins, ends = zip(*self.ranges[start:stop], strict=True)
        for number, frame in self._frames(start, stop):
            bad = offending(frame, self.rules)
            # sums that begin at this frame or before it, and end after it
            first = start + bisect.bisect_right(ends, number)
            for j in range(first, start + bisect.bisect_right(begins, number)):
                totals[j - start] += frame if bad is None else np.where(bad, 0, frame)
                counts[j - start] += 1
                if bad is not None:
                    spoilt[j - start] |= bad
        if not counts.all():
            j = start + int(np.flatnonzero(counts == 0)[0])
            raise unreadable(f"Sum {j} of {self.name}", "none of its frames can be")
        sums = totals.astype(self.dtype, copy=False)
        sums[spoilt] = np.nan if floating else np.iinfo(self.dtype).max
        return sums, counts

    def fingerprint(self) -> str:
        """Of the source and the way of summing."""
        return digest([self.whole.fingerprint(), self._how()])

    @property
    def token(self) -> str:
        """Names the sums in graphs, without looking at the source again."""
        return digest([type(self).__name__, token_of(self.whole), self._how()])

    def _how(self) -> str:
        return f"{self.ranges} {sorted(self.left_out)} {self.rules}"

    def _used(self) -> NDArray[np.bool_]:
        used = np.ones(self.whole.shape[0], np.bool_)
        used[sorted(self.left_out)] = False
        return used

    def _frames(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Raw frames that are in a sum and can be read, with their numbers."""
        ranges = self.ranges[start:stop]
        in_sums = {n for a, b in ranges for n in range(a, b)} - self.left_out
        for first, last in pieces(self.whole, ranges[0][0], ranges[-1][1]):
            for begin, end in stretches(n for n in range(first, last) if n in in_sums):
                yield from self._readable(begin, end)

    def _readable(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
        try:
            frames = self.whole.read(start, stop)
        except UnreadableFrameError:
            if stop - start > 1:
                for number in range(start, stop):
                    yield from self._readable(number, number + 1)
            return
        yield from enumerate(frames, start)


def running_sums(whole: Source, k: int, stride: int) -> SummedSource:
    """Sums of k frames each, ``stride`` from one to the next; a rest that fills none is in none.

    Raises
    ------
    InputError
        When ``k`` or ``stride`` makes no sense for the source.
    """
    n_frames = whole.shape[0]
    if not 1 <= k <= n_frames or stride < 1:
        raise InputError(
            f"Sums of {k} frames every {stride} were asked of {whole.name}, which has {n_frames}.",
            cure=f"Sum 1 to {n_frames} frames, every 1 or more.",
        )
    starts = range(0, n_frames - k + 1, stride)
    return SummedSource(whole, tuple((start, start + k) for start in starts))


def _mean_time(each: NDArray[Any], used: NDArray[np.bool_]) -> Any:
    """Mean over the frames that are used; over all where none is."""
    used = used if used.any() else ~used
    clock = each.dtype.kind in "Mm"
    each = each if clock else each.astype(np.float64)
    away = (each - each[0])[used]  # small, so that nanoseconds keep their digits
    mean = away.astype(np.float64).mean()
    return each[0] + (np.rint(mean).astype(np.int64).astype(away.dtype) if clock else mean)
