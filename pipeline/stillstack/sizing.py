"""Blocks, workers and memory limits that fit each other, chosen before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from dask.utils import format_bytes, parse_bytes

from stillstack import cluster
from stillstack.config import RunConfig
from stillstack.config.cluster import ClusterConfig
from stillstack.findings import Findings
from stillstack.layout import MOST_OBJECTS, Layout, lay_out
from stillstack.memory import (
    Memory,
    coordinator_bytes,
    coordinator_floor,
    needed_for_coordinator,
    needed_limit,
    task_bytes,
    worker_bytes,
)
from stillstack.sources import Source

_MOST_HALVINGS: Final = 6


@dataclass(frozen=True)
class Sizes:
    """What was chosen.

    Parameters
    ----------
    layout
        Frames, blocks, chunks and stages.
    memory
        What they need.
    workers
        Worker processes; 0 where a running cluster has its own.
    """

    layout: Layout
    memory: Memory
    workers: int


@dataclass(frozen=True)
class Room:
    """What there is for workers.

    Parameters
    ----------
    cores
        Of this machine.
    available
        Bytes of this machine's memory; 0 where workers are elsewhere.
    wanted
        Workers, as the config says.
    given
        Bytes of each worker, as the config says; 0 for ``auto``.
    running
        Whether the cluster is there already, with workers and limits of its own.
    """

    cores: int
    available: int
    wanted: int | None
    given: int
    running: bool


def room_for(config: ClusterConfig, found: Findings) -> Room:
    """Look at the machine and the config's section ``cluster``."""
    active = found.check(cluster.active_client)
    cores, available = cluster.machine_size()
    limit = config.memory_limit
    return Room(
        cores=cores,
        available=available if config.kind == "local" else 0,
        wanted=_most_workers(config),
        given=0 if limit == "auto" else int(parse_bytes(limit)),
        running=active is not None or config.kind == "address",
    )


def _most_workers(config: ClusterConfig) -> int | None:
    if config.adapt is not None:
        return config.adapt[1]
    return None if isinstance(config.workers, str) else config.workers


def choose_sizes(
    config: RunConfig,
    source: Source,
    aligned_dtype: np.dtype[Any],
    stored: Mapping[str, Any] | None,
    found: Findings,
) -> Sizes:
    """Choose blocks and workers; smaller blocks where more workers fit into the memory with them.

    Parameters
    ----------
    config
        What is wanted.
    source
        Its shape, dtype and chunks.
    aligned_dtype
        dtype of aligned frames.
    stored
        Layout of the unfinished run that is to be finished, which stays as it is.
    found
        Gets what does not fit.
    """
    room = room_for(config.cluster, found)
    best: Sizes | None = None
    first = lay_out(config, source, aligned_dtype)
    for halvings in range(_MOST_HALVINGS + 1):
        layout = lay_out(config, source, aligned_dtype, halvings=halvings)
        if stored is not None:
            layout = _as_stored(layout, stored)
        sizes = _sizes(layout, source.chunk_frames, config, room)
        if best is None or _better(sizes, best):
            best = sizes
        if _fits(best) and (room.running or best.workers == _wished(room, layout)):
            break
        if stored is not None or isinstance(config.output.block_frames, int):
            break
    assert best is not None  # noqa: S101  # the loop has run
    _note(best, first, config, found)
    return best


def _as_stored(layout: Layout, stored: Mapping[str, Any]) -> Layout:
    return replace(
        layout,
        block_frames=int(stored["block_frames"]),
        chunk_frames=int(stored["chunk_frames"]),
        sharded=bool(stored.get("sharded")),
    )


def _wished(room: Room, layout: Layout) -> int:
    return min(room.wanted or room.cores, layout.n_blocks)


def _sizes(layout: Layout, source_chunk: int, config: RunConfig, room: Room) -> Sizes:
    """Workers and limits for one layout."""
    task = task_bytes(layout, source_chunk)
    worker = worker_bytes(layout, source_chunk, grouped=config.groups is not None)
    needed = needed_limit(worker, cluster.PAUSE_FRACTION)
    coordinator = coordinator_bytes(layout, config.reference, room.cores)
    most = needed_for_coordinator(coordinator)
    memory = Memory(task, worker, 0, 0, 0, needed, coordinator, most)
    if room.running:
        return Sizes(layout, memory, 0)
    workers = room.wanted or room.cores
    if not room.available:  # elsewhere
        limit = room.given or needed
        return Sizes(layout, replace(memory, limit=limit, total=workers * worker), workers)
    for_workers = max(1, room.available - coordinator_floor(layout))
    if room.wanted is None:
        workers = fitting_workers(room.cores, for_workers, room.given or needed)
    workers = min(workers, layout.n_blocks)
    limit = room.given or for_workers // workers
    return Sizes(
        layout,
        replace(memory, limit=limit, total=workers * worker, available=room.available),
        workers,
    )


def fitting_workers(cores: int, available: int, needed: int) -> int:
    """Return how many workers the machine can feed: one for each core, fewer where memory ends.

    Examples
    --------
    >>> fitting_workers(8, 16_000, 5_000)
    3
    """
    return max(1, min(cores, available // max(1, needed)))


def _fits(sizes: Sizes) -> bool:
    memory = sizes.memory
    return not sizes.workers or (
        memory.limit >= memory.needed_limit
        and (not memory.available or memory.needed_coordinator <= memory.available)
    )


def _better(sizes: Sizes, best: Sizes) -> bool:
    """Whether smaller blocks are worth it: they fit, or let more workers in."""
    if _fits(sizes) != _fits(best):
        return _fits(sizes)
    return (
        sizes.workers > best.workers
        if _fits(sizes)
        else (sizes.memory.needed_limit < best.memory.needed_limit)
    )


def _note(sizes: Sizes, first: Layout, config: RunConfig, found: Findings) -> None:
    """Say what does not fit, and what was changed so that it does."""
    layout, memory = sizes.layout, sizes.memory
    if sizes.workers and memory.limit < memory.needed_limit:
        found.error(
            f"A worker needs a memory limit of {format_bytes(memory.needed_limit)} for blocks of "
            f"{layout.block_frames} frames, and {sizes.workers} workers have "
            f"{format_bytes(memory.limit)} each.",
            "Workers would stop for lack of memory.",
            "Use fewer workers, a smaller output.block_frames, or a larger cluster.memory_limit.",
        )
    elif layout.block_frames < first.block_frames and config.output.block_frames == "auto":
        found.warn(
            f"Blocks have {layout.block_frames} frames instead of {first.block_frames}, so that "
            f"{sizes.workers} workers fit into {format_bytes(memory.limit)} each."
        )
    if memory.available and memory.needed_coordinator > memory.available:
        found.error(
            f"To make the reference takes {format_bytes(memory.needed_coordinator)}, and this "
            f"machine has {format_bytes(memory.available)}.",
            "The run would stop for lack of memory.",
            "Make the reference of fewer frames (reference.frames), or of one (kind: first).",
        )
    if config.output.shards is not False and layout.n_objects > MOST_OBJECTS:
        found.warn(
            f"The aligned frames will be {layout.n_objects:,} objects, shards of "
            f"{layout.block_frames} frames.",
            "Some file systems and object stores take so many badly.",
            "Set output.block_frames to auto, or larger.",
        )
