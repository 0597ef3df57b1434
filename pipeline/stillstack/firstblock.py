"""The first block, done a few times with the very functions that workers run, and timed.

This is a program of its own: `stillstack.calibration` starts it, hands it a `Trial` and reads what
it found. Times are those of an otherwise idle machine, where the kernel tells (Linux) how long a
process that could have gone on had to wait for a core: that is subtracted.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.blockwork import reference_of, run_block
from stillstack.calibration import Calibration, Trial
from stillstack.cluster import peak_bytes
from stillstack.frameblock import Resampling, align_block, register_block
from stillstack.job import Block, Job, JobPlugin
from stillstack.kept_references import KeptReference, stored_reference
from stillstack.kernels.registration import Reference
from stillstack.kernels.resampling import DEFAULT_INTERPOLATION
from stillstack.layout import ONE_PASS, SHIFTS_ONLY
from stillstack.sources import read_piece
from stillstack.storage import Axes, RunStore, RunTemplate, lock_run

_MOST_REPEATS: Final = 3
# Repeats end here: a plan is for waiting.
_ENOUGH_SECONDS: Final = 2.0


def tried(trial: Trial) -> Calibration:
    """Do the first block, in this process."""
    starting = max(time.time() - trial.began - waited_for_cores(), time.process_time())
    layout = trial.layout
    stage = (ONE_PASS if layout.aligned_dtype else SHIFTS_ONLY)[0]
    block = Block(0, 0, layout.n_frames)
    with lock_run(Path(trial.folder) / "first.zarr") as lock:
        store = RunStore.create(lock, _template(trial), durable=trial.durable)
        preparing, kept, _ = _timed(lambda: _kept(store))
        job = _job(trial, store, kept)
        JobPlugin(job).setup(None)
        loading, reference, _ = _timed(lambda: reference_of(job))
        cold, frames, _ = _timed(lambda: _read(trial))
        first, result, _ = _timed(lambda: run_block(job.digest, stage, block))
        whole = _repeated(lambda: run_block(job.digest, stage, block))
        read = _repeated(lambda: _read(trial))
        register, align = _stages(trial, frames, reference)
    return Calibration(
        frames=layout.n_frames,
        starting=starting,
        preparing=preparing,
        loading=loading,
        warming=max(0.0, first - whole[0]),
        block=whole[0],
        block_cpu=whole[1],
        cold_read=max(0.0, cold - read[0]),
        read=read[0],
        register=register,
        align=align,
        written=sum(stored.size for stored in result.record.objects),
        peak=peak_bytes(),
    )


def _template(trial: Trial) -> RunTemplate:
    layout = trial.layout
    return RunTemplate(
        n_frames=layout.n_frames,
        frame_shape=layout.frame_shape,
        config_digest="",
        source_fingerprint="",
        reference=trial.image,
        reference_valid=trial.reference_valid,
        valid=trial.valid,
        aligned_dtype=layout.aligned_dtype,
        chunk_frames=layout.chunk_frames,
        block_frames=layout.block_frames,
        sharded=layout.sharded,
        codec=trial.codec,
        axes=Axes() if layout.levels else None,
        attrs={"registration": dict(trial.settings)},
    )


def _kept(store: RunStore) -> KeptReference:
    """Prepare the reference and keep it, as a coordinator does."""
    reference = stored_reference(store)
    return KeptReference(reference.digest, store.prepared.keep(reference))


def _job(trial: Trial, store: RunStore, kept: KeptReference) -> Job:
    return Job(
        digest="calibration",
        source=trial.source,
        store_path=str(store.path),
        reference=kept,
        writer=store.writer() if trial.layout.aligned_dtype else None,
        aligned_dtype=trial.layout.aligned_dtype,
        interpolation=_interpolation(trial),
        canvas=None,
        fingerprint="",
    )


def _interpolation(trial: Trial) -> str:
    return DEFAULT_INTERPOLATION if trial.interpolation == "auto" else trial.interpolation


def _read(trial: Trial) -> NDArray[Any]:
    layout = trial.layout
    dtype = np.dtype(trial.source.dtype).str
    return read_piece((trial.source, 0, layout.n_frames, layout.frame_shape, dtype))


def _stages(trial: Trial, frames: NDArray[Any], reference: Reference) -> tuple[float, float]:
    """Seconds to register and to align the frames."""
    starts = np.zeros(1, np.int64)
    rows = register_block(frames, reference, starts, (0,))
    register, _ = _repeated(lambda: register_block(frames, reference, starts, (0,)))
    if trial.layout.aligned_dtype is None:
        return register, 0.0
    height, width = trial.layout.frame_shape
    canvas = (0, height, 0, width)
    resampling = Resampling(_interpolation(trial), trial.layout.aligned_dtype, canvas)

    def align() -> None:
        for i in range(len(frames)):  # as many at a time as a worker has
            piece = slice(i, i + 1)
            align_block(
                frames[piece],
                rows[piece],
                starts,
                reference=reference,
                valid=None,
                resampling=resampling,
                block_id=(0,),
            )

    return register, _repeated(align)[0]


def waited_for_cores() -> float:
    """Seconds that the threads of this process were ready and had no core; 0 if unknown."""
    nanoseconds = 0
    with contextlib.suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                nanoseconds += int((thread / "schedstat").read_text().split()[1])
    return nanoseconds * 1e-9


def _timed(work: Callable[[], Any]) -> tuple[float, Any, float]:
    """Seconds on an idle machine, what came of it, and CPU seconds."""
    began, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
    waited = waited_for_cores()
    value = work()
    took = time.perf_counter() - began - max(0.0, waited_for_cores() - waited)
    return max(took, time.thread_time() - own), value, time.process_time() - cpu


def _repeated(work: Callable[[], Any]) -> tuple[float, float]:
    """Shortest time of a few, and the least CPU time."""
    began = time.perf_counter()
    wall, cpu = np.inf, np.inf
    for _ in range(_MOST_REPEATS):
        took, _, used = _timed(work)
        wall, cpu = min(wall, took), min(cpu, used)
        if time.perf_counter() - began > _ENOUGH_SECONDS:
            break
    return float(wall), float(cpu)


def main() -> None:
    """Do what is told on stdin, and say on stdout how long it took."""
    trial = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  # from `calibrate`
    sys.stdout.write(json.dumps(vars(tried(trial))) + "\n")


if __name__ == "__main__":
    main()
