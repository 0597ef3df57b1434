"""Makes the reference of a run out of its frames.

Everything here happens once, by the coordinator, and sums in a fixed order, so that the same frames
give the same reference, bit for bit. Memory is bounded by the frames in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import compute
from numpy.typing import NDArray

from stillstack import graph
from stillstack.config import ReferenceConfig
from stillstack.errors import InputError, UnreadableFrameError
from stillstack.exclusion import kept_numbers
from stillstack.kernels.registration import Reference, prepare_reference
from stillstack.kernels.validity import ValueRules
from stillstack.model import AXIS, FRAME, REJECTING, is_good
from stillstack.reference_image import ReferenceImage, frame_statistics
from stillstack.refinement_rounds import SETTLED, Placed, change_words
from stillstack.sampling import SpreadSource, ordinary, spread_numbers
from stillstack.sources import Source, image_of, stack_of
from stillstack.sources.values import offending

Compute = Callable[..., tuple[Any, ...]]
"""``dask.compute``, or the same bound to a scheduler."""

Image = NDArray[np.float32]
Valid = NDArray[np.bool_]

_GROUP: Final = 64
_CANDIDATES: Final = 5
_MEDIAN_BYTES: Final = 2**30
# An average over half of the frames has 1.4 times the noise of one over all of them; a pixel that
# fewer frames saw is left out, because the reference has one noise level.
_MIN_COVERAGE: Final = 0.5
_MEDIAN_EFFICIENCY: Final = 2 / np.pi


def in_threads(*collections: Any) -> tuple[Any, ...]:
    """Compute in this process, on all cores, whatever Client is active."""
    found: tuple[Any, ...] = compute(*collections, scheduler="threads")
    return found


@dataclass(frozen=True, eq=False)
class ReferenceMaker:
    """What every way of making a reference needs.

    Parameters
    ----------
    source
        The raw frames.
    config
        Section ``reference``.
    valid
        Static valid pixels of the raw frames.
    reference_valid
        Valid pixels of the reference, where the config names other ones than the frames';
        None: the frames'.
    settings
        Keywords of :func:`~stillstack.kernels.registration.prepare_reference`.
    compute
        ``dask.compute``, bound to a scheduler; by default threads of this process.
    left_out
        Boolean (frame,), True for a frame that the config leaves out; None where none is.
    """

    source: Source
    config: ReferenceConfig
    valid: Valid
    reference_valid: Valid | None
    settings: Mapping[str, Any]
    compute: Compute = in_threads
    left_out: NDArray[np.bool_] | None = None

    def make(self) -> ReferenceImage:
        """Make the reference image that the config asks for, refined as often as it says."""
        if self.config.kind == "mean" and self.config.most_rounds > 0:
            made, before = self._from_best_start()
            done = 1
        else:
            made, before, done = self.first_image(), None, 0
        return self._refined(self._restricted(made).refuse_blank(), before, done)

    def like(self, n_frames: int, rows: NDArray[np.void] | None = None) -> ReferenceImage:
        """Make an image of a few frames that is as sharp as the one that is to be made.

        What is done with a reference takes as long with it: a blurred one would take longer. With
        the ``rows`` of a table its shifts are taken, as by `averaged`.
        """
        wanted = self.config.frames
        frames = n_frames if isinstance(wanted, str) else min(n_frames, wanted)
        fewer = {"frames": frames, "refine": min(1, self.config.most_rounds)}
        maker = replace(self, config=self.config.model_copy(update=fewer))
        return maker.make() if rows is None else maker.averaged(rows)

    def averaged(self, rows: NDArray[np.void]) -> ReferenceImage:
        """Mean of the spread frames that have a shift in a table, moved by it."""
        good = is_good(rows["status"])
        numbers = tuple(number for number in self.numbers if good[number])
        if not numbers:
            raise InputError(
                f"None of the {len(self.numbers)} frames that the reference is made of has a shift "
                "among those given.",
                cure="Choose another range in the section reference of the config.",
            )
        chosen = rows[list(numbers)]
        # which pixels are struck is told by a reference, and there is none yet
        table = xr.Dataset(
            {
                "shift": ((FRAME, AXIS), chosen["shift"]),
                "status": (FRAME, chosen["status"] & REJECTING),
            }
        )
        made = replace(self._restricted(self._single(numbers[0])), notes=("shifts as given",))
        mean = self._aligned_mean(made, self.prepared(made), numbers, table)
        return self._restricted(mean).refuse_blank()

    def first_image(self) -> ReferenceImage:
        """Image before any refinement."""
        match self.config.kind:
            case "first":
                return self._single(int(self._kept(0, self.source.shape[0])[0]))
            case "index":
                return self._single(self._chosen(int(self.config.index or 0)))
            case "image":
                return self._external(str(self.config.path))
            case "median":
                return self._median()
            case _:
                return self._mean()

    def located(self, made: ReferenceImage) -> xr.Dataset:
        """Shifts of the spread frames onto an image, with errors and status."""
        return self._table(self.prepared(made), self.numbers)

    def prepared(self, made: ReferenceImage) -> Reference:
        """Prepare an image for registration."""
        return prepare_reference(
            made.image,
            made.valid,
            frame_valid=self.valid,
            n_frames=made.n_frames,
            **self.settings,
        )

    @property
    def numbers(self) -> tuple[int, ...]:
        """Frames that means are made of."""
        stop = min(self.config.stop or self.source.shape[0], self.source.shape[0])
        wanted = self.config.frames
        kept = self._kept(self.config.start, stop)
        places = spread_numbers(0, len(kept), stop if isinstance(wanted, str) else int(wanted))
        return tuple(int(kept[place]) for place in places)

    def _kept(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the numbers of a range that are not left out, one or more."""
        kept = kept_numbers(self.left_out, start, stop)
        if not kept.size:
            raise InputError(
                f"The reference is to be made of frames {start} to {stop - 1}, and the section "
                "exclude leaves out all of them.",
                cure="Choose another range in the section reference of the config.",
            )
        return kept

    def _chosen(self, number: int) -> int:
        """Return the number of a frame that was named, unless it is left out."""
        if self.left_out is not None and self.left_out[number]:
            raise InputError(
                f"The reference is frame {number}, which the section exclude leaves out.",
                cure="Choose another frame in the section reference of the config.",
            )
        return number

    def _restricted(self, made: ReferenceImage) -> ReferenceImage:
        if self.reference_valid is None:
            return made
        return replace(made, valid=made.valid & self.reference_valid)

    def _single(self, number: int) -> ReferenceImage:
        try:
            frame = self.source.read(number, number + 1)
        except UnreadableFrameError as error:
            raise InputError(
                f"The reference, frame {number}, cannot be read: {error.what}",
                cure="Choose another frame in the section reference of the config.",
            ) from error
        total, count = self._mean_of(xr.DataArray(frame, dims=("frame", "y", "x")))
        return ReferenceImage(_divided(total, count), count > 0, 1, (f"frame {number}",))

    def _external(self, path: str) -> ReferenceImage:
        image = image_of(path)
        if image.shape != self.source.shape[1:]:
            raise InputError(
                f"The reference image {path} has shape {image.shape}, the frames "
                f"{tuple(self.source.shape[1:])}.",
                cure="Give an image of the frames' shape.",
            )
        valid = np.isfinite(image)
        if self.reference_valid is None:
            valid &= self.valid
        return ReferenceImage(image.astype(np.float32), valid, 1, (f"image {path}",))

    def _mean(self) -> ReferenceImage:
        """Mean of the spread frames as they lie, without those that are plainly bad."""
        numbers = self._ordinary_numbers()
        total = np.zeros(self.valid.shape)
        count = np.zeros(self.valid.shape, np.int64)
        for group in _groups(numbers):
            group_total, group_count = self._mean_of(self._stack(group))
            total += group_total
            count += group_count
        made = _average(total, count)
        return replace(made, notes=(f"mean of {len(numbers)} frames",))

    def _median(self) -> ReferenceImage:
        numbers = self._ordinary_numbers()
        frame_bytes = self.valid.size * np.dtype(self.source.dtype).itemsize
        if len(numbers) > max(1, _MEDIAN_BYTES // frame_bytes):
            numbers = spread_numbers(0, len(numbers), max(1, _MEDIAN_BYTES // frame_bytes))
        frames = np.concatenate([self.source.read(number, number + 1) for number in numbers])
        below, above = self.settings.get("below"), self.settings.get("above")
        rules = ValueRules(below, above, tuple(self.settings.get("equal", ())))
        bad = offending(frames, rules)
        image = np.empty(self.valid.shape, np.float32)
        for y in range(len(image)):  # one row at a time: the median copies what it is given
            if bad is None or not bad[:, y].any():
                image[y] = np.median(frames[:, y], axis=0)
            else:
                counted = np.ma.masked_array(frames[:, y].astype(np.float64), bad[:, y])
                image[y] = np.ma.median(counted, axis=0).filled(np.nan)
        n_frames = max(1, round(len(numbers) * _MEDIAN_EFFICIENCY))
        valid = self.valid & np.isfinite(image)
        return ReferenceImage(image, valid, n_frames, (f"median of {len(numbers)} frames",))

    def _from_best_start(self) -> tuple[ReferenceImage, Placed | None]:
        """Mean of the spread frames, aligned to the one among them that most agree with.

        The mean of frames that have not been aligned is as blurred as the drift is large, so the
        start is one sharp frame: the ordinary one nearest to the middle of the range. If fewer than
        half of the others are good against it, it was a bad one, and the next is tried. With it,
        where the frames were.
        """
        numbers = self._ordinary_numbers()
        middle = (numbers[0] + numbers[-1]) / 2
        starts = sorted(numbers, key=lambda number: (abs(number - middle), number))
        best: tuple[int, ReferenceImage, Reference, xr.Dataset] | None = None
        for start in starts[:_CANDIDATES]:
            made = self._restricted(self._single(start))
            reference = self.prepared(made.refuse_blank())
            table = self._table(reference, numbers)
            n_good = int(is_good(table.status).sum())
            if best is None or n_good > best[0]:
                best = (n_good, made, reference, table)
            if n_good >= len(numbers) / 2:
                break
        if best is None or best[0] == 0:
            return self._restricted(self._single(starts[0])), None
        _, made, reference, table = best
        made = self._centred(self._aligned_mean(made, reference, numbers, table), table)
        return made, Placed(numbers, table)

    def _refined(self, made: ReferenceImage, before: Placed | None, done: int) -> ReferenceImage:
        """Average of the spread frames that are good, again and again.

        ``before`` is where they were in the round before, ``done`` how many rounds there were.
        """
        by_itself = self.config.refine == "auto"
        change = float("nan")
        for number in range(done, self.config.most_rounds):
            reference = self.prepared(made)
            placed = Placed(self.numbers, self._table(reference, self.numbers))
            change = float("nan") if before is None else placed.change(before)
            if by_itself and change < SETTLED:
                return made.noted(f"settled after {number} rounds: {change_words(change)}")
            if not bool(is_good(placed.table.status).any()):
                return made.noted("no frame was good enough to refine with")
            made = self._aligned_mean(made, reference, placed.numbers, placed.table)
            made, before = self._restricted(made).refuse_blank(), placed
        if by_itself:
            made = made.noted(
                f"not settled after {self.config.most_rounds} rounds: {change_words(change)}"
            )
        return made

    def _aligned_mean(
        self,
        made: ReferenceImage,
        reference: Reference,
        numbers: tuple[int, ...],
        table: xr.Dataset,
    ) -> ReferenceImage:
        good = np.flatnonzero(is_good(table.status.values))
        total = np.zeros(self.valid.shape)
        count = np.zeros(self.valid.shape, np.int64)
        for group in _groups(tuple(good)):
            rows = table.isel(frame=list(group)).drop_vars("frame", errors="ignore")
            stack = self._stack(tuple(numbers[i] for i in group))
            moved = graph.align(stack, rows, reference=reference).data
            group_total, group_count = self.compute(
                da.nansum(moved, axis=0, dtype=np.float64),
                da.isfinite(moved).sum(axis=0, dtype=np.int64),
            )
            total += group_total
            count += group_count
        average = _average(total, count)
        return replace(
            average, notes=(*made.notes, f"mean of {len(good)} of {len(numbers)} frames, aligned")
        )

    def _centred(self, made: ReferenceImage, table: xr.Dataset) -> ReferenceImage:
        """Move the image by whole pixels so that frames lie around it on all sides.

        Shifts are limited to ``max_shift_px``; measured from the middle of the drift, twice as much
        drift fits.
        """
        good = is_good(table.status.values)
        dy, dx = np.rint(-np.median(table["shift"].values[good], axis=0)).astype(int)
        return made.displaced((int(dy), int(dx)))

    def _table(self, reference: Reference, numbers: tuple[int, ...]) -> xr.Dataset:
        lazy = [graph.register(self._stack(group), reference) for group in _groups(numbers)]
        tables = [self.compute(table)[0] for table in lazy]
        names = ["shift", "shift_std", "status"]
        found: xr.Dataset = xr.concat(
            [table[names] for table in tables],
            "frame",
            combine_attrs="drop",
        )
        return found

    def _ordinary_numbers(self) -> tuple[int, ...]:
        numbers = self.numbers
        statistics = [
            frame_statistics(SpreadSource(self.source, (number,)).read(0, 1)[0], self.valid)
            for number in numbers
        ]
        kept = ordinary(statistics)
        if not kept.any():
            raise InputError(
                f"The reference would be blank: none of the {len(numbers)} frames that it is "
                "made of shows anything.",
                consequence="No frame can be registered to it.",
                cure="Choose another range in the section reference of the config.",
            )
        return tuple(number for number, keep in zip(numbers, kept, strict=True) if keep)

    def _stack(self, numbers: tuple[int, ...]) -> xr.DataArray:
        return stack_of(SpreadSource(self.source, numbers), chunk_frames=1)

    def _mean_of(self, stack: xr.DataArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Sum and count of each pixel's values that the frames' rules allow."""
        frames = da.asarray(stack.data)
        counted = da.isfinite(frames) & self.valid
        below, above = self.settings.get("below"), self.settings.get("above")
        if below is not None:
            counted &= frames >= below
        if above is not None:
            counted &= frames <= above
        elif np.issubdtype(frames.dtype, np.integer):
            counted &= frames < np.iinfo(frames.dtype).max
        for value in self.settings.get("equal", ()):
            counted &= frames != value
        total, count = self.compute(
            da.where(counted, frames, 0).sum(axis=0, dtype=np.float64),
            counted.sum(axis=0, dtype=np.int64),
        )
        return total, count


def _groups(numbers: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return frames in groups, so that a graph stays small whatever their number."""
    return [numbers[i : i + _GROUP] for i in range(0, len(numbers), _GROUP)]


def _divided(total: NDArray[np.float64], count: NDArray[np.int64]) -> Image:
    return (total / np.maximum(count, 1)).astype(np.float32)


def _average(total: NDArray[np.float64], count: NDArray[np.int64]) -> ReferenceImage:
    valid = count >= max(1.0, _MIN_COVERAGE * float(count.max(initial=0)))
    n_frames = int(np.median(count[valid])) if valid.any() else 1
    return ReferenceImage(_divided(total, count), valid, max(1, n_frames))
