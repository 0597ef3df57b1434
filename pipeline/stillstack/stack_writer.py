"""Writes a Zarr stack block by block in a few threads, restartable as runs are."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stillstack.address import Location, located
from stillstack.errors import UnreadableFrameError
from stillstack.interrupt import Interrupts
from stillstack.storage import (
    BlockRecord,
    StackStore,
    check_space,
    check_writable,
    create_stack,
    inspect_output,
    lock_run,
)
from stillstack.storage.notes import SET_ASIDE_NOTE

STAGE: Final = "ingest"
_CHUNK_BYTES: Final = 4 * 2**20
_MOST_CHUNK_FRAMES: Final = 32
_BLOCK_BYTES: Final = 32 * 2**20
_FEWEST_BLOCKS: Final = 32
_MOST_THREADS: Final = 8
_BEST_COMPRESSION: Final = 0.3

OnFrames = Callable[[int, int, int], None]
"""Called with the frames done, all frames, and those an earlier attempt had done."""


class Frames(Protocol):
    """Whatever gives frames by their numbers."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start`` to ``stop``."""
        ...


@dataclass(frozen=True)
class StackOptions:
    """How a stack is stored.

    Parameters
    ----------
    chunk_frames
        Frames in a chunk; ``"auto"``: about 4 MiB of them, fewer where the stack is short.
    codec
        Compression: zstd is smaller, lz4 faster.
    durable
        Sync every written object to the disk before it counts as done.
    """

    chunk_frames: int | Literal["auto"] = "auto"
    codec: Literal["zstd", "lz4"] = "zstd"
    durable: bool = True

    def sizes(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> tuple[int, int]:
        """Frames in a chunk and in a block, the unit of work.

        Examples
        --------
        >>> StackOptions().sizes((240, 512, 512), np.dtype("uint16"))
        (7, 7)
        >>> StackOptions().sizes((10_000, 2048, 2048), np.dtype("uint16"))
        (1, 4)
        """
        frame = max(1, shape[1] * shape[2] * dtype.itemsize)
        auto = max(1, min(_MOST_CHUNK_FRAMES, _CHUNK_BYTES // frame, shape[0] // _FEWEST_BLOCKS))
        given = self.chunk_frames
        chunk = min(given if isinstance(given, int) else auto, shape[0])
        chunks = min(_BLOCK_BYTES // (frame * chunk), shape[0] // (_FEWEST_BLOCKS * chunk))
        return chunk, chunk * max(1, chunks)


@dataclass(frozen=True)
class Written:
    """What a stack came to.

    Attributes
    ----------
    path
        The Zarr group.
    shape, dtype, chunk_frames
        Of its variable ``frames``.
    written_bytes
        Size of the frames on the disk.
    set_aside
        Frames that could not be read, and why. They hold zeros (NaN for floating point), which
        a run rejects as blank.
    resumed_frames
        Frames that an earlier attempt had written.
    """

    path: Location
    shape: tuple[int, int, int]
    dtype: str
    chunk_frames: int
    written_bytes: int
    set_aside: Mapping[int, str] = field(default_factory=dict)
    resumed_frames: int = 0


def write_stack(
    frames: Frames,
    destination: str | Location,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    *,
    fingerprint: str,
    coords: Mapping[str, NDArray[Any]],
    attrs: Mapping[str, Any],
    options: StackOptions | None = None,
    on_frames: OnFrames | None = None,
) -> Written:
    """Write frames into a Zarr stack, a block at a time, in a few threads.

    A frame that cannot be read is set aside: it holds zeros, and the reason is noted.
    """
    options = options or StackOptions()
    path = located(destination)
    chunk_frames, block_frames = options.sizes(shape, dtype)
    identity = f"{fingerprint}-{chunk_frames}-{options.codec}"
    check_writable(path)
    with Interrupts() as interrupts, lock_run(path) as lock:
        state = inspect_output(path, config_digest="", source_fingerprint=identity, kind="stack")
        if state == "new":
            check_space(path, int(_BEST_COMPRESSION * np.prod(shape) * dtype.itemsize))
            store = create_stack(
                lock,
                shape,
                dtype,
                fingerprint=identity,
                coords=coords,
                attrs=attrs,
                chunk_frames=chunk_frames,
                block_frames=block_frames,
                codec=options.codec,
                durable=options.durable,
            )
        else:
            store = StackStore.resume(lock, durable=options.durable)
        resumed = _fill(store, frames, dtype, interrupts, on_frames)
        if not store.complete:
            store.finish()
    done = store.done_blocks(STAGE).values()
    return Written(
        path=path,
        shape=shape,
        dtype=dtype.name,
        chunk_frames=chunk_frames,
        written_bytes=sum(item.size for record in done for item in record.objects),
        set_aside=store.set_aside(),
        resumed_frames=resumed,
    )


def _fill(
    store: StackStore,
    frames: Frames,
    dtype: np.dtype[Any],
    interrupts: Interrupts,
    on_frames: OnFrames | None,
) -> int:
    """Write every block that is not done; return how many frames were."""
    done = store.done_blocks(STAGE)
    resumed = n_done = sum(record.stop - record.start for record in done.values())
    waiting = iter(
        (block, *store.block_range(block)) for block in range(store.n_blocks) if block not in done
    )
    set_aside: dict[str, str] = store.read_note(SET_ASIDE_NOTE) or {}
    if len(done) < store.n_blocks and store.complete:
        store.mark_unfinished()
    threads = max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0))))
    if on_frames is not None:
        on_frames(n_done, store.n_frames, resumed)
    with (
        store.ledger(STAGE) as ledger,
        ThreadPoolExecutor(threads) as pool,
        interrupts.deferred(),
    ):

        def submit(block: int, start: int, stop: int) -> Future[tuple[BlockRecord, dict[int, str]]]:
            return pool.submit(_write_block, store, frames, dtype, (block, start, stop))

        for record, reasons in _bounded(submit, waiting, 2 * threads, interrupts):
            if reasons:
                set_aside.update({str(number): why for number, why in reasons.items()})
                store.write_note(SET_ASIDE_NOTE, set_aside)
            ledger.append(record)
            n_done += record.stop - record.start
            if on_frames is not None:
                on_frames(n_done, store.n_frames, resumed)
    if interrupts.received:
        raise interrupts.error()
    return resumed


