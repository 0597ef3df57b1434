"""A reduction written to Zarr, group by group: what is done is kept, and not done again."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dask.config
import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from stillstack.address import Location
from stillstack.cluster import OnLink, active_client, client_for, finished, thread_count
from stillstack.config.cluster import ClusterConfig
from stillstack.errors import RunFaultError, disk_fault
from stillstack.interrupt import Interrupts
from stillstack.reduction.room import Workers
from stillstack.reduction.summary_images import N_FRAMES, variables_of
from stillstack.reduction.tasks import Work, batch_tasks, empty_task
from stillstack.storage import (
    BlockRecord,
    GroupWriter,
    ReductionStore,
    ReductionTemplate,
    check_space,
    check_writable,
    inspect_output,
    lock_run,
)

STAGE: Final = "reduce"
# Averages of counts do not shrink: they are floating-point numbers.
_STORED_SHARE: Final = 0.9

OnFrames = Callable[[int, int, int], None]
"""Called with the frames done, all frames, and those an earlier attempt had done."""


@dataclass(frozen=True)
class Engine:
    """Where the work of a reduction is done, and who is told of it.

    Parameters
    ----------
    cluster
        The ``cluster`` section of a config; not used where a Client is active.
    workers
        Workers to start.
    durable
        Sync what is written.
    on_frames
        Told how far it is.
    on_link
        Told the address of the dashboard.
    """

    cluster: ClusterConfig
    workers: Workers
    durable: bool = True
    on_frames: OnFrames | None = None
    on_link: OnLink | None = None


def write_reduction(
    work: Work, place: Location, attrs: Mapping[str, Any], engine: Engine
) -> Location:
    """Write a reduction, or finish the one that an earlier attempt began; where it is.

    Parameters
    ----------
    work
        The reduction.
    place
        Where to.
    attrs
        Attributes of the Zarr group.
    engine
        Where the work is done.

    Raises
    ------
    InputError
        If there is something else at the place, or no room for it.
    RunFaultError, InterruptedRunError
        If it was stopped; the same call finishes it.
    """
    check_writable(place)
    template = _template(work, attrs)
    with Interrupts(), lock_run(place) as lock:
        try:
            state = inspect_output(
                place,
                config_digest=template.digest,
                source_fingerprint=template.fingerprint,
                config=attrs.get("config"),
                kind=ReductionStore.kind,
            )
            if state == "new":
                check_space(place, int(_STORED_SHARE * _bytes(work)))
                store = ReductionStore.create(lock, template, durable=engine.durable)
            else:
                store = ReductionStore.resume(lock, durable=engine.durable)
            _fill(store, work, engine)
        except OSError as error:
            raise disk_fault(error, str(place)) from error
    return place


def write_group(
    writer: GroupWriter, group: int, place: tuple[int, ...], values: Mapping[str, NDArray[Any]]
) -> BlockRecord:
    """Write one group: what a task runs last. The record for the ledger is all that comes back."""
    began = time.monotonic()
    objects = writer.write(place, values)
    return BlockRecord(
        group,
        group,
        group + 1,
        objects=objects,
        seconds=time.monotonic() - began,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        finished=time.time(),
        counts={"frames": float(values[N_FRAMES])},
    )


def _fill(store: ReductionStore, work: Work, engine: Engine) -> None:
    """Do every group that is not done, and declare the store complete."""
    done = store.done_blocks(STAGE)
    if len(done) == store.n_blocks:
        if not store.complete:
            store.finish()
        return
    if store.complete:
        store.mark_unfinished()
    total = work.selection.n_used
    n_done = resumed = sum(len(work.selection.groups[group]) for group in done)
    told = engine.on_frames or (lambda *_: None)
    told(n_done, total, resumed)
    with _client(engine) as client, store.ledger(STAGE) as ledger:
        at_once = _groups_at_once(work, 1 if client is None else thread_count(client))
        for group, record in finished(_batches(store, work, set(done)), client, at_once):
            ledger.append(record)
            n_done += len(work.selection.groups[group])
            told(n_done, total, resumed)
    missing = store.n_blocks - len(store.done_blocks(STAGE))
    if missing:
        raise RunFaultError(
            f"{missing} of {store.n_blocks} groups of {store.path} are not what was written.",
            cure="Run the same command again: it does them again.",
        )
    store.finish()


def _batches(store: ReductionStore, work: Work, done: set[int]) -> Iterator[dict[int, Delayed]]:
    """Lazy records of the groups that are not done, each batch with a graph of its own."""
    batches = work.batches
    writer = store.group_writer()
    empty = [g for g, numbers in enumerate(work.selection.groups) if not len(numbers)]
    for batch in batches:
        wanted = [group for group in batch if group not in done]
        if wanted:
            # a batch is always built whole, so that its sums have the same order
            tasks = batch_tasks(work, batch, len(batches))
            yield {group: _writing(work, writer, group, tasks[group]) for group in wanted}
    for group in empty:
        if group not in done:
            yield {group: _writing(work, writer, group, empty_task(work, group))}


def _writing(work: Work, writer: GroupWriter, group: int, values: Delayed) -> Delayed:
    record: Delayed = delayed(write_group)(
        writer,
        group,
        work.selection.place(group),
        values,
        dask_key_name=("write-" + work.digest, group),
    )
    return record


@contextlib.contextmanager
def _client(engine: Engine) -> Iterator[Any]:
    """Client to use: the active one, none where Dask was told of a scheduler, or a new one."""
    if active_client() is None and dask.config.get("scheduler", None) is not None:
        yield None
        return
    with client_for(
        engine.cluster,
        workers=max(1, engine.workers.count),
        memory_limit=engine.workers.limit,
        on_link=engine.on_link,
    ) as client:
        yield client


def _groups_at_once(work: Work, threads: int) -> int:
    """Groups in flight: so many that every thread has two pieces, and at least two."""
    filled = max(1, sum(len(numbers) > 0 for numbers in work.selection.groups))
    pieces_each = max(1, work.selection.n_used // (filled * 64))
    return max(2, -(-2 * threads // pieces_each))


def _template(work: Work, attrs: Mapping[str, Any]) -> ReductionTemplate:
    variables = variables_of(work.request)
    return ReductionTemplate(
        labels=work.selection.labels,
        label_attrs=work.selection.attrs,
        frame_shape=work.shape,
        images={v.name: (v.dtype, v.attrs) for v in variables if v.is_image},
        numbers={v.name: (v.dtype, v.attrs) for v in variables if not v.is_image},
        digest=work.digest,
        fingerprint=str(attrs["run_digest"]),
        attrs=attrs,
    )


def _bytes(work: Work) -> int:
    pixels = work.shape[0] * work.shape[1]
    each = sum(np.dtype(v.dtype).itemsize for v in variables_of(work.request) if v.is_image)
    return pixels * each * len(work.selection.groups)
