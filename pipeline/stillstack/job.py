"""What the blocks of one pass have in common, and what a task carries beside it.

A job travels to each worker once and stays in its process; a task carries only the job's digest and
which block to do.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from distributed import WorkerPlugin
from numpy.typing import NDArray

from stillstack.address import Address
from stillstack.errors import RunFaultError
from stillstack.kept_references import KeptReference
from stillstack.model import Rows
from stillstack.sources import SelectedSource, Source, SummedSource, stretches
from stillstack.stacks import Canvas
from stillstack.storage import BlockRecord, BlockWriter


@dataclass(frozen=True)
class Job:
    """Everything that blocks of one run have in common; small, and it pickles.

    Parameters
    ----------
    digest
        Names the job among the others in a worker.
    source
        The raw frames.
    store_path
        The run's store, where workers find the reference.
    reference
        The one that they must find there.
    writer
        Writes blocks of aligned frames; None where only shifts are wanted.
    aligned_dtype
        dtype of aligned frames.
    interpolation
        How frames are resampled.
    canvas
        Window of the input that is written; None for all of it.
    fingerprint
        Of the source when the run was started.
    groups
        References that frames are registered to, where each group of frames has its own.
    group_of
        Which of them, for every frame of the source.
    unseen
        Whether no frame has been looked at by itself, since sums were registered.
    """

    digest: str
    source: Source
    store_path: str | Address
    reference: KeptReference
    writer: BlockWriter | None
    aligned_dtype: str | None
    interpolation: str
    canvas: Canvas | None
    fingerprint: str
    groups: tuple[KeptReference, ...] = ()
    group_of: NDArray[np.int32] | None = None
    unseen: bool = False

    def frame_number(self, place: int) -> int:
        """Number of a frame of the run, by its place in the source; of a sum, of its first."""
        if isinstance(self.source, SelectedSource):
            return int(self.source.numbers[place])
        return self.source.ranges[place][0] if isinstance(self.source, SummedSource) else place

    def references_for(self, block: Block) -> tuple[tuple[KeptReference, int, int], ...]:
        """References that the frames of a block are registered to, and ranges of these frames."""
        if self.group_of is None:
            return tuple((self.reference, *stretch) for stretch in block.stretches)
        found = []
        for start, stop in block.stretches:
            groups = self.group_of[start:stop]
            edges = [0, *(np.flatnonzero(np.diff(groups)) + 1), len(groups)]
            for first, last in itertools.pairwise(int(edge) for edge in edges):
                found.append((self.groups[groups[first]], start + first, start + last))
        return tuple(found)


@dataclass(frozen=True)
class Block:
    """One unit of work.

    Parameters
    ----------
    index, start, stop
        Which block, and its frames.
    rows
        Its rows of the table, where they are known already.
    set_aside
        Frames that must not be touched, and why.
    excluded
        Frames that the config leaves out: they are not read.
    """

    index: int
    start: int
    stop: int
    rows: Rows | None = None
    set_aside: Mapping[int, str] = field(default_factory=dict)
    excluded: tuple[int, ...] = ()

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """Ranges of its frames that are read."""
        if not self.excluded:
            return [(self.start, self.stop)]
        return stretches(n for n in range(self.start, self.stop) if n not in self.excluded)


@dataclass(frozen=True)
class BlockResult:
    """What comes back: the record for the ledger, and why frames were set aside."""

    record: BlockRecord
    reasons: Mapping[int, str]


_JOBS: Final[dict[str, Job]] = {}


class JobPlugin(WorkerPlugin):
    """Brings a job to every worker, also to those that join later."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.name = f"stillstack-job-{job.digest}"

    def setup(self, worker: Any) -> None:
        """Keep the job in the worker's process."""
        del worker
        _JOBS[self.job.digest] = self.job

    def teardown(self, worker: Any) -> None:
        """Forget the job."""
        del worker
        _JOBS.pop(self.job.digest, None)


def job_named(digest: str) -> Job:
    """Job that this worker was given under a digest.

    Raises
    ------
    RunFaultError
        If it was not given it.
    """
    if digest not in _JOBS:
        raise RunFaultError(
            f"A worker has not been given the job {digest}.", cure="Run the same command again."
        )
    return _JOBS[digest]