def _bounded(
    submit: Callable[[int, int, int], Future[Any]],
    waiting: Iterator[tuple[int, int, int]],
    room: int,
    interrupts: Interrupts,
) -> Iterator[Any]:
    """Results as they come, of at most `room` blocks at a time; no new ones once interrupted."""
    in_flight: set[Future[Any]] = set()
    while True:
        while len(in_flight) < room and not interrupts.received:
            following = next(waiting, None)
            if following is None:
                break
            in_flight.add(submit(*following))
        if not in_flight:
            return
        finished, in_flight = wait(in_flight, return_when=FIRST_COMPLETED)
        for future in finished:
            yield future.result()


def _write_block(
    store: StackStore, frames: Frames, dtype: np.dtype[Any], block: tuple[int, int, int]
) -> tuple[BlockRecord, dict[int, str]]:
    """Read and write one block; frames that cannot be read are set aside one by one."""
    began = time.monotonic()
    number, start, stop = block
    reasons: dict[int, str] = {}
    try:
        images = np.asarray(frames.read(start, stop), dtype)
    except UnreadableFrameError:
        images = np.full((stop - start, *store.frame_shape), _nothing(dtype), dtype)
        for place, index in enumerate(range(start, stop)):
            try:
                images[place] = frames.read(index, index + 1)[0]
            except UnreadableFrameError as error:
                reasons[index] = str(error)
    objects = store.write_block(start, images)
    record = BlockRecord(
        number,
        start,
        stop,
        objects=objects,
        seconds=time.monotonic() - began,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        finished=time.time(),
    )
    return record, reasons


def _nothing(dtype: np.dtype[Any]) -> float:
    return float("nan") if dtype.kind == "f" else 0
