"""How long the user's own first block takes, measured as a worker would do it.

A process of its own, with a worker's environment and nothing of the caller's, prepares a stand-in
for the reference (the mean of a few frames), and does the first block a few times with the very
functions that workers run, into a folder beside the output that is removed at the end. What a
cluster costs on top is counted in `stillstack.forecast`.

Times are those of an otherwise idle machine, where the kernel tells (Linux) how long a process that
could have gone on had to wait for a core: that is subtracted.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillstack.blockwork import Block, Job, JobPlugin, hold_reference, run_block, stored_reference
from stillstack.cluster import THREAD_CAPS
from stillstack.errors import RunFaultError
from stillstack.frameblock import Resampling, align_block, register_block
from stillstack.kernels.registration import Reference
from stillstack.kernels.resampling import DEFAULT_INTERPOLATION
from stillstack.layout import ONE_PASS, SHIFTS_ONLY, Layout
from stillstack.sources import Source, read_piece
from stillstack.storage import RunStore, RunTemplate, lock_run

_MOST_BYTES: Final = 128 * 2**20
_MOST_REPEATS: Final = 3
# Repeats end here: a plan is for waiting.
_ENOUGH_SECONDS: Final = 2.0
_TIMEOUT_SECONDS: Final = 300


@dataclass(frozen=True)
class Calibration:
    """Seconds of one worker with the first frames.

    Parameters
    ----------
    frames
        How many frames were timed.
    starting
        From starting a process to having everything imported.
    preparing
        To prepare the reference.
    block
        To do the frames, the shortest of a few times.
    block_cpu
        CPU time of that, all threads.
    cold_read
        What the first reading took longer than the next: the disk, where the frames were not in
        memory yet.
    read, register, align
        Of ``block``; the rest is to encode and write.
    written
        Bytes that were stored for the frames; 0 where only shifts are wanted.
    peak
        Largest memory of the process, bytes.
    """

    frames: int
    starting: float
    preparing: float
    block: float
    block_cpu: float
    cold_read: float
    read: float
    register: float
    align: float
    written: int
    peak: int

    @property
    def frame(self) -> float:
        """Seconds of one frame."""
        return (self.block + self.cold_read) / self.frames

    @property
    def write(self) -> float:
        """Seconds to encode and write the frames."""
        return max(0.0, self.block - self.read - self.register - self.align)

    def to_json(self) -> dict[str, float]:
        """Plain values for JSON."""
        return {key: round(value, 5) for key, value in {**vars(self), "write": self.write}.items()}


@dataclass(frozen=True, eq=False)
class Trial:
    """What the process needs to know; it pickles.

    Parameters
    ----------
    source, layout
        The frames, and how they are cut up.
    image, reference_valid, valid
        Stand-in for the reference, and valid pixels.
    settings
        Keywords of `prepare_reference`.
    interpolation, codec, durable
        As the config says.
    folder
        Where to write.
    began
        When the process was started.
    """

    source: Source
    layout: Layout
    image: NDArray[np.float32]
    reference_valid: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    settings: Mapping[str, Any]
    interpolation: str
    codec: Any
    durable: bool
    folder: str = ""
    began: float = 0.0


def calibrate(trial: Trial, beside: Path) -> Calibration:
    """Time the first block.

    Parameters
    ----------
    trial
        What to do; ``folder`` and ``began`` are filled in here.
    beside
        Folder on the disk that will be written to.

    Raises
    ------
    RunFaultError
        If it could not be done; the message says why.
    """
    trial = replace(trial, layout=_shortened(trial.layout))
    environment = {**THREAD_CAPS, **os.environ}
    with tempfile.TemporaryDirectory(prefix=".stillstack-plan-", dir=beside) as folder:
        package = str(Path(__file__).parents[1])
        path = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
        given = pickle.dumps(replace(trial, folder=folder, began=time.time()))
        try:
            done = subprocess.run(  # this very interpreter
                [sys.executable, "-m", "stillstack.calibration"],
                input=given,
                capture_output=True,
                env={**environment, "PYTHONPATH": path},
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunFaultError(f"The first block took over {_TIMEOUT_SECONDS} s.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing was said"]
        raise RunFaultError(f"The first block could not be tried: {said[-1]}")
    return Calibration(**json.loads(done.stdout.splitlines()[-1]))


def _shortened(layout: Layout) -> Layout:
    """One block and no more, cut down where frames are many or large."""
    frames = min(layout.block_frames, layout.n_frames)
    most = max(1, _MOST_BYTES // max(1, layout.source_bytes))
    if frames > most and not layout.sharded:
        chunk = min(layout.chunk_frames, most)
        frames = most // chunk * chunk
    block = -(-frames // layout.chunk_frames) * layout.chunk_frames
    return replace(layout, n_frames=frames, block_frames=block)


def tried(trial: Trial) -> Calibration:
    """Do the first block, in this process."""
    starting = max(time.time() - trial.began - waited_for_cores(), time.process_time())
    layout = trial.layout
    stage = (ONE_PASS if layout.aligned_dtype else SHIFTS_ONLY)[0]
    block = Block(0, 0, layout.n_frames)
    with lock_run(Path(trial.folder) / "first.zarr") as lock:
        store = RunStore.create(lock, _template(trial), durable=trial.durable)
        preparing, reference, _ = _timed(lambda: stored_reference(store))
        job = _job(trial, store, reference)
        JobPlugin(job).setup(None)
        hold_reference(reference)
        cold, frames, _ = _timed(lambda: _read(trial))
        _, result, _ = _timed(lambda: run_block(job.digest, stage, block))
        whole = _repeated(lambda: run_block(job.digest, stage, block))
        read = _repeated(lambda: _read(trial))
        register, align = _stages(trial, frames, reference)
    return Calibration(
        frames=layout.n_frames,
        starting=starting,
        preparing=preparing,
        block=whole[0],
        block_cpu=whole[1],
        cold_read=max(0.0, cold - read[0]),
        read=read[0],
        register=register,
        align=align,
        written=sum(stored.size for stored in result.record.objects),
        peak=peak_bytes(),
    )


def peak_bytes() -> int:
    """Largest memory that this process has had; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    # ru_maxrss will not do: a process inherits it from the one that started it
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("VmHWM")), 0)


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
        attrs={"registration": dict(trial.settings)},
    )


def _job(trial: Trial, store: RunStore, reference: Reference) -> Job:
    return Job(
        digest="calibration",
        source=trial.source,
        store_path=str(store.path),
        reference_digest=reference.digest,
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
