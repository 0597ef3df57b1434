"""How long a run will take, and what limits it: arithmetic on a layout and a calibration.

Workers take the blocks' time, divided among them. The coordinator, with the scheduler in it, takes
a little for every block, which cannot be divided: where that is as much as the workers bring, more
workers do not help. ``tests/benchmarks/scaling.py`` holds the cost of a block against runs of 1,000
to 100,000 blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from stillstack.calibration import Calibration
from stillstack.config import ReferenceConfig
from stillstack.layout import Layout, read_amplification
from stillstack.memory import coordinator_floor

COORDINATOR_SECONDS_PER_BLOCK: Final = 0.008
"""CPU of the coordinator, scheduler included, for one block whatever its size."""

WORKER_SECONDS_PER_BLOCK: Final = 0.005
"""What a worker spends around the work on a block."""

CLUSTER_SECONDS: Final = 2.0
"""To start a scheduler and workers on this machine, beside what they import."""

# Where every core is busy a block takes longer than alone: what was written goes to the disk, event
# loops wake up, memory and caches are shared. 1.02 to 1.23 times, as planning.py measured.
_CROWDED: Final = 1.1

# From where on the coordinator is said to be what limits a run.
_FULL: Final = 0.8
_LEDGER_BYTES_PER_BLOCK: Final = 350
_LEDGER_BYTES_PER_FRAME: Final = 130
_LEDGER_BYTES_PER_OBJECT: Final = 60

Limit = Literal["workers", "coordinator", "starting"]


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take.

    Parameters
    ----------
    workers
        Worker processes.
    starting
        Seconds until the first block is begun: imports, the plan, the reference, the cluster.
    working
        Seconds from then on.
    coordinator_load
        Part of its time that the coordinator is busy while blocks are done, 0 to 1.
    tasks_per_second
        Blocks that finish in a second.
    most_workers
        Workers that the coordinator can keep busy.
    limit
        What the time goes into, or is bound by.
    output_bytes
        Bytes of aligned frames, if they compress as the first block does.
    ledger_bytes
        Bytes of the ledgers.
    coordinator_bytes
        Memory of the coordinator while blocks are done.
    """

    workers: int
    starting: float
    working: float
    coordinator_load: float
    tasks_per_second: float
    most_workers: int
    limit: Limit
    output_bytes: int
    ledger_bytes: int
    coordinator_bytes: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.starting + self.working

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rounded = {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in vars(self).items()
        }
        return {"seconds": round(self.seconds, 2), **rounded}


def forecast(
    layout: Layout,
    measured: Calibration,
    reference: ReferenceConfig,
    workers: int,
    *,
    source_chunk: int = 1,
    cores: int = 0,
) -> Forecast:
    """Time that a run takes with so many workers.

    Parameters
    ----------
    layout
        How it is cut up.
    measured
        What the first block took.
    reference
        How the reference is made.
    workers
        Worker processes of one thread.
    source_chunk
        Frames in a chunk of the source.
    cores
        Cores that workers and coordinator share; 0 where each worker has one of its own and the
        coordinator too.
    """
    block = block_seconds(layout, measured, source_chunk)
    passes = len(layout.stages)
    n_blocks = layout.n_blocks * passes
    at_once = max(1, min(workers, layout.n_blocks))
    busy = COORDINATOR_SECONDS_PER_BLOCK * n_blocks
    rounds = -(-layout.n_blocks // at_once) * passes
    by_workers = rounds * block
    if cores and at_once >= cores:  # all take turns on the same cores, and a worker has two threads
        beside = layout.n_frames * measured.beside
        by_workers = max(by_workers, (_CROWDED * block * n_blocks + beside + busy) / cores)
    working = max(by_workers, busy)
    starting = start_seconds(layout, measured, reference)
    return Forecast(
        workers=workers,
        starting=starting,
        working=working,
        coordinator_load=min(1.0, busy / working),
        tasks_per_second=n_blocks / working,
        most_workers=max(1, int(_FULL * block / COORDINATOR_SECONDS_PER_BLOCK)),
        limit=_limit(busy, working, starting),
        output_bytes=int(measured.written / measured.frames * layout.n_frames),
        ledger_bytes=_LEDGER_BYTES_PER_BLOCK * n_blocks
        + _LEDGER_BYTES_PER_FRAME * layout.n_frames * passes
        + _LEDGER_BYTES_PER_OBJECT * layout.n_objects,
        coordinator_bytes=coordinator_floor(layout),
    )


def block_seconds(layout: Layout, measured: Calibration, source_chunk: int = 1) -> float:
    """Seconds that a worker spends on one block of one pass, on average over the passes."""
    frames = layout.n_frames / layout.n_blocks
    passes = len(layout.stages)
    # what is read once more than the calibration did: other blocks' frames, and a second pass
    reading = (measured.read + measured.cold_read) / measured.frames
    again = read_amplification(layout, source_chunk) - 1
    return WORKER_SECONDS_PER_BLOCK + frames * (measured.frame + again * reading) / passes


def start_seconds(layout: Layout, measured: Calibration, reference: ReferenceConfig) -> float:
    """Seconds from the command to the first block."""
    rounds = reference.usual_rounds
    prepared = rounds + 1
    several = reference.kind in ("mean", "median") or rounds > 0
    wanted = layout.n_frames if isinstance(reference.frames, str) else reference.frames
    frames = min(wanted, layout.n_frames) if several else 1
    read = frames * measured.read / measured.frames
    moved = frames * (measured.register + measured.align) / measured.frames
    making = prepared * measured.preparing + (1 + 2 * rounds) * read
    making += rounds * moved
    # the coordinator starts, then the workers do, and each reads what the coordinator prepared
    each = measured.starting + measured.loading + measured.warming
    return measured.starting + measured.planning + making + CLUSTER_SECONDS + each


def steps_of_workers(
    layout: Layout, measured: Calibration, reference: ReferenceConfig, source_chunk: int
) -> list[Forecast]:
    """Forecasts for more and more workers, until the coordinator or the blocks are all."""
    found: list[Forecast] = []
    workers = 1
    while not found or (workers <= layout.n_blocks and found[-1].limit == "workers"):
        found.append(forecast(layout, measured, reference, workers, source_chunk=source_chunk))
        workers *= 4
    return found


def _limit(busy: float, working: float, starting: float) -> Limit:
    if starting > working:
        return "starting"
    return "coordinator" if busy >= _FULL * working else "workers"
