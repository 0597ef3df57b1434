"""Sums of neighbouring frames, as a source of their own: what few counts do not show, many do."""

from __future__ import annotations

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
    """Running sums: frame ``j`` is the sum of the raw frames ``j * stride`` to ``j * stride + k``.

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
    k
        Frames in a sum.
    stride
        Frames from one sum to the next; ``k`` for sums that share no frame, 1 for a running sum.
    left_out
        Numbers of raw frames that are not read.
    rules
        Values of raw frames that do not count.

    Raises
    ------
    InputError
        When ``k`` or ``stride`` makes no sense for the source.

    Examples
    --------
    >>> import tempfile
    >>> from stillstack.sources import open_source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/frames.npy", np.arange(7, dtype="u2").repeat(4).reshape(7, 2, 2))
    ...     sums = SummedSource(open_source(f"{folder}/frames.npy"), k=3, stride=2)
    ...     sums.read(0, 3)[:, 0, 0], sums.numbers.tolist()
    (array([ 3,  9, 15], dtype=uint32), [[0, 1, 2], [2, 3, 4], [4, 5, 6]])
    """

    whole: Source
    k: int
    stride: int
    left_out: frozenset[int] = frozenset()
    rules: ValueRules = _NO_RULES

    def __post_init__(self) -> None:
        n_frames = self.whole.shape[0]
        if not 1 <= self.k <= n_frames or self.stride < 1:
            raise InputError(
                f"Sums of {self.k} frames every {self.stride} were asked of {self.whole.name}, "
                f"which has {n_frames}.",
                cure=f"Sum 1 to {n_frames} frames, every 1 or more.",
            )

    @property
    def name(self) -> str:
        """Short name for messages."""
        return f"sums of {self.k} frames of {self.whole.name}"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sums, rows, columns. Frames at the end that fill no sum are in none."""
        n_frames, height, width = self.whole.shape
        return ((n_frames - self.k) // self.stride + 1, height, width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Smallest type of 32 bits or more that holds every sum; float32 stays."""
        raw = np.dtype(self.whole.dtype)
        if raw.kind == "f":
            return np.dtype(np.float64 if raw.itemsize > 4 else np.float32)
        largest = self.k * int(np.iinfo(raw).max)
        small = np.dtype(np.uint32 if raw.kind == "u" else np.int32)
        # the type's largest value is kept for what is saturated
        return small if largest < np.iinfo(small).max else np.dtype(f"{raw.kind}8")

    @property
    def chunk_frames(self) -> int:
        """Sums that begin in one stored piece of the source."""
        return max(1, self.whole.chunk_frames // self.stride)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Raw frames of each sum, shape (frame, k), those left out included."""
        return self.stride * np.arange(self.shape[0])[:, None] + np.arange(self.k)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Frames that are not left out of each sum, shape (frame,): readable ones or not."""
        return np.asarray(self._used().sum(axis=1))

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """Mean ``time`` of the frames of each sum; others where all frames of each sum agree."""
        used = self._used()
        found: dict[str, NDArray[Any]] = {}
        for name, values in self.whole.coords.items():
            each = np.asarray(values)[self.numbers]
            if name == _TIME and each.dtype.kind in "Mmiuf":
                found[name] = _mean_time(each, used)
            elif (each == each[:, :1]).all():
                found[name] = each[:, 0]
        return found

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Of the source, and how many frames were added."""
        return {**self.whole.attrs, "summed_frames": self.k, "stride": self.stride}

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
        for number, frame in self._frames(start * self.stride, (stop - 1) * self.stride + self.k):
            bad = offending(frame, self.rules)
            # sums j with j * stride <= number < j * stride + k
            first = max(start, -(-(number - self.k + 1) // self.stride))
            for j in range(first, min(stop, number // self.stride + 1)):
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
        return f"{self.k} {self.stride} {sorted(self.left_out)} {self.rules}"

    def _used(self) -> NDArray[np.bool_]:
        return ~np.isin(self.numbers, sorted(self.left_out))

    def _frames(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Raw frames that are in a sum and can be read, with their numbers."""
        for first, last in pieces(self.whole, start, stop):
            in_sums = (n for n in range(first, last) if n % self.stride < self.k)
            for begin, end in stretches(n for n in in_sums if n not in self.left_out):
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


def _mean_time(each: NDArray[Any], used: NDArray[np.bool_]) -> NDArray[Any]:
    """Mean over the frames that are used; over all where none is."""
    used = used | ~used.any(axis=1, keepdims=True)
    clock = each.dtype.kind in "Mm"
    each = each if clock else each.astype(np.float64)
    first = each[:, :1]
    away = each - first  # small, so that nanoseconds keep their digits
    mean = np.where(used, away.astype(np.float64), 0.0).sum(axis=1) / used.sum(axis=1)
    step = np.rint(mean).astype(np.int64).astype(away.dtype) if clock else mean
    return np.asarray(first[:, 0] + step)
