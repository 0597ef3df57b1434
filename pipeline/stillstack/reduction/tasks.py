"""The Dask graph of a reduction: pieces, a tree that merges them, and what is made of each group.

Built batch by batch, and by any scheduler computed to the same bits: the tree's shape follows from
the frames alone. Keys name what they stand for, so two builds have equal names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dask.delayed import Delayed, delayed

from stillstack.reduction.aligned_frames import Job
from stillstack.reduction.middle import median_bands, middle_band, stacked
from stillstack.reduction.outlying import clip_limits
from stillstack.reduction.pieces import Piece, batches_of, piece_of_group, pieces_of
from stillstack.reduction.request import CLIPPED, MEDIAN, Request
from stillstack.reduction.selection import Selection
from stillstack.reduction.summary_images import nothing, summarise_group
from stillstack.reduction.sums import add_piece, merge_sums
from stillstack.sources import Source

# Sums that one task merges: each waits in memory until all of them are there.
_MERGED_AT_ONCE: Final = 4


@dataclass(frozen=True, eq=False)
class Work:
    """A reduction that is ready to be built into graphs.

    Parameters
    ----------
    request, selection, source, job
        What is asked for, which frames, where they are, and what all tasks have in common.
    median_bytes
        Memory that one task may take for a median.
    digest
        Names all of it.
    """

    request: Request
    selection: Selection
    source: Source
    job: Job
    median_bytes: int
    digest: str

    @property
    def batches(self) -> tuple[tuple[int, ...], ...]:
        """Groups that are reduced together; those without frames are in none."""
        return batches_of(self.selection, self.source)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of each image."""
        return self.job.resampling.shape


def batch_tasks(work: Work, batch: Sequence[int], n_batches: int) -> dict[int, Delayed]:
    """Lazy values of all variables, for each group of a batch.

    Parameters
    ----------
    work
        The reduction.
    batch
        Groups, from ``work.batches``.
    n_batches
        How many batches there are.
    """
    pieces = pieces_of(work.selection, work.source, batch, n_batches)
    name = f"{work.digest}-{batch[0]}"
    sums = _merged([_added(work, p, i, name) for i, p in enumerate(pieces)], f"merge-{name}")
    clipped = None
    if CLIPPED in work.request.statistics:
        limits = delayed(clip_limits)(sums, work.request.clip_sigma, dask_key_name=f"limits-{name}")
        again = [_added(work, p, i, name, limits) for i, p in enumerate(pieces)]
        clipped = _merged(again, f"merge-clipped-{name}")
    return {group: _summary(work, group, sums, clipped) for group in batch}


def empty_task(work: Work, group: int) -> Delayed:
    """Lazy values of all variables for a group without frames."""
    found: Delayed = delayed(nothing)(
        work.request, work.shape, dask_key_name=("summarise-" + work.digest, group)
    )
    return found


def _added(work: Work, piece: Piece, i: int, name: str, limits: Delayed | None = None) -> Delayed:
    kind = "add" if limits is None else "add-clipped"
    # a tuple puts all pieces into one group of tasks, which a scheduler holds back until needed
    key = (f"{kind}-{work.digest}", f"{name}-{i}")
    added: Delayed = delayed(add_piece)(work.job, piece, limits, dask_key_name=key)
    return added


def _merged(parts: list[Delayed], name: str) -> Delayed:
    """Merge in a tree, neighbours first."""
    level = 0
    while len(parts) > 1:
        level += 1
        groups = [parts[i : i + _MERGED_AT_ONCE] for i in range(0, len(parts), _MERGED_AT_ONCE)]
        parts = [
            delayed(merge_sums)(*group, dask_key_name=f"{name}-{level}-{i}")
            for i, group in enumerate(groups)
        ]
    return parts[0]


def _summary(work: Work, group: int, sums: Delayed, clipped: Delayed | None) -> Delayed:
    median = None
    if MEDIAN in work.request.statistics:
        piece = piece_of_group(work.selection, work.source, group)
        bands = [
            delayed(middle_band)(
                work.job, piece, sums, band, dask_key_name=f"median-{work.digest}-{group}-{i}"
            )
            for i, band in enumerate(
                median_bands(work.job, len(work.selection.groups[group]), work.median_bytes)
            )
        ]
        median = delayed(stacked)(*bands, dask_key_name=f"median-{work.digest}-{group}")
    found: Delayed = delayed(summarise_group)(
        work.request,
        group,
        sums,
        clipped,
        median,
        dask_key_name=("summarise-" + work.digest, group),
    )
    return found
